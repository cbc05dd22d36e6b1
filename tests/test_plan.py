"""The plan of a scene."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from loupe.camera import Camera
from loupe.plan import draw_plan
from loupe.scene import Points, Scene, View


def scene(points: Points) -> Scene:
    """Three cameras in a row at x = -1, 0, 1 that look along +z; y points down."""
    views = []
    for index, x in enumerate((-1.0, 0.0, 1.0)):
        pose = np.eye(4)
        pose[0, 3] = -x
        views.append(View(f"v{index}", Camera(8, 6, 9, 9, 4, 3, pose), "", 1, 9))
    return Scene(Path(), views, points, ["v0", "v1"], ["v2"], 2, "test")


def where(plan: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Mean (x, y) of the pixels of a colour."""
    return np.argwhere((plan == colour).all(-1)).mean(0)[::-1]


def test_directions_and_proportions_are_true() -> None:
    """Ahead is up, right is right, height does not show; a distance of 4 is drawn twice as long as one of 2."""
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)
    xyz = np.array([[-1, 5, 4], [1, -5, 4], [1, 0, 8]], np.float32).repeat(20, 0)
    plan = draw_plan(scene(Points(xyz, colours.repeat(20, 0), np.full(60, 3, np.int32))))
    left, right, far = (where(plan, tuple(colour)) for colour in colours.tolist())
    assert right[0] > left[0]
    assert abs(right[1] - left[1]) <= 1
    assert abs(far[0] - right[0]) <= 1
    np.testing.assert_allclose((right[1] - far[1]) / (right[0] - left[0]), 2, atol=0.03)
    train, test = where(plan, (40, 90, 200)), where(plan, (220, 60, 30))
    assert train[0] < test[0]
    assert min(train[1], test[1]) > right[1]


def test_no_points_and_one_place_still_draw() -> None:
    alone = scene(Points.none())
    assert draw_plan(alone, 100).shape == (100, 100, 3)
    views = [replace(view, camera=alone.views[0].camera) for view in alone.views]
    assert draw_plan(replace(alone, views=views), 100).min() < 255
