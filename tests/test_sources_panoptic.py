"""CMU Panoptic in the layout of Dynamic 3D Gaussians: many cameras, frame after frame; and its basketball players."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rig import HEIGHT, WIDTH, Posed, check_cameras, ingested_cameras, read_cameras, ring, save

from loupe.camera import Array, Camera
from loupe.errors import InputError
from loupe.ingestion import IngestConfig, ingest
from loupe.photos import Photo, Shot
from loupe.poses import PosesConfig, SceneConfig, estimate_scene
from loupe.sources import LAYOUTS, panoptic, recognise
from loupe.sources.given import Given

CAMERAS = dict(zip([2, 10, 3, "side"], ring(4), strict=True))
TESTS = (10,)
FRAMES = ("000072", "000073")
RIG = {f"{camera}_{frame}": posed for camera, posed in CAMERAS.items() for frame in FRAMES}


def table(cameras: dict[Any, Posed]) -> dict[str, Any]:
    return {
        "w": WIDTH,
        "h": HEIGHT,
        "k": [[posed.intrinsics.tolist() for posed in cameras.values()] for _ in FRAMES],
        "w2c": [[posed.pose.tolist() for posed in cameras.values()] for _ in FRAMES],
        "fn": [[f"{camera}/{frame}.png" for camera in cameras] for frame in FRAMES],
        "cam_id": [list(cameras) for _ in FRAMES],
    }


def train_table() -> dict[str, Any]:
    return table({camera: posed for camera, posed in CAMERAS.items() if camera not in TESTS})


def capture(folder: Path, **more: Any) -> Path:
    for camera, posed in CAMERAS.items():
        for frame in FRAMES:
            save(folder / "ims" / str(camera) / f"{frame}.png", posed.photograph())
            if camera not in TESTS:
                save(folder / "seg" / str(camera) / f"{frame}.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    (folder / "train_meta.json").write_text(json.dumps(train_table() | more))
    (folder / "test_meta.json").write_text(json.dumps(table({camera: CAMERAS[camera] for camera in TESTS})))
    return folder


@pytest.mark.parametrize("shrink", [1, 2])
def test_cameras_come_back_at_the_pictures_size(tmp_path: Path, shrink: int) -> None:
    folder = capture(tmp_path / "game")
    assert recognise(folder) == "panoptic"
    given = ingested_cameras(folder, tmp_path / "out", shrink)
    assert [one.photo.name for one in given] == [name for name in sorted(RIG) if name != "10_000073"]
    check_cameras(given, RIG, tmp_path / "out")


def test_cameras_times_and_sides_are_kept(tmp_path: Path) -> None:
    made = {one.photo.name: one for one in read_cameras(capture(tmp_path))}
    assert {name: (one.photo.camera_id, one.photo.frame, one.part, one.bounds) for name, one in made.items()} == {
        f"{camera}_{frame}": (str(camera), time, "test" if camera in TESTS else "train", None)
        for camera in CAMERAS
        for time, frame in enumerate(FRAMES)
    }


def test_masks_are_found_where_there_are_any(tmp_path: Path) -> None:
    shots = panoptic.shots(capture(tmp_path))
    assert {shot.name for shot in shots if not shot.mask} == {"10_000072", "10_000073"}
    assert {shot.mask.relative_to(tmp_path).as_posix() for shot in shots if shot.camera_id == "2" and shot.mask} == {
        "seg/2/000072.png",
        "seg/2/000073.png",
    }


def test_without_a_test_table_all_views_train(tmp_path: Path) -> None:
    (capture(tmp_path) / "test_meta.json").unlink()
    given = read_cameras(tmp_path)
    assert len(given) == 6
    assert {one.part for one in given} == {"train"}


def changed(key: str, value: Any) -> dict[str, Any]:
    """The entry of camera 3 (the second) at time 1."""
    rows = train_table()[key]
    rows[1][1] = value
    return {key: rows}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"w": None}, "w: expected one plain number"),
        ({"h": 0}, "h: 0 is no number of pixels"),
        ({"w": 60.5}, "w: 60.5 is no number of pixels"),
        ({"w": 90}, r"\[0\]\[0\], view 2_000072: cameras are for 90x47 pixels, but photo 2_000072 has 61x47"),
        ({"k": None}, "k: missing, or not a list"),
        ({"w2c": [1, 2]}, "w2c: missing, or not a list"),
        ({"fn": train_table()["fn"][:1]}, "fn, cam_id, k and w2c: 1, 2, 2, 2 entries"),
        ({"cam_id": [[2, 3], [2, 3]]}, "time 0: 3, 2, 3, 3 entries"),
        (changed("fn", "3/000099.png"), r"\[1\]\[1\]: fn: .*3/000099.png: no such file"),
        (changed("fn", "../../3.png"), r"\[1\]\[1\]: fn: '../../3.png' leaves the capture"),
        (changed("fn", "/etc/hostname"), r"\[1\]\[1\]: fn: '/etc/hostname' leaves the capture"),
        (changed("fn", "3/linked.png"), r"\[1\]\[1\]: fn: '3/linked.png' leaves the capture"),
        (changed("fn", 7), r"\[1\]\[1\]: fn: 7 is no path"),
        (changed("cam_id", None), r"\[1\]\[1\]: cam_id: None names no camera"),
        (changed("cam_id", "a/b"), r"\[1\]\[1\]: view 'a/b_000073': rename"),
        (changed("cam_id", "../3"), r"\[1\]\[1\]: view '../3_000073': rename"),
        (changed("cam_id", "-rf"), r"\[1\]\[1\]: view '-rf_000073': rename"),
        (changed("cam_id", "a\nb"), r"\[1\]\[1\]: view 'a\\nb_000073': rename"),
        (changed("cam_id", "a\0b"), r"\[1\]\[1\]: view 'a\\x00b_000073': rename"),
        (changed("cam_id", "x" * 300), r"\[1\]\[1\]: view 'x+_000073': rename"),
        (changed("k", [[1, 0], [0, 1]]), r"\[1\]\[1\], view 3_000073: k: expected 3x3 plain numbers"),
        (changed("k", [[1, 0], [0]]), r"\[1\]\[1\], view 3_000073: k: expected 3x3 plain numbers"),
        (changed("k", np.eye(3).astype(str).tolist()), r"\[1\]\[1\], view 3_000073: k: expected 3x3 plain numbers"),
        (changed("k", [[-9, 0, 1], [0, 9, 1], [0, 0, 1]]), r"\[1\]\[1\], view 3_000073: k: not intrinsics"),
        (changed("w2c", np.full((4, 4), np.nan).tolist()), r"\[1\]\[1\], view 3_000073: w2c: holds NaN"),
        (changed("w2c", np.diag([2, 2, 2, 1]).tolist()), r"\[1\]\[1\], view 3_000073: w2c: not a rotation"),
        (changed("w2c", np.ones((4, 4)).tolist()), r"\[1\]\[1\], view 3_000073: w2c: not a rotation"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    folder = capture(tmp_path / "game", **more)
    (folder / "ims" / "3" / "linked.png").symlink_to(save(tmp_path / "3.png", np.zeros((4, 4), np.uint8)))
    with pytest.raises(InputError, match=message) as caught:
        read_cameras(folder)
    assert str(caught.value).startswith(str(folder / "train_meta.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("row", [[2, 10, "side"], [2, 3, "SIDE"]], ids=["in both tables", "but for case"])
def test_views_that_share_a_name_are_refused(tmp_path: Path, row: list[int | str]) -> None:
    folder = capture(tmp_path / "game", cam_id=[row, row])
    other = train_table() | {"cam_id": [[10, 30, "side"]] * 2}
    (folder / "test_meta.json").write_text(json.dumps(other))
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"ims/\S+\.png: would be the same view as /\S+\.png; rename one"):
        ingest(panoptic.shots(folder), IngestConfig(), tmp_path / "out", print)


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_a_table_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (capture(tmp_path) / "test_meta.json").write_text(content)
    with pytest.raises(InputError, match=r"not JSON|expected a mapping") as caught:
        panoptic.shots(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "test_meta.json"))


real = pytest.mark.skipif("LOUPE_DATA" not in os.environ, reason="LOUPE_DATA is unset")


def basketball() -> tuple[Path, list[Shot], list[Given]]:
    """The capture, its 496 shots and their cameras."""
    folder = Path(os.environ["LOUPE_DATA"]) / "basketball"
    layout = LAYOUTS[recognise(folder)]
    assert layout.cameras is panoptic.cameras
    shots = layout.shots(folder)
    assert len(shots) == 31 * 16
    size = 640, 360, 640, 360, 1
    photos = [
        Photo(shot.name, shot.file.name, *size, None, "", 1.0, 0.5, None, shot.camera_id, shot.frame) for shot in shots
    ]
    return folder, shots, layout.cameras(folder, photos)


def masked(shots: list[Shot], given: list[Given], time: int) -> tuple[list[Camera], list[np.ndarray]]:
    """The cameras and the masks of a time."""
    chosen = [n for n, shot in enumerate(shots) if shot.frame == time and shot.mask]
    cameras = [given[n].lens.camera(given[n].cam_from_world) for n in chosen]
    return cameras, [cv2.imread(str(shots[n].mask), cv2.IMREAD_GRAYSCALE) > 0 for n in chosen]


@pytest.mark.real
@real
def test_the_players_stand_where_the_masks_see_them() -> None:
    """The silhouettes of 27 cameras meet in bodies as tall as people, and do not with each camera's pose the next's."""
    _, shots, given = basketball()
    assert {one.photo.camera_id for one in given if one.part == "test"} == {"0", "10", "15", "30"}
    for time in (0, 15):
        cameras, masks = masked(shots, given, time)
        assert len(masks) == 27
        players = carved(cameras, masks)
        assert len(players) > 100
        assert 1.2 < np.ptp(players[:, 1]) < 2.2  # metres, y down
        assert -0.4 < players[:, 1].max() < 0.2  # the floor is at 0
        assert len(carved(cameras[1:] + cameras[:1], masks)) < 10


@pytest.mark.real
@real
def test_the_bounds_hold_the_players(tmp_path: Path) -> None:
    """The first two frames as a scene: in nearly all views the players stand wholly between near and far."""
    folder, shots, given = basketball()
    players = carved(*masked(shots, given, 0))
    for name in ("photos", "scene"):
        (tmp_path / name).mkdir()
    table = ingest([shot for shot in shots if shot.frame < 2], IngestConfig(), tmp_path / "photos", print).photos
    photos = tmp_path / "photos", table
    scene = estimate_scene(
        folder, photos, PosesConfig(), SceneConfig(), tmp_path / "scene", print, lambda *_: None
    ).scene
    assert len(scene.views) == 62
    assert {scene.view(name).camera_id for name in scene.test} == {"0", "10", "15", "30"}
    held = []
    for view in scene.views:
        pixels, depth = view.camera.project(players)
        shown = (depth > 0) & (pixels >= 0).all(1) & (pixels < [640, 360]).all(1)
        held.append(((view.near < depth) & (depth < view.far))[shown].all())
    assert np.mean(held) > 0.95


def carved(cameras: list[Camera], masks: list[np.ndarray]) -> Array:
    """Points of the room (n, 3), 0.1 apart, that lie in the masks of nearly all the cameras that see them."""
    axes = [np.arange(-2.0, 2.0, 0.1), np.arange(-3.0, 0.5, 0.1), np.arange(-2.0, 2.0, 0.1)]
    room = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    hits, seen = np.zeros(len(room)), np.zeros(len(room))
    for camera, mask in zip(cameras, masks, strict=True):
        pixels, depth = camera.project(room)
        inside = (depth > 0) & (pixels >= 0).all(1) & (pixels < [camera.width, camera.height]).all(1)
        x, y = pixels[inside].astype(int).T
        seen[inside] += 1
        hits[inside] += mask[y, x]
    return room[(seen >= 15) & (hits >= 0.95 * seen)]
