"""Values out of a capture's files, checked. `where` opens every message: the file, the key and the view."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from loupe.camera import Array
from loupe.errors import InputError
from loupe.photos import Shot, check_view_name, find_photos
from loupe.undistort import Lens

# Skew that moves no pixel of the picture further than this is rounding.
_STRAIGHT_ENOUGH = 0.1


def inside(capture: Path, relative: object, where: str) -> Path:
    """The file or folder `relative` of the capture.

    Raises:
        InputError: no path, or one that leaves the capture, by itself or by a link.
    """
    if not isinstance(relative, str) or not relative or "\0" in relative:
        raise InputError(f"{where}: {relative!r} is no path inside the capture")
    path = capture / relative
    if Path(relative).is_absolute() or not path.resolve().is_relative_to(capture.resolve()):
        raise InputError(f"{where}: {relative!r} leaves the capture; put the files themselves there")
    return path


def view_name(photo: PurePosixPath, where: str) -> str:
    """The name of a view by the path of its photo, with '_' between folders; raises `InputError` if it is not safe."""
    name = "_".join(photo.with_suffix("").parts)
    check_view_name(name, where)
    return name


def photos_in(capture: Path, folder: str) -> list[Path]:
    """The photos in a folder of the capture, in name order, none if it does not exist; see `find_photos`."""
    path = inside(capture, folder, str(capture))
    return find_photos(path) if path.is_dir() else []


def by_stem(capture: Path, folder: str) -> dict[str, Path]:
    """The photos in a folder of the capture by their name without suffix."""
    return {path.stem: path for path in photos_in(capture, folder)}


def with_masks(capture: Path, photos: Path, shots: list[Shot]) -> list[Shot]:
    """The shots with the masks that lie in the capture's `masks/` as the shots' files lie in the folder `photos`:
    `a.jpg` has `a.png`, or `a.jpg.png` as COLMAP has it. A photo without one stays without.

    Raises:
        InputError: there are masks and none is any photo's, or one is a link out of the capture.
    """
    folder = capture / "masks"
    if not folder.is_dir():
        return shots
    masked = [shot._replace(mask=_mask_of(capture, shot.file.relative_to(photos))) for shot in shots]
    if not any(shot.mask for shot in masked):
        raise InputError(f"{folder}: no mask has a photo's name; for {shots[0].file.name} it is {shots[0].name}.png")
    return masked


def _mask_of(capture: Path, photo: Path) -> Path | None:
    names = [photo.with_suffix(".png"), photo.with_name(photo.name + ".png")]
    found = [inside(capture, f"masks/{name.as_posix()}", f"{capture}: masks") for name in names]
    return next((path for path in found if path.is_file()), None)


def in_name_order(shots: list[Shot]) -> list[Shot]:
    """Shots in the order of their names."""
    return sorted(shots, key=lambda shot: shot.name)


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; raises `InputError` if it holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping of keys to values")
    return content


def numbers(value: object, shape: tuple[int, ...], where: str) -> Array:
    """`value` as finite numbers of that shape; raises `InputError` if it is something else."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.array(None)
    if array.dtype.kind not in "fiu" or array.shape != shape:
        raise InputError(f"{where}: expected {'x'.join(map(str, shape)) or 'one'} plain number{'s' if shape else ''}")
    if not np.isfinite(array).all():
        raise InputError(f"{where}: holds NaN or infinity")
    return array.astype(np.float64)


def rigid(value: object, where: str) -> Array:
    """`value` as a transform (4, 4) of a rotation and a translation; raises `InputError` if it is none."""
    transform = numbers(value, (4, 4), where)
    rotation = transform[:3, :3]
    turns = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4) and np.linalg.det(rotation) > 0
    if not turns or not np.allclose(transform[3], [0, 0, 0, 1]):
        raise InputError(f"{where}: not a rotation and a translation over a row of 0 0 0 1; check what wrote the file")
    return transform


def pinhole(value: object, size: tuple[int, int], where: str, first_pixel: float = 0.5) -> Lens:
    """The lens over a picture of `size` (width, height) that a 3x3 matrix of intrinsics describes.

    Args:
        first_pixel: where, in the pixels of the matrix, the centre of the top-left pixel lies, in x and in y.

    Raises:
        InputError: the matrix is none of intrinsics, or its pixels are skewed visibly.
    """
    matrix = numbers(value, (3, 3), where)
    (fx, skew, cx), (zero, fy, cy), last = matrix.tolist()
    if zero or last != [0, 0, 1] or min(fx, fy) <= 0:
        raise InputError(f"{where}: not intrinsics (fx 0 cx, 0 fy cy, 0 0 1, with fx and fy above 0)")
    moved = abs(skew) * max(abs(cy), abs(size[1] - cy)) / fy
    if moved > _STRAIGHT_ENOUGH:
        raise InputError(f"{where}: skew {skew:.3g} moves pixels by up to {moved:.2g}; only square-set pixels are read")
    shift = 0.5 - first_pixel
    return Lens(*size, fx, fy, cx + shift, cy + shift)
