"""Points -> pixels against peeling done by hand, against what is known of discs, and on a sphere."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from loupe import splat
from loupe.camera import Camera

Points = tuple[Tensor, Tensor, Tensor, Tensor]


def facing(width: int, height: int, focal: float, distance: float = 3.0) -> Camera:
    """A camera that looks along z at the world's origin."""
    pose = np.eye(4)
    pose[2, 3] = distance
    return Camera(width, height, focal, focal, width / 2, height / 2, pose)


def turned(camera: Camera) -> Camera:
    """Another one with axes, focal lengths and principal point of no symmetry."""
    turn, _ = np.linalg.qr(np.array([[3.0, 1, 2], [-1, 2, 1], [1, -1, 4]]))
    turn *= np.sign(np.linalg.det(turn))
    pose = camera.cam_from_world.copy()
    pose[:3, :3] = turn
    return replace(camera, fx=camera.fx * 1.1, cx=camera.cx + 1.3, cy=camera.cy - 0.7, cam_from_world=pose)


def random_points(count: int, channels: int, seed: int, spread: float = 0.6, size: float = 0.5) -> Points:
    """Positions, colours, radii and densities in float64, some points behind the camera and beside the picture."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    points = spread * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    points[::9, 2] -= 4
    return points, uniform(count, channels), size * uniform(count) + 0.02, uniform(count)


def peeled(
    points: Tensor, colour: Tensor, radius: Tensor, density: Tensor, camera: Camera, layers: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The paper's K passes, pixel by pixel: each takes the nearest hit that no pass before has taken."""
    pose = torch.from_numpy(camera.cam_from_world)
    placed = points @ pose[:3, :3].T + pose[:3, 3]
    focal, centre = torch.tensor([[camera.fx, camera.fy], [camera.cx, camera.cy]], dtype=torch.float64)
    colours, opacities, depths = [], [], []
    for y in range(camera.height):
        for x in range(camera.width):
            through, seen, depth = torch.tensor(1.0, dtype=torch.float64), colour.new_zeros(colour.shape[1]), 0.0
            taken: list[int] = []
            offset = focal * placed[:, :2] / placed[:, 2:] + centre - torch.tensor([x + 0.5, y + 0.5])
            drawn = (camera.fy * radius / placed[:, 2]) ** 2
            square = drawn + splat.LOW_PASS
            share = 1 - (offset**2).sum(1) / square
            z = placed[:, 2].tolist()
            hit = [i for i, held in enumerate(((placed[:, 2] > radius) & (share > 0)).tolist()) if held]
            for _ in range(layers):
                rest = [i for i in hit if i not in taken]
                if not rest:
                    break
                nearest = min(rest, key=lambda i: (z[i], i))
                taken.append(nearest)
                alpha = density[nearest] * drawn[nearest] / square[nearest] * share[nearest]
                seen = seen + through * alpha * colour[nearest]
                depth = depth + through * alpha * placed[nearest, 2]
                through = through * (1 - alpha)
            colours.append(seen)
            opacities.append(1 - through)
            depths.append(depth / (1 - through) if float(through.detach()) < 0.999 else 0 * through)
    shape = camera.height, camera.width
    return (
        torch.stack(colours).view(*shape, -1),
        torch.stack(opacities).view(shape),
        torch.stack(depths).view(shape),
    )


def differentiated(
    render: Callable[..., tuple[Tensor, Tensor, Tensor]], given: Points, camera: Camera, layers: int
) -> tuple[list[Tensor], list[Tensor]]:
    """The maps, and the gradients of a random weighting of them."""
    given = tuple(part.clone().requires_grad_() for part in given)
    maps = render(*given, camera, layers)
    generator = torch.Generator().manual_seed(1)
    total = sum((torch.randn(m.shape, generator=generator, dtype=m.dtype) * m).sum() for m in maps)
    return [m.detach() for m in maps], list(torch.autograd.grad(total, given))


