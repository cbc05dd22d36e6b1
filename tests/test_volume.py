"""Volume rendering against plain loops and against media whose transmittance is known."""

import math

import pytest
import torch

from loupe import volume


def random_samples(rays: int, most: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Optical depths and ray numbers, in float64, with 0 to `most` samples a ray."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, most + 1, (rays,), generator=generator)
    ray = torch.arange(rays).repeat_interleave(lengths)
    return torch.rand(len(ray), generator=generator, dtype=torch.float64), ray


def naive(tau: torch.Tensor, ray: torch.Tensor, rays: int) -> tuple[list[float], list[float]]:
    """The weights and what is left, by the definition."""
    weights, left = [], [1.0] * rays
    for depth, index in zip(tau.tolist(), ray.tolist(), strict=True):
        weights.append(left[index] * (1 - math.exp(-depth)))
        left[index] *= math.exp(-depth)
    return weights, left


def test_weights_are_those_of_the_loop() -> None:
    tau, ray = random_samples(50, 9, 0)
    weight, left = volume.absorb(tau, ray, 50)
    expected_weight, expected_left = naive(tau, ray, 50)
    torch.testing.assert_close(weight, torch.tensor(expected_weight, dtype=torch.float64))
    torch.testing.assert_close(left, torch.tensor(expected_left, dtype=torch.float64))
    total = volume.per_ray(weight[:, None], ray, 50)[:, 0] + left
    torch.testing.assert_close(total, torch.ones(50, dtype=torch.float64))


@pytest.mark.parametrize("channels", [1, 3, 17])
def test_composite_of_any_channel_count(channels: int) -> None:
    tau, ray = random_samples(20, 6, 1)
    weight, _ = volume.absorb(tau, ray, 20)
    values = torch.randn(len(ray), channels, dtype=torch.float64)
    expected = torch.zeros(20, channels, dtype=torch.float64)
    for index, one in enumerate(ray.tolist()):
        expected[one] += weight[index] * values[index]
    torch.testing.assert_close(volume.composite(weight, values, ray, 20), expected)


def test_packed_is_dense_in_any_order_of_rays() -> None:
    """A ray's result does not depend on which rays stand beside it."""
    tau, ray = random_samples(30, 8, 2)
    _, together = volume.absorb(tau, ray, 30)
    for index in (0, 7, 29):
        mine = tau[ray == index]
        _, alone = volume.absorb(mine, torch.zeros(len(mine), dtype=torch.long), 1)
        torch.testing.assert_close(alone[0], together[index])


def test_a_homogeneous_medium_obeys_beer_and_lambert() -> None:
    density, length, count = 0.7, 3.0, 64
    tau = torch.full((count,), density * length / count)
    weight, left = volume.absorb(tau, torch.zeros(count, dtype=torch.long), 1)
    assert left.item() == pytest.approx(math.exp(-density * length), abs=1e-6)
    t = (torch.arange(count) + 0.5) * length / count
    mean_depth = (weight * t).sum().item()
    exact = (1 - math.exp(-density * length) * (1 + density * length)) / density
    assert mean_depth == pytest.approx(exact, abs=1e-3)


def test_a_gaussian_blob_has_the_transmittance_of_the_error_function() -> None:
    t = torch.linspace(-4, 4, 2001, dtype=torch.float64)
    width, peak, step = 0.8, 2.0, float(t[1] - t[0])
    tau = peak * torch.exp(-((t / width) ** 2) / 2) * step
    through = torch.exp(-volume.before(tau, torch.zeros(2001, dtype=torch.long), 1))
    reached = width * math.sqrt(math.pi / 2) * (torch.erf(t / width / math.sqrt(2)) + 1)
    torch.testing.assert_close(through, torch.exp(-peak * reached), atol=2e-3, rtol=0)


def test_many_rays_lose_no_digits() -> None:
    """The last of 20,000 opaque rays is composited as exactly as the first."""
    tau = torch.rand(40, generator=torch.Generator().manual_seed(3)) * 3
    ray = torch.arange(20_000).repeat_interleave(40)
    weight, _ = volume.absorb(tau.repeat(20_000), ray, 20_000)
    torch.testing.assert_close(weight[-40:], weight[:40], atol=1e-7, rtol=1e-6)


def test_opacity_of_a_raw_density_is_dvgos() -> None:
    raw = torch.linspace(-8, 8, 50, dtype=torch.float64)
    for interval in (0.25, 0.5, 1.7):
        alpha = -torch.expm1(-volume.optical_depth(raw, interval))
        torch.testing.assert_close(alpha, 1 - (1 + raw.exp()) ** -interval)


def test_gradients() -> None:
    tau, ray = random_samples(5, 4, 4)
    values = torch.randn(len(ray), 2, dtype=torch.float64, requires_grad=True)
    tau.requires_grad_()

    def render(tau: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weight, left = volume.absorb(tau, ray, 5)
        return volume.composite(weight, values, ray, 5), left

    assert torch.autograd.gradcheck(render, (tau, values))


def test_distortion_is_the_double_sum_and_has_its_gradient() -> None:
    weight, ray = random_samples(12, 7, 5)
    t = torch.rand(len(ray), dtype=torch.float64) + 2.0 * ray
    t = t.sort().values
    expected = 0.0
    for index in range(12):
        w, s = weight[ray == index], t[ray == index]
        expected += (w[:, None] * w * (s[:, None] - s).abs()).sum().item() + 0.02 / 3 * w.square().sum().item()
    assert volume.distortion(weight, t, 0.02, ray, 12).item() == pytest.approx(expected / 12)
    assert torch.autograd.gradcheck(
        lambda w: volume.distortion(w, t, 0.02, ray, 12), (weight.clone().requires_grad_(),)
    )


def test_no_samples_at_all() -> None:
    nothing = torch.zeros(0)
    weight, left = volume.absorb(nothing, torch.zeros(0, dtype=torch.long), 3)
    assert weight.shape == (0,)
    assert left.tolist() == [1, 1, 1]
    assert volume.composite(weight, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 3).shape == (3, 4)


def test_dense_weights_are_the_packed_ones() -> None:
    tau = torch.rand(7, 5, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    weight, left = volume.absorb_dense(tau)
    expected, expected_left = naive(tau.flatten(), torch.arange(7).repeat_interleave(5), 7)
    torch.testing.assert_close(weight.flatten(), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(left, torch.tensor(expected_left, dtype=torch.float64))


def test_density_of_a_distance_is_laplaces_distribution_function() -> None:
    distance = torch.linspace(-3, 3, 25, dtype=torch.float64)
    for scale in (0.1, 0.5, 2.0):
        expected = torch.distributions.Laplace(0.0, scale).cdf(-distance) / scale
        torch.testing.assert_close(volume.laplace_density(distance, scale), expected)
    far = volume.laplace_density(torch.tensor([0.5]), 0.01)
    assert far.item() == pytest.approx(50 * math.exp(-50), rel=1e-4), "a thin density keeps its digits"
    scale = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(volume.laplace_density, (distance[distance != 0].requires_grad_(), scale))
