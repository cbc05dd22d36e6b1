"""A slanted wall with a painted pattern, and six cameras before it: every pixel, depth and normal is known.

A part of the wall is plain, so nothing can be matched there; a ball rolls by before it. World y is down; cameras look
along z.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loupe.camera import Array, Camera
from loupe.images import Pixels, to_uint8, write_image
from loupe.scene import Points, Scene, View
from loupe.tiles import Tiles, cut_tiles

WIDTH, HEIGHT = 192, 144
NORMAL = np.array([0.5, -0.2, -1.0]) / np.linalg.norm([0.5, -0.2, -1.0])  # towards the cameras
THROUGH = np.array([0.0, 0.0, 4.0])  # a point of the wall
PLAIN = 0.9  # radius of the plain spot around that point


def camera_at(x: float, y: float = 0.0, z: float = 0.0) -> Camera:
    """One that looks along z from there."""
    pose = np.eye(4)
    pose[:3, 3] = [-x, -y, -z]
    return Camera(WIDTH, HEIGHT, 180.0, 180.0, WIDTH / 2, HEIGHT / 2, pose)


CAMERAS = {f"c{number}": camera_at(0.5 * (number % 3) - 0.5, 0.5 * (number // 3)) for number in range(6)}


def hit(camera: Camera) -> Array:
    """Where on the wall the rays of a camera's pixels end, (h, w, 3)."""
    x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    rays = camera.unproject(np.stack([x, y], -1).reshape(-1, 2), np.ones(x.size)) - camera.center
    way = ((THROUGH - camera.center) @ NORMAL) / (rays @ NORMAL)
    return (camera.center + way[:, None] * rays).reshape(camera.height, camera.width, 3)


def depth(camera: Camera) -> Array:
    """The z-depth of its pixels, (h, w)."""
    return camera.project(hit(camera).reshape(-1, 3))[1].reshape(camera.height, camera.width)


def is_plain(camera: Camera) -> Array:
    """Which pixels show the plain spot, (h, w)."""
    return np.asarray(np.linalg.norm(hit(camera) - THROUGH, axis=-1) < PLAIN)


def show(camera: Camera) -> Pixels:
    """What a camera sees, (h, w, 3)."""
    at = hit(camera)
    waves = np.stack([np.sin(at @ [9.0, 4.0, 0.0] + 2 * np.sin(at @ [1.0, -7.0, 0.0])) for _ in range(3)], -1)
    waves *= np.array([0.3, 0.25, 0.2])
    waves[is_plain(camera)] = 0
    return to_uint8(np.array([0.5, 0.45, 0.4]) + waves)


def shows_ball(camera: Camera, frame: int) -> Array:
    """Which pixels show a ball that rolls by before the wall, (h, w)."""
    to_wall = hit(camera) - camera.center
    rays = to_wall / np.linalg.norm(to_wall, axis=-1, keepdims=True)
    to_ball = np.array([0.3 * frame - 0.4, 0.3, 2.4]) - camera.center
    return np.asarray(np.linalg.norm(to_ball - (rays @ to_ball)[..., None] * rays, axis=-1) < 0.3)


def make_wall(folder: Path) -> tuple[Scene, Tiles]:
    """Four frames by all cameras, c4 held out, of a green ball with masks before the wall."""
    (folder / "p").mkdir(parents=True)
    views = []
    for name, camera in CAMERAS.items():
        for frame in range(4):
            ball = shows_ball(camera, frame)
            path = f"p/{name}_{frame}"
            write_image(folder / f"{path}.png", np.where(ball[..., None], np.uint8([0, 200, 0]), show(camera)))
            write_image(folder / f"{path}_mask.png", np.where(ball, np.uint8(255), np.uint8(0)))
            views.append(View(f"{name}_{frame}", camera, f"{path}.png", 2.0, 4.5, name, frame, f"{path}_mask.png"))
    train = [view.name for view in views if view.camera_id != "c4"]
    test = [view.name for view in views if view.camera_id == "c4"]
    scene = Scene(folder, views, Points.none(), train, test, 2, "analytic")
    cut_tiles(scene, folder)
    return scene, Tiles(folder)
