"""What an ImageNet network sees in a picture: the features that 4K-NeRF's perceptual loss compares (equation 9).

The network is VGG19 (Simonyan and Zisserman 2015). Which of its layers count the paper leaves open; these are those of
the published code: the last convolutions of the third, fourth and fifth group, before their ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from loupe.errors import InputError
from loupe.weights import VGG19, find_weights

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Layer = tuple["Tensor", "Tensor"]  # what was made and what is true
Difference = Literal["squared", "absolute"]
_WEIGHTS = Path("weights")
_LAYERS = (16, 25, 34)  # conv3_4, conv4_4, conv5_4 among torchvision's `features`
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures


class Vgg19Features(nn.Module):
    """(b, 3, h, w) pictures in [0, 1] -> the three layers' activations."""

    def __init__(self) -> None:
        """With random weights; `load_vgg19` gives the real ones."""
        from torchvision.models import vgg19

        super().__init__()
        layers = list(vgg19().features[: _LAYERS[-1] + 1])
        edges = [0, *(layer + 1 for layer in _LAYERS)]
        self.groups = nn.ModuleList(nn.Sequential(*layers[first:end]) for first, end in pairwise(edges))
        for layer in self.modules():
            # A layer that overwrites its input would overwrite the activations that are handed out.
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b c h w"]]:
        """From fine to coarse."""
        activations = (pictures - self.mean) / self.deviation
        seen = []
        for group in self.groups:
            activations = group(activations)
            seen.append(activations)
        return seen


def features_of_both(network: nn.Module, made: Float[Tensor, "b 3 h w"], true: Float[Tensor, "b 3 h w"]) -> list[Layer]:
    """The features of what was made and of what is true, layer by layer; no gradient runs into what is true."""
    with torch.no_grad():
        wanted = network(true)
    return list(zip(network(made), wanted, strict=True))


def perceptual_distance(layers: Sequence[Layer], difference: Difference = "squared") -> Float[Tensor, ""]:
    """How far features are apart: the mean of each layer, summed."""
    apart = [made - true for made, true in layers]
    return torch.stack([(a.square() if difference == "squared" else a.abs()).mean() for a in apart]).sum()


def vgg19_for(keys: str) -> Vgg19Features:
    """The features with the weights that the user brought; raises `InputError` if there are none, and says which `keys`
    of the recipe then have to be 0."""
    path = find_weights(VGG19, _WEIGHTS)
    if path is None:
        raise InputError(
            f"the perceptual loss needs {VGG19.name}: put it into {_WEIGHTS}/ (see {_WEIGHTS}/README.md), or set "
            f"{keys} to 0"
        )
    return load_vgg19(path)


def load_vgg19(path: Path) -> Vgg19Features:
    """The features with torchvision's weights in a file. Raises `InputError` if it does not hold exactly those."""
    network = Vgg19Features()
    offsets = (0, *(layer + 1 for layer in _LAYERS))
    try:
        stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        for group, offset in zip(network.groups, offsets, strict=False):
            names = group.state_dict()
            wanted = {name: f"features.{int(name.split('.')[0]) + offset}.{name.split('.')[1]}" for name in names}
            group.load_state_dict({name: stored[source] for name, source in wanted.items()})
    except Exception as error:  # torch.load raises whatever the broken file makes it raise
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not the weights of VGG19 ({line}); see weights/README.md") from None
    return network
