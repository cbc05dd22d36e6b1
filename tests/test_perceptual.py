"""VGG19's features against torchvision's own network, and files that do not hold it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import vgg19

from loupe.errors import InputError
from loupe.nets.perceptual import features_of_both, load_vgg19, perceptual_distance


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights drawn at random, in a file as torchvision stores them."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(vgg19().state_dict(), path)
    return path


def test_features_are_those_before_the_relu_of_conv3_4_4_4_and_5_4(stored: Path) -> None:
    network = load_vgg19(stored)
    reference = vgg19()
    reference.load_state_dict(torch.load(stored, weights_only=True))
    picture = torch.rand(1, 3, 32, 48)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (picture - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    expected = []
    for index, layer in enumerate(reference.features[:35]):
        x = layer(x)
        if index in (16, 25, 34):
            expected.append(x.clone())
    assert [one.shape[1:] for one in expected] == [(256, 8, 12), (512, 4, 6), (512, 2, 3)]
    for one, other in zip(network(picture), expected, strict=True):
        torch.testing.assert_close(one, other)
    assert not any(parameter.requires_grad for parameter in network.parameters())


class Halves(nn.Module):
    """Stands in for the network: two layers of different sizes."""

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        return [2 * pictures, 3 * pictures[:, :1, ::2]]


def test_distances_by_hand() -> None:
    """The layers' means are summed, so that a layer's size does not count."""
    true = torch.rand(2, 3, 4, 6)
    apart = torch.tensor([0.1, -0.2, 0.3]).view(3, 1, 1)
    squared = 4 * (0.01 + 0.04 + 0.09) / 3 + 9 * 0.01
    absolute = 2 * (0.1 + 0.2 + 0.3) / 3 + 3 * 0.1
    layers = features_of_both(Halves(), true + apart, true)
    assert float(perceptual_distance(layers)) == pytest.approx(squared, rel=1e-5)
    assert float(perceptual_distance(layers, "absolute")) == pytest.approx(absolute, rel=1e-5)
    assert float(perceptual_distance(features_of_both(Halves(), true, true))) == 0


def test_only_what_was_made_learns_from_a_distance() -> None:
    made, true = (torch.rand(1, 3, 4, 6, requires_grad=True) for _ in range(2))
    perceptual_distance(features_of_both(Halves(), made, true)).backward()
    assert made.grad is not None
    assert true.grad is None
    expected = 2 * 4 * (made - true) / made.numel()
    expected[:, :1, ::2] += 2 * 9 * (made - true)[:, :1, ::2] / made[:, :1, ::2].numel()
    torch.testing.assert_close(made.grad, expected.detach())


def test_other_files_are_refused(stored: Path, tmp_path: Path) -> None:
    weights = torch.load(stored, weights_only=True)
    del weights["features.34.bias"]
    torch.save(weights, tmp_path / "part.pth")
    (tmp_path / "text.pth").write_text("no weights")

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    torch.save({"features.0.weight": Evil()}, tmp_path / "evil.pth")
    for name in ("part", "text", "evil"):
        with pytest.raises(InputError, match=rf"{name}\.pth: not the weights of VGG19"):
            load_vgg19(tmp_path / f"{name}.pth")
    assert not (tmp_path / "ran").exists()
