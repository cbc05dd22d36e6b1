"""EasyMocap and EasyVolcap: calibrated cameras that film together.

`images/CAMERA/FRAME.jpg`, masks of the same names in `masks/CAMERA/` if there are any, and two files as OpenCV's
FileStorage writes them (`easymocap/mytools/camera_utils.py` of zju3dv/EasyMocap, `easyvolcap/utils/easy_utils.py` of
zju3dv/EasyVolcap):

- `intri.yml`: `names` of the cameras; for each `K_NAME` (3x3), `dist_NAME` or `D_NAME` (k1 k2 p1 p2 [k3], none if
  missing), and perhaps `H_NAME`, `W_NAME`, the size of the picture that they are for.
- `extri.yml`: `R_NAME`, a rotation vector (Rodrigues), or `Rot_NAME` (3x3), and `T_NAME`: cam_from_world, OpenCV axes;
  perhaps `n_NAME` and `f_NAME`, the z-depths between which the scene lies.

The numbers come from OpenCV's calibration, which counts pixels from the centre of the first one. A frame's number is
its place among the frames; "9" comes before "10".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from loupe.camera import Array
from loupe.errors import InputError
from loupe.photos import Photo, Shot, check_view_name
from loupe.sources.checked import by_stem, in_name_order, numbers, photos_in, pinhole, rigid
from loupe.sources.given import Given, give
from loupe.undistort import Lens

_INTRINSICS, _EXTRINSICS = "intri.yml", "extri.yml"
# EasyVolcap writes these bounds where nobody has set any.
_UNSET = (0.0001, 1e6)


def recognises(capture: Path) -> bool:
    """Whether both files of cameras are there."""
    return (capture / _INTRINSICS).is_file() and (capture / _EXTRINSICS).is_file()


def shots(capture: Path) -> list[Shot]:
    """The photos in the order of their names, CAMERA_FRAME.

    Raises:
        InputError: there are no cameras, a folder is no camera's, or a camera lacks a frame that another has.
    """
    folders = {name: photos_in(capture, f"images/{name}") for name in _names(capture)}
    frames = sorted({photo.stem for photos in folders.values() for photo in photos}, key=_counted)
    if not frames:
        raise InputError(f"{capture / 'images'}: holds no photos of the cameras that {_INTRINSICS} names")
    for camera, photos in folders.items():
        present = {photo.stem for photo in photos}
        if missing := [frame for frame in frames if frame not in present]:
            raise InputError(
                f"{capture / 'images' / camera}: {len(missing)} of {len(frames)} frames are missing, the first is"
                f" {missing[0]}; every camera must have the same frames"
            )
    numbered = {frame: number for number, frame in enumerate(frames)}
    return in_name_order(
        [shot for camera, photos in folders.items() for shot in _shots_of(capture, camera, photos, numbered)]
    )


def cameras(capture: Path, photos: Sequence[Photo]) -> list[Given]:
    """The given cameras at the ingested photos' sizes, world frame unchanged.

    Raises:
        InputError: a file is none of the layout's, or the numbers of a camera are missing or make none.
    """
    intrinsics, extrinsics = _Storage(capture / _INTRINSICS), _Storage(capture / _EXTRINSICS)
    used = dict.fromkeys(photo.camera_id for photo in photos)
    placed = {camera: (_pose(extrinsics, camera), _bounds(extrinsics, camera)) for camera in used}
    where = f"{capture}: {_INTRINSICS} and {_EXTRINSICS}: camera"
    return [
        give(f"{where} {photo.camera_id}", photo, _lens(intrinsics, photo), *placed[photo.camera_id])
        for photo in photos
    ]


class _Storage:
    """A file of OpenCV's FileStorage."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
        except (cv2.error, SystemError):
            raise InputError(f"{path}: not a file of OpenCV's FileStorage (YAML that opens with %YAML:1.0)") from None
        if not self._file.isOpened():
            raise InputError(f"{path}: cannot be opened")

    def words(self, key: str) -> list[str]:
        """A list of words, or of numbers that stand for them."""
        node = self._file.getNode(key)
        entries = [node.at(place) for place in range(node.size())] if node.isSeq() else []
        if not entries:
            raise InputError(f"{self.path}: {key}: missing, or no list")
        return [entry.string() if entry.isString() else str(int(entry.real())) for entry in entries]

    def has(self, key: str) -> bool:
        return not self._file.getNode(key).empty()

    def matrix(self, key: str) -> Array:
        """A matrix as it stands, checked for nothing."""
        try:
            found = self._file.getNode(key).mat() if self.has(key) else None
        except cv2.error:
            found = None
        if found is None:
            raise InputError(f"{self.path}: {key}: missing, or no matrix")
        return np.asarray(found)

    def number(self, key: str) -> float:
        node = self._file.getNode(key)
        value = node.real() if node.isReal() or node.isInt() else None
        return float(numbers(value, (), f"{self.path}: {key}"))


