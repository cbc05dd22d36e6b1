"""The grid's planes against torch's own sampling, and what levels, tables and frames make of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from loupe.fields.hash_grid import row
from loupe.fields.planes4d import _PLANES, Planes4d, PlanesConfig, look_up

SMALL = PlanesConfig(base=4, levels=3, channels=2, table=64)  # 4x4 and 8x8 nodes, and 16x16 that share 64 rows


def grid(frames: int, config: PlanesConfig = SMALL) -> Planes4d:
    torch.manual_seed(0)
    return Planes4d(config, frames).double()


@pytest.mark.parametrize("shape", [(5, 7), (2, 2), (6, 1), (1, 1)])
def test_a_dense_plane_is_torchs_sampling(shape: tuple[int, int]) -> None:
    """In value and in both gradients."""
    torch.manual_seed(0)
    table = torch.randn(shape[0] * shape[1], 3, dtype=torch.float64, requires_grad=True)
    unit = torch.rand(50, 2, dtype=torch.float64, requires_grad=True)
    # The second coordinate runs along the rows in memory, which torch calls x.
    picture = table.view(1, *shape, 3).movedim(-1, 1)
    at = 2 * unit.flip(1)[None, None] - 1
    expected = grid_sample(picture, at, padding_mode="border", align_corners=True)[0, :, 0].T
    found = look_up(table, unit, shape)
    torch.testing.assert_close(found, expected)
    weighting = torch.randn_like(found)
    gradients = [torch.autograd.grad((values * weighting).sum(), (table, unit)) for values in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_the_outer_nodes_stand_on_the_edges() -> None:
    table = torch.arange(12.0)[:, None]
    ends = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1 / 2, 1 / 3]])
    torch.testing.assert_close(look_up(table, ends, (3, 4))[:, 0], torch.tensor([0.0, 3.0, 8.0, 11.0, 5.0]))


def test_on_the_last_edge_the_slope_is_that_within() -> None:
    unit = torch.tensor([[1.0, 1.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(look_up(torch.arange(12.0)[:, None], unit, (3, 4)).sum(), unit)
    torch.testing.assert_close(gradient, torch.tensor([[8.0, 3.0]]))


def test_a_large_plane_shares_its_rows_and_stays_within_them() -> None:
    side, rows = 4096, 1000
    x, y = torch.meshgrid(torch.arange(0, side, 7), torch.arange(0, side, 7), indexing="ij")
    found = row((x.flatten(), y.flatten()), (side, side), rows)
    counts = torch.bincount(found, minlength=rows)
    assert len(counts) == rows
    assert 0.5 * counts.float().mean() < counts.min() <= counts.max() < 2 * counts.float().mean()
    # A plane that just fits has every row to itself.
    x, y = torch.meshgrid(torch.arange(25), torch.arange(40), indexing="ij")
    assert row((x.flatten(), y.flatten()), (25, 40), rows).tolist() == list(range(rows))


def test_between_shared_nodes_it_is_bilinear_as_well() -> None:
    """Each corner's row by the formula of the hash, one point at a time."""
    table, side = torch.randn(64, 2, dtype=torch.float64), 16
    unit = torch.rand(20, 2, dtype=torch.float64)
    for (x, y), found in zip((unit * (side - 1)).tolist(), look_up(table, unit, (side, side)), strict=True):
        expected = torch.zeros(2, dtype=torch.float64)
        for i in (int(x), int(x) + 1):
            for j in (int(y), int(y) + 1):
                expected += (1 - abs(x - i)) * (1 - abs(y - j)) * table[(i ^ (j * 2_654_435_761)) % 64]
        torch.testing.assert_close(found, expected)


def test_no_table_is_larger_than_it_may_be_and_time_has_a_node_a_frame() -> None:
    rows = [len(table) for table in grid(frames=5).tables]
    assert rows == [16, 16, 16, 20, 20, 20, 64, 64, 64, 40, 40, 40, 64, 64, 64, 64, 64, 64]


def reached(made: Planes4d, points: Tensor, time: float) -> list[Tensor]:
    """How much each row of each table counts there."""
    return list(torch.autograd.grad(made(points, time).sum(), list(made.tables)))


@pytest.mark.parametrize("frames", [2, 3, 7, 150])
def test_at_a_frame_only_its_own_nodes_count(frames: int) -> None:
    made = Planes4d(PlanesConfig(base=4, levels=1, channels=2, table=1024), frames)
    points = torch.rand(9, 3)
    for frame in {0, 1, frames // 2, frames - 1}:
        for plane, gradient in zip(_PLANES, reached(made, points, frame / (frames - 1)), strict=True):
            if plane[1] == 3:
                by_frame = gradient[:, 0].view(4, frames).sum(0)
                expected = torch.zeros(frames)
                expected[frame] = 9
                torch.testing.assert_close(by_frame, expected, rtol=0, atol=1e-3)


def test_a_node_of_one_frame_leaves_the_others_alone() -> None:
    made, points = grid(frames=3), torch.rand(9, 3, dtype=torch.float64)
    before = [made(points, time) for time in (0.0, 0.5, 1.0)]
    with torch.no_grad():
        made.tables[3].view(4, 3, 2)[:, 1] += 1
    after = [made(points, time) for time in (0.0, 0.5, 1.0)]
    changed = [(one - other).abs().amax(0) for one, other in zip(before, after, strict=True)]
    # The first level's channels, and those alone: levels stand side by side, coarse ones first.
    expected = torch.tensor([1.0, 1, 0, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(changed[1], expected)
    assert not changed[0].any()
    assert not changed[2].any()


def test_one_frame_is_enough() -> None:
    made, points = grid(frames=1), torch.rand(9, 3, dtype=torch.float64)
    assert len(made.tables[3]) == 4
    values = made(points, 0.0)
    assert values.shape == (9, 6)
    torch.testing.assert_close(made(points, 1.0), values)
    assert all(gradient.abs().sum() > 0 for gradient in reached(made, points, 0.0))


def test_a_value_is_the_sum_of_its_planes_level_by_level() -> None:
    """By torch's sampling of the levels that fit their tables, and by a third level of its own for the last."""
    made, points, time = grid(frames=3), torch.rand(30, 3, dtype=torch.float64), 0.3
    unit = torch.cat([points, torch.full((30, 1), time, dtype=torch.float64)], 1)
    parts = []
    for level, side in enumerate((4, 8)):
        total = torch.zeros(30, 2, dtype=torch.float64)
        for number, (first, second) in enumerate(_PLANES):
            picture = made.tables[6 * level + number].view(1, side, 3 if second == 3 else side, 2).movedim(-1, 1)
            at = 2 * unit[:, [second, first]][None, None] - 1
            total += grid_sample(picture, at, align_corners=True)[0, :, 0].T
        parts.append(total)
    values = made(points, time)
    torch.testing.assert_close(values[:, :4], torch.cat(parts, 1))
    rest = sum(
        look_up(made.tables[12 + number], unit[:, list(plane)], (16, 3 if plane[1] == 3 else 16))
        for number, plane in enumerate(_PLANES)
    )
    torch.testing.assert_close(values[:, 4:], rest)


def test_outside_of_the_cube_are_the_values_of_its_faces() -> None:
    made = grid(frames=3)
    outside = torch.tensor([[-0.5, 0.3, 0.7], [1.2, 3.0, 0.1], [0.4, 0.5, -9.0]], dtype=torch.float64)
    torch.testing.assert_close(made(outside, 0.5), made(outside.clamp(0, 1), 0.5))
    torch.testing.assert_close(made(outside, 1.5), made(outside, 1.0))
