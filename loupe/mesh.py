"""Surfaces as triangles: where a distance function is zero.

A *distance* here is signed: world units to the nearest surface, below 0 inside. It is asked with world points (n, 3),
float32 on the CPU, a few thousand at a time, and answers (n,) on any device.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from loupe.errors import InputError
from loupe.ply import write_ply
from loupe.space import Space

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

Distance = Callable[[torch.Tensor], torch.Tensor]

_BLOCK = 16  # grid points along a block's side: 4096 are asked at once
_CANDIDATES = 16  # triangles that are looked at for the nearest one
_HIGH = 0.95
_TINY = 1e-30


class Mesh(NamedTuple):
    """Triangles in the world: `vertices` (v, 3), `colours` of the vertices (v, 3), and `faces` (f, 3) as numbers of
    vertices, counter-clockwise seen from outside."""

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    colours: NDArray[np.uint8]

    def save(self, path: Path) -> None:
        """Write binary PLY with a colour at each vertex, as other programs read it."""
        write_ply(path, self.vertices, self.colours, faces=self.faces)


def extract(
    distance: Distance,
    space: Space,
    resolution: int,
    occupied: Callable[[Float[Tensor, "n 3"]], Bool[Tensor, " n"]] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The surface inside a bounded space's box: vertices (v, 3) in the world and faces (f, 3), oriented outwards.

    Marching cubes (Lorensen and Cline 1987) with the cases of Lewiner et al. 2003, which leave no holes: the surface is
    closed except where the box, or `occupied`, cuts it.

    A distance is 1-Lipschitz: where it is farther from 0 at a block's middle than the block's corners are from there,
    it has one sign all over the block, and is not asked further. A function that changes faster must be divided by its
    Lipschitz constant, or parts of its surface may be missed. In memory there are one block's points and the grid of
    answers: 0.5 GB at a resolution of 512.

    Args:
        distance: see the module's head.
        resolution: cells along the box's longest side; a cell is a cube, but for rounding.
        occupied: says of points in unit coordinates whether the surface counts there (`Occupancy.query`, on the CPU);
            triangles with a vertex elsewhere are left out.

    Raises:
        InputError: there is no surface, the distance is not finite, or the space is a forward one.
    """
    from skimage.measure import marching_cubes

    if space.kind != "bounded":
        raise InputError("a mesh needs a bounded space; a forward one reaches to infinity: set space.kind to bounded")
    sides = np.subtract(space.high, space.low)
    last = np.maximum(1, np.rint(resolution * sides / sides.max())).astype(int)
    values = _sample(distance, space, torch.from_numpy(last))
    if values.min() >= 0 or values.max() <= 0:
        where = "outside" if values.min() >= 0 else "inside"
        raise InputError(f"no surface: all of the space's box is {where}; train longer, or look at the box")
    # Where a grid point lies on the surface, several vertices do: without degenerate faces they are one.
    places, faces, _, _ = marching_cubes(values, 0.0, allow_degenerate=False)
    unit = torch.from_numpy(places / last).float()
    kept = np.ones(len(unit), bool) if occupied is None else occupied(unit).cpu().numpy()
    if not kept[faces].all(1).any():
        raise InputError("no surface: all of it lies where the space is not occupied; look at what carve_space kept")
    return _cut(space.to_world(unit).numpy(), faces, kept)


class Spread(NamedTuple):
    """Of distances, world units: their mean, what 95 % of them do not exceed, and the largest."""

    mean: float
    high: float
    largest: float

    @classmethod
    def of(cls, distances: NDArray[np.float32]) -> Spread:
        """Of n unsigned distances (n,)."""
        return cls(float(distances.mean()), float(np.quantile(distances, _HIGH)), float(distances.max()))


class SurfaceError(NamedTuple):
    """How far a mesh and the true surface lie apart: `accuracy`, from points of the mesh to the truth; `completeness`,
    from points of the truth to the mesh (Seitz et al., "A comparison and evaluation of multi-view stereo reconstruction
    algorithms", 2006). What is too much shows in the first, what is missing in the second."""

    accuracy: Spread
    completeness: Spread

    @property
    def chamfer(self) -> float:
        """The mean of the two means, world units."""
        return (self.accuracy.mean + self.completeness.mean) / 2


def surface_error(mesh: Mesh, true_distance: Distance, true_points: NDArray[np.float32]) -> SurfaceError:
    """Both errors of a mesh, over points spread evenly on it and over the points (n, 3) of the true surface given.

    `true_distance` need not be signed. Where the truth is known by its distance alone, its points are those on its own
    mesh (`extract`, `points_on`); where some of the truth cannot be known, as what no camera sees, they are the rest.
    """
    ours = points_on(mesh.vertices, mesh.faces, len(true_points))
    to_mesh = distance_to(mesh.vertices, mesh.faces)
    return SurfaceError(Spread.of(_unsigned(true_distance, ours)), Spread.of(_unsigned(to_mesh, true_points)))


