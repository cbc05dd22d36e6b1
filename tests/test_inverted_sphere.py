"""Points outside a sphere against the quadratic equation, rendering against a loop, and a far wall that cameras see."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import normalize

from loupe.fields.background import BackgroundConfig, InvertedSphere, outside, start
from loupe.fields.positional import positional
from loupe.rays import Rays

CENTRE, SCALE = (30.0, -4.0, 7.5), 12.0
TINY = BackgroundConfig(samples=7, hidden=16, layers=2, frequencies=3, view_frequencies=1)


def rays_from(radii: tuple[float, float], count: int = 200) -> Rays:
    """Rays in all directions from eyes at such distances from the origin, in float64."""
    generator = torch.Generator().manual_seed(2)
    eyes, directions = torch.randn(2, count, 3, generator=generator, dtype=torch.float64)
    radius = radii[0] + (radii[1] - radii[0]) * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    return Rays(radius * normalize(eyes, dim=1), normalize(directions, dim=1))


INSIDE, OUTSIDE = rays_from((0.0, 0.99)), rays_from((1.01, 6.0))
BOTH = Rays(*(torch.cat(parts) for parts in zip(INSIDE, OUTSIDE, strict=True)))


def in_world(rays: Rays) -> Rays:
    return Rays((torch.tensor(CENTRE) + SCALE * rays.origins).float(), rays.directions.float())


def made(config: BackgroundConfig = TINY, codes: int = 5, where: tuple[float, ...] = CENTRE) -> InvertedSphere:
    torch.manual_seed(0)
    field = InvertedSphere(config, where, SCALE, codes)
    with torch.no_grad():
        field.density.weight *= 40  # that samples share a ray's weight
    return field


def distance_at(rays: Rays, inverse: Tensor) -> Tensor:
    """How far from its eye a ray is 1 / `inverse` from the origin: the later one of two times."""
    origins, directions = rays
    along = (origins * directions).sum(1, keepdim=True)
    gap = along.square() - origins.square().sum(1, keepdim=True) + inverse.square().reciprocal()
    return gap.clamp(min=0).sqrt() - along


def test_where_rays_begin() -> None:
    """On the sphere where they leave it, else at their point nearest to the centre or at the eye."""
    assert torch.equal(start(INSIDE), torch.ones(200, dtype=torch.float64))
    origins, directions = OUTSIDE
    ahead = -(origins * directions).sum(1)
    beside = torch.linalg.cross(origins, directions).norm(dim=1)
    hits, misses, away = (ahead > 0) & (beside < 1), (ahead > 0) & (beside > 1), ahead < 0
    assert min(int(kind.sum()) for kind in (hits, misses, away)) > 5
    expected = torch.where(hits, 1, torch.where(away, 1 / origins.norm(dim=1), 1 / beside))
    torch.testing.assert_close(start(OUTSIDE), expected)
    assert start(OUTSIDE)[~hits].max() < 1


@pytest.mark.parametrize("share", [0.98, 0.6, 0.1, 1e-3, 1e-6])
def test_points_lie_on_their_ray_at_the_asked_distance(share: float) -> None:
    """For eyes inside and outside of the sphere, rays that hit it, pass it by and look away."""
    origins, directions = BOTH
    inverse = share * start(BOTH)
    t = distance_at(BOTH, inverse[:, None])
    assert t.min() > 0
    expected = (origins + t * directions) * inverse[:, None]
    single = outside(Rays(origins.float(), directions.float()), inverse.float()[:, None])[:, 0]
    torch.testing.assert_close(single, torch.cat([expected, inverse[:, None]], 1).float(), atol=2e-6, rtol=0)
    double = outside(BOTH, inverse[:, None])[:, 0]
    torch.testing.assert_close(double[:, :3], expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(double[:, :3].norm(dim=1), torch.ones(400, dtype=torch.float64))


def test_infinity_is_where_the_ray_points() -> None:
    points = outside(BOTH, torch.zeros(400, 1, dtype=torch.float64))[:, 0]
    assert torch.equal(points[:, :3], BOTH.directions)
    assert torch.equal(points[:, 3], torch.zeros(400, dtype=torch.float64))


def test_two_eyes_give_a_point_the_same_coordinates() -> None:
    point = normalize(torch.randn(200, 3, generator=torch.manual_seed(4), dtype=torch.float64), dim=1) * 9
    seen = []
    for eyes in (INSIDE.origins, rays_from((0.0, 0.99), 201).origins[1:]):
        rays = Rays(eyes.float(), normalize(point - eyes, dim=1).float())
        seen.append(outside(rays, torch.full((200, 1), 1 / 9))[:, 0])
    torch.testing.assert_close(*seen, atol=2e-6, rtol=0)
    torch.testing.assert_close(seen[0][:, :3], (point / 9).float(), atol=2e-6, rtol=0)


def test_samples_are_even_in_the_inverse_and_end_at_infinity() -> None:
    field, begin = made(), start(BOTH)[:, None]
    still, _ = field._sampled(BOTH, None)
    expected = torch.tensor([12, 10, 8, 6, 4, 2, 0], dtype=torch.float64) / 13
    torch.testing.assert_close(still / begin, expected.expand(400, -1))
    jittered, _ = field._sampled(BOTH, torch.Generator().manual_seed(1))
    moved = (jittered - still)[:, :-1] / begin
    assert moved.abs().max() <= 1 / 13
    assert 0.95 < moved.std() * 13 * math.sqrt(3) < 1.05
    assert torch.equal(jittered[:, -1], torch.zeros(400, dtype=torch.float64))
    assert torch.equal(jittered, field._sampled(BOTH, torch.Generator().manual_seed(1))[0])


def test_pieces_cover_a_ray_from_its_start() -> None:
    """All but what is left to infinity; their ends by the quadratic equation."""
    _, length = made()._sampled(BOTH, None)
    ends = distance_at(BOTH, start(BOTH)[:, None] * torch.arange(13, 0, -2, dtype=torch.float64) / 13)
    torch.testing.assert_close(length, ends.diff(), atol=1e-6, rtol=0)
    assert length.min() > 0
    single = Rays(BOTH.origins.float(), BOTH.directions.float())
    torch.testing.assert_close(made()._sampled(single, None)[1].double(), length, atol=2e-3, rtol=0)


@pytest.mark.parametrize("thickness", [0.0, 1.0, 1e3, 1e9])
def test_it_is_opaque(thickness: float) -> None:
    """Of one colour, it shows that colour, however dense it is."""
    field = made()
    with torch.no_grad():
        field.density.weight *= thickness
        field.density.bias *= thickness
        field.heads["colour"][2].weight.zero_()
        field.heads["colour"][2].bias.copy_(torch.tensor([-2.0, 0.0, 1.5]))
    expected = torch.tensor([-2.0, 0.0, 1.5]).sigmoid().expand(400, -1)
    torch.testing.assert_close(field.look(in_world(BOTH), "colour"), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("head", ["colour", "code"])
@pytest.mark.parametrize("seed", [None, 3])
def test_rendering_agrees_with_a_loop(head: str, seed: int | None) -> None:
    """One sample after the other, in float64; positions by the quadratic equation, in the world."""
    field = made(TINY.model_copy(update={"skip": 1})).double()
    few = Rays(*(part[150:250] for part in BOTH))
    rays = Rays(field.centre + SCALE * few.origins, few.directions)
    generators = [None if seed is None else torch.Generator().manual_seed(seed) for _ in range(2)]
    inverses, lengths = (part.tolist() for part in field._sampled(few, generators[0]))
    for ray, seen in enumerate(field.look(rays, head, generators[1]).detach()):
        origin, direction = few.origins[ray], few.directions[ray]
        light, total = 1.0, torch.zeros_like(seen)
        for index, inverse in enumerate(inverses[ray]):
            sky = direction
            if inverse > 0:
                t = distance_at(Rays(origin[None], direction[None]), torch.tensor([[inverse]], dtype=torch.float64))[0]
                sky = (origin + t * direction) * inverse
            features = known_network(field, torch.cat([sky, sky.new_tensor([inverse])])).detach()
            density = abs(field.density(features).item())
            alpha = 1 - math.exp(-density * lengths[ray][index]) if index < 6 else 1.0
            value = field.heads[head](torch.cat([features, positional(direction[None], 1)[0]]))
            total += light * alpha * value.detach()
            light *= 1 - alpha
        torch.testing.assert_close(seen, total, atol=1e-8, rtol=0)


def known_network(field: InvertedSphere, point: Tensor) -> Tensor:
    """Two layers, of which the second sees the point again."""
    waves = [wave(2**k * number) for wave in (torch.sin, torch.cos) for number in point for k in range(3)]
    encoded = torch.cat([point, torch.stack(waves)])
    first = field.trunk.layers[0](encoded).relu()
    return field.trunk.layers[1](torch.cat([first, encoded])).relu()


def test_it_looks_alike_in_every_world() -> None:
    here, there = made(where=(0.0, 0.0, 0.0)), made()
    here.scale.fill_(1.0)
    one = here.look(Rays(BOTH.origins.float(), BOTH.directions.float()), "colour")
    torch.testing.assert_close(there.look(in_world(BOTH), "colour"), one, atol=1e-4, rtol=0)


def test_a_head_depends_on_place_and_direction() -> None:
    field = made()
    before = field.look(in_world(BOTH), "code")
    assert before.shape == (400, 5)
    with torch.no_grad():
        field.trunk.layers[0].weight.zero_()
    blind = field.look(in_world(BOTH), "code")
    assert blind.std(0).min() > 1e-3
    assert (before - blind).abs().mean() > 1e-3
    with torch.no_grad():
        field.heads["code"][0].weight[:, TINY.hidden :].zero_()
    assert field.look(in_world(BOTH), "code").std(0).max() < 1e-6


def test_codes_are_any_numbers() -> None:
    field = made()
    with torch.no_grad():
        field.heads["code"][2].bias.fill_(-7.0)
        field.heads["colour"][2].bias.fill_(-7.0)
    assert field.look(in_world(BOTH), "code").max() < -3
    assert field.look(in_world(BOTH), "colour").min() > 0
    with pytest.raises(KeyError, match="code"):
        made(codes=0).look(in_world(BOTH), "code")


@pytest.mark.parametrize(("head", "other"), [("colour", "code"), ("code", "colour")])
def test_gradients_reach_the_network_from_both_heads(head: str, other: str) -> None:
    field = made()
    field.look(in_world(BOTH), head).square().sum().backward()
    silent = {name for name, value in field.named_parameters() if value.grad is None or not value.grad.any()}
    assert silent == {name for name, _ in field.named_parameters() if name.startswith(f"heads.{other}.")}
    assert all(value.grad.isfinite().all() for value in field.parameters() if value.grad is not None)


def test_it_can_be_as_large_as_volsdf_s() -> None:
    field = InvertedSphere(BackgroundConfig(hidden=256, layers=8, skip=4), CENTRE, SCALE)
    assert [layer.in_features for layer in field.trunk.layers] == [84, 256, 256, 256, 256 + 84, 256, 256, 256]
    assert [tuple(layer.weight.shape) for layer in field.heads["colour"][::2]] == [(128, 256 + 27), (3, 128)]
    with pytest.raises(ValidationError, match="no layer 3 to skip to"):
        BackgroundConfig(skip=3)


def test_no_rays_see_nothing() -> None:
    assert made().look(Rays(torch.zeros(0, 3), torch.zeros(0, 3)), "code", torch.Generator()).shape == (0, 5)


def wall(rays: Rays, radius: float) -> Tensor:
    """Colours of a textured sphere around the origin, of such a radius, seen from inside."""
    along = (rays.origins * rays.directions).sum(1)
    t = -along + (along.square() - rays.origins.square().sum(1) + radius**2).sqrt()
    sky = (rays.origins + t[:, None] * rays.directions) / radius
    return 0.5 + 0.45 * (sky @ torch.tensor([[3.0, -7.0, 4.0], [8.0, 2.0, -3.0], [1.0, 5.0, 9.0]])).sin()


def ring(count: int, phase: float, side: int = 24) -> Rays:
    """The rays of cameras around the origin, all of which look at it."""
    angle = 2 * math.pi * (torch.arange(count) + phase) / count
    eyes = 2 * torch.stack([angle.cos(), angle.sin(), 0.35 * (3 * angle + phase).sin()], 1)
    forward = -normalize(eyes, dim=1)
    right = normalize(torch.linalg.cross(forward, torch.tensor([[0.0, 0.0, 1.0]]).expand(count, 3)), dim=1)
    down = torch.linalg.cross(forward, right)
    place = 0.9 * ((torch.arange(side) + 0.5) / side * 2 - 1)
    y, x = (part.flatten()[None, :, None] for part in torch.meshgrid(place, place, indexing="ij"))
    directions = forward[:, None] + x * right[:, None] + y * down[:, None]
    return Rays(eyes.repeat_interleave(side**2, 0), normalize(directions.flatten(0, 1), dim=1))


def fitted(samples: int, rays: Rays, colours: Tensor, steps: int) -> InvertedSphere:
    torch.manual_seed(0)
    field = InvertedSphere(BackgroundConfig(samples=samples, hidden=32, frequencies=4), (0.0, 0.0, 0.0), 1.0)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-2, betas=(0.9, 0.99))
    for _ in range(steps):
        drawn = torch.randint(len(colours), (256,), generator=generator)
        seen = field.look(Rays(rays.origins[drawn], rays.directions[drawn]), "colour", generator)
        optimizer.zero_grad()
        (seen - colours[drawn]).abs().mean().backward()
        optimizer.step()
    return field


def psnr(one: Tensor, other: Tensor) -> float:
    return float(-10 * (one - other).detach().square().mean().log10())


def test_a_far_wall_is_learnt_with_its_parallax() -> None:
    """A camera that was held out sees it far better than any one colour, or anything without depth, would show it."""
    rays, held_out = ring(12, 0.0), ring(3, 0.37)
    colours, true = wall(rays, 5.0), wall(held_out, 5.0)
    one_colour = psnr(colours.mean(0).expand_as(true), true)
    deep, flat = (psnr(fitted(samples, rays, colours, 250).look(held_out, "colour"), true) for samples in (16, 1))
    assert deep > one_colour + 8
    assert deep > flat + 6
