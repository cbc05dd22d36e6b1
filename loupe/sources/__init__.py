"""The ways in which captures lie on disk: one file each, recognised by content.

A layout says where the photos are and, if it comes with cameras, gives them. A new one is a file here and a line in
`LAYOUTS`; the first line that recognises a capture wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from loupe.errors import InputError
from loupe.photos import Photo
from loupe.scene import View
from loupe.sources import llff, photos


class Layout(NamedTuple):
    """One layout.

    Attributes:
        recognises: whether a capture has it.
        photos: the capture's photos, in name order; raises `InputError` where there are none.
        views: the ingested photos with the cameras that the capture gives, their picture paths still relative to the
            folder of `photos.json`; None where cameras must be estimated.
    """

    recognises: Callable[[Path], bool]
    photos: Callable[[Path], list[Path]]
    views: Callable[[Path, Sequence[Photo]], list[View]] | None


LAYOUTS: dict[str, Layout] = {
    "llff": Layout(llff.recognises, photos.find, llff.views),
    "photos": Layout(photos.recognises, photos.find, None),
}


def recognise(capture: Path) -> str:
    """The name of the capture's layout; raises `InputError` if it has none of them."""
    if not capture.is_dir():
        raise InputError(f"{capture}: no such folder")
    for name, layout in LAYOUTS.items():
        if layout.recognises(capture):
            return name
    raise InputError(f"{capture}: holds no photos (JPEG, PNG, TIFF or WebP), neither directly nor in images/")
