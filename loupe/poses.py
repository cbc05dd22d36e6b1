"""Ingested photos -> a scene: cameras estimated or given, pictures without distortion, bounds and the split."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from loupe.align import compare_cameras_of_one_world
from loupe.attempts import Attempt
from loupe.camera import Array, Camera
from loupe.config import Config
from loupe.errors import InputError
from loupe.images import read_image, write_image
from loupe.matching import SfmConfig
from loupe.photos import Photo, Shot
from loupe.scene import MaskUse, Points, Scene, View
from loupe.sfm import Record, Say, attempt_of, lens_of, reconstruct, refine, triangulate
from loupe.sources import LAYOUTS, recognise
from loupe.sources.given import Given
from loupe.split import SplitConfig, split_views
from loupe.undistort import Lens, undistort

if TYPE_CHECKING:
    import pycolmap

Level8 = Annotated[int, Field(ge=0, le=255)]

# Less distortion than this, in pixels, is not worth resampling a picture for.
_STRAIGHT_ENOUGH = 0.1
_LEAST_POINTS = 10
# Optical axes that differ by less than this many degrees, in the mean, meet nowhere in particular.
_LEAST_TURN = 5.0
# A camera on the edge of what all look at sees from here on, in radii of it.
_NEAREST = 0.05


class PosesConfig(SfmConfig):
    """Section `poses` of a capture: where cameras come from ("auto": the capture's layout, if it gives some; "sfm":
    estimated even if some are given; else the layout that gives them), and how. With `refine`, they are moved to where
    they fit the photos best, each held near where it was; lenses stay."""

    source: str = "auto"
    refine: bool = False

    @field_validator("source")
    @classmethod
    def _is_known(cls, source: str) -> str:
        known = ["auto", "sfm", *(name for name, layout in LAYOUTS.items() if layout.cameras)]
        if source not in known:
            raise ValueError(f"{source!r} gives no cameras; known here: {', '.join(known)}")
        return source


class SceneConfig(Config):
    """Section `scene` of a capture.

    Attributes:
        ratio: full-resolution pixels per low-resolution pixel.
        split: which views train and which test.
        masks: what the photos' masks mean; "auto": they cut where some photo is transparent itself, else what the
            capture's layout says.
        backdrop: RGB, 8 bits each, around what masks cut out; white as in the published scores.
    """

    ratio: int = Field(4, ge=1, le=16)
    split: SplitConfig = SplitConfig()
    masks: Literal["auto"] | MaskUse = "auto"
    backdrop: tuple[Level8, Level8, Level8] = (255, 255, 255)


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
    say: Say,
    record: Record,
) -> Estimate:
    """Pose the ingested photos and save the scene into `out`, which exists.

    Args:
        capture: the photos as taken; given cameras are looked for there.
        photos: the folder of the ingested photos, and its table.
        poses, scene: the capture's sections of these names.
        out: receives `scene.json`, `points.safetensors` and, if there was distortion to remove, `images/`.
        say: takes one line at a time about what happens.
        record: takes the numbers of each rung of the ladder, by its place from 1.

    Raises:
        InputError: given cameras are unusable, too few photos can be placed, or the split is.
    """
    folder, table = photos
    sealed = _is_sealed(table, scene.ratio)
    layout = recognise(capture)
    masks = mask_use(table, scene, LAYOUTS[layout].masks, say)
    name = layout if poses.source == "auto" else {"sfm": "photos"}.get(poses.source, poses.source)
    give_cameras = LAYOUTS[name].cameras
    if give_cameras is None:
        model, attempt = reconstruct(table, folder, LAYOUTS[layout].is_walk, poses, say, record)
        given = _estimated(model, table)
        source = f"pycolmap {attempt.rung}"
    else:
        _refuse_strangers(name, LAYOUTS[name].shots(capture), table)
        given = give_cameras(capture, table)
        first = min(one.photo.frame for one in given)
        model = triangulate([one for one in given if one.photo.frame == first], folder, poses)
        attempt = attempt_of("given", model)._replace(registered=len(given))
        say(str(attempt))
        source = name
    if poses.refine:
        model, given = _refined(model, given, poses, say)
        attempt = attempt._replace(error=model.compute_mean_reprojection_error())
    points = _points(model)
    everything = points.xyz.astype(np.float64)
    estimated = give_cameras is None
    bounds = _bounds_by_matches(given, model, everything) if estimated else _bounds_of_given(given, everything, say)
    views = [_view(one, near_and_far, folder, out) for one, near_and_far in zip(given, bounds, strict=True)]
    unplaced = sorted({photo.name for photo in table} - {view.name for view in views})
    if unplaced:
        say(f"{len(unplaced)} of {len(table)} photos not placed: {', '.join(unplaced)}")
    train, test = split_views(given, scene.split)
    made = Scene(out, views, points, train, test, scene.ratio, source, masks, scene.backdrop, sealed)
    made.save()
    return Estimate(made, unplaced, attempt)


def _is_sealed(photos: Sequence[Photo], ratio: int) -> bool:
    """Whether a reference is sealed; raises `InputError` where it is not that of the ratio."""
    seal = photos[0].seal
    if seal > 1 and seal != ratio:
        raise InputError(f"scene.ratio: {ratio}, but ingest.seal is {seal}; they must be the same")
    return seal > 1


def mask_use(photos: Sequence[Photo], config: SceneConfig, usual: MaskUse, say: Say) -> MaskUse:
    """What the masks mean; raises `InputError` where they are to be used and there are none."""
    without = [photo.name for photo in photos if not photo.mask]
    if config.masks == "auto":
        use: MaskUse = "cut" if any(photo.transparent for photo in photos) else usual
    else:
        use = config.masks
        if use != "carve" and len(without) == len(photos):
            raise InputError(f"scene.masks: {use}, but no photo has a mask; leave it at auto, or give masks")
    if use == "cut" and without:
        say(f"{len(without)} of {len(photos)} photos have no mask and count as covered whole: {', '.join(without[:5])}")
    return use


def depth_bounds(depths: Array, everything: Array) -> tuple[float, float] | None:
    """Near and far that keep a tenth of margin around the points' z-depths, but for one in a thousand at either end.

    Where fewer than ten of a view's own points lie in front of it, `everything` that does stands in for them; None
    where that is no more either.
    """
    for candidates in (depths, everything):
        if (candidates > 0).sum() >= _LEAST_POINTS:
            low, high = np.percentile(candidates[candidates > 0], (0.1, 99.9))
            return float(low * 0.9), float(high * 1.1)
    return None


def common_ball(poses: Sequence[Array]) -> tuple[Array, float]:
    """What cameras look at together: the centre (3,) and the radius of a ball.

    The centre is the point with the least sum of squared distances to the optical axes; the ball is the largest around
    it that holds no camera.

    Args:
        poses: cam_from_world (4, 4) each.

    Raises:
        InputError: the cameras look at no one place: nearly the same way all, or away from it.
    """
    stacked = np.stack(poses)
    forward = stacked[:, 2, :3]
    centers = -np.einsum("nij,ni->nj", stacked[:, :3, :3], stacked[:, :3, 3])
    across = np.eye(3) - forward[:, :, None] * forward[:, None]  # what of a vector is not along the axis
    if np.linalg.eigvalsh(across.mean(0))[0] < np.sin(np.radians(_LEAST_TURN)) ** 2:
        raise InputError(f"all cameras look the same way, within {_LEAST_TURN:g} degrees")
    center = np.linalg.solve(across.sum(0), np.einsum("nij,nj->i", across, centers))
    if (np.einsum("nj,nj->n", forward, center - centers) <= 0).any():
        raise InputError("the point nearest to all optical axes lies behind a camera")
    return center, float(np.linalg.norm(center - centers, axis=1).min())


def _estimated(model: pycolmap.Reconstruction, photos: Sequence[Photo]) -> list[Given]:
    by_file = {photo.file: photo for photo in photos}
    images = (model.image(key) for key in model.reg_image_ids())
    given = [Given(by_file[image.name], lens_of(image.camera), _pose(image)) for image in images]
    return sorted(given, key=lambda one: one.photo.name)


def _pose(image: pycolmap.Image) -> Array:
    pose = np.eye(4)
    pose[:3] = image.cam_from_world().matrix()
    return pose


def _refined(
    model: pycolmap.Reconstruction, given: Sequence[Given], config: SfmConfig, say: Callable[[str], None]
) -> tuple[pycolmap.Reconstruction, list[Given]]:
    """The model and the cameras after refinement, or as they were if that fits the photos no better."""
    refined = refine(model, config)
    before, after = model.compute_mean_reprojection_error(), refined.compute_mean_reprojection_error()
    if not after < before:
        say(f"refined: error {before:.3f} px would become {after:.3f} px; the cameras stay")
        return model, list(given)
    corrected = _corrected(given, {image.name: _pose(image) for image in refined.images.values()})
    moved = compare_cameras_of_one_world(_cameras(corrected), _cameras(given))
    say(
        f"refined: error {before:.3f} px became {after:.3f} px; cameras turned by up to {moved.degrees.max():.3f}"
        f" degrees and moved by up to {moved.distance.max():.2%} of the largest distance from their mean"
    )
    return refined, corrected


def _corrected(given: Sequence[Given], poses: Mapping[str, Array]) -> list[Given]:
    """The cameras with new poses, which are known by file and for the first frame alone: a camera that films goes on as
    that was corrected."""
    corrections = {
        one.photo.camera_id: poses[one.photo.file] @ np.linalg.inv(one.cam_from_world)
        for one in given
        if one.photo.file in poses
    }
    corrected = []
    for one in given:
        later = corrections.get(one.photo.camera_id, np.eye(4)) @ one.cam_from_world
        corrected.append(one._replace(cam_from_world=poses.get(one.photo.file, later)))
    return corrected


def _cameras(given: Sequence[Given]) -> list[Camera]:
    return [one.lens.camera(one.cam_from_world) for one in given]


def _refuse_strangers(layout: str, shots: Sequence[Shot], photos: Sequence[Photo]) -> None:
    if strangers := sorted({photo.name for photo in photos} - {shot.name for shot in shots}):
        raise InputError(
            f"poses.source: the capture as {layout} has no photo {strangers[0]}; leave it at auto, or ingest anew"
        )


def _bounds_by_matches(
    given: Sequence[Given], model: pycolmap.Reconstruction, everything: Array
) -> list[tuple[float, float] | None]:
    """Each view's bounds by the model's points that it shows for certain."""
    return [
        depth_bounds(_depths(one.cam_from_world, _seen(model, one)), _depths(one.cam_from_world, everything))
        for one in given
    ]


def _bounds_of_given(
    given: Sequence[Given], everything: Array, say: Callable[[str], None]
) -> list[tuple[float, float] | None]:
    """Each view's bounds as given, or by all points that lie in its picture, or by what the cameras look at together.

    What a view matches with others is no measure here: of cameras far apart it may be the far wall alone, and a later
    frame is not in the model at all.
    """
    bounds = [
        one.bounds or depth_bounds(_depths_in_picture(one, everything), _depths(one.cam_from_world, everything))
        for one in given
    ]
    return bounds if all(bounds) else _with_the_ball(given, bounds, say)


def _depths_in_picture(one: Given, points: Array) -> Array:
    """The z-depths of the points that a pinhole in the lens's place would show."""
    pixels, depths = one.lens.camera(one.cam_from_world).project(points)
    return np.asarray(depths[((pixels >= 0) & (pixels <= [one.lens.width, one.lens.height])).all(1)])


