"""What stands behind a surface field's box, out to infinity: all that is outside a sphere, turned inside out.

The sphere of the world of radius `scale` around `centre` is normalised to radius 1 around 0, as in `loupe.fields.sdf`.
A point x outside of it, r from the centre, is given as (x / r, 1 / r): where it stands in the sky, and how near it is,
1 on the sphere and 0 at infinity. The four numbers are bounded however far away the point is, and what is far away,
of whose depth the views tell little, takes little room.

A ray is followed from where it leaves the sphere. One that passes it by begins where it is nearest to the centre, and
one that begins outside and looks away begins at its eye. From there on r only grows along the ray, so that 1 / r alone
says where on it a point is.

Zhang et al., "NeRF++: Analyzing and improving neural radiance fields", 2020, section 4; Yariv et al., "Volume rendering
of neural implicit surfaces" (VolSDF), 2021, where a surface has this behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from loupe import volume
from loupe.config import Config
from loupe.fields.positional import positional
from loupe.rays import Rays

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Head = Literal["colour", "code"]


class BackgroundConfig(Config):
    """How finely the background is sampled, and its network. The defaults suit a CPU; VolSDF's numbers are hidden 256,
    layers 8 and skip 4, the others as they are.

    Attributes:
        samples: along a ray, the last of them at infinity; with one alone, only the direction counts.
        hidden, layers: width and number of the layers that all heads share. A head has one more, half as wide.
        skip: number of the layer, counted from 0, that sees the encoded point again, if any.
        frequencies, view_frequencies: octaves of a point's four numbers, and of the direction.
    """

    samples: int = Field(default=32, ge=1, le=1024)
    hidden: int = Field(default=64, ge=2, le=2048)
    layers: int = Field(default=3, ge=1, le=16)
    skip: int | None = Field(default=None, ge=1)
    frequencies: int = Field(default=10, ge=0, le=16)
    view_frequencies: int = Field(default=4, ge=0, le=16)

    @model_validator(mode="after")
    def _check(self) -> BackgroundConfig:
        if self.skip is not None and self.skip >= self.layers:
            raise ValueError(f"there is no layer {self.skip} to skip to: layers count from 0 to {self.layers - 1}")
        return self


class InvertedSphere(nn.Module):
    """What is outside a sphere of the world: its density, and heads "colour" and, for `codes` channels, "code".

    A density is the absolute value of a number, as in NeRF++: unlike a softplus it may be 0, unlike a ReLU's its slope
    never is. It counts per normalised distance along the ray, so that a place is as dense from wherever it is seen.
    NeRF++'s code takes differences in 1 / r for lengths; with those, a ray that passes a place at a right angle to the
    centre would hardly see it.

    Attributes:
        centre, scale: (3,) and (): the sphere's centre and radius, world units.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, config: BackgroundConfig, centre: Sequence[float], scale: float, codes: int = 0) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("centre", torch.tensor(centre, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.trunk = _Trunk(config)
        self.density = nn.Linear(config.hidden, 1)
        self.heads = nn.ModuleDict({"colour": _head(config, 3).append(nn.Sigmoid())})
        if codes:
            self.heads["code"] = _head(config, codes)

    def look(self, rays: Rays, head: Head, generator: torch.Generator | None = None) -> Float[Tensor, "n channels"]:
        """What rays see by a head. The weights of a ray's samples add up to 1: nothing shows behind them.

        With a generator, which is the CPU's, samples are jittered. A head that the field lacks is a `KeyError`.
        """
        rays = Rays((rays.origins - self.centre) / self.scale, rays.directions)
        inverse, length = self._sampled(rays, generator)
        features = self.trunk(outside(rays, inverse))
        density = self.density(features[:, :-1])[..., 0].abs()
        weight, left = volume.absorb_dense(density * length)
        seen = positional(rays.directions, self.config.view_frequencies)
        values = self.heads[head](torch.cat([features, seen[:, None].expand(-1, self.config.samples, -1)], -1))
        return torch.einsum("ns,nsc->nc", torch.cat([weight, left[:, None]], 1), values)

    def _sampled(
        self, rays: Rays, generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "n s"], Float[Tensor, "n s-1"]]:
        """1 / r of samples, and the lengths of the pieces of the ray that all but the last one stand for.

        Samples are even in 1 / r, each in the middle of its piece, or anywhere in it. The last one is at infinity, and
        its piece half as long: were it nearer, what is in the sky would move with the eye.
        """
        last = self.config.samples - 1
        shape = len(rays.origins), last
        within = torch.full(shape, 0.5) if generator is None else torch.rand(shape, generator=generator)
        spacing = start(rays)[:, None] / (last + 0.5)
        steps = torch.cat([torch.arange(last, 0, -1) + 0.5 - within, torch.zeros(len(within), 1)], 1)
        ends = _beyond(rays, spacing * (torch.arange(last, -1, -1) + 0.5).to(spacing))
        return spacing * steps.to(spacing), ends.diff()