def _names(capture: Path) -> list[str]:
    """The cameras; each has a folder, and each folder is one's."""
    storage = _Storage(capture / _INTRINSICS)
    names = storage.words("names")
    for name in names:
        check_view_name(name, f"{storage.path}: names: camera {name!r}")
    if len(set(names)) < len(names):
        raise InputError(f"{storage.path}: names: a camera stands there twice")
    folders = {path.name for path in (capture / "images").glob("*/") if not path.name.startswith(".")}
    if unknown := sorted(folders - set(names)):
        raise InputError(f"{storage.path}: names: no camera for the folder images/{unknown[0]}; remove it or add one")
    return names


def _counted(frame: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in names by their value."""
    return [(int(digits or -1), other) for digits, other in re.findall(r"(\d+)|(\D+)", frame)]


def _shots_of(capture: Path, camera: str, photos: Sequence[Path], numbered: dict[str, int]) -> list[Shot]:
    masks = by_stem(capture, f"masks/{camera}")
    made = []
    for photo in photos:
        name = f"{camera}_{photo.stem}"
        check_view_name(name, repr(str(photo)))
        made.append(Shot(name, photo, camera, numbered[photo.stem], masks.get(photo.stem)))
    return made


def _lens(storage: _Storage, photo: Photo) -> Lens:
    camera = photo.camera_id
    size = photo.source_width, photo.source_height
    if storage.has(f"W_{camera}") or storage.has(f"H_{camera}"):
        width, height = storage.number(f"W_{camera}"), storage.number(f"H_{camera}")
        if min(width, height) < 1 or width % 1 or height % 1:
            raise InputError(f"{storage.path}: W_{camera}, H_{camera}: {width:g}x{height:g} is no size of a picture")
        size = int(width), int(height)
    key = f"K_{camera}"
    lens = pinhole(storage.matrix(key), size, f"{storage.path}: {key}, view {photo.name}", first_pixel=0.0)
    k1, k2, p1, p2, k3 = _distortion(storage, camera)
    return lens._replace(k1=k1, k2=k2, k3=k3, p1=p1, p2=p2)


def _distortion(storage: _Storage, camera: str) -> list[float]:
    """k1 k2 p1 p2 k3."""
    key = next((key for key in (f"dist_{camera}", f"D_{camera}") if storage.has(key)), None)
    if key is None:
        return [0.0] * 5
    found = storage.matrix(key).ravel()
    values = numbers(found, found.shape, f"{storage.path}: {key}")
    if len(values) < 4 or values[5:].any():
        raise InputError(
            f"{storage.path}: {key}: expected k1 k2 p1 p2 [k3]; other lenses are not read: undistort first"
        )
    return [*values.tolist(), 0.0][:5]


def _pose(storage: _Storage, camera: str) -> Array:
    pose = np.eye(4)
    if storage.has(f"R_{camera}"):
        where = f"{storage.path}: R_{camera}"
        pose[:3, :3] = cv2.Rodrigues(numbers(storage.matrix(f"R_{camera}").ravel(), (3,), where))[0]
    else:
        pose[:3, :3] = numbers(storage.matrix(f"Rot_{camera}"), (3, 3), f"{storage.path}: Rot_{camera}")
    pose[:3, 3] = numbers(storage.matrix(f"T_{camera}").ravel(), (3,), f"{storage.path}: T_{camera}")
    return rigid(pose, f"{storage.path}: Rot_{camera}")


def _bounds(storage: _Storage, camera: str) -> tuple[float, float] | None:
    near, far = f"n_{camera}", f"f_{camera}"
    if not (storage.has(near) or storage.has(far)):
        return None
    bounds = storage.number(near), storage.number(far)
    return None if bounds == _UNSET else bounds
