"""Pictures through a radial lens -> pictures through a pinhole.

The lens is COLMAP's SIMPLE_RADIAL: with x, y the ideal position at depth 1 and r^2 = x^2 + y^2, the picture shows the
point at focal * (1 + k r^2) * (x, y) + centre. The focal length stays, so the middle of the picture keeps its scale.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from loupe.camera import Array, Camera
from loupe.errors import InputError
from loupe.images import Pixels

_ROWS = 256


class Lens(NamedTuple):
    """A radial lens over a picture of `width` x `height`; `focal`, `cx`, `cy` in pixels, `k` without unit."""

    width: int
    height: int
    focal: float
    cx: float
    cy: float
    k: float

    def distort(self, ideal: Array) -> Array:
        """Positions at depth 1 (..., 2) -> pixel positions (..., 2)."""
        factor = 1 + self.k * (ideal**2).sum(-1, keepdims=True)
        return np.asarray(self.focal * factor * ideal + np.array([self.cx, self.cy]))

    def undistort(self, pixels: Array) -> Array:
        """The inverse of `distort`, by Newton's method on the radius.

        Raises:
            InputError: the lens shows no point there: its picture folds over inside the frame.
        """
        bent = (pixels - np.array([self.cx, self.cy])) / self.focal
        target = np.linalg.norm(bent, axis=-1)
        if self.k < 0 and target.max() >= (fold := math.sqrt(-1 / (3 * self.k))) * 2 / 3:
            raise InputError(
                f"lens: distortion {self.k:.3g} folds the picture at radius {fold:.3g}; no such lens exists"
            )
        radius = target.copy()
        for _ in range(50):
            radius -= (radius + self.k * radius**3 - target) / (1 + 3 * self.k * radius**2)
        return np.asarray(bent * (radius / np.where(target > 0, target, 1))[..., None])

    def displacement(self) -> float:
        """How far, in pixels, distortion moves a point at most."""
        edges = np.concatenate(self._edges())
        return float(np.linalg.norm(self.focal * self.undistort(edges) + [self.cx, self.cy] - edges, axis=-1).max())

    def pinhole(self) -> Camera:
        """The largest pinhole picture, at the identity pose, that the lens's picture fills wholly."""
        left, right, top, bottom = (self.focal * self.undistort(edge) + [self.cx, self.cy] for edge in self._edges())
        x, y = math.ceil(left[:, 0].max()), math.ceil(top[:, 1].max())
        width, height = math.floor(right[:, 0].min()) - x, math.floor(bottom[:, 1].min()) - y
        return Camera(width, height, self.focal, self.focal, self.cx - x, self.cy - y, np.eye(4))

    def _edges(self) -> tuple[Array, Array, Array, Array]:
        """Pixel positions along the left, right, top and bottom edge, a pixel apart."""
        x, y = np.arange(self.width + 1.0), np.arange(self.height + 1.0)
        return (
            np.stack([np.zeros_like(y), y], 1),
            np.stack([np.full_like(y, self.width), y], 1),
            np.stack([x, np.zeros_like(x)], 1),
            np.stack([x, np.full_like(x, self.height)], 1),
        )


def undistort(picture: Pixels, lens: Lens, camera: Camera) -> Pixels:
    """(h, w) or (h, w, c) through `lens` -> the same through the pinhole `camera` that stands where the lens stood.

    Resampled by Lanczos over 8 x 8 pixels, positions rounded to 1/32 pixel (OpenCV's remap).
    """
    out = np.empty((camera.height, camera.width, *picture.shape[2:]), np.uint8)
    x = (np.arange(camera.width) + 0.5 - camera.cx) / camera.fx
    for top in range(0, camera.height, _ROWS):
        y = (np.arange(top, min(top + _ROWS, camera.height)) + 0.5 - camera.cy) / camera.fy
        # OpenCV counts from the centre of the first pixel.
        at = (lens.distort(np.stack(np.meshgrid(x, y), -1)) - 0.5).astype(np.float32)
        rows = cv2.remap(picture, at, None, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
        out[top : top + _ROWS] = rows
    return out
