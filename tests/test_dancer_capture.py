"""The committed film of a dancer agrees with the truth that was rendered with it, and with itself.

Pixels are (x, y) with centres at .5; cameras are as loupe reads them; a scene unit is a metre, and z is up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from rig import read_cameras

from loupe.camera import Array, Camera
from loupe.config import read_section
from loupe.hull import Silhouette, Votes, carve_hull
from loupe.images import read_image
from loupe.poses import SceneConfig
from loupe.sources import recognise

ROOT = Path(__file__).parents[1]
FILM, TRUTH = ROOT / "data/captures/dancer", ROOT / "demo/truth/dancer"
GIVEN = {one.photo.camera_id: one for one in read_cameras(FILM, 640, 480)}
CAMERAS: dict[str, Camera] = {name: one.lens.camera(one.cam_from_world) for name, one in GIVEN.items()}
HELD_OUT = read_section(ROOT / "configs/captures/dancer.yaml", "scene", SceneConfig).split.cameras
TRAINING = sorted(set(CAMERAS) - set(HELD_OUT))
TRACKS = np.load(TRUTH / "tracks.npy").astype(np.float64)
FRAMES = range(len(TRACKS))
KNOWN = (0, 4)  # frames of which depth is known
VOXEL = 0.015


def photo(camera: str, frame: int) -> Array:
    return read_image(FILM / f"images/{camera}/{frame:06d}.jpg").astype(float)


def mask(camera: str, frame: int) -> np.ndarray:
    return read_image(FILM / f"masks/{camera}/{frame:06d}.png")


def depth(camera: str, frame: int) -> Array:
    """True z-depth at quarter size (120, 160), 0 beside her."""
    scale = json.loads((TRUTH / "depth/depth.json").read_text())["scale"]
    return np.asarray(cv2.imread(str(TRUTH / f"depth/{camera}_{frame:06d}.png"), cv2.IMREAD_UNCHANGED) * scale)


def surface(camera: str, frame: int) -> tuple[Array, Array]:
    """What a held-out camera sees of her by true depth: pixels at quarter size (n, 2), and points (n, 3)."""
    depths = depth(camera, frame)
    y, x = np.nonzero(depths)
    pixels = np.stack([x, y], 1) + 0.5
    return pixels, CAMERAS[camera].resized(160, 120).unproject(pixels, depths[y, x])


def look_up(picture: Array, pixels: Array) -> Array:
    """Bilinear samples at pixels (n, 2)."""
    x, y = np.float32(pixels.T[:, :, None] - 0.5)
    return np.asarray(cv2.remap(picture.astype(np.float32), x, y, cv2.INTER_LINEAR))[:, 0]


def shown(camera: str, points: Array) -> Array:
    """Where a camera shows points (n, 3)."""
    pixels, depths = CAMERAS[camera].project(points)
    assert (depths > 0).all()
    return pixels


def angles(camera: str) -> tuple[float, float]:
    """Azimuth and elevation in degrees from where the cameras look."""
    x, y, z = -CAMERAS[camera].forward
    return float(np.degrees(np.arctan2(y, x))), float(np.degrees(np.arcsin(z)))


def test_the_film_is_whole_and_small() -> None:
    assert recognise(FILM) == "easymocap"
    assert len(CAMERAS) == 16
    assert len(FRAMES) == 8
    expected = {f"{name}/{frame:06d}" for name in CAMERAS for frame in FRAMES}
    for folder, suffix in (("images", ".jpg"), ("masks", ".png")):
        files = list((FILM / folder).rglob("*.*"))
        assert {f"{file.parent.name}/{file.stem}" for file in files} == expected
        assert {file.suffix for file in files} == {suffix}
    for name in CAMERAS:
        assert photo(name, 5).shape == (480, 640, 3)
        assert mask(name, 5).shape == (480, 640)
    files = [file for folder in (FILM, TRUTH) for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 6e6


def test_the_script_moves_her_so_and_stands_the_cameras_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "demo"))
    import cameras
    import dancer_scene

    tracks = [dancer_scene.followed(dancer_scene.dancer(frame / len(FRAMES))) for frame in FRAMES]
    np.testing.assert_allclose(TRACKS, tracks, atol=1e-5)
    for camera, pose in zip(CAMERAS.values(), cameras.rings(16, dancer_scene.MIDDLE, 4.0), strict=True):
        np.testing.assert_allclose(camera.world_from_cam, pose, atol=1e-6)
        assert (camera.fx, camera.fy, camera.cx, camera.cy) == pytest.approx((832, 832, 320, 240))


@pytest.mark.parametrize("frame", FRAMES)
def test_masks_agree_with_pictures_and_truth(frame: int) -> None:
    """She is colourful, the studio is grey; her spots lie in the masks; nothing of her is cut off."""
    for name in CAMERAS:
        picture, inside = photo(name, frame), mask(name, frame)
        colourful = np.ptp(picture, axis=-1)
        outside = cv2.dilate(inside, np.ones((17, 17), np.uint8)) == 0
        assert np.percentile(colourful[outside], 99.9) < 16
        assert np.median(colourful[inside > 127]) > 40
        assert not inside[[0, -1]].any()
        assert not inside[:, [0, -1]].any()
        x, y = shown(name, TRACKS[frame]).astype(int).T
        assert (cv2.dilate(inside, np.ones((3, 3), np.uint8))[y, x] > 0).all()


def test_pictures_are_well_exposed() -> None:
    for name in CAMERAS:
        grey, inside = photo(name, 3).mean(-1), mask(name, 3) > 127
        assert 80 < grey.mean() < 180
        assert (grey[inside] > 250).mean() < 0.02
        assert (grey[inside] < 6).mean() < 0.02


@pytest.mark.parametrize("step", list(pairwise(FRAMES)), ids=str)
def test_frames_differ_clearly(step: tuple[int, int]) -> None:
    """Between neighbouring frames, half of her spots move by a dozen pixels, in no camera by less than five; a tenth by
    fifteen to eighty. No rigid motion explains it. Where she is in either, the pictures are far apart."""
    before, after = (TRACKS[frame] for frame in step)
    assert off_rigid(before, after) > 0.05
    motion = np.stack([np.linalg.norm(shown(name, after) - shown(name, before), axis=1) for name in CAMERAS])
    half = np.median(motion, axis=1)
    assert half.mean() > 12
    assert half.min() > 5
    most = np.percentile(motion, 90, axis=1)
    assert ((most > 15) & (most < 80)).all()
    for name in CAMERAS:
        either = (mask(name, step[0]) | mask(name, step[1])) > 127
        error = (photo(name, step[0]) - photo(name, step[1]))[either] / 255
        assert -10 * np.log10((error**2).mean()) < 12


def off_rigid(before: Array, after: Array) -> float:
    """The root mean square distance in metres that the best rigid motion leaves (Kabsch 1976)."""
    a, b = before - before.mean(0), after - after.mean(0)
    u, _, v = np.linalg.svd(a.T @ b)
    rotation = u @ np.diag([1, 1, np.linalg.det(u @ v)]) @ v
    return float(np.sqrt(((a @ rotation - b) ** 2).sum(1).mean()))


def test_all_cameras_look_at_her() -> None:
    middle = (TRACKS.max((0, 1)) + TRACKS.min((0, 1))) / 2
    for camera in CAMERAS.values():
        (pixel,), (distance,) = camera.project(middle[None])
        assert np.linalg.norm(pixel - [320, 240]) < 60
        assert 3 < distance < 5


def test_the_given_bounds_hold_her_at_all_times() -> None:
    for name, camera in CAMERAS.items():
        depths = camera.project(TRACKS.reshape(-1, 3))[1]
        bounds = GIVEN[name].bounds
        assert bounds is not None
        near, far = bounds
        assert near < depths.min() < depths.max() < far
        assert far - near < 3


def test_held_out_cameras_stand_between_the_others() -> None:
    assert len(TRAINING) >= 12
    for name in HELD_OUT:
        azimuth, elevation = angles(name)
        around = np.array([angles(other) for other in TRAINING]) - [azimuth, elevation]
        around[:, 0] = (around[:, 0] + 180) % 360 - 180
        near = around[np.abs(around[:, 0]) < 55]
        assert (near.min(0) < -5).all()
        assert (near.max(0) > 5).all()


@pytest.mark.parametrize("frame", KNOWN)
@pytest.mark.parametrize("name", HELD_OUT)
def test_true_depth_carries_colours_into_another_camera(name: str, frame: int) -> None:
    """At the same moment only, and by the true depth only."""
    pixels, points = surface(name, frame)
    colours = look_up(cv2.resize(photo(name, frame), (160, 120), interpolation=cv2.INTER_AREA), pixels)
    other = max(TRAINING, key=lambda one: CAMERAS[one].forward @ CAMERAS[name].forward)

    def apart(moved: Array, at: int) -> float:
        small = cv2.resize(photo(other, at), (160, 120), interpolation=cv2.INTER_AREA)
        return float(np.median(np.abs(look_up(small, shown(other, moved) / 4) - colours)))

    right = apart(points, frame)
    assert right < 16
    assert apart(points, (frame + 1) % len(FRAMES)) > 1.8 * right
    assert apart(points + 0.05 * CAMERAS[name].forward, frame) > 1.3 * right


@pytest.fixture(scope="module", params=KNOWN)
def hull(request: pytest.FixtureRequest) -> tuple[int, Array]:
    """A frame, and the middles (n, 3) of the voxels of the training cameras' hull."""
    views = [Silhouette(mask(name, request.param) > 127, CAMERAS[name]) for name in TRAINING]
    low, high = TRACKS.min((0, 1)) - 0.1, TRACKS.max((0, 1)) + 0.1
    shape = tuple(int(count) for count in np.ceil((high - low) / VOXEL))
    alive = carve_hull(views, low, np.full(3, VOXEL), (shape[0], shape[1], shape[2]), Votes(4, 100))
    return request.param, low + (np.argwhere(alive) + 0.5) * VOXEL


