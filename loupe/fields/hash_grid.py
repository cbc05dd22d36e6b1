"""Features over space from grids of growing resolution whose nodes share the rows of small tables.

A level is a grid over the unit cube, trilinear between its nodes, the outer ones on the cube's faces; levels stand side
by side, coarse ones first. A level with more nodes than `table` shares that many rows between them by a hash, and the
network behind sorts out what collides (Müller et al., "Instant neural graphics primitives", 2022, section 3).

A surface's normal is a derivative by position, and training asks for gradients of it. So the derivatives come beside
the features in closed form (`with_slopes`), several times as fast as gradients of gradients: within a cell both are
sums of the same eight rows. Everything is torch's own arithmetic, and points are laid out last, where it is fastest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field, model_validator
from torch import nn

from loupe.config import Config

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

_PRIMES = (2_654_435_761, 805_459_861)  # of the second and third axis; the first goes as it is
_START = 1e-4  # half the width of the uniform distribution at the start


class HashConfig(Config):
    """A grid's size: `levels` of `channels` each, with `base` nodes along every axis at the first level, `finest` at
    the last and a geometric series between them; at most `table` rows a level."""

    levels: int = Field(default=16, ge=1, le=32)
    channels: int = Field(default=2, ge=1, le=16)
    table: int = Field(default=1 << 19, ge=16, le=1 << 24)
    base: int = Field(default=16, ge=2, le=1 << 16)
    finest: int = Field(default=2048, ge=2, le=1 << 16)

    @model_validator(mode="after")
    def _check(self) -> HashConfig:
        if self.finest < self.base or (self.levels == 1 and self.finest != self.base):
            raise ValueError(
                f"{self.levels} levels cannot run from base {self.base} to finest {self.finest}; "
                "finest is at least base, and with one level they are the same"
            )
        return self

    @property
    def sides(self) -> list[int]:
        """The nodes along an axis, level by level (equations 2 and 3 of the paper)."""
        growth = (self.finest / self.base) ** (1 / max(1, self.levels - 1))
        return [round(self.base * growth**level) for level in range(self.levels)]


class HashGrid(nn.Module):
    """(n, 3) unit coordinates -> (n, `width`) features; outside of the cube those at its faces.

    `tables`: (channels, rows) for each level.
    """

    def __init__(self, config: HashConfig) -> None:
        super().__init__()
        self.width = config.levels * config.channels
        self._sides = config.sides
        rows = [min(side**3, config.table) for side in self._sides]
        self.tables = nn.ParameterList(torch.empty(config.channels, count).uniform_(-_START, _START) for count in rows)

    def forward(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n width"]:
        """The features at points; gradients flow to tables and positions."""
        unit = points.T.clamp(0, 1)
        levels = zip(self.tables, self._sides, strict=True)
        return torch.cat([_look_up(table, unit, side)[0] for table, side in levels]).T

    def with_slopes(self, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n width"], Float[Tensor, "n width 3"]]:
        """The features at points, and their derivatives by position; gradients flow to the tables alone.

        A derivative that jumps, at a cell's border, is the one on its far side; outside of the cube, where features
        stay the same, it is 0.
        """
        unit = points.detach().T
        levels = zip(self.tables, self._sides, strict=True)
        found = [_look_up(table, unit.clamp(0, 1), side, slopes=True) for table, side in levels]
        values, slopes = (torch.cat(parts) for parts in zip(*found, strict=True))
        return values.T, (slopes * ((unit >= 0) & (unit <= 1))).movedim(2, 0)


def row(node: Sequence[Int[Tensor, "*n"]], shape: Sequence[int], rows: int) -> Int[Tensor, "*n"]:
    """The row of a node, given by its index along each axis of a grid of `shape`; the indices are broadcast.

    Every node has a row of its own where there are enough of them; else the hash of the paper's equation 4 tells.
    """
    found = node[0]
    if math.prod(shape) <= rows:
        for index, side in zip(node[1:], shape[1:], strict=True):
            found = found * side + index
        return found
    for index, prime in zip(node[1:], _PRIMES, strict=False):
        found = found ^ (index * prime)
    return found % rows


def _look_up(
    table: Float[Tensor, "c rows"], unit: Float[Tensor, "3 n"], side: int, slopes: bool = False
) -> tuple[Float[Tensor, "c n"], Float[Tensor, "c 3 n"]]:
    """Trilinear between the nodes of one level, one axis after the other; with `slopes`, the derivatives too."""
    place = unit * (side - 1)
    corner = place.detach().floor().clamp(max=side - 2)
    share = place - corner
    x, y, z = torch.stack([corner.long(), corner.long() + 1], 1)
    nodes = (x[:, None, None], y[None, :, None], z[None, None, :])
    rows = row(nodes, (side,) * 3, table.shape[1]).flatten()
    # Channels first: adding up the gradients of shared rows is then several times faster than with rows first.
    corners = table.gather(1, rows.expand(len(table), -1)).view(len(table), 2, 2, 2, -1)
    across_x, along_x = _between(corners, share[0])
    across_xy, along_y = _between(across_x, share[1])
    value, along_z = _between(across_xy, share[2])
    if not slopes:
        return value, value.new_empty(0)
    along_x, along_y = _between(_between(along_x, share[1])[0], share[2])[0], _between(along_y, share[2])[0]
    return value, torch.stack([along_x, along_y, along_z], 1) * (side - 1)


def _between(ends: Float[Tensor, "c 2 *more n"], share: Float[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Linear between the two ends, `share` of the way; and by how much they differ."""
    near, far = ends.unbind(1)
    change = far - near
    return torch.addcmul(near, share, change), change
