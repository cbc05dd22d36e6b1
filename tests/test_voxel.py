"""Voxel lattices against dense grids: look-ups, gradients, masks, marching and resampling."""

import pytest
import torch
from torch.nn.functional import grid_sample, smooth_l1_loss

from loupe.fields.marching import march, neighbourhood
from loupe.fields.voxel import Lattice, dilate, interpolate, overlap, resample, total_variation
from loupe.space import BoxRays

SHAPE = (6, 5, 7)


def random_mask(seed: int, share: float = 0.4) -> torch.Tensor:
    """Occupied cells of a lattice of SHAPE."""
    cells = [nodes - 1 for nodes in SHAPE]
    return torch.rand(cells, generator=torch.Generator().manual_seed(seed)) < share


def dense_of(lattice: Lattice, table: torch.Tensor) -> torch.Tensor:
    """The table as a grid (1, c, z, y, x) with zeros where there is no row: what `grid_sample` reads."""
    grid = torch.zeros(table.shape[1], SHAPE[0] * SHAPE[1] * SHAPE[2], dtype=table.dtype)
    grid = grid.index_put((torch.arange(table.shape[1])[:, None], lattice.nodes[None]), table.T)
    return grid.view(-1, *SHAPE).permute(0, 3, 2, 1)[None]


