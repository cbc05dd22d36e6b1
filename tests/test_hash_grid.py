"""The hash grid against torch's own sampling, the paper's formula point by point, and finite differences."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import grid_sample

from loupe.fields.hash_grid import HashConfig, HashGrid, row

SMALL = HashConfig(
    levels=3, channels=2, table=512, base=4, finest=16
)  # 4^3 and 8^3 nodes, and 16^3 that share 512 rows


def grid(config: HashConfig = SMALL) -> HashGrid:
    """With values of the order of 1."""
    torch.manual_seed(0)
    made = HashGrid(config).double()
    with torch.no_grad():
        for table in made.tables:
            table.normal_()
    return made


def some_points(count: int) -> Tensor:
    return torch.rand(count, 3, dtype=torch.float64, generator=torch.manual_seed(1))


def by_hand(table: Tensor, point: list[float], side: int) -> Tensor:
    """One point of one level, corner by corner, in Python's own numbers."""
    place = [value * (side - 1) for value in point]
    low = [min(int(value), side - 2) for value in place]
    total = torch.zeros(len(table), dtype=table.dtype)
    for corner in product((0, 1), repeat=3):
        x, y, z = (first + step for first, step in zip(low, corner, strict=True))
        dense = side**3 <= table.shape[1]
        place_in_table = (x * side + y) * side + z if dense else (x ^ y * 2_654_435_761 ^ z * 805_459_861)
        weight = 1.0
        for value, node in zip(place, (x, y, z), strict=True):
            weight *= 1 - abs(value - node)
        total += weight * table[:, place_in_table % table.shape[1]]
    return total


def test_every_level_is_the_formula() -> None:
    made, points = grid(), torch.cat([some_points(40), torch.tensor(list(product((0.0, 1.0), repeat=3))).double()])
    found = made(points)
    for level, side in enumerate((4, 8, 16)):
        expected = [by_hand(made.tables[level], point, side) for point in points.tolist()]
        torch.testing.assert_close(found[:, 2 * level : 2 * level + 2], torch.stack(expected))


def test_a_dense_level_is_torchs_sampling() -> None:
    """In value and in both gradients."""
    made, points = grid(HashConfig(levels=1, channels=3, table=125, base=5, finest=5)), some_points(50).requires_grad_()
    volume = made.tables[0].view(1, 3, 5, 5, 5)
    expected = grid_sample(volume, 2 * points.flip(1)[None, None, None] - 1, align_corners=True)[0, :, 0, 0].T
    found = made(points)
    torch.testing.assert_close(found, expected)
    weighting = torch.randn_like(found)
    leaves = (points, made.tables[0])
    gradients = [torch.autograd.grad((values * weighting).sum(), leaves) for values in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_gradients_are_those_of_finite_differences() -> None:
    """First and second, of tables and positions, on a dense and a hashed level."""
    made = HashGrid(HashConfig(levels=2, channels=2, table=27, base=3, finest=6)).double()
    points = some_points(4).requires_grad_()
    tables = [torch.randn_like(table).requires_grad_() for table in made.tables]

    def values(points: Tensor, *tables: Tensor) -> Tensor:
        named = {f"tables.{index}": table for index, table in enumerate(tables)}
        return torch.func.functional_call(made, named, (points,))

    assert torch.autograd.gradcheck(values, (points, *tables))
    assert torch.autograd.gradgradcheck(values, (points, *tables))


def test_slopes_are_the_derivatives() -> None:
    """Beside the same features; and losses on either reach the tables as through gradients of gradients."""
    made, points = grid(), torch.cat([some_points(40), torch.tensor([[-0.1, 0.3, 0.4], [0.5, 1.2, 0.9]]).double()])
    at = points.clone().requires_grad_()
    expected = made(at)
    rows = [torch.autograd.grad(column.sum(), at, create_graph=True)[0] for column in expected.unbind(1)]
    found, slopes = made.with_slopes(points)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(slopes, torch.stack(rows, 1))
    weighting = torch.randn_like(slopes)
    losses = [(values * weighting).square().sum() for values in (slopes, torch.stack(rows, 1))]
    torch.testing.assert_close(*(torch.autograd.grad(loss, list(made.tables)) for loss in losses))


def test_a_loss_on_the_slope_reaches_the_tables() -> None:
    """Along one axis the slope is the difference of two nodes over their distance, here 1/3."""
    made = grid(HashConfig(levels=1, channels=1, table=64, base=4, finest=4))
    point = torch.tensor([[0.0, 1 / 3, 0.5]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(made(point).sum(), point, create_graph=True)
    (gradient,) = torch.autograd.grad(slope[0, 2], list(made.tables))
    expected = torch.zeros(4, 4, 4, dtype=torch.float64)
    expected[0, 1, 1], expected[0, 1, 2] = -3, 3
    torch.testing.assert_close(gradient.view(4, 4, 4), expected)


def test_a_large_level_shares_its_rows_evenly() -> None:
    steps = torch.arange(0, 2048, 61)
    x, y, z = torch.meshgrid(steps, steps, steps, indexing="ij")
    counts = torch.bincount(row((x, y, z), (2048,) * 3, 1024).flatten(), minlength=1024)
    assert len(counts) == 1024
    assert 0.3 * counts.float().mean() < counts.min() <= counts.max() < 3 * counts.float().mean()


def test_levels_grow_from_the_first_to_the_finest() -> None:
    sides = HashConfig().sides
    assert (sides[0], sides[-1], len(sides)) == (16, 2048, 16)
    growth = torch.tensor(sides[1:]) / torch.tensor(sides[:-1])
    torch.testing.assert_close(growth, torch.full((15,), 128 ** (1 / 15)), rtol=0.03, atol=0)
    assert [table.shape for table in grid().tables] == [(2, 64), (2, 512), (2, 512)]
    assert HashGrid(SMALL).width == 6


@pytest.mark.parametrize(("levels", "base", "finest"), [(3, 16, 8), (1, 16, 32)])
def test_sizes_that_cannot_be_are_refused(levels: int, base: int, finest: int) -> None:
    with pytest.raises(ValidationError, match=f"cannot run from base {base} to finest {finest}"):
        HashConfig(levels=levels, base=base, finest=finest)


def test_outside_of_the_cube_are_the_values_of_its_faces() -> None:
    made = grid()
    outside = torch.tensor([[-0.5, 0.3, 0.7], [1.2, 3.0, 0.1], [0.4, 0.5, -9.0]], dtype=torch.float64)
    torch.testing.assert_close(made(outside), made(outside.clamp(0, 1)))
