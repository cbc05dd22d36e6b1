"""Removal of distortion, against pycolmap's and OpenCV's lenses and against a picture known in closed form."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.errors import InputError
from loupe.undistort import Lens, undistort

LENSES = [Lens(400, 300, 350.0, 350.0, 203.0, 148.0, k) for k in (-0.12, -1e-3, 0.0, 0.15)]
LENSES.append(Lens(400, 300, 350.0, 340.0, 203.0, 148.0, -0.1, 0.05, -0.02, 4e-3, -3e-3))


@pytest.mark.parametrize("lens", LENSES)
def test_distort_is_opencvs(lens: Lens) -> None:
    ideal = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 2))
    matrix = np.array([[lens.fx, 0, lens.cx], [0, lens.fy, lens.cy], [0, 0, 1]])
    coefficients = np.array([lens.k1, lens.k2, lens.p1, lens.p2, lens.k3])
    expected, _ = cv2.projectPoints(np.c_[ideal, np.ones(50)], np.zeros(3), np.zeros(3), matrix, coefficients)
    np.testing.assert_allclose(lens.distort(ideal), expected[:, 0], atol=1e-9)


@pytest.mark.parametrize(("model", "names"), [("SIMPLE_RADIAL", "k1"), ("RADIAL", "k1 k2"), ("OPENCV", "k1 k2 p1 p2")])
def test_distort_is_colmaps(model: str, names: str) -> None:
    import pycolmap

    numbers = dict(zip(names.split(), (-0.1, 0.03, 2e-3, -1e-3), strict=False))
    lens = Lens(400, 300, 350.0, 350.0, 203.0, 148.0, **numbers)
    focal = [350.0, 350.0] if model == "OPENCV" else [350.0]
    camera = pycolmap.Camera(model=model, width=400, height=300, params=[*focal, 203.0, 148.0, *numbers.values()])
    ideal = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 2))
    np.testing.assert_allclose(lens.distort(ideal), camera.img_from_cam(np.c_[ideal, np.ones(50)]), atol=1e-9)


@given(st.floats(-0.2, 0.5), st.integers(0, 1000))
def test_undistort_inverts_distort(k: float, seed: int) -> None:
    lens = Lens(400, 300, 350.0, 350.0, 203.0, 148.0, k)
    pixels = np.random.default_rng(seed).uniform(0, (400, 300), (20, 2))
    np.testing.assert_allclose(lens.distort(lens.undistort(pixels)), pixels, atol=1e-6)


def test_resized_and_cropped_show_the_same_points_elsewhere() -> None:
    lens = LENSES[-1]
    ideal = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 2))
    small = lens.cropped(396, 300).resized(99, 100)
    assert small[:2] == (99, 100)
    np.testing.assert_allclose(small.distort(ideal), lens.distort(ideal) / [4, 3])


def test_turned_shows_the_same_points_turned() -> None:
    """What the lens shows to the right, x, the turned one shows below, and what was below is to the left."""
    lens = LENSES[-1]
    ideal = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 2))
    shown = lens.distort(ideal)
    turned = lens.turned()
    assert turned[:2] == (300, 400)
    np.testing.assert_allclose(
        turned.distort(np.stack([-ideal[:, 1], ideal[:, 0]], 1)), np.stack([300 - shown[:, 1], shown[:, 0]], 1)
    )
    assert turned.turned().turned().turned() == lens


def test_displacement_is_the_corners() -> None:
    lens = Lens(400, 300, 350.0, 350.0, 200.0, 150.0, 0.1)
    radius = np.linalg.norm(lens.undistort(np.array([0.0, 0.0])))
    assert lens.displacement() == pytest.approx(350 * 0.1 * radius**3)
    assert lens._replace(k1=0.0).displacement() < 1e-9


@pytest.mark.parametrize("lens", LENSES)
def test_pinhole_is_filled_and_cannot_grow(lens: Lens) -> None:
    """Every corner and edge of the new picture lies inside the old one; a pixel more on any side would not."""
    camera = lens.pinhole()
    x, y = np.meshgrid(np.linspace(0, camera.width, 200), np.linspace(0, camera.height, 200))

    def seen(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        ideal = np.stack([(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy], -1).reshape(-1, 2)
        return lens.distort(ideal)

    inside = seen(x, y)
    assert inside.min() > -1e-6
    assert (inside <= np.array([400, 300]) + 1e-6).all()
    line = np.linspace(0, 1, 400)
    assert seen(np.full(400, -1.01), line * camera.height)[:, 0].min() < 0
    assert seen(line * camera.width, np.full(400, camera.height + 1.01))[:, 1].max() > 300


@pytest.mark.parametrize("lens", LENSES)
def test_a_wave_comes_out_straight(lens: Lens) -> None:
    """A pattern given in ideal coordinates, bent and straightened, is the pattern that a pinhole sees."""

    def wave(ideal: np.ndarray) -> np.ndarray:
        return 127 + 100 * np.sin(30 * ideal[..., 0]) * np.cos(25 * ideal[..., 1])

    pixels = np.stack(np.meshgrid(np.arange(400) + 0.5, np.arange(300) + 0.5), -1)
    picture = wave(lens.undistort(pixels)).round().astype(np.uint8)[..., None].repeat(3, 2)
    camera = lens.pinhole()
    straight = undistort(picture, lens, camera)
    x, y = np.meshgrid(np.arange(camera.width) + 0.5 - camera.cx, np.arange(camera.height) + 0.5 - camera.cy)
    expected = wave(np.stack([x / camera.fx, y / camera.fy], -1))
    assert straight.shape == (camera.height, camera.width, 3)
    assert np.abs(straight[..., 1] - expected)[4:-4, 4:-4].max() < 2
    assert np.array_equal(undistort(picture[..., 0], lens, camera), straight[..., 0])


def test_a_lens_that_folds_is_refused() -> None:
    with pytest.raises(InputError, match="folds"):
        Lens(400, 300, 350.0, 350.0, 200.0, 150.0, -0.8).pinhole()
