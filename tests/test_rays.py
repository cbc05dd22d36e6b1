"""Rays through pixels, against the camera's own unprojection."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from loupe.camera import Camera
from loupe.rays import Cameras, camera_rays


def some_camera(seed: int, width: int = 12, height: int = 9) -> Camera:
    random = np.random.default_rng(seed)
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(random.normal(size=3))[0]
    pose[:3, 3] = random.normal(size=3)
    return Camera(width, height, 10 + random.uniform(), 11 + random.uniform(), width * 0.45, height * 0.6, pose)


def test_rays_meet_the_unprojected_pixel_centres() -> None:
    camera = some_camera(0)
    rays = camera_rays(camera)
    pixels = np.stack(np.meshgrid(np.arange(12) + 0.5, np.arange(9) + 0.5), -1).reshape(-1, 2)
    points = camera.unproject(pixels, np.full(len(pixels), 4.0))
    expected = points - camera.center
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert rays.origins.dtype == rays.directions.dtype == torch.float32
    np.testing.assert_allclose(rays.directions, expected, atol=1e-6)
    np.testing.assert_allclose(rays.origins, np.broadcast_to(camera.center, expected.shape), atol=1e-6)


def test_a_random_batch_over_views_is_those_rays_in_order() -> None:
    """The guard against a wrong index, which crashes nothing: each ray of a mixed batch is its own camera's."""
    cameras = [some_camera(seed) for seed in range(4)]
    generator = torch.Generator().manual_seed(0)
    view, x, y = (torch.randint(0, high, (60,), generator=generator) for high in (4, 12, 9))
    batch = Cameras.stack(cameras).rays(view, x, y)
    whole = [camera_rays(camera) for camera in cameras]
    for row in range(60):
        alone = whole[int(view[row])]
        pixel = int(y[row]) * 12 + int(x[row])
        torch.testing.assert_close(batch.origins[row], alone.origins[pixel])
        torch.testing.assert_close(batch.directions[row], alone.directions[pixel])


def test_directions_have_unit_length_and_turn_with_the_camera() -> None:
    rays = camera_rays(some_camera(3))
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(12 * 9))
    ahead = camera_rays(Camera(3, 3, 5.0, 5.0, 1.5, 1.5, np.eye(4))).directions[4]
    torch.testing.assert_close(ahead, torch.tensor([0.0, 0.0, 1.0]))
