"""A plain folder of photos: directly in it, or in `images/`; their masks, if any, in `masks/`."""

from __future__ import annotations

from pathlib import Path

from loupe.errors import InputError
from loupe.photos import Shot
from loupe.sources.checked import photos_in, with_masks


def recognises(capture: Path) -> bool:
    """Whether there is any photo."""
    return any(_found(capture))


def shots(capture: Path) -> list[Shot]:
    """The photos in name order; raises `InputError` if there are none, or some in both places, or masks of others."""
    found = [photos for photos in _found(capture) if photos]
    if len(found) != 1:
        where = "both directly in it and in images/" if found else "neither directly in it nor in images/"
        raise InputError(f"{capture}: photos lie {where}; put them in one of the two")
    return with_masks(capture, found[0][0].parent, [Shot(path.stem, path) for path in found[0]])


def _found(capture: Path) -> list[list[Path]]:
    """The photos in either place."""
    return [photos_in(capture, folder) for folder in (".", "images")]
