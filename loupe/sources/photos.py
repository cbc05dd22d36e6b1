"""A plain folder of photos: directly in it, or in `images/`."""

from __future__ import annotations

from pathlib import Path

from loupe.errors import InputError
from loupe.photos import Shot, find_photos


def recognises(capture: Path) -> bool:
    """Whether there is any photo."""
    return any(find_photos(folder) for folder in _folders(capture))


def shots(capture: Path) -> list[Shot]:
    """The photos in name order; raises `InputError` if there are none, or some in both places."""
    found = [photos for folder in _folders(capture) if (photos := find_photos(folder))]
    if len(found) != 1:
        where = "both directly in it and in images/" if found else "neither directly in it nor in images/"
        raise InputError(f"{capture}: photos lie {where}; put them in one of the two")
    return [Shot(path.stem, path) for path in found[0]]


def _folders(capture: Path) -> list[Path]:
    return [folder for folder in (capture, capture / "images") if folder.is_dir()]
