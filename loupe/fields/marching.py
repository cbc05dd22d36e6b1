"""Where along rays a voxel field is worth asking: samples at equal steps of t, in occupied cells only.

Steps stand at whole multiples of the step length along every ray's t. Whole blocks of steps are skipped by one look at
their middle: if no cell within `_REACH` cells of it is occupied, none of the block's samples is. The result is that of
asking for every single step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from loupe.fields.voxel import Lattice, dilate
from loupe.space import BoxRays

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

_REACH = 2
_LONGEST_BLOCK = 64
_ROUNDING = 1e-4  # in steps: the last plane of a forward space lies exactly at its end


class Samples(NamedTuple):
    """Packed samples (see `loupe.volume`): `ray` and `t` of each, the occupied `cell` it lies in, and its unit
    coordinates `points`. `steps` is how many there would be if all cells were occupied."""

    ray: Int[Tensor, " m"]
    t: Float[Tensor, " m"]
    cell: Int[Tensor, " m"]
    points: Float[Tensor, "m 3"]
    steps: Int[Tensor, ""]


def neighbourhood(lattice: Lattice) -> Bool[Tensor, " cells"]:
    """For every cell of the lattice's grid, flat, whether an occupied one is within reach: what `march` skips by."""
    return dilate(lattice.spread(lattice.alive), _REACH).flatten()


def march(rays: BoxRays, lattice: Lattice, near: Bool[Tensor, " cells"], step: float) -> Samples:
    """All samples of `rays` that lie in occupied cells of `lattice`; `near` is its `neighbourhood`."""
    first = torch.ceil(rays.enter / step - _ROUNDING)
    count = (torch.floor(rays.leave / step + _ROUNDING) - first + 1).clamp(min=0).nan_to_num(nan=0.0).long()
    block = _block_length(rays, lattice, count, step)
    ray, start = _blocks_worth_a_look(rays, lattice, near, (first, count, step, block))
    index = start[:, None] + torch.arange(block, device=start.device)
    there = (index < count[ray][:, None]).flatten().nonzero()[:, 0]
    ray = ray.repeat_interleave(block).index_select(0, there)
    t = (first.index_select(0, ray) + index.flatten().index_select(0, there)) * step
    points = _along(rays, ray, t)
    cell = lattice.find(points)
    hit = (cell >= 0).nonzero()[:, 0]
    ray, t, cell, points = (part.index_select(0, hit) for part in (ray, t, cell, points))
    return Samples(ray, t, cell, points, count.sum())


def _block_length(rays: BoxRays, lattice: Lattice, count: Tensor, step: float) -> int:
    """The most steps of which none is farther than `_REACH` cells from their middle, along any axis on any ray."""
    cells = torch.tensor(lattice.shape, device=count.device) - 1
    moves = (rays.directions.abs() * cells * step).amax(-1)[count > 0]
    longest = float(moves.max()) if len(moves) else 0.0
    return max(1, int(min(_LONGEST_BLOCK, 2 * _REACH / max(longest, 1e-6))))


def _blocks_worth_a_look(
    rays: BoxRays, lattice: Lattice, near: Tensor, steps: tuple[Tensor, Tensor, float, int]
) -> tuple[Tensor, Tensor]:
    """The ray and the first step of every block of steps near occupied cells."""
    first, count, step, block = steps
    blocks = (count + block - 1) // block
    ray = torch.repeat_interleave(torch.arange(len(count), device=count.device), blocks)
    start = (torch.arange(len(ray), device=ray.device) - (blocks.cumsum(0) - blocks)[ray]) * block
    t = (first[ray] + start + (block - 1) / 2) * step
    # Beyond the box's face the nearest point of the box stands in: it is no farther from the samples inside.
    middle = _along(rays, ray, t).clamp(0, 1)
    sides = torch.tensor(lattice.shape, device=ray.device) - 1
    x, y, z = (middle * sides).long().minimum(sides - 1).unbind(-1)
    worth = near.index_select(0, (x * sides[1] + y) * sides[2] + z).nonzero()[:, 0]
    return ray.index_select(0, worth), start.index_select(0, worth)


def _along(rays: BoxRays, ray: Tensor, t: Tensor) -> Tensor:
    return torch.addcmul(rays.origins.index_select(0, ray), t[:, None], rays.directions.index_select(0, ray))
