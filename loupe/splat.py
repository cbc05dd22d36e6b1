"""Points -> pixels: the differentiable point renderer of 4K4D, in plain torch and, on a GPU, in Triton.

A point is a *sprite*: a disc that faces the camera, of the radius r = fy * radius / z in pixels, with one depth z for
all of its pixels. At a pixel centre u it has

    alpha = density' * max(0, 1 - |pi(x) - u|^2 / r'^2)

and a pixel is composited front to back over the K nearest sprites that reach its centre, its *hits*:

    colour = sum_k T_k alpha_k c_k,   T_k = prod_{j<k} (1 - alpha_j)

(Xu et al., "4K4D: Real-time 4D view synthesis at 4K resolution", 2024, "Differentiable depth peeling"). The paper peels
the layers off in K passes of a rasteriser. Since a sprite has one depth, the order within every pixel is that of all
sprites by depth, so one sort gives the same hits; sprites of equal depth stand in the order of their indices. Which
hits count is not differentiated, their alphas are.

r' and density' are those of the paper after a low-pass filter in the picture, without which a point smaller than a
pixel would flicker as it moves. A sprite's profile has the variance r^2 / 6 along each axis and the filter adds 1/2
square pixel (as EWA does: Zwicker et al., "EWA splatting", 2002), so r'^2 = r^2 + 3; and what a sprite loses in height
is what it gains in area, density' = density * r^2 / r'^2 (as in the 2D filter of Yu et al., "Mip-Splatting", 2024). The
sum of a small sprite over the pixels then varies by 6 % at most; with the variance of 0.3 that is usual for Gaussians
it would vary by 18 %, since this profile ends at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.functional import embedding_bag
from torch.utils.checkpoint import checkpoint

from loupe import volume
from loupe.camera import Camera

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

LOW_PASS = 3.0  # square pixels: what the filter adds to the square of a sprite's radius
OPAQUE = 1 - 1e-6  # no alpha is above it: light that is gone for good has no gradient
_PAIRS = 1 << 22  # of sprites and pixels in memory at a time: about 230 bytes each while training
_NOTHING = 1e-3  # the opacity from which on a pixel has a depth
_SOLID = 0.5  # the opacity from which on a pixel hides what stands behind


class Splatted(NamedTuple):
    """A picture of points: `colour` (h, w, c) premultiplied by opacity, `opacity` (h, w), and `depth` (h, w): the mean
    z-depth of the hits by their weights, in world units, 0 where there is next to nothing."""

    colour: Float[Tensor, "h w c"]
    opacity: Float[Tensor, "h w"]
    depth: Float[Tensor, "h w"]


class Sprites(NamedTuple):
    """The points that reach some pixel centre, from near to far.

    `point` (m,): their indices; `centre` (m, 2) in pixels; `square` (m,): r'^2; `peak` (m,): density'; `depth` (m,);
    `first`, `last` (m, 2): the columns and rows of the rectangle of pixels around each, both included.
    """

    point: Int[Tensor, " m"]
    centre: Float[Tensor, "m 2"]
    square: Float[Tensor, " m"]
    peak: Float[Tensor, " m"]
    depth: Float[Tensor, " m"]
    first: Int[Tensor, "m 2"]
    last: Int[Tensor, "m 2"]


def render_points(
    points: Float[Tensor, "n 3"],
    colour: Float[Tensor, "n c"],
    radius: Float[Tensor, " n"],
    density: Float[Tensor, " n"],
    camera: Camera,
    layers: int,
) -> Splatted:
    """What `camera` sees of points; differentiable in all that a point has. A window: that of `camera.cropped(...)`.

    Points that the camera stands in or behind (z <= radius) do not show.

    Args:
        points: positions in the world.
        colour: any number of channels.
        radius: in world units.
        density: the alpha of a large point at its middle, in [0, 1].
        camera: a pinhole camera.
        layers: K, the most hits that count in a pixel.
    """
    sprites = project(points, radius, density, camera)
    if points.is_cuda and points.dtype == torch.float32:
        from loupe.splat_triton import composite_tiles

        return _splatted(composite_tiles(sprites, _values(sprites, colour), layers, camera.width, camera.height))
    bands = _bands(sprites, camera)
    if len(bands) == 1:
        return _splatted(composite(sprites, _values(sprites, colour), layers, camera.width, camera.height))
    # Each band is made again for the gradient, so that the pairs of one alone are in memory.
    pieces = [
        checkpoint(render_points, points, colour, radius, density, band, layers, use_reentrant=False) for band in bands
    ]
    return Splatted(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))


def visible(
    points: Float[Tensor, "n 3"],
    radius: Float[Tensor, " n"],
    density: Float[Tensor, " n"],
    camera: Camera,
    layers: int,
    tolerance: float = 3.0,
) -> Bool[Tensor, " n"]:
    """Which points a view shows: those within its picture that stand no deeper than what all the points together show
    at that pixel, with a tolerance.

    Args:
        points, radius, density, camera, layers: as for `render_points`.
        tolerance: in radii of the point as it is drawn. Sprites face the camera, so neighbours on a surface tilted by
            an angle from facing it hide each other by its tangent times their radius: 3 allows for 72 degrees.
    """
    with torch.no_grad():
        seen = render_points(points, points.new_zeros(len(points), 0), radius, density, camera, layers)
        placed = _placed(points, camera)
        centre, square = _footprint(placed, radius, camera)
        size = centre.new_tensor([camera.width, camera.height])
        inside = (placed[:, 2] > radius) & ((centre >= 0) & (centre < size)).all(1)
        column, row = torch.where(inside[:, None], centre, 0).long().unbind(1)
        behind = placed[:, 2] - seen.depth[row, column]
        allowed = tolerance * square.sqrt() * placed[:, 2] / camera.fy
        return inside & ((behind <= allowed) | (seen.opacity[row, column] < _SOLID))


def project(
    points: Float[Tensor, "n 3"], radius: Float[Tensor, " n"], density: Float[Tensor, " n"], camera: Camera
) -> Sprites:
    """Points as a camera's sprites."""
    placed = _placed(points, camera)
    with torch.no_grad():
        first, last = _rectangle(*_footprint(placed, radius, camera), camera)
        shows = (placed[:, 2] > radius) & (first <= last).all(1)
        point = shows.nonzero()[:, 0]
        point = point[placed[point, 2].argsort(stable=True)]
    # Once more for these alone: the gradient of a point in the camera's plane would be 0 times infinity.
    placed = placed[point]
    centre, square = _footprint(placed, radius[point], camera)
    peak = density[point] * (1 - LOW_PASS / square)
    return Sprites(point, centre, square, peak, placed[:, 2], first[point].long(), last[point].long())


