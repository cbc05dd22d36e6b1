"""Values out of a capture's files, checked. `where` opens every message: the file, the key and the view."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from loupe.camera import Array
from loupe.errors import InputError
from loupe.photos import Shot, check_view_name


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