def nearest(points: Array, others: Array) -> Array:
    """From each point (n, 3) to the nearest of the others."""
    from scipy.spatial import cKDTree

    return np.asarray(cKDTree(others).query(points)[0])


def test_the_hull_holds_the_true_surface(hull: tuple[int, Array]) -> None:
    frame, middles = hull
    assert np.percentile(nearest(TRACKS[frame], middles), 99) < 1.5 * VOXEL


@pytest.mark.parametrize("name", HELD_OUT)
def test_the_hull_is_hardly_larger_than_she_is(hull: tuple[int, Array], name: str) -> None:
    """Seen from a camera that had no part in it: its outline is hers, and its front is close to hers."""
    frame, middles = hull
    truth, small = depth(name, frame), CAMERAS[name].resized(160, 120)
    pixels, depths = small.project(middles)
    front = np.full(truth.shape, np.inf)
    x, y = pixels.astype(int).T
    np.minimum.at(front, (y, x), depths)  # a voxel is less than a pixel here
    outline, hers = np.isfinite(front), truth > 0
    assert (outline & hers).sum() > 0.98 * hers.sum()
    assert (outline & hers).sum() > 0.88 * outline.sum()
    before = (truth - front)[outline & hers]
    assert np.percentile(before, 1) > -0.03
    assert np.median(before) < 0.02
    assert np.percentile(before, 90) < 0.08


@pytest.mark.parametrize(("bad", "message"), [(["--frames", "0"], "argument --frames"), ([], "--truth goes with")])
def test_render_capture_refuses_bad_arguments_in_one_line(bad: list[str], message: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "demo/render_capture.py"), "dancer", "--out", str(tmp_path), *bad]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith(f"render_capture.py: error: {message}")
