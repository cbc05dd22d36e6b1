"""A scene with foreground masks -> its box, what of it is occupied at any moment, and surface points at each.

The box is found from the hull itself: first over all that the training cameras see together, then tightly around what
that left, so a capture needs no points. All frames share one box.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from loupe.camera import Array
from loupe.cloud import Cloud
from loupe.errors import InputError
from loupe.hull import Grid, Silhouette, Votes, carve_hull, dissenters
from loupe.images import HALF
from loupe.occupancy import CarveConfig, Occupancy, grid_shape, without_specks
from loupe.scene import Level, Scene
from loupe.space import Space, bounded_space, seen_together
from loupe.tiles import Tiles

_LONGEST = 1024  # pixels of the masks that are asked
_COARSE = 48  # voxels along each side of the box where an empty hull is looked into
_MOST = 2 / 3  # of the masks: where these meet, the others are to blame, else the cameras
_BEHIND = 2.0  # voxels by which a surface point may lie behind what a view sees and still be it


class Moving(NamedTuple):
    """What `carve_masks` makes: the box, what is occupied at any moment, and the surface at each frame."""

    space: Space
    occupancy: Occupancy
    clouds: Mapping[int, Cloud]

    @property
    def cloud(self) -> Cloud:
        """The surface at the first frame."""
        return next(iter(self.clouds.values()))

    def save(self, folder: Path) -> None:
        """Write `space.json`, `occupancy.safetensors` and `points/<frame>.ply` into `folder`, which exists."""
        self.space.save(folder / "space.json")
        self.occupancy.save(folder / "occupancy.safetensors")
        (folder / "points").mkdir(exist_ok=True)
        for frame, cloud in self.clouds.items():
            cloud.save(folder / "points" / f"{frame:06d}.ply")


def carve_masks(scene: Scene, tiles: Tiles, config: CarveConfig, say: Callable[[str], None]) -> Moving:
    """The visual hull of every frame.

    Args:
        say: takes a line about training views without a mask, which have no vote.

    Raises:
        InputError: too few views have masks, or nothing is left; the line says whether masks or cameras are to blame.
    """
    names = _names_by_frame(scene, config, say)
    votes = Votes(config.least, config.agree)
    rough = _box_around(seen_together(scene), config.resolution)
    ever = np.zeros(rough.shape, bool)
    for group in names.values():
        ever |= _hull(scene, tiles, group, rough, votes)
    if not ever.any():
        raise InputError(_blame(scene, tiles, names, rough))
    corners = (rough.middles(ever)[:, None] + rough.ends()).reshape(-1, 3)
    space = bounded_space(np.unique(corners.round(9), axis=0), config.margin)
    box = _Box.of(space, grid_shape(space, config.resolution))
    occupied = torch.zeros(box.shape, dtype=torch.bool)
    clouds = {}
    for frame, group in names.items():
        hull = without_specks(torch.from_numpy(_hull(scene, tiles, group, box, votes)))
        occupied |= hull
        clouds[frame] = _surface(scene, tiles, group, box, hull.numpy())
    return Moving(space, Occupancy(occupied), clouds)


@dataclass(frozen=True, eq=False)
class _Box:
    """A grid of voxels: `low` (3,), the voxels' sides `voxel` (3,) and the `shape`, in a frame of its own."""

    frame_from_world: Array
    low: Array
    voxel: Array
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, space: Space, shape: tuple[int, int, int]) -> _Box:
        low, high = np.array(space.low), np.array(space.high)
        return cls(np.array(space.frame_from_world), low, (high - low) / shape, shape)

    @property
    def world_from_frame(self) -> Array:
        return np.asarray(np.linalg.inv(self.frame_from_world))

    def middles(self, grid: Grid) -> Array:
        """The middles of the grid's True voxels in the world, (n, 3)."""
        inner = self.low + (np.argwhere(grid) + 0.5) * self.voxel
        return np.asarray(inner @ self.world_from_frame[:3, :3].T + self.world_from_frame[:3, 3])

    def ends(self) -> Array:
        """From a voxel's middle to its corners, (8, 3), in the world."""
        signs = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3, indexing="ij"), -1).reshape(8, 3)
        return np.asarray(signs * self.voxel @ self.world_from_frame[:3, :3].T)


def _box_around(points: Array, resolution: int) -> _Box:
    low, high = points.min(0), points.max(0)
    return _Box(np.eye(4), low, (high - low) / resolution, (resolution, resolution, resolution))


