"""4K-NeRF: a voxel field makes features and depth at low resolution, a convolutional decoder makes the picture of them.

The encoder phase is the voxel grid's. The joint phase trains field and decoder together on patches, by the absolute
difference, a discriminator, VGG19's features, and the low-resolution colours of the field itself (equation 11).

Wang et al., "4K-NeRF: High fidelity neural radiance fields at ultra high resolutions", 2022 (arXiv 2212.04701).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import interpolate

from loupe.camera import Camera
from loupe.config import Config
from loupe.errors import InputError
from loupe.field_views import Composite, RayPenalties, composite_hits, ray_terms, reached, render_maps
from loupe.fields.radiance import FieldConfig, Hits, RadianceField
from loupe.method import DECODER, Method, Phase, Picture, Recipe, Segment, Setting, Window
from loupe.nets.discriminator import STRIDE, Discriminator
from loupe.nets.perceptual import Difference, features_of_both, perceptual_distance, vgg19_for
from loupe.nets.upsampler import Upsampler, UpsamplerConfig
from loupe.patches import Patch, TrainingPatches
from loupe.rays import Cameras, Rays
from loupe.voxel_fit import VoxelFit, encoder_part

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Condition = Literal["depth", "direction"]
Pair = tuple["Tensor", "Tensor"]  # what was made and what is true
_CHANNELS: Mapping[Condition, int] = {"depth": 1, "direction": 3}
_MEMORY_SHARE = 8  # of the memory there is, what rendering a picture may take
_MOST_MEMORY = 3 << 30


class Weights(RayPenalties):
    """Weights of the loss terms: equation 11's four, and what the published code adds, the field's own among it.

    Attributes:
        colour, adversarial, perceptual, low: lambda_h, lambda_a, lambda_p, lambda_l.
        style: of the features' Gram matrices.
    """

    colour: float = Field(default=1.0, gt=0)
    adversarial: float = Field(default=0.02, ge=0)
    perceptual: float = Field(default=0.5, ge=0)
    low: float = Field(default=1.0, ge=0)
    style: float = Field(default=0.0, ge=0)


class Rates(Config):
    """Adam's learning rates; `grid` and `network` are the encoder's. They rise over `warm_up` steps and fall to a tenth
    in `decay`."""

    grid: float = Field(default=1e-4, gt=0)
    network: float = Field(default=1e-4, gt=0)
    decoder: float = Field(default=2e-4, gt=0)
    discriminator: float = Field(default=2e-4, gt=0)
    warm_up: int = Field(default=0, ge=0)
    decay: int = Field(default=300_000, ge=1)


class Joint(Config):
    """The recipe's section `joint`.

    Attributes:
        seed: of everything random.
        steps: of training.
        patch: side of a patch, in low-resolution pixels.
        patches: a step.
        features: channels that the field hands to the decoder; 0 for its colour alone (the published code).
        conditions: what modulates the decoder; none for the paper's "without depth". The direction is beyond the paper.
        decoder: its size and kind.
        train_encoder: whether the field learns on; without, the two are trained separately.
        weights: of the loss terms.
        difference: how the features of VGG19 and the low-resolution colours are compared: "squared" (the paper), or
            "absolute" (the published code).
        rates: of learning.
        max_norm: to which the decoder's gradient is clipped, if at all.
        precision: in which decoder and discriminator compute while they are trained.
    """

    seed: int = 0
    steps: int = Field(ge=1)
    patch: int = Field(default=64, ge=8)
    patches: int = Field(default=1, ge=1)
    features: int = Field(default=6, ge=0)
    conditions: tuple[Condition, ...] = ("depth",)
    decoder: UpsamplerConfig = UpsamplerConfig()
    train_encoder: bool = True
    weights: Weights = Weights()
    difference: Difference = "squared"
    rates: Rates = Rates()
    max_norm: float | None = Field(default=None, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _conditions_once(self) -> Joint:
        if len(set(self.conditions)) < len(self.conditions):
            raise ValueError("a condition stands twice")
        return self


def make_four_k_nerf(phase: Phase, recipe: Recipe, setting: Setting) -> Method:
    """The method in one phase. Raises `InputError` where the recipe does not fit, or VGG19's weights are missing."""
    part = encoder_part(recipe, setting)
    if phase == "joint":
        return FourKNerf(setting, recipe.section("joint", Joint), part.field)
    encoder = VoxelFit(setting, "low", part.fit, part.field)
    encoder.begin()
    return encoder


