"""Structure from motion by pycolmap: photos -> cameras and sparse points, up a ladder of attempts until one holds.

Features are found and matched on all cores, one photo or pair a thread, so that their number changes nothing; mapping
runs on one thread, where sums have one order. With the seeds fixed, the same photos give the same bytes.
"""

from __future__ import annotations

import copy
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import Field

from loupe.align import fit_similarity
from loupe.camera import Array
from loupe.config import Config
from loupe.errors import InputError
from loupe.photos import MIN_PHOTOS, Photo
from loupe.sources.given import Given
from loupe.undistort import Lens

if TYPE_CHECKING:
    import pycolmap

# A detector holds the scale space of a photo: half a GB at 1600 pixels. All together stay under 3 GB.
_MOST_DETECTORS = 4
# Half the points must be seen from directions that differ by so many degrees.
_LEAST_PARALLAX = 4.0
# A model whose points miss their pixels by more than so many in the mean shows something else than the photos.
_LARGEST_ERROR = 4.0
# Distortion of up to so many pixels is given up if the mean reprojection error grows by no more than so many.
_MOST_CHANCE, _AS_WELL = 1.0, 0.01
# Refinement takes positions to be right within this share of the largest distance from their mean.
_TRUST = 0.01


class SfmConfig(Config):
    """Numbers of structure from motion.

    Attributes:
        features: SIFT features a photo, the strongest kept; a later rung takes three times as many.
        image_size: photos are reduced to this many pixels on the long side before features are looked for.
        exhaustive_up_to: match every pair of so many photos; of more, photos near each other in name order.
        registered: least share of the photos that a model must place.
        seed: of all random sampling.
    """

    features: int = Field(2500, ge=100)
    image_size: int = Field(1600, ge=200)
    exhaustive_up_to: int = Field(60, ge=2)
    registered: float = Field(0.6, gt=0, le=1)
    seed: int = 0


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


class Attempt(NamedTuple):
    """What a rung came to: photos `registered`, `points`, mean reprojection `error` in pixels of the photos."""

    rung: str
    registered: int
    points: int
    error: float

    def __str__(self) -> str:
        return f"{self.rung}: {self.registered} registered, {self.points} points, error {self.error:.2f} px"


def reconstruct(
    photos: Sequence[Photo], folder: Path, config: SfmConfig, say: Callable[[str], None]
) -> tuple[pycolmap.Reconstruction, Attempt]:
    """The model that places the most of the photos in `folder`.

    With the usual number of features, mappings are tried in turn until one places every photo; with three times as many
    features and looser matching only if none placed enough.

    Raises:
        InputError: still too few are placed; the message holds what each attempt came to.
    """
    attempts: list[Attempt] = []
    with _workspace() as work:
        for factor, max_ratio in ((1, 0.8), (3, 0.9)):
            database = work / f"{factor}.db"
            _detect(database, _own_lenses(photos), photos, folder, config, factor)
            _match(database, len(photos) <= config.exhaustive_up_to * factor, max_ratio, config)
            best: tuple[pycolmap.Reconstruction, Attempt] | None = None
            for route in ROUTES:
                name = route.name if factor == 1 else f"{route.name}, {factor} x features"
                model = _map(database, folder, work, route, config)
                attempts.append(_attempt(name, model))
                say(str(attempts[-1]))
                if model is not None and (best is None or attempts[-1].registered > best[1].registered):
                    best = model, attempts[-1]
                if attempts[-1].registered == len(photos):
                    break
            if best is not None and best[1].registered >= config.registered * len(photos):
                return _without_idle_distortion(best[0]), best[1]
    raise InputError(
        f"under {config.registered:.0%} of {len(photos)} photos could be placed ({'; '.join(map(str, attempts))}): "
        "take photos that overlap by two thirds from different positions, or give cameras"
    )


