"""Surfaces as signed distances: the fields, the densities that make them visible, and the colours on them.

A field is asked in world coordinates and answers in world units: the distance to the surface, negative inside. Within,
it works in *normalised* coordinates: a centre and a scale, given when it is made, put the sphere of radius `scale`
around `centre`, which is to hold all there is, onto the sphere of radius 1 around the origin. Whatever the world's
unit, the same field begins as the same shape, and the gradient, world over world, has length 1.

Yariv et al., "Volume rendering of neural implicit surfaces" (VolSDF), 2021; Yariv et al., "Multiview neural surface
reconstruction" (IDR), 2020, for the networks; Atzmon and Lipman, "SAL", 2020, for their beginning as a sphere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import normalize, softplus
from torch.nn.utils.parametrizations import weight_norm

from loupe import volume
from loupe.config import Config
from loupe.fields.hash_grid import HashConfig, HashGrid
from loupe.fields.positional import positional

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    Backwards = Callable[[Tensor, bool], Tensor]

_SHARPNESS = 100.0  # beta of the softplus, nearly a ReLU
_FAINT = 0.1  # the weights of a hash grid's features at the start, as a share of the position's
_PROBES = 4096  # points at which a network is fitted to the sphere
_RIDGE = 1e-5  # how strongly that fit holds on to the weights of the closed form
_DENSITY_START = 0.1
_LEAST_SCALE = 1e-4
_FLAT = 1e-2  # of the density's scale: along a piece over which the distance changes by less, the density is one


class SdfMlpConfig(Config):
    """VolSDF's network: `layers` of width `hidden`, of which number `skip`, counted from 0, sees the encoded position
    again; `frequencies` octaves of it; `features` beside the distance. At the start the field is a sphere of `radius`,
    in normalised coordinates."""

    hidden: int = Field(default=256, ge=8, le=2048)
    layers: int = Field(default=8, ge=2, le=16)
    skip: int = Field(default=4, ge=1)
    frequencies: int = Field(default=6, ge=0, le=16)
    features: int = Field(default=256, ge=1, le=2048)
    radius: float = Field(default=0.6, gt=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> SdfMlpConfig:
        if self.skip >= self.layers:
            raise ValueError(f"there is no layer {self.skip} to skip to: layers count from 0 to {self.layers - 1}")
        return self


class SdfHashConfig(Config):
    """A hash grid over the cube around the normalised sphere, and a network behind it; else as `SdfMlpConfig`."""

    grid: HashConfig = HashConfig()
    hidden: int = Field(default=64, ge=8, le=2048)
    layers: int = Field(default=2, ge=1, le=16)
    features: int = Field(default=15, ge=1, le=2048)
    radius: float = Field(default=0.6, gt=0, lt=1)


class ColourConfig(Config):
    """`layers` of width `hidden`; `view_frequencies` octaves of the direction."""

    hidden: int = Field(default=256, ge=1, le=2048)
    layers: int = Field(default=4, ge=1, le=16)
    view_frequencies: int = Field(default=4, ge=0, le=16)


class SignedDistance(nn.Module):
    """World points -> signed distances in world units, and features: what every such field has in common.

    Attributes:
        centre, scale: (3,) and (): the sphere of the world that is normalised to radius 1.
        network: what stands behind `encode`; its first output is the normalised distance, the others are the features.
    """

    centre: Tensor
    scale: Tensor
    network: nn.Module

    def __init__(self, centre: Sequence[float], scale: float) -> None:
        super().__init__()
        self.register_buffer("centre", torch.tensor(centre, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))

    def forward(self, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n c"]]:
        """The distance at world points, and the features."""
        values = self.network(self.encode(self.normalised(points)))
        return self.scale * values[:, 0], values[:, 1:]

    def normalised(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """World points in normalised coordinates."""
        return (points - self.centre) / self.scale

    def encode(self, normalised: Float[Tensor, "n 3"]) -> Float[Tensor, "n e"]:
        """What the network sees of normalised points: the points themselves, and more behind them."""
        raise NotImplementedError

    def encode_to_differentiate(self, normalised: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n e"], Backwards]:
        """`encode`, and the way back: what makes derivatives by position, (n, 3), of derivatives by what was encoded,
        (n, e); they themselves can be differentiated if its second argument says so."""
        encoded = self.encode(normalised)

        def backwards(slopes: Tensor, learning: bool) -> Tensor:
            return torch.autograd.grad(encoded, normalised, slopes, create_graph=learning)[0]

        return encoded, backwards


class SdfMlp(SignedDistance):
    """VolSDF's field: a deep network of the encoded position."""

    def __init__(self, config: SdfMlpConfig, centre: Sequence[float], scale: float) -> None:
        super().__init__(centre, scale)
        self._frequencies = config.frequencies
        network = _Network(3 + 6 * config.frequencies, config.hidden, config.layers, 1 + config.features, config.skip)
        self.network = network.begin_as_sphere(self.encode, config.radius, others=0.0)

    def encode(self, normalised: Float[Tensor, "n 3"]) -> Float[Tensor, "n e"]:
        """The points, and the sines and cosines of their multiples."""
        return positional(normalised, self._frequencies)