class _Trunk(nn.Module):
    """Points (..., 4) -> features (..., hidden)."""

    def __init__(self, config: BackgroundConfig) -> None:
        super().__init__()
        self._frequencies, self._skip = config.frequencies, config.skip
        encoded, hidden = 4 + 8 * config.frequencies, config.hidden
        sizes = [encoded if index == 0 else hidden + encoded * (index == config.skip) for index in range(config.layers)]
        self.layers = nn.ModuleList(nn.Linear(size, hidden) for size in sizes)

    def forward(self, points: Float[Tensor, "n s 4"]) -> Float[Tensor, "n s h"]:
        encoded = positional(points.flatten(0, 1), self._frequencies)
        inner = encoded
        for index, layer in enumerate(self.layers):
            if index == self._skip:
                inner = torch.cat([inner, encoded], 1)
            inner = layer(inner).relu()
        return inner.view(*points.shape[:2], inner.shape[1])


def _head(config: BackgroundConfig, channels: int) -> nn.Sequential:
    """Features and the encoded direction -> channels (as NeRF's, figure 7 of its paper)."""
    before, half = config.hidden + 3 + 6 * config.view_frequencies, config.hidden // 2
    return nn.Sequential(nn.Linear(before, half), nn.ReLU(), nn.Linear(half, channels))


def start(rays: Rays) -> Float[Tensor, " n"]:
    """1 / r where rays, in normalised coordinates, begin: 1 on the sphere, less outside of it.

    It begins at its point nearest to the centre, which may be the eye, unless that is inside the sphere.
    """
    origins, directions = rays
    nearest = origins - (origins * directions).sum(1, keepdim=True).clamp(max=0) * directions
    return torch.reciprocal(torch.linalg.vector_norm(nearest, dim=1).clamp(min=1))


def outside(rays: Rays, inverse: Float[Tensor, "n s"]) -> Float[Tensor, "n s 4"]:
    """The points (x / r, 1 / r) on rays, in normalised coordinates, whose 1 / r is `inverse`: at most that of `start`.

    x is p + q d with p the point of the ray's line nearest to the origin and |p|^2 + q^2 = r^2. Divided by r, no large
    numbers are left to cancel: at infinity x / r is the direction d itself.
    """
    sky = inverse[..., None] * _beside(rays)[:, None] + _cosine(rays, inverse)[..., None] * rays.directions[:, None]
    return torch.cat([sky, inverse[..., None]], -1)


def _beyond(rays: Rays, inverse: Float[Tensor, "n s"]) -> Float[Tensor, "n s"]:
    """How far behind a ray's point nearest to the origin it is at `inverse`: q above."""
    return _cosine(rays, inverse) / inverse


def _cosine(rays: Rays, inverse: Float[Tensor, "n s"]) -> Float[Tensor, "n s"]:
    """q / r: of the angle between the ray and the direction from the origin to its point."""
    sine = inverse * torch.linalg.vector_norm(_beside(rays), dim=1, keepdim=True)
    return torch.sqrt(((1 - sine) * (1 + sine)).clamp(min=0))


def _beside(rays: Rays) -> Float[Tensor, "n 3"]:
    """The points of the rays' lines nearest to the origin."""
    origins, directions = rays
    return origins - (origins * directions).sum(1, keepdim=True) * directions
