"""Points that move: where they look into photos, whose colours they take, and how they begin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import room_camera
from torch import Tensor

from loupe.fields.moving_points import Moment, PointField, PointsConfig, Source, _looked_up, exactly, mean_spacing
from loupe.fields.planes4d import PlanesConfig
from loupe.space import Space

SPACE = Space("bounded", (-1.0, -1.0, -2.0), (1.0, 1.0, 2.0))
COUNT, SPACING = 12, 0.03
PLANES = PlanesConfig(base=4, levels=2, channels=3, table=64)
EYE = torch.tensor([0.0, 0.0, -5.0])
RED, GREEN, BLUE = torch.eye(3)


def field(frames: int = 3, **changes: Any) -> PointField:
    config = PointsConfig(positions=PLANES, features=PLANES, **changes)
    torch.manual_seed(0)
    positions = [torch.rand(COUNT + frame, 3) - 0.5 for frame in range(frames)]
    return PointField(config, SPACE, positions, SPACING)


def plain_source(colour: Tensor, across: float = 0.0) -> Source:
    camera = room_camera(across, 0.0)
    size = camera.height, camera.width
    return Source(colour[:, None, None].expand(3, *size), torch.ones(size), camera)


def test_points_look_where_the_camera_projects_them() -> None:
    """A picture whose pixels hold the place of their centres; a bilinear look-up gives it back."""
    camera = room_camera(0.1, 0.05)
    x, y = torch.arange(camera.width) + 0.5, torch.arange(camera.height) + 0.5
    places = torch.stack(torch.meshgrid(x, y, indexing="xy")).double()
    points = np.random.default_rng(0).uniform(-0.9, 0.9, (400, 3))
    pixels, _ = camera.project(points)
    found = _looked_up(places, torch.from_numpy(points), camera).numpy()
    last = np.array([camera.width, camera.height]) - 0.5
    np.testing.assert_allclose(found, pixels.clip(0.5, last), atol=1e-9)
    assert (pixels != pixels.clip(0.5, last)).any()
    # The point that the middle of a pixel shows has that pixel's value, and no share of its neighbours'.
    seen = torch.from_numpy(camera.unproject(np.array([[17.5, 41.5]]), np.array([3.0])))
    torch.testing.assert_close(_looked_up(places, seen, camera), torch.tensor([[17.5, 41.5]], dtype=torch.float64))


def test_points_behind_a_camera_break_nothing() -> None:
    camera = room_camera(0.0, 0.0)
    points = torch.from_numpy(camera.center + np.array([[0.0, 0, 0], [-3, 0, 0], [-1, -1, -1]])).requires_grad_()
    found = _looked_up(torch.rand(3, camera.height, camera.width, dtype=torch.float64), points, camera)
    assert bool(found.isfinite().all())
    (gradient,) = torch.autograd.grad(found.sum(), points)
    assert bool(gradient.isfinite().all())


def test_a_points_colour_is_that_of_the_photo_that_sees_it() -> None:
    made = field(harmonics=False)
    sources = [plain_source(RED), plain_source(GREEN, 0.1), plain_source(BLUE, -0.1)]
    sight = torch.zeros(3, COUNT, dtype=torch.bool)
    sight[0, 0] = sight[1, 1] = sight[2, 2] = True
    sight[:2, 3] = True
    colours = made.colours(made.at(0), EYE, sources, sight)
    torch.testing.assert_close(colours[:3], torch.eye(3))
    assert colours[3, 2] == 0
    assert 0 < colours[3, 0] < 1
    torch.testing.assert_close(colours.sum(1), torch.ones(COUNT))


def test_a_point_that_no_source_sees_takes_from_all() -> None:
    """As one that all see; nothing else of it is known."""
    made = field(harmonics=False)
    sources = [plain_source(RED), plain_source(GREEN, 0.1), plain_source(BLUE, -0.1)]
    none, every = (torch.full((3, COUNT), seen) for seen in (False, True))
    unseen = made.colours(made.at(0), EYE, sources, none)
    torch.testing.assert_close(unseen, made.colours(made.at(0), EYE, sources, every))
    assert bool((unseen > 0.02).all())


def test_weights_are_learnt_from_features_and_photos() -> None:
    made = field(harmonics=False)
    every = torch.ones(2, COUNT, dtype=torch.bool)
    made.colours(made.at(0), EYE, [plain_source(RED), plain_source(GREEN, 0.1)], every)[:, 0].sum().backward()
    for part in (made.blend, made.features, made.pyramid):
        assert sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None) > 0


def test_what_depends_on_the_direction_stays_within_its_limit() -> None:
    made, sight = field(limit=0.1), torch.ones(1, COUNT, dtype=torch.bool)
    with torch.no_grad():
        made.harmonics[2].weight.normal_(std=30)
    grey = torch.full((3,), 0.5)
    colours = made.colours(made.at(0), EYE, [plain_source(grey)], sight)
    assert 0.09 < (colours - 0.5).abs().max() <= 0.1 + 1e-6
    assert not torch.allclose(colours, made.colours(made.at(0), -EYE, [plain_source(grey)], sight), atol=1e-3)
    # Without photos the whole range is open.
    alone = field(images=False)
    with torch.no_grad():
        alone.harmonics[2].weight.normal_(std=30)
    colours = alone.colours(alone.at(0), EYE, [], None)
    assert colours.min() < 0.01
    assert colours.max() > 0.99


def test_where_a_point_is_does_not_learn_from_the_direction() -> None:
    made = field(grid=False, images=False)
    colours = made.colours(made.at(1), EYE, [], None)
    (gradient,) = torch.autograd.grad(colours.sum(), made.positions[1], allow_unused=True)
    assert gradient is None


@pytest.mark.parametrize("changes", [{"harmonics": False}, {}], ids=["plain", "harmonics"])
def test_colours_without_photos_are_in_range(changes: dict[str, bool]) -> None:
    made = field(images=False, **changes)
    colours = made.colours(made.at(2), EYE, [], None)
    assert colours.shape == (COUNT + 2, 3)
    assert 0 <= colours.min() <= colours.max() <= 1
    other = made.colours(made.at(2), EYE + 1, [], None)
    assert torch.equal(colours, other) != bool(made.config.harmonics)


def test_points_begin_where_the_hull_has_them() -> None:
    """And with the radius and density that the settings say, give or take what the heads begin with."""
    made = field(radius_logit=-2.0)
    for frame in range(3):
        moment = made.at(frame)
        assert torch.equal(moment.points, made.positions[frame])
        assert not moment.shift.any()
        expected = SPACING * (0.35 + 5 * torch.sigmoid(torch.tensor(-2.0)))
        assert bool(((moment.radius / expected - 1).abs() < 0.3).all())
        assert bool((moment.density > 0.98).all())


def test_shifts_are_shares_of_the_longest_side() -> None:
    made = field(reach=0.1)
    with torch.no_grad():
        made.shift[-1].bias.copy_(torch.tensor([1.0, 0.0, -2.0]))
    moment = made.at(1)
    torch.testing.assert_close(moment.shift, torch.tensor([0.4, 0.0, -0.8]).expand(COUNT + 1, 3))
    torch.testing.assert_close(moment.points, made.positions[1] + moment.shift)


def test_features_are_those_of_the_place_moved_to() -> None:
    made = field()
    still = made.at(1).features
    with torch.no_grad():
        made.shift[-1].bias.fill_(2.0)
    moment = made.at(1)
    torch.testing.assert_close(moment.features, made.features(SPACE.to_unit(moment.points), 0.5))
    assert not torch.allclose(moment.features, still)


def test_radii_stay_within_their_bounds() -> None:
    made = field(least_radius=0.5, radii=2.0)
    for size, expected in ((-100.0, 0.5), (100.0, 2.5)):
        with torch.no_grad():
            made.shape[-1].bias[0] = size
        torch.testing.assert_close(made.at(0).radius, torch.full((COUNT,), SPACING * expected))


def test_frames_are_read_at_their_times() -> None:
    """The first at 0, the last at 1; a single one at 0."""
    for frames in (1, 2, 5):
        made = field(frames=frames)
        for frame in range(frames):
            time = frame / (frames - 1) if frames > 1 else 0.0
            expected = made.features(SPACE.to_unit(made.positions[frame]), time)
            assert torch.equal(made.at(frame).features, expected)


def test_each_point_has_its_own_where_there_is_no_grid() -> None:
    made = field(grid=False)
    assert not hasattr(made, "shifts")
    assert [tuple(part.shape) for part in made.features_of] == [(COUNT + frame, 6) for frame in range(3)]
    moment = made.at(1)
    assert moment.points is made.positions[1]
    assert not moment.shift.any()
    torch.manual_seed(1)
    (moment.radius * torch.rand(COUNT + 1)).sum().backward()
    given = [part.grad for part in made.features_of]
    assert given[0] is None
    assert given[2] is None
    assert given[1] is not None
    assert bool((given[1].abs().sum(1) > 0).all())


def test_a_moment_carries_gradients_to_what_it_is_made_of() -> None:
    made = field()
    with torch.no_grad():
        made.shift[-1].weight.normal_()
    moment: Moment = made.at(1)
    sum(part.sum() for part in moment).backward()
    for part in (made.features, made.shifts, made.shift, made.shape):
        assert sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None) > 0
    assert made.positions[0].grad is None
    assert made.positions[1].grad is not None


def test_few_enough_points_are_kept_as_they_are() -> None:
    points = np.random.default_rng(0).normal(size=(50, 3))
    found = exactly(points, 20, 0.1, np.random.default_rng(1))
    rows = [np.flatnonzero((points == point).all(1)).tolist() for point in found]
    assert all(len(row) == 1 for row in rows)
    assert len({row[0] for row in rows}) == 20


def test_too_few_points_are_repeated_with_a_jitter() -> None:
    points = 10 * np.random.default_rng(0).normal(size=(50, 3))
    found = exactly(points, 1730, 0.01, np.random.default_rng(1))
    assert found.shape == (1730, 3)
    assert sorted(map(tuple, found[:50])) == sorted(map(tuple, points))
    apart = np.linalg.norm(found[:, None] - points, axis=-1)
    counts = np.bincount(apart.argmin(1), minlength=50)
    assert set(counts) == {34, 35}
    moved = (found - points[apart.argmin(1)])[50:]
    assert (moved != 0).all()
    assert abs(moved.std() / 0.01 - 1) < 0.05
    assert abs(moved.mean()) < 0.001
    assert np.array_equal(found, exactly(points, 1730, 0.01, np.random.default_rng(1)))


def test_the_spacing_of_a_lattice() -> None:
    """Of two layers, so that each point has a single nearest neighbour."""
    lattice = np.stack(np.meshgrid(range(5), range(2), range(5)), -1).reshape(-1, 3) * [0.3, 0.2, 0.7]
    assert mean_spacing(lattice) == pytest.approx(0.2)
    # A few strays are outvoted.
    assert mean_spacing(np.concatenate([lattice, [[50.0, 0, 0], [0, 90.0, 0]]])) == pytest.approx(0.2)
