"""Layouts of captures: recognised by content, and LLFF's table of poses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from givencameras import HEIGHT, POINT, WIDTH, check_turned, random_pose, write_dot

from loupe.camera import Camera
from loupe.errors import InputError
from loupe.images import write_image
from loupe.photos import Photo
from loupe.sources import LAYOUTS, llff, photos, recognise


def capture(folder: Path, names: tuple[str, ...] = ("a", "b", "c"), inside: str = "images") -> Path:
    (folder / inside).mkdir(parents=True, exist_ok=True)
    for name in names:
        write_image(folder / inside / f"{name}.jpg", np.zeros((6, 8, 3), np.uint8))
    return folder


def photo(name: str, width: int = 80, height: int = 60, shrink: int = 1) -> Photo:
    size = width // shrink, height // shrink
    return Photo(name, f"{name}.jpg", *size, width, height, shrink, None, "", 1.0, 0.5)


def row(height: float = 60, width: float = 80, near: float = 2, far: float = 9, z: float = 1) -> np.ndarray:
    """Camera at (1, 2, 3) that looks along the world's -z with y up: LLFF's and OpenGL's habit. With `z` other than 1,
    its axes are none of a rotation."""
    down, right, backwards = [0, -1, 0], [1, 0, 0], [0, 0, z]
    matrix = np.stack([down, right, backwards, [1, 2, 3], [height, width, 70]], 1)
    return np.concatenate([matrix.ravel(), [near, far]])


def given(folder: Path, rows: object) -> Path:
    np.save(folder / "poses_bounds.npy", np.array(rows))
    return folder


@pytest.mark.parametrize("inside", [".", "images"])
def test_photos_are_found_in_both_places(tmp_path: Path, inside: str) -> None:
    capture(tmp_path, inside=inside)
    capture(tmp_path, ("small",), "images_4")
    assert recognise(tmp_path) == "photos"
    assert [str(shot) for shot in photos.shots(tmp_path)] == ["a.jpg", "b.jpg", "c.jpg"]


@pytest.mark.parametrize("inside", [".", "images"])
@pytest.mark.parametrize("suffix", [".png", ".jpg.png"])
def test_masks_lie_beside_the_photos_by_their_names(tmp_path: Path, inside: str, suffix: str) -> None:
    capture(tmp_path, inside=inside)
    (tmp_path / "masks").mkdir()
    write_image(tmp_path / "masks" / f"b{suffix}", np.full((6, 8), 255, np.uint8))
    assert recognise(tmp_path) == "photos"
    masks = {shot.name: shot.mask for shot in photos.shots(tmp_path)}
    assert masks == {"a": None, "b": tmp_path / "masks" / f"b{suffix}", "c": None}


def test_masks_of_no_photo_or_from_elsewhere_are_refused(tmp_path: Path) -> None:
    folder = capture(tmp_path / "capture")
    (folder / "masks").mkdir()
    with pytest.raises(InputError, match=r"masks: no mask has a photo's name; for a\.jpg it is a\.png"):
        photos.shots(folder)
    write_image(tmp_path / "other.png", np.full((6, 8), 255, np.uint8))
    (folder / "masks" / "a.png").symlink_to(tmp_path / "other.png")
    with pytest.raises(InputError, match=r"masks: 'masks/a\.png' leaves the capture"):
        photos.shots(folder)


def test_photos_in_two_places_or_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        recognise(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no photos"):
        recognise(tmp_path)
    with pytest.raises(InputError, match="neither"):
        photos.shots(tmp_path)
    capture(capture(tmp_path), inside=".")
    with pytest.raises(InputError, match="both"):
        photos.shots(tmp_path)


def test_a_folder_of_photos_elsewhere_is_refused(tmp_path: Path) -> None:
    capture(tmp_path / "elsewhere")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/images").symlink_to(tmp_path / "elsewhere/images")
    for ask in (recognise, photos.shots):
        with pytest.raises(InputError, match="mine: 'images' leaves the capture"):
            ask(tmp_path / "mine")


def test_poses_make_it_llff(tmp_path: Path) -> None:
    given(capture(tmp_path), [row()] * 3)
    assert recognise(tmp_path) == "llff"
    assert LAYOUTS["llff"].cameras is llff.cameras
    assert LAYOUTS["photos"].cameras is None


def test_a_pose_by_hand(tmp_path: Path) -> None:
    """A point 4 in front of the camera, 1 to its right and 2 above it."""
    made = llff.cameras(given(capture(tmp_path), [row()] * 3), [photo("b")])[0]
    camera = made.lens.camera(made.cam_from_world)
    np.testing.assert_allclose(camera.center, [1, 2, 3])
    pixel, depth = camera.project(np.array([[2.0, 4.0, -1.0]]))
    assert depth[0] == pytest.approx(4)
    np.testing.assert_allclose(pixel[0], [40 + 70 * 1 / 4, 30 - 70 * 2 / 4])
    assert (made.photo.name, made.bounds, made.part) == ("b", (2, 9), None)


@pytest.mark.parametrize(("width", "height", "shrink"), [(160, 120, 1), (40, 30, 1), (160, 120, 4), (83, 62, 4)])
def test_other_sizes_scale_the_intrinsics(tmp_path: Path, width: int, height: int, shrink: int) -> None:
    """Photos larger or smaller than the poses say, and then shrunk, which cuts a remainder off at the end."""
    folder = given(capture(tmp_path), [row()] * 3)
    point = np.array([[1.3, 2.2, -1.0]])

    def camera(one: Photo) -> Camera:
        made = llff.cameras(folder, [one])[0]
        return made.lens.camera(made.cam_from_world)

    reference = camera(photo("a")).project(point)[0]
    seen = camera(photo("a", width, height, shrink))
    assert (seen.width, seen.height) == (width // shrink, height // shrink)
    np.testing.assert_allclose(seen.project(point)[0], reference * [width / 80, height / 60] / shrink)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_cameras_turn_with_photos_that_exif_turns(tmp_path: Path, orientation: int) -> None:
    random, rows = np.random.default_rng(3), []
    for name in "abc":
        pose = random_pose(random)
        right, down, forward = pose[:3, :3]
        center = -pose[:3, :3].T @ pose[:3, 3]
        rows.append(np.r_[np.stack([down, right, -forward, center, [HEIGHT, WIDTH, 70]], 1).ravel(), 1, 9])
        x, y, depth = pose[:3, :3] @ POINT + pose[:3, 3]
        write_dot(tmp_path / f"capture/{name}.png", np.array([WIDTH, HEIGHT]) / 2 + 70 * np.array([x, y]) / depth)
    check_turned("llff", given(tmp_path / "capture", rows), tmp_path / "photos", orientation)


@pytest.mark.parametrize("orientation", [2, 4, 5, 7])
def test_no_camera_follows_a_mirrored_photo(tmp_path: Path, orientation: int) -> None:
    given(capture(tmp_path), [row()] * 3)
    with pytest.raises(
        InputError, match=rf"EXIF orientation of photo b, {orientation}, mirrors it.* ingest anew$"
    ) as caught:
        llff.cameras(tmp_path, [photo("a"), replace(photo("b"), orientation=orientation)])
    assert str(caught.value).startswith(str(tmp_path / "poses_bounds.npy"))
    assert "\n" not in str(caught.value)


def test_photos_left_out_do_not_shift_the_rows(tmp_path: Path) -> None:
    rows = [row(), row(near=3), row(near=4)]
    made = llff.cameras(given(capture(tmp_path), rows), [photo("a"), photo("c")])
    assert [one.bounds for one in made] == [(2, 9), (4, 9)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row()] * 2, "2 poses for 3 photos"),
        ([row()[:15]] * 3, "17 numbers"),
        (row(), "17 numbers"),
        (np.array([["x"] * 17] * 3), "17 numbers"),
        ([row(), row() * np.nan, row()], "row 1 holds NaN"),
        ([row(height=80)] * 3, "another shape"),
        ([row(height=0, width=0)] * 3, "another shape"),
        ([row(), row(z=-1), row()], "does not hold a rotation"),
        ([row(), row(z=1.1), row()], "does not hold a rotation"),
        ([row(), row(near=9), row()], "near 9 and far 9 of b are not 0 < near < far"),
        ([row(), row(near=-1), row()], "near -1 and far 9 of b are not 0 < near < far"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, rows: object, message: str) -> None:
    given(capture(tmp_path), rows)
    with pytest.raises(InputError, match=message) as caught:
        llff.cameras(tmp_path, [photo(name) for name in "abc"])
    assert str(caught.value).startswith(str(tmp_path / "poses_bounds.npy"))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('a pickle ran')",)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    np.save(capture(tmp_path) / "poses_bounds.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="not a plain NumPy array"):
        llff.cameras(tmp_path, [photo(name) for name in "abc"])
    (tmp_path / "poses_bounds.npy").write_bytes(b"")
    with pytest.raises(InputError, match="not a plain NumPy array"):
        llff.cameras(tmp_path, [photo(name) for name in "abc"])
