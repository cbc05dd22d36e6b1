"""Feature map -> picture `ratio` times as large, by convolutions that depth modulates: 4K-NeRF's decoder.

A trunk of residual-in-residual dense blocks (Wang et al., "ESRGAN", 2018) works at low resolution; behind every dense
block's first convolution and before its last, and behind every block, stands a modulation (Wang et al., "SFT-GAN",
2018): the activations are scaled and shifted by what two 1x1 convolutions make of the depth (Wang et al., "4K-NeRF",
2022, equation 8 and figure 7; the published code for what the paper leaves open). A head enlarges.

No normalisation and nothing that looks at the whole picture: an output depends on inputs at most `radius`
low-resolution pixels away, and outside the picture stand zeros. So a picture may be worked on in tiles (`upsample`).
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import interpolate, leaky_relu

from loupe.config import Config
from loupe.nets.autoencoder import in_tiles

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_SLOPE = 0.2
_SHARE = 0.2  # of a branch that is added to its input
_CONDITION = 32  # channels of the condition that modulations read


class UpsamplerConfig(Config):
    """The decoder's size and kind.

    Attributes:
        blocks: residual-in-residual dense blocks (the paper's large, medium and small: 5, 3, 1).
        width, growth: channels of the trunk, and those that each dense convolution adds.
        head: "bilinear": enlargements by two and convolutions in turn, as the paper has it ("nearest": as the published
            code has it); "shuffle": one convolution to all pixels of a cell, many times cheaper.
        residual: whether the output is added to the bicubically enlarged low-resolution colour.
        depth: whether depth modulates the trunk.
    """

    blocks: int = Field(default=5, ge=1, le=23)
    width: int = Field(default=64, ge=8, le=256)
    growth: int = Field(default=32, ge=4, le=128)
    head: Literal["bilinear", "nearest", "shuffle"] = "bilinear"
    residual: bool = False
    depth: bool = True


class Upsampler(nn.Module):
    """(b, channels, h, w) features, (b, conditions, h, w) -> (b, 3, ratio h, ratio w)."""

    def __init__(self, config: UpsamplerConfig, channels: int, conditions: int, ratio: int) -> None:
        """`conditions`: channels of the condition, depth first; 0 for a trunk without modulation."""
        super().__init__()
        self.config = config
        self.ratio = ratio
        self.conditions = conditions
        self.trunk = Trunk(config, channels, conditions)
        self.head: nn.Module = Shuffle(config.width, ratio) if config.head == "shuffle" else Enlarge(config, ratio)
        if config.residual:
            nn.init.zeros_(_last(self.head).weight)
            nn.init.zeros_(_last(self.head).bias)  # type: ignore[arg-type]

    @property
    def radius(self) -> int:
        """How far, in low-resolution pixels, an output looks."""
        return self.trunk.radius + int(self.head.radius)  # type: ignore[arg-type]

    def forward(
        self, features: Float[Tensor, "b c h w"], condition: Float[Tensor, "b k h w"], colour: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b 3 rh rw"]:
        """The picture; `colour` is the low-resolution one, which only a residual decoder looks at."""
        picture: Tensor = self.head(self.trunk(torch.cat([condition, features], 1)))
        return picture + self.enlarged(colour) if self.config.residual else picture

    def enlarged(self, colour: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 rh rw"]:
        """Bicubic."""
        return interpolate(colour, scale_factor=self.ratio, mode="bicubic", align_corners=False)

    @torch.no_grad()
    def upsample(
        self,
        features: Float[Tensor, "1 c h w"],
        condition: Float[Tensor, "1 k h w"],
        colour: Float[Tensor, "1 3 h w"],
        memory: int,
    ) -> Float[Tensor, "1 3 rh rw"]:
        """The same in about `memory` bytes: trunk and head one after the other, each in tiles as large as fit.

        The trunk looks far, the head hardly at all: apart, neither computes much of its tiles' rims twice.
        """
        joined = torch.cat([condition, features], 1)
        scale, whole = Fraction(self.ratio), (joined.shape[2], joined.shape[3])
        side = tile_side(memory, self.trunk.floats * joined.element_size(), self.trunk.radius, whole)
        activations = in_tiles(self.trunk, joined, Fraction(1), side, self.trunk.radius)
        reach = int(self.head.radius)  # type: ignore[arg-type]
        side = tile_side(memory, int(self.head.floats) * joined.element_size(), reach, whole)  # type: ignore[arg-type]
        picture = in_tiles(self.head, activations, scale, side, reach)
        return picture + self.enlarged(colour) if self.config.residual else picture


def tile_side(memory: int, per_pixel: int, halo: int, whole: tuple[int, int]) -> int:
    """The side of square tiles, halo left out, of which one takes about `memory` bytes at `per_pixel` bytes a pixel;
    at least 16, and the longer side of `whole` where that fits."""
    if whole[0] * whole[1] * per_pixel <= memory:
        return max(whole)
    return max(16, int((memory / per_pixel) ** 0.5) - 2 * halo)


class Trunk(nn.Module):
    """Condition and features (b, conditions + channels, h, w) -> activations (b, width, h, w)."""

    def __init__(self, config: UpsamplerConfig, channels: int, conditions: int) -> None:
        super().__init__()
        self._split = [conditions, channels]
        self.first = _convolution(channels, config.width)
        self.condition = _condition_net(conditions, config.width) if conditions else None
        self.blocks = nn.ModuleList(Block(config, bool(conditions)) for _ in range(config.blocks))
        self.modulate = _modulation(config.width, bool(conditions))
        self.last = _convolution(config.width, config.width)
        self.radius = 2 + 15 * config.blocks
        # What is alive at the widest place: the skips, the dense block's parts, and them joined with their result.
        self.floats = 6 * config.width + 3 * (config.width + 4 * config.growth)

    def forward(self, joined: Tensor) -> Tensor:
        given, features = torch.split(joined, self._split, 1)
        condition = self.condition(given) if self.condition else None
        first: Tensor = self.first(features)
        activations = first
        for block in self.blocks:
            activations = block(activations, condition)
        changed: Tensor = self.last(self.modulate(activations, condition))
        return first + changed


class Block(nn.Module):
    """A residual-in-residual dense block: three dense blocks and a modulation."""

    def __init__(self, config: UpsamplerConfig, modulated: bool) -> None:
        super().__init__()
        self.dense = nn.ModuleList(DenseBlock(config, modulated) for _ in range(3))
        self.modulate = _modulation(config.width, modulated)

    def forward(self, activations: Tensor, condition: Tensor | None) -> Tensor:
        changed = activations
        for dense in self.dense:
            changed = dense(changed, condition)
        changed = self.modulate(changed, condition)
        return torch.add(activations, changed, alpha=_SHARE)


class DenseBlock(nn.Module):
    """Five convolutions of which each reads what all before it made."""

    def __init__(self, config: UpsamplerConfig, modulated: bool) -> None:
        super().__init__()
        width, growth = config.width, config.growth
        self.grow = nn.ModuleList(_convolution(width + index * growth, growth) for index in range(4))
        self.close = _convolution(width + 4 * growth, width)
        self.enter = _modulation(width, modulated)
        self.leave = _modulation(growth, modulated)

    def forward(self, activations: Tensor, condition: Tensor | None) -> Tensor:
        parts = [self.enter(activations, condition)]
        for convolve in self.grow:
            parts.append(leaky_relu(convolve(torch.cat(parts, 1)), _SLOPE))
        parts[-1] = self.leave(parts[-1], condition)
        return torch.add(activations, self.close(torch.cat(parts, 1)), alpha=_SHARE)


class Modulation(nn.Module):
    """y (1 + scale(condition)) + shift(condition) (4K-NeRF, equation 8)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = (
            nn.Sequential(nn.Conv2d(_CONDITION, _CONDITION, 1), nn.LeakyReLU(_SLOPE), nn.Conv2d(_CONDITION, width, 1))
            for _ in range(2)
        )

    def forward(self, activations: Tensor, condition: Tensor) -> Tensor:
        return torch.addcmul(activations + self.shift(condition), activations, self.scale(condition))


class Unmodulated(nn.Module):
    """The place of a modulation in a decoder without depth."""

    def forward(self, activations: Tensor, condition: None) -> Tensor:
        return activations


class Enlarge(nn.Module):
    """Twice as large, as often as it takes, each time with a convolution behind; then two more."""

    def __init__(self, config: UpsamplerConfig, ratio: int) -> None:
        super().__init__()
        if ratio & (ratio - 1):
            raise ValueError(f"ratio {ratio} is no power of two")
        self._mode = config.head
        self.steps = nn.ModuleList(_convolution(config.width, config.width) for _ in range(ratio.bit_length() - 1))
        self.large = _convolution(config.width, config.width)
        self.colour = _convolution(config.width, 3)
        # Each enlargement looks one of its input's pixels aside, each convolution one of its own.
        self.radius = 1 + sum(1 for _ in self.steps) + 1
        self.floats = 4 * config.width * ratio**2

    def forward(self, activations: Tensor) -> Tensor:
        smooth = {"align_corners": False} if self._mode == "bilinear" else {}
        for convolve in self.steps:
            enlarged = interpolate(activations, scale_factor=2, mode=self._mode, **smooth)
            activations = leaky_relu(convolve(enlarged), _SLOPE)
        picture: Tensor = self.colour(leaky_relu(self.large(activations), _SLOPE))
        return picture


class Shuffle(nn.Module):
    """One convolution to the `ratio` x `ratio` pixels of every cell."""

    radius = 1

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.convolve = _convolution(width, 3 * ratio**2)
        self.spread = nn.PixelShuffle(ratio)
        self.floats = width + 6 * ratio**2

    def forward(self, activations: Tensor) -> Tensor:
        picture: Tensor = self.spread(self.convolve(activations))
        return picture


def _last(head: nn.Module) -> nn.Conv2d:
    convolution = head.convolve if isinstance(head, Shuffle) else head.colour
    assert isinstance(convolution, nn.Conv2d)
    return convolution


def _modulation(width: int, modulated: bool) -> nn.Module:
    return Modulation(width) if modulated else Unmodulated()


def _condition_net(conditions: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        _convolution(conditions, width),
        nn.LeakyReLU(_SLOPE),
        nn.Conv2d(width, width, 1),
        nn.LeakyReLU(_SLOPE),
        nn.Conv2d(width, width, 1),
        nn.LeakyReLU(_SLOPE),
        nn.Conv2d(width, _CONDITION, 1),
    )


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)
