"""Features of photos and their matches, in a database that pycolmap maps from.

Features are found and matched on all cores, one photo or pair a thread, so that their number changes nothing. Which
pairs are compared is decided here and in `loupe.pairs`, never by the order in which the photos were named.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import Field

from loupe.camera import Array
from loupe.config import Config
from loupe.pairs import Pair, all_pairs, most_alike, pairs_along_walk
from loupe.photos import Photo

if TYPE_CHECKING:
    import pycolmap

# A detector holds the scale space of a photo: half a GB at 1600 pixels. All together stay under 3 GB.
_MOST_DETECTORS = 4
_ALL_BUT_CHANCE = 0.95


class SfmConfig(Config):
    """Numbers of structure from motion.

    Attributes:
        features: SIFT features a photo, the strongest kept; a later rung takes three times as many.
        image_size: photos are reduced to this many pixels on the long side before features are looked for.
        exhaustive_up_to: match every pair of so many photos; of more, each with half as many that look most like it.
            A walk's frames are matched with those before and after, and so many, evenly apart, in every pair.
        registered: least share of the photos that a model must place.
        seed: of all random sampling.
    """

    features: int = Field(2500, ge=100)
    image_size: int = Field(1600, ge=200)
    exhaustive_up_to: int = Field(60, ge=2)
    registered: float = Field(0.6, gt=0, le=1)
    seed: int = 0


class Setting(NamedTuple):
    """How features are found and matched.

    Attributes:
        name: what the log calls it.
        suffix: what the names of its rungs end with.
        factor: times the configured number of features, and of photos that are matched exhaustively.
        max_ratio: of the distances to the best and the second best match; more lets more in, right and wrong.
    """

    name: str
    suffix: str
    factor: int
    max_ratio: float


USUAL = Setting("usual features", "", 1, 0.8)
MORE = Setting("3 x features", ", 3 x features", 3, 0.9)


class LensModel(NamedTuple):
    """Photos that share it share one camera. `params` in COLMAP's order, or empty: no idea."""

    model: str
    params: tuple[float, ...]
    body: str


class Matches(NamedTuple):
    """What became of the pairs of photos that were compared.

    Attributes:
        compared, matching: how many pairs were, and how many of them agree on a geometry.
        flat: how many of those a homography explains: a turn on the spot, or a flat thing alone.
        groups: the photos' files, grouped by what hangs together by matching pairs; the largest first.
    """

    compared: int
    matching: int
    flat: int
    groups: list[list[str]]

    def __str__(self) -> str:
        sizes = ", ".join(str(len(group)) for group in self.groups[:5]) + (", ..." if len(self.groups) > 5 else "")
        hang = "all photos hang together" if len(self.groups) == 1 else f"photos hang together in groups of {sizes}"
        return f"{self.matching} of {self.compared} pairs match, {self.flat} of them as if flat; {hang}"

    @property
    def is_flat(self) -> bool:
        """Whether homographies explain all of the pairs that match, or but for one in twenty."""
        return bool(self.matching) and self.flat >= _ALL_BUT_CHANCE * self.matching

    def numbers(self) -> dict[str, float]:
        """For the curves of a log, by name."""
        return {
            "pairs_compared": self.compared,
            "pairs_matching": self.matching,
            "pairs_flat": self.flat,
            "groups": len(self.groups),
        }


@contextmanager
def workspace() -> Iterator[Path]:
    """A folder for as long as pycolmap needs one; it speaks of errors only."""
    import pycolmap

    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.ERROR)
    with TemporaryDirectory(prefix="loupe-sfm-") as folder:
        yield Path(folder)


def own_lenses(photos: Sequence[Photo]) -> dict[LensModel, list[Photo]]:
    """One radial lens for all photos of one size, EXIF focal length and camera."""
    lenses: dict[LensModel, list[Photo]] = defaultdict(list)
    for photo in photos:
        params = () if photo.focal is None else (photo.focal, photo.width / 2, photo.height / 2, 0.0)
        lenses[LensModel("SIMPLE_RADIAL", params, f"{photo.camera} {photo.width}x{photo.height}")].append(photo)
    return lenses


