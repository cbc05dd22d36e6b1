"""The rectangle around a subject's box: against masks, against points all over the box, and where there is none."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from duet import HEIGHT, HELD_OUT, WIDTH, Film

from loupe.camera import Array, Camera
from loupe.errors import InputError
from loupe.space import Space
from loupe.subject import subject_box, window_around

CUBE = np.array(list(product((-1.0, 1.0), repeat=3)))


def camera(x: float, z: float) -> Camera:
    """At (x, 0, z), looking along z; a cube's face 2 before it fills it to 50 pixels beside the middle."""
    pose = np.eye(4)
    pose[:3, 3] = [-x, 0, -z]
    return Camera(128, 108, 100, 100, 64, 54, pose)


@pytest.fixture
def carved(duet: Film, tmp_path: Path) -> Path:
    duet.carved.save(tmp_path)
    return tmp_path


def test_a_cube_has_the_rectangle_of_its_near_face() -> None:
    assert window_around(CUBE, camera(0, -3)) == (14, 4, 100, 100)
    assert window_around(CUBE, camera(0.203, -3)) == (3, 4, 101, 100)  # from 3.85 to 103.85: whole pixels
    assert window_around(CUBE, camera(-1, -3)) == (64, 4, 64, 100)  # the rest is beyond the right edge


def test_what_is_not_in_the_picture_has_no_window() -> None:
    assert window_around(CUBE, camera(5, -3)) is None
    assert window_around(CUBE, camera(0, 3)) is None


def test_a_camera_in_the_box_or_beside_it_has_the_whole_picture() -> None:
    assert window_around(CUBE, camera(0, 0)) == (0, 0, 128, 108)
    assert window_around(CUBE, camera(1.5, 0.5)) == (0, 0, 128, 108)


def test_a_films_windows_hold_all_of_the_box_and_end_with_it(duet: Film, carved: Path) -> None:
    scene, space = duet.setting.scene, duet.setting.space
    corners = subject_box(scene, carved)
    assert corners is not None
    steps = torch.linspace(0, 1, 12, dtype=torch.float64)
    inside: Array = space.to_world(torch.cartesian_prod(steps, steps, steps)).numpy()
    for view in scene.views:
        window = window_around(corners, view.camera)
        assert window is not None
        x, y, width, height = window
        assert 0 < width * height < WIDTH * HEIGHT
        pixels = view.camera.project(inside)[0]
        low, high = np.floor(pixels.min(0)), np.ceil(pixels.max(0))
        assert (x, y) == tuple(np.maximum(low, 0))
        assert (x + width, y + height) == tuple(np.minimum(high, (WIDTH, HEIGHT)))
        mask = scene.mask(view.name)
        assert mask is not None
        outside = mask.copy()
        outside[y : y + height, x : x + width] = 0
        assert mask.any()
        assert not outside.any()
    held_out = [view for view in scene.views if view.camera_id == HELD_OUT]
    assert len({window_around(corners, view.camera) for view in held_out}) == 1


def test_no_subject_where_masks_did_not_carve(duet: Film, carved: Path, tmp_path: Path) -> None:
    scene = duet.setting.scene
    assert subject_box(replace(scene, masks="cut"), carved) is not None
    assert subject_box(replace(scene, masks="look"), carved) is None
    (tmp_path / "photos").mkdir()
    Space("bounded", (-1, -1, -1), (1, 1, 1)).save(tmp_path / "photos" / "space.json")
    assert subject_box(scene, tmp_path / "photos") is None
    (carved / "space.json").unlink()
    with pytest.raises(InputError, match=r"space\.json: no such file; run carve_space first"):
        subject_box(scene, carved)
