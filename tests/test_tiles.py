"""Cut tiles: the pixels on disk are the pictures, at both resolutions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.camera import Camera
from loupe.errors import InputError
from loupe.images import Pixels
from loupe.scene import Points, Scene, View
from loupe.tiles import LEVELS, Tiles, write_tiles


def pictures(*sizes: tuple[int, int]) -> list[tuple[str, Pixels]]:
    random = np.random.default_rng(0)
    return [(f"v{i}", random.integers(0, 256, (*size, 3)).astype(np.uint8)) for i, size in enumerate(sizes)]


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(8, 40), st.integers(8, 40)), min_size=1, max_size=4), st.integers(1, 8))
def test_tiles_are_the_pictures(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int]], ratio: int
) -> None:
    """Mixed and odd sizes: full is the picture less its remainder, low the mean of its areas."""
    folder, made = tmp_path_factory.mktemp("tiles"), pictures(*sizes)
    size = write_tiles(folder, made, ratio)
    tiles = Tiles(folder)
    assert tiles.names == [name for name, _ in made]
    assert tiles.ratio == ratio
    assert size == sum((folder / f"{level}.u8").stat().st_size for level in LEVELS)
    for name, picture in made:
        height, width = (side // ratio * ratio for side in picture.shape[:2])
        assert np.array_equal(tiles.image(name, "full"), picture[:height, :width])
        areas = picture[:height, :width].reshape(height // ratio, ratio, width // ratio, ratio, 3)
        assert np.abs(tiles.image(name, "low") - areas.mean((1, 3))).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("ratio", range(1, 17))
@pytest.mark.parametrize(("width", "height"), [(131, 97), (128, 102)])
def test_cameras_fit_the_cut_pixels(tmp_path: Path, width: int, height: int, ratio: int) -> None:
    """A spot of light is where the scene's cameras see it, in views of odd and of other sizes."""
    camera = Camera(width, height, 90.0, 95.0, width / 2 - 3.3, height / 2 + 1.7, np.eye(4))
    point = np.array([[0.1, -0.2, 4.0]])
    u, v = camera.project(point)[0][0]
    y, x = np.mgrid[0:height, 0:width] + 0.5
    light = 250 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 9.0**2))
    write_tiles(tmp_path, [("a", np.repeat(light.astype(np.uint8)[..., None], 3, 2))], ratio)
    views = [View(name, camera, f"{name}.png", 1.0, 9.0) for name in "ab"]
    scene = Scene(tmp_path, views, Points.none(), ["a"], ["b"], ratio, "made")
    for level in LEVELS:
        seen, pixels = scene.camera("a", level), Tiles(tmp_path).image("a", level)[..., 0].astype(float)
        assert pixels.shape == (seen.height, seen.width)
        y, x = np.mgrid[0 : seen.height, 0 : seen.width] + 0.5
        centre = np.array([(pixels * x).sum(), (pixels * y).sum()]) / pixels.sum()
        np.testing.assert_allclose(centre, seen.project(point)[0][0], atol=0.02)


def test_pixels_are_mapped_and_cannot_be_changed(tmp_path: Path) -> None:
    write_tiles(tmp_path, pictures((8, 8)), 4)
    image = Tiles(tmp_path).image("v0", "full")
    assert isinstance(image.base, np.memmap) or isinstance(image, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0] = 0


def test_pictures_are_taken_one_at_a_time(tmp_path: Path) -> None:
    alive: list[int] = []

    def lazily() -> Iterator[tuple[str, Pixels]]:
        for name, picture in pictures((8, 8), (8, 8), (8, 8)):
            alive.append((tmp_path / "full.u8").stat().st_size)
            yield name, picture

    write_tiles(tmp_path, lazily(), 4)
    assert len(alive) == 3


def test_the_same_pictures_give_the_same_bytes(tmp_path: Path) -> None:
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        write_tiles(tmp_path / run, pictures((9, 13), (16, 8)), 4)
    for name in ("full.u8", "low.u8", "tiles.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_is_broken_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run cut_tiles first"):
        Tiles(tmp_path)
    with pytest.raises(InputError, match="view v0: 8x3"):
        write_tiles(tmp_path, pictures((3, 8)), 4)
    write_tiles(tmp_path, pictures((8, 8)), 4)
    with pytest.raises(InputError, match="'nobody' is not in the tiles"):
        Tiles(tmp_path).image("nobody", "low")
    with open(tmp_path / "low.u8", "ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"low\.u8: expected 12 bytes"):
        Tiles(tmp_path)
    for content in ("{", "[]", json.dumps({"ratio": 4, "full": {}})):
        (tmp_path / "tiles.json").write_text(content)
        with pytest.raises(InputError, match="not a table of tiles"):
            Tiles(tmp_path)
