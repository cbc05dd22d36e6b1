"""Carving: an analytic scene whose surfaces are known, and the grid itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plyfile
import pytest
import torch

from loupe.camera import Array, Camera
from loupe.cloud import Cloud
from loupe.errors import InputError
from loupe.images import Pixels, to_uint8
from loupe.occupancy import CarveConfig, Carved, Occupancy, carve, carve_space, view_votes, voxels_of, without_specks
from loupe.scene import Points, Scene, View
from loupe.space import Space
from loupe.sweep import Sweep, choose_neighbours, sweep_views
from loupe.tiles import Tiles, write_tiles

CONFIG = CarveConfig(kind="bounded", resolution=40, picture=96)
BALL, RADIUS = np.array([0.2, 0.1, 0.0]), 0.5
WAVES = np.random.default_rng(1).normal(size=(60, 3)) * 14


def look_at(eye: Array, target: Array, width: int = 96, height: int = 72) -> Camera:
    """A camera at `eye` that looks at `target`, y down."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(np.array([0.0, 1.0, 0.0]), forward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ eye
    return Camera(width, height, 1.1 * width, 1.1 * width, width / 2, height / 2, pose)


def cast(camera: Camera) -> tuple[Pixels, Array]:
    """Picture and hit points (h * w, 3) of a ball before the wall z = 1, both with a texture that fills space."""
    rows, columns = np.indices((camera.height, camera.width)).reshape(2, -1)
    ends = camera.unproject(np.stack([columns, rows], 1) + 0.5, np.ones(len(rows)))
    directions = ends - camera.center
    along = directions @ (BALL - camera.center)
    squared = (directions**2).sum(1)
    root = along**2 - squared * (((BALL - camera.center) ** 2).sum() - RADIUS**2)
    wall = (1 - camera.center[2]) / directions[:, 2]
    reach = np.where(root > 0, (along - np.sqrt(np.maximum(root, 0))) / squared, wall)
    hits = camera.center + reach[:, None] * directions
    texture = np.stack([np.sin(hits @ WAVES[part::3].T + part).mean(1) for part in range(3)], 1)
    return to_uint8(0.5 + 1.5 * texture).reshape(camera.height, camera.width, 3), hits


def arc() -> list[Camera]:
    """Eleven cameras on a shallow arc before the wall."""
    angles = np.radians(np.linspace(-30, 30, 11))
    heights = 0.5 * np.cos(np.arange(11) * 2.0)
    eyes = np.stack([3.2 * np.sin(angles), heights, 0.5 - 3.2 * np.cos(angles)], 1)
    return [look_at(eye, np.array([0.1, 0, 0.5])) for eye in eyes]


def made_scene(folder: Path, cameras: list[Camera], pictures: list[Pixels], points: Array) -> tuple[Scene, Tiles]:
    """Scene and tiles; every fifth view is for tests."""
    views = [View(f"v{index:02d}", camera, "", 1.8, 4.5) for index, camera in enumerate(cameras)]
    names = [view.name for view in views]
    cloud = Points(points.astype(np.float32), np.zeros((len(points), 3), np.uint8), np.full(len(points), 3, np.int32))
    scene = Scene(folder, views, cloud, [n for i, n in enumerate(names) if i % 5 != 2], names[2::5], 1, "made up")
    write_tiles(folder, zip(names, pictures, strict=True), 1)
    return scene, Tiles(folder)


@pytest.fixture(scope="module")
def carved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Carved, Scene]:
    """The ball before the wall, carved from pictures."""
    cameras = arc()
    shots = [cast(camera) for camera in cameras]
    rng = np.random.default_rng(0)
    points = np.concatenate([hits[rng.choice(len(hits), 60)] for _, hits in shots])
    scene, tiles = made_scene(tmp_path_factory.mktemp("scene"), cameras, [picture for picture, _ in shots], points)
    return carve_space(scene, tiles, CONFIG), scene


def test_every_seen_surface_is_kept_and_the_air_is_not(carved: tuple[Carved, Scene]) -> None:
    made, scene = carved
    for name in [*scene.test, *scene.train]:
        unit = made.space.to_unit(torch.from_numpy(cast(scene.camera(name, "full"))[1]))
        inside = ((unit >= 0) & (unit <= 1)).all(-1)
        assert inside.float().mean() > 0.9
        assert bool(made.occupancy.query(unit[inside]).all())
    assert made.occupancy.share < 0.5
    air = torch.tensor([[-0.6, 0.1, 0.0], [0.9, -0.2, 0.1], [-0.5, -0.3, 0.3]], dtype=torch.float64)
    unit = made.space.to_unit(air)
    assert bool(((unit > 0) & (unit < 1)).all())
    assert not made.occupancy.query(unit).any()


def test_the_cloud_lies_on_the_surfaces(carved: tuple[Carved, Scene]) -> None:
    cloud = carved[0].cloud
    assert len(cloud.xyz) > 500
    away = np.minimum(np.abs(np.linalg.norm(cloud.xyz - BALL, axis=1) - RADIUS), np.abs(cloud.xyz[:, 2] - 1))
    assert np.median(away) < 0.05
    assert np.quantile(away, 0.9) < 0.15
    assert np.ptp(cloud.rgb[:-660].astype(int), axis=0).min() > 60


