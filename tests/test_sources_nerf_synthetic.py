"""NeRF's synthetic scenes, with cameras worked out by hand in OpenGL's axes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from givencameras import HEIGHT, POINT, WIDTH, check_round_trip, import_all, photo, random_pose, write_dot

from loupe.camera import Array
from loupe.errors import InputError
from loupe.images import read_image
from loupe.sources import nerf_synthetic, recognise
from loupe.split import SplitConfig, split_views

ANGLE = 0.9
PARTS = {"train": [f"r_{number}" for number in range(4)], "test": ["r_0", "r_10"], "val": ["r_0"]}


def shown(world_from_cam: Array) -> Array:
    """NeRF's projection of the point: the camera looks along -z and y is up."""
    x, y, z = np.linalg.inv(world_from_cam)[:3] @ np.append(POINT, 1)
    focal = 0.5 * WIDTH / math.tan(0.5 * ANGLE)
    return np.array([WIDTH / 2 + focal * x / -z, HEIGHT / 2 - focal * y / -z])


def capture_of(folder: Path) -> tuple[Path, dict[str, Array]]:
    """Three sides of a split, and where each picture shows the point."""
    random, pixels = np.random.default_rng(1), {}
    for part, names in PARTS.items():
        frames = []
        for name in names:
            world_from_cam = np.linalg.inv(random_pose(random)) @ np.diag([1, -1, -1, 1])
            frames.append(
                {"file_path": f"./{part}/{name}", "rotation": 0.1, "transform_matrix": world_from_cam.tolist()}
            )
            pixels[f"{part}_{name}"] = shown(world_from_cam)
            write_dot(folder / part / f"{name}.png", pixels[f"{part}_{name}"], alpha=True)
        content = {"camera_angle_x": ANGLE, "frames": frames}
        (folder / f"transforms_{part}.json").write_text(json.dumps(content))
    return folder, {name: pixel for name, pixel in pixels.items() if not name.startswith("val")}


@pytest.mark.parametrize("shrink", [1, 2])
def test_cameras_are_those_of_the_paper(tmp_path: Path, shrink: int) -> None:
    capture, pixels = capture_of(tmp_path / "capture")
    given = check_round_trip("nerf_synthetic", capture, pixels, tmp_path / "photos", shrink)
    assert {one.photo.name: one.part for one in given} == {name: name.split("_")[0] for name in pixels}
    assert all(one.bounds is None for one in given)
    for one in given:
        assert one.photo.mask is not None
        mask = read_image(tmp_path / "photos" / one.photo.mask)
        assert mask[0, 0] == 0
        assert mask[-1, -1] == 255
    assert split_views(given, SplitConfig())[1] == ["test_r_0", "test_r_10"]


def test_no_validation_file_is_needed_and_photos_left_out_shift_nothing(tmp_path: Path) -> None:
    capture = capture_of(tmp_path)[0]
    (capture / "transforms_val.json").unlink()
    given = nerf_synthetic.cameras(capture, [photo("test_r_10"), photo("stranger"), photo("train_r_2")])
    assert [(one.photo.name, one.part) for one in given] == [("test_r_10", "test"), ("train_r_2", "train")]
    focal = 0.5 * WIDTH / math.tan(0.5 * ANGLE)
    assert given[0].lens == (WIDTH, HEIGHT, focal, focal, WIDTH / 2, HEIGHT / 2, 0, 0, 0, 0, 0)


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(capture: Path) -> None:
        path = capture / "transforms_test.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


def linked_out(capture: Path) -> None:
    (capture / "test/r_10.png").rename(capture.parent / "out.png")
    (capture / "test/r_10.png").symlink_to(capture.parent / "out.png")


def last(content: dict[str, Any]) -> dict[str, Any]:
    frame: dict[str, Any] = content["frames"][-1]
    return frame


def scale(content: dict[str, Any]) -> None:
    last(content)["transform_matrix"] = (np.diag([2, 2, 2, 1]) @ last(content)["transform_matrix"]).tolist()


def mirror(content: dict[str, Any]) -> None:
    last(content)["transform_matrix"] = (np.diag([1, 1, -1, 1]) @ last(content)["transform_matrix"]).tolist()


