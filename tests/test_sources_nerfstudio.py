"""nerfstudio's and Instant-NGP's transforms.json, with cameras that OpenCV projects."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from givencameras import (
    HEIGHT,
    POINT,
    WIDTH,
    check_round_trip,
    check_turned,
    import_all,
    photo,
    random_pose,
    write_dot,
)

from loupe.camera import Array
from loupe.errors import InputError
from loupe.images import read_image, write_image
from loupe.sources import nerfstudio, recognise
from loupe.split import SplitConfig, split_views

SIZE = {"w": WIDTH, "h": HEIGHT}
PINHOLE = {**SIZE, "fl_x": 71.0, "fl_y": 74.0, "cx": 40.2, "cy": 31.1}
BENT = {**PINHOLE, "k1": 0.2, "k2": -0.1, "p1": 0.03, "p2": -0.02}
NAMES = ["images/f_1.png", "images/f_10.png", "images/f_2.png", "images/f_3.png"]


def shown(cam_from_world: Array, values: dict[str, Any]) -> Array:
    """OpenCV's projection of the point; with `cx`, `cy` in whichever pixels, so are its results."""
    focal = values.get("fl_x") or WIDTH / 2 / math.tan(values["camera_angle_x"] / 2)
    x, y = values.get("cx", WIDTH / 2), values.get("cy", HEIGHT / 2)
    matrix = np.array([[focal, 0, x], [0, values.get("fl_y", focal), y], [0, 0, 1]])
    bending = np.array([values.get(key, 0.0) for key in ("k1", "k2", "p1", "p2", "k3")])
    turn = cv2.Rodrigues(cam_from_world[:3, :3])[0]
    return cv2.projectPoints(POINT[None], turn, cam_from_world[:3, 3], matrix, bending)[0].reshape(2)


def capture_of(
    folder: Path,
    common: dict[str, Any] = BENT,
    own: Callable[[int], dict[str, Any]] = lambda number: {},
    names: list[str] = NAMES,
    seed: int = 2,
) -> tuple[Path, dict[str, Array]]:
    """Frames with random cameras, and where each photo shows the point."""
    random, pixels, frames = np.random.default_rng(seed), {}, []
    for number, name in enumerate(names):
        pose = random_pose(random)
        world_from_cam = np.linalg.inv(pose) @ np.diag([1, -1, -1, 1])  # OpenGL's axes
        frames.append({"file_path": name, "transform_matrix": world_from_cam.tolist(), **own(number)})
        pixels[name] = shown(pose, {**common, **own(number)})
        write_dot(folder / name, pixels[name])
    (folder / "transforms.json").write_text(json.dumps({**common, "frames": frames}))
    return folder, pixels


def by_view(pixels: dict[str, Array]) -> dict[str, Array]:
    return {name.split("/")[-1].removesuffix(".png"): pixel for name, pixel in pixels.items()}


LENSES = {
    "nerfstudio": {**BENT, "camera_model": "OPENCV", "applied_transform": np.eye(4)[[0, 2, 1]].tolist()},
    "pinhole": {**PINHOLE, "camera_model": "PINHOLE"},
    "instant-ngp": {**BENT, "k3": 0.05, "camera_angle_x": 1.0, "is_fisheye": False, "aabb_scale": 16},
    "one focal length": {**SIZE, "fl_x": 71.0, "cx": 40.2, "cy": 31.1},
    "an angle": {"camera_angle_x": 1.0},
    "two angles": {"camera_angle_x": 1.0, "camera_angle_y": 2 * math.atan(HEIGHT / 2 / 74), "fl_y": 74.0},
}


@pytest.mark.parametrize("shrink", [1, 2])
@pytest.mark.parametrize("lens", LENSES)
def test_cameras_are_those_of_opencv(tmp_path: Path, lens: str, shrink: int) -> None:
    capture, pixels = capture_of(tmp_path / "capture", LENSES[lens])
    given = check_round_trip("nerfstudio", capture, by_view(pixels), tmp_path / "photos", shrink)
    assert {(one.bounds, one.part) for one in given} == {(None, None)}


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("lens", ["nerfstudio", "two angles"])
def test_cameras_turn_with_photos_that_exif_turns(tmp_path: Path, lens: str, orientation: int) -> None:
    """Also where the file gives no size, and angles across the photo as stored."""
    capture, _ = capture_of(tmp_path / "capture", LENSES[lens])
    check_turned("nerfstudio", capture, tmp_path / "photos", orientation)


def test_the_vertical_angle_gives_the_vertical_focal_length(tmp_path: Path) -> None:
    values = {"camera_angle_x": 1.0, "camera_angle_y": 2 * math.atan(HEIGHT / 2 / 74)}
    lens = nerfstudio.cameras(capture_of(tmp_path, values)[0], [photo("f_1")])[0].lens
    assert (lens.fx, lens.fy) == pytest.approx((WIDTH / 2 / math.tan(0.5), 74))


