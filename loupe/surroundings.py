"""What stands still around a subject: surfaces found by comparing clean plates, and how bright each plate is.

The surfaces are points with one side each, that from which they were found: a room whose walls the cameras stand at, or
behind, is looked into from outside. Plates differ in exposure and white balance, for each channel by a factor, its
*gain*: those that best explain what several plates show at the same points.

`Surroundings.save` writes `surface.ply`, `plates.json` and the folder `plates` with their pixels as tiles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from loupe.camera import Array, Camera
from loupe.cloud import Cloud
from loupe.depth_maps import Map, Mask, points_of, whole_depths
from loupe.errors import InputError
from loupe.images import WHOLE, Pixels
from loupe.occupancy import CarveConfig, working_picture
from loupe.plates import cut_plates, stands
from loupe.scene import Scene, evenly
from loupe.sweep import choose_neighbours, found_at, sweep_views
from loupe.tiles import Tiles

SURROUNDINGS = "surroundings"
"""The folder's name, among the products of the carving."""

_NORMALS = ("nx", "ny", "nz")
_CELL = 2.0  # pixels of the swept pictures, at the median depth: the side of the cells that points are merged in
_FEWEST = 3  # points in a cell, less is noise
_MARGIN = 2  # pixels that a plate's unknown part is grown by
_DARK, _BRIGHT = 10, 245  # levels beyond which a pixel says nothing of its exposure
_SAME_DEPTH = 0.02  # of the depth: nearer together than that, two surfaces are one
_SHARED = 50  # points that two plates must show both, to be compared


class Surroundings(NamedTuple):
    """Points in the world and their unit `normals` (n, 3); the distance `spacing` between neighbours, and the distance
    `nearest` that any was seen from; the `gains` (3,) of each plate by its name; and the pixels of the plates."""

    cloud: Cloud
    normals: NDArray[np.float32]
    spacing: float
    nearest: float
    gains: Mapping[str, Array]
    plates: Tiles

    def save(self, folder: Path) -> None:
        """Write all but the plates' pixels into `folder`, which exists."""
        self.cloud.save(folder / "surface.ply", **dict(zip(_NORMALS, self.normals.T, strict=True)))
        gains = {name: gain.tolist() for name, gain in self.gains.items()}
        content = {"format": 1, "spacing": self.spacing, "nearest": self.nearest, "gains": gains}
        (folder / "plates.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")

    @classmethod
    def load(cls, folder: Path) -> Surroundings:
        """Read what `find_surroundings` and `save` wrote; raises `InputError` if it is missing or damaged."""
        path = folder / "plates.json"
        cloud, normals = Cloud.load_with(folder / "surface.ply", _NORMALS)
        try:
            content = json.loads(path.read_text(encoding="utf8"))
            gains = {str(name): np.array(gain, np.float64).reshape(3) for name, gain in content["gains"].items()}
            lengths = float(content["spacing"]), float(content["nearest"])
            return cls(cloud, normals, *lengths, gains, Tiles(folder / "plates"))
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: not a table of plates ({error!r}); run carve_space again") from None


def find_surroundings(scene: Scene, tiles: Tiles, config: CarveConfig, folder: Path) -> Surroundings | None:
    """What the clean plates of a scene's stands show; their pixels are cut into `folder`.

    None where they have no surface in common.
    """
    groups = {group[0]: group for group in stands(scene)}
    names = evenly(list(groups), config.views)
    (folder / "plates").mkdir(parents=True, exist_ok=True)
    plates = cut_plates(scene, tiles, [groups[name] for name in names], folder / "plates")
    views = [Swept.of(scene, plates, name, config.picture) for name in names]
    # What stands around a subject is as far away as the far side of it, or farther.
    neighbours = choose_neighbours([view.camera for view in views], [scene.view(name).far for name in names])
    sweeps = sweep_views(
        [view.picture for view in views],
        [view.camera for view in views],
        neighbours,
        [scene.view(name).near for name in names],
        config.slack,
    )
    maps = whole_depths(sweeps, [view.known for view in views], neighbours)
    surface = _merged(views, maps)
    if surface is None:
        return None
    shown = [_shown(view, depths, surface[0].xyz) for view, depths in zip(views, maps, strict=True)]
    gains = dict(zip(names, gains_of(shown), strict=True))
    nearest = 1 / max(float(depths.max()) for depths in maps)
    return Surroundings(*surface, nearest, gains, plates)


