"""Training a surface field from single rays: VolSDF's losses on either kind of field.

The method `volsdf` is this and nothing else; `vq_nerf` begins with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import nn

from loupe.camera import Camera
from loupe.carved_start import CarvedBatch, CarvedStart, carved_terms
from loupe.cloud import Cloud
from loupe.config import Config
from loupe.errors import InputError
from loupe.fields.background import Head
from loupe.fields.hash_grid import HashGrid
from loupe.fields.sdf import distance_and_normal, eikonal
from loupe.fields.surface import SurfaceConfig, SurfaceField
from loupe.images import to_uint8
from loupe.mesh import Mesh, extract
from loupe.method import DECODER, Picture, Segment, Setting, Window
from loupe.pixels import PixelBatch, TrainingPixels
from loupe.rays import Cameras
from loupe.scene import Level

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

_CARVED = "carved"  # the segment on what carving found
_CHUNK = 1 << 12  # rays rendered at a time
_DEEP_CHUNK = 1 << 7  # of an mlp on a CPU: what a layer makes of a ray's hundreds of samples should stay in its cache
_NOTHING = 1e-3  # the opacity from which on a pixel has a depth and a normal
_MESH = 256  # cells along the longest side of the box


class SurfaceFitConfig(Config):
    """How a surface is trained in one phase.

    Attributes:
        begin: steps before all others, on points instead of rays (`loupe.carved_start`).
        points: a step of those.
        steps: of training.
        rays: a step.
        grid_rate, network_rate, scale_rate: Adam's learning rates of hash grids, of the networks, and of the density's
            scale. They fall to `decay` over the phase, by an equal factor every step.
        shape: what the shape's own rates, and the scale's, are multiplied by: less than 1 where an earlier phase has
            found it.
        eikonal: weight of that loss, on the samples and on as many points anywhere in the box as there are rays.
        empty: weight of what keeps the inside out of the cells that carving found empty.
        refresh: steps between two looks at which cells hold anything.
    """

    begin: int = Field(default=0, ge=0)
    points: int = Field(default=2048, ge=1)
    steps: int = Field(ge=1)
    rays: int = Field(default=1024, ge=1)
    grid_rate: float = Field(default=1e-2, gt=0)
    network_rate: float = Field(default=5e-4, gt=0)
    scale_rate: float = Field(default=5e-4, gt=0)
    shape: float = Field(default=1.0, gt=0)
    decay: float = Field(default=0.1, gt=0, le=1)
    eikonal: float = Field(default=0.1, ge=0)
    empty: float = Field(default=1.0, ge=0)
    refresh: int = Field(default=50, ge=1)


class EncoderConfig(Config):
    """The section `encoder` of recipes on a surface; `seed` is that of everything random."""

    seed: int = 0
    field: SurfaceConfig = SurfaceConfig()
    fit: SurfaceFitConfig


class Anywhere(NamedTuple):
    """Random points of the box, in the world, and whether carving found each one's cell `empty`."""

    points: Float[Tensor, "n 3"]
    empty: Bool[Tensor, " n"]


class SurfaceBatch(NamedTuple):
    """Pixels, the noise (n, 3) that stands behind them, points of the box, and the seed by which samples are
    jittered."""

    pixels: PixelBatch
    noise: Float[Tensor, "n 3"]
    anywhere: Anywhere
    seed: int


