"""What CLIP sees in a picture: the embeddings that VQ-NeRF's semantic loss compares (equation 6).

The paper cites CLIP (Radford et al. 2021) and leaves open which of its networks. This is ViT-B/32 with OpenAI's
weights: others of that size circulate, but only these are Radford et al.'s. Of CLIP, the encoder of pictures is enough.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from loupe.errors import InputError
from loupe.weights import CLIP, find_weights

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_WEIGHTS = Path("weights")
# open_clip's names (its pretrained.py). OpenAI trained with QuickGELU: in open_clip's "ViT-B-32" the same weights
# would run through another activation, and nothing would say so.
_MODEL, _TAG = "ViT-B-32-quickgelu", "openai"


def semantic_distance(
    model: nn.Module, made: Float[Tensor, "b 3 h w"], true: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, ""]:
    """1 - the cosine between CLIP's embeddings of what was made and of what is true, the pictures' mean (equation 6,
    which prints a minus where the two arguments are meant).

    From 0, alike, to 2. `model` is from `clip_for`, the pictures in [0, 1], of any size. No gradient runs into what is
    true.
    """
    with torch.no_grad():
        wanted = model(_preprocessed(model, true))
    seen = model(_preprocessed(model, made))
    return 1 - torch.cosine_similarity(seen, wanted, dim=1).mean()


def clip_for(key: str) -> nn.Module:
    """CLIP's encoder of pictures with the weights that the user brought; raises `InputError` if there are none, and
    says which `key` of the recipe then has to be 0."""
    path = find_weights(CLIP, _WEIGHTS) or _kept_by_open_clip()
    if path is None:
        raise InputError(
            f"the semantic loss needs CLIP's {CLIP.name}: put it into {_WEIGHTS}/ (see {_WEIGHTS}/README.md), or set "
            f"{key} to 0"
        )
    return load_clip(path)


def load_clip(path: Path) -> nn.Module:
    """The encoder of pictures, frozen, out of OpenAI's file (.pt) or out of the form in which open_clip keeps it.

    Raises `InputError` if the file does not hold exactly that network.
    """
    import open_clip

    try:
        # Given a path, open_clip stays off the network. Given the tag, it asks there even for what it has cached.
        if path.suffix == ".pt":
            model: Any = open_clip.load_openai_model(str(path), precision="fp32", device="cpu")
        else:
            model = open_clip.create_model(_MODEL, pretrained=str(path))
    except Exception as error:  # torch.load raises whatever the broken file makes it raise
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not the weights of CLIP's ViT-B/32 ({line}); see weights/README.md") from None
    encoder: nn.Module = model.visual
    return encoder.eval().requires_grad_(False)


def _kept_by_open_clip() -> Path | None:
    """The file that open_clip has stored when it was asked for the model on a machine with a network."""
    from huggingface_hub import try_to_load_from_cache
    from open_clip import get_pretrained_cfg
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository = get_pretrained_cfg(_MODEL, _TAG)["hf_hub"].rstrip("/")
    for name in (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME):
        path = try_to_load_from_cache(repository, name)
        if isinstance(path, str):
            return Path(path)
    return None


def _preprocessed(model: Any, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 s s"]:
    """As CLIP wants them, bicubic at its size and normalised; squeezed where CLIP crops, so that every pixel counts."""
    small = functional.interpolate(pictures, model.image_size, mode="bicubic", antialias=True)
    mean, deviation = (small.new_tensor(values).view(3, 1, 1) for values in (model.image_mean, model.image_std))
    return (small - mean) / deviation
