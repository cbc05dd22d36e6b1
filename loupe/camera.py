"""The pinhole camera.

Conventions, here and everywhere: OpenCV axes (x right, y down, z forward); intrinsics in pixels of the image the
camera belongs to; the centre of the top-left pixel is (0.5, 0.5); `cam_from_world` maps world points to camera points.
A transform names both ends. Lens distortion is removed when a scene is made and does not exist after that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera: image size, intrinsics in pixels, and the rigid transform from the world (4, 4)."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    cam_from_world: Array

    def __post_init__(self) -> None:
        pose = np.asarray(self.cam_from_world, dtype=np.float64)
        object.__setattr__(self, "cam_from_world", pose)
        if self.width < 1 or self.height < 1:
            raise InputError(f"camera: size {self.width}x{self.height} is not positive")
        if not (np.isfinite([self.fx, self.fy, self.cx, self.cy]).all() and self.fx > 0 and self.fy > 0):
            raise InputError(f"camera: focal length ({self.fx}, {self.fy}) is not positive and finite")
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            raise InputError("camera: cam_from_world is not a finite 4x4 matrix")
        rotation = pose[:3, :3]
        if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4) or np.linalg.det(rotation) < 0:
            raise InputError("camera: cam_from_world does not hold a rotation (orthonormal, determinant +1)")

    @property
    def center(self) -> Array:
        """Position in the world, (3,)."""
        return -self.cam_from_world[:3, :3].T @ self.cam_from_world[:3, 3]

    @property
    def forward(self) -> Array:
        """Unit viewing direction in the world, (3,)."""
        return self.cam_from_world[2, :3]

    @property
    def world_from_cam(self) -> Array:
        """Inverse of `cam_from_world`, (4, 4)."""
        inverse = np.eye(4)
        inverse[:3, :3] = self.cam_from_world[:3, :3].T
        inverse[:3, 3] = self.center
        return inverse

    def project(self, points: Array) -> tuple[Array, Array]:
        """World points (n, 3) -> pixel positions (n, 2) and z-depths (n,); a point behind has z-depth <= 0."""
        in_camera = points @ self.cam_from_world[:3, :3].T + self.cam_from_world[:3, 3]
        depth = in_camera[:, 2]
        safe = np.where(depth > 0, depth, np.nan)
        return np.stack(
            [self.fx * in_camera[:, 0] / safe + self.cx, self.fy * in_camera[:, 1] / safe + self.cy], 1
        ), depth

    def unproject(self, pixels: Array, depth: Array) -> Array:
        """Pixel positions (n, 2) at z-depths (n,) -> world points (n, 3). The inverse of `project`."""
        x = (pixels[:, 0] - self.cx) / self.fx
        y = (pixels[:, 1] - self.cy) / self.fy
        in_camera = np.stack([x, y, np.ones_like(x)], 1) * depth[:, None]
        return (in_camera - self.cam_from_world[:3, 3]) @ self.cam_from_world[:3, :3]

    def resized(self, width: int, height: int) -> Camera:
        """The same camera over an image resampled to `width` x `height`."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self, width=width, height=height, fx=self.fx * sx, fy=self.fy * sy, cx=self.cx * sx, cy=self.cy * sy
        )

    def cropped(self, x: int, y: int, width: int, height: int) -> Camera:
        """The same camera over the window whose top-left pixel is (x, y)."""
        return replace(self, width=width, height=height, cx=self.cx - x, cy=self.cy - y)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "width": self.width,
            "height": self.height,
            "fx": self.fx,
            "fy": self.fy,
            "cx": self.cx,
            "cy": self.cy,
            "cam_from_world": self.cam_from_world.tolist(),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Camera:
        """The inverse of `to_json`; raises `InputError` on values that make no camera."""
        try:
            numbers = {key: values[key] for key in ("width", "height", "fx", "fy", "cx", "cy")}
            return cls(**numbers, cam_from_world=np.array(values["cam_from_world"], dtype=np.float64))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"camera: {error!r} in its JSON") from None
