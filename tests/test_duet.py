"""The tiny film by other routes than the one that it is drawn by."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from duet import FRAMES, HEIGHT, HELD_OUT, WIDTH, Film, balls, cameras, show, write_capture
from rig import read_cameras

from loupe.camera import Array, Camera
from loupe.images import read_image
from loupe.sources import recognise

SPOTS = np.random.default_rng(0).normal(size=(20000, 3))
SPOTS /= np.linalg.norm(SPOTS, axis=1, keepdims=True)


def surface(frame: int) -> tuple[Array, Array]:
    """Points on both balls (n, 3), and what is painted there."""
    points, colours = zip(*((ball.spot(SPOTS), ball.colour(SPOTS)) for ball in balls(frame)), strict=True)
    return np.concatenate(points), np.concatenate(colours)


def pixels_of(camera: Camera, points: Array) -> tuple[Array, Array, Array]:
    """Columns, rows and depths of points (n, 3)."""
    pixels, depth = camera.project(points)
    x, y = pixels.astype(int).T
    return x, y, depth


@pytest.mark.parametrize("frame", range(FRAMES))
@pytest.mark.parametrize("name", cameras())
def test_masks_are_where_the_surface_falls(name: str, frame: int) -> None:
    """Spots of the surface fill the mask, and no pixel beyond those at its border."""
    camera = cameras()[name]
    x, y, _ = pixels_of(camera, surface(frame)[0])
    filled = np.zeros((HEIGHT, WIDTH), np.uint8)
    filled[y, x] = 255
    mask = show(camera, frame).mask
    assert not mask[filled == 0].any()
    assert not filled[cv2.dilate(mask, np.ones((3, 3), np.uint8)) == 0].any()
    assert not mask[[0, -1]].any()
    assert not mask[:, [0, -1]].any()


@pytest.mark.parametrize("frame", range(FRAMES))
def test_paint_sticks_to_the_balls(frame: int) -> None:
    """A spot that a camera sees has its own colour there, give or take half a pixel, and nothing lies before it."""
    points, colours = surface(frame)
    for camera in cameras().values():
        shown = show(camera, frame)
        x, y, depth = pixels_of(camera, points)
        behind = depth - shown.depth[y, x]
        inside = np.isfinite(behind)
        assert (behind[inside] < -0.1).mean() < 0.05
        seen = inside & (np.abs(behind) < 0.02)
        assert seen.mean() > 0.1
        error = np.abs(shown.picture[y[seen], x[seen]] / 255 - colours[seen])
        assert np.percentile(error, 90) < 0.15


def test_the_surface_lies_in_the_hull(duet: Film) -> None:
    occupied = duet.setting.occupancy.dilated(1)
    for frame, cloud in duet.carved.clouds.items():
        points = torch.from_numpy(surface(frame)[0][::10])
        assert occupied.query(duet.setting.space.to_unit(points)).all()
        nearest = torch.cdist(torch.from_numpy(cloud.xyz).double(), points).min(1).values
        assert nearest.median() < 0.1
    assert len(duet.carved.clouds) == FRAMES


def test_one_camera_tests_at_every_frame(duet: Film) -> None:
    scene = duet.setting.scene
    assert {scene.view(name).camera_id for name in scene.test} == {HELD_OUT}
    assert len(scene.test) == FRAMES
    assert scene.moves


def test_every_frame_differs() -> None:
    for camera in cameras().values():
        shown = [show(camera, frame) for frame in range(FRAMES)]
        for one, other in combinations(shown, 2):
            error = (one.picture / 255 - other.picture / 255)[(one.mask | other.mask) > 0]
            assert -10 * np.log10((error**2).mean()) < 12


def test_as_a_capture_it_has_the_same_cameras_and_masks(tmp_path: Path) -> None:
    folder = write_capture(tmp_path)
    assert recognise(folder) == "easymocap"
    given = read_cameras(folder, WIDTH, HEIGHT)
    assert len(given) == 7 * FRAMES
    point = np.array([[0.2, -0.1, 0.3]])
    for one in given:
        truth = cameras()[one.photo.camera_id]
        np.testing.assert_allclose(
            one.lens.camera(one.cam_from_world).project(point)[0], truth.project(point)[0], atol=1e-6
        )
        shown = show(truth, one.photo.frame)
        place = f"{one.photo.camera_id}/{one.photo.frame:06d}.png"
        np.testing.assert_array_equal(read_image(folder / "images" / place), shown.picture)
        np.testing.assert_array_equal(read_image(folder / "masks" / place), shown.mask)
