"""EasyMocap's layout: two files as OpenCV writes them, and cameras that film together."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from rig import HEIGHT, SPOT, WIDTH, Posed, check_cameras, ingested_cameras, read_cameras, ring, save, write_opencv

from loupe.errors import InputError
from loupe.ingestion import IngestConfig, ingest
from loupe.sources import easymocap, recognise

CAMERAS = dict(zip(["01", "10", "2"], ring(3), strict=True))
FRAMES = ("f8", "f9", "f10")
RIG = {f"{camera}_{frame}": posed for camera, posed in CAMERAS.items() for frame in FRAMES}
STRAIGHT = np.zeros(5)
BENT = np.array([-0.11, 0.04, 0.003, -0.002, 0.01])  # k1 k2 p1 p2 k3


def opencv(posed: Posed) -> np.ndarray:
    """Intrinsics with pixels counted from the centre of the first one."""
    return posed.intrinsics - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]


def intrinsics(distortion: np.ndarray = STRAIGHT) -> dict[str, object]:
    made: dict[str, object] = {"names": list(CAMERAS)}
    for name, posed in CAMERAS.items():
        made |= {f"K_{name}": opencv(posed), f"dist_{name}": distortion[None]}
    return made


def extrinsics() -> dict[str, object]:
    """The rotation of camera 2 as a matrix alone."""
    made: dict[str, object] = {"names": list(CAMERAS)}
    for name, posed in CAMERAS.items():
        rotation = posed.pose[:3, :3]
        made |= {"Rot_2": rotation} if name == "2" else {f"R_{name}": cv2.Rodrigues(rotation)[0]}
        made[f"T_{name}"] = posed.pose[:3, 3:]
    return made


def capture(folder: Path, intri: dict[str, object] | None = None, extri: dict[str, object] | None = None) -> Path:
    for camera, posed in CAMERAS.items():
        for frame in FRAMES:
            save(folder / "images" / camera / f"{frame}.jpg", posed.photograph())
    write_opencv(folder / "intri.yml", intrinsics() | (intri or {}))
    write_opencv(folder / "extri.yml", extrinsics() | (extri or {}))
    return folder


@pytest.mark.parametrize("shrink", [1, 2])
def test_cameras_come_back_at_the_pictures_size(tmp_path: Path, shrink: int) -> None:
    folder = capture(tmp_path / "dance")
    assert recognise(folder) == "easymocap"
    given = ingested_cameras(folder, tmp_path / "out", shrink)
    check_cameras(given, RIG, tmp_path / "out")
    assert {one.lens[6:] for one in given} == {(0.0,) * 5}


def test_cameras_and_times_are_kept(tmp_path: Path) -> None:
    given = {one.photo.name: one for one in read_cameras(capture(tmp_path))}
    assert {name: (one.photo.camera_id, one.photo.frame) for name, one in given.items()} == {
        f"{camera}_{frame}": (camera, time) for camera in CAMERAS for time, frame in enumerate(FRAMES)
    }


def test_names_may_be_numbers(tmp_path: Path) -> None:
    shutil.rmtree(capture(tmp_path, {"names": [10, 2]}) / "images" / "01")
    assert [shot.name for shot in easymocap.shots(tmp_path)] == [name for name in sorted(RIG) if name[:2] != "01"]


def without(values: dict[str, object], key: str) -> dict[str, object]:
    return {name: value for name, value in values.items() if name != key}


@pytest.mark.parametrize(("key", "coefficients"), [("dist", 5), ("dist", 4), ("D", 5)])
def test_the_lens_is_opencvs(tmp_path: Path, key: str, coefficients: int) -> None:
    """OpenCV's own projection, in its pixels, is the imported lens's but for half a pixel."""
    folder = capture(tmp_path)
    distortion = BENT[:coefficients]
    write_opencv(folder / "intri.yml", without(intrinsics(), "dist_01") | {f"{key}_01": distortion[:, None]})
    posed = CAMERAS["01"]
    shown = cv2.projectPoints(
        SPOT[None], cv2.Rodrigues(posed.pose[:3, :3])[0], posed.pose[:3, 3], opencv(posed), distortion
    )[0].reshape(2)
    one = read_cameras(folder)[0]
    in_camera = one.cam_from_world[:3, :3] @ SPOT + one.cam_from_world[:3, 3]
    np.testing.assert_allclose(one.lens.distort(in_camera[:2] / in_camera[2]), shown + 0.5, atol=1e-9)
    assert np.linalg.norm(shown + 0.5 - posed.shows()) > 0.001


def test_without_coefficients_the_lens_is_straight(tmp_path: Path) -> None:
    write_opencv(capture(tmp_path) / "intri.yml", without(intrinsics(), "dist_01"))
    assert read_cameras(tmp_path)[0].lens[6:] == (0, 0, 0, 0, 0)


def test_intrinsics_may_be_for_pictures_of_another_size(tmp_path: Path) -> None:
    """Twice as large: the picture's pixel i covers pixels 2 i and 2 i + 1 of those."""
    larger = {f"K_{name}": np.diag([2, 2, 1]) @ posed.intrinsics for name, posed in CAMERAS.items()}
    for matrix in larger.values():
        matrix[:2, 2] -= 0.5
    sizes = {f"{side}_{name}": value for side, value in (("W", 122.0), ("H", 94)) for name in CAMERAS}
    for one in read_cameras(capture(tmp_path, larger | sizes)):
        camera = one.lens.camera(one.cam_from_world)
        np.testing.assert_allclose(camera.project(SPOT[None])[0][0], RIG[one.photo.name].shows(), atol=1e-9)


