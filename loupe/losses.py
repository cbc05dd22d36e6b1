"""Training losses: small functions from what was rendered to a scalar. Weights are the caller's.

C is the colour of a photo's pixel, w the weights of a ray's samples (see `loupe.volume`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def colour(rendered: Float[Tensor, "n 3"], photo: Float[Tensor, "n 3"]) -> Float[Tensor, ""]:
    """Mean squared error; PSNR is -10 log10 of it."""
    return (rendered - photo).square().mean()


def background_entropy(left: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """The mean entropy of each ray's last transmittance, in nats: rays hit something or nothing (DVGO, eq. 10)."""
    sure = left.clamp(1e-6, 1 - 1e-6)
    return -(sure * sure.log() + (1 - sure) * (1 - sure).log()).mean()


def point_colour(
    weight: Float[Tensor, " m"], colours: Float[Tensor, "m 3"], photo: Float[Tensor, "n 3"], ray: Int[Tensor, " m"]
) -> Float[Tensor, ""]:
    """sum_i w_i |c_i - C|^2, the mean over rays: each sample alone should have the pixel's colour (DVGO, eq. 11).

    The weights are taken as constants.
    """
    apart = (colours - photo[ray]).square().sum(-1)
    return (weight.detach() * apart).sum() / len(photo)
