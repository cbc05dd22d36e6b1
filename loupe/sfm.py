"""Structure from motion by pycolmap: photos -> cameras and sparse points, up a ladder of attempts until one holds.

Features and matches come from `loupe.matching`; mapping runs on one thread, where sums have one order. With the seeds
fixed, the same photos give the same bytes.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from loupe.align import fit_similarity
from loupe.attempts import LARGEST_ERROR, Attempt, what_to_try
from loupe.camera import Array
from loupe.errors import InputError
from loupe.matching import MORE, USUAL, LensModel, Matches, Setting, SfmConfig, detect, match, own_lenses, workspace
from loupe.photos import MIN_PHOTOS, Photo
from loupe.sources.given import Given
from loupe.undistort import Lens

if TYPE_CHECKING:
    import pycolmap

# Half the points must be seen from directions that differ by so many degrees.
_LEAST_PARALLAX = 4.0
_LEAST_POINTS = 10
# Distortion of up to so many pixels is given up if the mean reprojection error grows by no more than so many.
_MOST_CHANCE, _AS_WELL = 1.0, 0.01
# Refinement takes positions to be right within this share of the largest distance from their mean.
_TRUST = 0.01


class Route(NamedTuple):
    """A way from matches to a model. `loose` accepts a photo on half the evidence."""

    name: str
    loose: bool
    everything_at_once: bool


ROUTES = (
    Route("incremental", False, False),
    Route("incremental, loose", True, False),
    Route("global", False, True),
)


Say = Callable[[str], None]
Record = Callable[[int, Mapping[str, float]], None]


def reconstruct(
    photos: Sequence[Photo], folder: Path, is_walk: bool, config: SfmConfig, say: Say, record: Record
) -> tuple[pycolmap.Reconstruction, Attempt]:
    """The model that places the most of the photos in `folder`, which stand in order if they are a walk's.

    With the usual setting, mappings are tried in turn until one places every photo; with three times as many features
    and looser matching only if none placed enough, since that may place photos of something else. `say` and `record`
    take what each rung came to.

    Raises:
        InputError: still too few are placed; the message holds what each attempt came to, and what to try.
    """
    enough = config.registered * len(photos)
    attempts: list[Attempt] = []
    best: tuple[pycolmap.Reconstruction, Attempt] | None = None
    with workspace() as work:
        for setting in (USUAL, MORE):
            for attempt, models, matches in _rungs(photos, (folder, work), is_walk, config, setting, say):
                attempts.append(attempt)
                say(str(attempt))
                record(len(attempts), attempt.numbers() | matches.numbers())
                if models.sound and (best is None or attempt.registered > best[1].registered):
                    best = models.sound[0], attempt
                if attempt.registered == len(photos):
                    break
            if best is not None and best[1].registered >= enough:
                return _without_idle_distortion(best[0]), best[1]
    raise InputError(
        f"under {config.registered:.0%} of {len(photos)} photos could be placed ({'; '.join(map(str, attempts))}; "
        f"{matches}): {what_to_try(attempts, matches, enough)}"
    )


def _rungs(
    photos: Sequence[Photo],
    folders: tuple[Path, Path],
    is_walk: bool,
    config: SfmConfig,
    setting: Setting,
    say: Say,
) -> Iterator[tuple[Attempt, _Models, Matches]]:
    """What each route makes of the matches of one setting; `folders` are that of the photos and one to work in."""
    started = monotonic()
    folder, work = folders
    database = work / f"{setting.factor}.db"
    detect(database, own_lenses(photos), photos, folder, config, setting)
    matches = match(database, photos, is_walk, config, setting)
    say(f"{setting.name}: {matches}")
    # A video's frames are so close that homographies explain most pairs of a true walk, too.
    ambiguous = not is_walk and matches.is_flat and all(photo.focal is None for photo in photos)
    for route in ROUTES:
        models = _judge(_map(database, folder, work, route, config), ambiguous)
        yield _attempt(f"{route.name}{setting.suffix}", models, monotonic() - started), models, matches
        started = monotonic()


def triangulate(given: Sequence[Given], folder: Path, config: SfmConfig) -> pycolmap.Reconstruction:
    """A model with the given cameras, and the points that their photos in `folder` show from them."""
    import pycolmap

    with workspace() as work:
        database = work / "given.db"
        lenses: dict[LensModel, list[Photo]] = defaultdict(list)
        for photo, lens, *_ in given:
            # COLMAP's order: fx, fy, cx, cy, k1, k2, p1, p2, k3, and three more that a `Lens` has not.
            params = (*lens[2:8], lens.p1, lens.p2, lens.k3, 0.0, 0.0, 0.0)
            lenses[LensModel("FULL_OPENCV", params, "")].append(photo)
        photos = [photo for photo, *_ in given]
        detect(database, lenses, photos, folder, config, USUAL)
        match(database, photos, False, config, USUAL)
        options = _incremental_options(config, loose=False)
        posed = _posed_model(database, {one.photo.file: one.cam_from_world for one in given})
        return pycolmap.triangulate_points(posed, database, folder, work, options=options)


def refine(model: pycolmap.Reconstruction, config: SfmConfig) -> pycolmap.Reconstruction:
    """The model with cameras and points moved to where they fit the photos best, in the same world; lenses stay."""
    import pycolmap

    refined = copy.deepcopy(model)
    if not model.num_points3D():
        return refined
    options, extent = _adjustment(refined)
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1  # a wrong match weighs little
    for camera in refined.cameras:
        extent.set_constant_cam_intrinsics(camera)
    prior_options = pycolmap.PosePriorBundleAdjustmentOptions()
    prior_options.alignment_ransac.random_seed = config.seed
    priors = _position_priors(model)
    pycolmap.create_pose_prior_bundle_adjuster(options, prior_options, extent, priors, refined).solve()
    points = np.array([point.xyz for point in model.points3D.values()])
    reach = float(np.median(np.linalg.norm(_centers(model) - np.median(points, axis=0), axis=1)))
    back = fit_similarity(_tips(refined, reach), _tips(model, reach))
    refined.transform(pycolmap.Sim3d(back.scale, pycolmap.Rotation3d(back.rotation), back.translation))
    refined.update_point_3d_errors()
    return refined


def _position_priors(model: pycolmap.Reconstruction) -> list[pycolmap.PosePrior]:
    """That the model's cameras are near where they stand."""
    import pycolmap

    centers = _centers(model)
    doubt = _TRUST * np.linalg.norm(centers - centers.mean(0), axis=1).max()
    return [
        pycolmap.PosePrior(
            corr_data_id=image.data_id,
            position=center,
            position_covariance=doubt**2 * np.eye(3),
            coordinate_system=pycolmap.PosePriorCoordinateSystem.CARTESIAN,
        )
        for image, center in zip(_placed(model), centers, strict=True)
    ]


