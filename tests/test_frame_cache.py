"""Frames made ready to play, and points for other programs: what they show beside what the method shows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from duet import FRAMES, Film, balls
from plyfile import PlyData

from loupe.cloud import Cloud
from loupe.errors import InputError
from loupe.fields.harmonics import HARMONICS
from loupe.fields.moving_points import Appearance, Moment
from loupe.frame_cache import FrameCache, nearest
from loupe.method import Recipe
from loupe.methods.four_k4d import FourK4d
from loupe.render import PathConfig, RenderConfig, render_views

GRID = {"base": 8, "levels": 2, "channels": 4, "table": 256}
POINTS = {"count": 1500, "positions": GRID, "features": GRID, "least_radius": 0.8, "sources": 3}
OF_ALL_KINDS = pytest.mark.parametrize(
    "kind", [{}, {"images": False}, {"harmonics": False}, {"images": False, "harmonics": False}], ids=str
)


@pytest.fixture(scope="module")
def film(duet: Film, tmp_path_factory: pytest.TempPathFactory) -> Film:
    folder = tmp_path_factory.mktemp("space")
    duet.carved.save(folder)
    return duet._replace(setting=replace(duet.setting, points=folder / "points"))


def made(film: Film, **points: Any) -> FourK4d:
    """A method at full resolution whose networks say something, though nothing was learned."""
    torch.manual_seed(0)
    fit = {"steps": 1}
    recipe = Recipe({"encoder": {"points": POINTS | points, "fit": fit}, "joint": {"fit": fit}})
    method = FourK4d("joint", recipe, film.setting)
    method.start_from(FourK4d("encoder", recipe, film.setting).state())
    with torch.no_grad():
        for name, parameter in method.field.named_parameters():
            if not name.startswith("positions."):
                parameter.add_(0.15 * torch.randn_like(parameter))
    return method


@OF_ALL_KINDS
def test_a_cache_shows_what_the_method_shows(film: Film, kind: dict[str, bool]) -> None:
    """From a camera that did not train, at every frame, to a twentieth of a level of 8 bits."""
    method, scene = made(film, **kind), film.setting.scene
    backdrop = torch.tensor(scene.backdrop) / 255
    for frame in range(FRAMES):
        camera = scene.camera(scene.test[frame], "full")
        true = method.render(camera, frame / (FRAMES - 1))
        seen = method.cache(frame).render(camera)
        colour = seen.colour + (1 - seen.opacity)[..., None] * backdrop
        assert (colour - true.colour).abs().mean() < 0.05 / 255
        assert (seen.opacity - true.opacity).abs().mean() < 0.05 / 255
        solid = true.opacity > 0.5
        assert solid.float().mean() > 0.05
        assert (seen.depth - true.depth)[solid].abs().median() < 1e-3
        other = method.render(camera, (frame - 1) % FRAMES / (FRAMES - 1))
        assert (other.colour - true.colour).abs().mean() > 4 / 255


def test_a_picture_takes_its_colours_from_the_nearest_photos(film: Film) -> None:
    """With one source, a training view shows its own photo, and a photo that is painted over there alone changes it."""
    method = made(film, sources=1, harmonics=False)
    cache, scene = method.cache(0), film.setting.scene
    names = [name for name in scene.train if scene.view(name).frame == 0]
    for place, name in enumerate(names):
        red = torch.zeros_like(cache.appearance.rgb)
        red[place, :, 0] = 1
        painted = replace(cache, appearance=cache.appearance._replace(rgb=red))
        for camera_of in names:
            seen = painted.render(scene.camera(camera_of, "full"))
            assert bool(seen.colour.any()) == (camera_of == name)


def test_nearest_is_by_angle_not_by_distance() -> None:
    target = np.array([1.0, 2.0, 3.0])
    ways = np.array([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [1, 1, 0]])
    eyes = target + ways * np.array([[9.0], [1], [1], [30]])
    assert nearest(eyes, target + np.array([5, 0.1, 0]), target) == [0, 3, 1, 2]


def by_hand(points: torch.Tensor, radius: torch.Tensor) -> FrameCache:
    count = len(points)
    rgb = torch.rand(2, count, 3)
    looks = Appearance(torch.rand(count, 3, HARMONICS), rgb, rgb[..., 0], rgb[..., 1] > 0.5, 0.25)
    moment = Moment(points, radius, torch.rand(count), torch.zeros_like(points), torch.zeros(count, 0))
    return FrameCache.of(moment, looks, np.eye(3)[:2] * 9, np.zeros(3), 1, 15)


@pytest.mark.parametrize("away", [0.0, 5.0, 100.0])
def test_positions_are_a_65534th_of_the_extent_apart(away: float) -> None:
    points = torch.rand(5000, 3, dtype=torch.float64) * torch.tensor([2.0, 1.0, 0.5]) + away
    kept = by_hand(points.float(), torch.ones(5000)).points.double()
    rounding = 4 * max(1.0, away) * 2**-23
    for axis in range(3):
        error = (kept - points)[:, axis].abs().max()
        extent = points[:, axis].max() - points[:, axis].min()
        assert error < extent / 65534 / 2 * 1.01 + rounding
        assert (points.half() - points)[:, axis].abs().max() > 5 * error


def test_points_in_one_plane_stay_there() -> None:
    points = torch.rand(50, 3)
    points[:, 1] = 0.7
    assert (by_hand(points, torch.ones(50)).points[:, 1] == points[:, 1]).all()


def test_radii_of_a_tiny_world_keep_half_precision() -> None:
    """They are smaller than any half float."""
    radius = 1e-8 * (1 + torch.rand(50))
    cache = by_hand(1e-6 * torch.rand(50, 3), radius)
    np.testing.assert_allclose(cache.spacing * cache.radius.float(), radius, rtol=2**-10)


def test_a_cache_on_disk_shows_the_same(film: Film, tmp_path: Path) -> None:
    cache, camera = made(film).cache(1), film.setting.scene.camera(film.setting.scene.test[1], "full")
    path = tmp_path / "frame.safetensors"
    cache.save(path)
    for one, other in zip(FrameCache.load(path).render(camera), cache.render(camera), strict=True):
        assert torch.equal(one, other)
    # A point: 3 places, radius, density and 48 coefficients of two bytes; of each of 6 photos 3 colours, weight, sight.
    assert abs(path.stat().st_size - 1500 * (2 * 53 + 6 * 9)) < 3000


def test_a_file_that_is_none_is_refused(film: Film, tmp_path: Path) -> None:
    path = tmp_path / "frame.safetensors"
    with pytest.raises(InputError, match=r"frame\.safetensors: no such file"):
        FrameCache.load(path)
    made(film).cache(0).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"frame\.safetensors: not a frame to play"):
        FrameCache.load(path)


def test_from_all_around_is_the_mean_over_all_directions() -> None:
    torch.manual_seed(0)
    nothing = torch.zeros(0, 8, 3)
    looks = Appearance(torch.randn(8, 3, HARMONICS), nothing, nothing[..., 0], nothing[..., 0].bool(), 0.25)
    height = (torch.arange(500) + 0.5) / 250 - 1
    turn = torch.pi * (1 + 5**0.5) * torch.arange(500)
    ring = (1 - height**2).sqrt()
    eyes = torch.stack([ring * turn.cos(), ring * turn.sin(), height], 1)
    mean = torch.stack([looks.seen_from(torch.zeros(8, 3), eye).logit() for eye in eyes]).mean(0)
    torch.testing.assert_close(mean, looks.seen_from_all_around().logit(), atol=0.02, rtol=0)


def test_the_points_of_every_frame_are_written_for_other_programs(film: Film, tmp_path: Path) -> None:
    method, setting = made(film, harmonics=False), film.setting
    config = RenderConfig(path=PathConfig(frames=0))
    render_views(method, setting.scene, setting.space, config, tmp_path, lambda *_: None)
    assert json.loads((tmp_path / "renders.json").read_text())["points"] == "points"
    files = sorted((tmp_path / "points").iterdir())
    assert [path.name for path in files] == [f"{frame:06d}.ply" for frame in range(FRAMES)]
    for frame, path in enumerate(files):
        rows = PlyData.read(str(path))["vertex"].data
        assert rows.dtype.names == ("x", "y", "z", "red", "green", "blue", "radius", "opacity")
        with torch.no_grad():
            moment = method.field.at(frame)
        xyz = np.stack([rows[axis] for axis in "xyz"], 1)
        np.testing.assert_array_equal(xyz, moment.points)
        np.testing.assert_array_equal(rows["radius"], moment.radius)
        np.testing.assert_array_equal(rows["opacity"], moment.density)
        np.testing.assert_array_equal(Cloud.load(path).rgb, np.stack([rows[c] for c in ("red", "green", "blue")], 1))


def test_points_have_the_colours_that_are_painted_there(film: Film) -> None:
    """Those of the round ball's surface, give or take what pixels of a tenth of it blur."""
    for frame, sized in made(film, harmonics=False, reach=1e-9).clouds():
        ball = balls(frame)[1]
        place = (sized.cloud.xyz - ball.centre) / ball.sides
        length = np.linalg.norm(place, axis=1)
        on = np.abs(length - 1) < 0.05
        assert on.sum() > 50
        true = ball.colour((place / length[:, None] @ ball.turned)[on])
        error = np.abs(sized.cloud.rgb[on] / 255 - true)
        assert error.mean() < 0.7 * np.abs(true - true.mean(0)).mean()
