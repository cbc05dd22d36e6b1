"""Camera paths: where they lead, what they look at, and what a file must hold."""

import json
from pathlib import Path

import numpy as np
import pytest

from loupe.camera import Camera
from loupe.errors import InputError
from loupe.paths import arc, focus, read_camera_path, spiral

TARGET = np.array([0.3, -0.2, 0.5])


def camera_at(center: np.ndarray, target: np.ndarray = TARGET) -> Camera:
    """A camera that looks at `target`, the world's z being up."""
    forward = (target - center) / np.linalg.norm(target - center)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ center
    return Camera(64, 48, 60, 60, 32, 24, pose)


def ring(low: float, high: float, count: int = 9) -> list[Camera]:
    """Cameras at a distance of 2 and a height of 0.7, at angles from `low` to `high` degrees."""
    angles = np.radians(np.linspace(low, high, count))
    return [camera_at(TARGET + np.array([2 * np.cos(a), 2 * np.sin(a), 0.7])) for a in angles]


def angles_of(path: list[Camera]) -> np.ndarray:
    """Degrees about the target, as in `ring`."""
    offsets = np.array([camera.center - TARGET for camera in path])
    return np.degrees(np.arctan2(offsets[:, 1], offsets[:, 0]))


def test_focus_is_where_the_axes_meet() -> None:
    np.testing.assert_allclose(focus(ring(-40, 40)), TARGET, atol=1e-9)


@pytest.mark.parametrize(("low", "high"), [(-40, 30), (20, 110)])
def test_an_arc_stays_where_the_cameras_were(low: float, high: float) -> None:
    path = arc(ring(low, high), 40)
    angles = angles_of(path)
    assert low < angles.min() < low + 0.2 * (high - low)
    assert high - 0.2 * (high - low) < angles.max() < high
    for camera in path:
        assert np.linalg.norm(camera.center - TARGET) == pytest.approx(np.hypot(2, 0.7), rel=0.03)
        np.testing.assert_allclose(camera.project(TARGET[None])[0], [[32, 24]], atol=1e-6)


def test_an_arc_goes_all_around_where_the_cameras_do() -> None:
    angles = np.sort(angles_of(arc(ring(0, 345, 24), 36)))
    np.testing.assert_allclose(np.diff(angles), 10, atol=1e-3)


def test_a_spiral_stays_within_the_cameras_and_looks_at_one_point() -> None:
    cameras = [camera_at(np.array([x, -4.0, z]), np.array([x, 0, z])) for x in (-0.3, 0, 0.3) for z in (-0.2, 0.0, 0.2)]
    path = spiral(cameras, 3.0, 30)
    centers = np.array([camera.center for camera in path])
    assert (np.abs(centers) <= np.array([0.31, 4.0, 0.21]) + 1e-9).all()
    assert np.ptp(centers[:, 0]) > 0.3
    np.testing.assert_allclose(focus(path), [0, -1, 0], atol=1e-6)


def nerfstudio(**changes: object) -> dict[str, object]:
    """A path of one frame whose camera stands at (1, 2, 3) and looks along -z with y up, as OpenGL has it."""
    pose = [1, 0, 0, 1, 0, 1, 0, 2, 0, 0, 1, 3, 0, 0, 0, 1]
    frame = {"camera_to_world": pose, "fov": 90.0, "aspect": 2.0}
    return {"camera_type": "perspective", "render_height": 100, "render_width": 200, "camera_path": [frame], **changes}


def test_a_nerfstudio_path(tmp_path: Path) -> None:
    file = tmp_path / "path.json"
    file.write_text(json.dumps(nerfstudio()))
    (camera,) = read_camera_path(file)
    np.testing.assert_allclose(camera.center, [1, 2, 3])
    # A point 50 below the axis at a distance of 50 lies on the lower edge: 90 degrees from edge to edge.
    pixel, depth = camera.project(np.array([[1.0, 2 - 50, 3 - 50]]))
    np.testing.assert_allclose(pixel, [[100, 100]])
    np.testing.assert_allclose(depth, [50])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"camera_type": "fisheye"}, "only perspective"),
        ({"camera_path": []}, "empty"),
        ({"camera_path": [{"fov": 50}]}, "camera_to_world"),
        ({"camera_path": [{"camera_to_world": [1, 2], "fov": 50}]}, "not a nerfstudio camera path"),
        ({"render_width": None}, "not a nerfstudio camera path"),
    ],
)
def test_what_is_no_path_is_refused_by_name(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    file = tmp_path / "path.json"
    file.write_text(json.dumps(nerfstudio(**changes)))
    with pytest.raises(InputError, match=words) as caught:
        read_camera_path(file)
    assert str(file) in str(caught.value)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_camera_path(tmp_path / "nothing.json")
