"""LLFF: photos and `poses_bounds.npy` (Mildenhall et al. 2019, the layout of the published code).

A row of 17 numbers per photo in name order: a 3x5 matrix, row by row, and the z-depths between which the scene lies.
The matrix is world_from_cam with the rotation's columns pointing down, right and backwards, the position, and the
picture's height, width and focal length in pixels. The principal point is the centre; there is no distortion.

The published code (https://github.com/Fyusion/LLFF, llff/poses/pose_utils.py) copies size, focal length and poses from
a COLMAP model, so they are for photos as stored; see `loupe.sources.colmap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from loupe.camera import Array
from loupe.errors import InputError
from loupe.photos import Photo
from loupe.sources import photos as folder_of_photos
from loupe.sources.given import Given, give, turned_upright
from loupe.undistort import Lens

_FILE = "poses_bounds.npy"


def recognises(capture: Path) -> bool:
    """Whether there is a `poses_bounds.npy`."""
    return (capture / _FILE).is_file()


def cameras(capture: Path, photos: Sequence[Photo]) -> list[Given]:
    """The given cameras at the ingested photos' sizes, world frame and depths unchanged.

    Raises:
        InputError: the table is no such table, has not one row per photo of the capture, or speaks of pictures of
            another shape.
    """
    rows = read_rows(capture, [shot.name for shot in folder_of_photos.shots(capture)])
    return [camera(capture, photo, rows[photo.name]) for photo in photos]


def read_rows(capture: Path, names: Sequence[str]) -> dict[str, Array]:
    """The table's rows, (17,), for cameras of these names in this order.

    Raises:
        InputError: the table is no such table, or has not one row per name.
    """
    path = capture / _FILE
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a plain NumPy array ({error})") from None
    if not isinstance(table, np.ndarray) or table.ndim != 2 or table.shape[1] != 17 or table.dtype.kind not in "fiu":
        raise InputError(f"{path}: expected one row of 17 numbers per photo")
    if len(table) != len(names):
        raise InputError(f"{path}: {len(table)} poses for {len(names)} photos; they must be as many")
    if not np.isfinite(table).all():
        raise InputError(f"{path}: row {int(np.argwhere(~np.isfinite(table))[0, 0])} holds NaN or infinity")
    return dict(zip(names, table.astype(np.float64), strict=True))


def camera(capture: Path, photo: Photo, row: Array) -> Given:
    """The camera of a photo by its row; raises `InputError` if it is none, or for pictures of another shape."""
    matrix = row[:15].reshape(3, 5)
    down, right, backwards, position = matrix[:, :4].T
    height, width, focal = matrix[:, 4].tolist()
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, down, -backwards])
    pose[:3, 3] = -pose[:3, :3] @ position
    lens = Lens(round(width), round(height), focal, focal, width / 2, height / 2)
    where = str(capture / _FILE)
    return give(where, photo, *turned_upright(where, photo, lens, pose), (float(row[15]), float(row[16])))