def _placed(model: pycolmap.Reconstruction) -> list[pycolmap.Image]:
    return [model.image(key) for key in sorted(model.reg_image_ids())]


def _centers(model: pycolmap.Reconstruction) -> Array:
    return np.array([image.projection_center() for image in _placed(model)])


def _tips(model: pycolmap.Reconstruction, reach: float) -> Array:
    """Where the axes of the model's cameras end, to either side, when so long: (6 n, 3).

    They say how the world is turned by orientations as well as positions. Positions alone say it badly where cameras
    stand close together, and not at all where they stand in a row.
    """
    axes = np.array([image.cam_from_world().rotation.matrix() for image in _placed(model)])
    return np.asarray(_centers(model)[:, None] + reach * np.concatenate([axes, -axes], axis=1)).reshape(-1, 3)


def _incremental_options(config: SfmConfig, loose: bool) -> pycolmap.IncrementalPipelineOptions:
    import pycolmap

    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = 1
    options.random_seed = config.seed
    options.min_model_size = MIN_PHOTOS
    if loose:
        options.mapper.init_min_tri_angle = 8
        options.mapper.abs_pose_min_num_inliers = 15
        options.mapper.abs_pose_min_inlier_ratio = 0.15
    return options


class _Models(NamedTuple):
    """What a mapping made: the models that are `sound`, the largest first, and the others by what is wrong."""

    sound: list[pycolmap.Reconstruction]
    flat: list[pycolmap.Reconstruction]
    misfit: list[pycolmap.Reconstruction]


def _map(database: Path, folder: Path, work: Path, route: Route, config: SfmConfig) -> list[pycolmap.Reconstruction]:
    import pycolmap

    pycolmap.set_random_seed(config.seed)
    if route.everything_at_once:
        options = pycolmap.GlobalPipelineOptions()
        options.num_threads = 1
        options.random_seed = config.seed
        return list(pycolmap.global_mapping(database, folder, work, options).values())
    options = _incremental_options(config, route.loose)
    return list(pycolmap.incremental_mapping(database, folder, work, options).values())