def triangulate(given: Sequence[Given], folder: Path, config: SfmConfig) -> pycolmap.Reconstruction:
    """A model with the given cameras, and the points that their photos in `folder` show from them."""
    import pycolmap

    with _workspace() as work:
        database = work / "given.db"
        lenses: dict[_Lens, list[Photo]] = defaultdict(list)
        for photo, lens, *_ in given:
            # COLMAP's order: fx, fy, cx, cy, k1, k2, p1, p2, k3, and three more that a `Lens` has not.
            params = (*lens[2:8], lens.p1, lens.p2, lens.k3, 0.0, 0.0, 0.0)
            lenses[_Lens("FULL_OPENCV", params, "")].append(photo)
        photos = [photo for photo, *_ in given]
        _detect(database, lenses, photos, folder, config, 1)
        _match(database, len(photos) <= config.exhaustive_up_to, 0.8, config)
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


class _Lens(NamedTuple):
    """Photos that share it share one camera. `params` in COLMAP's order, or empty: no idea."""

    model: str
    params: tuple[float, ...]
    body: str


@contextmanager
def _workspace() -> Iterator[Path]:
    import pycolmap

    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.ERROR)
    with TemporaryDirectory(prefix="loupe-sfm-") as folder:
        yield Path(folder)


def _own_lenses(photos: Sequence[Photo]) -> dict[_Lens, list[Photo]]:
    """One radial lens for all photos of one size, EXIF focal length and camera."""
    lenses: dict[_Lens, list[Photo]] = defaultdict(list)
    for photo in photos:
        params = () if photo.focal is None else (photo.focal, photo.width / 2, photo.height / 2, 0.0)
        lenses[_Lens("SIMPLE_RADIAL", params, f"{photo.camera} {photo.width}x{photo.height}")].append(photo)
    return lenses


def _detect(
    database: Path,
    lenses: dict[_Lens, list[Photo]],
    photos: Sequence[Photo],
    folder: Path,
    config: SfmConfig,
    factor: int,
) -> None:
    """A database of the photos with their features."""
    import pycolmap

    pycolmap.Database.open(database).close()
    for lens, group in lenses.items():
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = lens.model
        reader.camera_params = ",".join(map(repr, lens.params))
        names = [photo.file for photo in group]
        pycolmap.import_images(database, folder, pycolmap.CameraMode.SINGLE, names, reader)
    options = pycolmap.FeatureExtractionOptions()
    options.max_image_size = config.image_size
    options.num_threads = min(_MOST_DETECTORS, os.cpu_count() or 1)
    options.sift.max_num_features = config.features * factor
    files = [photo.file for photo in photos]
    pycolmap.extract_features(database, folder, files, extraction_options=options, device=pycolmap.Device.cpu)


def _match(database: Path, exhaustive: bool, max_ratio: float, config: SfmConfig) -> None:
    import pycolmap

    options = pycolmap.FeatureMatchingOptions()
    options.sift.max_ratio = max_ratio
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = config.seed
    match = pycolmap.match_exhaustive if exhaustive else pycolmap.match_sequential
    match(database, options, verification_options=verification, device=pycolmap.Device.cpu)


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


def _map(database: Path, folder: Path, work: Path, route: Route, config: SfmConfig) -> pycolmap.Reconstruction | None:
    """The largest model of a mapping, or None."""
    import pycolmap

    pycolmap.set_random_seed(config.seed)
    if route.everything_at_once:
        options = pycolmap.GlobalPipelineOptions()
        options.num_threads = 1
        options.random_seed = config.seed
        models = pycolmap.global_mapping(database, folder, work, options)
    else:
        models = pycolmap.incremental_mapping(database, folder, work, _incremental_options(config, route.loose))
    sound = [model for model in models.values() if _has_parallax(model) and _fits(model)]
    return max(sound, key=lambda model: (model.num_reg_images(), model.num_points3D()), default=None)


def _has_parallax(model: pycolmap.Reconstruction) -> bool:
    """Whether points are seen from clearly different directions: a turn on the spot fits any depth, and with a wrong
    lens the global mapper finds a few degrees even there."""
    if model.num_reg_images() < MIN_PHOTOS or model.num_points3D() < 10:
        return False
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
    return bool(model.compute_mean_reprojection_error() < _LARGEST_ERROR)


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


def _attempt(name: str, model: pycolmap.Reconstruction | None) -> Attempt:
    if model is None:
        return Attempt(name, 0, 0, float("nan"))
    return Attempt(name, model.num_reg_images(), model.num_points3D(), model.compute_mean_reprojection_error())


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
