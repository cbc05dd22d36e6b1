"""Picture -> features of every pixel, by a small pyramid of convolutions: what 4K4D looks at in a source view.

Down in three stages (3 -> 8, 8 -> 16, 16 -> 32 channels, the last two at half the size of the one before), and up
again, each stage's own features added to the enlarged coarser ones (Lin et al., "Efficient neural radiance fields",
2022, as 4K4D's published code has it). No normalisation, which that code has: a pixel's features then hang on the whole
picture, and on which pictures were in the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.functional import interpolate, pad

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

FEATURES = 8
_SIZES = (8, 16, 32)  # channels of the stages
_SHRINK = 1 << (len(_SIZES) - 1)


class Pyramid(nn.Module):
    """(b, 3, h, w) pictures in [0, 1] -> (b, 8, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = _SIZES
        self.stages = nn.ModuleList([_stage(3, first, 3, 1), _stage(first, second, 5, 2), _stage(second, third, 5, 2)])
        self.laterals = nn.ModuleList(nn.Conv2d(size, third, 1) for size in _SIZES[:-1])
        self.out = nn.Conv2d(third, FEATURES, 3, padding=1)

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 8 h w"]:
        """Sides that are no multiple of 4 are continued at the end, and the features there cut off."""
        height, width = pictures.shape[2:]
        seen = [pad(2 * pictures - 1, (0, -width % _SHRINK, 0, -height % _SHRINK), mode="replicate")]
        for stage in self.stages:
            seen.append(stage(seen[-1]))
        made = seen.pop()
        for lateral in reversed(self.laterals):
            finer = lateral(seen.pop())
            made = finer + interpolate(made, size=finer.shape[2:], mode="bilinear", align_corners=False)
        features: Tensor = self.out(made)
        return features[:, :, :height, :width]


def _stage(before: int, after: int, size: int, stride: int) -> nn.Sequential:
    first = nn.Conv2d(before, after, size, stride, size // 2)
    second = nn.Conv2d(after, after, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))
