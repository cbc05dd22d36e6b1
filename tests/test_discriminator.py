"""The discriminator: its size, its normalisation, and that it can tell noise from a flat picture."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from loupe.nets.discriminator import Discriminator


def test_it_is_as_large_as_the_published_one() -> None:
    assert sum(parameter.numel() for parameter in Discriminator().parameters()) == 4_376_897


@pytest.mark.parametrize("size", [(8, 8), (64, 48)])
def test_there_is_one_logit_a_pixel(size: tuple[int, int]) -> None:
    assert Discriminator(4)(torch.rand(2, 3, *size)).shape == (2, 1, *size)


def test_sides_must_be_whole_strides() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        Discriminator(4)(torch.rand(1, 3, 12, 16))


def test_normalised_layers_stretch_nothing_by_more_than_one() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(4)
    for _ in range(200):  # the norm is found by power iteration, a round a call
        discriminator(torch.rand(1, 3, 16, 16))
    for layer in (*discriminator.down, *discriminator.up, *discriminator.refine):
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        assert largest.item() == pytest.approx(1, abs=0.02)


def test_it_learns_to_tell_noise_from_nothing() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(8)
    optimizer = torch.optim.Adam(discriminator.parameters(), 2e-3)
    for _ in range(100):
        logits = torch.cat([discriminator(torch.rand(2, 3, 16, 16)), discriminator(torch.full((2, 3, 16, 16), 0.5))])
        target = torch.cat([torch.ones(2, 1, 16, 16), torch.zeros(2, 1, 16, 16)])
        loss = binary_cross_entropy_with_logits(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3