def _judge(models: Iterable[pycolmap.Reconstruction], ambiguous: bool) -> _Models:
    """Tell models apart. Where homographies explain all photos of an unknown lens, a turn on the spot also fits a wrong
    lens that moves before a plane, with parallax and hardly an error: no model of such photos counts."""
    judged = _Models([], [], [])
    for model in sorted(models, key=lambda model: (model.num_reg_images(), model.num_points3D()), reverse=True):
        if model.num_reg_images() < MIN_PHOTOS or model.num_points3D() < _LEAST_POINTS:
            continue
        if ambiguous or not _has_parallax(model):
            judged.flat.append(model)
        elif not _fits(model):
            judged.misfit.append(model)
        else:
            judged.sound.append(model)
    return judged


def _has_parallax(model: pycolmap.Reconstruction) -> bool:
    """Whether points are seen from clearly different directions: a turn on the spot fits any depth, and with a wrong
    lens the global mapper finds a few degrees even there."""
    centers = {key: model.image(key).projection_center() for key in model.reg_image_ids()}
    widest = []
    for point in model.points3D.values():
        towards = np.array([centers[element.image_id] for element in point.track.elements]) - point.xyz
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        widest.append((towards @ towards.T).min())
    return bool(np.median(widest) < np.cos(np.radians(_LEAST_PARALLAX)))


def _fits(model: pycolmap.Reconstruction) -> bool:
    """Whether the points lie where the photos show them: the incremental mapper drops those that do not, the global one
    by an angle, which may be many pixels of a long lens."""
    return bool(model.compute_mean_reprojection_error() < LARGEST_ERROR)


def _without_idle_distortion(model: pycolmap.Reconstruction) -> pycolmap.Reconstruction:
    """The model refined with straight lenses, if the photos fit those as well: bending by less than a pixel is mostly
    chance, and would cost a resampling of every photo."""
    import pycolmap

    lenses = [lens_of(camera) for camera in model.cameras.values()]
    if any(lens.displacement() > _MOST_CHANCE for lens in lenses):
        return model
    straight = copy.deepcopy(model)
    for camera in straight.cameras.values():
        camera.params = [*camera.params[:3], 0.0]
    options, extent = _adjustment(straight)
    options.refine_extra_params = False
    extent.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    pycolmap.create_default_bundle_adjuster(options, extent, straight).solve()
    straight.update_point_3d_errors()
    growth = straight.compute_mean_reprojection_error() - model.compute_mean_reprojection_error()
    return straight if growth <= _AS_WELL else model


def _adjustment(
    model: pycolmap.Reconstruction,
) -> tuple[pycolmap.BundleAdjustmentOptions, pycolmap.BundleAdjustmentConfig]:
    """A silent adjustment of all of the model's photos on one thread."""
    import pycolmap

    options = pycolmap.BundleAdjustmentOptions()
    options.ceres.solver_options.num_threads = 1
    options.print_summary = False
    extent = pycolmap.BundleAdjustmentConfig()
    for image in model.reg_image_ids():
        extent.add_image(image)
    return options, extent


def lens_of(camera: pycolmap.Camera) -> Lens:
    """The lens of a SIMPLE_RADIAL camera."""
    focal, cx, cy, k1 = map(float, camera.params)
    return Lens(camera.width, camera.height, focal, focal, cx, cy, k1)


def _attempt(name: str, models: _Models, seconds: float) -> Attempt:
    """What came of a mapping, by its largest sound model."""
    sizes = [[model.num_reg_images() for model in kind] for kind in models]
    flat, misfit = (max(kind, default=0) for kind in sizes[1:])
    if not models.sound:
        return Attempt(name, 0, 0, 0.0, math.nan, seconds, (), flat, misfit)
    best = models.sound[0]
    return attempt_of(name, best)._replace(seconds=seconds, others=tuple(sizes[0][1:]), flat=flat, misfit=misfit)


def attempt_of(name: str, model: pycolmap.Reconstruction) -> Attempt:
    """What a model came to, which may be without points."""
    length = model.compute_mean_track_length() if model.num_points3D() else 0.0
    return Attempt(name, model.num_reg_images(), model.num_points3D(), length, model.compute_mean_reprojection_error())


def _posed_model(database: Path, poses: dict[str, Array]) -> pycolmap.Reconstruction:
    """The database's photos at the given poses (cam_from_world), by file, without points."""
    import pycolmap

    model = pycolmap.Reconstruction()
    with pycolmap.Database.open(database) as opened:
        for camera in opened.read_all_cameras():
            model.add_camera_with_trivial_rig(camera)
        for image in opened.read_all_images():
            pose = pycolmap.Rigid3d(poses[image.name][:3])
            bare = pycolmap.Image(name=image.name, camera_id=image.camera_id, image_id=image.image_id)
            model.add_image_with_trivial_frame(bare, pose)
    return model
