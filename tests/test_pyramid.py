"""The pyramid sees a neighbourhood and no more, and takes pictures of every size."""

from __future__ import annotations

import pytest
import torch

from loupe.nets.pyramid import FEATURES, Pyramid

REACH = 21  # pixels in each direction, beyond which nothing counts


@pytest.fixture(scope="module")
def pyramid() -> Pyramid:
    torch.manual_seed(0)
    return Pyramid().double()


def test_a_pixel_hangs_on_its_neighbourhood(pyramid: Pyramid) -> None:
    """The neighbourhood varies with the place among the coarsest stage's pixels, which span 4."""
    widest = 0
    for offset in range(4):
        x = 40 + offset
        picture = torch.rand(1, 3, 84, 84, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(pyramid(picture)[0, :, x, x].square().sum(), picture)
        rows, columns = gradient[0].abs().sum(0).nonzero().T
        for place in (rows, columns):
            assert place.min() < x - REACH // 2
            assert place.max() > x + REACH // 2
            widest = max(widest, int((place - x).abs().max()))
    assert widest == REACH


def test_a_crop_has_the_features_of_the_whole_but_at_its_edges(pyramid: Pyramid) -> None:
    picture = torch.rand(1, 3, 88, 92, dtype=torch.float64)
    whole, crop = pyramid(picture), pyramid(picture[:, :, 8:80, 12:84])
    inner = slice(REACH, -REACH)
    torch.testing.assert_close(crop[:, :, inner, inner], whole[:, :, 8:80, 12:84][:, :, inner, inner])
    assert not torch.allclose(crop, whole[:, :, 8:80, 12:84])


@pytest.mark.parametrize("height", range(1, 6))
@pytest.mark.parametrize("width", range(1, 6))
def test_small_pictures(pyramid: Pyramid, height: int, width: int) -> None:
    made = pyramid(torch.rand(2, 3, height, width, dtype=torch.float64))
    assert made.shape == (2, FEATURES, height, width)
    assert bool(made.isfinite().all())


def test_odd_sizes_are_continued_by_their_last_pixels(pyramid: Pyramid) -> None:
    picture = torch.rand(1, 3, 37, 50, dtype=torch.float64)
    rows, columns = torch.arange(40).clamp(max=36), torch.arange(52).clamp(max=49)
    torch.testing.assert_close(pyramid(picture), pyramid(picture[:, :, rows][..., columns])[:, :, :37, :50])


def test_a_pictures_features_do_not_hang_on_the_others(pyramid: Pyramid) -> None:
    pictures = torch.rand(3, 3, 20, 24, dtype=torch.float64)
    together = pyramid(pictures)
    for alone, other in zip(pictures.split(1), together.split(1), strict=True):
        torch.testing.assert_close(pyramid(alone), other)


def test_every_stage_counts(pyramid: Pyramid) -> None:
    pyramid(torch.rand(1, 3, 20, 24, dtype=torch.float64)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in pyramid.parameters())
