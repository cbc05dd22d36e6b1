"""Pictures through a lens -> pictures through a pinhole.

The lens is OpenCV's: with x, y the ideal position at depth 1 and r^2 = x^2 + y^2, the picture shows the point at

    fx * (f x + 2 p1 x y + p2 (r^2 + 2 x^2)) + cx    with f = 1 + k1 r^2 + k2 r^4 + k3 r^6,
    fy * (f y + 2 p2 x y + p1 (r^2 + 2 y^2)) + cy

COLMAP's SIMPLE_RADIAL, RADIAL and OPENCV are cases of it. The focal lengths stay, so the middle of the picture keeps
its scale.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import cv2
import numpy as np

from loupe.camera import Array, Camera
from loupe.errors import InputError
from loupe.images import Pixels

_ROWS = 256
_ITERATIONS = 30
_CLOSE = 1e-6  # pixels


class Lens(NamedTuple):
    """A lens over a picture of `width` x `height`: intrinsics in pixels, coefficients without unit."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    k1: float = 0.0
    k2: float = 0.0
    k3: float = 0.0
    p1: float = 0.0
    p2: float = 0.0

    def distort(self, ideal: Array) -> Array:
        """Positions at depth 1 (..., 2) -> pixel positions (..., 2)."""
        x, y = ideal[..., 0], ideal[..., 1]
        squared = x * x + y * y
        factor = 1 + squared * (self.k1 + squared * (self.k2 + squared * self.k3))
        bent_x = x * factor + 2 * self.p1 * x * y + self.p2 * (squared + 2 * x * x)
        bent_y = y * factor + 2 * self.p2 * x * y + self.p1 * (squared + 2 * y * y)
        return np.stack([self.fx * bent_x + self.cx, self.fy * bent_y + self.cy], -1)

    def undistort(self, pixels: Array) -> Array:
        """The inverse of `distort`, by Newton's method.

        Raises:
            InputError: the lens shows no point there: its picture folds over inside the frame.
        """
        bent = (pixels - np.array([self.cx, self.cy])) / np.array([self.fx, self.fy])
        ideal = bent.copy()
        for _ in range(_ITERATIONS):
            jacobian = self._jacobian(ideal)
            missing = pixels - self.distort(ideal)
            if np.abs(missing).max(initial=0) < _CLOSE / 100 or not (np.linalg.det(jacobian) > 0).all():
                break
            ideal = ideal + np.linalg.solve(jacobian, missing[..., None])[..., 0]
        # On the way from the middle to the edge, no lens turns its picture inside out.
        unfolded = all((np.linalg.det(self._jacobian(ideal * part)) > 0).all() for part in (0.25, 0.5, 0.75, 1.0))
        if not unfolded or not np.abs(self.distort(ideal) - pixels).max(initial=0) < _CLOSE:
            raise InputError(
                f"lens: distortion {self.k1:.3g}, {self.k2:.3g}, {self.k3:.3g} folds the picture; no such lens exists"
            )
        return np.asarray(ideal)

    def _jacobian(self, ideal: Array) -> Array:
        """Of `distort`, (..., 2, 2)."""
        x, y = ideal[..., 0], ideal[..., 1]
        squared = x * x + y * y
        factor = 1 + squared * (self.k1 + squared * (self.k2 + squared * self.k3))
        slope = 2 * (self.k1 + squared * (2 * self.k2 + squared * 3 * self.k3))  # of the factor, over r
        xx = factor + x * x * slope + 2 * self.p1 * y + 6 * self.p2 * x
        yy = factor + y * y * slope + 2 * self.p2 * x + 6 * self.p1 * y
        xy = x * y * slope + 2 * self.p1 * x + 2 * self.p2 * y
        return np.stack([np.stack([self.fx * xx, self.fx * xy], -1), np.stack([self.fy * xy, self.fy * yy], -1)], -2)

    def cropped(self, width: int, height: int) -> Self:
        """The same lens over the top-left part of its picture."""
        return self._replace(width=width, height=height)

    def resized(self, width: int, height: int) -> Self:
        """The same lens over its picture resampled to `width` x `height`."""
        x, y = width / self.width, height / self.height
        intrinsics = {"fx": self.fx * x, "fy": self.fy * y, "cx": self.cx * x, "cy": self.cy * y}
        return self._replace(width=width, height=height, **intrinsics)

    def turned(self) -> Self:
        """The same lens over its picture turned by a quarter, clockwise.

        What was right is below then. The tangential terms are 2 (q.v) v + r^2 q with v = (x, y), q = (p2, p1): q turns.
        """
        return self._replace(
            width=self.height,
            height=self.width,
            fx=self.fy,
            fy=self.fx,
            cx=self.height - self.cy,
            cy=self.cx,
            p1=self.p2,
            p2=-self.p1,
        )

    def displacement(self) -> float:
        """How far, in pixels, distortion moves a point at most."""
        edges = np.concatenate(self._edges())
        return float(np.linalg.norm(self._straight(edges) - edges, axis=-1).max())

    def camera(self, cam_from_world: Array) -> Camera:
        """The pinhole camera with this lens's intrinsics and size, whatever its distortion."""
        return Camera(self.width, self.height, self.fx, self.fy, self.cx, self.cy, cam_from_world)

    def pinhole(self) -> Camera:
        """The largest pinhole picture, at the identity pose, that the lens's picture fills wholly."""
        left, right, top, bottom = (self._straight(edge) for edge in self._edges())
        x, y = math.ceil(left[:, 0].max()), math.ceil(top[:, 1].max())
        width, height = math.floor(right[:, 0].min()) - x, math.floor(bottom[:, 1].min()) - y
        return Camera(width, height, self.fx, self.fy, self.cx - x, self.cy - y, np.eye(4))

    def _straight(self, pixels: Array) -> Array:
        """Where a pinhole with the same intrinsics shows what the lens shows at `pixels`."""
        return np.asarray(self.undistort(pixels) * [self.fx, self.fy] + [self.cx, self.cy])

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