@pytest.mark.parametrize(("layers", "channels"), [(1, 3), (3, 1), (50, 4)])
def test_sorting_once_is_peeling(layers: int, channels: int) -> None:
    camera, given = turned(facing(13, 9, 9.0)), random_points(60, channels, 0)
    expected, got = (differentiated(render, given, camera, layers) for render in (peeled, splat.render_points))
    assert expected[0][1].max() > 0.2
    assert (expected[0][1] == 0).any()
    for one, other in zip((*expected[0], *expected[1]), (*got[0], *got[1]), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


def test_gradients() -> None:
    camera = facing(7, 6, 6.0)
    points, colour, radius, density = (part.requires_grad_() for part in random_points(9, 2, 3))

    def render(*given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return splat.render_points(*given, camera, 3)

    assert torch.autograd.gradcheck(render, (points, colour, radius, density), eps=1e-7, atol=1e-5)


def test_of_points_at_one_depth_the_first_is_nearest() -> None:
    camera = facing(3, 3, 30.0)
    colour = torch.eye(3, dtype=torch.float64)
    alike = torch.zeros(3, 3, dtype=torch.float64), torch.full((3,), 2.0), torch.full((3,), 0.5)
    seen = splat.render_points(alike[0], colour, *alike[1:], camera, 2).colour[1, 1]
    peak = 0.5 * 400 / (400 + splat.LOW_PASS)
    torch.testing.assert_close(seen, torch.tensor([peak, (1 - peak) * peak, 0.0], dtype=torch.float64))


def test_a_disc_alone() -> None:
    """A paraboloid over a disc: its volume is half of height times area, its depth that of its point."""
    camera = facing(100, 80, 200.0, distance=4.0)
    point, colour = torch.tensor([[0.1, -0.2, 0.5]]).double(), torch.tensor([[0.25, 2.0]]).double()
    radius, density = torch.tensor([0.6]).double(), torch.tensor([0.8]).double()
    seen = splat.render_points(point, colour, radius, density, camera, 15)
    pixels = 200 * 0.6 / 4.5
    assert seen.opacity.sum().item() == pytest.approx(0.8 * math.pi * pixels**2 / 2, rel=2e-3)
    middle = int(40 - 0.2 * 200 / 4.5), int(50 + 0.1 * 200 / 4.5)
    assert seen.opacity[middle] == seen.opacity.max()
    torch.testing.assert_close(seen.colour, seen.opacity[..., None] * colour[0])
    torch.testing.assert_close(
        seen.depth[seen.opacity > 1e-3], torch.tensor(4.5).double().expand(int((seen.opacity > 1e-3).sum()))
    )
    assert (seen.depth[seen.opacity == 0] == 0).all()


def test_a_point_smaller_than_a_pixel_keeps_what_it_covers_as_it_moves() -> None:
    camera = facing(16, 16, 10.0, distance=10.0)  # one pixel to a unit
    sums = []
    for radius in (0.1, 0.3, 0.6, 1.0):
        for x in np.linspace(0, 0.5, 6):
            for y in np.linspace(0, x, 4):
                point = torch.tensor([[x, y, 0.0]]).double(), torch.zeros(1, 0).double()
                size = torch.tensor([radius]).double(), torch.tensor([0.9]).double()
                sums.append(splat.render_points(*point, *size, camera, 15).opacity.sum() / (0.9 * radius**2))
    covered = torch.stack(sums) * 2 / math.pi
    assert (covered - 1).abs().max() < 0.065
    assert covered.std() < 0.03


def test_the_low_pass_leaves_large_points_alone() -> None:
    camera = facing(100, 100, 40.0, distance=1.0)
    point = (
        torch.zeros(1, 3).double(),
        torch.zeros(1, 0).double(),
        torch.ones(1).double() * 0.999,
        torch.ones(1).double(),
    )
    offset = torch.arange(100).double() + 0.5 - 50
    exact = (1 - (offset[:, None] ** 2 + offset**2) / (40 * 0.999) ** 2).clamp(min=0)
    assert (splat.render_points(*point, camera, 15).opacity - exact).abs().max() < splat.LOW_PASS / 40**2 + 1e-5


def test_a_cropped_camera_sees_a_window() -> None:
    camera, given = facing(40, 30, 30.0), random_points(200, 3, 5)
    whole = splat.render_points(*given, camera, 6)
    part = splat.render_points(*given, camera.cropped(7, 11, 20, 9), 6)
    for one, other in zip(whole, part, strict=True):
        torch.testing.assert_close(other, one[11:20, 7:27], rtol=1e-9, atol=1e-9)


def test_bands_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    camera, given = facing(40, 30, 30.0), random_points(200, 3, 6)
    whole = differentiated(splat.render_points, given, camera, 6)
    tried = []
    composite = splat.composite
    monkeypatch.setattr(splat, "composite", lambda *args: tried.append(args[4]) or composite(*args))
    monkeypatch.setattr(splat, "_PAIRS", 3000)
    banded = differentiated(splat.render_points, given, camera, 6)
    assert len(tried) > 6  # each twice: once more for the gradient
    assert sum(tried) == 2 * 30
    for one, other in zip((*whole[0], *whole[1]), (*banded[0], *banded[1]), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


def test_nothing_to_see() -> None:
    """Behind the camera, around it, in its plane, beside the picture, and no points at all."""
    camera = facing(8, 6, 8.0)
    where = [[0, 0, -4.0], [0, 0, -2.9], [1, 1, -3.0], [99, 0, 0]]
    for points in (torch.tensor(where), torch.zeros(0, 3)):
        count = len(points)
        given = points, torch.ones(count, 2), torch.full((count,), 0.2), torch.ones(count)
        maps, gradients = differentiated(splat.render_points, given, camera, 4)
        assert [m.shape for m in maps] == [(6, 8, 2), (6, 8), (6, 8)]
        assert not any(part.any() or part.isnan().any() for part in (*maps, *gradients))


def sphere(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points evenly over the unit sphere (a Fibonacci lattice), with radii that close it, and opaque."""
    index = torch.arange(count).double() + 0.5
    z, angle = 1 - 2 * index / count, math.pi * (1 + 5**0.5) * index
    ring = (1 - z**2).sqrt()
    points = torch.stack([ring * angle.cos(), ring * angle.sin(), z], 1)
    return (
        points,
        torch.full((count,), 1.5 * math.sqrt(4 * math.pi / count)).double(),
        torch.full((count,), 0.99).double(),
    )


def test_a_sphere_hides_its_back() -> None:
    points, radius, density = sphere(3000)
    camera = turned(facing(96, 96, 110.0))
    towards = torch.from_numpy(camera.center) - points
    facing_it = (points * torch.nn.functional.normalize(towards, dim=1)).sum(1)
    shown = splat.visible(points, radius, density, camera, 15)
    assert shown[facing_it > 0.3].all()  # up to 72 degrees from facing the camera
    assert not shown[facing_it < -0.15].any()
    assert not splat.visible(points, radius, density, camera.cropped(48, 0, 48, 96), 15)[
        torch.from_numpy(camera.project(points.numpy())[0][:, 0]) < 48
    ].any()


def test_what_hardly_hides_leaves_what_stands_behind_visible() -> None:
    camera = facing(20, 20, 20.0)
    points = torch.tensor([[0, 0, 0.0], [0, 0, 5.0]]).double()
    radius = torch.full((2,), 0.5).double()
    for density, expected in ((0.9, [True, False]), (0.2, [True, True])):
        seen = splat.visible(points, radius, torch.tensor([density, 0.1]).double(), camera, 15)
        assert seen.tolist() == expected


def test_a_hit_costs_less_than_the_layers_that_it_hides() -> None:
    """K opaque layers in front: what stands behind gets neither picture nor gradient."""
    camera = facing(5, 5, 50.0)
    points = torch.zeros(4, 3).double()
    points[:, 2] = torch.tensor([0.3, 0.1, 0.2, 0.0])
    given = points, torch.rand(4, 1).double(), torch.ones(4).double(), torch.full((4,), 0.5).double()
    _, gradients = differentiated(splat.render_points, given, camera, 3)
    assert [bool(gradient[0].any()) for gradient in gradients] == [False] * 4
    assert all(bool(gradient[1:].any(-1).all() if gradient.dim() > 1 else gradient[1:].all()) for gradient in gradients)
