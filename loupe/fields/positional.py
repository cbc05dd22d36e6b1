"""The encoding of coordinates that lets a network see fine differences between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def positional(points: Float[Tensor, "n d"], frequencies: int) -> Float[Tensor, "n c"]:
    """Points or directions, and behind them the sines and cosines of 1, 2, 4 ... times them: (n, d + 2 d `frequencies`)
    (Mildenhall et al., "NeRF", 2020, equation 4, without its factor of pi)."""
    scaled = (points[:, :, None] * 2.0 ** torch.arange(frequencies, device=points.device)).flatten(1)
    return torch.cat([points, scaled.sin(), scaled.cos()], -1)
