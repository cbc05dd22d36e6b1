"""VQ-NeRF: a surface field makes features at low resolution, the nearest codes of a codebook take their place, and its
decoder makes the picture of them.

The encoder phase is VolSDF's, on the low-resolution pixels. The joint phase trains in every step on both scales with
one field: patches of low-resolution rays, whose features are quantised and decoded, and single rays at full resolution,
whose colours keep the details of the geometry. The codebook and its decoder were pretrained on the training views; they
come with the encoder (`codebook_grafts` in configs/pipeline.yaml).

Yang et al., "VQ-NeRF: Vector quantization enhances implicit neural representations", 2023 (arXiv 2310.14487); what it
leaves open stands in docs/decisions/0019.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import interpolate, mse_loss, normalize
from torch.nn.utils.parametrize import is_parametrized

from loupe.camera import Camera
from loupe.codebook import NetworkConfig, VqVae, encode_view
from loupe.config import Config
from loupe.errors import InputError
from loupe.field_views import reached
from loupe.fields.surface import SurfaceConfig
from loupe.mesh import Mesh
from loupe.method import DECODER, Method, Phase, Picture, Recipe, Segment, Setting, Window
from loupe.nets.autoencoder import in_tiles
from loupe.nets.clip import clip_for, semantic_distance
from loupe.patches import Patch, TrainingPatches
from loupe.pixels import PixelBatch, TrainingPixels
from loupe.rays import Rays
from loupe.surface_fit import (
    Anywhere,
    EncoderConfig,
    SurfaceFit,
    anywhere,
    backdrop_of,
    coloured_mesh,
    draw_seed,
    field_groups,
    field_progress,
    look_through,
    make_field,
    shape_terms,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

_TILE = 128  # cells a side that are decoded at once
_COLOURS = 512  # training pixels by which colours are translated to codes
_EDGE = 0.02  # colours nearer to 0 and 1 count as so near there
_RIDGE = 1e-6  # keeps the translation defined where all photos are of one colour


class Weights(Config):
    """Weights of the loss terms (the paper's section 3.3): the decoded patches' (L2), the single rays' (L1), CLIP's,
    the codes' (L1), and Eikonal; and of what keeps the inside out of the cells that carving found empty."""

    decoded: float = Field(default=1.0, gt=0)
    global_: float = Field(default=1.0, ge=0, alias="global")
    semantic: float = Field(default=1.0, ge=0)
    codes: float = Field(default=1.0, ge=0)
    eikonal: float = Field(default=0.1, ge=0)
    empty: float = Field(default=1.0, ge=0)


class Joint(Config):
    """The recipe's section `joint`.

    Attributes:
        seed: of everything random.
        steps: of training.
        codebook: the shape of the codebook that comes with the encoder.
        patch: side of a patch, in low-resolution pixels.
        patches: a step.
        rays: single rays at full resolution, a step; 0 for the paper's "without global".
        train_decoder: whether the codebook's decoder learns on.
        grid_rate, network_rate, scale_rate, decoder_rate: Adam's learning rates.
        shape: what the shape's own rates, and the scale's, are multiplied by; the encoder has found it, and a head that
            knows nothing yet would spoil it.
        decay: of the rates, over the phase.
        refresh: steps between two looks at which cells hold anything.
        weights: of the loss terms.
    """

    seed: int = 0
    steps: int = Field(ge=1)
    codebook: NetworkConfig
    patch: int = Field(default=16, ge=8)
    patches: int = Field(default=2, ge=1)
    rays: int = Field(default=1024, ge=0)
    train_decoder: bool = False
    grid_rate: float = Field(default=1e-2, gt=0)
    network_rate: float = Field(default=5e-4, gt=0)
    scale_rate: float = Field(default=5e-4, gt=0)
    decoder_rate: float = Field(default=5e-4, gt=0)
    shape: float = Field(default=0.1, gt=0)
    decay: float = Field(default=1.0, gt=0, le=1)
    refresh: int = Field(default=50, ge=1)
    weights: Weights = Weights()


class VqNerfBatch(NamedTuple):
    """Patches; single pixels, if any; points of the box; and the seed by which samples are jittered."""

    patches: Sequence[Patch]
    pixels: PixelBatch | None
    anywhere: Anywhere
    seed: int


def make_vq_nerf(phase: Phase, recipe: Recipe, setting: Setting) -> Method:
    """The method in one phase. Raises `InputError` where the recipe or the scene does not fit."""
    encoder = recipe.section("encoder", EncoderConfig)
    if phase == "joint":
        return VqNerf(setting, recipe.section("joint", Joint), encoder.field)
    return SurfaceFit(setting, "low", encoder.fit, encoder.field)


class VqNerf:
    """The joint phase: `loupe.method.Method`, with a surface."""

    def __init__(self, setting: Setting, config: Joint, field: SurfaceConfig) -> None:
        scene = setting.scene
        if scene.sealed and setting.tiles:
            raise InputError(f"{scene.folder}: VQ-NeRF trains on the full resolution, which is sealed")
        if config.codebook.factor != scene.ratio:
            raise InputError(
                f"joint.codebook.factor {config.codebook.factor} must be the scene's ratio of {scene.ratio}: a cell of "
                "the codebook is a low-resolution pixel"
            )
        self._setting, self._config = setting, config
        self.field = make_field(setting, field, config.codebook.channels)
        self.codebook = VqVae(config.codebook).to(setting.device).eval()
        self._pixels = TrainingPixels(scene, setting.tiles, "full") if setting.tiles else None
        self._patches = TrainingPatches(scene, setting.tiles, config.patch, subject=True) if setting.tiles else None
        self._backdrop = backdrop_of(setting, self._pixels).to(setting.device)
        self._noted = {"psnr": torch.tensor(math.nan), "right": torch.tensor(math.nan)}

    def start_from(self, encoder: Mapping[str, Tensor]) -> None:
        """Take over the surface of the encoder phase, and the codebook beside it; the head for codes begins as the head
        for colours."""
        if not any(name.startswith(DECODER) for name in encoder):
            raise InputError(
                "VQ-NeRF needs a codebook beside its encoder: in configs/pipeline.yaml, name an entry of "
                "`codebook_grafts` as the trial's encoder"
            )
        self.load_state(encoder)
        self._begin_codes_as_colours()

    def segments(self) -> Sequence[Segment]:
        """One."""
        return [Segment("joint", self._config.steps)]

    def optimizers(self, segment: Segment) -> dict[str, torch.optim.Optimizer]:
        """One Adam for the field and, if it is to learn, the decoder."""
        config = self._config
        groups = field_groups(self.field, config)
        if config.train_decoder:
            groups.append({"params": list(self.codebook.decoder.parameters()), "lr": config.decoder_rate})
        return {"joint": torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15, fused=True)}

    def learning_rates(self, segment: Segment, step: int) -> Mapping[str, float]:
        """Down to `decay`."""
        return {"joint": self._config.decay ** (step / segment.steps)}

    def batch(self, segment: Segment, step: int, generator: torch.Generator) -> VqNerfBatch:
        """Patches and single pixels of the training views, and points in the box."""
        if self._patches is None or self._pixels is None:
            raise InputError("nothing can be trained without tiles; run cut_tiles")
        config, device = self._config, self._setting.device
        patches = self._patches.draw(step, config.patches, config.seed, device)
        pixels = self._pixels.draw(config.rays, generator, device) if config.rays else None
        count = config.rays + sum(patch.low[0].numel() for patch in patches)
        return VqNerfBatch(patches, pixels, anywhere(self._setting, count, generator), draw_seed(generator))

    def losses(self, batch: VqNerfBatch, segment: Segment) -> dict[str, dict[str, Tensor]]:
        """The paper's terms, weighted."""
        self.field.train()
        generator = torch.Generator().manual_seed(batch.seed)
        weights = self._config.weights
        rays = Rays(*(torch.cat(parts) for parts in zip(*(patch.rays for patch in batch.patches), strict=True)))
        seen = self.field.look(rays, "code", generator)
        rows = self._features(seen.values, seen.bare[:, None])
        gathered = [
            self._decoded_terms(one, patch)
            for one, patch in zip(_maps(rows, batch.patches), batch.patches, strict=True)
        ]
        terms = {name: torch.stack([one[name] for one in gathered]).mean() for name in gathered[0]}
        self._noted = {name: terms.pop(name).detach() for name in ("psnr", "right")}
        gradients = seen.gradient
        if batch.pixels is not None:
            single = self.field.look(batch.pixels.rays, "colour", generator)
            made = single.values + single.bare[:, None] * self._backdrop
            terms["global"] = weights.global_ * (made - batch.pixels.colours).abs().mean()
            gradients = torch.cat([gradients, single.gradient])
        return {"joint": terms | shape_terms(self.field, gradients, batch.anywhere, weights)}

    def after_step(self, segment: Segment, step: int) -> bool:
        """Look again at which cells hold anything, now and then."""
        if (step + 1) % self._config.refresh == 0:
            self.field.refresh()
        return False

    def progress(self) -> Mapping[str, float]:
        """Of the last batch: PSNR of the decoded patches; the share of cells with the photo's code."""
        return {name: float(value) for name, value in self._noted.items()} | field_progress(self.field)

    def state(self) -> dict[str, Tensor]:
        """The field, the codebook and the backdrop."""
        codebook = {f"{DECODER}{name}": value for name, value in self.codebook.state_dict().items()}
        return dict(self.field.state_dict()) | codebook | {"backdrop": self._backdrop}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self._backdrop = state["backdrop"].to(self._setting.device)
        codebook = {name.removeprefix(DECODER): value for name, value in state.items() if name.startswith(DECODER)}
        try:
            self.codebook.load_state_dict(codebook)
        except RuntimeError as error:
            *_, reason = str(error).splitlines()
            raise InputError(
                f"joint.codebook is not the shape of the codebook to begin with: {reason.strip()}"
            ) from None
        self.codebook.requires_grad_(False)
        self.codebook.decoder.requires_grad_(self._config.train_decoder)
        self.field.take(
            {name: value for name, value in state.items() if name != "backdrop" and not name.startswith(DECODER)}
        )
        for found in ("_code_behind", "_photo_codes"):
            self.__dict__.pop(found, None)

    def render(self, camera: Camera, time: float, window: Window | None = None) -> Picture:
        """The view of `camera`: field at low resolution, codes, decoder in tiles."""
        ratio, low = self._setting.scene.ratio, self._low(camera)
        part = window or Window(0, 0, camera.width, camera.height)
        outer = reached(part, ratio, self.codebook.decoder.radius, (low.width, low.height))
        view = look_through(self.field, "code", low, outer)
        features = self._features(view.values, view.bare).movedim(-1, 0)[None]
        picture = self._decode(features)
        left, top = part.x - outer.x * ratio, part.y - outer.y * ratio
        crop = (slice(top, top + part.height), slice(left, left + part.width))
        enlarged = interpolate(torch.stack([view.depth, view.opacity])[None], scale_factor=ratio, mode="bilinear")[0]
        return Picture(picture[0].movedim(0, -1)[crop].clamp(0, 1), enlarged[0][crop], enlarged[1][crop])

    def surface(self) -> Mesh:
        """See `loupe.method.HasSurface`."""
        return coloured_mesh(self.field, self._setting)

    def normals(self, camera: Camera) -> Float[Tensor, "h w 3"]:
        """See `loupe.method.HasSurface`; enlarged from low resolution, as depth is."""
        small = look_through(self.field, "colour", self._low(camera)).normals.movedim(-1, 0)[None]
        enlarged = interpolate(small, scale_factor=self._setting.scene.ratio, mode="bilinear")[0].movedim(0, -1)
        return normalize(enlarged[: camera.height, : camera.width], dim=-1)

    def _low(self, camera: Camera) -> Camera:
        """The camera over low-resolution pixels, the last of which may reach beyond its picture."""
        ratio = self._setting.scene.ratio
        columns, rows = -(-camera.width // ratio), -(-camera.height // ratio)
        return camera.cropped(0, 0, columns * ratio, rows * ratio).resized(columns, rows)

    def _features(self, values: Float[Tensor, "*n c"], bare: Float[Tensor, "*n 1"]) -> Float[Tensor, "*n c"]:
        """What the head's composited values make: channels as spread out as the codes', which differ by a hundred
        times, around their mean; and the backdrop's code where it shows."""
        codes = self.codebook.quantizer.codebook
        return values * codes.std(0) + (1 - bare) * codes.mean(0) + bare * self._code_behind

    @torch.no_grad()
    def _decode(self, features: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 3 fh fw"]:
        """The picture of features, through the nearest codes; seamless in tiles."""
        codes = self.codebook.quantizer(features).codes
        return in_tiles(
            self.codebook.decode, codes, Fraction(self.codebook.factor), _TILE, self.codebook.decoder.radius
        )

    def _decoded_terms(self, features: Float[Tensor, "1 c h w"], patch: Patch) -> dict[str, Tensor]:
        """What is asked of a patch: its picture, its codes and what CLIP sees; to be shown, its PSNR and the share of
        cells with the photo's code."""
        weights, photo = self._config.weights, patch.full[None]
        quantized = self.codebook.quantizer(features)
        made = self.codebook.decode(quantized.passed)
        indices = self._photo_codes[patch.view][patch.part][None]
        true = self.codebook.quantizer.lookup(indices).detach()
        seen = patch.full_seen[None]
        made, photo = torch.where(seen, made, 0), torch.where(seen, photo, 0)
        error = mse_loss(made, photo)
        terms = {"decoded": weights.decoded * error, "psnr": -10 * error.log10()}
        terms["right"] = (quantized.indices == indices).float().mean()
        if weights.codes:
            terms["codes"] = weights.codes * self._apart(quantized.passed, true, patch.low_seen)
        if weights.semantic:
            terms["semantic"] = weights.semantic * semantic_distance(self._clip, made, photo)
        return terms

    def _apart(
        self, one: Float[Tensor, "1 c h w"], other: Float[Tensor, "1 c h w"], seen: Bool[Tensor, "1 h w"]
    ) -> Float[Tensor, ""]:
        """How far maps lie apart where the photo may be looked at: the absolute difference, as a share of how far the
        codes are spread."""
        apart = (one - other).abs().sum(1) / self.codebook.quantizer.codebook.std(0).sum()
        return (apart * seen).sum() / seen.sum().clamp(min=1)

    @cached_property
    def _photo_codes(self) -> list[Int[Tensor, "h w"]]:
        """The codes of the training photos; of whole ones, since a patch's edge would show in its codes."""
        assert self._setting.tiles is not None
        photos = [self._setting.tiles.image(name, "full") for name in self._setting.scene.train]
        return [self.codebook.quantizer(encode_view(self.codebook, photo)).indices[0].int() for photo in photos]

    @cached_property
    def _code_behind(self) -> Float[Tensor, " c"]:
        """The code of the backdrop's colour, which stands behind the field."""
        return self._plain(self._backdrop[None])[0]

    @torch.no_grad()
    def _plain(self, colours: Float[Tensor, "n 3"]) -> Float[Tensor, "n c"]:
        """The latents of cells in the midst of pictures of one colour."""
        radius = self.codebook.encoder.radius
        side = (2 * radius + 1) * self.codebook.factor
        pictures = colours[:, :, None, None].expand(-1, 3, side, side)
        return self.codebook.encode(pictures)[:, :, radius, radius]

    @torch.no_grad()
    def _begin_codes_as_colours(self) -> None:
        """Let the heads for codes say what those for colours say: the latents of cells of one colour, as far as they
        are linear in what goes into the colours' sigmoid.

        The first pictures are then the field's own at low resolution, and what is left to learn is the detail.
        """
        assert self._pixels is not None
        generator = torch.Generator().manual_seed(self._config.seed)
        colours = self._pixels.draw(_COLOURS, generator, self._setting.device).colours.clamp(_EDGE, 1 - _EDGE)
        codes = self.codebook.quantizer.codebook
        wanted = ((self._plain(colours) - codes.mean(0)) / codes.std(0)).double()
        given = torch.cat([colours.logit(), torch.ones_like(colours[:, :1])], 1).double()
        # In double precision: what solvers round differently from run to run is then lost in the weights' own rounding.
        ridge = _RIDGE * len(given) * torch.eye(4, dtype=given.dtype, device=given.device)
        slope, offset = torch.linalg.solve(given.T @ given + ridge, given.T @ wanted).split([3, 1])
        pairs = [part.heads for part in (self.field, self.field.background) if part]
        for heads in pairs:
            known = [layer for layer in heads["colour"].modules() if isinstance(layer, nn.Linear)]
            begun = [layer for layer in heads["code"].modules() if isinstance(layer, nn.Linear)]
            for one, other in zip(known[:-1], begun[:-1], strict=True):
                other.load_state_dict(one.state_dict())
            weight = (slope.T @ known[-1].weight.double()).float()
            begun[-1].weight = weight if is_parametrized(begun[-1]) else nn.Parameter(weight)
            begun[-1].bias.copy_(slope.T @ known[-1].bias.double() + offset[0])

    @cached_property
    def _clip(self) -> nn.Module:
        return clip_for("joint.weights.semantic").to(self._setting.device)


def _maps(rows: Float[Tensor, "n c"], patches: Sequence[Patch]) -> list[Float[Tensor, "1 c h w"]]:
    """The rays' rows as maps."""
    parts = torch.split(rows, [patch.low[0].numel() for patch in patches])
    return [one.T.reshape(1, -1, *patch.low.shape[1:]) for one, patch in zip(parts, patches, strict=True)]
