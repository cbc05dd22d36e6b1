"""Which part of a space is empty: carving by photo-consistency, and asking.

A voxel is empty if no training view sees it, or if enough of the views that can tell look through it: each view's sweep
(`loupe.sweep`) says from what depth on there may be a surface, and what stands before that is empty. Space behind
surfaces stays: no view contradicts it. Sparse points, which several views agree on, are never carved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from loupe.camera import Camera
from loupe.cloud import Cloud, surface_cloud
from loupe.errors import InputError
from loupe.images import Pixels
from loupe.scene import Scene, evenly
from loupe.space import Space, SpaceConfig, choose_space
from loupe.sweep import Sweep, choose_neighbours, sweep_views
from loupe.tiles import Tiles

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

_VOXELS_AT_ONCE = 1 << 19
_SPECK = 0.001  # of all that is occupied: a piece below that goes
_NEAR_MARGIN = 0.8  # of a view's near bound, which the sparse points gave: something plain may stand a little before it


class CarveConfig(SpaceConfig):
    """How the box is chosen and carved.

    Attributes:
        resolution: voxels along each side of a cube of the box's volume (of each side, in a forward space).
        picture: longest side of the pictures that are compared, in pixels.
        views: at most so many training views are swept, evenly taken from all.
        slack: see `loupe.sweep.sweep_views`; more keeps more space.
        look_through: a voxel goes if more than this share of the views that can tell look through it.
        by: what carves: "photos" by comparing them, "masks" by their hull; "auto" takes masks for several
            frames, and where masks cut.
        least: a voxel lives in the hull if so many views see it, and
        agree: so many percent of those have it in their mask.
    """

    resolution: int = Field(128, ge=8, le=512)
    picture: int = Field(256, ge=32, le=2048)
    views: int = Field(64, ge=2)
    slack: float = Field(0.2, ge=0, le=1)
    look_through: float = Field(0.4, ge=0, lt=1)
    by: Literal["auto", "photos", "masks"] = "auto"
    least: int = Field(4, ge=1)
    agree: int = Field(90, ge=1, le=100)


@dataclass(frozen=True, eq=False)
class Occupancy:
    """`grid` (nx, ny, nz) bool over unit coordinates: True where there may be something."""

    grid: Bool[Tensor, "nx ny nz"]

    @property
    def share(self) -> float:
        """The occupied part of the box, 0 to 1."""
        return float(self.grid.float().mean())

    def query(self, unit: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """Whether points in unit coordinates lie in occupied voxels; False outside the box and for NaN."""
        shape = self.grid.shape
        inside = ((unit >= 0) & (unit <= 1)).all(-1)
        voxel = (unit * unit.new_tensor(shape)).long()
        x, y, z = (voxel[:, axis].clamp(0, shape[axis] - 1) for axis in range(3))
        return self.grid.reshape(-1)[(x * shape[1] + y) * shape[2] + z] & inside

    def dilated(self, voxels: int) -> Occupancy:
        """Every occupied voxel grown to a cube that reaches `voxels` farther on each side."""
        grown = self.grid[None, None].float()
        pooled = torch.nn.functional.max_pool3d(grown, 2 * voxels + 1, stride=1, padding=voxels)
        return Occupancy(pooled[0, 0] > 0)

    def save(self, path: Path) -> None:
        """Write as safetensors, eight voxels a byte."""
        bits = torch.from_numpy(np.packbits(self.grid.cpu().numpy()))
        save_file({"bits": bits, "shape": torch.tensor(self.grid.shape)}, path)

    @classmethod
    def load(cls, path: Path) -> Occupancy:
        """Read what `save` wrote; raises `InputError` if it is missing, damaged or empty."""
        if not path.is_file():
            raise InputError(f"{path}: no such file; run carve_space first")
        try:
            values = load_file(path)
            nx, ny, nz = values["shape"].tolist()
            bits = np.unpackbits(values["bits"].numpy(), count=nx * ny * nz)
            grid = torch.from_numpy(bits.reshape(nx, ny, nz)).bool()
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path}: not an occupancy ({error}); run carve_space again") from None
        if not grid.any():
            raise InputError(f"{path}: nothing is occupied; run carve_space again")
        return cls(grid)


class Carved(NamedTuple):
    """What `carve_space` makes: the box, what of it is occupied, and points on the surfaces."""

    space: Space
    occupancy: Occupancy
    cloud: Cloud

    def save(self, folder: Path) -> None:
        """Write `space.json`, `occupancy.safetensors` and `points.ply` into `folder`, which exists."""
        self.space.save(folder / "space.json")
        self.occupancy.save(folder / "occupancy.safetensors")
        self.cloud.save(folder / "points.ply")


def carve_space(scene: Scene, tiles: Tiles, config: CarveConfig) -> Carved:
    """Choose the box and carve it.

    Raises:
        InputError: the views are of several moments, no box fits, or nothing is left of it.
    """
    if scene.moves:
        raise InputError(
            f"{scene.folder}: views of several frames; photo-consistency carves a single moment; use space.by: masks"
        )
    space = choose_space(scene, config)
    names = evenly(scene.train, config.views)
    pictures = [working_picture(tiles.image(name, "low"), config.picture) for name in names]
    cameras = [
        scene.camera(name, "low").resized(picture.shape[1], picture.shape[0])
        for name, picture in zip(names, pictures, strict=True)
    ]
    bounds = [(scene.view(name).near, scene.view(name).far) for name in names]
    neighbours = choose_neighbours(cameras, [2 / (1 / near + 1 / far) for near, far in bounds])
    nears = [_nearest(space, camera, near) for camera, (near, _) in zip(cameras, bounds, strict=True)]
    sweeps = sweep_views(pictures, cameras, neighbours, nears, config.slack)
    seeds = scene.points.xyz[scene.points.seen >= config.min_seen]
    occupancy = carve(space, sweeps, scene.cameras(scene.train, "low"), seeds, config)
    found = surface_cloud(pictures, sweeps, neighbours).within(space, occupancy.query)
    given = Cloud(scene.points.xyz, scene.points.rgb).within(space, occupancy.query)
    return Carved(space, occupancy, found.one_a_voxel(space, occupancy.grid.shape).joined(given))


def carve(
    space: Space, sweeps: Sequence[Sweep], cameras: Sequence[Camera], seeds: NDArray[np.float32], config: CarveConfig
) -> Occupancy:
    """The space less what no camera sees, what too many sweeps look through, and specks.

    Args:
        sweeps: of some or all training views.
        cameras: all training views.
        seeds: points (n, 3) in the world that lie on surfaces for sure.

    Raises:
        InputError: nothing is left; the line says whether the box or the poses are to blame.
    """
    shape = grid_shape(space, config.resolution)
    seen, clear = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    rows = max(1, _VOXELS_AT_ONCE // (shape[1] * shape[2]))
    for start in range(0, shape[0], rows):
        slab = slice(start, min(start + rows, shape[0]))
        voxels = voxels_of(space, shape, slab)
        sight = reduce(torch.logical_or, (voxels.in_view(camera)[0] for camera in cameras))
        watching, through = view_votes(voxels, sweeps)
        seen[slab] = sight.reshape(seen[slab].shape)
        clear[slab] = (through > config.look_through * watching).reshape(seen[slab].shape)
    if not seen.any():
        raise InputError("no training camera sees any of the box: the poses are wrong, or the section 'space' is")
    # A voxel at the rim of every view may still be seen in part.
    occupied = without_specks(Occupancy(seen).dilated(1).grid & ~clear)
    unit = space.to_unit(torch.from_numpy(seeds))
    unit = unit[((unit >= 0) & (unit < 1)).all(-1)]
    occupied[tuple((unit * unit.new_tensor(shape)).long().T)] = True
    if not occupied.any():
        raise InputError(
            "the views look through every part of the box: the poses are wrong, or the scene moved between the photos"
        )
    return Occupancy(occupied)


def without_specks(occupied: Bool[Tensor, "x y z"]) -> Bool[Tensor, "x y z"]:
    """Less the pieces, joined by faces, edges or corners, that are too small to be anything: noise in the votes leaves
    voxels in the air, and training hangs a picture before each camera in them."""
    from scipy import ndimage

    pieces, _ = ndimage.label(occupied.numpy(), np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return torch.from_numpy((sizes >= _SPECK * sizes.sum())[pieces]) & occupied


class Voxels(NamedTuple):
    """Voxels' middles (n, 3) in the world, and the points half a voxel from them along each of the grid's axes."""

    middles: Float[Tensor, "n 3"]
    sides: list[Float[Tensor, "n 3"]]

    def in_view(self, camera: Camera) -> tuple[Bool[Tensor, " n"], Int[Tensor, " n"]]:
        """Which voxels' middles the camera sees, and the flat index of their pixel (0 where it sees none)."""
        pose = self.middles.new_tensor(camera.cam_from_world)
        x, y, z = (self.middles @ pose[:3, :3].T + pose[:3, 3]).unbind(-1)
        column, row = camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy
        inside = (z > 0) & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
        flat = (
            row.nan_to_num().clamp(0, camera.height - 1).long() * camera.width
            + column.nan_to_num().clamp(0, camera.width - 1).long()
        )
        return inside, torch.where(inside, flat, 0)

    def inverse_depth(self, camera: Camera) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """1 / z of the voxels' middles, and by how much it varies to either side within a voxel (to first order)."""
        axis = self.middles.new_tensor(camera.cam_from_world[2])
        middle = 1 / (self.middles @ axis[:3] + axis[3])
        spread = torch.stack([(1 / (side @ axis[:3] + axis[3]) - middle).abs() for side in self.sides]).sum(0)
        return middle, spread


