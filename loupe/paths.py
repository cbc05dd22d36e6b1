"""Camera paths for films: an arc around a scene, a spiral before it, or a path that somebody drew.

A path is a list of cameras, one a frame. The made ones stay where photos were taken from: what no photo saw, no model
knows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from loupe.camera import Array, Camera
from loupe.errors import InputError
from loupe.scene import mean_pose

_ROUND = np.radians(300)  # cameras spread farther than this stand all around
_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def focus(cameras: Sequence[Camera]) -> Array:
    """The point (3,) nearest to the optical axes of all cameras, in the sense of least squares."""
    away = [np.eye(3) - np.outer(camera.forward, camera.forward) for camera in cameras]
    moment = np.sum([one @ camera.center for one, camera in zip(away, cameras, strict=True)], 0)
    return np.asarray(np.linalg.lstsq(np.sum(away, 0), moment, rcond=None)[0])


def arc(cameras: Sequence[Camera], frames: int) -> list[Camera]:
    """To and fro around what the cameras look at, as far as they stand apart; all around if they do.

    The path lies on the cameras' mean elevation and distance, about the mean of their upward directions.
    """
    target = focus(cameras)
    up: Array = _unit(-np.mean([camera.cam_from_world[1, :3] for camera in cameras], 0))
    offsets: Array = np.array([camera.center - target for camera in cameras])
    heights = offsets @ up
    level = offsets - heights[:, None] * up
    ahead = level.mean(0)
    ahead = _unit(ahead if np.linalg.norm(ahead) > 1e-6 * np.abs(offsets).max() else level[0])
    across = np.cross(up, ahead)
    angles = np.arctan2(level @ across, level @ ahead)
    phase = np.arange(frames) / frames * 2 * np.pi
    if np.ptp(angles) > _ROUND:
        turn = phase
    else:
        turn = np.mean([angles.min(), angles.max()]) + np.ptp(angles) / 2 * 0.8 * np.sin(phase)
    reach, height = float(np.linalg.norm(level, axis=1).mean()), float(heights.mean())
    centers: Array = target + height * up + reach * (np.cos(turn)[:, None] * ahead + np.sin(turn)[:, None] * across)
    return [_look_at(cameras[0], center, target, up) for center in centers]


def spiral(cameras: Sequence[Camera], depth: float, frames: int, turns: int = 2) -> list[Camera]:
    """Around the mean camera, within the cameras' spread, looking at a point `depth` before it (as LLFF's films do)."""
    pose = mean_pose(cameras)
    offsets = np.array([pose[:3, :3] @ camera.center + pose[:3, 3] for camera in cameras])
    radii = np.percentile(np.abs(offsets), 80, axis=0)
    angle = np.arange(frames) / frames * 2 * np.pi
    around = np.stack([np.cos(turns * angle), np.sin(turns * angle), np.sin(angle)], 1) * radii
    to_world = np.asarray(np.linalg.inv(pose), np.float64)
    target, up = depth * to_world[:3, 2] + to_world[:3, 3], np.asarray(-to_world[:3, 1], np.float64)
    return [_look_at(cameras[0], to_world[:3, :3] @ one + to_world[:3, 3], target, up) for one in around]


def read_camera_path(path: Path) -> list[Camera]:
    """A camera path as nerfstudio's viewer exports it (JSON), its coordinates being those of the scene's world.

    Raises:
        InputError: no such file, not such a path, or not of perspective cameras.
    """
    try:
        content = json.loads(path.read_text(encoding="utf8"))
        if content.get("camera_type", "perspective") != "perspective":
            raise InputError(f"{path}: camera_type {content['camera_type']!r}; only perspective paths can be rendered")
        width, height = int(content["render_width"]), int(content["render_height"])
        cameras = [_from_nerfstudio(one, width, height) for one in content["camera_path"]]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a nerfstudio camera path ({error!r})") from None
    if not cameras:
        raise InputError(f"{path}: the camera path is empty")
    return cameras


def _from_nerfstudio(values: dict[str, object], width: int, height: int) -> Camera:
    """One entry: `camera_to_world`, 16 numbers row by row with OpenGL axes, and `fov`, vertical, in degrees."""
    world_from_cam = np.array(values["camera_to_world"], dtype=np.float64).reshape(4, 4) @ _FROM_OPENGL
    focal = height / 2 / np.tan(np.radians(float(values["fov"])) / 2)  # type: ignore[arg-type]
    return Camera(
        width, height, focal, focal, width / 2, height / 2, np.asarray(np.linalg.inv(world_from_cam), np.float64)
    )


def _look_at(like: Camera, center: Array, target: Array, up: Array) -> Camera:
    """The camera `like` at `center`, looking at `target`, its principal point in the middle."""
    forward = _unit(target - center)
    right = _unit(np.cross(forward, up))
    pose: Array = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ center
    return Camera(like.width, like.height, like.fx, like.fy, like.width / 2, like.height / 2, pose)


def _unit(vector: Array) -> Array:
    return np.asarray(vector / np.linalg.norm(vector))
