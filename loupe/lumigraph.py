"""Surroundings -> the view of any camera, out of the clean plates.

Every pixel has a place, by the depth of the surroundings' points, and the colour that the plates show there, blended
over those that look at it most nearly as the camera does (Buehler et al., "Unstructured lumigraph rendering", 2001):
a plate counts with (1 - a / b) / a, where a is the angle between both lines of sight and b that of the first plate that
counts no more, and less towards its edge. So the weights vary smoothly, nothing is trained, and the picture is as
crisp as the plates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, normalize

from loupe.camera import Camera
from loupe.images import WHOLE
from loupe.method import Picture, Window
from loupe.scene import Level, Scene
from loupe.splat import render_points
from loupe.surroundings import Surroundings

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

_LONGEST, _PLATE = 512, 256  # pixels of the pictures that depth is rendered in, for a view and for a plate
_BLENDED = 4  # plates in a pixel, at most
_RADIUS = 1.4  # of a point, in distances between neighbours
_DENSITY = 0.99
_LAYERS = 15
_FACING = 0.1  # cosine between a normal and the line of sight: below it a point shows its edge or its back
_NEARER = 0.5  # of the distance that any plate shows a point from: what is nearer to a camera does not show
_BEHIND = 0.04  # of the depth: a place so far behind what a plate shows is hidden from it
_EDGE = 0.06  # of a plate's sides: its weight falls off to its edge over that stretch
_MADE_UP = 1e-4  # how much a plate counts where it is unknown: all there is to show where all are
_SOLID = 0.5  # the opacity from which on points are a surface
_LEAST_ANGLE = 1e-3


class _Plate(NamedTuple):
    """A stand's camera at full size, and small maps (h, w) of its plate: inverse depth, and where it is known."""

    name: str
    camera: Camera
    inverse_depth: Float[Tensor, "h w"]
    known: Float[Tensor, "h w"]
    gain: Float[Tensor, " 3"]


