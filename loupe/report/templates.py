"""How pages are filled in: whatever is not markup already is escaped."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_HERE = Path(__file__).parent


def fill(template: str, **values: object) -> str:
    """The text of a `template` of this folder with the `values` in it."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def style(*sheets: str) -> Markup:
    """Style sheets of this folder, the later ones winning."""
    return Markup("".join((_HERE / sheet).read_text(encoding="utf8") for sheet in sheets))


def data_uri(content: bytes, kind: str) -> str:
    """A file, for example an "image/jpeg", as text that a page holds."""
    return f"data:{kind};base64," + base64.b64encode(content).decode()