def _with_the_ball(
    given: Sequence[Given], bounds: Sequence[tuple[float, float] | None], say: Callable[[str], None]
) -> list[tuple[float, float] | None]:
    """The bounds, and for a view that has none those of the ball that all cameras look at together."""
    try:
        center, radius = common_ball([one.cam_from_world for one in given])
    except InputError as error:
        say(f"no bounds from what the cameras look at together: {error}")
        return list(bounds)
    lacking = sum(found is None for found in bounds)
    place = ", ".join(f"{value:.3g}" for value in center)
    say(
        f"{lacking} of {len(given)} views have under {_LEAST_POINTS} points in front of them and no bounds: taken from"
        f" what all cameras look at, a ball of radius {radius:.3g} around ({place})"
    )
    depths = [float(_depths(one.cam_from_world, center)) for one in given]
    around = [(max(depth - radius, _NEAREST * radius), depth + radius) for depth in depths]
    return [found or ball for found, ball in zip(bounds, around, strict=True)]


def _seen(model: pycolmap.Reconstruction, one: Given) -> Array:
    """The model's points that the photo shows, (n, 3)."""
    image = model.find_image_with_name(one.photo.file)
    points = image.points2D if image else []
    return np.array([model.point3D(at.point3D_id).xyz for at in points if at.has_point3D()]).reshape(-1, 3)


