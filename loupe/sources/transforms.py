"""The frames of a `transforms*.json`, which NeRF's synthetic scenes, Instant-NGP and nerfstudio share.

Cameras: `transform_matrix` is world_from_cam, (4, 4), with OpenGL's axes (x right, y up, z backwards); nerfstudio's
documentation, "Data conventions", https://docs.nerf.studio/quickstart/data_conventions.html.

Lenses: OpenCV's formula with `fl_x`, `fl_y`, `cx`, `cy` in pixels of a picture of `w` x `h`, and `k1`, `k2`, `k3`,
`p1`, `p2`. A frame's own value goes before the file's. What is missing: the size is the photo's as stored; `fl_x`
follows from `camera_angle_x`, the horizontal field of view in radians, by w / 2 / tan(angle / 2) (Mildenhall et al.
2020, published code); `fl_y` likewise from `camera_angle_y`, or it is `fl_x`; the principal point is the centre;
coefficients are zero.

Pixels: no half pixel is to be added. nerfstudio's and Instant-NGP's converters copy `cx`, `cy` from COLMAP, whose
top-left pixel has its centre at (.5, .5) (https://colmap.github.io/tutorial.html); nerfstudio sends that pixel's ray
through the same point ("a ray for pixel (0,0) will shoot the ray through the center of that pixel", the page above; its
issue 2255).

Orientation: cameras are for photos as stored. Both converters copy COLMAP's (see `loupe.sources.colmap`), and neither
program looks at EXIF when it trains: nerfstudio copies photos unturned (its pull request 1261, issue 2516) and opens
them with Pillow, which turns no JPEG unasked (`get_numpy_image` in nerfstudio/data/datasets/base_dataset.py);
Instant-NGP's src/nerf_loader.cu calls stb_image, which reads no EXIF (https://github.com/nothings/stb/issues/916).
"""

from __future__ import annotations

import math
import os
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from loupe.errors import InputError
from loupe.photos import Photo, Shot
from loupe.sources.checked import in_name_order, inside, numbers, rigid, view_name
from loupe.sources.given import Given, Part, give, turned_upright
from loupe.undistort import Lens

# nerfstudio reads the first four as cases of the fifth.
_CAMERA_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
_OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0])


class Frame(NamedTuple):
    """A frame of a transforms file.

    Attributes:
        where: the file and the frame, for messages.
        photo: the photo's path in the capture.
        mask: the mask's file, or None.
        values: the frame's keys, and the file's where the frame has none of that name.
        part: the side of the split on which the frame stands, or None.
    """

    where: str
    photo: PurePosixPath
    mask: Path | None
    values: dict[str, Any]
    part: Part | None


def frames_of(path: Path, content: dict[str, Any], part: Part | None = None) -> list[Frame]:
    """The frames in the `content` of the transforms file `path`.

    Raises:
        InputError: there are none, or a photo is not in the capture.
    """
    listed = content.get("frames")
    if not isinstance(listed, list) or not listed or not all(isinstance(frame, dict) for frame in listed):
        raise InputError(f"{path}: frames: expected a list of mappings, one per photo")
    common = {key: value for key, value in content.items() if key != "frames"}
    return [_frame(path, number, common | own, part) for number, own in enumerate(listed)]


def _frame(path: Path, number: int, values: dict[str, Any], part: Part | None) -> Frame:
    photo = photo_at(path, values.get("file_path"), f"frames[{number}].file_path")
    where = f"{path}: frame {photo}"
    mask = values.get("mask_path")
    mask = None if mask is None else inside(path.parent, _forward(mask), f"{where}: mask_path")
    return Frame(where, photo, mask, values, part)


def photo_at(path: Path, name: object, key: str) -> PurePosixPath:
    """The path in the capture of the photo that the transforms file `path` names under `key`; no suffix means PNG.

    Raises:
        InputError: no such photo, or one outside the capture.
    """
    where, forward = f"{path}: {key}", _forward(name)
    file = inside(path.parent, forward, where)
    if not os.path.isfile(file):
        file = inside(path.parent, f"{forward}.png", where)
    if not os.path.isfile(file):
        raise InputError(f"{where}: {name!r} is not there; put the photo into the capture or take its frame out")
    return PurePosixPath(file.relative_to(path.parent))


