"""Picture -> a map of cells, `factor` pixels wide each -> picture, by convolutions alone.

Nothing here looks at the whole picture (no spatial normalisation, no attention): each output depends on a square of
inputs whose half-width the modules state as `radius`, in cells. So a picture may be worked on in tiles with a halo of
that width, and the result is that of the whole (`in_tiles`).
Outside a picture stand zeros, as if its border were mid-grey: pixels come as values around 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), starting as the identity; radius 2."""

    radius = 2

    def __init__(self, width: int) -> None:
        super().__init__()
        last = _convolution(width, width)
        nn.init.zeros_(last.weight)
        self.branch = nn.Sequential(nn.ReLU(), _convolution(width, width), nn.ReLU(), last)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Features of the same shape."""
        changed: Tensor = self.branch(features)
        return features + changed


class Encoder(nn.Sequential):
    """(b, 3, factor h, factor w) -> (b, channels, h, w): pixels are gathered into cells first, which makes all
    convolutions work at the low resolution."""

    def __init__(self, channels: int, width: int, blocks: int, factor: int) -> None:
        super().__init__(
            nn.PixelUnshuffle(factor),
            _convolution(3 * factor**2, width),
            *(Residual(width) for _ in range(blocks)),
            nn.ReLU(),
            nn.Conv2d(width, channels, 1),
        )
        self.radius = 1 + blocks * Residual.radius


class Decoder(nn.Sequential):
    """(b, channels, h, w) -> (b, 3, factor h, factor w), the mirror image of `Encoder`."""

    def __init__(self, channels: int, width: int, blocks: int, factor: int) -> None:
        super().__init__(
            _convolution(channels, width),
            *(Residual(width) for _ in range(blocks)),
            nn.ReLU(),
            _convolution(width, 3 * factor**2),
            nn.PixelShuffle(factor),
        )
        self.radius = 2 + blocks * Residual.radius


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def in_tiles(
    function: Callable[[Tensor], Tensor], whole: Float[Tensor, "1 c h w"], scale: Fraction, tile: int, halo: int
) -> Float[Tensor, "1 d sh sw"]:
    """`function(whole)`, computed on tiles of at most `tile` + 2 `halo` inputs a side and put together.

    Args:
        function: makes maps `scale` times as large as its inputs, each value from inputs at most `halo` away.
        tile, halo: in inputs, and whole outputs at that `scale`, as the sides of `whole` are.
    """
    bands = []
    for rows, inner_rows in _spans(whole.shape[2], scale, tile, halo):
        parts = []
        for columns, inner_columns in _spans(whole.shape[3], scale, tile, halo):
            parts.append(function(whole[:, :, rows, columns])[:, :, inner_rows, inner_columns])
        bands.append(torch.cat(parts, 3))
    return torch.cat(bands, 2)


def _spans(size: int, scale: Fraction, tile: int, halo: int) -> Iterator[tuple[slice, slice]]:
    """Along one axis, for every tile: the inputs with their halo, and the tile's own among their outputs."""
    for start in range(0, size, tile):
        stop, first = min(start + tile, size), max(start - halo, 0)
        yield slice(first, stop + halo), slice(int((start - first) * scale), int((stop - first) * scale))