class SurfaceFit:
    """A surface in training on the pixels of one level: `loupe.method.Method`, for methods to be or to have."""

    def __init__(self, setting: Setting, level: Level, config: SurfaceFitConfig, field: SurfaceConfig) -> None:
        """Raises `InputError` for scenes that such a field cannot hold."""
        self._setting, self._config = setting, config
        self._pixels = TrainingPixels(setting.scene, setting.tiles, level) if setting.tiles else None
        self.field = make_field(setting, field)
        self._backdrop = backdrop_of(setting, self._pixels).to(setting.device)
        self._psnr: Tensor | None = None

    def start_from(self, encoder: Mapping[str, Tensor]) -> None:
        """Take over the field of an earlier phase."""
        if any(name.startswith(DECODER) for name in encoder):
            raise InputError("volsdf has no decoder; the trial's encoder in configs/pipeline.yaml must be no graft")
        self.load_state(encoder)

    def segments(self) -> Sequence[Segment]:
        """What carving found, then the photos."""
        surface = [Segment("surface", self._config.steps)]
        return [Segment(_CARVED, self._config.begin), *surface] if self._config.begin else surface

    def optimizers(self, segment: Segment) -> dict[str, torch.optim.Optimizer]:
        """One Adam; a grid has its own rate."""
        config = self._config
        groups = field_groups(self.field, config)
        return {"surface": torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15, fused=True)}

    def learning_rates(self, segment: Segment, step: int) -> Mapping[str, float]:
        """Down to `decay`."""
        return {"surface": self._config.decay ** (step / segment.steps)}

    def batch(self, segment: Segment, step: int, generator: torch.Generator) -> SurfaceBatch | CarvedBatch:
        """Random pixels of the training views, noise, and points in the box; or points alone."""
        if segment.name == _CARVED:
            return self._carved.draw(self._config.points, generator, self._setting.device)
        if self._pixels is None:
            raise InputError("nothing can be trained without tiles; run cut_tiles")
        device = self._setting.device
        pixels = self._pixels.draw(self._config.rays, generator, device)
        noise = torch.rand(len(pixels.colours), 3, generator=generator).to(device)
        return SurfaceBatch(pixels, noise, anywhere(self._setting, self._config.rays, generator), draw_seed(generator))

    def losses(self, batch: SurfaceBatch | CarvedBatch, segment: Segment) -> dict[str, dict[str, Tensor]]:
        """VolSDF's: the absolute difference of the colours, and Eikonal. Noise behind the field and, where masks cut,
        behind the photo leaves no background to hide a hole in. On points, `carved_terms`."""
        self.field.train()
        if isinstance(batch, CarvedBatch):
            return {"surface": carved_terms(self.field, batch)}
        generator = torch.Generator().manual_seed(batch.seed)
        pixels = batch.pixels
        seen = self.field.look(pixels.rays, "colour", generator)
        made = seen.values + seen.bare[:, None] * batch.noise
        true = pixels.over(batch.noise, self._backdrop)
        self._psnr = -10 * (made - true).detach().square().mean().log10()
        colour = (made - true).abs().mean()
        return {"surface": {"colour": colour} | shape_terms(self.field, seen.gradient, batch.anywhere, self._config)}

    def after_step(self, segment: Segment, step: int) -> bool:
        """Look again at which cells hold anything, now and then; points ask for none."""
        if segment.name != _CARVED and (step + 1) % self._config.refresh == 0:
            self.field.refresh()
        return False

    def progress(self) -> Mapping[str, float]:
        """Of the last batch of rays, if any: PSNR; the scale as a share of the box's extent; the cells looked at."""
        psnr = {} if self._psnr is None else {"psnr": float(self._psnr)}
        return psnr | field_progress(self.field)

    def state(self) -> dict[str, Tensor]:
        """The field and the backdrop."""
        return dict(self.field.state_dict()) | {"backdrop": self._backdrop}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        self._backdrop = state["backdrop"].to(self._setting.device)
        self.field.take({name: value for name, value in state.items() if name != "backdrop"})

    def render(self, camera: Camera, time: float, window: Window | None = None) -> Picture:
        """The view of `camera`, ray by ray, over the scene's backdrop or the training photos' mean colour."""
        view = look_through(self.field, "colour", camera, window)
        colour = view.values + view.bare * self._backdrop
        return Picture(colour.clamp(0, 1), view.depth, view.opacity)

    def surface(self) -> Mesh:
        """Marching cubes over the box, coloured as seen from straight above the surface."""
        return coloured_mesh(self.field, self._setting)

    def normals(self, camera: Camera) -> Float[Tensor, "h w 3"]:
        """See `loupe.method.HasSurface`."""
        return look_through(self.field, "colour", camera).normals

    @cached_property
    def _carved(self) -> CarvedStart:
        scene, file = self._setting.scene, self._setting.cloud
        if file is None:
            raise InputError(f"{scene.folder}: no points lie beside its space; run carve_space again")
        cloud = Cloud.load(file)
        if not len(cloud.xyz):
            raise InputError(f"{file}: the carving found no surface to begin with; set encoder.fit.begin to 0")
        return CarvedStart(self._setting.space, self._setting.occupancy, cloud, scene.cameras(scene.train, "low"))


def make_field(setting: Setting, config: SurfaceConfig, codes: int = 0) -> SurfaceField:
    """A new field over the setting's space and occupancy. Raises `InputError` for a scene that it cannot hold."""
    scene = setting.scene
    if scene.moves:
        raise InputError(f"{scene.folder}: the scene moves, but this method knows a single moment only")
    if setting.space.kind != "bounded":
        raise InputError(f"{scene.folder}: a signed distance needs a bounded space; set space.kind")
    if scene.masks == "cut":
        config = config.model_copy(update={"background": None})
    # The lattice in the field is no module's buffer: it stays where its grid is.
    occupied = setting.occupancy.grid.to(setting.device)
    return SurfaceField(config, setting.space, occupied, codes).to(setting.device)


def backdrop_of(setting: Setting, pixels: TrainingPixels | None) -> Float[Tensor, " 3"]:
    """What stands behind the field in pictures: what masks cut out stands before, or the photos' mean colour."""
    if setting.scene.masks == "cut":
        return torch.tensor(setting.scene.backdrop).float() / 255
    return pixels.mean_colour() if pixels else torch.zeros(3)


class Rates(Protocol):
    """Learning rates of the parts of a field; the shape's and its scale's are multiplied by `shape`."""

    @property
    def grid_rate(self) -> float: ...
    @property
    def network_rate(self) -> float: ...
    @property
    def scale_rate(self) -> float: ...
    @property
    def shape(self) -> float: ...


