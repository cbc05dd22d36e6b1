"""The losses against plain loops and values known by hand."""

import math

import pytest
import torch

from loupe import losses


def test_colour_is_what_psnr_is_made_of() -> None:
    photo = torch.rand(30, 3)
    assert -10 * losses.colour(photo + 0.1, photo).log10().item() == pytest.approx(20, abs=1e-3)


def test_entropy_wants_a_decision() -> None:
    assert losses.background_entropy(torch.tensor([0.5])).item() == pytest.approx(math.log(2))
    assert losses.background_entropy(torch.tensor([0.0, 1.0])).item() < 2e-5
    left = torch.tensor([0.2], requires_grad=True)
    losses.background_entropy(left).backward()
    assert left.grad is not None
    assert left.grad.item() == pytest.approx(math.log(0.8 / 0.2))


def test_entropy_has_a_gradient_at_the_ends() -> None:
    left = torch.tensor([0.0, 1.0], requires_grad=True)
    losses.background_entropy(left).backward()
    assert left.grad is not None
    assert left.grad.isfinite().all()


def test_point_colour_is_the_loop_and_takes_weights_as_constants() -> None:
    weight = torch.rand(6, requires_grad=True)
    colours, photo, ray = torch.rand(6, 3, requires_grad=True), torch.rand(3, 3), torch.tensor([0, 0, 1, 2, 2, 2])
    expected = sum(weight[i].item() * (colours[i] - photo[ray[i]]).square().sum().item() for i in range(6)) / 3
    loss = losses.point_colour(weight, colours, photo, ray)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert weight.grad is None
    assert colours.grad is not None
