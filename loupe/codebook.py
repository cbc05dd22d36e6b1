"""The codebook of VQ-NeRF (Yang et al. 2023, section 3.1): a VQ-VAE of small squares of pixels.

An encoder turns `factor` x `factor` pixels into one latent of `channels` numbers, each latent is replaced by the
nearest of `codes` codes, and a decoder turns codes back into pixels. Pictures are float RGB in [0, 1], (b, 3, h, w),
with h and w multiples of `factor`; what the decoder gives is not clipped.

On disk: `model.safetensors`, and `model.json` with the configuration and a digest of every view that was trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import mse_loss

from loupe.config import Config, parse_section
from loupe.errors import InputError
from loupe.images import Pixels, to_uint8
from loupe.nets.autoencoder import Decoder, Encoder, in_tiles, start_at_principal_components
from loupe.nets.quantizer import Quantized, Quantizer
from loupe.tiles import Tiles

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_FORMAT = 1
_TILE = 128  # cells a side: 12 megapixels then take a few hundred megabytes


class NetworkConfig(Config):
    """The VQ-VAE's shape. Factor, codes and channels as in the paper; the rest, which it leaves open, is ours.

    Attributes:
        factor: pixels per cell along each axis.
        codes, channels: size of the codebook.
        width: features of encoder and decoder.
        encoder_blocks, decoder_blocks: residual blocks of two 3x3 convolutions.
    """

    factor: Annotated[int, Field(ge=2, le=16)] = 4
    codes: Annotated[int, Field(ge=2)] = 2048
    channels: PositiveInt = 16
    width: PositiveInt
    encoder_blocks: PositiveInt
    decoder_blocks: PositiveInt


class CodebookConfig(Config):
    """Section `codebook` of a codebook's file.

    Attributes:
        network: the VQ-VAE's shape.
        beta: weight of the commitment term of equation 3.
        batch, crop: squares per step, and their side in pixels.
        plain_steps: steps without quantisation, before the codes are placed by k-means on what the encoder gives.
        quantised_steps: steps with it.
        learning_rate, code_learning_rate: Adam's, for the network and for the codes; after a warm-up of
            `warm_up_steps` the second segment brings them down to nearly nothing along a half cosine.
        revive_every: steps after which codes unused since the last time are moved onto latents.
        reference: also train the same network without quantisation, for comparison.
        seed: of everything that is random.
    """

    network: NetworkConfig
    beta: PositiveFloat = 0.25
    batch: PositiveInt
    crop: PositiveInt
    plain_steps: PositiveInt
    quantised_steps: PositiveInt
    warm_up_steps: PositiveInt
    learning_rate: PositiveFloat
    code_learning_rate: PositiveFloat
    revive_every: PositiveInt
    reference: bool
    seed: int = 0


class Reconstruction(NamedTuple):
    """What `VqVae` makes of pictures: `pictures`, and how: `latents`, and `quantized` (None without quantisation)."""

    pictures: Float[Tensor, "b 3 h w"]
    latents: Float[Tensor, "b c h/f w/f"]
    quantized: Quantized | None


class VqVae(nn.Module):
    """Encoder, quantizer, decoder."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.factor = config.factor
        self.encoder = Encoder(config.channels, config.width, config.encoder_blocks, config.factor)
        self.quantizer = Quantizer(config.codes, config.channels)
        self.decoder = Decoder(config.channels, config.width, config.decoder_blocks, config.factor)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h/f w/f"]:
        """The continuous latents of pictures."""
        latents: Tensor = self.encoder(pictures - 0.5)
        return latents

    def decode(self, codes: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 f*h f*w"]:
        """The pictures of codes (or, without quantisation, of latents)."""
        pictures: Tensor = self.decoder(codes)
        return pictures + 0.5

    def start(self, pictures: Float[Tensor, "b 3 h w"]) -> None:
        """Begin as the best linear auto-encoder of these pictures."""
        start_at_principal_components(self.encoder, self.decoder, pictures - 0.5)

    def forward(self, pictures: Float[Tensor, "b 3 h w"], quantise: bool) -> Reconstruction:
        """Encode and decode, through the codebook or past it."""
        latents = self.encode(pictures)
        if not quantise:
            return Reconstruction(self.decode(latents), latents, None)
        quantized = self.quantizer(latents)
        return Reconstruction(self.decode(quantized.passed), latents, quantized)


def objective(pictures: Float[Tensor, "b 3 h w"], made: Reconstruction, beta: float) -> dict[str, Float[Tensor, ""]]:
    """The three terms of equation 3: |x - x'|^2 + |sg(z) - z_q|^2 + beta |sg(z_q) - z|^2.

    Each squared norm is a mean over all its numbers (pictures, channels, pixels or cells), so the balance does not hang
    on the crop or on the number of channels. The commitment term, which carries beta, moves the encoder alone; the
    codebook term moves the codes alone.
    """
    terms = {"reconstruction": mse_loss(made.pictures, pictures)}
    if made.quantized is not None:
        codes = made.quantized.codes
        terms["codebook"] = mse_loss(codes, made.latents.detach())
        terms["commitment"] = beta * mse_loss(made.latents, codes.detach())
    return terms


@torch.no_grad()
def encode_view(model: VqVae, pixels: Pixels, tile: int = _TILE) -> Float[Tensor, "1 c h/f w/f"]:
    """The latents of a whole picture, uint8 (h, w, 3), worked on in tiles of `tile` cells a side; seamless."""
    device = model.quantizer.codebook.device
    factor, radius = model.factor, model.encoder.radius

    def encode(part: Tensor) -> Tensor:
        return model.encode(part.to(device).float() / 255)

    whole = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
    return in_tiles(encode, whole, Fraction(1, factor), tile * factor, radius * factor)


@torch.no_grad()
def decode_view(model: VqVae, codes: Float[Tensor, "1 c h w"], tile: int = _TILE) -> Pixels:
    """The whole picture of a map of codes, uint8 (factor h, factor w, 3), worked on in tiles; seamless."""

    def decode(part: Tensor) -> Tensor:
        return torch.from_numpy(to_uint8(model.decode(part).cpu().numpy()))

    picture = in_tiles(decode, codes, Fraction(model.factor), tile, model.decoder.radius)
    return np.asarray(picture[0].permute(1, 2, 0).numpy(), np.uint8)


@dataclass(frozen=True)
class Codebook:
    """A trained VQ-VAE, the numbers it was trained by, and what it has seen: {view: digest of its pixels}."""

    model: VqVae
    config: CodebookConfig
    seen: Mapping[str, str]

    def refuse(self, tiles: Tiles, test: Sequence[str]) -> None:
        """Raise `InputError` if one of these test views, under whatever name, is among the pictures trained on."""
        for name in test:
            digest = view_digest(tiles.image(name, "full"))
            if known := [view for view, value in self.seen.items() if value == digest]:
                raise InputError(
                    f"test view {name}: the codebook was trained on it (as {known[0]}); "
                    "pretrain the codebook on captures or splits without it"
                )

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `model.json` into `folder`, which exists."""
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        content = {"format": _FORMAT, "config": self.config.model_dump(), "views": dict(self.seen)}
        (folder / "model.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")

    @classmethod
    def load(cls, folder: Path) -> Codebook:
        """The codebook in `folder`, on the CPU, frozen, in evaluation mode; raises `InputError` if it is not whole."""
        path = folder / "model.json"
        try:
            content = json.loads(path.read_text(encoding="utf8"))
            state = load_file(folder / "model.safetensors")
            if content["format"] != _FORMAT:
                raise InputError(f"{path}: format {content['format']}, expected {_FORMAT}; run pretrain_codebook again")
            config = parse_section(CodebookConfig, content["config"], f"{path}: config")
            model = VqVae(config.network)
            model.load_state_dict(state)
        except FileNotFoundError as error:
            raise InputError(f"{error.filename}: no such file; run pretrain_codebook first") from None
        except (KeyError, json.JSONDecodeError, SafetensorError, RuntimeError) as error:
            raise InputError(f"{folder}: not a codebook ({str(error).splitlines()[0]})") from None
        return cls(model.requires_grad_(False).eval(), config, content["views"])


def view_digest(pixels: Pixels) -> str:
    """SHA-256 of a picture's size and pixels."""
    found = hashlib.sha256(repr(pixels.shape).encode())
    found.update(np.ascontiguousarray(pixels).data)
    return found.hexdigest()
