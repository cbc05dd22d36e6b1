"""Where to sample the density about a surface, with a bound on how wrong the opacity may be: VolSDF's sampler.

A field gives signed distances d, negative inside; its density is Psi_beta(-d) / beta (`volume.laplace_density`). The
opacity sums the density at the near end of each interval between two samples. The distances alone bound the error of
that sum: the balls about two samples hold no surface, and away from surfaces density hardly changes. A ray gets more
samples where the bound is large, until it is small enough everywhere. Where `rounds` of that do not suffice, the ray's
*scale* is a wider beta, the least that bisection finds, for which it is. The samples to render are drawn from the
opacity at that scale.

The bound holds for distances to a set of points, exact on both sides. A network's are about that.

Samples are *dense* here, (rays, samples), ascending along each ray; `volume.absorb_dense` makes weights of them. A
repeated sample is an interval of no length, and counts nothing. No gradient passes. Memory grows with rays times
`uniform` times 1 + `rounds`: the caller takes rays in chunks.

Yariv et al., "Volume rendering of neural implicit surfaces", 2021: sections 3.3 and 3.4 (theorem 1, equations 12 to 17,
algorithm 1) and supplement B.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from pydantic import Field, model_validator

from loupe import volume
from loupe.config import Config
from loupe.rays import Rays

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    Distance = Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]]

_EVEN = 1e-4  # of opacity: what a ray that meets nothing has to draw its samples from, even over its length
_TINY = 1e-30


class BoundConfig(Config):
    """How many samples, and how good.

    Attributes:
        uniform: samples of a first look, even over the ray; and samples added in each round.
        rounds: at most so many times are samples added.
        error: the opacity along a ray is to be no more wrong than this.
        bisections: halvings in the search for a ray's scale.
        samples: to render, drawn from the opacity.
        extra: to render, taken from the first look.
    """

    uniform: int = Field(default=128, ge=2, le=1024)
    rounds: int = Field(default=5, ge=0, le=20)
    error: float = Field(default=0.1, gt=0, lt=1)
    bisections: int = Field(default=10, ge=1, le=50)
    samples: int = Field(default=64, ge=1, le=1024)
    extra: int = Field(default=32, ge=0, le=1024)

    @model_validator(mode="after")
    def _extra_are_of_the_first_look(self) -> BoundConfig:
        if self.extra > self.uniform:
            raise ValueError(f"extra {self.extra} are taken from the {self.uniform} of uniform; lower extra")
        return self


class Refined(NamedTuple):
    """Samples `t` (r, s) with their signed `distance` (r, s), and each ray's `scale` (r,), at least beta.

    The bound at a ray's scale is at most `config.error`. Where the scale is beta, the rounds sufficed; a ray that
    needed fewer samples than another ends in repeated ones.
    """

    t: Float[Tensor, "r s"]
    distance: Float[Tensor, "r s"]
    scale: Float[Tensor, " r"]


@torch.no_grad()
def sample(
    distance: Distance,
    rays: Rays,
    near: Float[Tensor, " r"],
    far: Float[Tensor, " r"],
    beta: float,
    config: BoundConfig,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "r m"]:
    """Where to sample each ray: near, far, `config.samples` drawn from the opacity and `config.extra` spread over it.

    Args:
        distance: signed distances at points in the world.
        near: where along the ray to begin, world units, and
        far: to end; no less than near.
        beta: the density's scale, in world units, above 0.
        generator: jitters the samples; it is the CPU's, whatever the device. None: they stand evenly in opacity.

    Returns:
        t (r, samples + extra + 2), ascending.
    """
    look = _first_look(near, far, config.uniform, generator)
    t, distances, scale = refine(distance, rays, look, beta, config)
    tau = volume.laplace_density(distances[:, :-1], scale[:, None]) * t.diff()
    weight, _ = volume.absorb_dense(tau)
    even = t.diff() / (far - near).clamp(min=_TINY)[:, None]
    drawn = quantiles(t, weight + _EVEN * even, _levels(near, config.samples, generator))
    spread = look[:, 1:-1].gather(1, _some(near, config, generator))
    return torch.cat([near[:, None], drawn, spread, far[:, None]], 1).sort(-1).values


@torch.no_grad()
def refine(distance: Distance, rays: Rays, look: Float[Tensor, "r s"], beta: float, config: BoundConfig) -> Refined:
    """Add samples to a first `look` where the opacity may be most wrong (algorithm 1, but for the draw at its end).

    Only rays whose bound is above `config.error` at `beta` are asked for more.
    """
    t, distances = look, _ask(distance, rays, look)
    scale = _fit(distances, t, _safe_scale(t, config.error), beta, config)
    for _ in range(config.rounds):
        wrong = (scale > beta).nonzero()[:, 0]
        if not len(wrong):
            break
        before, known = t[wrong], distances[wrong]
        bound = opacity_error(known, before, scale[wrong])
        added = quantiles(before, bound, _levels(scale[wrong], config.uniform, None))
        asked = _ask(distance, Rays(rays.origins[wrong], rays.directions[wrong]), added)
        merged, order = torch.cat([before, added], 1).sort(-1)
        t, distances = (torch.cat([part, part[:, -1:].expand(-1, config.uniform)], 1) for part in (t, distances))
        t[wrong], distances[wrong] = merged, torch.cat([known, asked], 1).gather(1, order)
        scale[wrong] = _fit(distances[wrong], merged, scale[wrong], beta, config)
    return Refined(t, distances, scale)


def opacity_error(
    distance: Float[Tensor, "r s"], t: Float[Tensor, "r s"], scale: float | Float[Tensor, " r"]
) -> Float[Tensor, "r intervals"]:
    """How wrong the opacity between a ray's first sample and any point of each interval may be, 0 to 1 (theorem 1).

    Opacity is 1 - exp(-R), with R the sum of length times density at the near end, up to that point.
    """
    width = torch.as_tensor(scale, dtype=t.dtype, device=t.device)[..., None]
    length = t.diff()
    tau = volume.laplace_density(distance[:, :-1], width) * length
    passed = torch.cat([torch.zeros_like(tau[:, :1]), tau[:, :-1].cumsum(-1)], 1)
    wrong = (length.square() * torch.exp(-clearance(distance, length) / width)).cumsum(-1) / (4 * width.square())
    # exp(-passed) (exp(wrong) - 1), in a form that is never 0 times infinity.
    return (torch.exp(wrong - passed) * -torch.expm1(-wrong)).clamp(max=1)


def clearance(distance: Float[Tensor, "r s"], length: Float[Tensor, "r intervals"]) -> Float[Tensor, "r intervals"]:
    """How near any point of an interval may be to a surface, given the distances at its ends: d* (supplement B).

    No surface lies in the ball about either end. What is nearest to the interval and outside both is where the balls'
    surfaces meet, if that is beside the interval (the height of a triangle of known sides); else it is beyond the end
    with the smaller ball. Balls that do not meet leave 0, and so does a change of sign, whatever the distances.
    """
    first, second = distance[:, :-1].abs(), distance[:, 1:].abs()
    sides = (first + second + length, first + second - length, length + first - second, length + second - first)
    height = math.prod(sides[1:], start=sides[0]).clamp(min=0).sqrt() / (2 * length)
    beyond = (first - second).abs() * (first + second) >= length.square()
    same_side = distance[:, :-1] * distance[:, 1:] > 0
    return torch.where(beyond, torch.minimum(first, second), height) * same_side


def quantiles(
    t: Float[Tensor, "r s"], mass: Float[Tensor, "r intervals"], levels: Float[Tensor, "r n"]
) -> Float[Tensor, "r n"]:
    """Where `levels` (0 to 1) of each ray's mass lie behind; the mass of an interval is even over it."""
    reached = torch.cat([torch.zeros_like(mass[:, :1]), mass.cumsum(-1)], 1)
    wanted = levels * reached[:, -1:]
    above = torch.searchsorted(reached, wanted, right=True).clamp(1, t.shape[1] - 1)
    low, high = reached.gather(1, above - 1), reached.gather(1, above)
    share = ((wanted - low) / (high - low).clamp(min=_TINY)).clamp(0, 1)
    return torch.lerp(t.gather(1, above - 1), t.gather(1, above), share)


