"""What rendering leaves on disk: pictures, depth in world units, a film."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from loupe.camera import Camera
from loupe.images import read_image
from loupe.method import Picture, Setting
from loupe.render import PathConfig, RenderConfig, film_cameras, render_views


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