class Swept(NamedTuple):
    """A plate as it is compared: `picture` (h, w, 3), where it is `known` (h, w), and the camera at that size."""

    picture: Pixels
    known: Mask
    camera: Camera

    @classmethod
    def of(cls, scene: Scene, plates: Tiles, name: str, longest: int) -> Swept:
        """At most so large."""
        picture = working_picture(plates.image(name, "low"), longest)
        height, width = picture.shape[:2]
        mask = plates.mask(name, "low")
        assert mask is not None
        small = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
        known = cv2.erode(small, np.ones((2 * _MARGIN + 1,) * 2, np.uint8)) >= WHOLE
        return cls(picture, known, scene.camera(name, "low").resized(width, height))


def _merged(views: Sequence[Swept], maps: Sequence[Map]) -> tuple[Cloud, NDArray[np.float32], float] | None:
    """The points of all maps, those of a cell of space as one, with their normals and the cells' side."""
    parts = [_sided(view, depths) for view, depths in zip(views, maps, strict=True)]
    points, normals, colours = (np.concatenate(part) for part in zip(*parts, strict=True))
    if not len(points):
        return None
    pixel = np.median(np.concatenate([1 / (m[m > 0] * view.camera.fx) for view, m in zip(views, maps, strict=True)]))
    cell = _CELL * float(pixel)
    _, group, members = np.unique(np.floor(points / cell), axis=0, return_inverse=True, return_counts=True)
    sums = [np.bincount(group.ravel(), column) for column in np.hstack([points, colours, normals]).T]
    kept = members >= _FEWEST
    means = (np.stack(sums, 1) / members[:, None])[kept]
    if not len(means):
        return None
    towards = means[:, 6:] / np.maximum(np.linalg.norm(means[:, 6:], axis=1, keepdims=True), 1e-9)
    cloud = Cloud(means[:, :3].astype(np.float32), np.rint(means[:, 3:6]).astype(np.uint8))
    return cloud, towards.astype(np.float32), cell


def _sided(view: Swept, depths: Map) -> tuple[Array, Array, Array]:
    """The points (n, 3) of a map, their unit normals on the view's side, and their colours."""
    places = points_of(view.camera, np.where(depths > 0, depths, 1.0))
    normals = np.cross(np.gradient(places, axis=0), np.gradient(places, axis=1))
    normals /= np.maximum(np.linalg.norm(normals, axis=2, keepdims=True), 1e-12)
    normals *= np.sign((normals * (view.camera.center - places)).sum(2, keepdims=True))
    # A normal is that of a pixel and those around it.
    whole = cv2.erode((depths > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return places[whole], normals[whole], view.picture[whole].astype(np.float64)


def _shown(view: Swept, depths: Map, points: NDArray[np.float32]) -> NDArray[np.float64]:
    """The colours (n, 3) that a plate shows points in, NaN where it does not."""
    tolerance = _SAME_DEPTH * float(np.median(depths[depths > 0])) if depths.any() else 0.0
    finds = found_at(view.camera, depths, points.astype(np.float64), tolerance)
    pixels, _ = view.camera.project(points[finds].astype(np.float64))
    columns, rows = pixels.astype(int).T
    colours = np.full((len(points), 3), np.nan)
    seen = view.picture[rows, columns].astype(np.float64)
    seen[~view.known[rows, columns]] = np.nan
    colours[finds] = seen
    return colours


def gains_of(shown: Sequence[NDArray[np.float64]]) -> list[Array]:
    """The factor (3,) of each plate by which it is brighter than the mean of all.

    Args:
        shown: for each plate the colours (n, 3) that it shows points in, levels of 255, NaN where it does not.
    """
    with np.errstate(invalid="ignore"):
        logs = np.stack([np.where((one > _DARK) & (one < _BRIGHT), np.log(one), np.nan) for one in shown])
    count = len(logs)
    gains = np.zeros((count, 3))
    for channel in range(3):
        # Least squares over all pairs that share points, each by how many; of all solutions that nearest to 0.
        normal, right = np.zeros((count, count)), np.zeros(count)
        for one in range(count):
            for other in range(one + 1, count):
                apart = logs[one, :, channel] - logs[other, :, channel]
                apart = apart[~np.isnan(apart)]
                if len(apart) < _SHARED:
                    continue
                weight, found = float(len(apart)), float(np.median(apart))
                normal[[one, other], [one, other]] += weight
                normal[[one, other], [other, one]] -= weight
                right[[one, other]] += [weight * found, -weight * found]
        gains[:, channel] = np.linalg.lstsq(normal, right)[0]
    return list(np.exp(gains))
