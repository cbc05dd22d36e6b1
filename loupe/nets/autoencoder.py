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


class Encoder(nn.Module):
    """(b, 3, factor h, factor w) -> (b, channels, h, w): a linear map of each cell's pixels (`line`), and what residual
    blocks that also see the cells around add to it, at first nothing."""

    def __init__(self, channels: int, width: int, blocks: int, factor: int) -> None:
        super().__init__()
        pixels = 3 * factor**2
        self.gather = nn.PixelUnshuffle(factor)
        self.line = nn.Conv2d(pixels, channels, 1)
        self.rest = _residuals(pixels, width, blocks, nn.Conv2d(width, channels, 1))
        self.radius = 1 + blocks * Residual.radius

    def forward(self, pictures: Float[Tensor, "b 3 fh fw"]) -> Float[Tensor, "b c h w"]:
        """The latents of pictures."""
        cells = self.gather(pictures)
        latents: Tensor = self.line(cells) + self.rest(cells)
        return latents


class Decoder(nn.Module):
    """(b, channels, h, w) -> (b, 3, factor h, factor w), the mirror image of `Encoder`."""

    def __init__(self, channels: int, width: int, blocks: int, factor: int) -> None:
        super().__init__()
        pixels = 3 * factor**2
        self.line = nn.Conv2d(channels, pixels, 1)
        self.rest = _residuals(channels, width, blocks, _convolution(width, pixels))
        self.spread = nn.PixelShuffle(factor)
        self.radius = 2 + blocks * Residual.radius

    def forward(self, codes: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 fh fw"]:
        """The pictures of codes."""
        pictures: Tensor = self.spread(self.line(codes) + self.rest(codes))
        return pictures


@torch.no_grad()
def start_at_principal_components(encoder: Encoder, decoder: Decoder, pictures: Float[Tensor, "b 3 h w"]) -> None:
    """Set both linear maps to the principal components of the pictures' cells: the best that linear maps can do.

    The components are orthonormal, so distances between latents are distances between pixels.
    """
    cells = encoder.gather(pictures).movedim(1, -1).flatten(0, 2).double().cpu()
    mean = cells.mean(0)
    components = torch.linalg.eigh((cells - mean).T @ (cells - mean))[1].T.flip(0)[: encoder.line.out_channels]
    for parameter in (*encoder.line.parameters(), *decoder.line.parameters()):
        parameter.zero_()
    count = len(components)
    encoder.line.weight[:count, :, 0, 0] = components.to(encoder.line.weight)
    encoder.line.bias[:count] = -(components @ mean).to(encoder.line.weight)  # type: ignore[index]
    decoder.line.weight[:, :count, 0, 0] = components.T.to(decoder.line.weight)
    decoder.line.bias.copy_(mean)  # type: ignore[union-attr]


def _residuals(inputs: int, width: int, blocks: int, last: nn.Conv2d) -> nn.Sequential:
    """inputs -> width -> blocks -> last, which starts at zero."""
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(_convolution(inputs, width), *(Residual(width) for _ in range(blocks)), nn.ReLU(), last)


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