def test_products_come_back(carved: tuple[Carved, Scene], tmp_path: Path) -> None:
    made = carved[0]
    made.save(tmp_path)
    assert Space.load(tmp_path / "space.json") == made.space
    assert torch.equal(Occupancy.load(tmp_path / "occupancy.safetensors").grid, made.occupancy.grid)
    read = plyfile.PlyData.read(tmp_path / "points.ply")["vertex"]
    assert np.array_equal(np.stack([read[axis] for axis in "xyz"], 1), made.cloud.xyz)
    assert np.array_equal(np.stack([read[name] for name in ("red", "green", "blue")], 1), made.cloud.rgb)


def test_carving_repeats_exactly(carved: tuple[Carved, Scene]) -> None:
    made, scene = carved
    again = carve_space(scene, Tiles(scene.folder), CONFIG)
    assert torch.equal(again.occupancy.grid, made.occupancy.grid)
    assert np.array_equal(again.cloud.xyz, made.cloud.xyz)


def test_without_texture_nothing_that_is_seen_goes(tmp_path: Path) -> None:
    cameras = arc()
    grey = np.full((72, 96, 3), 128, np.uint8)
    rng = np.random.default_rng(0)
    points = np.concatenate([cast(camera)[1][rng.choice(96 * 72, 60)] for camera in cameras])
    scene, tiles = made_scene(tmp_path, cameras, [grey] * len(cameras), points)
    made = carve_space(scene, tiles, CONFIG)
    shape = made.occupancy.grid.shape
    voxels = voxels_of(made.space, (shape[0], shape[1], shape[2]), slice(0, shape[0]))
    seen = torch.stack([voxels.in_view(camera)[0] for camera in scene.cameras(scene.train, "low")]).any(0)
    assert bool(made.occupancy.grid.reshape(-1)[seen].all())


def test_a_sweep_finds_the_wall() -> None:
    cameras = arc()
    shots = [cast(camera) for camera in cameras]
    neighbours = choose_neighbours(cameras, [3.0] * len(cameras))
    assert all(2 <= len(around) <= 6 and index not in around for index, around in enumerate(neighbours))
    sweep = sweep_views([picture for picture, _ in shots], cameras, neighbours, [1.5] * len(cameras), 0.2)[5]
    depth = cameras[5].project(shots[5][1])[1].reshape(72, 96)
    error = np.abs(sweep.best - 1 / depth)[4:-4, 4:-4]
    assert np.median(error) < sweep.step
    assert np.mean(error < 3 * sweep.step) > 0.9
    assert np.mean(sweep.first[4:-4, 4:-4] >= 1 / depth[4:-4, 4:-4]) > 0.995


def test_votes_against_a_loop() -> None:
    space = Space("bounded", (-1.0, -1.0, -1.0), (1.0, 1.0, 2.0))
    rng = np.random.default_rng(3)
    sweeps = []
    for camera in arc()[::4]:
        first = rng.uniform(0.2, 0.5, (72, 96)).astype(np.float32)
        first[rng.random((72, 96)) < 0.2] = np.inf
        limit = rng.uniform(0.25, 0.6, (72, 96)).astype(np.float32)
        sweeps.append(Sweep(camera, 0.45, limit, first, first, np.ones_like(first), 0.01))
    shape = (5, 6, 7)
    watching, through = view_votes(voxels_of(space, shape, slice(0, 5)), sweeps)
    half = np.array([1.0, 1.0, 1.5]) / shape
    for flat, index in enumerate(np.ndindex(*shape)):
        middle = np.array(space.low) + (2 * np.array(index) + 1) * half
        expected = np.zeros(2, int)
        for sweep in sweeps:
            pixel, depth = sweep.camera.project(middle[None])
            column, row = np.floor(pixel[0])
            if not (depth[0] > 0 and 0 <= column < 96 and 0 <= row < 72):
                continue
            at = int(row), int(column)
            sides = [1 / sweep.camera.project((middle - half * axis)[None])[1][0] for axis in np.eye(3)]
            spread = sum(abs(side - 1 / depth[0]) for side in sides)
            clear = 1 / depth[0] + spread <= sweep.limit[at]
            before = 1 / depth[0] - spread > sweep.nearest
            expected += [clear or before, before or (clear and 1 / depth[0] - spread > sweep.first[at])]
        assert (watching[flat], through[flat]) == tuple(expected)


def far_sight() -> Sweep:
    """A view that looks through everything up to z-depth 100."""
    far = np.full((72, 96), 0.01, np.float32)
    return Sweep(arc()[5], 10.0, np.full_like(far, np.inf), far, far, np.ones_like(far), 0.01)