class SdfHash(SignedDistance):
    """A field of the same kind that learns and answers faster: a hash grid and a small network.

    Each level counts by the `size` of its cells, against the first's. A step of training then turns the surface's
    normal by as much on a fine level as on a coarse one; else the fine ones roughen it before it has found its place.
    """

    size: Tensor

    def __init__(self, config: SdfHashConfig, centre: Sequence[float], scale: float) -> None:
        super().__init__(centre, scale)
        self.grid = HashGrid(config.grid)
        sides = torch.tensor(config.grid.sides)
        self.register_buffer("size", (sides[0] / sides).repeat_interleave(config.grid.channels), persistent=False)
        network = _Network(3 + self.grid.width, config.hidden, config.layers, 1 + config.features)
        self.network = network.begin_as_sphere(self.encode, config.radius, others=_FAINT)

    def encode(self, normalised: Float[Tensor, "n 3"]) -> Float[Tensor, "n e"]:
        """The points, and the grid's features there."""
        return torch.cat([normalised, self.size * self.grid((normalised + 1) / 2)], 1)

    def encode_to_differentiate(self, normalised: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n e"], Backwards]:
        """See `SignedDistance`; in closed form."""
        values, by_unit = self.grid.with_slopes((normalised + 1) / 2)
        values, by_unit = self.size * values, self.size[:, None] * by_unit

        def backwards(slopes: Tensor, _: bool) -> Tensor:
            return slopes[:, :3] + (slopes[:, 3:, None] * by_unit).sum(1) / 2

        return torch.cat([normalised, values], 1), backwards


class _Network(nn.Module):
    """Layers with a softplus, and a linear one; number `skip` sees the input again."""

    def __init__(self, before: int, hidden: int, layers: int, after: int, skip: int | None = None) -> None:
        super().__init__()
        self._skip = skip
        sizes = [before if index == 0 else hidden + (before if index == skip else 0) for index in range(layers)]
        self.layers = nn.ModuleList(nn.Linear(size, hidden) for size in sizes)
        self.last = nn.Linear(hidden, after)

    def forward(self, encoded: Float[Tensor, "n e"]) -> Float[Tensor, "n c"]:
        values: Tensor = self.last(self._inner(encoded))
        return values

    def _inner(self, encoded: Float[Tensor, "n e"]) -> Float[Tensor, "n h"]:
        inner = encoded
        for index, layer in enumerate(self.layers):
            if index == self._skip:
                inner = torch.cat([inner, encoded], 1) / math.sqrt(2)
            inner = softplus(layer(inner), beta=_SHARPNESS)
        return inner

    @torch.no_grad()
    def begin_as_sphere(self, encode: Callable[[Tensor], Tensor], radius: float, others: float) -> _Network:
        """Make the first output the distance to a sphere, and normalise the weights (Salimans and Kingma, 2016).

        Random weights of variance 2 / width keep lengths, so that the mean of the last hidden layer grows with |x|
        (Atzmon and Lipman, theorem 1). At usual widths that is a dented ball, a tenth or two off; so the last weights
        are then moved as little as makes the distance fit. What stands behind the position in the input counts for
        `others` of what the position does.
        """
        linears = cast("list[nn.Linear]", list(self.layers))
        for index, layer in enumerate(linears):
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / layer.out_features))
            nn.init.zeros_(layer.bias)
            if index in (0, self._skip):
                position = layer.in_features - linears[0].in_features
                layer.weight[:, position + 3 :] *= others
        nn.init.constant_(self.last.weight[0], math.sqrt(math.pi / self.last.in_features))
        nn.init.constant_(self.last.bias[0], -radius)
        self._fit_to_sphere(encode, radius)
        for layer in [*linears, self.last]:
            weight_norm(layer)
        return self

    def _fit_to_sphere(self, encode: Callable[[Tensor], Tensor], radius: float) -> None:
        """Ridge regression of what the distance lacks on the last hidden layer, over the ball of radius 1."""
        points = normalize(torch.randn(_PROBES, 3)) * torch.rand(_PROBES, 1) ** (1 / 3)
        inner = self._inner(encode(points))
        lacking = (points.norm(dim=1) - radius - self.last(inner)[:, 0]).double()
        given = torch.cat([inner, torch.ones(_PROBES, 1)], 1).double()
        ridge = _RIDGE * _PROBES * torch.eye(given.shape[1], dtype=given.dtype)
        change = torch.linalg.solve(given.T @ given + ridge, given.T @ lacking).to(inner)
        self.last.weight[0] += change[:-1]
        self.last.bias[0] += change[-1]


