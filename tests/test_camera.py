"""Cameras: projection and its inverse, resampled and cropped pictures, and what makes no camera."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.camera import Camera
from loupe.errors import InputError


@st.composite
def cameras(draw: st.DrawFn) -> Camera:
    number = st.floats(-1, 1)
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(np.array([draw(number) * 3 for _ in range(3)]))[0]
    pose[:3, 3] = [draw(number) * 10 for _ in range(3)]
    width, height = draw(st.integers(2, 5000)), draw(st.integers(2, 5000))
    fx, fy = (draw(st.floats(0.3, 5)) * width for _ in range(2))
    return Camera(width, height, fx, fy, width * draw(st.floats(0.1, 0.9)), height * draw(st.floats(0.1, 0.9)), pose)


def some_pixels(camera: Camera, count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, [camera.width, camera.height], (count, 2))


@given(cameras(), st.floats(0.01, 1000))
def test_unproject_inverts_project(camera: Camera, depth: float) -> None:
    pixels = some_pixels(camera)
    back, depths = camera.project(camera.unproject(pixels, np.full(len(pixels), depth)))
    np.testing.assert_allclose(back, pixels, atol=1e-6 * max(camera.width, camera.height) * max(1, 1 / depth))
    np.testing.assert_allclose(depths, depth, rtol=1e-9, atol=1e-9)


@given(cameras())
def test_pose_facts(camera: Camera) -> None:
    np.testing.assert_allclose(camera.cam_from_world @ camera.world_from_cam, np.eye(4), atol=1e-12)
    np.testing.assert_allclose((camera.cam_from_world @ [*camera.center, 1])[:3], 0, atol=1e-12)
    pixel, depth = camera.project((camera.center + 2 * camera.forward)[None])
    np.testing.assert_allclose(pixel[0], [camera.cx, camera.cy], atol=1e-6 * camera.width)
    assert depth[0] == pytest.approx(2)


@given(cameras(), st.integers(1, 400), st.integers(1, 400))
def test_resized_moves_every_pixel_by_the_ratio(camera: Camera, width: int, height: int) -> None:
    pixels = some_pixels(camera)
    points = camera.unproject(pixels, np.full(len(pixels), 3.0))
    there, _ = camera.resized(width, height).project(points)
    np.testing.assert_allclose(there, pixels * [width / camera.width, height / camera.height], atol=1e-6 * (1 + width))


@given(cameras(), st.integers(-50, 50), st.integers(-50, 50))
def test_cropped_shifts_every_pixel(camera: Camera, x: int, y: int) -> None:
    pixels = some_pixels(camera)
    there, _ = camera.cropped(x, y, 30, 20).project(camera.unproject(pixels, np.full(len(pixels), 3.0)))
    np.testing.assert_allclose(there, pixels - [x, y], atol=1e-6 * camera.width)


def test_a_quarter_turn_by_hand() -> None:
    """World x to the right, the camera at (0, 0, -2) turned to look along +x: a point at x = 4 lies 4 deep, 2 left."""
    pose = np.eye(4)
    pose[:3, :3] = [[0, 0, -1], [0, 1, 0], [1, 0, 0]]
    pose[:3, 3] = -pose[:3, :3] @ [0, 0, -2]
    camera = Camera(100, 80, 50, 60, 50, 40, pose)
    pixel, depth = camera.project(np.array([[4.0, 1.0, 0.0]]))
    assert depth[0] == 4
    np.testing.assert_allclose(pixel[0], [50 - 50 * 2 / 4, 40 + 60 * 1 / 4])


def test_a_point_behind_has_no_pixel() -> None:
    pixel, depth = Camera(10, 10, 5, 5, 5, 5, np.eye(4)).project(np.array([[0.0, 0.0, -1.0]]))
    assert depth[0] == -1
    assert np.isnan(pixel).all()


@given(cameras())
def test_json_keeps_every_bit(camera: Camera) -> None:
    again = Camera.from_json(camera.to_json())
    assert again.to_json() == camera.to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "size"),
        ({"fx": 0.0}, "focal"),
        ({"fy": float("nan")}, "focal"),
        ({"cx": float("inf")}, "focal"),
        ({"cam_from_world": np.full((4, 4), np.nan)}, "finite 4x4"),
        ({"cam_from_world": np.eye(3)}, "finite 4x4"),
        ({"cam_from_world": np.diag([1.0, 1.0, -1.0, 1.0])}, "rotation"),
        ({"cam_from_world": np.diag([2.0, 2.0, 2.0, 1.0])}, "rotation"),
    ],
)
def test_what_is_no_camera_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(Camera(10, 10, 5, 5, 5, 5, np.eye(4)), **change)


@pytest.mark.parametrize("broken", [{}, {"cam_from_world": [[1, 2], [3]]}, {"width": "wide"}])
def test_json_that_is_no_camera_is_refused(broken: dict[str, object]) -> None:
    values = {} if not broken else Camera(10, 10, 5, 5, 5, 5, np.eye(4)).to_json() | broken
    with pytest.raises(InputError, match="camera"):
        Camera.from_json(values)
