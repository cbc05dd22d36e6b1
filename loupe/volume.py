"""Volume rendering: from optical depths along rays to weights, and from weights to whatever is to be seen.

Samples are *packed*: those of all rays stand one after another, ray by ray and front to back, and `ray` (m,) names the
ray of each, ascending. A ray may have any number of samples, none included. The *optical depth* tau of a sample is
density times length; its opacity is alpha = 1 - exp(-tau). Nothing here knows a field: values of any number of channels
are composited.

Max, "Optical models for direct volume rendering", 1995; Mildenhall et al., "NeRF", 2020, equation 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.functional import softplus

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


class Weights(NamedTuple):
    """`weight` (m,): what each sample contributes to its ray; `left` (n,): the transmittance behind a ray's last one.

    The weights of a ray and what is left add up to 1.
    """

    weight: Float[Tensor, " m"]
    left: Float[Tensor, " n"]


def optical_depth(raw: Float[Tensor, " m"], interval: float) -> Float[Tensor, " m"]:
    """The optical depth of samples of opacity 1 - (1 + exp(raw))^(-interval) (DVGO, equation 5)."""
    return interval * softplus(raw)


def laplace_density(distance: Tensor, scale: float | Tensor) -> Tensor:
    """The density at signed distances from a surface (any shape), negative inside.

    It is 1 / `scale` deep inside, half of that on the surface, and falls by e with every `scale` (world units,
    broadcast) outside: Laplace's distribution function of -distance (Yariv et al., "VolSDF", 2021, equations 2 and 3).
    """
    # Not by |distance|, whose slope at 0 would be 0.
    outside, inside = (
        0.5 * torch.exp(-distance.clamp(min=0) / scale),
        1 - 0.5 * torch.exp(distance.clamp(max=0) / scale),
    )
    return torch.where(distance > 0, outside, inside) / scale


def absorb(tau: Float[Tensor, " m"], ray: Int[Tensor, " m"], rays: int) -> Weights:
    """Weights w_i = T_i (1 - exp(-tau_i)) with T_i = exp(-sum of the tau before i on its ray), for `rays` rays."""
    weight = torch.exp(-before(tau, ray, rays)) * -torch.expm1(-tau)
    return Weights(weight, torch.exp(-per_ray(tau[:, None], ray, rays)[:, 0]))


def absorb_dense(tau: Float[Tensor, "n s"]) -> tuple[Float[Tensor, "n s"], Float[Tensor, " n"]]:
    """`absorb` where each ray has the same number of samples: weights, and what is left."""
    ray = torch.arange(len(tau), device=tau.device).repeat_interleave(tau.shape[1])
    weight, left = absorb(tau.flatten(), ray, len(tau))
    return weight.view(tau.shape), left


def composite(
    weight: Float[Tensor, " m"], values: Float[Tensor, "m c"], ray: Int[Tensor, " m"], rays: int
) -> Float[Tensor, "n c"]:
    """The weighted sum of `values` along each of `rays` rays; zero where a ray has no samples."""
    return per_ray(weight[:, None] * values, ray, rays)


def per_ray(values: Float[Tensor, "m c"], ray: Int[Tensor, " m"], rays: int) -> Float[Tensor, "n c"]:
    """The sum of `values` over each ray's samples."""
    lengths = torch.bincount(ray, minlength=rays)
    return torch.segment_reduce(values, "sum", lengths=lengths, axis=0, unsafe=True)


def before(values: Float[Tensor, " m"], ray: Int[Tensor, " m"], rays: int) -> Float[Tensor, " m"]:
    """For each sample the sum of `values` over the samples before it on its ray."""
    return _Before.apply(values, ray, rays)  # type: ignore[no-any-return, no-untyped-call]


class _Before(torch.autograd.Function):
    """An exclusive running sum that starts anew with every ray; its adjoint is the sum over the samples behind.

    One running sum over all samples, less its value at the ray's start. In float32 that difference would lose digits
    by the thousandth ray, so it is taken in float64.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, ray: Tensor, rays: int) -> Tensor:
        first, last = _ends(ray, rays)
        ctx.save_for_backward(last)
        running = _running(values)
        return (running[:-1] - running.index_select(0, first)).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (last,) = ctx.saved_tensors
        running = _running(gradients[0])
        return (running.index_select(0, last) - running[1:]).to(gradients[0].dtype), None, None


def _running(values: Tensor) -> Tensor:
    """Running sums in float64, (m + 1,): before the first sample to behind the last."""
    return torch.cat([values.new_zeros(1, dtype=torch.float64), values.double().cumsum(0)])


def _ends(ray: Tensor, rays: int) -> tuple[Tensor, Tensor]:
    """For each sample, the index of the first sample on its ray and the index behind the last one."""
    lengths = torch.bincount(ray, minlength=rays)
    behind = lengths.cumsum(0)
    return (behind - lengths).index_select(0, ray), behind.index_select(0, ray)


def distortion(
    weight: Float[Tensor, " m"], t: Float[Tensor, " m"], width: float, ray: Int[Tensor, " m"], rays: int
) -> Float[Tensor, ""]:
    """How far the weights of a ray are spread along it; the mean over `rays` rays.

    sum_ij w_i w_j |t_i - t_j| + 1/3 sum_i w_i^2 `width` (Barron et al., "Mip-NeRF 360", 2022, equation 15), in time
    linear in the samples (Sun et al., "Improved direct voxel grid optimization", 2022). t ascends along each ray.
    """
    nearer = t * before(weight, ray, rays) - before(weight * t, ray, rays)
    return (2 * weight * nearer + width / 3 * weight.square()).sum() / rays


def spread(values: Float[Tensor, "n c"], ray: Int[Tensor, " m"]) -> Float[Tensor, "m c"]:
    """Each ray's values at all its samples: the transpose of `per_ray`, and `values[ray]` with a faster gradient."""
    return _Spread.apply(values, ray)  # type: ignore[no-any-return, no-untyped-call]


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, ray: Tensor) -> Tensor:
        ctx.save_for_backward(ray)
        ctx.rays = len(values)
        return values.index_select(0, ray)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (ray,) = ctx.saved_tensors
        return per_ray(gradients[0].contiguous(), ray, ctx.rays), None
