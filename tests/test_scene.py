"""Scenes: saved and loaded, cameras at both resolutions, and what makes no scene."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from loupe.camera import Camera
from loupe.errors import InputError
from loupe.images import write_image
from loupe.scene import Points, Scene, View, mean_pose


def camera(x: float = 0.0, width: int = 10, height: int = 7) -> Camera:
    pose = np.eye(4)
    pose[0, 3] = -x
    return Camera(width, height, 9.0, 9.5, 5.0, 3.5, pose)


def scene(folder: Path) -> Scene:
    random = np.random.default_rng(0)
    points = Points(
        random.normal(size=(5, 3)).astype(np.float32),
        random.integers(0, 256, (5, 3)).astype(np.uint8),
        np.arange(5, dtype=np.int32),
    )
    views = [View(name, camera(x), f"../photos/{name}.jpg", 1.0, 9.0) for x, name in enumerate("abc")]
    views[2] = replace(views[2], camera_id="7", frame=3, mask="masks/c.png")
    return Scene(folder, views, points, ["b", "c"], ["a"], 2, "test")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    made = scene(tmp_path)
    made.save()
    again = Scene.load(tmp_path)
    again_bytes = (tmp_path / "scene.json").read_bytes()
    again.save()
    assert (tmp_path / "scene.json").read_bytes() == again_bytes
    assert [replace(view, camera=None) for view in made.views] != []
    for view, other in zip(made.views, again.views, strict=True):
        assert view.camera.to_json() == other.camera.to_json()
        assert all(
            getattr(view, key) == getattr(other, key)
            for key in ("name", "image", "near", "far", "camera_id", "frame", "mask")
        )
    for key in ("xyz", "rgb", "seen"):
        assert np.array_equal(getattr(made.points, key), getattr(again.points, key))
    assert (again.train, again.test, again.ratio, again.source) == (["b", "c"], ["a"], 2, "test")


def test_levels_trim_then_divide(tmp_path: Path) -> None:
    """10x7 at ratio 2 is 10x6 and 5x3; a full pixel corner (x, y) is the low one (x / 2, y / 2)."""
    made = scene(tmp_path)
    full, low = made.camera("a", "full"), made.camera("a", "low")
    assert (full.width, full.height, low.width, low.height) == (10, 6, 5, 3)
    points = np.random.default_rng(1).uniform([-1, -1, 2], [1, 1, 5], (20, 3))
    np.testing.assert_allclose(full.project(points)[0], made.view("a").camera.project(points)[0])
    np.testing.assert_allclose(low.project(points)[0] * 2, full.project(points)[0])
    assert [c.width for c in made.cameras(["a", "b"], "low")] == [5, 5]


def test_pictures_are_read_and_checked(tmp_path: Path) -> None:
    made = scene(tmp_path / "scene")
    (tmp_path / "photos").mkdir()
    (tmp_path / "scene").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        made.picture("a")
    write_image(tmp_path / "photos" / "a.jpg", np.full((7, 10, 3), 99, np.uint8))
    assert made.picture("a").mean() == 99
    for wrong in (np.zeros((7, 9, 3), np.uint8), np.zeros((7, 10), np.uint8)):
        write_image(tmp_path / "photos" / "a.jpg", wrong)
        with pytest.raises(InputError, match="shape"):
            made.picture("a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": []}, "2 training and 0 test"),
        ({"train": []}, "0 training and 1 test"),
        ({"test": ["a", "b"]}, r"\['b'\] are in the training and the test"),
        ({"test": ["x"]}, r"unknown views \['x'\]"),
        ({"views": [View("a", camera(), "a", 1, 2)] * 2}, "share a name"),
    ],
)
def test_a_split_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    made = scene(tmp_path)
    values = {key: getattr(made, key) for key in ("folder", "views", "points", "train", "test", "ratio", "source")}
    with pytest.raises(InputError, match=message):
        Scene(**(values | change))


@pytest.mark.parametrize(
    ("near", "far"), [(0.0, 1.0), (2.0, 1.0), (1.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0)]
)
def test_bounds_are_checked(near: float, far: float) -> None:
    with pytest.raises(InputError, match="view a: near"):
        View("a", camera(), "a.png", near, far)


def test_points_are_checked() -> None:
    assert len(Points.none().xyz) == 0
    good = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.uint8), np.zeros(2, np.int32)
    with pytest.raises(InputError, match="disagree"):
        Points(good[0], good[1][:1], good[2])
    with pytest.raises(InputError, match="NaN"):
        Points(good[0] * np.nan, good[1], good[2])


def test_a_broken_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run estimate_poses first"):
        Scene.load(tmp_path)
    scene(tmp_path).save()
    good = json.loads((tmp_path / "scene.json").read_text())
    of_a, *others = good["views"]

    def spoilt(**values: object) -> dict[str, object]:
        return good | {"views": [of_a | values, *others]}

    for content, message in (
        (good | {"format": 99}, "format 99"),
        ({}, "not a scene"),
        ([], "not a scene"),
        (good | {"views": [{"name": "a"}]}, "not a scene"),
        (
            spoilt(camera={**of_a["camera"], "cam_from_world": [[0] * 4] * 4}),
            r"scene\.json: a: .*rotation.*; run estimate_poses again",
        ),
        (spoilt(camera={**of_a["camera"], "cam_from_world": [[math.nan] * 4] * 4}), r"a: .*not a finite 4x4 matrix"),
        (spoilt(camera={**of_a["camera"], "fx": math.nan}), r"a: .*focal length .* is not positive and finite"),
        (spoilt(near=9.0, far=9.0), r"scene\.json: a: .*not 0 < near < far; run estimate_poses again"),
        (spoilt(near=-1.0), r"scene\.json: a: .*not 0 < near < far"),
        (good | {"test": []}, "2 training and 0 test views; need both"),
        (good | {"test": ["a", "b"]}, r"\['b'\] are in the training and the test split"),
        (good | {"views": 3}, "not a scene"),
        (good | {"ratio": 0}, "ratio 0 is no whole number"),
        (good | {"ratio": "2"}, "ratio '2' is no whole number"),
    ):
        (tmp_path / "scene.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=message):
            Scene.load(tmp_path)
    (tmp_path / "scene.json").write_bytes(b"\xff{}")  # not UTF-8, a ValueError
    with pytest.raises(InputError, match=r"scene\.json: not a scene .*run estimate_poses again"):
        Scene.load(tmp_path)


POINTS = {"xyz": np.zeros((2, 3), np.float32), "rgb": np.zeros((2, 3), np.uint8), "seen": np.zeros(2, np.int32)}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff" * 100, "header"),
        (POINTS | {"xyz": POINTS["xyz"].T.copy()}, "shapes"),
        (POINTS | {"xyz": np.array(1, np.float32)}, "unsized"),
        (POINTS | {"xyz": POINTS["xyz"].astype(np.float64)}, "types float64, uint8, int32, expected"),
        (POINTS | {"rgb": POINTS["rgb"].astype(np.int16)}, "types float32, int16, int32, expected"),
        (POINTS | {"more": POINTS["seen"]}, "more"),
        ({"xyz": POINTS["xyz"], "rgb": POINTS["rgb"]}, "seen"),
    ],
    ids=["oversized header", "transposed", "one number", "wrong type", "wrong type of colour", "one more", "missing"],
)
def test_broken_points_are_refused(tmp_path: Path, content: bytes | dict[str, np.ndarray], reason: str) -> None:
    scene(tmp_path).save()
    path = tmp_path / "points.safetensors"
    save_file(POINTS, path)
    Scene.load(tmp_path)
    path.write_bytes(content if isinstance(content, bytes) else save(content))
    with pytest.raises(
        InputError, match=rf"points\.safetensors: not points \(.*{reason}.*\); run estimate_poses again"
    ):
        Scene.load(tmp_path)


def test_missing_points_are_said(tmp_path: Path) -> None:
    scene(tmp_path).save()
    (tmp_path / "points.safetensors").unlink()
    with pytest.raises(InputError, match="is missing"):
        Scene.load(tmp_path)


def test_an_unknown_view_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no view is named 'x'"):
        scene(tmp_path).view("x")


def test_mean_pose_stands_amid_the_cameras() -> None:
    frame = mean_pose([camera(x) for x in (0.0, 1.0, 5.0)])
    np.testing.assert_allclose(frame @ [2, 0, 0, 1], [0, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(frame[:3, :3], np.eye(3), atol=1e-12)
    away = camera()
    turned = replace(away, cam_from_world=np.diag([-1.0, 1.0, -1.0, 1.0]))
    with pytest.raises(InputError, match="opposite"):
        mean_pose([away, turned])


def test_time_runs_from_the_first_frame_to_the_last(tmp_path: Path) -> None:
    made = scene(tmp_path)
    assert made.time(made.view("c").frame) == 1
    views = [replace(view, frame=frame) for view, frame in zip(made.views, (4, 6, 12), strict=True)]
    film = replace(made, views=views)
    assert [film.time(frame) for frame in (4, 6, 12)] == [0, 0.25, 1]
    assert replace(made, views=[replace(view, frame=7) for view in views]).time(7) == 0
