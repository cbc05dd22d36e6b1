"""Voxel grids of which only the occupied part exists.

A `Lattice` has nodes at the corners of its cells, in unit coordinates: node 0 at 0, the last node at 1 along each axis.
Some cells are *occupied*. Every corner of an occupied cell is a *row*; a table of shape (rows, channels) holds the
values there, and between them values are trilinear. Elsewhere there is nothing, and nothing is stored but one number a
cell.

A look-up is a weighted sum of eight rows, `F.embedding_bag`; its gradient is one as well, over the transposed table of
contents (sorted by row), which is several times faster than scattering and, on a GPU, repeatable.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.functional import embedding_bag, max_pool3d, smooth_l1_loss

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

Shape = tuple[int, int, int]
_ROUNDING = 1e-5  # points that lie outside the unit box by less are taken to lie on its faces


class Places(NamedTuple):
    """Where points lie in tables: the eight `rows` (m, 8) int32 around each, and their trilinear `weights` (m, 8)."""

    rows: Int[Tensor, "m 8"]
    weights: Float[Tensor, "m 8"]

    def of(self, keep: Int[Tensor, " k"]) -> Places:
        """The places of some of the points."""
        return Places(self.rows.index_select(0, keep), self.weights.index_select(0, keep))


class Lattice:
    """Which cells of a grid are occupied, and which rows stand at their corners.

    Cells can be taken out again (`keep`); their rows stay, so tables and an optimiser's memory of them remain valid.

    Attributes:
        shape: nodes along each axis.
        cells: (cells,) int64: the cells with rows, as flat numbers over the grid of cells, ascending.
        nodes: (rows,) int64: the rows' nodes, as flat numbers over the grid of nodes, ascending.
        corners: (cells, 8) int32: the rows at each cell's corners.
        alive: (cells,) bool: which of `cells` are occupied.
    """

    def __init__(self, occupied: Bool[Tensor, "x y z"]) -> None:
        """A lattice of (x + 1, y + 1, z + 1) nodes whose cells are `occupied`."""
        self.shape: Shape = (occupied.shape[0] + 1, occupied.shape[1] + 1, occupied.shape[2] + 1)
        _, ny, nz = self.shape
        self.cells: Int[Tensor, " cells"] = occupied.flatten().nonzero()[:, 0]
        steps = torch.tensor([(i * ny + j) * nz + k for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        self._steps = steps.to(self.cells)
        x, y, z = torch.unravel_index(self.cells, occupied.shape)
        corners = ((x * ny + y) * nz + z)[:, None] + self._steps
        used = torch.zeros(self.shape[0] * ny * nz, dtype=torch.bool, device=occupied.device)
        used[corners.flatten()] = True
        self.nodes: Int[Tensor, " rows"] = used.nonzero()[:, 0]
        row = torch.cumsum(used, 0, dtype=torch.int32) - 1
        self.corners = row[corners]
        self._number = torch.full((occupied.numel(),), -1, dtype=torch.int32, device=occupied.device)
        self.keep(torch.ones_like(self.cells, dtype=torch.bool))

    def keep(self, alive: Bool[Tensor, " cells"]) -> None:
        """From now on only these of `cells` are occupied."""
        self.alive = alive
        numbers = torch.arange(len(self.cells), dtype=torch.int32, device=alive.device)
        self._number[self.cells] = torch.where(alive, numbers, -1)

    def spread(self, flags: Bool[Tensor, " cells"]) -> Bool[Tensor, "x y z"]:
        """Flags of `cells` as a mask over the whole grid of cells."""
        mask = torch.zeros(self._number.shape, dtype=torch.bool, device=flags.device)
        mask[self.cells] = flags
        return mask.view([nodes - 1 for nodes in self.shape])

    def find(self, points: Float[Tensor, "m 3"]) -> Int[Tensor, " m"]:
        """Which of `cells` each point lies in, as an index; -1 where none is occupied there."""
        corner, _ = self._split(points)
        inside = ((points >= -_ROUNDING) & (points <= 1 + _ROUNDING)).all(-1)
        x, y, z = corner.unbind(-1)
        number = self._number.index_select(0, (x * (self.shape[1] - 1) + y) * (self.shape[2] - 1) + z)
        return torch.where(inside, number, -1)

    def places(self, points: Float[Tensor, "m 3"], cell: Int[Tensor, " m"]) -> Places:
        """Where `points` lie, which are in the occupied cells `cell`, as `find` gave them."""
        _, fraction = self._split(points)
        return Places(self.corners.index_select(0, cell), _trilinear(fraction))

    def places_of_any(self, points: Float[Tensor, "m 3"]) -> Places:
        """The same for points anywhere in the box: a row that does not exist has weight 0 (and stands as row 0)."""
        corner, fraction = self._split(points.clamp(0, 1))
        _, ny, nz = self.shape
        node = ((corner[:, 0] * ny + corner[:, 1]) * nz + corner[:, 2])[:, None] + self._steps
        row = torch.searchsorted(self.nodes, node).clamp(max=len(self.nodes) - 1)
        exists = self.nodes[row] == node
        return Places(torch.where(exists, row, 0).int(), _trilinear(fraction) * exists)

    def positions(self) -> Float[Tensor, "rows 3"]:
        """Each row's node in unit coordinates."""
        axes = torch.unravel_index(self.nodes, self.shape)
        return torch.stack([index / (nodes - 1) for index, nodes in zip(axes, self.shape, strict=True)], -1)

    @cached_property
    def neighbours(self) -> Int[Tensor, "6 rows"]:
        """The row beside each row, towards both ends of each axis; the row itself where there is none."""
        _, ny, nz = self.shape
        axes = torch.unravel_index(self.nodes, self.shape)
        rows = torch.arange(len(self.nodes), device=self.nodes.device)
        found = []
        for index, nodes, stride in zip(axes, self.shape, (ny * nz, nz, 1), strict=True):
            for sign, there in ((-1, index > 0), (1, index < nodes - 1)):
                wanted = self.nodes + sign * stride
                beside = torch.searchsorted(self.nodes, wanted).clamp(max=len(rows) - 1)
                found.append(torch.where(there & (self.nodes[beside] == wanted), beside, rows))
        return torch.stack(found)

    def _split(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The cell of each point and the position within it, from 0 to 1; the far faces belong to the last cells."""
        last = torch.tensor(self.shape, dtype=points.dtype, device=points.device) - 2
        scaled = points * (last + 1)
        corner = scaled.floor().clamp(min=0).minimum(last)
        return corner.long(), scaled - corner


def _trilinear(fraction: Float[Tensor, "m 3"]) -> Float[Tensor, "m 8"]:
    far = fraction.T.contiguous()
    (x0, y0, z0), (x1, y1, z1) = 1 - far, far
    columns = [x * y * z for x in (x0, x1) for y in (y0, y1) for z in (z0, z1)]
    return torch.stack(columns, -1)


def interpolate(table: Float[Tensor, "rows c"], places: Places) -> Float[Tensor, "m c"]:
    """The values at places: trilinear between the eight rows around each. Differentiable with respect to the table."""
    return _Interpolate.apply(table, places.rows, places.weights)  # type: ignore[no-any-return, no-untyped-call]


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights)
        ctx.count = len(table)
        return embedding_bag(rows, table, per_sample_weights=weights.to(table), mode="sum")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        rows, weights = (saved.flatten() for saved in ctx.saved_tensors)
        _, order = rows.sort(stable=True)
        lengths = torch.bincount(rows, minlength=ctx.count)
        point, start = (order >> 3).int(), (lengths.cumsum(0) - lengths).int()
        gradient = gradients[0].contiguous()
        shares = weights.to(gradient).index_select(0, order)
        return embedding_bag(point, gradient, start, per_sample_weights=shares, mode="sum"), None, None


def total_variation(
    table: Float[Tensor, "rows c"], lattice: Lattice, rows: slice, weight: Float[Tensor, " c"]
) -> Float[Tensor, ""]:
    """The sum of smooth-L1 differences between `rows` and the rows beside them, every column times its `weight`; a
    pair within `rows` counts twice.

    Its gradient reaches `rows` alone, as if their neighbours were constant: a random slice a step covers the table in
    the long run for a part of the work.
    """
    return _TotalVariation.apply(table, lattice.neighbours[:, rows], rows, weight)  # type: ignore[no-any-return, no-untyped-call]


class _TotalVariation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, neighbours: Tensor, rows: slice, weight: Tensor) -> Tensor:
        own = table[rows]
        value, slope = table.new_zeros(()), torch.zeros_like(own)
        for beside in neighbours:
            other = table.index_select(0, beside)
            value += smooth_l1_loss(own, other, reduction="none").sum(0) @ weight
            slope += (own - other).clamp(-1, 1)
        ctx.save_for_backward(slope * weight)
        ctx.shape, ctx.rows = table.shape, rows
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        gradient = slope.new_zeros(ctx.shape)
        gradient[ctx.rows] = gradients[0] * slope
        return gradient, None, None, None


def resample(table: Float[Tensor, "rows c"], old: Lattice, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m c"]:
    """The trilinear values of a table of the lattice `old` at points in its unit coordinates.

    A point outside the cells with rows takes the weighted mean of those rows around it that exist, or zero.
    """
    places = old.places_of_any(points)
    total = places.weights.sum(-1, keepdim=True)
    return torch.where(total > 0, interpolate(table, places) / total.clamp(min=1e-12), 0)


def overlap(
    mask: Bool[Tensor, "a b c"], shape: Shape, low: Float[Tensor, " 3"], high: Float[Tensor, " 3"]
) -> Bool[Tensor, "x y z"]:
    """A mask over the unit box, carried over to a grid of `shape` cells over the part of it from `low` to `high`.

    A new cell is set if it shares volume with a set old one; beyond the unit box nothing is set.
    """
    for axis in range(3):
        cells, old = shape[axis], mask.shape[axis]
        edges = low[axis].double() + (high[axis] - low[axis]).double() * torch.arange(cells + 1).to(low) / cells
        # Faces that coincide but for rounding share no volume.
        first = (edges[:-1] * old + 1e-4).floor().long().clamp(0, old)
        behind = (edges[1:] * old - 1e-4).ceil().long().clamp(0, old)
        counted = mask.cumsum(axis, dtype=torch.int32)
        running = torch.cat([torch.zeros_like(counted.narrow(axis, 0, 1)), counted], axis)
        mask = running.index_select(axis, behind.maximum(first)) > running.index_select(axis, first)
    return mask


def dilate(mask: Bool[Tensor, "x y z"], reach: int) -> Bool[Tensor, "x y z"]:
    """The mask with every cell set that lies within `reach` cells of a set one along all three axes."""
    grown = mask[None, None].float()
    for axis in range(3):
        size, padding = [1, 1, 1], [0, 0, 0]
        size[axis], padding[axis] = 2 * reach + 1, reach
        grown = max_pool3d(grown, size, stride=1, padding=padding)
    return grown[0, 0] > 0
