"""Rays through pixels, in torch.

Directions have unit length in the world; distances along a ray are world units. A ray goes through the pixel's centre.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from loupe.camera import Camera

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


class Rays(NamedTuple):
    """Rays in the world: `origins` (n, 3), unit `directions` (n, 3), float32."""

    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]


class Cameras(NamedTuple):
    """Several cameras as tensors, so that a batch may mix views: `intrinsics` (v, 4) of fx, fy, cx, cy in pixels,
    `world_from_cam` (v, 3, 4), float32."""

    intrinsics: Float[Tensor, "v 4"]
    world_from_cam: Float[Tensor, "v 3 4"]

    @classmethod
    def stack(cls, cameras: list[Camera], device: torch.device | str = "cpu") -> Cameras:
        """The cameras in order."""
        intrinsics = torch.tensor([[camera.fx, camera.fy, camera.cx, camera.cy] for camera in cameras])
        poses = torch.stack([torch.from_numpy(camera.world_from_cam[:3]) for camera in cameras])
        return cls(intrinsics.to(device, torch.float32), poses.to(device, torch.float32))

    def rays(self, view: Int[Tensor, " n"], x: Int[Tensor, " n"], y: Int[Tensor, " n"]) -> Rays:
        """The rays through pixel (x, y), column and row, of camera `view`, each (n,)."""
        fx, fy, cx, cy = self.intrinsics[view].unbind(-1)
        pose = self.world_from_cam[view]
        in_camera = torch.stack([(x + 0.5 - cx) / fx, (y + 0.5 - cy) / fy, torch.ones_like(fx)], -1)
        directions = (pose[:, :, :3] @ in_camera[..., None])[..., 0]
        return Rays(pose[:, :, 3], torch.nn.functional.normalize(directions, dim=-1))


def camera_rays(camera: Camera, device: torch.device | str = "cpu") -> Rays:
    """The rays of all pixels of a camera, row by row: (height * width, 3) each."""
    pixel = torch.arange(camera.height * camera.width, device=device)
    return Cameras.stack([camera], device).rays(torch.zeros_like(pixel), pixel % camera.width, pixel // camera.width)
