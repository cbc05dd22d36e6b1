"""What rendering leaves on disk: pictures, depth in world units, a film."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import BALL, room_camera
from plyfile import PlyData

from loupe.camera import Camera
from loupe.errors import InputError
from loupe.images import Pixels, read_image
from loupe.mesh import Mesh
from loupe.method import Picture, Setting
from loupe.rays import camera_rays
from loupe.render import PathConfig, RenderConfig, film_cameras, render_enlarged, render_views
from loupe.scene import Points, Scene, View


class Ramp:
    """Stands in for a trained method: red rises to the right, depth is 2 on the left and nothing on the right."""

    def render(self, camera: Camera, time: float, window: None = None) -> Picture:
        right = (torch.arange(camera.width) + 0.5) / camera.width
        colour = torch.stack([right, torch.zeros_like(right), torch.full_like(right, 0.5)], -1)
        depth = torch.where(right < 0.5, 2.0, 0.0)
        shape = (camera.height, camera.width)
        return Picture(colour.expand(*shape, 3), depth.expand(shape), (depth > 0).float().expand(shape))


def test_renders_on_disk(room: Setting, tmp_path: Path) -> None:
    import av

    told: list[tuple[str, int, int]] = []
    config = RenderConfig(path=PathConfig(frames=5, rate=10, width=50))
    made = render_views(
        Ramp(), room.scene, room.space, config, tmp_path, lambda part, done, of, _: told.append((part, done, of))
    )
    pictures = made.pictures
    content = json.loads((tmp_path / "renders.json").read_text())
    assert list(content["views"]) == list(room.scene.test) == list(pictures)
    for name, files in content["views"].items():
        picture = read_image(tmp_path / files["picture"])
        assert picture.shape == (64, 80, 3)
        assert np.array_equal(picture, pictures[name])
        assert picture[:, :, 0].tolist() == [[round(255 * (x + 0.5) / 80 + 1e-6) for x in range(80)]] * 64
        depth = cv2.imread(str(tmp_path / files["depth"]), cv2.IMREAD_UNCHANGED)
        np.testing.assert_allclose(depth[:, :40] * content["depth_scale"], 2, atol=1e-3)
        assert (depth[:, 40:] == 0).all()
    with av.open(str(tmp_path / content["film"])) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert [frame.shape for frame in frames] == [(40, 50, 3)] * 5
    assert abs(float(frames[0][:, 40:, 0].mean()) - 255 * 0.9) < 6
    assert read_image(tmp_path / "slice.png").shape == (40, 5, 3)
    assert content["warping_error"] == made.warping_error
    assert told[0] == ("views", 1, 7)
    assert told[-1] == ("film", 7, 7)


def test_what_the_encoder_makes_is_enlarged(room: Setting, tmp_path: Path) -> None:
    """Drawn at the low level's size, then as wide as the photo: the ramp stays a ramp."""
    asked: list[tuple[int, int]] = []

    class Watched(Ramp):
        def render(self, camera: Camera, time: float, window: None = None) -> Picture:
            asked.append((camera.width, camera.height))
            return super().render(camera, time, window)

    render_enlarged(Watched(), room.scene, tmp_path, lambda *_: None)
    ratio = room.scene.ratio
    assert asked == [(80 // ratio, 64 // ratio)] * len(room.scene.test)
    for name in room.scene.test:
        picture = read_image(tmp_path / "encoder" / f"{name}.png")
        assert picture.shape == (64, 80, 3)
        expected = 255 * (np.arange(80) + 0.5) / 80
        np.testing.assert_allclose(picture[:, 8:-8, 0], np.tile(expected[8:-8], (64, 1)), atol=2)


class Globe(Ramp):
    """Stands in for a method that knows its surface: a ball in the middle of the world."""

    def surface(self) -> Mesh:
        corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
        return Mesh(corners, np.array([[0, 1, 2]], np.int32), np.array([[9, 8, 7]] * 3, np.uint8))

    def normals(self, camera: Camera) -> torch.Tensor:
        """Where the rays meet the ball, by its radius."""
        origins, directions = camera_rays(camera)
        nearest = -(origins * directions).sum(1)
        gap = BALL**2 - (origins**2).sum(1) + nearest**2
        met = origins + (nearest - gap.clamp(min=0).sqrt())[:, None] * directions
        return torch.where(gap[:, None] > 0, met / BALL, 0).reshape(camera.height, camera.width, 3)


def test_a_surface_on_disk(room: Setting, tmp_path: Path) -> None:
    """The camera looks straight at the ball, so that in its own frame the ball lies on the z axis."""
    render_views(Globe(), room.scene, room.space, RenderConfig(path=PathConfig(frames=0)), tmp_path, lambda *_: None)
    content = json.loads((tmp_path / "renders.json").read_text())
    mesh = PlyData.read(tmp_path / content["mesh"])
    assert mesh["face"]["vertex_indices"][0].tolist() == [0, 1, 2]
    assert mesh["vertex"]["red"].tolist() == [9, 9, 9]
    assert sorted(path.stem for path in (tmp_path / content["normals"]).iterdir()) == sorted(room.scene.test)
    for name in room.scene.test:
        seen = read_image(tmp_path / content["normals"] / f"{name}.png").astype(float)
        y, x = np.mgrid[:64, :80] + 0.5
        slope = np.hypot(x - 40, y - 32) / 176
        middle = 3.4
        depth = middle - np.sqrt(np.maximum(middle**2 - (1 + slope**2) * (middle**2 - BALL**2), 0))
        depth /= 1 + slope**2
        normal = np.stack([(x - 40) / 176 * depth, -(y - 32) / 176 * depth, middle - depth], -1) / BALL
        hit = slope < np.tan(np.arcsin(BALL / middle))
        assert (seen[~hit] == 0).all()
        np.testing.assert_allclose(seen[hit], 127.5 * (1 + normal[hit]), atol=0.51)


def test_no_surface_of_a_method_without_one(room: Setting, tmp_path: Path) -> None:
    render_views(Ramp(), room.scene, room.space, RenderConfig(path=PathConfig(frames=0)), tmp_path, lambda *_: None)
    assert not {"mesh", "normals"} & json.loads((tmp_path / "renders.json").read_text()).keys()
    assert not (tmp_path / "normal").exists()
    assert not (tmp_path / "mesh.ply").exists()


class Nowhere(Globe):
    """Its surface has been lost in training."""

    def surface(self) -> Mesh:
        raise InputError("no surface: all of the space's box is outside")


def test_a_missing_surface_costs_no_picture(room: Setting, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    render_views(Nowhere(), room.scene, room.space, RenderConfig(path=PathConfig(frames=0)), tmp_path, lambda *_: None)
    content = json.loads((tmp_path / "renders.json").read_text())
    assert content["mesh"] is None
    assert len(list((tmp_path / "test").iterdir())) == len(room.scene.test)
    assert "no mesh: no surface: all of the space's box is outside" in caplog.text


class Clock:
    """Stands in for a method of a scene that moves: red is the time that it was asked for."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def render(self, camera: Camera, time: float, window: None = None) -> Picture:
        self.times.append(time)
        shape = (camera.height, camera.width)
        colour = torch.tensor([time, 0.5, 0.5]).expand(*shape, 3)
        return Picture(colour, torch.full(shape, 2.0), torch.ones(shape))


def moving(test: list[str]) -> Scene:
    """Cameras a, b and c, 31x21 pixels, at frames 0 to 4."""
    views = [
        View(f"{camera}{frame}", room_camera(across, 0.0, 31, 21), f"{camera}{frame}.png", 1.0, 6.0, camera, frame)
        for camera, across in (("a", -0.2), ("b", 0.0), ("c", 0.2))
        for frame in range(5)
    ]
    names = [view.name for view in views]
    return Scene(Path(), views, Points.none(), [name for name in names if name not in test], test, 1, "analytic")


def frames_of(path: Path) -> list[Pixels]:
    import av

    with av.open(str(path)) as film:
        return [np.asarray(frame.to_ndarray(format="rgb24")) for frame in film.decode(video=0)]


def reds(path: Path) -> list[float]:
    return [float(frame[..., 0].mean()) / 255 for frame in frames_of(path)]


def test_time_runs_through_a_film_once(room: Setting, tmp_path: Path) -> None:
    clock, scene = Clock(), moving(["b0", "b1", "b2", "b3", "b4"])
    config = RenderConfig(path=PathConfig(frames=9, width=48))
    made = render_views(clock, scene, room.space, config, tmp_path, lambda *_: None)
    assert clock.times == [0, 0.25, 0.5, 0.75, 1, *np.linspace(0, 1, 9)]
    np.testing.assert_allclose(reds(tmp_path / "path.mp4"), np.linspace(0, 1, 9), atol=0.02)
    # Two frames differ because the subject moves: no error of the method's.
    assert made.warping_error is None
    assert not (tmp_path / "slice.png").exists()
    content = json.loads((tmp_path / "renders.json").read_text())
    assert (content["warping_error"], content["held_out"]) == (None, "held_out.mp4")


def test_the_held_out_camera_is_seen_frame_after_frame(room: Setting, tmp_path: Path) -> None:
    """Of cameras with several test views the first one, whatever the order in which the split names them; its odd sides
    are cut by a pixel."""
    config = RenderConfig(path=PathConfig(frames=0))
    scene = moving(["c1", "b4", "b0", "a2", "b1", "c3", "b3"])
    render_views(Clock(), scene, room.space, config, tmp_path, lambda *_: None)
    np.testing.assert_allclose(reds(tmp_path / "held_out.mp4"), [0, 0.25, 0.75, 1], atol=0.02)
    assert {frame.shape for frame in frames_of(tmp_path / "held_out.mp4")} == {(20, 30, 3)}
    assert read_image(tmp_path / "test" / "b4.png").shape == (21, 31, 3)


def test_no_film_of_a_camera_without_several_test_views(room: Setting, tmp_path: Path) -> None:
    config = RenderConfig(path=PathConfig(frames=0))
    for name, scene in (("each its own", moving(["a0", "b1", "c2"])), ("still", room.scene)):
        render_views(Clock(), scene, room.space, config, tmp_path / name, lambda *_: None)
        assert json.loads((tmp_path / name / "renders.json").read_text())["held_out"] is None
        assert not (tmp_path / name / "held_out.mp4").exists()


def test_the_same_film_twice_has_the_same_bytes(room: Setting, tmp_path: Path) -> None:
    config = RenderConfig(path=PathConfig(frames=3, width=48))
    for name in ("a", "b"):
        render_views(Ramp(), room.scene, room.space, config, tmp_path / name, lambda *_: None)
    assert (tmp_path / "a" / "path.mp4").read_bytes() == (tmp_path / "b" / "path.mp4").read_bytes()


def test_no_film_where_none_is_wanted(room: Setting, tmp_path: Path) -> None:
    render_views(Ramp(), room.scene, room.space, RenderConfig(path=PathConfig(frames=0)), tmp_path, lambda *_: None)
    assert json.loads((tmp_path / "renders.json").read_text())["film"] is None
    assert not (tmp_path / "path.mp4").exists()
    assert not (tmp_path / "slice.png").exists()


@pytest.mark.parametrize("kind", ["bounded", "forward"])
def test_films_have_even_sides(room: Setting, kind: str) -> None:
    from loupe.space import forward_space

    cameras = room.scene.cameras(room.scene.train, "low")
    space = room.space if kind == "bounded" else forward_space(cameras, near=1.2)
    film = film_cameras(room.scene, space, PathConfig(frames=4, width=33))
    assert len(film) == 4
    assert {(camera.width, camera.height) for camera in film} == {(32, 26)}


FILM = """
import sys
from pathlib import Path
import cv2
import numpy as np
from loupe.render import write_film
random = np.random.default_rng(0)
blotches = cv2.resize(random.integers(0, 256, (24, 32, 3)).astype(np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
picture = np.clip(blotches + random.integers(-20, 20, blotches.shape), 0, 255).astype(np.uint8)
turns = [cv2.getRotationMatrix2D((320, 240), 1.5 * n, 0.5 + 0.02 * n) - [[0, 0, 160], [0, 0, 120]] for n in range(24)]
write_film(Path(sys.argv[1]), (cv2.warpAffine(picture, turn, (320, 240)) for turn in turns), 12, lambda n: None)
"""


def test_a_film_hangs_on_nothing_that_memory_held_before(tmp_path: Path) -> None:
    """glibc fills new memory with another byte in each process."""
    films = [tmp_path / f"{fill}.mp4" for fill in (57, 114)]
    for film in films:
        environment = os.environ | {"MALLOC_PERTURB_": film.stem}
        subprocess.run([sys.executable, "-c", FILM, str(film)], check=True, env=environment)
    assert films[0].read_bytes() == films[1].read_bytes()
