"""Density and features of a box as sums of planes times lines: TensoRF's vector-matrix factorisation.

Along each of three modes a value is sum_r P_r(a, b) L_r(c): P over two axes, L along the third. Density is the sum over
all modes; features are a linear map (the basis) of all products (Chen et al., "TensoRF", 2022, equations 4, 6 and 7).
Planes and lines are bilinear, linear between nodes, with nodes on the box's faces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import grid_sample, interpolate

from loupe.config import Config
from loupe.fields.voxel import Shape

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Rank = Annotated[int, Field(ge=1, le=256)]
_MODES = ((0, 1, 2), (0, 2, 1), (1, 2, 0))  # the plane's two axes and the line's
_START = 0.1  # standard deviation at the start


class VmConfig(Config):
    """How many products for density and for features: along the planes xy, xz and yz. Before forward cameras most
    belong on xy (the published configuration of LLFF: 16, 4, 4 and 48, 12, 12)."""

    density: tuple[Rank, Rank, Rank] = (16, 16, 16)
    features: tuple[Rank, Rank, Rank] = (48, 48, 48)


class TensorVm(nn.Module):
    """The factors over a lattice of `shape` nodes. Plane and line of mode i hold density's ranks, then features'."""

    def __init__(self, config: VmConfig, channels: int, shape: Shape) -> None:
        super().__init__()
        self.config = config
        self.channels = channels
        ranks = [d + f for d, f in zip(config.density, config.features, strict=True)]
        self.planes = nn.ParameterList(
            _START * torch.randn(1, rank, shape[a], shape[b]) for rank, (a, b, _) in zip(ranks, _MODES, strict=True)
        )
        self.lines = nn.ParameterList(
            _START * torch.randn(1, rank, shape[c], 1) for rank, (_, _, c) in zip(ranks, _MODES, strict=True)
        )
        self.basis = nn.Linear(sum(config.features), channels, bias=False)

    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, " m"]:
        """The raw density at unit coordinates."""
        parts = [
            _products(plane[:, :ranks], line[:, :ranks], points, mode).sum(0)
            for plane, line, ranks, mode in zip(self.planes, self.lines, self.config.density, _MODES, strict=True)
        ]
        return torch.stack(parts).sum(0)

    def values(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m c"]:
        """The raw density, and behind it the features."""
        density, features = [], []
        for plane, line, ranks, mode in zip(self.planes, self.lines, self.config.density, _MODES, strict=True):
            products = _products(plane, line, points, mode)
            density.append(products[:ranks].sum(0))
            features.append(products[ranks:])
        return torch.cat([torch.stack(density).sum(0)[:, None], self.basis(torch.cat(features).T)], 1)

    def variation(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Total variation of density's planes and of features': twice the mean squared difference of neighbours along
        both axes, times .01, as the published code has it."""
        found: list[list[Tensor]] = [[], []]
        for plane, ranks in zip(self.planes, self.config.density, strict=True):
            for part, into in zip((plane[:, :ranks], plane[:, ranks:]), found, strict=True):
                into.append(0.02 * (part.diff(dim=2).square().mean() + part.diff(dim=3).square().mean()))
        density, features = (torch.stack(parts).sum() for parts in found)
        return density, features

    @torch.no_grad()
    def resized(self, shape: Shape) -> TensorVm:
        """The same factors on another number of nodes, linear between the old ones."""
        made = TensorVm(self.config, self.channels, shape).to(self.basis.weight.device)
        for (a, b, c), plane, line, new_plane, new_line in zip(
            _MODES, self.planes, self.lines, made.planes, made.lines, strict=True
        ):
            new_plane.copy_(interpolate(plane, (shape[a], shape[b]), mode="bilinear", align_corners=True))
            new_line.copy_(interpolate(line, (shape[c], 1), mode="bilinear", align_corners=True))
        made.basis = self.basis
        return made


def _products(plane: Tensor, line: Tensor, points: Float[Tensor, "m 3"], mode: tuple[int, int, int]) -> Tensor:
    """(ranks, m)."""
    a, b, c = (2 * points[:, axis] - 1 for axis in mode)
    # `grid_sample` takes the last axis' coordinate first.
    on_plane = torch.stack([b, a], -1)[None, None]
    on_line = torch.stack([torch.zeros_like(c), c], -1)[None, None]
    looked = [grid_sample(grid, at, align_corners=True)[0, :, 0] for grid, at in ((plane, on_plane), (line, on_line))]
    return looked[0] * looked[1]
