"""Fixtures that several test files share: a small disk, and two analytic scenes, whose pixels are exact.

The room: a ball of radius 0.4 floats in the corner of a room, the floor y = 1 (y is down) and the walls x = 1 and
z = 1. All is coloured by position. The cameras look into the corner from outside. The other scene, `duet`, moves.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from duet import Film, make_film
from numpy.typing import NDArray

from loupe.camera import Camera
from loupe.images import Pixels, to_uint8
from loupe.method import Setting, Window
from loupe.occupancy import Occupancy
from loupe.rays import camera_rays
from loupe.scene import Points, Scene, View
from loupe.space import Space
from loupe.tiles import Tiles, write_tiles

BALL = 0.4
# Of the room's pictures of 80x64 pixels: within, at each border, and as small or as large as can be.
WINDOWS = {
    "amid": Window(37, 22, 30, 25),
    "left": Window(0, 21, 9, 13),
    "right": Window(71, 21, 9, 13),
    "top": Window(33, 0, 13, 9),
    "bottom": Window(33, 55, 13, 9),
    "a corner": Window(79, 63, 1, 1),
    "one pixel": Window(41, 29, 1, 1),
    "all": Window(0, 0, 80, 64),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put those first that mostly wait, for SLURM: the others run beside them."""
    items.sort(key=lambda item: "slurm" not in item.keywords)


def room_camera(across: float, up: float, width: int = 80, rows: int = 64) -> Camera:
    """A camera 3.4 before the middle of the room, at angles (radians) from the diagonal through the corner."""
    turn, rise = np.pi / 4 + across, np.arctan(np.sqrt(0.5)) + up
    center = -3.4 * np.array([np.cos(rise) * np.sin(turn), np.sin(rise), np.cos(rise) * np.cos(turn)])
    forward = -center / np.linalg.norm(center)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ center
    return Camera(width, rows, 2.2 * width, 2.2 * width, width / 2, rows / 2, pose)


def room_points(camera: Camera) -> NDArray[np.float64]:
    """Where the ray of each pixel (h * w, 3) meets the ball, a wall or the floor."""
    origins, directions = (part.double().numpy() for part in camera_rays(camera))
    to_wall = ((1 - origins) / directions).min(1)
    nearest = -(origins * directions).sum(1)
    gap = BALL**2 - (origins**2).sum(1) + nearest**2
    to_ball = np.where(gap > 0, nearest - np.sqrt(np.maximum(gap, 0)), np.inf)
    return np.asarray(origins + np.minimum(to_wall, to_ball)[:, None] * directions)


def room_photo(camera: Camera) -> Pixels:
    """The picture of the room."""
    colour = 0.5 + 0.4 * np.sin(9 * room_points(camera) + [0, 1, 2])
    return to_uint8(colour.reshape(camera.height, camera.width, 3))


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """The room as a setting: 16 training and 2 test views of 80x64, low resolution 40x32, nothing carved."""
    folder = tmp_path_factory.mktemp("room")
    angles = [(across, up) for up in (-0.2, 0.0, 0.2) for across in np.linspace(-0.25, 0.25, 6)]
    views = [
        View(f"view{number:02d}", room_camera(across, up), f"view{number:02d}.png", 1.0, 6.0)
        for number, (across, up) in enumerate(angles)
    ]
    names = [view.name for view in views]
    test = [names[8], names[9]]
    train = [name for name in names if name not in test]
    scene = Scene(folder, views, Points.none(), train, test, 2, "analytic")
    write_tiles(folder, [(view.name, room_photo(view.camera)) for view in views], 2)
    space = Space("bounded", (-1.1, -1.1, -1.1), (1.1, 1.1, 1.1))
    return Setting(scene, space, Occupancy(torch.ones(16, 16, 16, dtype=torch.bool)), Tiles(folder))


@pytest.fixture(scope="session")
def duet(tmp_path_factory: pytest.TempPathFactory) -> Film:
    """A tiny film of two balls, cut and carved."""
    return make_film(tmp_path_factory.mktemp("duet"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