def test_seeds_stay_whatever_the_sweeps_say() -> None:
    space = Space("bounded", (-0.5, -0.5, 0.0), (0.5, 0.5, 1.0))
    config = CarveConfig(resolution=20)
    seeds = np.array([[0.1, 0.2, 0.3], [9.0, 9.0, 9.0]], np.float32)
    made = carve(space, [far_sight()], [far_sight().camera], seeds, config)
    assert int(made.grid.sum()) == 1
    assert bool(made.query(space.to_unit(torch.from_numpy(seeds[:1]))))


def test_specks_go_and_thin_things_stay() -> None:
    occupied = torch.zeros(40, 40, 40, dtype=torch.bool)
    occupied[:, :, 30:] = True
    occupied[20, 20, :30] = True  # a stalk that stands on the ground
    expected = occupied.clone()
    occupied[5, 5, 5:9] = True
    occupied[30:32, 8, 12] = True
    assert torch.equal(without_specks(occupied), expected)


def test_nothing_left_says_what_is_to_blame() -> None:
    sweeps, cameras = [far_sight()], [far_sight().camera]
    none, config = np.zeros((0, 3), np.float32), CarveConfig(resolution=8)
    behind = Space("bounded", (-0.5, -0.5, -9.0), (0.5, 0.5, -8.0))
    with pytest.raises(InputError, match="no training camera sees any of the box"):
        carve(behind, sweeps, cameras, none, config)
    before = Space("bounded", (-0.5, -0.5, 0.0), (0.5, 0.5, 1.0))
    with pytest.raises(InputError, match="look through every part"):
        carve(before, sweeps, cameras, none, config)


def test_several_frames_are_refused(tmp_path: Path) -> None:
    views = [View(f"v{index}", camera, "", 1.0, 5.0, frame=index) for index, camera in enumerate(arc()[:3])]
    scene = Scene(tmp_path, views, Points.none(), ["v1", "v2"], ["v0"], 1, "made up")
    write_tiles(tmp_path, [(view.name, np.zeros((72, 96, 3), np.uint8)) for view in views], 1)
    with pytest.raises(InputError, match="several frames"):
        carve_space(scene, Tiles(tmp_path), CONFIG)


def random_occupancy(share: float = 0.05) -> Occupancy:
    """A small grid with a few voxels set."""
    return Occupancy(torch.rand((6, 9, 11), generator=torch.Generator().manual_seed(0)) < share)


def test_query_against_a_loop() -> None:
    occupancy = random_occupancy(0.4)
    unit = torch.rand(300, 3, generator=torch.Generator().manual_seed(1)) * 1.4 - 0.2
    unit[:2] = torch.tensor([[1.0, 1.0, 1.0], [float("nan"), 0.5, 0.5]])
    occupancy.grid[5, 8, 10] = True
    expected = []
    for point in unit.tolist():
        inside = all(0 <= value <= 1 for value in point)
        index = [min(int(v * n), n - 1) if inside else 0 for v, n in zip(point, (6, 9, 11), strict=True)]
        expected.append(inside and bool(occupancy.grid[index[0], index[1], index[2]]))
    assert occupancy.query(unit).tolist() == expected
    assert expected[:2] == [True, False]


def test_dilation_against_a_loop() -> None:
    occupancy = random_occupancy(0.02)
    expected = torch.zeros_like(occupancy.grid)
    for x, y, z in occupancy.grid.nonzero().tolist():
        expected[max(0, x - 2) : x + 3, max(0, y - 2) : y + 3, max(0, z - 2) : z + 3] = True
    assert torch.equal(occupancy.dilated(2).grid, expected)


def test_broken_files_are_input_errors(tmp_path: Path) -> None:
    path = tmp_path / "occupancy.safetensors"
    with pytest.raises(InputError, match="run carve_space first"):
        Occupancy.load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not an occupancy"):
        Occupancy.load(path)
    Occupancy(torch.zeros((2, 2, 2), dtype=torch.bool)).save(path)
    with pytest.raises(InputError, match="nothing is occupied"):
        Occupancy.load(path)


def test_a_cloud_is_drawn_nearest_last() -> None:
    camera = look_at(np.zeros(3), np.array([0.0, 0.0, 1.0]))
    cloud = Cloud(
        np.array([[0, 0, 2], [0, 0, 1], [0, 0, -1]], np.float32), np.array([[9, 9, 9], [1, 2, 3], [7, 7, 7]], np.uint8)
    )
    picture = cloud.drawn(camera)
    assert picture[36, 48].tolist() == [1, 2, 3]
    assert np.count_nonzero(picture.any(2)) == 1


def test_one_point_a_voxel() -> None:
    space = Space("bounded", (0.0, 0.0, 0.0), (2.0, 2.0, 2.0))
    points = np.array([[0.1, 0.1, 0.1], [0.3, 0.5, 0.7], [1.5, 0.1, 0.1]], np.float32)
    merged = Cloud(points, np.array([[10, 0, 0], [20, 0, 0], [5, 5, 5]], np.uint8)).one_a_voxel(space, (2, 2, 2))
    assert np.allclose(merged.xyz, [[0.2, 0.3, 0.4], [1.5, 0.1, 0.1]])
    assert merged.rgb.tolist() == [[15, 0, 0], [5, 5, 5]]
