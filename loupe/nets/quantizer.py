"""Vector quantisation: a continuous vector is replaced by the nearest of a fixed number of learnt codes.

Conventions: *latents* are what an encoder gives, as a map (b, c, h, w) or as rows (n, c); *codes* are the rows of the
codebook (codes, c). Distances are Euclidean. Searching is done in float32 whatever the caller's precision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

# Numbers in one block of the table of distances: on a CPU what its cache holds (1024 rows of 2048 codes).
_BLOCK = {"cpu": 1 << 21, "cuda": 1 << 28}


class Quantized(NamedTuple):
    """A quantised map.

    Attributes:
        codes: each cell's nearest code; its gradient goes to the codebook alone.
        passed: the same values; the gradient goes to the latents, unchanged (straight-through).
        indices: rows of the codebook.
    """

    codes: Float[Tensor, "b c h w"]
    passed: Float[Tensor, "b c h w"]
    indices: Int[Tensor, "b h w"]


class Quantizer(nn.Module):
    """A codebook, and how often each code was used since the last revival (`uses`)."""

    codebook: Float[nn.Parameter, "codes c"]
    uses: Int[Tensor, " codes"]

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.randn(codes, channels))
        self.register_buffer("uses", torch.zeros(codes, dtype=torch.int64))

    def nearest(self, latents: Float[Tensor, "n c"]) -> Int[Tensor, " n"]:
        """The row of the nearest code for each latent (equation 2 of VQ-NeRF), in bounded memory.

        |z - e|^2 = |z|^2 - 2 z.e + |e|^2, and |z|^2 is the same for all codes: one matrix product does it.
        """
        codebook = self.codebook.detach()
        squares, columns = codebook.square().sum(1), codebook.T.contiguous()
        rows = max(1, _BLOCK[latents.device.type] // len(codebook))
        with torch.autocast(latents.device.type, enabled=False):
            found = [
                torch.addmm(squares, block, columns, alpha=-2).argmin(1)
                for block in torch.split(latents.detach().float(), rows)
            ]
        return torch.cat(found)

    def forward(self, latents: Float[Tensor, "b c h w"]) -> Quantized:
        """The map with every cell replaced by its nearest code; while training, uses are counted."""
        batch, _, height, width = latents.shape
        indices = self.nearest(rows_of(latents))
        if self.training:
            self.uses += self.count(indices)
        codes = self.lookup(indices.reshape(batch, height, width))
        return Quantized(codes, _straight_through(latents, codes), indices.reshape(batch, height, width))

    def lookup(self, indices: Int[Tensor, "b h w"]) -> Float[Tensor, "b c h w"]:
        """The codes of these rows as a map; differentiable in the codebook."""
        return nn.functional.embedding(indices, self.codebook).movedim(-1, 1)

    def count(self, indices: Int[Tensor, "*shape"]) -> Int[Tensor, " codes"]:
        """How often each code stands in `indices`."""
        return torch.bincount(indices.flatten(), minlength=len(self.codebook))

    @torch.no_grad()
    def revive(self, latents: Float[Tensor, "n c"], generator: torch.Generator) -> int:
        """Move every code unused since the last call onto a latent, and start counting anew.

        Latents are drawn without repetition, in proportion to their squared distance from the codes in use. Returns how
        many codes moved: all dead ones, or as many as there are latents.
        """
        dead = (self.uses == 0).nonzero()[:, 0]
        self.uses.zero_()
        moved = min(len(dead), len(latents))
        if moved:
            error = (latents - self.codebook[self.nearest(latents)]).square().sum(1).double().cpu()
            # The offset lets a latent be drawn that lies on a code, where no other is left.
            drawn = torch.multinomial(error + 1e-12 * (1 + error.max()), moved, generator=generator)
            self.codebook[dead[:moved]] = latents[drawn.to(latents.device)].to(self.codebook.dtype)
        return moved

    @torch.no_grad()
    def fit_k_means(self, latents: Float[Tensor, "n c"], rounds: int, generator: torch.Generator) -> None:
        """Place the codes by Lloyd's k-means on latents, from randomly drawn ones; empty clusters are revived.

        With fewer latents than codes the rest of the codes keep their places.
        """
        chosen = torch.randperm(len(latents), generator=generator)[: len(self.codebook)].to(latents.device)
        self.codebook[: len(chosen)] = latents[chosen]
        for _ in range(rounds):
            indices = self.nearest(latents)
            self.uses.copy_(self.count(indices))
            sums = torch.zeros_like(self.codebook).index_add_(0, indices, latents)
            means = sums / self.uses.clamp(min=1)[:, None]
            self.codebook.copy_(torch.where(self.uses[:, None] > 0, means, self.codebook))
            self.revive(latents, generator)


def rows_of(latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "n c"]:
    """A map's cells as rows, picture by picture and row by row."""
    return latents.movedim(1, -1).reshape(-1, latents.shape[1])


def _straight_through(latents: Tensor, codes: Tensor) -> Tensor:
    """The values of `codes` with the gradient of `latents` (Bengio et al. 2013; van den Oord et al. 2017)."""
    passed: Tensor = _StraightThrough.apply(latents, codes.detach())  # type: ignore[no-untyped-call]
    return passed


class _StraightThrough(torch.autograd.Function):
    """`latents + (codes - latents).detach()` without its rounding: decoding in training and later is the same."""

    @staticmethod
    def forward(_context: object, latents: Tensor, codes: Tensor) -> Tensor:
        return codes.to(latents.dtype)

    @staticmethod
    def backward(_context: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def perplexity(uses: Int[Tensor, " codes"]) -> float:
    """exp of the entropy of the codes' shares: the number of codes that, used evenly, would carry as much."""
    shares = uses.double() / uses.sum()
    return float(torch.special.entr(shares).sum().exp())
