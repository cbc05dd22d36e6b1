"""Signed distances against the sphere, densities against SciPy, and gradients against what they must be."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import laplace, logistic
from torch import Tensor
from torch.nn.functional import normalize

from loupe.fields.hash_grid import HashConfig
from loupe.fields.positional import positional
from loupe.fields.sdf import (
    ColourConfig,
    ColourHead,
    LaplaceDensity,
    LogisticDensity,
    SdfHash,
    SdfHashConfig,
    SdfMlp,
    SdfMlpConfig,
    SignedDistance,
    distance_and_normal,
    eikonal,
)

CENTRE, SCALE = (30.0, -4.0, 7.5), 12.0
TINY = SdfHashConfig(grid=HashConfig(levels=4, table=4096, base=8, finest=32), hidden=32, features=3, radius=0.4)
SMALL = SdfMlpConfig(hidden=64, layers=4, skip=2, features=5)
FIELDS: dict[str, Callable[..., SignedDistance]] = {
    "mlp": lambda *where: SdfMlp(SMALL, *where),
    "hash": lambda *where: SdfHash(TINY, *where),
}
either = pytest.mark.parametrize("name", FIELDS)


def field(name: str, centre: tuple[float, ...] = CENTRE, scale: float = SCALE) -> SignedDistance:
    torch.manual_seed(0)
    return FIELDS[name](centre, scale)


def on_spheres(count: int, radii: tuple[float, float] = (0.3, 1.0)) -> tuple[Tensor, Tensor, Tensor]:
    """World points, their normalised distance to the centre, and the direction from there."""
    generator = torch.manual_seed(3)
    outwards = normalize(torch.randn(count, 3, generator=generator))
    radius = radii[0] + (radii[1] - radii[0]) * torch.rand(count, generator=generator)
    return torch.tensor(CENTRE) + SCALE * radius[:, None] * outwards, radius, outwards


def test_positions_are_encoded_octave_by_octave() -> None:
    point = [0.3, -1.2, 0.7]
    expected = [*point, *(math.sin(2**k * x) for x in point for k in range(3))]
    expected += [math.cos(2**k * x) for x in point for k in range(3)]
    torch.testing.assert_close(positional(torch.tensor([point]), 3)[0], torch.tensor(expected))
    assert positional(torch.rand(4, 3), 0).shape == (4, 3)


@pytest.mark.parametrize(
    "made", [lambda: SdfMlp(SdfMlpConfig(), CENTRE, SCALE), lambda: SdfHash(SdfHashConfig(), CENTRE, SCALE)]
)
def test_it_begins_as_a_sphere(made: Callable[[], SignedDistance]) -> None:
    """At full size: the distance within some percent, normals of length 1 that point outwards, and inside is inside."""
    torch.manual_seed(0)
    begun = made()
    points, radius, outwards = on_spheres(1000)
    distance, features, gradient = (part.detach() for part in distance_and_normal(begun, points))
    error = distance / SCALE - (radius - 0.6)
    assert error.square().mean().sqrt() < 0.02
    assert error.abs().max() < 0.06
    length = gradient.norm(dim=1)
    assert abs(length.mean() - 1) < 0.04
    assert length.std() < 0.12
    assert (normalize(gradient) * outwards).sum(1).mean() > 0.98
    centre, _ = begun(torch.tensor([CENTRE]))
    assert -0.7 * SCALE < centre < -0.3 * SCALE
    assert features.std(0).min() > 0  # they tell places apart from the start


def test_a_skip_to_nowhere_is_refused() -> None:
    with pytest.raises(ValidationError, match="no layer 4 to skip to"):
        SdfMlpConfig(layers=4)


def test_the_skipped_to_layer_sees_the_position_again() -> None:
    """Where all layers before it are blind, the distance still varies."""
    deep = field("mlp")
    with torch.no_grad():
        deep.network.layers[1].parametrizations.weight.original0.zero_()
    points, _, _ = on_spheres(50)
    assert deep(points)[0].std() > 0.01 * SCALE
    with torch.no_grad():
        deep.network.layers[2].parametrizations.weight.original0.zero_()
    assert deep(points)[0].std() < 1e-5 * SCALE


@either
def test_weights_keep_the_length_that_they_are_given(name: str) -> None:
    made = field(name)
    layer = made.network.layers[0]
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.parametrizations.weight.original1.mul_(7)
    torch.testing.assert_close(layer.weight, before)


@either
def test_distances_are_in_world_units(name: str) -> None:
    """The same field around another centre and twelve times as large: distances grow, features and normals stay."""
    here, there = field(name, (0.0, 0.0, 0.0), 1.0), field(name)
    points, _, _ = on_spheres(100)
    near = distance_and_normal(here, (points - torch.tensor(CENTRE)) / SCALE)
    far = distance_and_normal(there, points)
    torch.testing.assert_close(far[0], SCALE * near[0], rtol=0, atol=1e-4 * SCALE)
    torch.testing.assert_close(far[1], near[1], rtol=0, atol=1e-3)
    torch.testing.assert_close(far[2], near[2], rtol=0, atol=0.02)


@either
def test_the_normal_is_the_slope_of_the_distance(name: str) -> None:
    made = field(name).double()
    points, _, outwards = on_spheres(20)
    points, along = points.double(), normalize(outwards.double().roll(1, 1))
    _, _, gradient = distance_and_normal(made, points)
    step = 1e-5 * SCALE
    slope = (made(points + step * along)[0] - made(points - step * along)[0]) / (2 * step)
    torch.testing.assert_close((gradient * along).sum(1), slope, rtol=0, atol=1e-5)


@either
def test_a_loss_on_the_gradient_reaches_every_weight(name: str) -> None:
    """But for the last bias, of which a gradient knows nothing."""
    made = field(name).train()
    points, _, _ = on_spheres(200)
    _, _, gradient = distance_and_normal(made, points)
    assert not points.requires_grad
    eikonal(gradient).backward()
    silent = {key for key, value in made.named_parameters() if value.grad is None or not value.grad.any()}
    assert silent == {"network.last.bias"}


@either
@pytest.mark.parametrize("still", ["evaluation", "no_grad"])
def test_out_of_training_nothing_hangs_on(name: str, still: str) -> None:
    made = field(name).train(still != "evaluation")
    points, _, _ = on_spheres(10)
    expected = [part.detach() for part in distance_and_normal(field(name), points)]
    with torch.set_grad_enabled(still != "no_grad"):
        found = distance_and_normal(made, points)
    assert not any(part.requires_grad for part in found)
    torch.testing.assert_close(list(found), expected)


@either
def test_it_comes_back_from_its_state(name: str) -> None:
    made, other = field(name), FIELDS[name]((0.0, 0.0, 0.0), 1.0)
    other.load_state_dict(made.state_dict())
    points, _, _ = on_spheres(30)
    assert torch.equal(made(points)[0], other(points)[0])


def test_eikonal_is_the_mean_square_of_what_lacks_to_one() -> None:
    gradient = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]], requires_grad=True)
    loss = eikonal(gradient)
    assert loss.item() == pytest.approx((16 + 0 + 1) / 3)
    loss.backward()
    torch.testing.assert_close(gradient.grad, torch.tensor([[8 / 5, 32 / 15, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))


@pytest.mark.parametrize(("kind", "distribution"), [(LaplaceDensity, laplace), (LogisticDensity, logistic)])
def test_densities_are_cumulative_distributions(kind: type[LaplaceDensity], distribution: type) -> None:
    density, unit = kind(unit=3.0).double(), 3.0
    scale = unit * (0.1 + 1e-4)
    assert density.scale.item() == pytest.approx(scale)
    distance = torch.linspace(-2, 2, 401, dtype=torch.float64)
    expected = distribution.cdf(-distance.numpy(), scale=scale) / scale
    torch.testing.assert_close(density(distance), torch.from_numpy(expected), rtol=1e-6, atol=0)
    far = torch.tensor([1e4, -1e4, 0.0], dtype=torch.float64)
    torch.testing.assert_close(
        density(far), torch.tensor([0, 1 / scale, 0.5 / scale], dtype=torch.float64), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("kind", [LaplaceDensity, LogisticDensity])
def test_densities_learn(kind: type[LaplaceDensity]) -> None:
    """Slopes in the distance and in the scale, also at the surface and far from it, by finite differences."""
    density = kind().double()
    distance = torch.tensor([-0.3, -0.01, 0.02, 0.5], dtype=torch.float64, requires_grad=True)

    def values(distance: Tensor, softness: Tensor) -> Tensor:
        return torch.func.functional_call(density, {"softness": softness}, (distance,))

    starts = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.05, -0.05)]
    assert all(torch.autograd.gradcheck(values, (distance, start)) for start in starts)
    torch.testing.assert_close(*(values(distance, start) for start in starts))  # the sign does not matter
    extremes = torch.tensor([-1e6, 0.0, 1e6], dtype=torch.float64, requires_grad=True)
    gradient = torch.autograd.grad(density(extremes).sum(), [extremes, density.softness])
    steepest = -1 / (2 * density.scale**2) if kind is LaplaceDensity else -1 / (4 * density.scale**2)
    torch.testing.assert_close(gradient[0], torch.stack([0 * steepest, steepest, 0 * steepest]).detach())
    assert gradient[1].isfinite()


def test_a_head_gives_colours_or_numbers() -> None:
    torch.manual_seed(0)
    config = ColourConfig(hidden=16, layers=2, view_frequencies=2)
    points, normals, features = (100 * torch.randn(40, size) for size in (3, 3, 5))
    directions = normalize(torch.randn(40, 3))
    colours = ColourHead(config, features=5)(points, normals, directions, features)
    assert colours.shape == (40, 3)
    assert 0 <= colours.min() < colours.max() <= 1
    torch.manual_seed(1)
    bounded = ColourHead(config, features=5, channels=16)
    numbers = ColourHead(config, features=5, channels=16, bounded=False)
    numbers.load_state_dict(bounded.state_dict())
    values = numbers(points, normals, directions, features)
    assert values.shape == (40, 16)
    assert values.abs().max() > 1
    torch.testing.assert_close(bounded(points, normals, directions, features), values.sigmoid())


def test_a_head_is_its_layers_written_out() -> None:
    head = ColourHead(ColourConfig(hidden=8, layers=2, view_frequencies=1), features=2, bounded=False)
    parts = torch.randn(6, 3), torch.randn(6, 3), normalize(torch.randn(6, 3)), torch.randn(6, 2)
    points, normals, directions, features = parts
    inner = torch.cat([points, normals, directions, directions.sin(), directions.cos(), features], 1)
    for layer in head.layers:
        inner = (inner @ layer.weight.T + layer.bias).clamp(min=0)
    torch.testing.assert_close(head(*parts), inner @ head.last.weight.T + head.last.bias)


def test_a_hash_field_learns_another_sphere() -> None:
    """From one of radius 0.4 around the centre to one of 0.55 beside it, by distances near it and Eikonal's term; its
    zero level is then within 1 % of the radius in every direction. (Without its grid the network stays 2.6 % off.)"""
    made = field("hash")
    middle, radius = torch.tensor(CENTRE) + torch.tensor([1.2, -0.6, 0.8]), 0.55 * SCALE
    steps = 400
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        points = middle + radius * normalize(torch.randn(512, 3)) * (1 + 0.25 * torch.randn(512, 1))
        distance, _, gradient = distance_and_normal(made, points)
        wanted = (points - middle).norm(dim=1) - radius
        loss = (distance - wanted).abs().mean() / SCALE + 0.1 * eikonal(gradient)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    outwards = normalize(torch.randn(500, 3))
    assert (zero_level(made, middle, outwards, 1.4 * radius) / radius - 1).abs().max() < 0.01


@torch.no_grad()
def zero_level(made: SignedDistance, middle: Tensor, outwards: Tensor, beyond: float) -> Tensor:
    """How far from `middle` the surface lies in each direction, by bisection."""
    low, high = torch.zeros(len(outwards)), torch.full((len(outwards),), beyond)
    for _ in range(30):
        between = (low + high) / 2
        inside = made(middle + between[:, None] * outwards)[0] < 0
        low, high = torch.where(inside, between, low), torch.where(inside, high, between)
    return low