@pytest.mark.parametrize(
    ("extri", "bounds"),
    [({}, None), ({"n_01": 0.5, "f_01": 9}, (0.5, 9)), ({"n_01": 0.0001, "f_01": 1e6}, None)],
)
def test_bounds(tmp_path: Path, extri: dict[str, object], bounds: tuple[float, float] | None) -> None:
    given = read_cameras(capture(tmp_path, extri=extri))
    assert [one.bounds for one in given] == [bounds] * 3 + [None] * 6


def test_masks_are_found_where_there_are_any(tmp_path: Path) -> None:
    folder = capture(tmp_path)
    save(folder / "masks" / "2" / "f9.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    assert [(shot.name, shot.mask.name) for shot in easymocap.shots(folder) if shot.mask] == [("2_f9", "f9.png")]


NAN, TALL = np.full((3, 3), np.nan), np.zeros((4, 1))


@pytest.mark.parametrize(
    ("intri", "extri", "message"),
    [
        ({"K_10": NAN}, {}, "intri.yml: K_10, view 10_f10: holds NaN"),
        ({"K_10": np.eye(2)}, {}, "intri.yml: K_10, view 10_f10: expected 3x3"),
        ({"K_10": "none"}, {}, "intri.yml: K_10: missing, or no matrix"),
        ({"K_10": np.zeros((3, 3))}, {}, "intri.yml: K_10, view 10_f10: not intrinsics"),
        ({"dist_10": np.ones((1, 3))}, {}, "intri.yml: dist_10: expected k1 k2 p1 p2"),
        ({"dist_10": np.full((1, 8), 0.1)}, {}, "intri.yml: dist_10: expected k1 k2 p1 p2"),
        ({"dist_10": np.full((1, 5), np.inf)}, {}, "intri.yml: dist_10: holds NaN or infinity"),
        ({"W_10": 61}, {}, "intri.yml: H_10: expected one plain number"),
        ({"W_10": 0, "H_10": 47}, {}, "intri.yml: W_10, H_10: 0x47 is no size"),
        ({"W_10": 47, "H_10": 61}, {}, "camera 10: cameras are for 47x61 pixels, but photo 10_f10 has 61x47"),
        ({"names": []}, {}, "intri.yml: names: missing, or no list"),
        ({"names": ["01", "10"]}, {}, "intri.yml: names: no camera for the folder images/2"),
        ({"names": ["01", "10", "2", "2"]}, {}, "intri.yml: names: a camera stands there twice"),
        ({"names": ["01", "10", "../2"]}, {}, "intri.yml: names: camera '../2': rename"),
        ({"names": ["01", "10", "-rf"]}, {}, "intri.yml: names: camera '-rf': rename"),
        ({"names": ["01", "10", "/etc"]}, {}, "intri.yml: names: camera '/etc': rename"),
        ({"names": ["01", "10", "a\nb"]}, {}, r"intri.yml: names: camera 'a\\nb': rename"),
        ({"names": ["01", "10", "x" * 300]}, {}, "intri.yml: names: camera 'x+': rename"),
        ({"names": ["01", "10", "2", "30"]}, {}, "images/30: 3 of 3 frames are missing, the first is f8"),
        ({}, {"R_10": TALL}, "extri.yml: R_10: expected 3 plain numbers"),
        ({}, {"R_10": np.full((3, 1), np.nan)}, "extri.yml: R_10: holds NaN"),
        ({}, {"Rot_2": 2 * np.eye(3)}, "extri.yml: Rot_2: not a rotation"),
        ({}, {"Rot_2": np.diag([1.0, 1.0, -1.0])}, "extri.yml: Rot_2: not a rotation"),
        ({}, {"Rot_2": NAN}, "extri.yml: Rot_2: holds NaN"),
        ({}, {"T_10": np.full((3, 1), np.inf)}, "extri.yml: T_10: holds NaN"),
        ({}, {"T_10": TALL}, "extri.yml: T_10: expected 3 plain numbers"),
        ({}, {"T_10": 5}, "extri.yml: T_10: missing, or no matrix"),
        ({}, {"n_10": 3.0}, "extri.yml: f_10: expected one plain number"),
        ({}, {"n_10": 3.0, "f_10": 2.0}, "camera 10: near 3 and far 2 of 10_f10 are not"),
    ],
)
def test_bad_cameras_are_refused(
    tmp_path: Path, intri: dict[str, object], extri: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_cameras(capture(tmp_path, intri, extri))
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("frame", "clash"), [("f9.png", "f9.jpg"), ("F9.jpg", "f9.jpg")])
def test_frames_that_share_a_name_are_refused(tmp_path: Path, frame: str, clash: str) -> None:
    folder = capture(tmp_path / "dance")
    for camera, posed in CAMERAS.items():
        save(folder / "images" / camera / frame, posed.photograph())
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="would be the same view as") as caught:
        ingest(easymocap.shots(folder), IngestConfig(), tmp_path / "out", print)
    assert all(str(folder / "images/01" / name) in str(caught.value) for name in (frame, clash))


