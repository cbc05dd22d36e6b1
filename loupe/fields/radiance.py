"""The radiance field of DVGO v2: density and features on a voxel lattice, colours by a small network.

The opacity of a sample is 1 - (1 + exp(d + b))^(-s): d is interpolated before it is activated, b is the *shift* that
makes the untrained field almost transparent, and s is the length of a step in units of the field's *grain*. In a
bounded space b is one number; in a forward space there is one for each plane, chosen so that every plane of the
untrained field gets the same weight.

Sun et al., "Direct voxel grid optimization", 2022, and "Improved direct voxel grid optimization", 2022.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import linear

from loupe import volume
from loupe.config import Config
from loupe.errors import InputError
from loupe.fields.marching import march, neighbourhood
from loupe.fields.positional import positional
from loupe.fields.tensor_vm import TensorVm, VmConfig
from loupe.fields.voxel import Lattice, Places, Shape, interpolate, overlap, resample
from loupe.rays import Rays
from loupe.space import Space

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

_OPAQUE = 1e-3  # the transmittance at which a ray has seen enough
_FORWARD_PLANES = 256  # planes of which one is a grain thick (DVGO's multi-plane images)
_IN_CACHE = 4096  # samples whose activations stay in a core's cache


class FieldConfig(Config):
    """What a field stores and how it makes colours of it.

    Attributes:
        channels: features a node.
        hidden: width of the network's two hidden layers; 0 for none: the three features are the colour.
        view_frequencies: octaves of the viewing direction's encoding; 0 leaves the direction itself.
        step: distance of samples, in cells.
        cull: samples that weigh less on their ray are left out.
        vm: where density and features come from: None for a table of the lattice's nodes, else planes and lines
            (TensoRF's factors), with everything else as it is.
    """

    channels: int = Field(default=12, ge=3, le=64)
    hidden: int = Field(default=64, ge=0, le=512)
    view_frequencies: int = Field(default=4, ge=0, le=10)
    step: float = Field(default=0.5, gt=0, le=2)
    cull: float = Field(default=1e-4, ge=0, lt=0.1)
    vm: VmConfig | None = None


class Hits(NamedTuple):
    """What rays see of a field: packed samples, front to back.

    `ray`, `t` and `cell` (index into the lattice's cells) of each sample, its `weight` and `features`, and for each ray
    the transmittance `left` behind them. `steps` counts the samples in the box, `asked` those in occupied cells.
    """

    ray: Int[Tensor, " m"]
    t: Float[Tensor, " m"]
    cell: Int[Tensor, " m"]
    weight: Float[Tensor, " m"]
    features: Float[Tensor, "m channels"]
    left: Float[Tensor, " n"]
    steps: Int[Tensor, ""]
    asked: int


class RadianceField:
    """A voxel radiance field over `space`.

    Attributes:
        table: (rows, 1 + channels): d and the features at each node, zero at first; without columns where there are
            factors.
        factors: planes and lines in the table's place, or None.
        shading: the network from features and directions to colours; None without one.
        shift: (1,) or (planes,): b.
        grain: bounded: the edge of a cell for which a step is `config.step` long, in world units.
        pace: (rows, 1) or None: factors on the table's learning rate, by way of a factor on the table.
    """

    def __init__(self, space: Space, occupied: Bool[Tensor, "x y z"], config: FieldConfig, grain: float) -> None:
        self.space = space
        self.config = config
        self.grain = grain
        self.lattice = Lattice(occupied)
        rows, device = len(self.lattice.nodes), occupied.device
        self.factors = TensorVm(config.vm, config.channels, self.lattice.shape).to(device) if config.vm else None
        columns = 0 if self.factors else 1 + config.channels
        self.table = torch.zeros(rows, columns, device=device, requires_grad=True)
        self.shading = Shading(config).to(device) if config.hidden else None
        self.shift = torch.zeros(1, device=device)
        self.pace: Tensor | None = None
        self._near = neighbourhood(self.lattice)

    def make_transparent(self, opacity: float) -> None:
        """Set the shift. Bounded: a step of one grain through the untrained field has this opacity. Forward: of the
        untrained field, every plane weighs the same.

        Raises:
            InputError: the field's cull would leave out all of it, and nothing could ever be learnt.
        """
        if self.space.kind == "bounded":
            self.shift = torch.full_like(self.shift, math.log(1 / (1 - opacity) - 1))
            heaviest = 1 - (1 - opacity) ** self.interval
        else:
            planes = self.lattice.shape[2]
            self.shift = plane_shift(planes, self.interval / self.config.step).to(self.shift)
            heaviest = self.config.step / planes
        if self.config.cull >= heaviest:
            raise InputError(
                f"recipe: cull {self.config.cull:g} leaves out the untrained field, whose samples weigh {heaviest:.2g} "
                "at most; lower cull or raise opacity"
            )

    @property
    def edge(self) -> float:
        """The edge of a cell in world units, the mean over the axes; bounded spaces only."""
        return cell_edge(self.space, self.lattice.shape)

    @property
    def stride(self) -> float:
        """The distance of samples, in t."""
        return self.config.step * (self.edge if self.space.kind == "bounded" else 1 / (self.lattice.shape[2] - 1))

    @property
    def extent(self) -> float:
        """How much t the box spans: its diagonal, or from the near plane to infinity."""
        return math.dist(self.space.low, self.space.high) if self.space.kind == "bounded" else 1.0

    @property
    def interval(self) -> float:
        """The exponent s of a sample's transparency."""
        cell = self.edge / self.grain if self.space.kind == "bounded" else _FORWARD_PLANES / self.lattice.shape[2]
        return self.config.step * cell

    def hits(self, rays: Rays, cull: float | None = None) -> Hits:
        """What `rays` see. Samples of a weight below `cull` (`config.cull` if None), or behind what is opaque, do not
        exist."""
        cull = self.config.cull if cull is None else cull
        with torch.no_grad():
            cast = self.space.cast(rays)
            samples = march(cast, self.lattice, self._near, self.stride)
            places = None if self.factors else self.lattice.places(samples.points, samples.cell)
            shift = self._shift_at(samples.points[:, 2])
            tau = volume.optical_depth(self._density(samples.points, places) + shift, self.interval)
            through = torch.exp(-volume.before(tau, samples.ray, len(rays.origins)))
            seen = ((through * -torch.expm1(-tau) > cull) & (through > _OPAQUE)).nonzero()[:, 0]
        ray, t, cell, shift = (part.index_select(0, seen) for part in (samples.ray, samples.t, samples.cell, shift))
        if self.factors:
            values = self.factors.values(samples.points.index_select(0, seen))
        else:
            assert places is not None
            values = interpolate(self._paced(self.table), places.of(seen))
        tau = volume.optical_depth(values[:, 0] + shift, self.interval)
        weight, left = volume.absorb(tau, ray, len(rays.origins))
        return Hits(ray, t, cell, weight, values[:, 1:], left, samples.steps, len(samples.t))

    def colours(self, hits: Hits, directions: Float[Tensor, "n 3"]) -> Float[Tensor, "m 3"]:
        """The colour of each sample, in [0, 1], seen along its ray."""
        shaded = self.shading(hits.features, directions, hits.ray) if self.shading else hits.features
        return torch.sigmoid(shaded)

    def shade(
        self, hits: Hits, directions: Float[Tensor, "n 3"], reduce: nn.Linear
    ) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m c"]]:
        """The colour of each sample, and what `reduce` makes of the network's last hidden layer."""
        assert self.shading is not None, "a field without a network has no hidden layer"
        both = self.shading(hits.features, directions, hits.ray, reduce)
        return torch.sigmoid(both[:, :3]), both[:, 3:]

    @torch.no_grad()
    def solid(self, opacity: float) -> Bool[Tensor, "x y z"]:
        """The occupied cells with a corner at which one step has more than this opacity."""
        positions = self.lattice.positions()
        at_nodes = self.factors.density(positions) if self.factors else self._paced(self.table[:, :1])[:, 0]
        raw = at_nodes + self._shift_at(positions[:, 2])
        over = -torch.expm1(-volume.optical_depth(raw, self.interval)) > opacity
        return self.lattice.spread(self.lattice.alive & over[self.lattice.corners.long()].any(-1))

    def keep(self, alive: Bool[Tensor, " cells"]) -> None:
        """Take all other cells out; tables stay as they are."""
        self.lattice.keep(alive)
        self._near = neighbourhood(self.lattice)

    def resized(self, shape: Shape) -> RadianceField:
        """The same function on a lattice of another shape, over the cells that are occupied now."""
        unit = torch.tensor([0.0, 1.0])
        cells: Shape = (shape[0] - 1, shape[1] - 1, shape[2] - 1)
        occupied = overlap(self.lattice.spread(self.lattice.alive), cells, unit[:1].expand(3), unit[1:].expand(3))
        other = RadianceField(self.space, occupied, self.config, self.grain)
        if self.factors:
            other.factors = self.factors.resized(shape)
        else:
            with torch.no_grad():
                other.table.copy_(resample(self.table, self.lattice, other.lattice.positions()))
        other.shading = self.shading
        other.shift = self.shift if len(self.shift) == 1 else _stretched(self.shift, shape[2])
        return other

    def parameters(self) -> dict[str, list[Tensor]]:
        """What is trained: the "grid", and the "network" if there is one."""
        network: list[Tensor] = list(self.shading.parameters()) if self.shading else []
        if self.factors:
            grid: list[Tensor] = [*self.factors.planes, *self.factors.lines]
            return {"grid": grid, "network": [self.factors.basis.weight, *network]}
        return {"grid": [self.table]} | ({"network": network} if network else {})

    def state(self) -> dict[str, Tensor]:
        """Everything, by name; `from_state` makes the field again."""
        network = {
            f"{part}.{name}": value
            for part, module in self._modules.items()
            for name, value in module.state_dict().items()
        }
        return {
            "table": self.table.detach(),
            "shape": torch.tensor(self.lattice.shape),
            "cells": self.lattice.cells.int(),
            "alive": self.lattice.alive,
            "shift": self.shift,
            "grain": torch.tensor(self.grain, dtype=torch.float64),
            "box": torch.tensor([self.space.low, self.space.high], dtype=torch.float64),
            **network,
        }

    @classmethod
    def from_state(
        cls, state: Mapping[str, Tensor], space: Space, config: FieldConfig, device: torch.device | str
    ) -> RadianceField:
        """The field that gave `state`; `space` may be any box of its space, `config` must be its own."""
        box = state["box"].tolist()
        x, y, z = (nodes - 1 for nodes in state["shape"].tolist())
        occupied = torch.zeros(x * y * z, dtype=torch.bool)
        occupied[state["cells"].long()] = True
        part = replace(space, low=tuple(box[0]), high=tuple(box[1]))
        field = cls(part, occupied.view(x, y, z).to(device), config, float(state["grain"]))
        with torch.no_grad():
            field.table.copy_(state["table"])
        field.shift = state["shift"].to(device)
        for prefix, module in field._modules.items():
            module.load_state_dict({name: state[f"{prefix}.{name}"] for name in module.state_dict()})
        field.keep(state["alive"].to(device))
        return field

    @property
    def _modules(self) -> dict[str, nn.Module]:
        every = {"factors": self.factors, "shading": self.shading}
        return {name: module for name, module in every.items() if module is not None}

    def _density(self, points: Tensor, places: Places | None) -> Tensor:
        """The raw density at points, of which `places` says where they lie in the table."""
        if self.factors:
            return self.factors.density(points)
        assert places is not None
        return interpolate(self._paced(self.table.narrow(1, 0, 1)).contiguous(), places)[:, 0]

    def _paced(self, table: Tensor) -> Tensor:
        return table if self.pace is None else table * self.pace

    def _shift_at(self, depth: Tensor) -> Tensor:
        """b at the unit coordinate `depth` along the last axis, linear between planes."""
        if len(self.shift) == 1:
            return self.shift.expand(len(depth))
        scaled = depth * (len(self.shift) - 1)
        plane = scaled.long().clamp(max=len(self.shift) - 2)
        return torch.lerp(self.shift[plane], self.shift[plane + 1], scaled - plane)


class Shading(nn.Module):
    """Features and a viewing direction -> colour before the sigmoid: two hidden layers.

    The first layer's share of the direction is computed once a ray.
    """

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self._octaves = config.view_frequencies
        self.feature = nn.Linear(config.channels, config.hidden, bias=False)
        self.view = nn.Linear(3 + 6 * self._octaves, config.hidden)
        self.second = nn.Linear(config.hidden, config.hidden)
        self.colour = nn.Linear(config.hidden, 3)
        nn.init.zeros_(self.colour.bias)

    def forward(self, features: Tensor, directions: Tensor, ray: Tensor, reduce: nn.Linear | None = None) -> Tensor:
        """(m, channels), (n, 3) and the ray of each sample -> (m, 3), and behind them the outputs of `reduce`."""
        seen = volume.spread(self.view(positional(directions, self._octaves)), ray)
        heads = [self.colour, reduce] if reduce else [self.colour]
        weight, bias = torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads])
        parts = zip(torch.split(features, _IN_CACHE), torch.split(seen, _IN_CACHE), strict=True)
        return torch.cat([linear(self.second((self.feature(f) + v).relu()).relu(), weight, bias) for f, v in parts])