def _forward(name: object) -> object:
    """A path without detours, and without the backslashes of files written under Windows."""
    return posixpath.normpath(name.replace("\\", "/")) if isinstance(name, str) and name else name


def by_view(frames: Sequence[Frame]) -> dict[str, Frame]:
    """The frames by the names of their views: their paths below the folder that all of them share.

    Raises:
        InputError: a name is not safe, or two frames share one.
    """
    shared = posixpath.commonpath([frame.photo.parent for frame in frames])
    views: dict[str, Frame] = {}
    for frame in frames:
        name = view_name(frame.photo.relative_to(shared), frame.where)
        if name in views:
            raise InputError(f"{frame.where}: would be the same view as {views[name].photo}; rename one")
        views[name] = frame
    return views


def shots_of(capture: Path, views: Mapping[str, Frame]) -> list[Shot]:
    """The photos of the frames, in the order of their names."""
    return in_name_order([Shot(name, capture / frame.photo, mask=frame.mask) for name, frame in views.items()])


def cameras_of(photos: Sequence[Photo], views: Mapping[str, Frame]) -> list[Given]:
    """The cameras of those photos that have a frame.

    Raises:
        InputError: a number is missing or none, or the numbers make no camera.
    """
    return [_camera(photo, views[photo.name]) for photo in photos if photo.name in views]


def _camera(photo: Photo, frame: Frame) -> Given:
    world_from_cam = rigid(frame.values.get("transform_matrix"), f"{frame.where}: transform_matrix")
    pose = np.eye(4)
    pose[:3, :3] = _OPENCV_FROM_OPENGL @ world_from_cam[:3, :3].T
    pose[:3, 3] = -pose[:3, :3] @ world_from_cam[:3, 3]
    lens, pose = turned_upright(frame.where, photo, _lens(photo, frame), pose)
    return give(frame.where, photo, lens, pose, part=frame.part)


def _lens(photo: Photo, frame: Frame) -> Lens:
    values, where = frame.values, frame.where
    model = "OPENCV_FISHEYE" if values.get("is_fisheye") else values.get("camera_model", "OPENCV")
    if model not in _CAMERA_MODELS:
        known = ", ".join(_CAMERA_MODELS)
        raise InputError(f"{where}: camera_model {model!r} is not read here ({known} are); undistort the photos first")
    if _number(frame, "k4", 0):
        raise InputError(f"{where}: k4 is not zero; undistort the photos first")
    width, height = (_number(frame, key, side) for key, side in zip("wh", photo.stored_size, strict=True))
    if "fl_x" not in values and "camera_angle_x" not in values:
        raise InputError(f"{where}: fl_x: missing, and so is camera_angle_x; give one of them")
    fx = _number(frame, "fl_x") if "fl_x" in values else _focal(frame, "camera_angle_x", width)
    fy = _focal(frame, "camera_angle_y", height) if "camera_angle_y" in values else fx
    return Lens(
        round(width),
        round(height),
        fx,
        _number(frame, "fl_y", fy),
        _number(frame, "cx", width / 2),
        _number(frame, "cy", height / 2),
        **{key: _number(frame, key, 0) for key in ("k1", "k2", "k3", "p1", "p2")},
    )


def _focal(frame: Frame, key: str, side: float) -> float:
    """The focal length that shows the angle `key` across `side` pixels."""
    angle = _number(frame, key)
    if not 0 < angle < math.pi:
        raise InputError(f"{frame.where}: {key}: {angle:g} is no field of view in radians (0 to pi)")
    return side / 2 / math.tan(angle / 2)


def _number(frame: Frame, key: str, default: float | None = None) -> float:
    if key not in frame.values and default is not None:
        return default
    return float(numbers(frame.values.get(key), (), f"{frame.where}: {key}"))
