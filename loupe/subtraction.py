"""Ingested frames of cameras that stand still -> their foreground masks and each camera's clean plate, as files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from loupe.background import Plate, clean_plate, foreground
from loupe.errors import InputError
from loupe.images import Pixels, read_image, write_image
from loupe.photos import Photo, Shot

Taken = TypeVar("Taken", Photo, Shot)

MIN_FRAMES = 8
_NEARLY_ALL = 0.95  # of a mask
_WHERE = "ingest.masks: subtract"


def refuse_unfit(shots: Sequence[Taken]) -> None:
    """Raises `InputError` where the capture does not move, or a camera has too few frames to tell what stands still."""
    if len({shot.frame for shot in shots}) < 2:
        raise InputError(f"{_WHERE}: the capture does not move, so no background can be told; leave it at given")
    for camera, frames in _by_camera(shots).items():
        if len(frames) < MIN_FRAMES:
            found = f"camera {camera} has {len(frames)} frames, need {MIN_FRAMES}"
            raise InputError(f"{_WHERE}: {found}; take more (ingest.every), or leave it at given")


def subtract(photos: Sequence[Photo], out: Path, say: Callable[[str], None]) -> list[Photo]:
    """The photos with the masks that subtraction finds, written to `out` / masks; plates go to `out` / plates.

    A plate is a PNG named after its camera, with alpha 0 where the background is not known. A mask that would be all
    black is not written, and the photo has none.

    Raises:
        InputError: a camera has too few photos that could be used, or they differ in size.
    """
    refuse_unfit(photos)
    for folder in ("masks", "plates"):
        (out / folder).mkdir(exist_ok=True)
    shares: dict[str, float] = {}
    unsettled: dict[str, float] = {}
    for camera, together in _by_camera(photos).items():
        _refuse_sizes(camera, together)
        plate = clean_plate([partial(read_image, out / photo.file) for photo in together])
        write_image(out / "plates" / f"{camera}.png", _with_alpha(plate))
        unsettled[camera] = 1 - float(plate.settled.mean())
        shares |= {photo.name: _write_mask(photo, plate, out) for photo in together}
    _say_what_is_odd(shares, unsettled, say)
    return [replace(photo, mask=_mask_of(photo) if shares[photo.name] else None) for photo in photos]


def _by_camera(taken: Sequence[Taken]) -> dict[str, list[Taken]]:
    cameras: dict[str, list[Taken]] = defaultdict(list)
    for one in taken:
        cameras[one.camera_id].append(one)
    return dict(cameras)


def _refuse_sizes(camera: str, photos: Sequence[Photo]) -> None:
    first = photos[0]
    for photo in photos:
        if (photo.width, photo.height) != (first.width, first.height):
            sizes = f"{photo.name} has {photo.width}x{photo.height} pixels, {first.name} {first.width}x{first.height}"
            raise InputError(f"{_WHERE}: camera {camera}: {sizes}; its frames must be of one size")


def _write_mask(photo: Photo, plate: Plate, out: Path) -> float:
    """Write the mask unless it is all black; returns which share of it is white."""
    mask = foreground(read_image(out / photo.file), plate)
    if mask.any():
        write_image(out / _mask_of(photo), mask)
    return float((mask > 0).mean())


def _mask_of(photo: Photo) -> str:
    return f"masks/{photo.name}.png"


def _with_alpha(plate: Plate) -> Pixels:
    return np.dstack([plate.picture, np.where(plate.settled, 255, 0).astype(np.uint8)])


def _say_what_is_odd(shares: dict[str, float], unsettled: dict[str, float], say: Callable[[str], None]) -> None:
    worst = max(unsettled, key=lambda camera: unsettled[camera])
    mean = float(np.mean(list(unsettled.values())))
    say(
        f"the background is not known in {mean:.1%} of the pixels, at most {unsettled[worst]:.1%}, in camera {worst}; "
        "they count as foreground"
    )
    if black := [name for name, share in shares.items() if not share]:
        say(f"{len(black)} subtracted masks are all black; their views have no mask, the first is {black[0]}")
    if white := [name for name, share in shares.items() if share > _NEARLY_ALL]:
        say(f"{len(white)} subtracted masks are nearly all white (does the camera move?), the first is {white[0]}'s")