def _placed(points: Tensor, camera: Camera) -> Tensor:
    """In the camera's frame, (n, 3)."""
    pose = torch.from_numpy(camera.cam_from_world).to(points)
    return points @ pose[:3, :3].T + pose[:3, 3]


def _footprint(placed: Tensor, radius: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """The middle of each point's sprite and the square of its radius r', in pixels."""
    depth = placed[:, 2]
    x = camera.fx * placed[:, 0] / depth + camera.cx
    y = camera.fy * placed[:, 1] / depth + camera.cy
    return torch.stack([x, y], 1), (camera.fy * radius / depth).square() + LOW_PASS


def _rectangle(centre: Tensor, square: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """The first and last column and row whose pixel centres a sprite may reach, as whole floats."""
    reach = square.sqrt()[:, None]
    end = centre.new_tensor([camera.width - 1, camera.height - 1])
    return (centre - reach - 0.5).ceil().clamp(min=0), (centre + reach - 0.5).floor().minimum(end)


def _values(sprites: Sprites, colour: Tensor) -> Tensor:
    """What is composited: the colour, the depth, and one, whose sum is the opacity."""
    return torch.cat([colour[sprites.point], torch.stack([sprites.depth, torch.ones_like(sprites.depth)], 1)], 1)


def _splatted(composited: Tensor) -> Splatted:
    opacity = composited[..., -1]
    depth = torch.where(opacity > _NOTHING, composited[..., -2] / opacity.clamp(min=_NOTHING), 0)
    return Splatted(composited[..., :-2], opacity, depth)


def cells(first: Int[Tensor, "m 2"], last: Int[Tensor, "m 2"]) -> tuple[Tensor, Tensor, Tensor]:
    """All cells of rectangles of a grid, one rectangle after another: the index of the rectangle, column and row."""
    across, down = (last - first + 1).unbind(1)
    line = torch.repeat_interleave(down)  # the rectangle of each of its rows
    row = _steps(down, line) + first[:, 1].index_select(0, line)
    across = across.index_select(0, line)
    cell = torch.repeat_interleave(across)
    column = _steps(across, cell) + first[:, 0].index_select(0, line).index_select(0, cell)
    return line.index_select(0, cell), column, row.index_select(0, cell)


def _steps(counts: Tensor, group: Tensor) -> Tensor:
    """0, 1, 2 ... within each of groups that have so many members; `group` names that of each member, ascending."""
    return torch.arange(len(group), device=group.device) - (counts.cumsum(0) - counts).index_select(0, group)


class _Hits(NamedTuple):
    """The hits that count, sprite by sprite: `sprite`, `column` and `row` (k,); `order` (k,) lists them pixel by pixel,
    from near to far in each; `pixel` (k,), row by row, in that order."""

    sprite: Int[Tensor, " k"]
    column: Int[Tensor, " k"]
    row: Int[Tensor, " k"]
    order: Int[Tensor, " k"]
    pixel: Int[Tensor, " k"]


def composite(
    sprites: Sprites, values: Float[Tensor, "m c"], layers: int, width: int, height: int
) -> Float[Tensor, "h w c"]:
    """The sprites' values composited: the definition that any faster route has to agree with."""
    with torch.no_grad():
        hits = _hits(sprites, layers, width)
    discs = torch.stack([*sprites.centre.unbind(1), sprites.square, sprites.peak], 1)
    x, y, square, peak = volume.spread(discs, hits.sprite).unbind(1)
    distance = (hits.column + 0.5 - x).square() + (hits.row + 0.5 - y).square()
    alpha = (peak * (1 - distance / square)).clamp(max=OPAQUE)
    weight = volume.absorb(-torch.log1p(-alpha.index_select(0, hits.order)), hits.pixel, width * height).weight
    picture = _Blend.apply(weight, values, hits, width * height)  # type: ignore[no-untyped-call]
    return picture.view(height, width, -1)  # type: ignore[no-any-return]


def _hits(sprites: Sprites, layers: int, width: int) -> _Hits:
    sprite, column, row = cells(sprites.first, sprites.last)
    discs = torch.stack([*sprites.centre.unbind(1), sprites.square], 1)
    x, y, square = discs.index_select(0, sprite).unbind(1)
    near = ((column + 0.5 - x).square() + (row + 0.5 - y).square() < square).nonzero()[:, 0]
    sprite, column, row = (part.index_select(0, near) for part in (sprite, column, row))
    pixel, order = (row * width + column).int().sort(stable=True)
    counts = _steps(torch.bincount(pixel), pixel) < layers
    pixel, order = pixel[counts].long(), order[counts]
    kept = torch.zeros_like(counts).index_fill_(0, order, True)
    return _Hits(sprite[kept], column[kept], row[kept], (kept.cumsum(0) - 1).index_select(0, order), pixel)


class _Blend(torch.autograd.Function):
    """The sum of weight times value over each pixel's hits: a sparse matrix times `values`, no row for each hit."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, values: Tensor, hits: _Hits, pixels: int) -> Tensor:
        ctx.save_for_backward(weight, values)
        ctx.hits = hits
        return _bags(values, hits.sprite.index_select(0, hits.order), hits.pixel, weight, pixels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (weight, values), hits = ctx.saved_tensors, ctx.hits
        gradient = gradients[0].contiguous()
        sprite = hits.sprite.index_select(0, hits.order)
        to_weight = (gradient.index_select(0, hits.pixel) * values.index_select(0, sprite)).sum(1)
        by_sprite = torch.empty_like(weight).index_copy_(0, hits.order, weight)
        pixel = torch.empty_like(hits.pixel).index_copy_(0, hits.order, hits.pixel)
        return to_weight, _bags(gradient, pixel, hits.sprite, by_sprite, len(values)), None, None


def _bags(rows: Tensor, taken: Tensor, bag: Tensor, weight: Tensor, bags: int) -> Tensor:
    """For each of `bags` the sum of weight times the rows taken; `bag` ascends."""
    lengths = torch.bincount(bag, minlength=bags)
    return embedding_bag(taken, rows, lengths.cumsum(0) - lengths, per_sample_weights=weight, mode="sum")


def _bands(sprites: Sprites, camera: Camera) -> list[Camera]:
    """The camera's rows in bands of about `_PAIRS` pairs of sprites and pixels, a row at least."""
    across = sprites.last[:, 0] - sprites.first[:, 0] + 1
    change = across.new_zeros(camera.height + 1)
    change.index_add_(0, sprites.first[:, 1], across).index_add_(0, sprites.last[:, 1] + 1, -across)
    before = torch.cat([change.new_zeros(1), change.cumsum(0)[:-1].cumsum(0)])[:-1]
    tops = torch.unique_consecutive(before // _PAIRS, return_counts=True)[1].cumsum(0).tolist()
    return [camera.cropped(0, top, camera.width, bottom - top) for top, bottom in zip([0, *tops], tops, strict=False)]
