"""A surface learnt from pictures of a ball, against the ball."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from loupe.camera import Camera
from loupe.fields.surface import SurfaceConfig
from loupe.images import to_uint8
from loupe.mesh import surface_error
from loupe.method import Setting
from loupe.occupancy import Occupancy
from loupe.rays import camera_rays
from loupe.scene import Points, Scene, View
from loupe.space import Space
from loupe.surface_fit import SurfaceFit, SurfaceFitConfig
from loupe.tiles import Tiles, write_tiles
from loupe.training import fit

MIDDLE, RADIUS = np.array([0.1, 0.0, -0.05]), 0.5
BOX = Space("bounded", (-0.5, -0.6, -0.65), (0.7, 0.6, 0.55))
CELLS, SIDE = 24, 96
GRID = {"levels": 3, "channels": 2, "table": 16384, "base": 8, "finest": 24}
FIELD = {
    "hash": {"grid": GRID, "hidden": 32, "layers": 2, "features": 7},
    "heads": {"hidden": 32, "layers": 2, "view_frequencies": 0},
    "step": 1.0,
}
FIT = {"steps": 900, "rays": 256, "network_rate": 5e-3, "scale_rate": 1e-2, "decay": 0.01}


def cameras(count: int) -> Iterator[Camera]:
    """Evenly all around, looking at the ball."""
    for number in range(count):
        z, turn = 1 - (2 * number + 1) / count, np.pi * (3 - np.sqrt(5)) * number
        center = 3 * np.array([np.cos(turn) * np.sqrt(1 - z * z), np.sin(turn) * np.sqrt(1 - z * z), z])
        forward = (MIDDLE - center) / np.linalg.norm(MIDDLE - center)
        right = np.cross(forward, [0.3, 0.2, 1.0])
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
        pose[:3, 3] = -pose[:3, :3] @ center
        yield Camera(SIDE, SIDE, 2.3 * SIDE, 2.3 * SIDE, SIDE / 2, SIDE / 2, pose)


def photo(camera: Camera) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """What the ray through each pixel's centre meets of the ball, coloured by position, on white; and its mask."""
    origins, directions = (part.double().numpy() for part in camera_rays(camera))
    offset = origins - MIDDLE
    along = -(offset * directions).sum(1)
    gap = RADIUS**2 - (offset**2).sum(1) + along**2
    at = offset + (along - np.sqrt(np.maximum(gap, 0)))[:, None] * directions
    colour = np.where(gap[:, None] > 0, 0.5 + 0.4 * np.sin(1.5 * at / RADIUS + [0, 1, 2]), 1.0)
    mask = np.where(gap > 0, 255, 0).astype(np.uint8)
    return to_uint8(colour.reshape(SIDE, SIDE, 3)), mask.reshape(SIDE, SIDE)


def pictures(folder: Path) -> Setting:
    """24 pictures of the ball, one of which is held out; nothing is carved."""
    views = [View(f"{number:02d}", camera, f"{number:02d}.png", 1, 5) for number, camera in enumerate(cameras(24))]
    made = {view.name: photo(view.camera) for view in views}
    write_tiles(folder, ((name, picture) for name, (picture, _) in made.items()), 1, lambda name: made[name][1])
    names = list(made)
    scene = Scene(folder, views, Points.none(), names[1:], names[:1], 1, "analytic", masks="cut")
    return Setting(scene, BOX, Occupancy(torch.ones(CELLS, CELLS, CELLS, dtype=torch.bool)), Tiles(folder))


def test_a_ball_is_learnt_within_a_hundredth_of_its_radius(tmp_path: Path) -> None:
    """Both ways; 95 % of either lie within two hundredths. The texture is smooth: a finer one is learnt slower than the
    shape, which then takes dents."""
    (tmp_path / "pictures").mkdir()
    setting = pictures(tmp_path / "pictures")
    torch.manual_seed(0)
    surface = SurfaceFit(setting, "full", SurfaceFitConfig.model_validate(FIT), SurfaceConfig.model_validate(FIELD))
    fit(surface, seed=0, resume=tmp_path / "resume", configuration={}, report=lambda *_: None)
    middle = torch.from_numpy(MIDDLE).float()
    directions = np.random.default_rng(0).normal(size=(20_000, 3))
    on_ball = MIDDLE + RADIUS * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    error = surface_error(
        surface.surface(), lambda points: (points - middle).norm(dim=1) - RADIUS, np.asarray(on_ball, np.float32)
    )
    for spread in error:
        assert spread.mean < 0.01 * RADIUS
        assert spread.high < 0.02 * RADIUS
    assert surface.progress()["scale"] < 0.005
