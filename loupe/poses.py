"""Ingested photos -> a scene: cameras estimated or given, pictures without distortion, bounds and the split."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from pydantic import Field

from loupe.camera import Array, Camera
from loupe.config import Config
from loupe.errors import InputError
from loupe.images import read_image, write_image
from loupe.photos import Photo
from loupe.scene import Points, Scene, View
from loupe.sfm import Attempt, SfmConfig, lens_of, reconstruct, triangulate
from loupe.sources import LAYOUTS, recognise
from loupe.undistort import Lens, undistort

if TYPE_CHECKING:
    import pycolmap

# Less distortion than this, in pixels, is not worth resampling a picture for.
_STRAIGHT_ENOUGH = 0.1


class PosesConfig(SfmConfig):
    """Section `poses` of a capture: where cameras come from ("sfm": estimated even if some are given), and how."""

    source: Literal["auto", "sfm", "llff"] = "auto"


class SplitConfig(Config):
    """Which views test: the 1st and then `every` n-th in name order, or those named in `test`. The others train, unless
    `train` names them."""

    every: int = Field(8, ge=2)
    test: tuple[str, ...] = ()
    train: tuple[str, ...] = ()


class SceneConfig(Config):
    """Section `scene` of a capture: full-resolution pixels per low-resolution pixel (`ratio`), and the `split`."""

    ratio: int = Field(4, ge=1, le=16)
    split: SplitConfig = SplitConfig(every=8)


class Estimate(NamedTuple):
    """A scene, the photos that it does not hold (`unplaced`), and the numbers that say how well the poses fit."""

    scene: Scene
    unplaced: list[str]
    attempt: Attempt


def estimate_scene(
    capture: Path,
    photos: tuple[Path, Sequence[Photo]],
    poses: PosesConfig,
    scene: SceneConfig,
    out: Path,
    say: Callable[[str], None],
) -> Estimate:
    """Pose the ingested photos and save the scene into `out`, which exists.

    Args:
        capture: the photos as taken; given cameras are looked for there.
        photos: the folder of the ingested photos, and its table.
        poses, scene: the capture's sections of these names.
        out: receives `scene.json`, `points.safetensors` and, if there was distortion to remove, `images/`.
        say: takes one line at a time about what happens.

    Raises:
        InputError: given cameras are unusable, too few photos can be placed, or the split is.
    """
    folder, table = photos
    name = recognise(capture) if poses.source == "auto" else {"sfm": "photos"}.get(poses.source, poses.source)
    give_views = LAYOUTS[name].views
    if give_views is None:
        model, attempt = reconstruct(table, folder, poses, say)
        views = _estimated_views(model, table, folder, out)
        source = f"pycolmap {attempt.rung}"
    else:
        views = [_relocated(view, folder, out) for view in give_views(capture, table)]
        cameras = {view.name: view.camera for view in views}
        model = triangulate(cameras, table, folder, poses)
        attempt = Attempt("given", len(views), model.num_points3D(), model.compute_mean_reprojection_error())
        say(str(attempt))
        source = name
    unplaced = sorted({photo.name for photo in table} - {view.name for view in views})
    if unplaced:
        say(f"{len(unplaced)} of {len(table)} photos not placed: {', '.join(unplaced)}")
    train, test = split_views([view.name for view in views], scene.split)
    made = Scene(out, views, _points(model), train, test, scene.ratio, source)
    made.save()
    return Estimate(made, unplaced, attempt)


def split_views(names: Sequence[str], split: SplitConfig) -> tuple[list[str], list[str]]:
    """The names that train and the names that test, each in name order.

    Raises:
        InputError: fewer than two views train or none tests, a name is unknown, or one stands on both sides.
    """
    ordered = sorted(names)
    if unknown := sorted((set(split.test) | set(split.train)) - set(ordered)):
        raise InputError(f"scene.split: no view is named {', '.join(unknown)}; it was left out or never was")
    test = sorted(split.test) if split.test else ordered[:: split.every]
    train = sorted(split.train) if split.train else [name for name in ordered if name not in test]
    if both := sorted(set(test) & set(train)):
        raise InputError(f"scene.split: {', '.join(both)} would both train and test")
    if len(train) < 2 or not test:
        raise InputError(f"scene.split: {len(train)} views train and {len(test)} test, of {len(ordered)}; need 2 and 1")
    return train, test


def depth_bounds(depths: Array, everything: Array) -> tuple[float, float]:
    """Near and far that keep a tenth of margin around the points' z-depths, but for one in a thousand at either end.

    Where fewer than ten of a view's own points lie in front of it, `everything` that does stands in for them.
    """
    for candidates in (depths, everything):
        if (candidates > 0).sum() >= 10:
            low, high = np.percentile(candidates[candidates > 0], (0.1, 99.9))
            return float(low * 0.9), float(high * 1.1)
    raise InputError("poses: a view has fewer than ten points in front of it; the reconstruction is broken")


def _estimated_views(model: pycolmap.Reconstruction, photos: Sequence[Photo], folder: Path, out: Path) -> list[View]:
    by_file = {photo.file: photo for photo in photos}
    xyz = {key: point.xyz for key, point in model.points3D.items()}
    everything = np.array(list(xyz.values()))
    views = []
    for image in sorted((model.image(key) for key in model.reg_image_ids()), key=lambda image: str(image.name)):
        photo = by_file[image.name]
        width, height = photo.width, photo.height
        lens = lens_of(image.camera)
        pose = np.eye(4)
        pose[:3] = image.cam_from_world().matrix()
        seen = np.array([xyz[point.point3D_id] for point in image.points2D if point.has_point3D()]).reshape(-1, 3)
        near, far = depth_bounds(seen @ pose[2, :3] + pose[2, 3], everything @ pose[2, :3] + pose[2, 3])
        straight = Camera(width, height, lens.focal, lens.focal, lens.cx, lens.cy, pose)
        view = View(photo.name, straight, photo.file, near, far, mask=photo.mask)
        views.append(_straightened(view, lens, folder, out))
    return sorted(views, key=lambda view: view.name)


def _straightened(view: View, lens: Lens, folder: Path, out: Path) -> View:
    """The view with its picture and mask as they stand, or resampled into `out` if the lens bends them visibly."""
    if lens.displacement() <= _STRAIGHT_ENOUGH:
        return _relocated(view, folder, out)
    camera = replace(lens.pinhole(), cam_from_world=view.camera.cam_from_world)
    (out / "images").mkdir(exist_ok=True)
    image = f"images/{view.name}.png"
    write_image(out / image, undistort(read_image(folder / view.image), lens, camera))
    mask = None
    if view.mask:
        (out / "masks").mkdir(exist_ok=True)
        mask = f"masks/{view.name}.png"
        write_image(out / mask, undistort(read_image(folder / view.mask), lens, camera))
    return replace(view, camera=camera, image=image, mask=mask)


def _relocated(view: View, folder: Path, out: Path) -> View:
    """The view with picture paths relative to `out` instead of `folder`."""
    prefix = Path(os.path.relpath(folder, out)).as_posix()
    return replace(view, image=f"{prefix}/{view.image}", mask=view.mask and f"{prefix}/{view.mask}")


def _points(model: pycolmap.Reconstruction) -> Points:
    """The model's points in the order of their numbers."""
    points: Mapping[int, pycolmap.Point3D] = model.points3D
    ordered = [points[key] for key in sorted(points)]
    return Points(
        np.array([point.xyz for point in ordered], np.float32).reshape(-1, 3),
        np.array([point.color for point in ordered], np.uint8).reshape(-1, 3),
        np.array([len({element.image_id for element in point.track.elements}) for point in ordered], np.int32),
    )