def points_on(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], count: int, seed: int = 0
) -> NDArray[np.float32]:
    """Random points (count, 3) on triangles, as many on equal areas."""
    corners = vertices[faces].astype(float)
    first, sides = corners[:, 0], corners[:, 1:] - corners[:, :1]
    areas = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1)
    generator = np.random.default_rng(seed)
    face = generator.choice(len(faces), count, p=areas / areas.sum())
    shares = generator.random((count, 2))
    beyond = shares.sum(1) > 1  # the other half of the parallelogram
    shares[beyond] = 1 - shares[beyond]
    return np.asarray(first[face] + (shares[..., None] * sides[face]).sum(1), np.float32)


def distance_to(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> Distance:
    """The unsigned distance to the nearest of the triangles whose middles are the 16 nearest.

    Never too small; exact as long as the triangles are of similar size, as marching cubes makes them.
    """
    from scipy.spatial import cKDTree

    corners = vertices[faces].astype(float)
    tree, count = cKDTree(corners.mean(1)), min(_CANDIDATES, len(faces))

    def distance(points: torch.Tensor) -> torch.Tensor:
        at = points.cpu().double().numpy()
        _, near = tree.query(at, [*range(1, count + 1)])
        return torch.from_numpy(_to_triangles(at, corners[near]).min(1)).to(points)

    return distance


def _to_triangles(points: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """The distances (n, k) of each of n points to k triangles (n, k, 3, 3) of its own."""
    sides, offsets = np.roll(corners, -1, 2) - corners, points[:, None, None] - corners
    normal = np.cross(sides[..., 0, :], sides[..., 1, :])
    doubled_area = np.linalg.norm(normal, axis=-1)
    over = ((np.cross(normal[..., None, :], sides) * offsets).sum(-1) >= 0).all(-1) & (doubled_area > 0)
    to_plane = np.abs((normal * offsets[..., 0, :]).sum(-1)) / np.maximum(doubled_area, _TINY)
    along = (offsets * sides).sum(-1) / np.maximum((sides**2).sum(-1), _TINY)
    to_sides = np.linalg.norm(offsets - np.clip(along, 0, 1)[..., None] * sides, axis=-1).min(-1)
    return np.asarray(np.where(over, to_plane, to_sides))


def _unsigned(distance: Distance, points: NDArray[np.float32]) -> NDArray[np.float32]:
    parts = torch.split(torch.from_numpy(points), _BLOCK**3)
    return torch.cat([distance(part).abs().float().cpu() for part in parts]).numpy()


@torch.no_grad()
def _sample(distance: Distance, space: Space, last: Int[Tensor, " 3"]) -> NDArray[np.float32]:
    """The distances at the points 0 to `last` of a grid over the box; where no surface is near, only their sign."""
    starts = torch.cartesian_prod(*(torch.arange(0, count, _BLOCK) for count in (last + 1).tolist()))
    ends = torch.minimum(starts + _BLOCK, last + 1)
    middles = (starts + ends - 1) / 2
    # Widened by a cell on each side: the neighbours of a block that is passed over then have its sign as well.
    cell = (torch.tensor(space.high) - torch.tensor(space.low)) / last
    reach = ((ends - starts + 1) / 2 * cell).norm(dim=1).numpy()
    at_middle = np.concatenate([_ask(distance, space, part / last) for part in torch.split(middles, _BLOCK**3)])
    values = np.empty(tuple((last + 1).tolist()), np.float32)
    for start, end, middle, near in zip(starts, ends, at_middle, np.abs(at_middle) <= reach, strict=True):
        block = tuple(slice(first, stop) for first, stop in zip(start.tolist(), end.tolist(), strict=True))
        if near:
            points = torch.cartesian_prod(*(torch.arange(part.start, part.stop) for part in block))
            values[block] = _ask(distance, space, points / last).reshape(values[block].shape)
        else:
            values[block] = middle
    return values


def _ask(distance: Distance, space: Space, unit: Float[Tensor, "n 3"]) -> NDArray[np.float32]:
    answer: NDArray[np.float32] = distance(space.to_world(unit)).float().cpu().numpy()
    if not np.isfinite(answer).all():
        raise InputError("no surface: the distance is not finite everywhere in the space's box; training diverged")
    return answer


def _cut(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], kept: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The faces all of whose vertices are kept, and the vertices that they use."""
    used, numbers = np.unique(faces[kept[faces].all(1)], return_inverse=True)
    return vertices[used], numbers.reshape(-1, 3).astype(np.int32)
