"""A COLMAP model, text or binary, beside its photos (https://colmap.github.io/format.html).

The model lies in `sparse/0`, `sparse`, `colmap/sparse/0` or the capture's folder itself, the photos in `images/` or the
capture's folder. Poses are cam_from_world with OpenCV's axes; the centre of the top-left pixel is (.5, .5)
(https://colmap.github.io/tutorial.html, "Feature Detection and Extraction"). Both are this project's conventions.
Cameras are for photos as stored: COLMAP leaves EXIF orientations alone on purpose, so that photos of one camera share
its parameters however it was held (https://github.com/colmap/colmap, issues 1456 and 2104).
Bounds follow from the points, which are triangulated anew. Masks, if any, lie in `masks/` as the photos do in theirs.

The capture is the model: photos in the folder that it does not place are no shots.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from loupe.camera import Array
from loupe.errors import InputError
from loupe.photos import Photo, Shot
from loupe.sources.checked import in_name_order, inside, numbers, view_name, with_masks
from loupe.sources.given import Given, give, turned_upright
from loupe.undistort import Lens

if TYPE_CHECKING:
    import pycolmap

_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", ".")
# The parameters of each model in COLMAP's order (its src/colmap/sensor/models.h), by the names that a `Lens` has.
_ONE_FOCAL, _TWO_FOCAL = ("f", "cx", "cy"), ("fx", "fy", "cx", "cy")
_PARAMETERS = {
    "SIMPLE_PINHOLE": _ONE_FOCAL,
    "PINHOLE": _TWO_FOCAL,
    "SIMPLE_RADIAL": (*_ONE_FOCAL, "k1"),
    "RADIAL": (*_ONE_FOCAL, "k1", "k2"),
    "OPENCV": (*_TWO_FOCAL, "k1", "k2", "p1", "p2"),
    "FULL_OPENCV": (*_TWO_FOCAL, "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
}


class _Placed(NamedTuple):
    """A photo that the model places; `where` names both for messages."""

    where: str
    file: Path
    lens: Lens
    cam_from_world: Array


def recognises(capture: Path) -> bool:
    """Whether there is a model."""
    return _model(capture) is not None


def shots(capture: Path) -> list[Shot]:
    """The photos that the model places, in the order of their names (folders before a photo's name with '_' between).

    Raises:
        InputError: the model cannot be read, a photo of it is missing or outside the capture, or masks are of others.
    """
    found = in_name_order([Shot(name, placed.file) for name, placed in _views(capture).items()])
    images = capture / "images"
    return with_masks(capture, images if all(shot.file.is_relative_to(images) for shot in found) else capture, found)


def cameras(capture: Path, photos: Sequence[Photo]) -> list[Given]:
    """The model's cameras of those photos that it places.

    Raises:
        InputError: the model cannot be read, has a camera of another kind, or numbers in it make no camera.
    """
    views = _views(capture)
    placed = [(photo, views[photo.name]) for photo in photos if photo.name in views]
    return [
        give(one.where, photo, *turned_upright(one.where, photo, one.lens, one.cam_from_world)) for photo, one in placed
    ]


def _model(capture: Path) -> tuple[Path, str] | None:
    """The model's folder, and the suffix of its files."""
    for folder in (capture / name for name in _FOLDERS):
        for suffix in (".bin", ".txt"):
            if all((folder / f"{table}{suffix}").is_file() for table in ("cameras", "images")):
                return folder, suffix
    return None


def _views(capture: Path) -> dict[str, _Placed]:
    found = _model(capture)
    if found is None:
        raise InputError(f"{capture}: no COLMAP model (cameras and images, .bin or .txt) in {', '.join(_FOLDERS)}")
    folder, suffix = found
    try:
        model = _read(folder, suffix)
        images = [(model.image(key), model.image(key).name) for key in model.reg_image_ids()]
    except (IndexError, MemoryError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{folder}: COLMAP cannot read this model ({reason}); export it again") from None
    views: dict[str, _Placed] = {}
    for image, photo in images:
        where = f"{folder}: image {photo}"
        file = _file(capture, photo, where)
        name = view_name(PurePosixPath(photo), where)
        if name in views:
            raise InputError(f"{where}: would be the same view as {views[name].file.name}; rename one")
        views[name] = _Placed(where, file, _lens(image.camera, where), _pose(image, where))
    return views


def _read(folder: Path, suffix: str) -> pycolmap.Reconstruction:
    """The model without its points, which nobody needs here and which take the longest to read."""
    import pycolmap

    with TemporaryDirectory(prefix="loupe-colmap-") as work:
        for table in ("rigs", "cameras", "frames", "images"):
            file = folder / f"{table}{suffix}"
            if file.is_file():
                Path(work, file.name).symlink_to(file.resolve())
        # In a binary table, a number of eight bytes says how many rows there are.
        Path(work, f"points3D{suffix}").write_bytes(bytes(8) if suffix == ".bin" else b"")
        return pycolmap.Reconstruction(work)


def _file(capture: Path, photo: str, where: str) -> Path:
    for folder in (capture / "images", capture):
        if folder.is_dir() and os.path.isfile(file := inside(folder, photo, where)):
            return file
    hint = "put it there (and export a binary model if its name has spaces: in a text model names end at one)"
    raise InputError(f"{where}: no such photo in {capture / 'images'} or {capture}; {hint}")


def _lens(camera: pycolmap.Camera, where: str) -> Lens:
    kind = camera.model.name
    if kind not in _PARAMETERS:
        known = ", ".join(_PARAMETERS)
        raise InputError(f"{where}: camera model {kind} is not read here ({known} are); undistort the photos first")
    names = _PARAMETERS[kind]
    values = dict(zip(names, numbers(camera.params, (len(names),), f"{where}: camera {kind}").tolist(), strict=True))
    if any(values.pop(name, 0.0) for name in ("k4", "k5", "k6")):
        raise InputError(f"{where}: camera {kind}: k4, k5 or k6 is not zero; undistort the photos first")
    if "f" in values:
        values["fx"] = values["fy"] = values.pop("f")
    return Lens(camera.width, camera.height, **values)


def _pose(image: pycolmap.Image, where: str) -> Array:
    cam_from_world = image.cam_from_world()
    length = float(np.linalg.norm(cam_from_world.rotation.quat))
    if not abs(length - 1) < 1e-3:  # of zeros, COLMAP makes the identity
        raise InputError(f"{where}: its quaternion has length {length:.3g}, not 1, and is no rotation")
    pose = np.eye(4)
    pose[:3] = cam_from_world.matrix()
    return pose
