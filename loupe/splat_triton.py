"""`loupe.splat.composite` for a GPU, forward and backward, in Triton.

The picture is cut into tiles of 16 x 16 pixels. Sprites come sorted by depth; each is entered in the list of every
tile that its rectangle touches, and a stable sort by tile leaves each list from near to far (as in Kerbl et al., "3D
Gaussian splatting", 2023, section 6). One program walks one tile's list, until every pixel has its K hits or lets
through no more than 1e-4 of the light. `composite` follows that light too, and it is all that the two may differ by:
1e-4 of a value, and for the last alpha before the dark 1e-4 / (1 - alpha) of a gradient.

Forward keeps two numbers for each pixel: the transmittance behind its last hit and how far in the list that was.
Backward walks from there to the front. With G the gradient of a pixel, T_i recovered by division, and B_i the
compositing of <G, value> over the hits behind i alone,

    dL/dalpha_i = T_i (<G, value_i> - B_i),   B_{i-1} = alpha_i <G, value_i> + (1 - alpha_i) B_i
    dL/dvalue_i = sum of T_i alpha_i G over the pixels

and the sums over the pixels of a tile are added to the sprites' gradients by atomics, the only ones.

Arrays: `discs` (m, 4) float32 holds x, y, 1 / r'^2 and density' of a sprite; `entries` the sprites of all lists, int32;
`starts` (tiles + 1,) where each tile's list begins, int32; `picture` (c, h, w) and `left` (h, w) float32; `behind`
(h, w) int32, the place in `entries` after the last hit. Matrices in a program are channels by pixels, so that a thread
has all channels of a pixel and compositing needs no exchange between threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from loupe.splat import OPAQUE, Sprites, cells

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_SIDE = 16  # pixels
_CHANNELS = 16  # at a time: a pixel's stand in the registers of one thread
_STEP = 8  # sprites between two looks at whether all pixels are done
_DARK = tl.constexpr(1e-4)  # the transmittance at which a pixel is done
_OPAQUE = tl.constexpr(OPAQUE)


def composite_tiles(
    sprites: Sprites, values: Float[Tensor, "m c"], layers: int, width: int, height: int
) -> Float[Tensor, "h w c"]:
    """The sprites' values composited, as `loupe.splat.composite` does it, in float32."""
    discs = torch.stack([*sprites.centre.unbind(1), 1 / sprites.square, sprites.peak], 1)
    entries, starts = _lists(sprites, width, height)
    pictures = [
        _Composite.apply(discs, part.contiguous(), entries, starts, layers, width, height)
        for part in values.split(_CHANNELS, 1)
    ]
    return (pictures[0] if len(pictures) == 1 else torch.cat(pictures)).movedim(0, 2)


def _lists(sprites: Sprites, width: int, height: int) -> tuple[Tensor, Tensor]:
    """`entries` and `starts`."""
    across, down = triton.cdiv(width, _SIDE), triton.cdiv(height, _SIDE)
    sprite, column, row = cells(sprites.first // _SIDE, sprites.last // _SIDE)
    tile, order = (row * across + column).int().sort(stable=True)
    starts = torch.searchsorted(tile, torch.arange(across * down + 1, device=tile.device, dtype=tile.dtype))
    return sprite[order].int(), starts.int()


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, discs: Tensor, values: Tensor, entries: Tensor, starts: Tensor, layers: int, width: int, height: int
    ) -> Tensor:
        picture = values.new_empty(values.shape[1], height, width)
        left, behind = values.new_empty(height, width), entries.new_empty(height, width)
        _forward[(len(starts) - 1,)](
            discs, values, entries, starts, picture, left, behind, width, height, layers, STEP=_STEP, **_shape(values)
        )
        ctx.save_for_backward(discs, values, entries, starts, left, behind)
        return picture

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        discs, values, entries, starts, left, behind = ctx.saved_tensors
        height, width = left.shape
        to_discs, to_values = torch.zeros_like(discs), torch.zeros_like(values)
        _backward[(len(starts) - 1,)](
            discs,
            values,
            entries,
            starts,
            gradients[0].contiguous(),
            left,
            behind,
            to_discs,
            to_values,
            width,
            height,
            **_shape(values),
        )
        return to_discs, to_values, None, None, None, None, None


def _shape(values: Tensor) -> dict[str, int]:
    """What the kernels are compiled for."""
    channels = values.shape[1]
    return {"CHANNELS": channels, "PADDED": triton.next_power_of_2(channels), "SIDE": _SIDE}


@triton.jit
def _pixels(width, height, SIDE: tl.constexpr):
    """Column and row of each pixel of this program's tile, its place in the picture, and whether it is in it."""
    tile, within = tl.program_id(0), tl.arange(0, SIDE * SIDE)
    across = tl.cdiv(width, SIDE)
    column = tile % across * SIDE + within % SIDE
    row = tile // across * SIDE + within // SIDE
    return column, row, row.to(tl.int64) * width + column, (column < width) & (row < height)