FRAME = r"frame test/r_10\.png: "
MATRIX = FRAME + "transform_matrix: "
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "gone": (lambda capture: (capture / "transforms_test.json").unlink(), "not JSON .*No such file"),
    "words": (lambda capture: (capture / "transforms_test.json").write_text("{frames"), "not JSON"),
    "deep": (lambda capture: (capture / "transforms_test.json").write_text("[" * 10**5), "not JSON"),
    "list": (lambda capture: (capture / "transforms_test.json").write_text("[1]"), "expected a mapping"),
    "no frames": (changed(lambda content: content.pop("frames")), "frames: expected a list of mappings"),
    "none": (changed(lambda content: content.update(frames=[])), "frames: expected a list of mappings"),
    "odd frame": (changed(lambda content: content["frames"].append(1)), "frames: expected a list of mappings"),
    "no angle": (changed(lambda content: content.pop("camera_angle_x")), "fl_x: missing, and so is camera_angle_x"),
    "angle": (changed(lambda content: content.update(camera_angle_x="0.9")), "camera_angle_x: expected one plain"),
    "nan": (changed(lambda content: content.update(camera_angle_x=math.nan)), "camera_angle_x: holds NaN"),
    "degrees": (changed(lambda content: content.update(camera_angle_x=51.6)), r"camera_angle_x: 51\.6 is no field of"),
    "zero": (changed(lambda content: content.update(camera_angle_x=0)), "camera_angle_x: 0 is no field of view"),
    "no pose": (changed(lambda content: last(content).pop("transform_matrix")), MATRIX + "expected 4x4 plain numbers"),
    "rows": (changed(lambda content: last(content)["transform_matrix"].pop()), MATRIX + "expected 4x4 plain numbers"),
    "ragged": (changed(lambda content: last(content)["transform_matrix"][0].pop()), MATRIX + "expected 4x4 plain"),
    "nan pose": (
        changed(lambda content: last(content)["transform_matrix"].__setitem__(0, [math.nan] * 4)),
        MATRIX + "holds NaN",
    ),
    "scaled": (changed(scale), MATRIX + "not a rotation"),
    "mirrored": (changed(mirror), MATRIX + "not a rotation"),
    "last row": (changed(lambda content: last(content)["transform_matrix"][3].reverse()), MATRIX + "not a rotation"),
    "no path": (changed(lambda content: last(content).pop("file_path")), r"frames\[1\]\.file_path: None is no path"),
    "number": (changed(lambda content: last(content).update(file_path=7)), r"frames\[1\]\.file_path: 7 is no path"),
    "empty": (changed(lambda content: last(content).update(file_path="")), r"frames\[1\]\.file_path: '' is no path"),
    "nul": (changed(lambda content: last(content).update(file_path="a\0")), r"frames\[1\]\.file_path: .* is no path"),
    "long": (changed(lambda content: last(content).update(file_path="a" * 999)), r"\[1\]\.file_path: .* is not there"),
    "above": (changed(lambda content: last(content).update(file_path="../x")), r"\[1\]\.file_path: .* leaves the capt"),
    "absolute": (changed(lambda content: last(content).update(file_path="/x")), r"\[1\]\.file_path: .* leaves the cap"),
    "link": (linked_out, r"frames\[1\]\.file_path: .* leaves the capture"),
    "missing": (lambda capture: (capture / "test/r_10.png").unlink(), r"frames\[1\]\.file_path: .* is not there; put"),
    "twice": (changed(lambda content: content["frames"].append(last(content))), FRAME + "would be the same view as"),
    "fisheye": (
        changed(lambda content: content.update(camera_model="OPENCV_FISHEYE")),
        "camera_model 'OPENCV_FISHEYE'",
    ),
    "moving": (changed(lambda content: last(content).update(time=0.5)), FRAME + "time: a scene that moves"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused(tmp_path: Path, what: str) -> None:
    capture = capture_of(tmp_path / "capture")[0]
    edit, message = BROKEN[what]
    edit(capture)
    assert recognise(capture) == "nerf_synthetic"
    with pytest.raises(InputError, match=message) as caught:
        import_all("nerf_synthetic", capture, [photo("train_r_1"), photo("test_r_10")])
    assert str(caught.value).startswith(str(capture / "transforms_test.json: "))
    assert "\n" not in str(caught.value)