def test_frames_may_have_lenses_of_their_own(tmp_path: Path) -> None:
    """A frame's value goes before the file's."""

    def own(number: int) -> dict[str, Any]:
        return {**PINHOLE, "fl_x": 60.0 + number, "k1": 0.1 * number}

    capture, pixels = capture_of(tmp_path / "capture", {"fl_x": 99.0, "k2": 0.1}, own)
    check_round_trip("nerfstudio", capture, by_view(pixels), tmp_path / "photos", 1)


def test_photos_of_another_resolution_scale_the_lens(tmp_path: Path) -> None:
    capture = capture_of(tmp_path)[0]
    lens = nerfstudio.cameras(capture, [photo("f_1", 3 * WIDTH, 3 * HEIGHT)])[0].lens
    assert lens[:6] == pytest.approx((3 * WIDTH, 3 * HEIGHT, 213, 222, 120.6, 93.3))
    with pytest.raises(InputError, match=r"transforms\.json: frame images/f_1\.png: cameras are for 83x61 pixels"):
        nerfstudio.cameras(capture, [photo("f_1", HEIGHT, WIDTH)])


def test_names_are_those_below_the_folder_that_all_share(tmp_path: Path) -> None:
    """Also for paths as Windows writes them, with detours, and without a suffix."""
    names = ["a/left/1.png", "a/right/1.png", "a/2.png"]
    capture = capture_of(tmp_path, names=names)[0]
    content = json.loads((capture / "transforms.json").read_text())
    for frame, written in zip(content["frames"], ["a\\left\\1.png", "./a/right/1", "a/x/../2.png"], strict=True):
        frame["file_path"] = written
    (capture / "transforms.json").write_text(json.dumps(content))
    found = [(shot.name, shot.file) for shot in nerfstudio.shots(capture)]
    assert found == [("2", capture / names[2]), ("left_1", capture / names[0]), ("right_1", capture / names[1])]


def test_a_linked_capture_with_photos_beside_its_file_is_read(tmp_path: Path) -> None:
    """`make run` links captures into the project."""
    capture_of(tmp_path / "mine", names=["a.png", "b/c.png"])
    (tmp_path / "linked").symlink_to(tmp_path / "mine")
    assert [shot.name for shot in nerfstudio.shots(tmp_path / "linked")] == ["a", "b_c"]


def test_masks_come_along(tmp_path: Path) -> None:
    def own(number: int) -> dict[str, Any]:
        return {"mask_path": f"masks/{number}.png"} if number else {}

    capture, pixels = capture_of(tmp_path / "capture", BENT, own)
    (capture / "masks").mkdir()
    for number in range(1, 4):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[:, : 10 * number] = 255
        write_image(capture / f"masks/{number}.png", mask)
    given = check_round_trip("nerfstudio", capture, by_view(pixels), tmp_path / "photos", 1)
    masks = {one.photo.name: one.photo.mask for one in given}
    assert masks.pop("f_1") is None
    sizes = {name: int((read_image(tmp_path / "photos" / mask)[0] > 0).sum()) for name, mask in masks.items() if mask}
    assert sizes == {"f_10": 10, "f_2": 20, "f_3": 30}


@pytest.mark.parametrize(
    ("lists", "parts"),
    [
        ({}, {"f_1": None, "f_10": None, "f_2": None, "f_3": None}),
        ({"train": [0, 2], "test": [1], "val": [3]}, {"f_1": "train", "f_10": "test", "f_2": "train"}),
        ({"train": [0, 2], "test": [1], "val": [1]}, {"f_1": "train", "f_10": "test", "f_2": "train"}),
        ({"train": [0, 2], "test": [], "val": [3]}, {"f_1": "train", "f_2": "train", "f_3": "test"}),
        ({"train": [0, 1, 2], "val": [3]}, {"f_1": "train", "f_10": "train", "f_2": "train", "f_3": "test"}),
        ({"train": [0, 1, 3]}, {"f_1": "train", "f_10": "train", "f_3": "train"}),
    ],
)
def test_lists_make_the_split(tmp_path: Path, lists: dict[str, list[int]], parts: dict[str, str | None]) -> None:
    """Frames in no list, and those of the validation beside tests, are not used."""
    common = {**BENT, **{f"{side}_filenames": [f"./{NAMES[at]}" for at in places] for side, places in lists.items()}}
    capture = capture_of(tmp_path, common)[0]
    assert [shot.name for shot in nerfstudio.shots(capture)] == list(parts)
    given = nerfstudio.cameras(capture, [photo(name) for name in parts])
    assert {one.photo.name: one.part for one in given} == parts
    if "test" in parts.values():
        assert split_views(given, SplitConfig())[1] == [name for name, part in parts.items() if part == "test"]


def test_photos_left_out_shift_nothing(tmp_path: Path) -> None:
    capture = capture_of(tmp_path)[0]
    given = nerfstudio.cameras(capture, [photo("f_3"), photo("stranger"), photo("f_1")])
    assert [one.photo.name for one in given] == ["f_3", "f_1"]
    alone = nerfstudio.cameras(capture, [photo("f_3")])[0]
    np.testing.assert_array_equal(alone.cam_from_world, given[0].cam_from_world)


