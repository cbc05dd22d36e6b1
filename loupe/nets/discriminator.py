"""A U-Net that tells, for every pixel, whether a picture is a photo (Wang et al., "Real-ESRGAN", 2021, section 3.3).

Spectral normalisation everywhere but in the first and last convolution; skips are added.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.functional import interpolate, leaky_relu
from torch.nn.utils.parametrizations import spectral_norm

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

STRIDE = 8  # sides of a picture must be multiples of it
_SLOPE = 0.2


class Discriminator(nn.Module):
    """(b, 3, h, w) -> logits (b, 1, h, w): above zero for what looks like a photo."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(
            spectral_norm(nn.Conv2d(a, b, 4, stride=2, padding=1, bias=False)) for a, b in pairwise(widths)
        )
        self.up = nn.ModuleList(_plain(a, b) for a, b in pairwise(reversed(widths)))
        self.refine = nn.ModuleList(_plain(width, width) for _ in range(2))
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
        """Raises `ValueError` where a side is no multiple of `STRIDE`."""
        if any(side % STRIDE for side in pictures.shape[2:]):
            raise ValueError(f"{tuple(pictures.shape[2:])} are no multiples of {STRIDE}")
        seen = [leaky_relu(self.first(pictures), _SLOPE)]
        for convolve in self.down:
            seen.append(leaky_relu(convolve(seen[-1]), _SLOPE))
        features = seen.pop()
        for convolve in self.up:
            larger = interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
            features = leaky_relu(convolve(larger), _SLOPE) + seen.pop()
        for convolve in self.refine:
            features = leaky_relu(convolve(features), _SLOPE)
        logits: Tensor = self.last(features)
        return logits


def _plain(inputs: int, outputs: int) -> nn.Module:
    convolution: nn.Module = spectral_norm(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))
    return convolution
