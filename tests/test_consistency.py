"""The warping error on the room, whose colours and depths are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import room_camera, room_photo, room_points

from loupe.camera import Camera
from loupe.consistency import Consistency, warping_error
from loupe.method import Picture


def view(camera: Camera, lighter: float = 0.0) -> Picture:
    """What the camera truly sees, `lighter` by so much."""
    shape = (camera.height, camera.width)
    depth = camera.project(room_points(camera))[1].reshape(shape)
    colour = torch.from_numpy(room_photo(camera).astype(np.float32)) / 255 + lighter
    return Picture(colour, torch.from_numpy(depth).float(), torch.ones(shape))


def frames() -> list[Camera]:
    return [room_camera(across, 0.0, 320, 256) for across in np.linspace(-0.1, 0.1, 5)]


def test_true_frames_agree() -> None:
    first, second = frames()[:2]
    error, share = warping_error(view(second), second, view(first), first)
    assert 255 * error < 1.0  # what interpolation between pixels and rounding leave
    assert 0.8 < share < 1.0  # the edges and what the ball hides


def test_a_change_of_light_is_the_error() -> None:
    first, second = frames()[:2]
    error, _ = warping_error(view(second, 0.05), second, view(first), first)
    assert error == pytest.approx(0.05, abs=0.004)


def test_hidden_surfaces_do_not_count() -> None:
    """Without the look at depth, the wall behind the ball would be compared with the ball."""
    first, second = room_camera(-0.25, 0.0, 320, 256), room_camera(0.25, 0.0, 320, 256)
    error, share = warping_error(view(second), second, view(first), first)
    assert 255 * error < 3
    blind = view(first)._replace(depth=torch.full((256, 320), torch.nan))
    assert warping_error(view(second), second, blind, first) == (0.0, 0.0)
    assert share < 0.9


def test_a_film_that_flickers_is_told_from_one_that_does_not() -> None:
    steady, flickering = Consistency(), Consistency()
    for index, camera in enumerate(frames()):
        steady.add(view(camera), camera)
        flickering.add(view(camera, 0.02 * (index % 2)), camera)
    assert steady.error is not None
    assert flickering.error is not None
    assert flickering.error - steady.error > 3
    assert steady.slice.shape == (256, 5, 3)
    assert np.array_equal(steady.slice[:, 2], room_photo(frames()[2])[:, 160])


def test_one_frame_has_no_error() -> None:
    alone = Consistency()
    alone.add(view(frames()[0]), frames()[0])
    assert alone.error is None
