"""The bound on the opacity's error against fine integration along analytic surfaces, and what is sampled by it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from loupe import volume
from loupe.config import parse_section
from loupe.error_bound import BoundConfig, clearance, opacity_error, quantiles, refine, sample
from loupe.errors import InputError
from loupe.rays import Rays

Distance = Callable[[Tensor], Tensor]
FAR = 4.0


def ball(points: Tensor) -> Tensor:
    """A ball of radius 0.7 about the origin."""
    return points.norm(dim=-1) - 0.7


def slab(points: Tensor) -> Tensor:
    """What lies between z = -0.15 and z = 0.15."""
    return points[:, 2].abs() - 0.15


def two_balls(points: Tensor) -> Tensor:
    """Balls of radius 0.5 about z = -0.8 and of radius 0.3 about z = 0.9."""
    middle = points.new_tensor([0, 0, 1])
    return torch.minimum((points + 0.8 * middle).norm(dim=-1) - 0.5, (points - 0.9 * middle).norm(dim=-1) - 0.3)


def ground(points: Tensor) -> Tensor:
    """What lies below y = 0; y is down."""
    return -points[:, 1]


SURFACES = [ball, slab, two_balls, ground]


def rays_along_z(count: int, seed: int) -> Rays:
    """Rays from z = -2 that pass the origin within 0.9 or so, most of them a little oblique; some graze the ground."""
    generator = torch.Generator().manual_seed(seed)
    origins = torch.rand(count, 3, generator=generator, dtype=torch.float64) * 1.8 - 0.9
    origins[:, 2] = -2
    directions = torch.randn(count, 3, generator=generator, dtype=torch.float64) * 0.1
    directions[:, 2] = 1
    origins[::3, 1], directions[::3, 1] = -0.02, 0.001
    return Rays(origins, torch.nn.functional.normalize(directions, dim=-1))


def single(rays: Rays) -> Rays:
    return Rays(rays.origins.float(), rays.directions.float())


def through_the_middle(across: float = 0.0) -> Rays:
    """One ray along z from z = -2, in float32."""
    return Rays(torch.tensor([[across, 0.0, -2.0]]), torch.tensor([[0.0, 0.0, 1.0]]))


def ask(distance: Distance, rays: Rays, t: Tensor) -> Tensor:
    return distance((rays.origins[:, None] + t[..., None] * rays.directions[:, None]).flatten(0, 1)).view(t.shape)


def random_samples(rays: int, count: int, seed: int) -> Tensor:
    """From 0 to `FAR`, uneven, float64."""
    generator = torch.Generator().manual_seed(seed)
    inner = FAR * torch.rand(rays, count, generator=generator, dtype=torch.float64)
    return torch.cat([torch.zeros(rays, 1), inner.sort(-1).values, torch.full((rays, 1), FAR)], 1).double()


def worst_error(distance: Distance, rays: Rays, t: Tensor, beta: float, steps: int) -> Tensor:
    """The largest error of the opacity in each interval, (r, s - 1): `steps` trapezoids an interval are the truth."""
    share = torch.linspace(0, 1, steps + 1, dtype=t.dtype)
    fine = t[:, :-1, None] + t.diff()[..., None] * share
    sigma = volume.laplace_density(ask(distance, rays, fine.flatten(1)).view(fine.shape), beta)
    piece = (sigma[..., 1:] + sigma[..., :-1]) / 2 * fine.diff()
    within = torch.cat([torch.zeros_like(piece[..., :1]), piece.cumsum(-1)], -1)
    true = within + (piece.sum(-1).cumsum(-1) - piece.sum(-1))[..., None]
    rectangle = sigma[..., 0] * t.diff()
    summed = (rectangle.cumsum(-1) - rectangle)[..., None] + sigma[..., :1] * (fine - fine[..., :1])
    return (torch.exp(-true) - torch.exp(-summed)).abs().amax(-1)


@pytest.mark.parametrize("distance", SURFACES)
@pytest.mark.parametrize("beta", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("count", [3, 20, 200])
def test_the_error_never_exceeds_the_bound(distance: Distance, beta: float, count: int) -> None:
    rays, t = rays_along_z(48, 1), random_samples(48, count, 2)
    bound = opacity_error(ask(distance, rays, t), t, beta)
    error = worst_error(distance, rays, t, beta, 8000 // count)
    assert bool((error <= bound + 1e-6).all())


def test_the_bound_is_nearly_reached() -> None:
    """Head-on, in the one interval before a plane, density changes about as fast as the bound fears."""
    t = torch.tensor([[0.0, 1.99, 2.0]], dtype=torch.float64)
    rays = Rays(torch.tensor([[0.0, -2.0, 0.0]]).double(), torch.tensor([[0.0, 1.0, 0.0]]).double())
    bound = opacity_error(ask(ground, rays, t), t, 0.1)
    error = worst_error(ground, rays, t, 0.1, 4000)
    assert error[0, 0] <= bound[0, 0]
    assert 0.8 * (bound[0, 1] - bound[0, 0]) < error[0, 1] <= bound[0, 1]


def test_the_bound_is_the_papers_written_out() -> None:
    t, beta = random_samples(5, 9, 3), 0.3
    d = ask(ball, rays_along_z(5, 4), t)
    bound, near = opacity_error(d, t, beta), clearance(d, t.diff())
    for ray in range(5):
        passed = wrong = 0.0
        for k in range(10):
            length = float(t[ray, k + 1] - t[ray, k])
            wrong += length**2 * math.exp(-float(near[ray, k]) / beta) / (4 * beta**2)
            assert bound[ray, k].item() == pytest.approx(min(1, math.exp(-passed) * (math.exp(wrong) - 1)))
            passed += length * float(volume.laplace_density(d[ray, k], beta))


def test_enough_samples_make_the_bound_small_and_so_does_a_large_scale() -> None:
    rays = rays_along_z(20, 5)
    dense, sparse = (torch.linspace(0, FAR, n, dtype=torch.float64).expand(20, -1) for n in (4000, 20))
    assert opacity_error(ask(ball, rays, dense), dense, 0.01).max() < 0.1
    assert opacity_error(ask(ball, rays, sparse), sparse, 0.01).max() > 0.5
    assert opacity_error(ask(ball, rays, sparse), sparse, 2.0).max() < 0.1


def test_the_bound_is_finite_however_thin_the_edge() -> None:
    rays, t = single(rays_along_z(20, 6)), random_samples(20, 60, 7).float()
    for beta in (1e-7, 1e-4, 1e4):
        bound = opacity_error(ask(ball, rays, t), t, beta)
        assert bool(((bound >= 0) & (bound <= 1)).all())


def test_clearance_is_that_of_a_search() -> None:
    """All points of a plane through the ray that lie outside both balls: the nearest of them to the interval."""
    x, y = torch.meshgrid(torch.linspace(-2, 3, 501), torch.linspace(0, 2, 201), indexing="ij")
    generator = torch.Generator().manual_seed(8)
    for length in (0.3, 1.0):
        to_interval = torch.hypot(x - x.clamp(0, length), y)
        for _ in range(60):
            # Distances at the ends of an interval differ by no more than its length.
            first = float(torch.rand((), generator=generator)) * 1.5
            second = abs(first + (2 * float(torch.rand((), generator=generator)) - 1) * length)
            free = (torch.hypot(x, y) >= first) & (torch.hypot(x - length, y) >= second)
            found = clearance(torch.tensor([[first, second]]), torch.tensor([[length]])).item()
            assert found == pytest.approx(float(to_interval[free].min()), abs=0.015)


def test_clearance_of_known_cases() -> None:
    length = torch.tensor([[1.0]])
    cases = {
        (5.0, 5.0): math.sqrt(24.75),  # an isosceles triangle
        (0.3, 0.4): 0.0,  # balls that do not meet
        (0.5, 1.5): 0.5,  # straight away from a surface
        (-1.5, -0.5): 0.5,  # inside
        (1.0, math.sqrt(2)): 1.0,  # a right angle: both cases are one
        (0.9, -0.9): 0.0,  # a surface between that no distance allows
        (0.0, 1.0): 0.0,
    }
    for ends, expected in cases.items():
        assert clearance(torch.tensor([ends]), length).item() == pytest.approx(expected, abs=1e-6)
    assert clearance(torch.tensor([[0.7, 0.7]]), torch.zeros(1, 1)).item() == pytest.approx(0.7)


@pytest.mark.parametrize("distance", SURFACES)
def test_clearance_is_never_more_than_the_distance_along_the_interval(distance: Distance) -> None:
    rays, t = rays_along_z(60, 9), random_samples(60, 30, 10)
    fine = t[:, :-1, None] + t.diff()[..., None] * torch.linspace(0, 1, 65, dtype=torch.float64)
    nearest = ask(distance, rays, fine.flatten(1)).view(fine.shape).abs().amin(-1)
    assert bool((clearance(ask(distance, rays, t), t.diff()) <= nearest + 1e-9).all())


def test_quantiles_invert_the_mass() -> None:
    t = torch.tensor([[0.0, 1.0, 3.0, 4.0], [0.0, 0.0, 2.0, 2.0]])
    mass = torch.tensor([[1.0, 2.0, 1.0], [0.0, 5.0, 0.0]])
    levels = torch.tensor([0.0, 0.125, 0.25, 0.5, 0.75, 0.875, 1.0]).expand(2, -1)
    expected = [[0.0, 0.5, 1.0, 2.0, 3.0, 3.5, 4.0], [0.0, 0.25, 0.5, 1.0, 1.5, 1.75, 2.0]]
    torch.testing.assert_close(quantiles(t, mass, levels), torch.tensor(expected))


def looked(rays: int, count: int = 130) -> Tensor:
    return torch.linspace(0, FAR, count).expand(rays, -1)


@pytest.mark.parametrize(("distance", "most"), [(ball, 2), (slab, 0), (two_balls, 8), (ground, 40)])
@pytest.mark.parametrize("beta", [0.1, 0.01, 0.002])
def test_refining_keeps_the_bound_at_every_rays_scale(distance: Distance, most: int, beta: float) -> None:
    """Five rounds suffice for all of 96 rays but those, `most` at most, that graze a surface."""
    rays, config = single(rays_along_z(96, 11)), BoundConfig()
    t, d, scale = refine(distance, rays, looked(96), beta, config)
    torch.testing.assert_close(d, ask(distance, rays, t))
    assert bool((t.diff() >= 0).all())
    assert bool((scale >= torch.tensor(beta)).all())
    assert opacity_error(d, t, scale).max() <= config.error * 1.001
    short = scale > beta
    assert int(short.sum()) <= (most if beta < 0.1 else 0)
    assert bool((opacity_error(d, t, beta)[short].amax(-1) > config.error).all()), "or its scale would be beta"
    assert bool((scale < 0.02).all() or beta == 0.1), "and those are not far from it"


def test_the_bound_holds_at_every_rays_scale_whatever_the_field_answers() -> None:
    """Even for noise, whose bound more samples may raise; and for few and very uneven samples."""

    def noise(points: Tensor) -> Tensor:
        return torch.sin(997 * points[:, 2] + 131 * points[:, 0]) + 0.3

    rays, config = single(rays_along_z(200, 16)), BoundConfig(uniform=8, extra=0)
    t, d, scale = refine(noise, rays, looked(200, 10), 0.01, config)
    assert opacity_error(d, t, scale).max() <= config.error * 1.001
    uneven = torch.tensor([[0.0, 3.9, 4.0]])
    t, d, scale = refine(ball, through_the_middle(), uneven, 0.01, BoundConfig(rounds=0))
    assert 0.9 * config.error < opacity_error(d, t, scale).max() <= config.error * 1.001


def test_a_ray_that_is_not_done_is_sampled_widely_about_the_surface() -> None:
    """At beta itself everything would be drawn from one interval, behind the surface."""
    look, beta = FAR / 129, 1e-5
    t = take(ball, through_the_middle(), beta, rounds=0, extra=0)[0]
    before = t[(t > 1.3 - 3 * look) & (t < 1.3)]
    assert len(before) > 10
    assert ((t > 1.3) & (t < 1.3 + 3 * look)).sum() > 10


def test_rays_that_are_done_are_asked_no_more() -> None:
    asked = []

    def counting(points: Tensor) -> Tensor:
        asked.append(len(points))
        return ball(points)

    rays = single(rays_along_z(50, 12))
    t, _, scale = refine(counting, rays, looked(50), 0.3, BoundConfig())
    assert asked == [50 * 130], "a wide edge needs one look"
    assert bool((scale == torch.tensor(0.3)).all())
    assert t.shape == (50, 130)
    hits = Rays(*(torch.cat([a, b]) for a, b in zip(through_the_middle(), through_the_middle(9.0), strict=True)))
    asked.clear()
    t, _, scale = refine(counting, hits, looked(2), 0.002, BoundConfig())
    assert asked[0] == 2 * 130
    assert set(asked[1:]) == {128}, "the ray far from the ball is asked once"
    assert bool((t[1, 130:] == FAR).all())


def test_more_rounds_bring_the_scale_down_to_beta() -> None:
    scales = [
        float(refine(ball, through_the_middle(), looked(1), 0.002, BoundConfig(rounds=rounds)).scale)
        for rounds in range(6)
    ]
    assert scales == sorted(scales, reverse=True)
    assert scales[0] > 0.01
    assert scales[-1] == pytest.approx(0.002)


def take(distance: Distance, rays: Rays, beta: float, seed: int | None = None, **numbers: int) -> Tensor:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    near, far = torch.zeros(len(rays.origins)), torch.full((len(rays.origins),), FAR)
    return sample(distance, rays, near, far, beta, BoundConfig(**numbers), generator)


@pytest.mark.parametrize("seed", [None, 3])
def test_samples_stand_where_light_stops(seed: int | None) -> None:
    """Half of them or more within three scales of where the ray enters the ball, of a length 1/67 of the ray."""
    beta = 0.01
    t = take(ball, through_the_middle(), beta, seed)[0]
    assert t.shape == (64 + 32 + 2,)
    assert (t[0], t[-1]) == (0, FAR)
    assert bool((t.diff() >= 0).all())
    near_surface = ((t - 1.3).abs() < 3 * beta).float().mean()
    assert near_surface > 0.5
    # What is drawn follows the opacity: without the samples of the first look, their mean is the mean of its CDF.
    drawn = take(ball, through_the_middle(), beta, seed, extra=0, samples=512)[0, 1:-1].double()
    fine = torch.linspace(0, FAR, 400_001, dtype=torch.float64)[None]
    weight, _ = volume.absorb_dense(volume.laplace_density((fine[:, :-1] - 2).abs() - 0.7, beta) * fine.diff())
    for moment in (
        drawn.mean() - (weight * fine[:, :-1]).sum(),
        drawn.median() - fine[0, (weight.cumsum(-1) < 0.5).sum()],
    ):
        assert abs(float(moment)) < 0.4 * beta


def test_samples_render_the_opacity_within_the_error() -> None:
    """The samples are for rendering: with so many, the opacity of every ray is close to the true one."""
    rays = rays_along_z(60, 13)
    t = take(two_balls, single(rays), 0.02, samples=128).double()
    tau = volume.laplace_density(ask(two_balls, rays, t)[:, :-1], 0.02) * t.diff()
    fine = torch.linspace(0, FAR, 8001, dtype=torch.float64).expand(60, -1)
    truth = volume.laplace_density(ask(two_balls, rays, fine)[:, :-1], 0.02) * fine.diff()
    error = volume.absorb_dense(tau)[1] - volume.absorb_dense(truth)[1]
    assert error.abs().max() < 0.1


def test_a_ray_that_misses_is_sampled_evenly() -> None:
    t = take(ball, through_the_middle(9.0), 0.01, extra=0)[0]
    torch.testing.assert_close(t[1:-1], (torch.arange(64) + 0.5) / 64 * FAR)


def test_a_ray_without_length_stays_where_it_is() -> None:
    here = torch.tensor([1.5])
    t = sample(ball, through_the_middle(), here, here, 0.01, BoundConfig())
    assert bool((t == 1.5).all())


def test_the_extra_samples_are_of_the_first_look() -> None:
    look = (torch.arange(128) + 0.5) / 128 * FAR
    without, both = (take(ball, through_the_middle(), 0.01, extra=extra)[0] for extra in (0, 32))
    torch.testing.assert_close(both, torch.cat([without, look[2::4]]).sort().values)


def test_samples_are_the_same_for_the_same_seed_and_without_one() -> None:
    rays = single(rays_along_z(10, 14))
    assert torch.equal(take(ball, rays, 0.01), take(ball, rays, 0.01))
    assert torch.equal(take(ball, rays, 0.01, 1), take(ball, rays, 0.01, 1))
    assert not torch.equal(take(ball, rays, 0.01, 1), take(ball, rays, 0.01, 2))


def test_jitter_stays_in_its_part_of_a_ray_that_misses() -> None:
    drawn = take(ball, through_the_middle(9.0), 0.01, 1, extra=0)[0, 1:-1]
    offset = drawn / (FAR / 64) - torch.arange(64)
    assert bool(((offset >= 0) & (offset < 1)).all())
    assert offset.std() > 0.2
    # Of the first look, one in each 128th of the ray, any may be taken, but none twice.
    part = (take(ball, through_the_middle(9.0), 0.01, 1, samples=1)[0, 1:-1] // (FAR / 128)).long()
    assert len(part.unique()) >= 32
    assert (part % 4 == 2).sum() < 16


def test_a_ray_is_sampled_alike_whatever_stands_beside_it() -> None:
    rays = single(rays_along_z(30, 15))
    together = take(two_balls, rays, 0.005)
    for index in (0, 7, 20):
        alone = take(two_balls, Rays(rays.origins[index : index + 1], rays.directions[index : index + 1]), 0.005)
        torch.testing.assert_close(alone[0], together[index], atol=1e-4, rtol=0)


def test_no_gradient_passes() -> None:
    weight, near = torch.ones(1, requires_grad=True), torch.zeros(1, requires_grad=True)

    def network(points: Tensor) -> Tensor:
        return ball(points) * weight

    config = BoundConfig()
    assert not sample(network, through_the_middle(), near, torch.full((1,), FAR), 0.1, config).requires_grad
    assert not refine(network, through_the_middle(), looked(1), 0.01, config).distance.requires_grad


@pytest.mark.parametrize(
    ("numbers", "line"),
    [
        ({"error": 0}, "error"),
        ({"error": 1}, "error"),
        ({"rounds": -1}, "rounds"),
        ({"bisections": 0}, "bisections"),
        ({"samples": 0}, "samples"),
        ({"uniform": 16}, "extra 32 are taken from the 16 of uniform; lower extra"),
        ({"step": 1}, "unknown key"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(numbers: dict[str, float], line: str) -> None:
    with pytest.raises(InputError, match=line):
        parse_section(BoundConfig, numbers, "recipe.yaml: bound")