def _fit(distance: Tensor, t: Tensor, scale: Tensor, beta: float, config: BoundConfig) -> Tensor:
    """Each ray's scale by bisection between `beta` and the last round's `scale`; `beta` itself where that will do."""

    def good(tried: Tensor) -> Tensor:
        return opacity_error(distance, t, tried).amax(-1) <= config.error

    low = torch.full_like(scale, beta)
    # More samples need not make the bound smaller, but this one always holds.
    high = torch.where(good(scale), scale, _safe_scale(t, config.error))
    high = torch.where(good(low), low, high)
    for _ in range(config.bisections):
        middle = (low + high) / 2
        passes = good(middle)
        low, high = torch.where(passes, low, middle), torch.where(passes, middle, high)
    return high


def _safe_scale(t: Tensor, error: float) -> Tensor:
    """A scale at which the bound is at most `error` whatever the distances are (lemma 2, for uneven samples)."""
    return (t.diff().square().sum(-1) / (4 * math.log1p(error))).sqrt()


def _ask(distance: Distance, rays: Rays, t: Tensor) -> Tensor:
    """The signed distances at `t` (r, s) along `rays`."""
    points = rays.origins[:, None] + t[..., None] * rays.directions[:, None]
    return distance(points.flatten(0, 1)).view(t.shape)


def _first_look(near: Tensor, far: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Near, one sample in each of `count` equal parts of the ray, and far."""
    inner = near[:, None] + _levels(near, count, generator) * (far - near)[:, None]
    return torch.cat([near[:, None], inner, far[:, None]], 1)


def _levels(like: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """For each of (r,) rays, `count` ascending numbers, one in each equal part of 0 to 1: its middle, or any."""
    shape = len(like), count
    within = torch.full(shape, 0.5) if generator is None else torch.rand(shape, generator=generator)
    return ((torch.arange(count) + within) / count).to(like)


def _some(like: Tensor, config: BoundConfig, generator: torch.Generator | None) -> Tensor:
    """For each of (r,) rays, which `extra` of `uniform` samples to take: evenly, or any."""
    if generator is None:
        even = (torch.arange(config.extra) * 2 + 1) * config.uniform // (2 * max(config.extra, 1))
        return even.expand(len(like), -1).to(like.device)
    shuffled = torch.rand((len(like), config.uniform), generator=generator).argsort(-1)
    return shuffled[:, : config.extra].to(like.device)