class Lumigraph:
    """What stands still in a scene, ready to be looked at."""

    def __init__(self, surroundings: Surroundings, scene: Scene, device: torch.device | str) -> None:
        self._device = device
        self._points = torch.from_numpy(surroundings.cloud.xyz).to(device)
        self._normals = torch.from_numpy(surroundings.normals).to(device)
        self._nearest = _NEARER * surroundings.nearest
        self._radius = self._points.new_full((len(self._points),), _RADIUS * surroundings.spacing)
        self._tiles = surroundings.plates
        self._level: Level = "low" if scene.sealed else "full"
        self._plates = [
            self._plate(name, scene, torch.from_numpy(gain).to(self._points))
            for name, gain in surroundings.gains.items()
        ]

    @torch.no_grad()
    def seen_from(self, camera: Camera, window: Window | None = None) -> Picture:
        """The view of a camera, or of its window alone: colour premultiplied by opacity. No plate shows what has none;
        depth is 0 there."""
        part = window or Window(0, 0, camera.width, camera.height)
        small = _shrunk(camera, _LONGEST)
        inverse = _bridged(*self._surface(small))
        weights = [_enlarged(weight, camera, part).flatten() for weight in self._weights(small, inverse)]
        inverse = _enlarged(inverse, camera, part)
        places = _places(camera.cropped(*part), inverse).view(-1, 3)
        opacity, colour = places.new_zeros(len(places)), torch.zeros_like(places)
        for plate, weight in zip(self._plates, weights, strict=True):
            index = weight.nonzero()[:, 0]
            if len(index):
                opacity += weight
                colour[index] += weight[index, None] * self._colours(plate, places[index])
        opacity = opacity.view(part.height, part.width).clamp(max=1)
        depth = torch.where(opacity > _SOLID, 1 / inverse.clamp(min=1e-6), 0)
        return Picture(colour.view(part.height, part.width, 3).clamp(0, 1), depth, opacity)

    def _plate(self, name: str, scene: Scene, gain: Tensor) -> _Plate:
        camera = scene.camera(name, self._level)
        small = _shrunk(camera, _PLATE)
        nearness, solid = self._surface(small)
        mask = self._tiles.mask(name, "low")
        assert mask is not None
        known = torch.from_numpy(mask >= WHOLE).to(self._device).float()
        known = interpolate(known[None, None], size=nearness.shape, mode="area")[0, 0].floor()
        return _Plate(name, camera, nearness * solid, known, gain)

    def _surface(self, camera: Camera) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
        """The inverse depth of the points that face a camera, and 1 where they are a surface, 0 elsewhere."""
        sight = torch.from_numpy(camera.center).to(self._points) - self._points
        distance = sight.norm(dim=1).clamp(min=1e-9)
        faces = (((sight * self._normals).sum(1) > _FACING * distance) & (distance > self._nearest)).nonzero()[:, 0]
        radius, none = self._radius[faces], self._points.new_zeros(len(faces), 0)
        seen = render_points(self._points[faces], none, radius, torch.full_like(radius, _DENSITY), camera, _LAYERS)
        solid = seen.opacity > _SOLID
        return torch.where(solid, 1 / seen.depth.clamp(min=1e-6), 0), solid.float()

    def _weights(self, camera: Camera, nearness: Float[Tensor, "h w"]) -> Float[Tensor, "s h w"]:
        """How much each plate counts in the pixels of a small view: 1 in all, or 0 where no plate looks."""
        places = _places(camera, nearness).view(-1, 3)
        eye = torch.from_numpy(camera.center).to(places)
        sight = normalize(places - eye, dim=1)
        angles, edges, open_lines = [], [], []
        for plate in self._plates:
            from_plate = normalize(places - torch.from_numpy(plate.camera.center).to(places), dim=1)
            angle = 2 * ((sight - from_plate).norm(dim=1) / 2).clamp(max=1).asin()
            edge, sees = _sight(plate, places)
            angles.append(torch.where(edge > 0, angle + _LEAST_ANGLE, torch.inf))
            edges.append(edge)
            open_lines.append(sees)
        angle = torch.stack(angles)
        open_line = torch.stack(open_lines) & angle.isfinite()
        # A place that is hidden from all plates takes from those that would have it in their picture.
        hidden = ~open_line & open_line.any(0)
        counts = _closeness(angle.masked_fill(hidden, torch.inf)) * torch.stack(edges)
        return (counts / counts.sum(0).clamp(min=1e-12)).view(-1, *nearness.shape)

    def _colours(self, plate: _Plate, places: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        picture = torch.tensor(self._tiles.image(plate.name, self._level), device=self._device).movedim(-1, 0).float()
        at, _ = _projected(plate.camera, places)
        shown = grid_sample(picture[None], at[None, None], padding_mode="border", align_corners=False)[0, :, 0].T
        return shown / 255 / plate.gain


def _bridged(nearness: Float[Tensor, "h w"], solid: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Inverse depth everywhere: where there is no surface, the mean of the nearest ones (push-pull: Gortler et al.,
    "The lumigraph", 1996)."""
    if solid.all() or min(solid.shape) == 1:
        return nearness * solid / solid.clamp(min=1e-6)
    halved = avg_pool2d(torch.stack([nearness * solid, solid])[None], 2, ceil_mode=True, count_include_pad=False)[0]
    known = halved[1].clamp(min=1e-6)
    coarse = _bridged(halved[0] / known, (halved[1] > 0).float())
    wide = interpolate(coarse[None, None], size=solid.shape, mode="bilinear", align_corners=False)[0, 0]
    return torch.where(solid > 0, nearness, wide)


def _closeness(angles: Float[Tensor, "s n"]) -> Float[Tensor, "s n"]:
    """(1 - a / b) / a with b the angle of the first plate that counts no more; 0 for infinite angles."""
    if len(angles) > _BLENDED:
        last = angles.kthvalue(_BLENDED + 1, 0).values
    else:
        last = angles.new_full(angles.shape[1:], torch.inf)
    return torch.where(angles.isfinite(), (1 - angles / last).clamp(min=0) / angles, 0)


def _sight(plate: _Plate, places: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """How far places lie within a plate's picture: 0 outside, 1 away from its edge, next to nothing where the plate is
    unknown; and whether nothing hides them."""
    at, depth = _projected(plate.camera, places)
    edge = ((1 - at.abs()).amin(1) / (2 * _EDGE)).clamp(0, 1) * (depth > 0)
    maps = torch.stack([plate.inverse_depth, plate.known])[None]
    front, known = grid_sample(maps, at[None, None], mode="nearest", align_corners=False)[0, :, 0]
    return edge * known.clamp(min=_MADE_UP), 1 / depth.clamp(min=1e-6) > front * (1 - _BEHIND)


def _projected(camera: Camera, places: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
    """Where places are in a picture, -1 to 1 from edge to edge, and their z-depths."""
    pose = torch.from_numpy(camera.cam_from_world).to(places)
    x, y, z = (places @ pose[:3, :3].T + pose[:3, 3]).unbind(1)
    deep = z.clamp(min=1e-6)
    column, row = camera.fx * x / deep + camera.cx, camera.fy * y / deep + camera.cy
    return torch.stack([2 * column / camera.width - 1, 2 * row / camera.height - 1], 1), z


def _places(camera: Camera, nearness: Float[Tensor, "h w"]) -> Float[Tensor, "h w 3"]:
    """The places in the world of a camera's pixels at these inverse depths."""
    height, width = nearness.shape
    rows = (torch.arange(height, device=nearness.device) + 0.5 - camera.cy) / camera.fy
    columns = (torch.arange(width, device=nearness.device) + 0.5 - camera.cx) / camera.fx
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    seen = torch.stack([x, y, torch.ones_like(x)], -1).to(nearness) / nearness.clamp(min=1e-6)[..., None]
    pose = torch.from_numpy(camera.world_from_cam).to(nearness)
    return seen @ pose[:3, :3].T + pose[:3, 3]


def _shrunk(camera: Camera, longest: int) -> Camera:
    scale = min(1.0, longest / max(camera.width, camera.height))
    return camera.resized(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))


def _enlarged(small: Float[Tensor, "h w"], camera: Camera, part: Window) -> Float[Tensor, "h w"]:
    """A map over a camera's whole picture, at the pixels of a window."""
    x = 2 * (torch.arange(part.width, device=small.device) + part.x + 0.5) / camera.width - 1
    y = 2 * (torch.arange(part.height, device=small.device) + part.y + 0.5) / camera.height - 1
    at = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).to(small)
    return grid_sample(small[None, None], at[None], padding_mode="border", align_corners=False)[0, 0]
