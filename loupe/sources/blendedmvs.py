"""BlendedMVS: `blended_images/NAME.jpg` and `cams/NAME_cam.txt` (Yao et al. 2020, README of YoYo000/BlendedMVS).

The text of a camera is MVSNet's (Yao et al. 2018, README of YoYo000/MVSNet):

    extrinsic           four rows of four numbers, cam_from_world, OpenCV axes
    intrinsic           three rows of three numbers, in pixels of the picture
    DEPTH_MIN DEPTH_INTERVAL [DEPTH_NUM [DEPTH_MAX]]

MVSNet's code takes the centre of the top-left pixel at (.5, .5), as loupe does. Bounds are the first and the last
depth: DEPTH_MAX, or else where DEPTH_NUM steps end. Two numbers alone name no end, and the data set's own page warns of
cameras whose depths are not above 0: such views have no bounds. `NAME_masked.jpg` is the same picture with its
background black, no view of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from loupe.errors import InputError
from loupe.photos import Photo, Shot
from loupe.sources.checked import in_name_order, inside, numbers, photos_in, pinhole, rigid
from loupe.sources.given import Given, give

_PICTURES, _CAMERAS = "blended_images", "cams"


def recognises(capture: Path) -> bool:
    """Whether both folders are there."""
    return (capture / _PICTURES).is_dir() and (capture / _CAMERAS).is_dir()


def shots(capture: Path) -> list[Shot]:
    """The photos in name order, without the masked ones; raises `InputError` if there are none."""
    photos = [path for path in photos_in(capture, _PICTURES) if not path.stem.endswith("_masked")]
    if not photos:
        raise InputError(f"{capture / _PICTURES}: holds no photos")
    return in_name_order([Shot(path.stem, path) for path in photos])


def cameras(capture: Path, photos: Sequence[Photo]) -> list[Given]:
    """The given cameras at the ingested photos' sizes, world frame and depths unchanged.

    Raises:
        InputError: a photo has no camera, or a file is none of the layout's.
    """
    return [_given(inside(capture, f"{_CAMERAS}/{photo.name}_cam.txt", str(capture)), photo) for photo in photos]


def _given(path: Path, photo: Photo) -> Given:
    where = f"{path}: view {photo.name}"
    extrinsic, intrinsic, depths = _read(path, where)
    lens = pinhole(intrinsic, (photo.source_width, photo.source_height), f"{where}: intrinsic")
    return give(where, photo, lens, rigid(extrinsic, f"{where}: extrinsic"), _bounds(depths))


def _read(path: Path, where: str) -> tuple[object, object, list[float]]:
    """The two matrices and the numbers of the last line."""
    try:
        words = path.read_text(encoding="utf8").split()
    except FileNotFoundError:
        raise InputError(f"{where}: no such file; every photo needs its camera") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: not text ({error})") from None
    if words[:1] != ["extrinsic"] or words[17:18] != ["intrinsic"] or not 2 <= len(words[27:]) <= 4:
        raise InputError(
            f"{where}: expected 'extrinsic' and 16 numbers, 'intrinsic' and 9, and 2 to 4 numbers of depths"
        )
    try:
        values = np.array([float(word) for word in words[1:17] + words[18:]])
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    numbers(values, values.shape, where)
    return values[:16].reshape(4, 4), values[16:25].reshape(3, 3), values[25:].tolist()


def _bounds(depths: list[float]) -> tuple[float, float] | None:
    nearest, interval, *more = depths
    if not more:
        return None
    farthest = more[1] if len(more) == 2 else nearest + interval * (more[0] - 1)
    return (nearest, farthest) if 0 < nearest < farthest else None