def field_groups(field: SurfaceField, rates: Rates) -> list[dict[str, object]]:
    """A field's parameters with their rates."""
    grids = {id(value) for part in field.modules() if isinstance(part, HashGrid) for value in part.parameters()}
    groups: dict[float, list[nn.Parameter]] = {}
    for name, value in field.named_parameters():
        of_scale, of_shape = name.startswith("density."), name.startswith(("density.", "shape."))
        rate = rates.scale_rate if of_scale else rates.grid_rate if id(value) in grids else rates.network_rate
        groups.setdefault(rate * (rates.shape if of_shape else 1.0), []).append(value)
    return [{"params": values, "lr": rate} for rate, values in groups.items()]


def field_progress(field: SurfaceField) -> dict[str, float]:
    """Numbers worth showing of a field."""
    scale = float(field.density.scale.detach() / field.shape.scale)
    return {"scale": scale, "cells": float(field.alive.float().mean())}


def anywhere(setting: Setting, count: int, generator: torch.Generator) -> Anywhere:
    """`count` points of the setting's box."""
    unit = torch.rand(count, 3, generator=generator)
    points, empty = setting.space.to_world(unit), ~setting.occupancy.query(unit)
    return Anywhere(points.to(setting.device), empty.to(setting.device))


def draw_seed(generator: torch.Generator) -> int:
    """The seed of another generator."""
    return int(torch.randint(1 << 62, (), generator=generator))


class ShapeWeights(Protocol):
    """Weights of the loss terms that the shape alone has."""

    @property
    def eikonal(self) -> float: ...
    @property
    def empty(self) -> float: ...


def shape_terms(
    field: SurfaceField, gradient: Float[Tensor, "m 3"], anywhere: Anywhere, weights: ShapeWeights
) -> dict[str, Tensor]:
    """The Eikonal loss on the samples' gradients and on points of the box; and how deep empty points lie inside, as a
    share of the box's extent.

    Without the latter the surface may lie where nothing is ever looked at, outside of the occupied cells. Rays then
    begin within, the occupied cells' border shows as if it were the surface, and the density stays soft for good.
    """
    distance, _, elsewhere = distance_and_normal(field.shape, anywhere.points)
    depth = (distance / field.shape.scale).clamp(max=0).abs() * anywhere.empty
    terms = {
        "eikonal": weights.eikonal * eikonal(torch.cat([gradient, elsewhere])),
        "empty": weights.empty * depth.mean(),
    }
    return {name: term for name, term in terms.items() if getattr(weights, name)}


class View(NamedTuple):
    """What a camera sees of a field by a head: `values`; how much of what stands behind everything shows, `bare`;
    z-depth; how much of the view the surface covers, `opacity`; and its unit normals in the world. Depth and normal are
    0 where it covers nothing."""

    values: Float[Tensor, "h w c"]
    bare: Float[Tensor, "h w 1"]
    depth: Float[Tensor, "h w"]
    opacity: Float[Tensor, "h w"]
    normals: Float[Tensor, "h w 3"]


@torch.no_grad()
def look_through(field: SurfaceField, head: Head, camera: Camera, window: Window | None = None) -> View:
    """What a camera sees, in bounded memory."""
    field.eval()
    part = window or Window(0, 0, camera.width, camera.height)
    device = field.alive.device
    cameras, pieces = Cameras.stack([camera], device), []
    forward = torch.tensor(camera.forward, dtype=torch.float32, device=device)
    chunk = _DEEP_CHUNK if field.config.kind == "mlp" and device.type == "cpu" else _CHUNK
    for pixel in torch.split(torch.arange(part.width * part.height, device=device), chunk):
        rays = cameras.rays(torch.zeros_like(pixel), part.x + pixel % part.width, part.y + pixel // part.width)
        seen = field.look(rays, head)
        opacity = 1 - seen.left
        solid = (opacity > _NOTHING).float()
        depth = seen.t / opacity.clamp(min=_NOTHING) * (rays.directions @ forward) * solid
        normal = torch.nn.functional.normalize(seen.normal, dim=1) * solid[:, None]
        pieces.append(torch.cat([seen.values, seen.bare[:, None], depth[:, None], opacity[:, None], normal], 1))
    whole = torch.cat(pieces).view(part.height, part.width, -1)
    return View(whole[..., :-6], whole[..., -6:-5], whole[..., -5], whole[..., -4], whole[..., -3:])


@torch.no_grad()
def coloured_mesh(field: SurfaceField, setting: Setting) -> Mesh:
    """The field's surface; raises `InputError` if there is none."""
    field.eval()
    device = field.alive.device
    vertices, faces = extract(
        lambda points: field.shape(points.to(device))[0], field.space, _MESH, setting.occupancy.query
    )
    colours = []
    for points in torch.split(torch.from_numpy(vertices).to(device), _CHUNK):
        _, features, gradient = distance_and_normal(field.shape, points)
        above = -torch.nn.functional.normalize(gradient, dim=1)
        colours.append(field.shown("colour", points, above, features, gradient).cpu())
    return Mesh(vertices, faces, to_uint8(np.concatenate([part.numpy() for part in colours])))