def distance_and_normal(
    field: SignedDistance, points: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n c"], Float[Tensor, "n 3"]]:
    """The distance, the features and the distance's gradient at world points: the normal, of length 1 where the field
    is a distance.

    Losses on the gradient reach the field while it trains (`field.training`) and gradients are on; else all three are
    plain numbers. The points themselves learn nothing.
    """
    learning = field.training and torch.is_grad_enabled()
    with torch.enable_grad():
        normalised = field.normalised(points.detach()).requires_grad_()
        encoded, backwards = field.encode_to_differentiate(normalised)
        values = field.network(encoded)
        (slopes,) = torch.autograd.grad(values[:, 0].sum(), encoded, create_graph=learning)
        # World over world: what the centre and the scale do to the distance and to the points cancels out.
        found = field.scale * values[:, 0], values[:, 1:], backwards(slopes, learning)
    return found if learning else (found[0].detach(), found[1].detach(), found[2].detach())


def eikonal(gradient: Float[Tensor, "n 3"]) -> Float[Tensor, ""]:
    """How far gradients are from length 1: the mean of (|g| - 1)^2 (Gropp et al., "Implicit geometric regularization
    for learning shapes", 2020; VQ-NeRF, equation 8)."""
    length: Tensor = torch.linalg.vector_norm(gradient, dim=1)
    return (length - 1).square().mean()


class Density(nn.Module):
    """Signed distances -> densities per world unit, with a learnt `scale`: how soft the surface is.

    `unit`: the length that the learnt number counts in, world units; a field's `scale` makes it begin and learn alike
    in every world.
    """

    def __init__(self, unit: float = 1.0) -> None:
        super().__init__()
        self._unit = unit
        self.softness = nn.Parameter(torch.tensor(_DENSITY_START))

    @property
    def scale(self) -> Float[Tensor, ""]:
        """The distribution's scale, world units; never below 1e-4 of `unit`."""
        return self._unit * (self.softness.abs() + _LEAST_SCALE)

    def forward(self, distance: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The density at points of these signed distances."""
        raise NotImplementedError

    def integral(self, distance: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Of the density over the distance, up to a constant."""
        raise NotImplementedError

    def depth(
        self, distance: Float[Tensor, " n"], slope: Float[Tensor, " n"], length: Float[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """The optical depth of straight pieces, `length` long, in whose middle the signed distance is `distance` and
        along which it grows by `slope` a unit: exact however hard the surface is."""
        change = slope * length
        grows = change.abs() > _FLAT * self.scale.detach()
        first, last = distance - change / 2, distance + change / 2
        steep = (self.integral(last) - self.integral(first)) / torch.where(grows, slope, 1)
        return torch.where(grows, steep, self(distance) * length)


class LaplaceDensity(Density):
    """VolSDF's density, (1/b) times the Laplace distribution's cumulative function of scale b at -d (equations 2, 3).

    The default, because the error bound of VolSDF's sampler is derived for it.
    """

    def forward(self, distance: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The density at points of these signed distances."""
        return volume.laplace_density(distance, self.scale)

    def integral(self, distance: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """See `Density`."""
        tail = -0.5 * torch.exp(-distance.abs() / self.scale)
        return torch.where(distance > 0, tail, distance / self.scale + tail)


class LogisticDensity(Density):
    """VQ-NeRF's density, (1/a) sigmoid(-d / a) (Yang et al. 2023, equation 4)."""

    def forward(self, distance: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The density at points of these signed distances."""
        scale = self.scale
        return torch.sigmoid(-distance / scale) / scale

    def integral(self, distance: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """See `Density`."""
        return -softplus(-distance / self.scale)


class ColourHead(nn.Module):
    """What a surface shows in a direction, from where it is, its normal and the field's features (VolSDF's radiance
    network).

    `bounded`: a sigmoid makes the channels colours in [0, 1]; without it they are any numbers.
    """

    def __init__(self, config: ColourConfig, features: int, channels: int = 3, bounded: bool = True) -> None:
        super().__init__()
        self._octaves, self._bounded = config.view_frequencies, bounded
        before = 3 + 3 + 3 + 6 * config.view_frequencies + features
        sizes = [before, *[config.hidden] * config.layers]
        self.layers = nn.ModuleList(weight_norm(nn.Linear(one, other)) for one, other in pairwise(sizes))
        self.last = weight_norm(nn.Linear(config.hidden, channels))

    def forward(
        self,
        points: Float[Tensor, "n 3"],
        normals: Float[Tensor, "n 3"],
        directions: Float[Tensor, "n 3"],
        features: Float[Tensor, "n c"],
    ) -> Float[Tensor, "n channels"]:
        """The channels at points, in the field's normalised coordinates; `normals` are the distance's gradients,
        `directions` of length 1, from the eye."""
        inner = torch.cat([points, normals, positional(directions, self._octaves), features], 1)
        for layer in self.layers:
            inner = layer(inner).relu()
        values: Tensor = self.last(inner)
        return values.sigmoid() if self._bounded else values