@triton.jit
def _meet(discs, sprite, listed, column, row, inside):
    """Of pixels and a sprite: offsets, squared distance, share of the peak, alpha, and whether it is a hit. Of the
    sprite: 1 / r'^2 and density'."""
    across = column + 0.5 - tl.load(discs + 4 * sprite)
    down = row + 0.5 - tl.load(discs + 4 * sprite + 1)
    inverse, peak = tl.load(discs + 4 * sprite + 2), tl.load(discs + 4 * sprite + 3)
    distance = across * across + down * down
    share = 1.0 - distance * inverse
    hit = listed & inside & (share > 0)
    return across, down, distance, share, tl.minimum(peak * share, _OPAQUE), hit, inverse, peak


@triton.jit
def _forward(
    discs, values, entries, starts, picture, left, behind, width, height, layers,
    CHANNELS: tl.constexpr, PADDED: tl.constexpr, SIDE: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    column, row, pixel, inside = _pixels(width, height, SIDE)
    place, end = tl.load(starts + tl.program_id(0)), tl.load(starts + tl.program_id(0) + 1)
    channel = tl.arange(0, PADDED)
    through = tl.full([SIDE * SIDE], 1.0, tl.float32)
    hits = tl.zeros([SIDE * SIDE], tl.int32)
    last = tl.zeros([SIDE * SIDE], tl.int32)
    total = tl.zeros([PADDED, SIDE * SIDE], tl.float32)
    unfinished = 1
    while (place < end) & (unfinished > 0):
        for _ in tl.static_range(STEP):
            listed = place < end
            sprite = tl.load(entries + place, mask=listed, other=0)
            _, _, _, _, alpha, hit, _, _ = _meet(discs, sprite, listed, column, row, inside)
            counts = hit & (hits < layers) & (through > _DARK)
            alpha = tl.where(counts, alpha, 0.0)
            value = tl.load(values + sprite.to(tl.int64) * CHANNELS + channel, mask=channel < CHANNELS, other=0.0)
            total += value[:, None] * (through * alpha)[None, :]
            through *= 1.0 - alpha
            hits += counts.to(tl.int32)
            place += 1
            last = tl.where(counts, place, last)
        unfinished = tl.max((inside & (hits < layers) & (through > _DARK)).to(tl.int32), axis=0)
    target = picture + channel.to(tl.int64)[:, None] * width * height + pixel[None, :]
    tl.store(target, total, mask=inside[None, :] & (channel < CHANNELS)[:, None])
    tl.store(left + pixel, through, mask=inside)
    tl.store(behind + pixel, last, mask=inside)


@triton.jit
def _backward(
    discs, values, entries, starts, gradient, left, behind, to_discs, to_values, width, height,
    CHANNELS: tl.constexpr, PADDED: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    column, row, pixel, inside = _pixels(width, height, SIDE)
    channel = tl.arange(0, PADDED)
    through = tl.load(left + pixel, mask=inside, other=1.0)
    last = tl.load(behind + pixel, mask=inside, other=0)
    source = gradient + channel.to(tl.int64)[:, None] * width * height + pixel[None, :]
    asked = tl.load(source, mask=inside[None, :] & (channel < CHANNELS)[:, None], other=0.0)
    start, place = tl.load(starts + tl.program_id(0)), tl.max(last, axis=0)
    beyond = tl.zeros([SIDE * SIDE], tl.float32)
    while place > start:
        place -= 1
        sprite = tl.load(entries + place)
        across, down, distance, share, alpha, hit, inverse, peak = _meet(discs, sprite, True, column, row, inside)
        counts = hit & (place < last)
        alpha = tl.where(counts, alpha, 0.0)
        through /= 1.0 - alpha
        row_of = sprite.to(tl.int64) * CHANNELS + channel
        value = tl.load(values + row_of, mask=channel < CHANNELS, other=0.0)
        gain = tl.sum(asked * value[:, None], axis=0)
        to_alpha = tl.where(counts & (alpha < _OPAQUE), through * (gain - beyond), 0.0)
        beyond += alpha * (gain - beyond)
        steep = 2.0 * peak * inverse
        target = to_discs + 4 * sprite
        tl.atomic_add(target, steep * tl.sum(to_alpha * across, axis=0), sem="relaxed")
        tl.atomic_add(target + 1, steep * tl.sum(to_alpha * down, axis=0), sem="relaxed")
        tl.atomic_add(target + 2, -peak * tl.sum(to_alpha * distance, axis=0), sem="relaxed")
        tl.atomic_add(target + 3, tl.sum(to_alpha * share, axis=0), sem="relaxed")
        to_value = tl.sum((through * alpha)[None, :] * asked, axis=1)
        tl.atomic_add(to_values + row_of, to_value, mask=channel < CHANNELS, sem="relaxed")
