"""Carving by masks: a ball that moves, seen by a ring of cameras."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_hull import SIZE, ring

from loupe.camera import Array, Camera
from loupe.errors import InputError
from loupe.images import write_image
from loupe.occupancy import CarveConfig
from loupe.scene import Points, Scene, View
from loupe.silhouettes import Moving, carve_masks
from loupe.tiles import Tiles, write_tiles

RADIUS = 0.4
PLACES = {3: np.array([0.2, 0.0, 0.0]), 4: np.array([-0.2, 0.1, 0.0])}
CONFIG = CarveConfig(resolution=40, agree=100)


def outline(camera: Camera, place: Array) -> np.ndarray:
    x, y = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    rays = camera.unproject(np.stack([x, y], -1).reshape(-1, 2), np.ones(x.size)) - camera.center
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    distance = np.linalg.norm(np.cross(rays, camera.center - place), axis=1)
    return ((distance < RADIUS) * 255).astype(np.uint8).reshape(SIZE[::-1])


def shoot(folder: Path, turned: float = 0.0, black: tuple[int, ...] = ()) -> tuple[Scene, Tiles]:
    """Twelve cameras at two frames; the ball's left half is red, its right half blue. `turned`: by how
    much the poses look aside, to the left or right in turn; cameras in `black` have empty masks."""
    (folder / "masks").mkdir(parents=True)
    views, pictures = [], []
    for frame, place in PLACES.items():
        for number, camera in enumerate(ring(12)):
            name = f"{number}_{frame}"
            mask = outline(camera, place) * (number not in black)
            write_image(folder / "masks" / f"{name}.png", mask)
            sides = np.where(np.arange(SIZE[0]) < SIZE[0] / 2, 0, 2)
            picture = np.zeros((*SIZE[::-1], 3), np.uint8)
            picture[:, np.arange(SIZE[0]), sides] = 200
            turn = np.eye(4)
            turn[:3, :3] = cv2.Rodrigues(np.array([0.0, turned * (-1) ** number, 0.0]))[0]
            posed = dataclasses.replace(camera, cam_from_world=turn @ camera.cam_from_world)
            views.append(View(name, posed, "x", 1.5, 4.5, str(number), frame, f"masks/{name}.png"))
            pictures.append((name, picture))
    names = [view.name for view in views]
    test = [name for name in names if name.startswith("0_")]
    scene = Scene(folder, views, Points.none(), [n for n in names if n not in test], test, 1, "made")
    write_tiles(folder, pictures, 1, scene.mask)
    return scene, Tiles(folder)


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Moving:
    return carve_masks(*shoot(tmp_path_factory.mktemp("ball")), CONFIG, print)


def test_the_box_is_tight_around_all_frames(moving: Moving) -> None:
    corners = moving.space.to_world(torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).double()).numpy()
    for place in PLACES.values():
        sphere = place + RADIUS * 0.95 * np.concatenate([np.eye(3), -np.eye(3)])
        unit = moving.space.to_unit(torch.from_numpy(sphere)).numpy()
        assert ((unit > 0) & (unit < 1)).all()
    assert np.linalg.norm(corners, axis=1).max() < 1.4


def test_every_frame_has_the_ball_where_it_was(moving: Moving) -> None:
    assert list(moving.clouds) == [3, 4]
    for frame, place in PLACES.items():
        distance = np.linalg.norm(moving.clouds[frame].xyz - place, axis=1)
        assert len(distance) > 500
        assert 0.9 * RADIUS < np.median(distance) < 1.15 * RADIUS
        assert moving.occupancy.query(moving.space.to_unit(torch.from_numpy(place[None]).float())).all()


def test_points_have_colours_of_the_views_that_see_them(moving: Moving) -> None:
    """Every camera sees red on its left and blue on its right, and no green."""
    rgb = moving.clouds[3].rgb.astype(int)
    assert (abs(rgb.sum(1) - 200) <= 2).all()
    assert (rgb[:, 1] == 0).all()
    assert rgb[:, 0].std() > 5


def test_it_is_saved_a_frame_a_file(moving: Moving, tmp_path: Path) -> None:
    moving.save(tmp_path)
    assert sorted(path.name for path in (tmp_path / "points").iterdir()) == ["000003.ply", "000004.ply"]
    assert b"element vertex %d\n" % len(moving.clouds[4].xyz) in (tmp_path / "points/000004.ply").read_bytes()


def test_black_masks_are_blamed_by_name(tmp_path: Path) -> None:
    scene, tiles = shoot(tmp_path, black=(5, 7))
    with pytest.raises(
        InputError, match=r"hull of frame 3 is empty: at best 9 of 11 masks meet .* look at the masks of 5_3, 7_3$"
    ):
        carve_masks(scene, tiles, CONFIG, print)


def test_cameras_that_do_not_belong_to_the_masks_are_blamed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the cameras do not belong to these masks"):
        carve_masks(*shoot(tmp_path, turned=0.35), CONFIG, print)


def test_a_mask_that_does_not_fit_or_is_gone_is_named(tmp_path: Path) -> None:
    scene, _ = shoot(tmp_path)
    path = tmp_path / "masks/5_3.png"
    write_image(path, np.full((9, 8), 255, np.uint8))
    with pytest.raises(InputError, match=rf"^{path}: shape \(9, 8\), expected \({SIZE[1]}, {SIZE[0]}\); run estimate"):
        scene.mask("5_3")
    path.unlink()
    with pytest.raises(InputError, match=rf"^{path}: cannot be read"):
        scene.mask("5_3")


def test_tiles_without_masks_are_named(tmp_path: Path) -> None:
    scene, tiles = shoot(tmp_path)
    write_tiles(tmp_path, [(name, tiles.image(name, "full").copy()) for name in tiles.names], 1)
    with pytest.raises(InputError, match="its tiles have no masks; run cut_tiles again"):
        carve_masks(scene, Tiles(tmp_path), CONFIG, print)


def test_too_few_masks_are_refused_and_missing_ones_counted(tmp_path: Path) -> None:
    scene, tiles = shoot(tmp_path)
    said: list[str] = []
    bare = [dataclasses.replace(view, mask=None) if view.camera_id in "12" else view for view in scene.views]
    carve_masks(dataclasses.replace(scene, views=bare), tiles, CONFIG, said.append)
    assert said == ["4 of 22 training views have no mask and no vote"]
    bare = [dataclasses.replace(view, mask=None) if view.frame == 4 else view for view in scene.views]
    with pytest.raises(InputError, match="no training view has a mask"):
        carve_masks(
            dataclasses.replace(scene, views=[dataclasses.replace(v, mask=None) for v in bare]), tiles, CONFIG, print
        )
    with pytest.raises(InputError, match=r"frame 3 has 11 masks; the hull needs 12 at each frame \(space\.least\)"):
        carve_masks(scene, tiles, CONFIG.model_copy(update={"least": 12}), print)