def detect(
    database: Path,
    lenses: dict[LensModel, list[Photo]],
    photos: Sequence[Photo],
    folder: Path,
    config: SfmConfig,
    setting: Setting,
) -> None:
    """Make a database of the photos in `folder` with their features."""
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
    options.sift.max_num_features = config.features * setting.factor
    files = [photo.file for photo in photos]
    pycolmap.extract_features(database, folder, files, extraction_options=options, device=pycolmap.Device.cpu)


def match(database: Path, photos: Sequence[Photo], is_walk: bool, config: SfmConfig, setting: Setting) -> Matches:
    """Match the features of those photos that are worth comparing; `photos` of a walk are in its order."""
    import pycolmap

    with pycolmap.Database.open(database) as opened:
        numbers = {image.name: image.image_id for image in opened.read_all_images()}
    ordered = [numbers[photo.file] for photo in photos]
    pairs = _choose(database, ordered, is_walk, config, setting)
    listed = database.with_suffix(".pairs")
    listed.write_text("".join(f"{ordered[one]} {ordered[other]}\n" for one, other in pairs), encoding="utf8")
    options = pycolmap.FeatureMatchingOptions()
    options.sift.max_ratio = setting.max_ratio
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = config.seed
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = listed
    with _named_by_number(database):
        pycolmap.match_image_pairs(
            database, options, pairing, verification_options=verification, device=pycolmap.Device.cpu
        )
    return _summary(database, len(pairs))


def _choose(database: Path, ordered: Sequence[int], is_walk: bool, config: SfmConfig, setting: Setting) -> list[Pair]:
    most = config.exhaustive_up_to * setting.factor
    if is_walk:
        return pairs_along_walk(len(ordered), most)
    if len(ordered) <= most:
        return all_pairs(len(ordered))
    return most_alike(_descriptors(database, ordered), most // 2, config.seed)


def _descriptors(database: Path, ordered: Sequence[int]) -> list[Array]:
    import pycolmap

    with pycolmap.Database.open(database) as opened:
        return [np.asarray(opened.read_descriptors(number).data) for number in ordered]


@contextmanager
def _named_by_number(database: Path) -> Iterator[None]:
    """Photos bear their numbers for names meanwhile: pycolmap's list of pairs cannot hold names with spaces."""
    import pycolmap

    with pycolmap.Database.open(database) as opened:
        images = opened.read_all_images()
        names = {image.image_id: image.name for image in images}
        _rename(opened, images, {number: str(number) for number in names})
    yield
    with pycolmap.Database.open(database) as opened:
        _rename(opened, opened.read_all_images(), names)


def _rename(opened: pycolmap.Database, images: Sequence[pycolmap.Image], names: Mapping[int, str]) -> None:
    for image in images:
        image.name = names[image.image_id]
        opened.update_image(image)


def _summary(database: Path, compared: int) -> Matches:
    import pycolmap
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    kinds = pycolmap.TwoViewGeometryConfiguration
    with pycolmap.Database.open(database) as opened:
        names = {image.image_id: image.name for image in opened.read_all_images()}
        pairs, geometries = opened.read_two_view_geometries()
    matching = [
        (pycolmap.pair_id_to_image_pair(pair), geometry.config)
        for pair, geometry in zip(pairs, geometries, strict=True)
        if len(geometry.inlier_matches)
    ]
    flat = sum(kind in (kinds.PLANAR, kinds.PANORAMIC, kinds.PLANAR_OR_PANORAMIC) for _, kind in matching)
    places = {number: place for place, number in enumerate(sorted(names))}
    ends = np.array([[places[one], places[other]] for (one, other), _ in matching]).reshape(-1, 2).T
    links = coo_array((np.ones(ends.shape[1]), ends), shape=(len(names), len(names)))
    group_of = connected_components(links, directed=False)[1]
    groups: dict[int, list[str]] = defaultdict(list)
    for number, group in zip(sorted(names), group_of.tolist(), strict=True):
        groups[group].append(names[number])
    return Matches(compared, len(matching), flat, sorted(map(sorted, groups.values()), key=lambda g: (-len(g), g)))
