"""A surface in a box, and what rays see of it: a signed distance, the density that it makes, and heads for what shows.

A *hash* field is sampled at equal steps in the occupied cells, and what next to nothing would come of is never asked
for more than its distance. An *mlp* field is sampled as VolSDF does (`loupe.error_bound`). A sample stands for a piece
of its ray along which the distance changes evenly, by its gradient, so the optical depth is exact for a flat surface
however soft or hard it is and however long the steps are.

What stands behind the box is an inverted sphere (`loupe.fields.background`), or whatever the caller puts there.

Yariv et al., "Volume rendering of neural implicit surfaces", 2021; Yang et al., "VQ-NeRF", 2023, section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import nn

from loupe import volume
from loupe.config import Config
from loupe.error_bound import BoundConfig, sample
from loupe.fields.background import BackgroundConfig, Head, InvertedSphere
from loupe.fields.hash_grid import HashConfig, HashGrid
from loupe.fields.marching import march, neighbourhood
from loupe.fields.sdf import (
    ColourConfig,
    ColourHead,
    LaplaceDensity,
    LogisticDensity,
    SdfHash,
    SdfHashConfig,
    SdfMlp,
    SdfMlpConfig,
    distance_and_normal,
)
from loupe.fields.voxel import Lattice
from loupe.rays import Rays
from loupe.space import Space

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

_WORTH = 1e-4  # what a sample, or all that is behind, must weigh on its ray to be looked at
_REACH = 12.0  # scales of the density from the surface: farther outside is empty, farther inside hidden
_SOFT = 0.5  # scales of the density: between samples so far apart a soft surface hides nothing
_LEVEL = 1e-3  # a slope up to this leads to no surface
_LOOSE = 1.5  # times half a cell's diagonal: a distance in training may change faster than it should


class SurfaceConfig(Config):
    """A field.

    Attributes:
        kind: "hash": a hash grid and a small network; "mlp": VolSDF's deep one.
        hash, mlp: their sizes; the one of the kind counts.
        density: "laplace" (VolSDF), whose error bound the sampling of an mlp needs, or "logistic" (VQ-NeRF).
        heads: the networks from the surface to what shows.
        appearance: a hash grid of what shows alone, beside the features that the shape's network gives; None for none.
        step: least distance of a hash field's samples, in cells of the occupancy; while the surface is softer than
            they are, they stand farther apart.
        bound: how an mlp field is sampled.
        background: what stands behind the box, in scenes whose masks do not cut it out; None for a plain colour.
    """

    kind: Literal["hash", "mlp"] = "hash"
    hash: SdfHashConfig = SdfHashConfig()
    mlp: SdfMlpConfig = SdfMlpConfig()
    density: Literal["laplace", "logistic"] = "laplace"
    heads: ColourConfig = ColourConfig()
    appearance: HashConfig | None = None
    step: float = Field(default=0.5, gt=0, le=4)
    bound: BoundConfig = BoundConfig()
    background: BackgroundConfig | None = None

    @model_validator(mode="after")
    def _bound_needs_laplace(self) -> SurfaceConfig:
        if self.kind == "mlp" and self.density != "laplace":
            raise ValueError("an mlp is sampled by an error bound that holds for the density laplace alone")
        return self


class Seen(NamedTuple):
    """What n rays see.

    The composited `values` of a head (n, c), not over anything; `left` (n,): how much goes past the surface, and `bare`
    (n,): how much of what stands behind everything shows, which is nothing if there is a background; `t` (n,): the
    weighted sum of the samples' distances; `normal` (n, 3): that of their gradients. And the `gradient` (m, 3) of the
    samples that count.
    """

    values: Float[Tensor, "n c"]
    left: Float[Tensor, " n"]
    bare: Float[Tensor, " n"]
    t: Float[Tensor, " n"]
    normal: Float[Tensor, "n 3"]
    gradient: Float[Tensor, "m 3"]


class Samples(NamedTuple):
    """Packed samples (`loupe.volume`): of each its `ray`, its distance `t` along it, and the `length` that it stands
    for."""

    ray: Int[Tensor, " m"]
    t: Float[Tensor, " m"]
    length: Float[Tensor, " m"]

    def of(self, keep: Int[Tensor, " k"]) -> Samples:
        """Some of them."""
        return Samples(*(part.index_select(0, keep) for part in self))


class SurfaceField(nn.Module):
    """A signed distance over a bounded space, with heads "colour" and, for `codes` channels, "code".

    `alive` says which of the occupied cells are still looked at (`refresh`).
    """

    alive: Tensor

    def __init__(self, config: SurfaceConfig, space: Space, occupied: Bool[Tensor, "x y z"], codes: int = 0) -> None:
        super().__init__()
        self.config, self.space = config, space
        middle = space.to_world(torch.full((1, 3), 0.5, dtype=torch.float64))[0].tolist()
        radius = math.dist(space.low, space.high) / 2
        if config.kind == "hash":
            self.shape: SdfHash | SdfMlp = SdfHash(config.hash, middle, radius)
            features = config.hash.features
        else:
            self.shape, features = SdfMlp(config.mlp, middle, radius), config.mlp.features
        self.appearance = HashGrid(config.appearance) if config.appearance else None
        features += self.appearance.width if self.appearance else 0
        self.density = (LaplaceDensity if config.density == "laplace" else LogisticDensity)(radius)
        self.heads = nn.ModuleDict({"colour": ColourHead(config.heads, features)})
        if codes:
            self.heads["code"] = ColourHead(config.heads, features, codes, bounded=False)
        self.background = InvertedSphere(config.background, middle, radius, codes) if config.background else None
        self.lattice = Lattice(occupied)
        self.register_buffer("alive", self.lattice.alive)
        self._near = neighbourhood(self.lattice)
        cells = torch.tensor(occupied.shape)
        sides = (torch.tensor(space.high) - torch.tensor(space.low)) / cells
        self._cell, self._half_diagonal = float(sides.mean()), float(sides.norm()) / 2

    def look(self, rays: Rays, head: Head, generator: torch.Generator | None = None) -> Seen:
        """What rays see by a head; with a generator, which is the CPU's, samples are jittered."""
        samples, count = self._sampled(rays, generator), len(rays.origins)
        samples = self._worth_a_look(samples, rays)
        points = _along(rays, samples)
        distance, features, gradient = distance_and_normal(self.shape, points)
        directions = rays.directions.index_select(0, samples.ray)
        slope = (gradient * directions).sum(1)
        tau = self.density.depth(distance, slope, samples.length)
        weight, left = volume.absorb(tau, samples.ray, count)
        shown = self.shown(head, points, directions, features, gradient)
        values = torch.cat([shown, _meets(samples, distance, slope)[:, None], gradient], 1)
        seen = volume.composite(weight, values, samples.ray, count)
        values, bare = self._before_background(seen[:, :-4], left, rays, head, generator)
        return Seen(values, left, bare, seen[:, -4], seen[:, -3:], gradient)

    def shown(
        self,
        head: Head,
        points: Float[Tensor, "m 3"],
        directions: Float[Tensor, "m 3"],
        features: Float[Tensor, "m c"],
        gradient: Float[Tensor, "m 3"],
    ) -> Float[Tensor, "m channels"]:
        """What a head says of points, seen along `directions`; features and gradients are the shape's."""
        normalised = self.shape.normalised(points)
        if self.appearance:
            features = torch.cat([features, self.appearance((normalised + 1) / 2)], 1)
        channels: Tensor = self.heads[head](normalised, gradient, directions, features)
        return channels

    def take(self, state: Mapping[str, Tensor]) -> None:
        """Take over another such field's state; one without a head for codes leaves this one's as it is."""
        own = {name: value for name, value in self.state_dict().items() if "heads.code." in name}
        self.load_state_dict(own | dict(state))
        self._keep(self.alive)

    @torch.no_grad()
    def refresh(self) -> None:
        """Look only at cells that something may show of: neither well outside the surface nor well inside."""
        parts = torch.split(self.lattice.cells, 1 << 16)
        near = torch.cat([self._holds(cells) for cells in parts])
        if near.any():
            self._keep(near)

    def _keep(self, alive: Bool[Tensor, " cells"]) -> None:
        self.alive.copy_(alive)
        self.lattice.keep(self.alive)
        self._near = neighbourhood(self.lattice)

    def _holds(self, cells: Int[Tensor, " k"]) -> Bool[Tensor, " k"]:
        shape = torch.tensor(self.lattice.shape, device=cells.device) - 1
        corner = torch.stack(torch.unravel_index(cells, shape.tolist()), -1)
        distance, _ = self.shape(self.space.to_world((corner + 0.5) / shape))
        near: Tensor = distance.abs() < _REACH * self.density.scale + _LOOSE * self._half_diagonal
        return near

    def _before_background(
        self,
        values: Float[Tensor, "n c"],
        left: Float[Tensor, " n"],
        rays: Rays,
        head: Head,
        generator: torch.Generator | None,
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, " n"]]:
        """Values over the background, and how much of anything else would show; asked where something of it does."""
        if not self.background:
            return values, left
        through = (left > _WORTH).nonzero()[:, 0]
        behind = self.background.look(Rays(*(part[through] for part in rays)), head, generator)
        return values.index_add(0, through, left[through, None] * behind), torch.zeros_like(left)

    def _sampled(self, rays: Rays, generator: torch.Generator | None) -> Samples:
        box = self.space.cast(rays)
        if self.config.kind == "hash":
            step = max(self.config.step * self._cell, _SOFT * float(self.density.scale.detach()))
            found = march(box, self.lattice, self._near, step)
            t = found.t
            if generator is not None:
                moved = torch.rand(len(rays.origins), generator=generator).to(t) - 0.5
                t = t + step * moved.index_select(0, found.ray)
            return Samples(found.ray, t, torch.full_like(t, step))
        hit = (box.leave > box.enter).nonzero()[:, 0]
        inside = Rays(*(part.index_select(0, hit) for part in rays))
        ends = sample(
            lambda points: self.shape(points)[0],
            inside,
            box.enter[hit].clamp(min=0),
            box.leave[hit],
            float(self.density.scale.detach()),
            self.config.bound,
            generator,
        )
        middles, lengths = (ends[:, 1:] + ends[:, :-1]) / 2, ends.diff()
        return Samples(hit.repeat_interleave(middles.shape[1]), middles.flatten(), lengths.flatten())

    @torch.no_grad()
    def _worth_a_look(self, samples: Samples, rays: Rays) -> Samples:
        """The samples that weigh something, by their distances alone."""
        distance, _ = self.shape(_along(rays, samples))
        tau = self.density(distance) * samples.length
        weight, _ = volume.absorb(tau, samples.ray, len(rays.origins))
        # Half a step off, a hard surface weighs nothing and a moment later all.
        close = distance.abs() < samples.length
        return samples.of(((weight > _WORTH) | close).nonzero()[:, 0])


def _meets(samples: Samples, distance: Float[Tensor, " m"], slope: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Where on its piece of the ray each sample comes nearest to the surface."""
    steep = torch.where(slope.abs() > _LEVEL, slope, torch.inf)
    half = samples.length / 2
    return samples.t - (distance / steep).clamp(-half, half)


def _along(rays: Rays, samples: Samples) -> Float[Tensor, "m 3"]:
    origins, directions = (part.index_select(0, samples.ray) for part in rays)
    return torch.addcmul(origins, samples.t[:, None], directions)
