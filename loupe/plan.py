"""A picture of a scene seen along its cameras' mean down axis: points, where the cameras stand, how they look."""

from __future__ import annotations

import cv2
import numpy as np

from loupe.camera import Array
from loupe.images import Pixels
from loupe.scene import Scene

_TRAIN, _TEST = (40, 90, 200), (220, 60, 30)


def draw_plan(scene: Scene, side: int = 800) -> Pixels:
    """(side, side, 3): points in their colours on white, training cameras blue, test cameras red, at true proportions.

    Points beyond the nearest 95 in 100 are left out.
    """
    cameras = [view.camera for view in scene.views]
    down = _unit(np.mean([camera.cam_from_world[1, :3] for camera in cameras], 0))
    ahead = cameras[0].forward - down * (down @ cameras[0].forward)
    right = _unit(np.cross(down, ahead))
    axes = np.stack([right, np.cross(right, down)])
    centers = np.array([camera.center for camera in cameras]) @ axes.T
    points = scene.points.xyz.astype(np.float64) @ axes.T
    middle = np.median(np.concatenate([centers, points]), 0)
    distance = np.linalg.norm(points - middle, axis=1)
    shown = distance <= np.percentile(distance, 95) if len(points) else np.zeros(0, bool)
    everything = np.concatenate([centers, points[shown]])
    low, high = everything.min(0), everything.max(0)
    scale = 0.9 * side / max(float((high - low).max()), 1e-9)

    def pixel(place: Array) -> Array:
        return np.asarray(((place - (low + high) / 2) * scale * [1, -1] + side / 2).round().astype(int))

    plan = np.full((side, side, 3), 255, np.uint8)
    x, y = pixel(points[shown]).clip(0, side - 1).T
    plan[y, x] = scene.points.rgb[shown]
    test = set(scene.test)
    for view, center in zip(scene.views, centers, strict=True):
        colour = _TEST if view.name in test else _TRAIN
        tip = center + axes @ view.camera.forward * 25 / scale
        cv2.arrowedLine(plan, pixel(center).tolist(), pixel(tip).tolist(), colour, 2, cv2.LINE_AA, tipLength=0.4)
    return plan


def _unit(vector: Array) -> Array:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12))
