"""CMU Panoptic as Dynamic 3D Gaussians lays it out: many cameras at once, frame after frame.

`train_meta.json` and `test_meta.json` (Luiten et al. 2024; read by `train.py` and `helpers.py` of the published code,
JonathonLuiten/Dynamic3DGaussians) hold the pictures' width `w` and height `h`, and for the c-th camera at time t

- `fn[t][c]`: its picture in `ims/`; a mask of the same name, as PNG, may stand in `seg/`,
- `cam_id[t][c]`: which camera it is,
- `k[t][c]`: intrinsics (3, 3), in pixels of the picture. The published code makes a projection of them in which the
  picture reaches from 0 to `w`, so the centre of the top-left pixel lies at (.5, .5), as here,
- `w2c[t][c]`: cam_from_world (4, 4), OpenCV axes.

The views of the two files are the two sides of the split. There are no bounds and no lens distortion.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from loupe.errors import InputError
from loupe.photos import Photo, Shot, check_view_name
from loupe.sources.checked import inside, numbers, pinhole, read_json, rigid
from loupe.sources.given import Given, Part, give

_TABLES: dict[str, Part] = {"train_meta.json": "train", "test_meta.json": "test"}
_PICTURES, _MASKS = "ims", "seg"


class _Taken(NamedTuple):
    """A view as its table has it: cameras are checked when they are asked for. `where` names table, time and camera."""

    shot: Shot
    part: Part
    where: str
    size: tuple[int, int]
    intrinsics: object
    pose: object


def recognises(capture: Path) -> bool:
    """Whether there are a table of training views and a folder of pictures."""
    return (capture / "train_meta.json").is_file() and (capture / _PICTURES).is_dir()


def shots(capture: Path) -> list[Shot]:
    """The photos in the order of their names, CAMERA_FRAME.

    Raises:
        InputError: a table is none, its lists are not as long as each other, or a picture is missing or lies elsewhere.
    """
    return [taken.shot for taken in _all_taken(capture)]


def cameras(capture: Path, photos: Sequence[Photo]) -> list[Given]:
    """The given cameras at the ingested photos' sizes, world frame unchanged.

    Raises:
        InputError: as for `shots`, or a matrix is no camera.
    """
    by_name = {taken.shot.name: taken for taken in _all_taken(capture)}
    return [_given(photo, by_name[photo.name]) for photo in photos]


def _given(photo: Photo, taken: _Taken) -> Given:
    lens = pinhole(taken.intrinsics, taken.size, f"{taken.where}: k")
    return give(taken.where, photo, lens, rigid(taken.pose, f"{taken.where}: w2c"), part=taken.part)


def _all_taken(capture: Path) -> list[_Taken]:
    """The views of both tables, in the order of their names."""
    tables = [(capture / name, part) for name, part in _TABLES.items() if (capture / name).is_file()]
    every = [taken for path, part in tables for taken in _table(capture, path, part)]
    return sorted(every, key=lambda taken: taken.shot.name)


def _table(capture: Path, path: Path, part: Part) -> list[_Taken]:
    content = read_json(path)
    width, height = (_side(path, content.get(key), key) for key in ("w", "h"))
    columns = [_rows(path, key, content.get(key)) for key in ("fn", "cam_id", "k", "w2c")]
    made = []
    for time, row in enumerate(_together(columns, f"{path}: fn, cam_id, k and w2c")):
        for place, (file, camera, intrinsics, pose) in enumerate(_together(row, f"{path}: time {time}")):
            where = f"{path}: [{time}][{place}]"
            shot = _shot(capture, where, file, camera, time)
            where = f"{where}, view {shot.name}"
            made.append(_Taken(shot, part, where, (width, height), intrinsics, pose))
    return made


def _side(path: Path, value: object, key: str) -> int:
    side = float(numbers(value, (), f"{path}: {key}"))
    if side < 1 or side % 1:
        raise InputError(f"{path}: {key}: {side:g} is no number of pixels")
    return int(side)


def _rows(path: Path, key: str, value: object) -> list[list[object]]:
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise InputError(f"{path}: {key}: missing, or not a list over times of lists over cameras")
    return value


def _together(lists: Sequence[list[Any]], where: str) -> list[tuple[Any, ...]]:
    """Lists side by side."""
    if len({len(one) for one in lists}) != 1:
        raise InputError(f"{where}: {', '.join(str(len(one)) for one in lists)} entries; they must be as many")
    return list(zip(*lists, strict=True))


def _shot(capture: Path, where: str, file: object, camera: object, time: int) -> Shot:
    if not isinstance(camera, int | str) or isinstance(camera, bool):
        raise InputError(f"{where}: cam_id: {camera!r} names no camera")
    picture = inside(capture / _PICTURES, file, f"{where}: fn")
    if not picture.is_file():
        raise InputError(f"{where}: fn: {picture}: no such file")
    name = f"{camera}_{picture.stem}"
    check_view_name(name, f"{where}: view {name!r}")
    seen = inside(capture / _MASKS, str(PurePosixPath(str(file)).with_suffix(".png")), f"{where}: fn")
    return Shot(name, picture, str(camera), time, seen if seen.is_file() else None)