def test_cameras_that_share_a_name_but_for_case_are_refused(tmp_path: Path) -> None:
    write_opencv(tmp_path / "intri.yml", {"names": ["Cam", "cam"]})
    write_opencv(tmp_path / "extri.yml", {"names": ["Cam", "cam"]})
    for camera in ("Cam", "cam"):
        save(tmp_path / "images" / camera / "1.png", CAMERAS["2"].photograph())
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"cam/1\.png: would be the same view as .*Cam/1\.png"):
        ingest(easymocap.shots(tmp_path), IngestConfig(), tmp_path / "out", print)


@pytest.mark.parametrize("key", ["R_01", "T_01"])
def test_a_missing_pose_is_refused(tmp_path: Path, key: str) -> None:
    write_opencv(capture(tmp_path) / "extri.yml", without(extrinsics(), key))
    with pytest.raises(InputError, match=r"extri\.yml: (Rot|T)_01: missing"):
        read_cameras(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"%YAML:1.0\n---\nnames: [", bytes(range(256))])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (capture(tmp_path) / "intri.yml").write_bytes(content)
    with pytest.raises(InputError, match=r"intri\.yml: not a file of OpenCV's FileStorage"):
        easymocap.shots(tmp_path)


def test_a_missing_frame_is_named(tmp_path: Path) -> None:
    (capture(tmp_path) / "images" / "10" / "f9.jpg").unlink()
    with pytest.raises(InputError, match="images/10: 1 of 3 frames are missing, the first is f9"):
        easymocap.shots(tmp_path)


def move_out(folder: Path) -> None:
    folder.rename(folder.parents[2] / "elsewhere")
    folder.symlink_to(folder.parents[2] / "elsewhere")


@pytest.mark.parametrize("inside", ["images/10", "masks/10"])
def test_a_folder_elsewhere_is_refused(tmp_path: Path, inside: str) -> None:
    folder = capture(tmp_path / "dance")
    (folder / inside).mkdir(parents=True, exist_ok=True)
    move_out(folder / inside)
    with pytest.raises(InputError, match=f"'{inside}' leaves the capture"):
        easymocap.shots(folder)


def test_no_photos_are_refused(tmp_path: Path) -> None:
    for path in (capture(tmp_path) / "images").glob("*/*"):
        path.unlink()
    with pytest.raises(InputError, match="images: holds no photos"):
        easymocap.shots(tmp_path)