def voxels_of(space: Space, shape: tuple[int, int, int], slab: slice) -> Voxels:
    """The voxels of a slab of the first axis of a grid of `shape` over the box."""
    axes = [(torch.arange(count) + 0.5) / count for count in shape]
    axes[0] = axes[0][slab]
    unit = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    # Towards the lower side: in a forward space the upper one may lie at infinity.
    halves = torch.diag(0.5 / torch.tensor(shape))
    return Voxels(space.to_world(unit), [space.to_world(unit - half) for half in halves])


def view_votes(voxels: Voxels, sweeps: Sequence[Sweep]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """For each voxel, how many sweeps can tell whether it is empty, and how many of those look through all of it."""
    watching = torch.zeros(len(voxels.middles), dtype=torch.int32)
    through = torch.zeros_like(watching)
    for sweep in sweeps:
        inside, pixel = voxels.in_view(sweep.camera)
        nearness, spread = voxels.inverse_depth(sweep.camera)
        limit, first = (torch.from_numpy(values).reshape(-1)[pixel] for values in (sweep.limit, sweep.first))
        before = inside & (nearness - spread > sweep.nearest)
        clear = inside & (nearness + spread <= limit)
        watching += clear | before
        through += (clear & (nearness - spread > first)) | before
    return watching, through


def grid_shape(space: Space, resolution: int) -> tuple[int, int, int]:
    """Voxels along each axis: cubes in a bounded space, the same number each way in a forward one."""
    if space.kind == "forward":
        return resolution, resolution, resolution
    sides = np.subtract(space.high, space.low)
    counts = np.ceil(sides / np.cbrt(sides.prod()) * resolution).astype(int)
    return int(counts[0]), int(counts[1]), int(counts[2])


def working_picture(picture: Pixels, longest: int) -> Pixels:
    """The picture, or an area average of it whose longest side is so long."""
    height, width = picture.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(picture)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _nearest(space: Space, camera: Camera, near: float) -> float:
    """The z-depth at which the box begins for a camera, but no less than the view's near bound, less a margin."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 2, torch.tensor([0.0, 0.999])).double()
    depth = camera.project(space.to_world(corners).numpy())[1]
    return max(float(depth.min()), _NEAR_MARGIN * near)