def plane_shift(planes: int, thickness: float) -> Float[Tensor, " planes"]:
    """The shift of each of D planes, `thickness` grains apart, for which every one of them weighs 1/D: plane i has the
    opacity 1 / (D - i)."""
    opacity = 1 / (planes - torch.arange(planes, dtype=torch.float64))
    transparency = (1 - opacity).clamp(min=1e-6)
    return torch.log(transparency ** (-1 / thickness) - 1).float()


def lattice_shape(space: Space, voxels: int, planes: int | None) -> Shape:
    """How many nodes along each axis make about `voxels` cubes, or (forward) `planes` planes of square cells."""
    size = [high - low for low, high in zip(space.low, space.high, strict=True)]
    if planes is None:
        edge = (math.prod(size) / voxels) ** (1 / 3)
        x, y, z = (max(2, int(side / edge)) for side in size)
        return x, y, z
    edge = (math.prod(size[:2]) * planes / voxels) ** 0.5
    return max(2, int(size[0] / edge)), max(2, int(size[1] / edge)), planes


def cell_edge(space: Space, shape: Shape) -> float:
    """The geometric mean of a cell's three sides, in the units of the box."""
    sides = [(high - low) / (nodes - 1) for low, high, nodes in zip(space.low, space.high, shape, strict=True)]
    return math.prod(sides) ** (1 / 3)


def _stretched(shift: Tensor, planes: int) -> Tensor:
    """The same function of depth on another number of planes."""
    return nn.functional.interpolate(shift[None, None], planes, mode="linear", align_corners=True)[0, 0]
