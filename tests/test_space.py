"""The box, its maps, and how it is chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.camera import Array, Camera
from loupe.errors import InputError
from loupe.rays import Rays, camera_rays
from loupe.scene import Points, Scene, View
from loupe.space import (
    Space,
    SpaceConfig,
    bounded_space,
    choose_space,
    forward_space,
    smallest_box_rotation,
    without_strays,
)


def rotation(seed: int) -> Array:
    """Some rotation (3, 3)."""
    matrix = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return matrix * np.sign(np.linalg.det(matrix))


def look_at(eye: Array, target: Array) -> Camera:
    """A camera of 40x30 pixels at `eye` that looks at `target`, y down."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(np.array([0.0, 1.0, 0.0]), forward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ eye
    return Camera(40, 30, 42.0, 42.0, 20.0, 15.0, pose)


def forward_cameras(seed: int = 0) -> list[Camera]:
    """Eight cameras near the origin that look along +z, more or less, in a world that is turned at random."""
    rng = np.random.default_rng(seed)
    world = np.eye(4)
    world[:3, :3] = rotation(seed)
    eyes = rng.normal(size=(8, 3)) * [0.3, 0.2, 0.05]
    return [
        Camera(40, 30, 42.0, 42.0, 20.0, 15.0, look_at(eye, np.array([0, 0, 8.0]) + eye * 0.7).cam_from_world @ world)
        for eye in eyes
    ]


def turned_box(seed: int) -> Space:
    """A bounded space that is turned."""
    pose = np.eye(4)
    pose[:3, :3] = rotation(seed)
    rows = tuple(tuple(float(value) for value in row) for row in pose)
    return Space("bounded", (-1.0, -2.0, 0.5), (1.5, 0.5, 2.0), rows)


SPACES = [turned_box(3), forward_space(forward_cameras(), 2.0)]


def scene_of(tmp_path: Path, cameras: list[Camera], near: float, far: float, points: Array | None = None) -> Scene:
    """A scene of these cameras; the first one is the test view."""
    views = [View(f"v{index}", camera, "", near, far) for index, camera in enumerate(cameras)]
    cloud = Points.none()
    if points is not None:
        count = len(points)
        cloud = Points(points.astype(np.float32), np.zeros((count, 3), np.uint8), np.full(count, 4, np.int32))
    return Scene(tmp_path, views, cloud, [view.name for view in views[1:]], ["v0"], 1, "made up")