class FourKNerf:
    """The joint phase: `loupe.method.Method`. `field` exists from `start_from` or `load_state` on."""

    field: RadianceField

    def __init__(self, setting: Setting, config: Joint, field: FieldConfig) -> None:
        self._setting, self._config, self._field_config = setting, config, field
        self._backdrop = torch.zeros(3, device=setting.device)
        conditions = sum(_CHANNELS[name] for name in config.conditions)
        if not field.hidden:
            raise InputError("recipe: 4K-NeRF needs a field with a network; set hidden in encoder")
        self.reduce = nn.Linear(field.hidden, config.features).to(setting.device) if config.features else None
        channels, ratio = config.features or 3, setting.scene.ratio
        self.decoder = Upsampler(config.decoder, channels, conditions, ratio).to(setting.device)
        self.discriminator = Discriminator().to(setting.device) if config.weights.adversarial else None
        self._patches: TrainingPatches | None = None
        self._vgg: nn.Module | None = None
        if setting.tiles:
            self._patches = TrainingPatches(setting.scene, setting.tiles, config.patch)
            if config.weights.perceptual or config.weights.style:
                self._vgg = vgg19_for("joint.weights.perceptual and joint.weights.style").to(setting.device)
        self._psnr = torch.tensor(math.nan)

    def start_from(self, encoder: Mapping[str, Tensor]) -> None:
        """Take over the field of the encoder phase, and the decoder of another trial if there is one."""
        self._take_field(encoder)
        if decoder := _part(encoder, DECODER):
            try:
                self.decoder.load_state_dict(decoder)
            except RuntimeError as error:
                *_, reason = str(error).splitlines()
                raise InputError(
                    f"joint.decoder is not of the kind of the decoder to begin with: {reason.strip()}"
                ) from None

    def segments(self) -> Sequence[Segment]:
        """One."""
        return [Segment("joint", self._config.steps)]

    def optimizers(self, segment: Segment) -> dict[str, torch.optim.Optimizer]:
        """Field and decoder in one, each at its own rate; the discriminator in the other."""
        config = self._config
        decoder = [*self.decoder.parameters(), *(self.reduce.parameters() if self.reduce else ())]
        groups: list[dict[str, object]] = [{"params": decoder, "lr": config.rates.decoder, "max_norm": config.max_norm}]
        if config.train_encoder:
            rates = {"grid": config.rates.grid, "network": config.rates.network}
            groups += [{"params": parts, "lr": rates[name]} for name, parts in self.field.parameters().items()]
        made: dict[str, torch.optim.Optimizer] = {"generator": torch.optim.Adam(groups, betas=(0.9, 0.99), fused=True)}
        if self.discriminator:
            parameters = list(self.discriminator.parameters())
            made["discriminator"] = torch.optim.Adam(parameters, config.rates.discriminator, (0.9, 0.99), fused=True)
        return made

    def learning_rates(self, segment: Segment, step: int) -> Mapping[str, float]:
        """Up in a line, then down to a tenth in `decay` steps."""
        rates = self._config.rates
        factor = min(1.0, (step + 1) / (rates.warm_up + 1)) * 0.1 ** (step / rates.decay)
        return {"generator": factor} | ({"discriminator": factor} if self.discriminator else {})

    def batch(self, segment: Segment, step: int, generator: torch.Generator) -> list[Patch]:
        """The step's patches, of the training views alone."""
        if self._patches is None:
            raise InputError("nothing can be trained without tiles; run cut_tiles")
        return self._patches.draw(step, self._config.patches, self._config.seed, self._setting.device)

    def losses(self, batch: list[Patch], segment: Segment) -> dict[str, dict[str, Tensor]]:
        """Equation 11 for field and decoder; for the discriminator the cross entropy on photos and pictures."""
        rays = Rays(*(torch.cat(parts) for parts in zip(*(patch.rays for patch in batch), strict=True)))
        hits = self.field.hits(rays)
        made = composite_hits(self.field, hits, rays.directions, self._backdrop, self.reduce)
        rows = torch.cat([made.colour, made.seen, rays.directions], -1)
        # What masks hide is black in both, and the same as the field made it at low resolution.
        pairs = [
            (torch.where(seen, self._decode(maps), 0), torch.where(seen, photos, 0))
            for maps, photos, seen in _by_size(rows, batch)
        ]
        low_seen = torch.cat([patch.low_seen.flatten(1).T for patch in batch])
        low = torch.where(low_seen, torch.cat([patch.low.flatten(1).T for patch in batch]), made.colour.detach())
        terms = self._field_terms(hits, made, low)
        terms |= _mean_terms(pairs, self._picture_terms)
        self._psnr = -10 * _mean_terms(pairs, _squared_error)["error"].log10()
        judged = {"discriminator": _mean_terms(pairs, self._discriminator_terms)} if self.discriminator else {}
        return {"generator": terms} | judged

    def after_step(self, segment: Segment, step: int) -> bool:
        """Nothing changes but the parameters."""
        return False

    def progress(self) -> Mapping[str, float]:
        """PSNR of the last batch at full resolution."""
        return {"psnr": float(self._psnr)}

    def state(self) -> dict[str, Tensor]:
        """The field, and under its name each network."""
        networks = {
            f"{name}.{key}": value
            for name, network in self._networks().items()
            for key, value in network.state_dict().items()
        }
        return networks | self.field.state() | {"backdrop": self._backdrop}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self._take_field(state)
        for name, network in self._networks().items():
            network.load_state_dict(_part(state, f"{name}."))

    def render(self, camera: Camera, time: float, window: Window | None = None) -> Picture:
        """The view of `camera`: field at low resolution, decoder in tiles that suit the device's memory."""
        ratio = self._setting.scene.ratio
        columns, rows = -(-camera.width // ratio), -(-camera.height // ratio)
        part = window or Window(0, 0, camera.width, camera.height)
        outer = reached(part, ratio, self.decoder.radius, (columns, rows))
        low = camera.cropped(0, 0, columns * ratio, rows * ratio).resized(columns, rows)
        maps = render_maps(self.field, low, self._backdrop, outer, self.reduce).movedim(-1, 0)[None]
        directions = _directions(low, outer, self._setting.device) if "direction" in self._config.conditions else None
        condition = self._condition(maps[:, 5:6], directions)
        features = maps[:, 6:] if self.reduce else maps[:, :3]
        picture = self.decoder.upsample(features, condition, maps[:, :3], render_memory(self._setting.device))
        # What lies beyond the decoder's reach of the window was made for its sake and is cut off.
        left, top = part.x - outer.x * ratio, part.y - outer.y * ratio
        crop = (slice(top, top + part.height), slice(left, left + part.width))
        enlarged = interpolate(maps[:, 3:5], scale_factor=ratio, mode="bilinear", align_corners=False)[0]
        return Picture(picture[0].movedim(0, -1)[crop].clamp(0, 1), enlarged[0][crop], enlarged[1][crop])

    def _take_field(self, state: Mapping[str, Tensor]) -> None:
        self._backdrop = state["backdrop"].to(self._setting.device)
        self.field = RadianceField.from_state(state, self._setting.space, self._field_config, self._setting.device)

    def _networks(self) -> dict[str, nn.Module]:
        every = {"reduce": self.reduce, "decoder": self.decoder, "discriminator": self.discriminator}
        return {name: network for name, network in every.items() if network is not None}

    def _decode(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 rh rw"]:
        """The pictures of patches from their rays' colour, depth, features and direction."""
        colour, depth, features, directions = torch.split(maps, [3, 1, self._config.features, 3], 1)
        with self._autocast():
            condition = self._condition(depth.detach(), directions)
            picture: Tensor = self.decoder(features if self.reduce else colour, condition, colour)
        return picture.float()

    def _condition(self, depth: Tensor, directions: Tensor | None) -> Tensor:
        parts = {"depth": depth, "direction": directions}
        chosen = [parts[name] for name in self._config.conditions]
        return torch.cat([part for part in chosen if part is not None] or [depth[:, :0]], 1)

    def _autocast(self) -> AbstractContextManager[object]:
        kind = torch.device(self._setting.device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self._config.precision == "bfloat16")

    def _field_terms(self, hits: Hits, made: Composite, low: Tensor) -> dict[str, Tensor]:
        """What is asked of the field itself; nothing where it is not trained."""
        weights = self._config.weights
        if not self._config.train_encoder:
            return {}
        terms = {"low": weights.low * _apart(made.colour, low, self._config.difference)} if weights.low else {}
        return terms | ray_terms(self.field, hits, made.samples, low, weights)

    def _picture_terms(self, made: Tensor, true: Tensor) -> dict[str, Tensor]:
        weights = self._config.weights
        terms = {"colour": weights.colour * (made - true).abs().mean()}
        if self._vgg:
            terms |= self._perceived(made, true)
        if self.discriminator:
            terms["adversarial"] = weights.adversarial * self._judged(made, 1.0)
        return terms

    def _discriminator_terms(self, made: Tensor, true: Tensor) -> dict[str, Tensor]:
        return {"real": self._judged(true, 1.0), "fake": self._judged(made.detach(), 0.0)}

    def _judged(self, pictures: Tensor, target: float) -> Tensor:
        """The cross entropy of the discriminator's opinion with `target`: 1 for a photo, 0 for a picture."""
        assert self.discriminator is not None
        # Less the last rows and columns that the discriminator could not take.
        height, width = (side // STRIDE * STRIDE for side in pictures.shape[2:])
        with self._autocast():
            logits = self.discriminator(pictures[:, :, :height, :width])
        return cross_entropy(logits.float(), torch.full_like(logits, target, dtype=torch.float32))

    def _perceived(self, made: Tensor, true: Tensor) -> dict[str, Tensor]:
        """How far the features of VGG19 are apart (equation 9), and their Gram matrices, summed over its layers."""
        assert self._vgg is not None
        layers = features_of_both(self._vgg, made, true)
        weights, terms = self._config.weights, {}
        if weights.perceptual:
            terms["perceptual"] = weights.perceptual * perceptual_distance(layers, self._config.difference)
        if weights.style:
            apart = [_apart(_gram(a), _gram(b), "absolute") for a, b in layers]
            terms["style"] = weights.style * torch.stack(apart).sum()
        return terms


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _by_size(rows: Float[Tensor, "n c"], batch: Sequence[Patch]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The rays' rows as maps (b, c, h, w), the photos (b, 3, rh, rw) and where they may be looked at (b, 1, rh, rw),
    patches of one size together."""
    maps = torch.split(rows, [patch.low[0].numel() for patch in batch])
    sizes = list(dict.fromkeys(patch.low.shape[1:] for patch in batch))
    groups = [[index for index, patch in enumerate(batch) if patch.low.shape[1:] == size] for size in sizes]
    return [
        (
            torch.stack([maps[index].T.reshape(-1, *size) for index in group]),
            torch.stack([batch[index].full for index in group]),
            torch.stack([batch[index].full_seen for index in group]),
        )
        for size, group in zip(sizes, groups, strict=True)
    ]


def _mean_terms(pairs: Sequence[Pair], terms: Callable[[Tensor, Tensor], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The terms' means over all patches."""
    counts, values = [len(made) for made, _ in pairs], [terms(*pair) for pair in pairs]
    total = {
        name: torch.stack([count * value[name] for count, value in zip(counts, values, strict=True)]).sum()
        for name in values[0]
    }
    return {name: value / sum(counts) for name, value in total.items()}


def _squared_error(made: Tensor, true: Tensor) -> dict[str, Tensor]:
    return {"error": (made - true).detach().square().mean()}


def _apart(made: Tensor, true: Tensor, difference: str) -> Tensor:
    return (made - true).square().mean() if difference == "squared" else (made - true).abs().mean()


def _gram(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c c"]:
    flat = features.flatten(2)
    return flat @ flat.mT / (flat.shape[1] * flat.shape[2])


def render_memory(device: torch.device | str) -> int:
    """Bytes that a picture may take: a share of what the device has, whatever else uses it, so that a machine always
    chooses the same tiles."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info()[1]) // _MEMORY_SHARE
    return min(_MOST_MEMORY, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MEMORY_SHARE)


def _directions(camera: Camera, part: Window, device: torch.device | str) -> Float[Tensor, "1 3 h w"]:
    y, x = torch.meshgrid(torch.arange(part.height), torch.arange(part.width), indexing="ij")
    x, y = (axis.flatten().to(device) for axis in (x + part.x, y + part.y))
    rays = Cameras.stack([camera], device).rays(torch.zeros_like(x), x, y)
    return rays.directions.T.reshape(1, 3, part.height, part.width)
