"""IDR and NeuS: pictures of an object, masks, and `cameras.npz` (the layout of DTU and H3DS there).

The i-th picture of `image/` (or `images/`) in name order has the i-th mask of `mask/` (or `masks/`), if there are any,
and two 4x4 matrices (Yariv et al. 2020; DATA_CONVENTION.md of the published code, lioryariv/idr):

- `world_mat_i`, K [R | t] above a row of 0 0 0 1: world points -> pixels times depth, OpenCV axes. The published code
  casts the ray of a pixel through whole numbers, so its pixels count from the centre of the first one; matches on DTU
  confirm that.
- `scale_mat_i`: the unit sphere -> the sphere in the world that holds the object. `cameras_sphere.npz` (Wang et al.
  2021, NeuS), preferred where both stand, has a closer one. The scene's bounds are that sphere's.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from loupe.camera import Array
from loupe.errors import InputError
from loupe.photos import Photo, Shot
from loupe.sources.checked import numbers, photos_in, pinhole
from loupe.sources.given import Given, give

_FILES = ("cameras_sphere.npz", "cameras.npz")
_PICTURES = ("image", "images")
_MASKS = ("mask", "masks")
# A camera in or near the sphere sees from here on, in radii of it.
_NEAREST = 0.01


def recognises(capture: Path) -> bool:
    """Whether there are a file of cameras and a folder of pictures with their names."""
    pictures = any((capture / folder).is_dir() for folder in _PICTURES)
    return pictures and any((capture / name).is_file() for name in _FILES)


def shots(capture: Path) -> list[Shot]:
    """The photos in name order, with their masks; raises `InputError` if there are none, or not as many masks."""
    photos, masks = _first(capture, _PICTURES), _first(capture, _MASKS)
    if not photos:
        raise InputError(f"{capture}: holds no photos in {' or '.join(_PICTURES)}/")
    if masks and len(masks) != len(photos):
        raise InputError(
            f"{masks[0].parent}: {len(masks)} masks for {len(photos)} photos; they must be as many, or none"
        )
    return [Shot(photo.stem, photo, mask=mask) for photo, mask in zip_longest(photos, masks)]


def cameras(capture: Path, photos: Sequence[Photo]) -> list[Given]:
    """The given cameras at the ingested photos' sizes, world frame unchanged.

    Raises:
        InputError: the file is no such table, has not one camera per photo, or a matrix is no camera or no sphere.
    """
    path = next(capture / name for name in _FILES if (capture / name).is_file())
    matrices = _read(path)
    numbered = {shot.name: number for number, shot in enumerate(shots(capture))}
    stored = sum(re.fullmatch(r"world_mat_\d+", key) is not None for key in matrices)
    if stored != len(numbered):
        raise InputError(f"{path}: {stored} cameras for {len(numbered)} photos; they must be as many")
    return [_given(path, matrices, photo, numbered[photo.name]) for photo in photos]


def decompose(projection: Array) -> tuple[Array, Array]:
    """A projection (3, 4) of any scale -> intrinsics (3, 3), above 0 on the diagonal, and cam_from_world (4, 4)."""
    from scipy.linalg import rq

    # Of the two signs that mean the same picture, the one in which what lies in front has positive depth.
    projection = projection * np.sign(np.linalg.det(projection[:, :3]))
    intrinsics, rotation = rq(projection[:, :3])
    signs = np.sign(np.diag(intrinsics))
    intrinsics, rotation = intrinsics * signs, signs[:, None] * rotation
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = np.linalg.solve(intrinsics, projection[:, 3])
    return intrinsics / intrinsics[2, 2], pose


def _first(capture: Path, folders: Sequence[str]) -> list[Path]:
    """The photos of the first of the folders that holds any."""
    return next((photos for folder in folders if (photos := photos_in(capture, folder))), [])


def _read(path: Path) -> dict[str, object]:
    """The arrays of the file that matter, by key."""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, NpzFile):
            raise ValueError("one array, without a name")
        with archive:
            wanted = [key for key in archive if re.fullmatch(r"(world|scale)_mat_\d+", key)]
            return {key: archive[key] for key in wanted}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not plain NumPy arrays by name ({error})") from None


def _given(path: Path, matrices: Mapping[str, object], photo: Photo, number: int) -> Given:
    key = f"world_mat_{number}"
    where = f"{path}: {key}, view {photo.name}"
    if key not in matrices:
        raise InputError(f"{where}: missing; the keys count from world_mat_0")
    world = numbers(matrices[key], (4, 4), where)
    if np.linalg.matrix_rank(world[:3, :3]) < 3:
        raise InputError(f"{where}: singular, so no camera")
    intrinsics, pose = decompose(world[:3])
    lens = pinhole(intrinsics, (photo.source_width, photo.source_height), where, first_pixel=0.0)
    return give(where, photo, lens, pose, _bounds(path, matrices, photo.name, number, pose))


def _bounds(
    path: Path, matrices: Mapping[str, object], view: str, number: int, pose: Array
) -> tuple[float, float] | None:
    """The z-depths between which the sphere lies, or None if no camera has one."""
    if not any(key.startswith("scale_mat") for key in matrices):
        return None
    key = f"scale_mat_{number}"
    where = f"{path}: {key}, view {view}"
    if key not in matrices:
        raise InputError(f"{where}: missing; every camera has one, or none has")
    scale = numbers(matrices[key], (4, 4), where)
    squared = scale[:3, :3] @ scale[:3, :3].T
    radius = float(np.sqrt(squared[0, 0]))
    if radius == 0 or not np.allclose(squared, radius**2 * np.eye(3), atol=1e-4 * radius**2):
        raise InputError(f"{where}: does not scale all directions alike")
    depth = float(pose[2, :3] @ scale[:3, 3] + pose[2, 3])
    if depth + radius <= 0:
        raise InputError(f"{where}: the sphere lies behind the camera")
    far = depth + radius
    return max(depth - radius, min(_NEAREST * radius, far / 2)), far
