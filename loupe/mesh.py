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


def surface_error(mesh: Mesh, true_distance: Distance) -> tuple[float, float]:
    """How far the vertices lie from the true surface: mean and maximum, world units. What is missing does not count."""
    away = true_distance(torch.from_numpy(mesh.vertices)).abs()
    return float(away.mean()), float(away.max())


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
