"""What stands still around a subject: clean plates, depth everywhere, gains, and the views made of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
import wall

from loupe.camera import Array
from loupe.depth_maps import points_of, whole_depths
from loupe.errors import InputError
from loupe.images import Pixels
from loupe.lumigraph import Lumigraph
from loupe.method import Picture, Recipe, Window
from loupe.methods.four_k4d import FourK4d
from loupe.occupancy import CarveConfig
from loupe.plates import clean_plate, stands
from loupe.scene import Scene
from loupe.surroundings import Surroundings, find_surroundings, gains_of
from loupe.sweep import choose_neighbours, sweep_views
from loupe.tiles import Tiles
from loupe.trial import load_setting

ROOT = Path(__file__).parents[1]
PLANES = {"base": 8, "levels": 2, "channels": 4, "table": 512}


class Found(NamedTuple):
    scene: Scene
    tiles: Tiles
    made: Surroundings
    folder: Path


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("wall")
    scene, tiles = wall.make_wall(folder / "scene")
    made = find_surroundings(scene, tiles, CarveConfig(picture=96), folder / "around")
    assert made is not None
    made.save(folder / "around")
    return Found(scene, tiles, made, folder / "around")


# --- plates -----------------------------------------------------------------------------------------------------------


def test_a_plate_is_the_mean_of_what_masks_leave_free() -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 255, (40, 60, 3), np.uint8) for _ in range(3)]
    masks = [np.zeros((40, 60), np.uint8) for _ in range(3)]
    masks[0][10:20, 10:20] = masks[1][10:20, 10:30] = 255
    for mask in masks:
        mask[30:35, 40:50] = 255
    plate, known = clean_plate(zip(pictures, masks, strict=True))
    assert not known[30:35, 40:50].any()
    assert known.mean() > 0.95
    np.testing.assert_array_equal(plate[0], np.rint(np.mean(pictures, 0))[0])
    np.testing.assert_array_equal(plate[15, 15], pictures[2][15, 15])
    np.testing.assert_array_equal(plate[15, 25], np.rint((pictures[0][15, 25].astype(float) + pictures[2][15, 25]) / 2))


def test_what_no_plate_knows_goes_on_with_what_is_around_it() -> None:
    picture = np.full((300, 400, 3), (200, 100, 50), np.uint8)
    mask = np.zeros((300, 400), np.uint8)
    mask[100:200, 150:250] = 255
    picture[mask > 0] = 0
    plate, known = clean_plate([(picture, mask)])
    assert not known[100:200, 150:250].any()
    assert np.abs(plate.astype(int) - (200, 100, 50)).max() <= 10


def test_a_stand_is_a_camera_in_one_pose(found: Found) -> None:
    scene = found.scene
    assert [len(group) for group in stands(scene)] == [4] * 5
    moved = scene.train[1]
    views = [
        replace(view, camera=replace(view.camera, cam_from_world=wall.camera_at(3.0).cam_from_world))
        if view.name == moved
        else view
        for view in scene.views
    ]
    groups = stands(replace(scene, views=views))
    assert sorted(len(group) for group in groups) == [1, 3, 4, 4, 4, 4]
    assert [moved] in groups


# --- depth ------------------------------------------------------------------------------------------------------------


def test_depth_goes_on_flat_where_nothing_can_be_matched() -> None:
    cameras = list(wall.CAMERAS.values())
    around = choose_neighbours(cameras, [4.0] * len(cameras))
    sweeps = sweep_views([wall.show(camera) for camera in cameras], cameras, around, [2.0] * len(cameras), 0.1)
    known = [np.ones((wall.HEIGHT, wall.WIDTH), bool) for _ in cameras]
    maps = whole_depths(sweeps, known, around)
    errors, before, whole = [], [], []
    for camera, sweep, made in zip(cameras, sweeps, maps, strict=True):
        plain = cv2.erode(wall.is_plain(camera).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert (made[plain] > 0).mean() > 0.9
        assert (made > 0).mean() > 0.8
        error, swept = (np.abs(found - 1 / wall.depth(camera)) / sweep.step for found in (made, sweep.best))
        errors.append(error[plain & (made > 0)])
        before.append(swept[plain])
        whole.append(error[made > 0])
    assert np.mean(np.concatenate(errors)) < 0.6 * np.mean(np.concatenate(before))
    assert np.median(np.concatenate(errors)) < 1
    assert np.quantile(np.concatenate(whole), 0.95) < 2.5


def test_what_the_views_do_not_agree_on_stays_open() -> None:
    random = np.random.default_rng(1)
    cameras = list(wall.CAMERAS.values())
    around = choose_neighbours(cameras, [4.0] * len(cameras))
    noise = [random.integers(0, 255, (wall.HEIGHT, wall.WIDTH, 3), np.uint8) for _ in cameras]
    sweeps = sweep_views(noise, cameras, around, [2.0] * len(cameras), 0.1)
    maps = whole_depths(sweeps, [np.ones((wall.HEIGHT, wall.WIDTH), bool)] * len(cameras), around)
    assert np.mean([made > 0 for made in maps]) < 0.2


def test_places_are_those_of_the_pixels() -> None:
    camera = wall.CAMERAS["c1"]
    np.testing.assert_allclose(points_of(camera, 1 / wall.depth(camera)), wall.hit(camera), atol=1e-9)


# --- surroundings -----------------------------------------------------------------------------------------------------


def test_points_lie_on_the_wall_and_face_the_cameras(found: Found) -> None:
    off = (found.made.cloud.xyz - wall.THROUGH) @ wall.NORMAL
    assert len(off) > 500
    assert np.quantile(np.abs(off), 0.9) < 0.12
    assert np.quantile(found.made.normals @ wall.NORMAL, 0.1) > 0.85
    np.testing.assert_allclose(np.linalg.norm(found.made.normals, axis=1), 1, atol=1e-5)


def test_surroundings_are_what_was_saved(found: Found) -> None:
    again = Surroundings.load(found.folder)
    np.testing.assert_array_equal(again.cloud.xyz, found.made.cloud.xyz)
    np.testing.assert_array_equal(again.normals, found.made.normals)
    assert (again.spacing, again.nearest) == (found.made.spacing, found.made.nearest)
    assert again.gains.keys() == found.made.gains.keys() == set(again.plates.names)
    for name, gain in again.gains.items():
        np.testing.assert_array_equal(gain, found.made.gains[name])
    (found.folder / "plates.json").rename(found.folder / "away")
    with pytest.raises(InputError, match=r"plates\.json: not a table of plates .*; run carve_space again"):
        Surroundings.load(found.folder)
    (found.folder / "away").rename(found.folder / "plates.json")


def test_plates_without_a_surface_in_common_have_no_surroundings(found: Found, tmp_path: Path) -> None:
    scene = replace(found.scene, train=found.scene.train[:4])
    assert find_surroundings(scene, found.tiles, CarveConfig(picture=96), tmp_path / "around") is None


def test_gains_are_what_brightens_plates() -> None:
    random = np.random.default_rng(2)
    true = random.uniform(30, 150, (4000, 3))
    factors = np.array([[1.0, 1.1, 0.9], [1.3, 1.2, 1.25], [0.8, 0.8, 0.85], [1.0, 1.0, 1.0]])
    factors[:3] /= np.exp(np.log(factors[:3]).mean(0))
    shown = [true * factor + random.normal(0, 1, true.shape) for factor in factors]
    for index, one in enumerate(shown[:3]):
        one[random.permutation(4000)[: 500 * (index + 1)]] = np.nan  # hidden there
        one[:20] = 255.0  # and the lamps
    shown[3][:] = np.nan  # shows nothing that others do
    np.testing.assert_allclose(gains_of(shown), factors, rtol=0.01)


# --- views ------------------------------------------------------------------------------------------------------------


def psnr_within(picture: Picture, truth: Pixels, part: tuple[slice, slice]) -> float:
    error = (picture.colour.numpy() - truth / 255.0)[part]
    return float(-10 * np.log10((error**2).mean()))


MIDDLE = slice(20, -20), slice(24, -24)


def test_a_new_view_is_what_a_camera_would_see(found: Found) -> None:
    around = Lumigraph(found.made, found.scene, "cpu")
    camera = wall.CAMERAS["c4"]  # held out
    picture = around.seen_from(camera)
    truth = wall.show(camera)
    assert psnr_within(picture, truth, MIDDLE) > 27
    nearest = wall.show(wall.CAMERAS["c1"])
    assert (
        psnr_within(picture, truth, MIDDLE)
        > psnr_within(picture._replace(colour=torch.tensor(nearest / 255)), truth, MIDDLE) + 8
    )
    error = np.abs(1 / picture.depth.numpy() - 1 / wall.depth(camera))[MIDDLE] * wall.depth(camera)[MIDDLE]
    assert np.quantile(error, 0.95) < 0.05
    assert picture.opacity.numpy()[MIDDLE].min() > 0.99


def test_a_window_is_a_part_of_the_whole(found: Found) -> None:
    around = Lumigraph(found.made, found.scene, "cpu")
    camera, window = wall.camera_at(0.2, 0.3), Window(22, 14, 100, 80)
    whole, part = around.seen_from(camera), around.seen_from(camera, window)
    for one, other in zip(whole, part, strict=True):
        torch.testing.assert_close(one[14:94, 22:122], other, atol=2e-3, rtol=1e-3)


def test_the_back_of_a_wall_does_not_show(found: Found) -> None:
    """A camera behind it looks through it, and sees nothing there."""
    pose = np.diag([1.0, -1.0, -1.0, 1.0])
    behind = replace(
        wall.camera_at(0), cam_from_world=pose @ np.block([[np.eye(3), -np.array([[0], [0], [6.0]])], [0, 0, 0, 1]])
    )
    np.testing.assert_allclose(behind.center, [0, 0, 6])
    assert Lumigraph(found.made, found.scene, "cpu").seen_from(behind).opacity.max() < 1e-3


def lumigraph_with(found: Found, folder: Path, name: str, change: Array | float, known: bool = True) -> Lumigraph:
    """One plate's left half is multiplied by `change`; it counts as unknown there, unless it is known."""
    shutil.copytree(found.folder, folder)
    plates = found.made.plates
    first, size = plates.first_pixel(name, "full"), wall.WIDTH * wall.HEIGHT
    for suffix, channels in (("u8", 3), ("mask.u8", 1)):
        pixels = np.memmap(folder / "plates" / f"full.{suffix}", np.uint8, "r+").reshape(-1, channels)
        view = pixels[first : first + size].reshape(wall.HEIGHT, wall.WIDTH, channels)
        if channels == 3:
            view[:, : wall.WIDTH // 2] = np.clip(view[:, : wall.WIDTH // 2] * change, 0, 255)
        elif not known:
            view[:, : wall.WIDTH // 2] = 0
        pixels.flush()
    low = plates.first_pixel(name, "low")
    mask = np.memmap(folder / "plates" / "low.mask.u8", np.uint8, "r+")
    if not known:
        mask[low : low + size // 4].reshape(wall.HEIGHT // 2, -1)[:, : wall.WIDTH // 4] = 0
    mask.flush()
    return Lumigraph(Surroundings.load(folder), found.scene, "cpu")


def test_the_unknown_of_a_plate_is_taken_from_others(found: Found, tmp_path: Path) -> None:
    name = next(name for name in found.made.gains if name.startswith("c1"))
    camera = wall.CAMERAS["c1"]
    before = Lumigraph(found.made, found.scene, "cpu").seen_from(camera).colour
    wrong = lumigraph_with(found, tmp_path / "wrong", name, 0.0).seen_from(camera).colour
    left = slice(20, -20), slice(20, wall.WIDTH // 2 - 12)
    assert (before - wrong)[left].abs().mean() > 0.2  # it is the nearest plate, and counts
    unknown = lumigraph_with(found, tmp_path / "unknown", name, 0.0, known=False).seen_from(camera).colour
    assert (before - unknown)[left].abs().mean() < 0.06


def test_a_brighter_plate_makes_no_seam(found: Found) -> None:
    camera = wall.camera_at(0.1, 0.2)
    before = Lumigraph(found.made, found.scene, "cpu").seen_from(camera)
    twice = found.made._replace(gains={name: gain * 2 for name, gain in found.made.gains.items()})
    after = Lumigraph(twice, found.scene, "cpu").seen_from(camera)
    torch.testing.assert_close(after.colour, before.colour / 2)


def test_a_subject_and_what_it_walks_before(tmp_path: Path) -> None:
    """Carved as a user would; 4K4D then shows the held-out camera's whole picture."""
    wall.make_wall(tmp_path / "scene")[0].save()
    (tmp_path / "wall.yaml").write_text("space: {kind: bounded, by: masks, resolution: 32, picture: 96}\n")
    options = {"scene": "scene", "tiles": "scene", "config": "wall.yaml", "out": "space", "log": "log"}
    command = [sys.executable, "steps/carve_space.py"]
    command += [part for key, value in options.items() for part in (f"--{key}", str(tmp_path / value))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "points around the subject, by the clean plates of 5 stands" in done.stderr
    setting = load_setting(tmp_path / "scene", tmp_path / "space", tmp_path / "scene")
    points = {"count": 300, "sources": 2, "positions": PLANES, "features": PLANES, "radii": 4.0, "radius_logit": -2.0}
    section = {"points": points, "fit": {"steps": 1, "weights": {"perceptual": 0.0}}}
    recipe = Recipe({"method": "four_k4d", "encoder": section})
    camera, truth = setting.scene.camera("c4_2", "full"), setting.scene.picture("c4_2")
    within = FourK4d("encoder", recipe, setting).render(camera, 2 / 3)
    alone = FourK4d("encoder", recipe, replace(setting, surroundings=None)).render(camera, 2 / 3)
    ball = wall.shows_ball(camera, 2)
    assert psnr_within(within, truth, MIDDLE) > 22
    assert psnr_within(alone, truth, MIDDLE) < 12
    assert np.abs(within.colour.numpy() - truth / 255)[ball].mean() < 0.2
    assert within.opacity.numpy()[MIDDLE].min() > 0.99
