"""YAML files -> frozen, closed pydantic models.

A section's model is declared beside the code that reads it; a whole section is passed, never single numbers.
There is no inheritance between files, no interpolation and no object construction.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from loupe.errors import InputError

# A name becomes a folder, a stage and a job: letters, digits, '_' and '-', starting with a letter or digit.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(1, 10))}
_MAX_BYTES = 1 << 20


class Config(BaseModel):
    """Base of every configuration section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Section = TypeVar("Section", bound=Config)


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML without aliases (an alias can blow a small file up) and without repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(None, None, "aliases are not allowed", self.get_mark())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            raise yaml.MarkedYAMLError(None, None, "a key stands twice", node.start_mark)
        return mapping


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: no such file, larger than 1 MiB, not YAML, not a mapping, or it holds aliases or object tags.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: larger than 1 MiB, not a configuration file")
        content = yaml.load(path.read_text(encoding="utf8"), Loader=_PlainLoader)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}:{line}: not plain YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not plain YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InputError(f"{path}: not plain YAML: nested too deeply") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected 'key: value' lines")
    return content


def parse_section(model: type[Section], content: Any, where: str) -> Section:
    """`content` as a `model`; if it does not fit, an `InputError` whose message opens with `where` (file and key)."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(section)"
        message = first["msg"]
        if first["type"] == "extra_forbidden":
            message = f"unknown key; known here: {', '.join(model.model_fields)}"
        raise InputError(f"{where}: {key}: {message}") from None


def read_section(path: Path, key: str, model: type[Section]) -> Section:
    """Section `key` of the YAML file at `path`, as `model`. Raises `InputError` naming file and key."""
    content = load_yaml(path)
    if key not in content:
        raise InputError(f"{path}: section '{key}' is missing")
    return parse_section(model, content[key], f"{path}: {key}")


def check_name(name: str, what: str) -> str:
    """`name` itself if it may name a capture, recipe or codebook (`what` says which).

    Raises:
        InputError: anything but up to 64 letters, digits, '_' and '-', starting with a letter or digit; or a name
            that some file systems reserve.
    """
    if not _NAME.fullmatch(name) or name.lower() in _RESERVED:
        raise InputError(
            f"{what} name {name[:80]!r}: use up to 64 letters, digits, '_' or '-', starting with a letter or digit"
        )
    return name