def _names_by_frame(scene: Scene, config: CarveConfig, say: Callable[[str], None]) -> dict[int, list[str]]:
    """The training views with masks."""
    names: dict[int, list[str]] = defaultdict(list)
    for name in scene.train:
        if scene.view(name).mask:
            names[scene.view(name).frame].append(name)
    without = len(scene.train) - sum(map(len, names.values()))
    if without:
        say(f"{without} of {len(scene.train)} training views have no mask and no vote")
    few = min((frame for frame, group in names.items() if len(group) < config.least), default=None)
    if few is not None or not names:
        found = "no training view has a mask" if few is None else f"frame {few} has {len(names[few])} masks"
        raise InputError(f"{scene.folder}: {found}; the hull needs {config.least} at each frame (space.least)")
    return dict(sorted(names.items()))


def _hull(scene: Scene, tiles: Tiles, names: Sequence[str], box: _Box, votes: Votes) -> Grid:
    views = [_silhouette(scene, tiles, name, box.world_from_frame) for name in names]
    return carve_hull(views, box.low, box.voxel, box.shape, votes)


def _silhouette(scene: Scene, tiles: Tiles, name: str, world_from_frame: Array) -> Silhouette:
    """A view's mask at a moderate size, its camera seen from a box's frame."""
    level: Level = "low" if scene.sealed else "full"
    mask, camera = tiles.mask(name, level), scene.camera(name, level)
    if mask is None:
        raise InputError(f"{scene.folder}: its tiles have no masks; run cut_tiles again")
    scale = min(1.0, _LONGEST / max(mask.shape))
    width, height = (max(1, round(side * scale)) for side in (camera.width, camera.height))
    small = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
    camera = camera.resized(width, height)
    return Silhouette(small > HALF, replace(camera, cam_from_world=camera.cam_from_world @ world_from_frame))


def _blame(scene: Scene, tiles: Tiles, names: Mapping[int, Sequence[str]], box: _Box) -> str:
    """Why the first frame's hull is empty."""
    frame, group = next(iter(names.items()))
    views = [_silhouette(scene, tiles, name, box.world_from_frame) for name in group]
    coarse = _Box(box.frame_from_world, box.low, box.voxel * (np.array(box.shape) / _COARSE), (_COARSE,) * 3)
    agreeing, against = dissenters(views, coarse.middles(np.ones(coarse.shape, bool)))
    found = (
        f"{scene.folder}: the hull of frame {frame} is empty: at best {agreeing} of {len(group)} masks meet in a place"
    )
    if agreeing >= _MOST * len(group):
        return f"{found}; look at the masks of {', '.join(group[index] for index in against)}"
    return f"{found}; the cameras do not belong to these masks (another order, or another convention of poses?)"


def _surface(scene: Scene, tiles: Tiles, names: Sequence[str], box: _Box, hull: Grid) -> Cloud:
    """The middles of the hull's outer voxels, each in the mean colour of the views that see it; what none sees, in the
    mean of the others."""
    points = box.middles(_outer(hull))
    sums, counts = np.zeros((len(points), 3)), np.zeros(len(points))
    for name in names:
        camera, picture = scene.camera(name, "low"), tiles.image(name, "low")
        pixels, depth = camera.project(points)
        inside = (depth > 0) & ((pixels >= 0) & (pixels < (camera.width, camera.height))).all(1)
        x, y = np.where(inside[:, None], pixels, 0).astype(int).T
        inside &= depth <= _nearest(x, y, np.where(inside, depth, np.inf), camera.height, camera.width) + (
            _BEHIND * float(box.voxel.max())
        )
        sums[inside] += picture[y[inside], x[inside]]
        counts += inside
    colours = sums / np.maximum(counts, 1)[:, None]
    colours[counts == 0] = sums.sum(0) / max(counts.sum(), 1)
    return Cloud(points.astype(np.float32), np.round(colours).astype(np.uint8))


def _outer(hull: Grid) -> Grid:
    """The True voxels with a side to a False one or to the outside."""
    padded = np.pad(hull, 1)
    within = padded.copy()
    for axis in range(3):
        within &= np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
    return hull & ~within[1:-1, 1:-1, 1:-1]


def _nearest(x: NDArray[np.int_], y: NDArray[np.int_], depth: Array, height: int, width: int) -> Array:
    """For points at pixels (x, y), the depth of the nearest of all in the same pixel or one beside it."""
    nearest = np.full((height, width), np.inf)
    np.minimum.at(nearest, (y, x), depth)
    return np.asarray(cv2.erode(nearest, np.ones((3, 3), np.uint8))[y, x])
