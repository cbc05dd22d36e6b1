"""Training a voxel radiance field from single rays: DVGO v2's schedule.

Bounded spaces: a *coarse* grid of plain colours finds out what is empty; its box is drawn tighter, and a finer grid
with features and a small network is trained within, through *stages* of growing resolution. Forward spaces have no
coarse stage. In both the occupied cells are cut down to those that rendered something of late.

The method `voxel_grid` is this and nothing else; others begin with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from pydantic import Field

from loupe import losses, volume
from loupe.camera import Camera
from loupe.config import Config
from loupe.errors import InputError
from loupe.field_views import RayPenalties, ray_terms, render_field
from loupe.fields.radiance import FieldConfig, Hits, RadianceField, cell_edge, lattice_shape
from loupe.fields.voxel import Shape, dilate, overlap, total_variation
from loupe.method import DECODER, Picture, Recipe, Segment, Setting, Window
from loupe.pixels import PixelBatch, TrainingPixels
from loupe.scene import Level
from loupe.space import Space

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

_SOLID = 1e-3  # the coarse grid's opacity from which on a node counts (DVGO's bbox_thres)
_WIDEN = 1.05  # the fine box, as a multiple of what is solid (DVGO's world_bound_scale)
_SEEN_ENOUGH = 3  # training views that must see a coarse cell
_TV_PARTS = 16  # total variation looks at one part of the rows a step


class Stage(Config):
    """One resolution: about `voxels` nodes for `steps` steps; `planes` along the depth of a forward space."""

    voxels: int = Field(ge=64)
    steps: int = Field(ge=1)
    planes: int | None = Field(default=None, ge=2)


class Penalties(RayPenalties):
    """Weights of the loss terms beside the colour's own: those of the rays, and total variation."""

    entropy: float = Field(default=0.001, ge=0)
    point_colour: float = Field(default=0.01, ge=0)
    tv_density: float = Field(default=0.0, ge=0)
    tv_feature: float = Field(default=0.0, ge=0)


class Coarse(Config):
    """The coarse stage of bounded spaces. `opacity`: of one untrained step; it must exceed `cull`."""

    voxels: int = Field(default=1_000_000, ge=64)
    steps: int = Field(ge=1)
    opacity: float = Field(default=1e-6, gt=0, lt=1)
    cull: float = Field(default=1e-7, ge=0, lt=0.1)
    penalties: Penalties = Penalties(entropy=0.01, point_colour=0.1)


class FitConfig(Config):
    """How a field is trained in one phase.

    Attributes:
        stages: the resolutions, in order.
        coarse: what comes before them (bounded spaces only).
        rays: a batch.
        opacity: of a step through the untrained field (bounded spaces; forward ones spread it over their planes).
        shift_step: how much the shift falls at every new stage.
        grid_rate, network_rate: Adam's learning rates; they fall to a tenth in `decay` steps, and start afresh with
            every stage.
        refresh: steps between two looks at which cells still render anything.
        worth: what a sample must weigh for its cell to count as rendered.
        penalties: weights of the loss terms.
    """

    stages: list[Stage] = Field(min_length=1)
    coarse: Coarse | None = None
    rays: int = Field(default=8192, ge=1)
    opacity: float = Field(default=1e-2, gt=0, lt=1)
    shift_step: float = Field(default=1.0, ge=0)
    grid_rate: float = Field(default=0.1, gt=0)
    network_rate: float = Field(default=1e-3, gt=0)
    decay: int = Field(default=20_000, ge=1)
    refresh: int = Field(default=1000, ge=1)
    worth: float = Field(default=1e-3, ge=0, lt=1)
    penalties: Penalties = Penalties()


class EncoderPart(Config):
    """What one kind of space wants: the field, and how the encoder phase trains it."""

    field: FieldConfig = FieldConfig()
    fit: FitConfig


class EncoderConfig(Config):
    """The recipe's section `encoder`: which part counts is the space's kind. Both are there, so that a recipe fits any
    capture. `seed` is that of everything random."""

    seed: int = 0
    bounded: EncoderPart
    forward: EncoderPart


def encoder_part(recipe: Recipe, setting: Setting) -> EncoderPart:
    """What the recipe's section `encoder` says for this kind of space. Raises `InputError` where it does not fit, and
    for a scene that moves."""
    if setting.scene.moves:
        raise InputError(f"{setting.scene.folder}: the scene moves, but this method knows a single moment only")
    section = recipe.section("encoder", EncoderConfig)
    return section.bounded if setting.space.kind == "bounded" else section.forward


