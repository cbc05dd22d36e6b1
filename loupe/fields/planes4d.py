"""Features over space and time as sums of planes: 4K4D's grid.

At a point (x, y, z, t) of the unit cube six planes are looked up, xy, xz, yz, xt, yt and zt, each bilinear between its
nodes, and summed; levels of growing resolution are put side by side (Xu et al., "4K4D", 2024, section 3.1; the
published code for the sizes). A plane with more nodes than `table` shares that many rows between them, by the hash of
Müller et al., "Instant neural graphics primitives", 2022, equation 4.

Along the time a plane has a node for every frame and no more: with more, as in the published code, nodes between
frames would never be trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import embedding_bag

from loupe.config import Config
from loupe.fields.hash_grid import row

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_PLANES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # the axes that each plane spans; 3 is the time
_START = 1e-2  # half the width of the uniform distribution at the start


class PlanesConfig(Config):
    """A grid's size: `levels` of `channels` each, the first with `base` nodes along each axis of space and every
    further one with twice as many; at most `table` rows a plane."""

    base: int = Field(default=64, ge=2, le=1024)
    levels: int = Field(default=4, ge=1, le=8)
    channels: int = Field(default=8, ge=1, le=64)
    table: int = Field(default=1 << 16, ge=16, le=1 << 24)


class Planes4d(nn.Module):
    """(n, 3) unit coordinates and one moment -> (n, `width`) features."""

    def __init__(self, config: PlanesConfig, frames: int) -> None:
        super().__init__()
        self.width = config.levels * config.channels
        self._frames = frames
        self._shapes = [
            tuple(frames if axis == 3 else config.base << level for axis in plane)
            for level in range(config.levels)
            for plane in _PLANES
        ]
        rows = [min(first * second, config.table) for first, second in self._shapes]
        self.tables = nn.ParameterList(torch.empty(count, config.channels).uniform_(-_START, _START) for count in rows)

    def forward(self, points: Float[Tensor, "n 3"], time: float) -> Float[Tensor, "n width"]:
        """The features at `time`, from 0 at the first frame to 1 at the last; outside the cube those at its faces."""
        moment = points.new_full((len(points), 1), time)
        unit = torch.cat([points, moment], 1).clamp(0, 1)
        looked_up = [
            look_up(table, unit[:, list(_PLANES[index % len(_PLANES)])], shape)
            for index, (table, shape) in enumerate(zip(self.tables, self._shapes, strict=True))
        ]
        levels = [looked_up[first : first + len(_PLANES)] for first in range(0, len(looked_up), len(_PLANES))]
        return torch.cat([torch.stack(planes).sum(0) for planes in levels], 1)


def look_up(table: Float[Tensor, "rows c"], unit: Float[Tensor, "n 2"], shape: tuple[int, ...]) -> Float[Tensor, "n c"]:
    """Bilinear between the nodes of a plane of this shape, the outer ones on its edges; differentiable in both."""
    last = unit.new_tensor([side - 1 for side in shape])
    place = unit * last
    corner = place.detach().floor().minimum((last - 1).clamp(min=0))
    share = place - corner
    low = corner.long()
    high = (low + 1).minimum(last.long())
    rows = [row((x, y), shape, len(table)) for x in (low[:, 0], high[:, 0]) for y in (low[:, 1], high[:, 1])]
    weights = [a * b for a in (1 - share[:, 0], share[:, 0]) for b in (1 - share[:, 1], share[:, 1])]
    found: Tensor = embedding_bag(torch.stack(rows, 1), table, per_sample_weights=torch.stack(weights, 1), mode="sum")
    return found
