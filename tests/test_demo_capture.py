"""The committed demo capture agrees with the truth that was rendered with it.

Pixels are (x, y) with centres at .5; cameras have OpenCV axes; quarter size means 256 x 192 of 1024 x 768.
"""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PHOTOS, TRUTH = ROOT / "data/captures/demo", ROOT / "demo/truth"
CAMERAS = json.loads((TRUTH / "cameras.json").read_text())
NAMES = sorted(CAMERAS)
HELD_OUT = NAMES[::8]


def pose(name):
    return np.array(CAMERAS[name]["cam_from_world"])


def position(name):
    return np.linalg.inv(pose(name))[:3, 3]


def photo(name):
    """The photo at quarter size, float BGR."""
    full = cv2.imread(str(PHOTOS / name))
    return cv2.resize(full, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA).astype(float)


def depth(name):
    """True depth at quarter size, in scene units."""
    scale = json.loads((TRUTH / "depth/depth.json").read_text())["scale"]
    return cv2.imread(str(TRUTH / f"depth/{Path(name).stem}.png"), cv2.IMREAD_UNCHANGED) * scale


def intrinsics(name):
    """K (3, 3) of the photo at quarter size."""
    c = CAMERAS[name]
    return np.array([[c["fx"], 0, c["cx"]], [0, c["fy"], c["cy"]], [0, 0, 4]]) / 4


def reproject(name, depths, other, other_pose):
    """Where the pixels of `name` fall in a second camera: x, y (H, W) at quarter size, and their depth there."""
    y, x = np.mgrid[: depths.shape[0], : depths.shape[1]] + 0.5
    rays = np.linalg.inv(intrinsics(name)) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    points = np.concatenate([rays * depths.ravel(), np.ones((1, x.size))])
    seen = (other_pose @ np.linalg.inv(pose(name)) @ points)[:3]
    u, v, w = intrinsics(other) @ seen
    return (u / w).reshape(x.shape), (v / w).reshape(x.shape), seen[2].reshape(x.shape)


def look_up(picture, x, y):
    """Bilinear samples of a picture at pixels (x, y); nan outside."""
    where = [np.float32(c - 0.5) for c in (x, y)]
    return cv2.remap(picture.astype(np.float32), *where, cv2.INTER_LINEAR, borderValue=[np.nan] * 3)


def colour_difference(name, depths, other, other_pose):
    """Median absolute difference of colour between a photo and a second one at the reprojected pixels."""
    x, y, _ = reproject(name, depths, other, other_pose)
    return np.nanmedian(np.abs(look_up(photo(other), x, y) - photo(name)))


def neighbour(name):
    """The training view closest to a held-out one that still sees it with parallax (0.3 of a distance of 3.4)."""
    far = {n: np.linalg.norm(position(n) - position(name)) for n in NAMES if n not in HELD_OUT}
    return min((n for n in far if far[n] > 0.3), key=far.get)


def test_photos_are_all_there_and_small():
    assert sorted(p.name for p in PHOTOS.iterdir()) == NAMES
    assert len(NAMES) >= 24
    for name in NAMES:
        c = CAMERAS[name]
        assert cv2.imread(str(PHOTOS / name)).shape == (c["height"], c["width"], 3) == (768, 1024, 3)
    files = [p for folder in (PHOTOS, TRUTH) for p in folder.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 10e6


def test_photos_are_well_exposed():
    for name in NAMES:
        grey = photo(name).mean(-1)
        assert 70 < grey.mean() < 170
        assert (grey > 252).mean() < 0.01
        assert (grey < 6).mean() < 0.03


def test_cameras_are_rigid_and_share_one_lens():
    for name in NAMES:
        rotation = pose(name)[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(rotation) == pytest.approx(1)
        np.testing.assert_array_equal(pose(name)[3], [0, 0, 0, 1])
    assert len({tuple(CAMERAS[n][k] for k in ("fx", "fy", "cx", "cy")) for n in NAMES}) == 1


def test_held_out_views_lie_between_the_others():
    """Seen from the point that all cameras look at, in azimuth and elevation."""
    axes = [pose(n)[2, :3] for n in NAMES]
    across = [np.eye(3) - np.outer(a, a) for a in axes]
    target = np.linalg.solve(sum(across), sum(p @ position(n) for p, n in zip(across, NAMES, strict=True)))
    out = np.array([position(n) - target for n in NAMES])
    angles = np.stack([np.arctan2(out[:, 0], -out[:, 1]), np.arcsin(out[:, 2] / np.linalg.norm(out, axis=1))], axis=-1)
    angles = dict(zip(NAMES, np.float32(angles), strict=True))
    hull = cv2.convexHull(np.array([angles[n] for n in NAMES if n not in HELD_OUT]))
    assert all(cv2.pointPolygonTest(hull, tuple(map(float, angles[n])), False) > 0 for n in HELD_OUT)


@pytest.mark.parametrize("name", HELD_OUT)
def test_true_depth_carries_colours_into_a_neighbouring_photo(name):
    other, depths = neighbour(name), depth(name)
    right = colour_difference(name, depths, other, pose(other))
    shuffled = np.random.default_rng(0).permutation(depths.ravel()).reshape(depths.shape)
    mirrored = pose(other) @ np.diag([-1, 1, 1, 1])
    shifted = pose(other) + np.array([[0, 0, 0, 0.02]] + [[0] * 4] * 3)
    assert right < 4
    assert colour_difference(name, shuffled, other, pose(other)) > 2 * right
    assert colour_difference(name, depths, other, pose(name)) > 2 * right
    assert colour_difference(name, depths, other, mirrored) > 2 * right
    assert colour_difference(name, depths, other, shifted) > 1.5 * right


def test_true_depths_of_two_views_agree():
    for name, other in pairwise(HELD_OUT):
        x, y, expected = reproject(name, depth(name), other, pose(other))
        there = look_up(depth(other), x, y)
        agree = np.abs(there - expected)[np.isfinite(there)] < 0.01
        assert agree.mean() > 0.6


@pytest.mark.parametrize(
    "bad", [["--size", "1024"], ["--size", "1022x768"], ["--views", "0"], ["--samples", "many"], ["--out"]]
)
def test_render_capture_refuses_bad_arguments_in_one_line(bad, tmp_path):
    command = [sys.executable, ROOT / "demo/render_capture.py", "shelf", "--out", tmp_path, "--truth", tmp_path, *bad]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("render_capture.py: error: argument " + bad[0])