class FitBatch(NamedTuple):
    """Pixels, the noise (n, 3) that stands behind them, and where total variation starts to look, from 0 to 1."""

    pixels: PixelBatch
    noise: Float[Tensor, "n 3"]
    start: float


class VoxelFit:
    """A radiance field in training on the pixels of one level: `loupe.method.Method`, for methods to be or to have.

    `field` exists from `begin`, `start_from` or `load_state` on.
    """

    field: RadianceField

    def __init__(self, setting: Setting, level: Level, config: FitConfig, field: FieldConfig) -> None:
        self._setting = setting
        self._config = config
        self._field_config = field
        self._pixels = TrainingPixels(setting.scene, setting.tiles, level) if setting.tiles else None
        self._backdrop = self._first_backdrop().to(setting.device)
        self._stage = 0
        self._progress: dict[str, Tensor | float] = {}

    def begin(self) -> None:
        """Make the first field, transparent wherever the setting's occupancy allows anything."""
        config, space = self._config, self._setting.space
        if config.coarse:
            shape = lattice_shape(space, config.coarse.voxels, None)
            enough = min(_SEEN_ENOUGH, len(self._setting.scene.train))
            occupied = self._carved(shape) & (self._views_of(_centres(shape)) >= enough).view(_cells(shape))
            self.field = RadianceField(space, _not_empty(occupied), self._coarse_config, cell_edge(space, shape))
            views = self._views_of(self.field.lattice.positions())
            self.field.pace = (views / views.max())[:, None]
            self.field.make_transparent(config.coarse.opacity)
        else:
            shape = self._shape(config.stages[0], space)
            occupied = _not_empty(self._carved(shape))
            self.field = RadianceField(space, occupied, self._field_config, self._grain(space))
            self.field.make_transparent(config.opacity)
        self._forget_rendered()

    def start_from(self, encoder: Mapping[str, Tensor]) -> None:
        """Take over the field of an earlier phase, at this phase's first resolution."""
        if any(name.startswith(DECODER) for name in encoder):
            raise InputError("voxel_grid has no decoder; the trial's encoder in configs/pipeline.yaml must be no graft")
        self.field = self._field_from(encoder, self._field_config)
        self._grow(0)

    def segments(self) -> Sequence[Segment]:
        """The coarse stage, if there is one, and the stages."""
        coarse = [Segment("coarse", self._config.coarse.steps)] if self._config.coarse else []
        return coarse + [Segment(f"stage{number}", one.steps) for number, one in enumerate(self._config.stages, 1)]

    def optimizers(self, segment: Segment) -> dict[str, torch.optim.Optimizer]:
        """One Adam for grid and network, each at its own rate."""
        rates = {"grid": self._config.grid_rate, "network": self._config.network_rate}
        groups = [{"params": parts, "lr": rates[name]} for name, parts in self.field.parameters().items()]
        return {"field": torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-12, fused=True)}

    def learning_rates(self, segment: Segment, step: int) -> Mapping[str, float]:
        """A tenth in `decay` steps, from the segment's start."""
        return {"field": 0.1 ** (step / self._config.decay)}

    def batch(self, segment: Segment, step: int, generator: torch.Generator) -> FitBatch:
        """Random pixels of the training views, and noise."""
        if self._pixels is None:
            raise InputError("nothing can be trained without tiles; run cut_tiles")
        pixels = self._pixels.draw(self._config.rays, generator, self._setting.device)
        noise = torch.rand(len(pixels.colours), 3, generator=generator)
        return FitBatch(pixels, noise.to(self._setting.device), float(torch.rand((), generator=generator)))

    def losses(self, batch: FitBatch, segment: Segment) -> dict[str, dict[str, Tensor]]:
        """DVGO's terms, weighted. Random noise behind the field leaves it no background to hide a hole in; where masks
        cut, the noise stands in the photo as well, and the field has to let it through."""
        rays, photo = batch.pixels.rays, batch.pixels.colours
        count = len(photo)
        hits = self.field.hits(rays)
        self._rendered[hits.cell[hits.weight.detach() > self._config.worth]] = True
        colours = self.field.colours(hits, rays.directions)
        rendered = volume.composite(hits.weight, colours, hits.ray, count) + hits.left[:, None] * batch.noise
        wanted = self._penalties
        target = batch.pixels.over(batch.noise, self._backdrop)
        terms = {"colour": losses.colour(rendered, target)} | ray_terms(self.field, hits, colours, photo, wanted)
        if wanted.tv_density or wanted.tv_feature:
            terms["variation"] = self._variation(batch)
        self._note(hits, terms["colour"])
        return {"field": terms}

    def after_step(self, segment: Segment, step: int) -> bool:
        """Cut down the occupied cells now and then; behind a segment's last step, make the next one's field."""
        if step + 1 == segment.steps:
            names = [each.name for each in self.segments()]
            return self._advance(names.index(segment.name) + 1, len(names))
        if (step + 1) % self._config.refresh == 0:
            self._cut_down()
        return False

    def progress(self) -> Mapping[str, float]:
        """Of the last batch: PSNR, samples a ray that count and that were looked up, and the share skipped unseen."""
        cells = {"cells": float(self.field.lattice.alive.sum()), "rows": float(len(self.field.table))}
        return {name: float(value) for name, value in self._progress.items()} | cells

    def state(self) -> dict[str, Tensor]:
        """The field, the stage it is in, which cells rendered something since the last cut, and the backdrop."""
        own = {"stage": torch.tensor(self._stage), "rendered": self._rendered, "backdrop": self._backdrop}
        return own | self.field.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken, in the same phase."""
        self._stage = int(state["stage"])
        self.field = self._field_from(state, self._coarse_config if self._is_coarse else self._field_config)
        if self._is_coarse:
            views = self._views_of(self.field.lattice.positions())
            self.field.pace = (views / views.max())[:, None]
        self._rendered = state["rendered"].to(self._setting.device)

    def render(self, camera: Camera, time: float, window: Window | None = None) -> Picture:
        """The view of `camera`, over the scene's backdrop or the training photos' mean colour."""
        return render_field(self.field, camera, self._backdrop, window)

    def _first_backdrop(self) -> Float[Tensor, " 3"]:
        """What stands behind the field where it is rendered: what masks cut out stands before, or the mean colour."""
        if self._setting.scene.masks == "cut":
            return torch.tensor(self._setting.scene.backdrop).float() / 255
        return self._pixels.mean_colour() if self._pixels else torch.zeros(3)

    @property
    def _is_coarse(self) -> bool:
        return self._config.coarse is not None and self._stage == 0

    @property
    def _coarse_config(self) -> FieldConfig:
        cull = self._config.coarse.cull if self._config.coarse else 0.0
        return self._field_config.model_copy(update={"channels": 3, "hidden": 0, "cull": cull, "vm": None})

    @property
    def _penalties(self) -> Penalties:
        coarse = self._config.coarse
        return coarse.penalties if coarse and self._is_coarse else self._config.penalties

    def _field_from(self, state: Mapping[str, Tensor], config: FieldConfig) -> RadianceField:
        self._backdrop = state["backdrop"].to(self._setting.device)
        return RadianceField.from_state(state, self._setting.space, config, self._setting.device)

    def _advance(self, stage: int, stages: int) -> bool:
        """Go on to the segment number `stage`, if there is one. Returns whether the parameters are new."""
        if stage == stages:
            return False
        if self._is_coarse:
            self._refine()
        else:
            self.field.shift = self.field.shift - self._config.shift_step
            self._cut_down()
            self._grow(stage - bool(self._config.coarse))
        self._stage = stage
        return True

    def _refine(self) -> None:
        """Draw the box around what the coarse field found solid, and begin a fine field in it."""
        self._cut_down()
        coarse, config = self.field, self._config
        solid = coarse.solid(_SOLID)
        if not bool(solid.any()):
            raise InputError(
                "the coarse stage found nothing solid; give it more steps, or check the poses and the space"
            )
        space, low, high = _tightened(coarse.space, solid)
        shape = self._shape(config.stages[0], space)
        occupied = overlap(dilate(solid, 1) & coarse.lattice.spread(coarse.lattice.alive), _cells(shape), low, high)
        self.field = RadianceField(space, occupied, self._field_config, self._grain(space))
        self.field.make_transparent(config.opacity)
        self._forget_rendered()

    def _grow(self, stage: int) -> None:
        shape = self._shape(self._config.stages[stage], self.field.space)
        if shape != self.field.lattice.shape:
            self.field = self.field.resized(shape)
        self._forget_rendered()

    def _cut_down(self) -> None:
        """Keep the occupied cells within one cell of any that weighed anything in a batch since the last time."""
        lattice = self.field.lattice
        near = dilate(lattice.spread(self._rendered), 1).flatten()[lattice.cells]
        self.field.keep(lattice.alive & near)
        self._forget_rendered()

    def _forget_rendered(self) -> None:
        self._rendered = torch.zeros_like(self.field.lattice.alive)

    def _shape(self, stage: Stage, space: Space) -> Shape:
        if (stage.planes is None) != (space.kind == "bounded"):
            raise InputError(f"recipe: a stage has planes exactly where the space is forward; this one is {space.kind}")
        return lattice_shape(space, stage.voxels, stage.planes)

    def _grain(self, space: Space) -> float:
        return cell_edge(space, self._shape(self._config.stages[-1], space))

    def _carved(self, shape: Shape) -> Bool[Tensor, "x y z"]:
        grid = self._setting.occupancy.grid.to(self._setting.device)
        return overlap(grid, _cells(shape), torch.zeros(3), torch.ones(3))

    def _views_of(self, unit: Float[Tensor, "m 3"]) -> Int[Tensor, " m"]:
        """How many training views see each point."""
        scene = self._setting.scene
        points = self._setting.space.to_world(unit.double().cpu()).numpy()
        views = np.zeros(len(points), np.int64)
        for camera in scene.cameras(scene.train, "low"):
            pixel, depth = camera.project(points)
            with np.errstate(invalid="ignore"):
                inside = ((pixel > 0) & (pixel < (camera.width, camera.height))).all(1)
            views += inside & (depth > 0)
        return torch.from_numpy(views).to(self._setting.device)

    def _variation(self, batch: FitBatch) -> Tensor:
        """Total variation: over a part of the rows, scaled to all of them as DVGO scales it; or of the planes."""
        if self.field.factors:
            density, features = self.field.factors.variation()
            return self._penalties.tv_density * density + self._penalties.tv_feature * features
        lattice, rows = self.field.lattice, len(self.field.table)
        length = -(-rows // _TV_PARTS)
        start = int(batch.start * (rows - length + 1))
        part = slice(start, start + length)
        scale = rows / length * max(lattice.shape) / 128 / self._config.rays / 6
        wanted, table = self._penalties, self.field.table
        weight = torch.full_like(table[0], wanted.tv_feature, requires_grad=False)
        weight[0] = wanted.tv_density
        return scale * total_variation(table, lattice, part, weight)

    def _note(self, hits: Hits, error: Tensor) -> None:
        count = len(hits.left)
        self._progress = {
            "psnr": -10 * error.detach().log10(),
            "samples": len(hits.ray) / count,
            "asked": hits.asked / count,
            "skipped": 1 - hits.asked / hits.steps.clamp(min=1),
        }


def _cells(shape: Shape) -> Shape:
    return shape[0] - 1, shape[1] - 1, shape[2] - 1


def _centres(shape: Shape) -> Float[Tensor, "cells 3"]:
    """The cells' centres in unit coordinates."""
    axes = [(torch.arange(cells) + 0.5) / cells for cells in _cells(shape)]
    return torch.cartesian_prod(*axes)


def _not_empty(occupied: Bool[Tensor, "x y z"]) -> Bool[Tensor, "x y z"]:
    if not bool(occupied.any()):
        raise InputError("the occupancy is empty: nothing can be there; check masks, cameras and the carve_space step")
    return occupied


def _tightened(space: Space, solid: Bool[Tensor, "x y z"]) -> tuple[Space, Tensor, Tensor]:
    """The part of the space around the solid cells, widened a little, and its corners in unit coordinates."""
    found, sides = solid.nonzero(), torch.tensor(solid.shape, device=solid.device)
    low, high = (found.amin(0) / sides).double().cpu(), ((found.amax(0) + 1) / sides).double().cpu()
    widening = (_WIDEN - 1) / 2 * (high - low)
    low, high = (low - widening).clamp(min=0), (high + widening).clamp(max=1)
    origin = torch.tensor(space.low, dtype=torch.float64)
    size = torch.tensor(space.high, dtype=torch.float64) - origin
    first, last = (origin + size * low).tolist(), (origin + size * high).tolist()
    return replace(space, low=(first[0], first[1], first[2]), high=(last[0], last[1], last[2])), low, high
