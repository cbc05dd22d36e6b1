"""What cameras see of a radiance field, in training and in rendering: rays composited, and the penalties on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from pydantic import Field
from torch import nn

from loupe import losses, volume
from loupe.camera import Camera
from loupe.config import Config
from loupe.fields.radiance import Hits, RadianceField
from loupe.method import Picture, Window
from loupe.rays import Cameras

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_NOTHING = 1e-3  # the opacity from which on a pixel has a depth
_INVISIBLE = 1 / 512  # half a level of 8 bits: what a sample must weigh in a picture
_CHUNK = 1 << 14  # rays rendered at a time


class RayPenalties(Config):
    """Weights of what is asked of each ray beside its colour: see `loupe.losses` and `loupe.volume.distortion`."""

    entropy: float = Field(default=0.0, ge=0)
    point_colour: float = Field(default=0.0, ge=0)
    distortion: float = Field(default=0.0, ge=0)


class Composite(NamedTuple):
    """What rays see: the colour of each of their m samples; of each ray its `colour` over the backdrop, and `seen`: the
    weighted sum of t as a share of the box's extent, and behind it those of the features, if there are any."""

    samples: Float[Tensor, "m 3"]
    colour: Float[Tensor, "n 3"]
    seen: Float[Tensor, "n c"]


def ray_terms(
    field: RadianceField, hits: Hits, colours: Float[Tensor, "m 3"], photo: Float[Tensor, "n 3"], wanted: RayPenalties
) -> dict[str, Tensor]:
    """The penalties that have a weight, weighted; `colours` are the samples'."""
    terms = {}
    if wanted.entropy:
        terms["entropy"] = wanted.entropy * losses.background_entropy(hits.left)
    if wanted.point_colour:
        terms["point_colour"] = wanted.point_colour * losses.point_colour(hits.weight, colours, photo, hits.ray)
    if wanted.distortion:
        t, width = hits.t / field.extent, field.stride / field.extent
        terms["distortion"] = wanted.distortion * volume.distortion(hits.weight, t, width, hits.ray, len(photo))
    return terms


def render_field(
    field: RadianceField, camera: Camera, backdrop: Float[Tensor, " 3"], window: Window | None = None
) -> Picture:
    """A field seen by `camera`, in bounded memory. Depth is that of the weights' mean; 0 where there is nothing."""
    whole = render_maps(field, camera, backdrop, window)
    return Picture(whole[..., :3], whole[..., 3], whole[..., 4])


@torch.no_grad()
def render_maps(
    field: RadianceField,
    camera: Camera,
    backdrop: Float[Tensor, " 3"],
    window: Window | None = None,
    reduce: nn.Linear | None = None,
) -> Float[Tensor, "h w c"]:
    """What `camera` sees of a field, for each pixel: colour (3), z-depth, opacity, the weighted sum of t (as a share of
    the box's extent), and with `reduce` that of the features (see `RadianceField.shade`)."""
    part = window or Window(0, 0, camera.width, camera.height)
    device = backdrop.device
    cameras = Cameras.stack([camera], device)
    forward = torch.tensor(camera.forward, dtype=torch.float32, device=device)
    pieces = []
    for pixel in torch.split(torch.arange(part.width * part.height, device=device), _CHUNK):
        rays = cameras.rays(torch.zeros_like(pixel), part.x + pixel % part.width, part.y + pixel // part.width)
        hits = field.hits(rays, max(field.config.cull, _INVISIBLE))
        _, colour, seen = composite_hits(field, hits, rays.directions, backdrop, reduce)
        opacity = 1 - hits.left
        distance = field.space.distance(rays, seen[:, 0] * field.extent / opacity.clamp(min=1e-6))
        depth = torch.where(opacity > _NOTHING, distance * (rays.directions @ forward), 0)
        pieces.append(torch.cat([colour.clamp(0, 1), depth[:, None], opacity[:, None], seen], -1))
    return torch.cat(pieces).view(part.height, part.width, -1)


def composite_hits(
    field: RadianceField,
    hits: Hits,
    directions: Float[Tensor, "n 3"],
    backdrop: Float[Tensor, " 3"],
    reduce: nn.Linear | None = None,
) -> Composite:
    """Composite each ray's samples over the backdrop; with `reduce`, the features that it makes of them too."""
    if reduce:
        colours, features = field.shade(hits, directions, reduce)
    else:
        colours, features = field.colours(hits, directions), hits.features[:, :0]
    values = torch.cat([colours, hits.t[:, None] / field.extent, features], -1)
    seen = volume.composite(hits.weight, values, hits.ray, len(hits.left))
    return Composite(colours, seen[:, :3] + hits.left[:, None] * backdrop, seen[:, 3:])


def reached(part: Window, ratio: int, reach: int, size: tuple[int, int]) -> Window:
    """The low-resolution pixels of a picture of `size` (columns, rows) of them on which a full-resolution window
    depends, if a pixel depends on those up to `reach` away."""
    left, top = max(0, part.x // ratio - reach), max(0, part.y // ratio - reach)
    right = min(size[0], -(-(part.x + part.width) // ratio) + reach)
    bottom = min(size[1], -(-(part.y + part.height) // ratio) + reach)
    return Window(left, top, right - left, bottom - top)
