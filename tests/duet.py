"""A tiny film, for the tests of scenes that move: two balls between seven cameras; every pixel is exact.

One ball leaps and is pressed flat, the other one rolls around it. Their colours are painted on, so a spot keeps its own
wherever it goes. A ray through a pixel's centre decides what the pixel shows. World y is down; time counts frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from rig import save, write_opencv

from loupe.camera import Array, Camera
from loupe.images import Pixels, to_uint8
from loupe.method import Setting
from loupe.occupancy import CarveConfig
from loupe.scene import Points, Scene, View
from loupe.silhouettes import Moving, carve_masks
from loupe.tiles import Tiles, cut_tiles

FRAMES, WIDTH, HEIGHT = 3, 48, 36
HELD_OUT = "c3"
WALL = 0.3


class Ball(NamedTuple):
    """A ball that was stretched to the half axes `sides` (3,), after `turned` (3, 3); `phase` sets its colours."""

    centre: Array
    sides: Array
    turned: Array
    phase: float

    def spot(self, directions: Array) -> Array:
        """Where on its surface the spots (n, 3), unit vectors at rest, have gone: points in the world."""
        return self.centre + self.sides * (directions @ self.turned.T)

    def colour(self, directions: Array) -> Array:
        """What is painted on the spots, (n, 3) in [0, 1]."""
        return np.asarray(0.5 + 0.45 * np.sin(4 * directions + [self.phase, self.phase + 1, self.phase + 2]))


class Film(NamedTuple):
    """The film as methods get it: one camera's views test, the others train; `carved` has the surface at each frame."""

    setting: Setting
    carved: Moving


class Shown(NamedTuple):
    """A `picture` (h, w, 3) and its `mask` (h, w), uint8, and the true z-depth (h, w), infinite beside the balls."""

    picture: Pixels
    mask: Pixels
    depth: Array


def balls(frame: int) -> list[Ball]:
    """Both at a frame."""
    wide, angle = 0.3 + 0.1 * frame, 1.1 * frame
    aside = np.array([0.7 * np.cos(angle), 0.1, 0.7 * np.sin(angle)])
    roll = cv2.Rodrigues(np.array([0.0, 0.0, 0.9 * frame]))[0]
    return [
        Ball(np.array([0.0, 0.3 - 0.25 * frame, 0.0]), np.array([0.4, 0.12 / wide, wide]), np.eye(3), 0.0),
        Ball(aside, np.full(3, 0.32), roll, 3.0),
    ]


def cameras() -> dict[str, Camera]:
    """By name, all around, high and low in turn."""
    found = {}
    for number in range(7):
        turn, rise = 2 * np.pi * number / 7, 0.15 + 0.5 * (number % 2)
        away = np.array([np.cos(turn) * np.cos(rise), -np.sin(rise), np.sin(turn) * np.cos(rise)])
        right = np.cross([0.0, 1.0, 0.0], -away)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(-away, right), -away])
        pose[:3, 3] = [0, 0, 4]
        found[f"c{number}"] = Camera(WIDTH, HEIGHT, 70.0, 70.0, WIDTH / 2 + 0.4, HEIGHT / 2 - 0.3, pose)
    return found


def show(camera: Camera, frame: int) -> Shown:
    """What a camera sees at a frame."""
    x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    rays = camera.unproject(np.stack([x, y], -1).reshape(-1, 2), np.ones(x.size)) - camera.center
    depth, colour = np.full(x.size, np.inf), np.full((x.size, 3), WALL)
    for ball in balls(frame):
        way = _to_the_ball(ball, camera.center, rays)
        nearer = way < depth
        hit = camera.center + way[nearer, None] * rays[nearer]
        colour[nearer] = ball.colour((hit - ball.centre) / ball.sides @ ball.turned)
        depth[nearer] = way[nearer]
    shape = (camera.height, camera.width)
    mask = np.where(np.isfinite(depth), 255, 0).astype(np.uint8)
    return Shown(to_uint8(colour.reshape(*shape, 3)), mask.reshape(shape), depth.reshape(shape))


def _to_the_ball(ball: Ball, origin: Array, rays: Array) -> NDArray[np.float64]:
    """How many times its own length each ray (n, 3) runs to the ball; infinite if it passes by."""
    start, along = (origin - ball.centre) / ball.sides, rays / ball.sides
    squares, middle = (along**2).sum(1), -(along @ start)
    gap = middle**2 - squares * (start @ start - 1)
    return np.where(gap > 0, (middle - np.sqrt(np.maximum(gap, 0))) / squares, np.inf)


def write_capture(folder: Path) -> Path:
    """The film as it would be delivered, in EasyMocap's layout."""
    found = cameras()
    intrinsics: dict[str, object] = {"names": list(found)}
    extrinsics: dict[str, object] = {"names": list(found)}
    for name, camera in found.items():
        # OpenCV counts pixels from the centre of the first one.
        centre = camera.cx - 0.5, camera.cy - 0.5
        intrinsics[f"K_{name}"] = np.array([[camera.fx, 0, centre[0]], [0, camera.fy, centre[1]], [0, 0, 1]])
        extrinsics[f"R_{name}"] = cv2.Rodrigues(camera.cam_from_world[:3, :3])[0]
        extrinsics[f"T_{name}"] = camera.cam_from_world[:3, 3:]
        for frame in range(FRAMES):
            shown = show(camera, frame)
            save(folder / "images" / name / f"{frame:06d}.png", shown.picture[..., ::-1])
            save(folder / "masks" / name / f"{frame:06d}.png", shown.mask)
    write_opencv(folder / "intri.yml", intrinsics)
    write_opencv(folder / "extri.yml", extrinsics)
    return folder


def make_film(folder: Path) -> Film:
    """The film with its true cameras, cut and carved; low resolution is half the full one."""
    write_capture(folder)
    views = [
        View(f"{name}_{frame:06d}", camera, f"images/{place}", 2.5, 5.5, name, frame, f"masks/{place}")
        for name, camera in cameras().items()
        for frame in range(FRAMES)
        for place in [f"{name}/{frame:06d}.png"]
    ]
    test = [view.name for view in views if view.camera_id == HELD_OUT]
    train = [view.name for view in views if view.camera_id != HELD_OUT]
    scene = Scene(folder, views, Points.none(), train, test, 2, "analytic")
    cut_tiles(scene, folder)
    tiles = Tiles(folder)
    carved = carve_masks(scene, tiles, CarveConfig(resolution=32, agree=100), print)
    return Film(Setting(scene, carved.space, carved.occupancy, tiles), carved)