def test_nerfstudio_goes_before_the_colmap_model_that_it_was_made_of(tmp_path: Path) -> None:
    capture = capture_of(tmp_path)[0]
    (capture / "colmap/sparse/0").mkdir(parents=True)
    for table in ("cameras.txt", "images.txt"):
        (capture / "colmap/sparse/0" / table).touch()
    assert recognise(capture) == "nerfstudio"
    (capture / "transforms.json").unlink()
    assert recognise(capture) == "colmap"


def changed(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.update(values)


def without(*keys: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: [content.pop(key) for key in keys]


def in_frame(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["frames"][1].update(values)


FRAME = r"frame images/f_10\.png: "
BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "fisheye": (changed(camera_model="OPENCV_FISHEYE"), "camera_model 'OPENCV_FISHEYE' is not read here .*undistort"),
    "ngp fisheye": (changed(is_fisheye=True), "camera_model 'OPENCV_FISHEYE' is not read here"),
    "panorama": (in_frame(camera_model="EQUIRECTANGULAR"), FRAME + "camera_model 'EQUIRECTANGULAR' is not read here"),
    "k4": (in_frame(k4=0.1), FRAME + "k4 is not zero"),
    "no focal": (without("fl_x"), "frame images/f_1.png: fl_x: missing, and so is camera_angle_x"),
    "focal": (in_frame(fl_x=0), FRAME + "camera: focal length .* is not positive"),
    "infinite": (in_frame(fl_y=math.inf), FRAME + "fl_y: holds NaN or infinity"),
    "huge": (in_frame(fl_y=10**400), FRAME + "fl_y: expected one plain number"),
    "yes": (in_frame(cx=True), FRAME + "cx: expected one plain number"),
    "null": (in_frame(cy=None), FRAME + "cy: expected one plain number"),
    "list": (in_frame(k1=[0.1]), FRAME + "k1: expected one plain number"),
    "nan": (in_frame(p2=math.nan), FRAME + "p2: holds NaN"),
    "no width": (in_frame(w=0), FRAME + "cameras are for 0x61 pixels"),
    "turned": (in_frame(w=HEIGHT, h=WIDTH), FRAME + "cameras are for 61x83 pixels"),
    "pose": (in_frame(transform_matrix=np.eye(3).tolist()), FRAME + "transform_matrix: expected 4x4 plain numbers"),
    "no rotation": (in_frame(transform_matrix=np.ones((4, 4)).tolist()), FRAME + "transform_matrix: not a rotation"),
    "above": (in_frame(file_path="../f_10.png"), r"frames\[1\]\.file_path: '\.\./f_10\.png' leaves the capture"),
    "absolute": (in_frame(file_path="/f_10.png"), r"frames\[1\]\.file_path: '/f_10\.png' leaves the capture"),
    "link": (in_frame(file_path="images/linked.png"), r"\[1\]\.file_path: 'images/linked\.png' leaves the capture"),
    "NUL": (in_frame(file_path="a\0.png"), r"frames\[1\]\.file_path: 'a\\x00\.png' is no path"),
    "no path": (in_frame(file_path=None), r"frames\[1\]\.file_path: None is no path"),
    "gone": (in_frame(file_path="images/x.png"), r"frames\[1\]\.file_path: 'images/x\.png' is not there"),
    "unsafe": (in_frame(file_path="images/-.png"), r"frame images/-\.png: rename this photo"),
    "twice": (in_frame(file_path="images/f_1.png"), "would be the same view as images/f_1.png; rename one"),
    "mask above": (in_frame(mask_path="images/../../m.png"), FRAME + "mask_path: .* leaves the capture"),
    "mask absolute": (in_frame(mask_path="/m.png"), FRAME + "mask_path: '/m.png' leaves the capture"),
    "mask link": (in_frame(mask_path="images/linked.png"), FRAME + "mask_path: .* leaves the capture"),
    "mask": (in_frame(mask_path=3), FRAME + "mask_path: 3 is no path"),
    "names": (changed(train_filenames="images/f_1.png"), "train_filenames: expected a list of photos"),
    "no train": (changed(test_filenames=[NAMES[0]]), "train_filenames: names no photo"),
    "both": (changed(train_filenames=NAMES, test_filenames=NAMES[:1]), "f_1.png would both train and test"),
    "stranger": (changed(train_filenames=["images/-.png"]), "images/-.png is listed in a split, but has no frame"),
    "listed": (changed(train_filenames=["images/x.png"]), "train_filenames: 'images/x.png' is not there"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused(tmp_path: Path, what: str) -> None:
    capture = capture_of(tmp_path / "capture")[0]
    write_dot(capture / "images/-.png", np.array([1, 1]))
    write_dot(tmp_path / "linked.png", np.array([1, 1]))
    (capture / "images/linked.png").symlink_to(tmp_path / "linked.png")
    edit, message = BROKEN[what]
    content = json.loads((capture / "transforms.json").read_text())
    edit(content)
    (capture / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        import_all("nerfstudio", capture, [photo("f_1"), photo("f_10"), photo("f_2")])
    assert str(caught.value).startswith(str(capture / "transforms.json: "))
    assert "\n" not in str(caught.value)