def test_a_look_up_and_its_gradient_are_those_of_grid_sample() -> None:
    lattice = Lattice(random_mask(0))
    points = torch.rand(400, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cell = lattice.find(points)
    points, cell = points[cell >= 0], cell[cell >= 0]
    table = torch.randn(len(lattice.nodes), 4, dtype=torch.float64, requires_grad=True)
    values = interpolate(table, lattice.places(points, cell))
    where = (2 * points - 1)[None, :, None, None]
    expected = grid_sample(dense_of(lattice, table), where, align_corners=True)[0, :, :, 0, 0].T
    torch.testing.assert_close(values, expected)
    weight = torch.randn_like(values)
    ours = torch.autograd.grad((values * weight).sum(), table)[0]
    theirs = torch.autograd.grad((expected * weight).sum(), table)[0]
    torch.testing.assert_close(ours, theirs)


def test_find_is_the_mask() -> None:
    mask = random_mask(2)
    lattice = Lattice(mask)
    points = 1.4 * torch.rand(500, 3, generator=torch.Generator().manual_seed(3)) - 0.2
    for point, found in zip(points, lattice.find(points).tolist(), strict=True):
        inside = bool(((point >= 0) & (point <= 1)).all())
        index = tuple((point * torch.tensor(mask.shape)).long().tolist())
        assert (found >= 0) == (inside and bool(mask[index]))
        if found >= 0:
            assert int(lattice.cells[found]) == (index[0] * mask.shape[1] + index[1]) * mask.shape[2] + index[2]


def test_the_box_belongs_to_the_lattice_to_its_last_face() -> None:
    lattice = Lattice(torch.ones(3, 3, 3, dtype=torch.bool))
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    cell = lattice.find(corners)
    assert (cell >= 0).all()
    table = torch.arange(64.0)[:, None]
    expected = corners @ torch.tensor([48.0, 12.0, 3.0])
    torch.testing.assert_close(interpolate(table, lattice.places(corners, cell))[:, 0], expected)


def test_kept_cells_keep_their_rows() -> None:
    lattice = Lattice(random_mask(4))
    points = torch.rand(300, 3)
    before = lattice.find(points)
    alive = torch.rand(len(lattice.cells)) < 0.5
    lattice.keep(alive)
    after = lattice.find(points)
    assert torch.equal(after >= 0, (before >= 0) & alive[before.clamp(min=0).long()])
    assert torch.equal(after[after >= 0], before[after >= 0])
    assert torch.equal(lattice.spread(alive).flatten().nonzero()[:, 0], lattice.cells[alive])


def test_a_finer_lattice_holds_the_same_function() -> None:
    """Nodes of the old lattice are nodes of the new one, and between them the function is what it was."""
    coarse, fine = Lattice(torch.ones(2, 3, 2, dtype=torch.bool)), Lattice(torch.ones(4, 6, 4, dtype=torch.bool))
    table = torch.randn(len(coarse.nodes), 2, dtype=torch.float64)
    finer = resample(table, coarse, fine.positions().double())
    points = torch.rand(200, 3, dtype=torch.float64)
    old = interpolate(table, coarse.places(points, coarse.find(points)))
    new = interpolate(finer, fine.places(points, fine.find(points)))
    torch.testing.assert_close(new, old, atol=1e-6, rtol=0)


def test_resampling_beyond_the_rows_extends_what_is_there() -> None:
    mask = torch.zeros(4, 4, 4, dtype=torch.bool)
    mask[0, 0, 0] = True
    lattice = Lattice(mask)
    points = torch.tensor([[0.3, 0.1, 0.1], [0.9, 0.9, 0.9]])
    values = resample(torch.full((8, 1), 3.0), lattice, points)
    torch.testing.assert_close(values[:, 0], torch.tensor([3.0, 0.0]))


def test_overlap_is_that_of_boxes() -> None:
    mask = random_mask(5, 0.2)
    low, high, shape = torch.tensor([0.1, -0.2, 0.3]), torch.tensor([0.8, 1.1, 0.9]), (7, 3, 9)
    found = overlap(mask, shape, low, high)
    points = torch.rand(4000, 3, generator=torch.Generator().manual_seed(6))
    world = low + points * (high - low)
    inside = ((world >= 0) & (world < 1)).all(-1)
    old = (world.clamp(0, 1 - 1e-6) * torch.tensor(mask.shape)).long()
    new = (points * torch.tensor(shape)).long()
    hit = mask[tuple(old.T)] & inside
    assert found[tuple(new.T)][hit].all()
    assert 0.2 < found.float().mean() < 0.9
    whole = overlap(mask, (5, 4, 6), torch.zeros(3), torch.ones(3))
    assert torch.equal(whole, mask)


@pytest.mark.parametrize("reach", [1, 2])
def test_dilate_reaches_so_far_and_no_farther(reach: int) -> None:
    mask = torch.zeros(9, 9, 9, dtype=torch.bool)
    mask[4, 4, 4] = True
    assert int(dilate(mask, reach).sum()) == (2 * reach + 1) ** 3
    assert dilate(mask, reach)[4 - reach, 4, 4 + reach]


def random_rays(count: int) -> BoxRays:
    """Rays through the unit box, as `Space.cast` makes them."""
    generator = torch.Generator().manual_seed(7)
    origins = torch.rand(count, 3, generator=generator) * 3 - 1
    directions = torch.rand(count, 3, generator=generator) - origins
    a, b = -origins / directions, (1 - origins) / directions
    enter = torch.minimum(a, b).amax(-1).clamp(min=0)
    return BoxRays(origins, directions, enter, torch.maximum(a, b).amin(-1))


@pytest.mark.parametrize("step", [0.003, 0.02, 0.3])
def test_marching_by_blocks_finds_what_single_steps_find(step: float) -> None:
    lattice, rays = Lattice(random_mask(8, 0.1)), random_rays(60)
    samples = march(rays, lattice, neighbourhood(lattice), step)
    expected = []
    for index in range(60):
        first, last = float(rays.enter[index]) / step, float(rays.leave[index]) / step
        t = torch.arange(int(first), int(last) + 2) * torch.tensor(step)
        t = t[(t >= rays.enter[index]) & (t <= rays.leave[index])]
        inside = lattice.find(rays.origins[index] + t[:, None] * rays.directions[index]) >= 0
        expected += [(index, value) for value in t[inside].tolist()]
    # A sample on a face may fall to either side of it; none of 60 random rays should meet more than a few.
    ours = {(ray, round(value / step)) for ray, value in zip(samples.ray.tolist(), samples.t.tolist(), strict=True)}
    theirs = {(ray, round(value / step)) for ray, value in expected}
    assert len(theirs) > 10
    assert len(ours ^ theirs) <= 0.002 * len(theirs) + 1
    assert torch.equal(samples.ray, samples.ray.sort().values)
    assert (lattice.find(samples.points) == samples.cell).all()


def test_total_variation_and_its_gradient() -> None:
    lattice = Lattice(random_mask(9))
    table = torch.randn(len(lattice.nodes), 2, dtype=torch.float64, requires_grad=True)
    number = {node: row for row, node in enumerate(lattice.nodes.tolist())}
    pairs = []
    for node, row in number.items():
        x, y, z = node // 35, node // 7 % 5, node % 7
        for inside, beside in ((x < 5, node + 35), (y < 4, node + 7), (z < 6, node + 1)):
            if inside and beside in number:
                pairs.append((row, number[beside]))
    first, second = (torch.tensor(rows) for rows in zip(*pairs, strict=True))
    weight = torch.tensor([1.0, 0.25], dtype=torch.float64)
    expected = (smooth_l1_loss(table[first], table[second], reduction="none") * weight).sum()
    whole = total_variation(table, lattice, slice(0, len(table)), weight)
    torch.testing.assert_close(whole, 2 * expected)
    gradient = torch.autograd.grad(whole, table)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, table)[0])
    part = torch.autograd.grad(total_variation(table, lattice, slice(3, 9), weight), table)[0]
    torch.testing.assert_close(part[3:9], gradient[3:9])
    assert part[9:].abs().sum() == 0