def _view(one: Given, bounds: tuple[float, float] | None, folder: Path, out: Path) -> View:
    """The view with its picture and mask as they stand, or resampled into `out` if the lens bends them visibly."""
    photo, lens, pose = one.photo, one.lens, one.cam_from_world
    if bounds is None:
        raise InputError(
            f"photo {photo.name}: poses: fewer than {_LEAST_POINTS} points in front of it; the cameras are wrong,"
            " or the photos show too little"
        )
    try:
        near, far = bounds
        straight = lens.camera(pose)
        plain = View(photo.name, straight, photo.file, near, far, photo.camera_id, photo.frame, photo.mask)
        bent = _bend(lens)
    except InputError as error:
        raise InputError(f"photo {photo.name}: {error}") from None
    if bent <= _STRAIGHT_ENOUGH:
        return _relocated(plain, folder, out)
    camera = replace(lens.pinhole(), cam_from_world=pose)
    (out / "images").mkdir(exist_ok=True)
    image = f"images/{photo.name}.png"
    write_image(out / image, undistort(read_image(folder / photo.file), lens, camera))
    mask = None
    if photo.mask:
        (out / "masks").mkdir(exist_ok=True)
        mask = f"masks/{photo.name}.png"
        write_image(out / mask, undistort(read_image(folder / photo.mask), lens, camera))
    return replace(plain, camera=camera, image=image, mask=mask, lens=tuple(lens))


@cache
def _bend(lens: Lens) -> float:
    """How far it moves a point at most, in pixels; a film's frames share a lens."""
    return lens.displacement()


def _depths(pose: Array, points: Array) -> Array:
    return np.asarray(points @ pose[2, :3] + pose[2, 3])


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