@pytest.mark.parametrize("space", SPACES, ids=["bounded", "forward"])
@given(unit=st.lists(st.tuples(*[st.floats(0.01, 0.99)] * 3), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_world_and_unit_are_inverse(space: Space, unit: list[tuple[float, float, float]]) -> None:
    points = torch.tensor(unit, dtype=torch.float64)
    torch.testing.assert_close(space.to_unit(space.to_world(points)), points)


@pytest.mark.parametrize("space", SPACES, ids=["bounded", "forward"])
def test_world_points_of_a_ray_lie_on_its_unit_line(space: Space) -> None:
    camera = forward_cameras()[2]
    rays = Rays(*(part.double() for part in camera_rays(camera)))
    cast = space.cast(rays)
    for share in (0.1, 0.5, 0.9):
        t = torch.full_like(rays.origins[:, 0], share)
        world = rays.origins + space.distance(rays, t)[:, None] * rays.directions
        torch.testing.assert_close(space.to_unit(world), cast.origins + t[:, None] * cast.directions)


def test_forward_t_says_the_depth() -> None:
    space = SPACES[1]
    rays = Rays(*(part.double() for part in camera_rays(forward_cameras()[1])))
    t = torch.full_like(rays.origins[:, 0], 0.75)
    world = rays.origins + space.distance(rays, t)[:, None] * rays.directions
    pose = torch.tensor(space.frame_from_world, dtype=torch.float64)
    depth = (world @ pose[:3, :3].T + pose[:3, 3])[:, 2]
    torch.testing.assert_close(1 - space.near / depth, t)


@pytest.mark.parametrize("space", SPACES, ids=["bounded", "forward"])
def test_entry_and_exit_against_marching(space: Space) -> None:
    generator = torch.Generator().manual_seed(1)
    middle = space.to_world(torch.tensor([[0.5, 0.5, 0.3]], dtype=torch.float64))
    origins = torch.stack([torch.from_numpy(camera.center) for camera in forward_cameras() * 4])
    spread = torch.randn(len(origins), 3, generator=generator, dtype=torch.float64)
    rays = Rays(origins, torch.nn.functional.normalize(middle + 2.5 * spread - origins, dim=-1))
    cast = space.cast(rays)
    steps = torch.linspace(0, 12 if space.kind == "bounded" else 1, 4001, dtype=torch.float64)
    hits = 0
    for index in range(len(origins)):
        unit = cast.origins[index] + steps[:, None] * cast.directions[index]
        inside = steps[((unit >= 0) & (unit <= 1)).all(-1)]
        if len(inside) < 3:
            assert cast.leave[index] - cast.enter[index] < 3 * steps[1]
            continue
        hits += 1
        assert abs(inside[0] - cast.enter[index]) <= steps[1]
        assert abs(inside[-1] - cast.leave[index]) <= steps[1]
    assert 6 < hits < len(origins)


def test_axis_parallel_rays_hit_and_miss() -> None:
    space = Space("bounded", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    origins = torch.tensor([[0.5, 0.5, -1.0], [1.5, 0.5, -1.0], [-0.5, 0.5, -1.0], [0.5, 0.5, 2.0]])
    cast = space.cast(Rays(origins, torch.tensor([[0.0, 0.0, 1.0]]).expand(4, 3)))
    assert (cast.enter < cast.leave).tolist() == [True, False, False, False]
    assert (cast.enter[0], cast.leave[0]) == (1, 2)


def test_a_ray_that_runs_backwards_misses_a_forward_space() -> None:
    rays = camera_rays(forward_cameras()[0])
    cast = SPACES[1].cast(Rays(rays.origins, -rays.directions))
    assert not (cast.enter < cast.leave).any()


def test_forward_space_holds_every_ray() -> None:
    cameras = forward_cameras()
    space = forward_space(cameras, 2.0)
    for camera in cameras:
        cast = space.cast(camera_rays(camera))
        torch.testing.assert_close(cast.enter, torch.zeros_like(cast.enter), atol=1e-4, rtol=0)
        torch.testing.assert_close(cast.leave, torch.ones_like(cast.leave), atol=1e-4, rtol=0)


def test_forward_space_refuses_cameras_that_do_not_fit() -> None:
    cameras = forward_cameras()
    with pytest.raises(InputError, match="near plane"):
        forward_space(cameras, 0.01)
    sideways = look_at(np.zeros(3), np.array([5.0, 0.0, 0.1]))
    with pytest.raises(InputError, match="bounded"):
        forward_space([*[look_at(np.zeros(3), np.array([0.0, 0.0, 5.0]))] * 5, sideways], 2.0)


def test_save_and_load(tmp_path: Path) -> None:
    for space in SPACES:
        space.save(tmp_path / "space.json")
        assert Space.load(tmp_path / "space.json") == space
    with pytest.raises(InputError, match="run carve_space first"):
        Space.load(tmp_path / "none.json")
    (tmp_path / "space.json").write_text('{"kind": "bounded"}')
    with pytest.raises(InputError, match="not a space"):
        Space.load(tmp_path / "space.json")


@pytest.mark.parametrize("seed", range(4))
def test_the_smallest_box_of_a_turned_box_is_that_box(seed: int) -> None:
    cloud = np.random.default_rng(seed).uniform(-1, 1, (3000, 3)) * [3.0, 2.0, 1.0]
    turned = cloud @ rotation(seed).T
    sides = np.ptp(turned @ smallest_box_rotation(turned).T, axis=0)
    assert np.prod(sides) < 1.02 * np.prod(np.ptp(cloud, axis=0))
    assert np.allclose(np.sort(sides), [2, 4, 6], atol=0.1)


def test_an_upright_cloud_keeps_the_worlds_axes() -> None:
    cloud = np.random.default_rng(0).uniform(-1, 1, (3000, 3)) * [1.0, 2.0, 3.0]
    assert np.allclose(smallest_box_rotation(cloud), np.eye(3), atol=0.02)


def test_strays_go_and_edges_stay() -> None:
    rng = np.random.default_rng(0)
    table = rng.uniform(-1, 1, (2000, 3)) * [2.0, 1.0, 0.01]
    strays = np.array([0, 0, 12.0]) + rng.uniform(-9, 9, (20, 3))
    kept = without_strays(np.concatenate([table, strays]))
    assert len(kept) >= 1998
    assert kept[:, 2].max() < 0.02
    space = bounded_space(kept, 0.0)
    sides = np.array(space.high) - np.array(space.low)
    assert np.allclose(np.sort(sides)[1:], [2, 4], atol=0.05)


def test_kind_follows_the_cameras(tmp_path: Path) -> None:
    facing = scene_of(tmp_path, forward_cameras(), 3.0, 20.0)
    assert choose_space(facing, SpaceConfig()).kind == "forward"
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ring = [look_at(np.array([4 * np.cos(a), -1.0, 4 * np.sin(a)]), np.zeros(3)) for a in angles]
    around = scene_of(tmp_path, ring, 2.0, 6.0)
    assert choose_space(around, SpaceConfig()).kind == "bounded"
    with pytest.raises(InputError):
        choose_space(around, SpaceConfig(kind="forward"))


def test_a_forward_space_starts_before_the_nearest_bound(tmp_path: Path) -> None:
    cameras = forward_cameras()
    space = choose_space(scene_of(tmp_path, cameras, 3.0, 20.0), SpaceConfig(kind="forward", near_factor=0.5))
    pose = np.array(space.frame_from_world)
    depths = [float(pose[2, :3] @ camera.center + pose[2, 3]) for camera in cameras[1:]]
    assert space.near == pytest.approx(0.5 * (3.0 + min(depths)))


def test_a_bounded_space_holds_the_points(tmp_path: Path) -> None:
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ring = [look_at(np.array([4 * np.cos(a), -1.0, 4 * np.sin(a)]), np.zeros(3)) for a in angles]
    cloud = np.random.default_rng(0).uniform(-1, 1, (800, 3)) @ rotation(5).T
    space = choose_space(scene_of(tmp_path, ring, 2.0, 6.0, cloud), SpaceConfig(margin=0.02))
    unit = space.to_unit(torch.from_numpy(cloud))
    assert bool(((unit > 0.01) & (unit < 0.99)).all())


def test_without_points_the_box_is_what_the_cameras_see_together(tmp_path: Path) -> None:
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ring = [look_at(np.array([4 * np.cos(a), -1.0, 4 * np.sin(a)]), np.zeros(3)) for a in angles]
    space = choose_space(scene_of(tmp_path, ring, 3.0, 5.0), SpaceConfig())
    middle = space.to_unit(torch.zeros(1, 3, dtype=torch.float64))
    assert bool(((middle > 0.3) & (middle < 0.7)).all())
    sides = np.array(space.high) - np.array(space.low)
    assert sides.min() > 1.5
    assert sides.max() < 4.5
    apart = [look_at(np.array([50.0 * index, 0, 0]), np.array([50.0 * index, 0, 5.0])) for index in range(4)]
    with pytest.raises(InputError, match="two training views"):
        choose_space(scene_of(tmp_path, apart, 1.0, 3.0), SpaceConfig(kind="bounded"))
