"""Captures that are videos: a walk through a scene, and cameras that stand around one that moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_video import SIZE, encode, grey, noise

from loupe.errors import InputError
from loupe.images import read_image, write_image
from loupe.ingestion import IngestConfig, Ingested, ingest
from loupe.sources import LAYOUTS, recognise


def ingested(capture: Path, **config: int) -> Ingested:
    out = capture.parent / "out"
    out.mkdir()
    shots = LAYOUTS[recognise(capture)].shots(capture)
    return ingest(shots, IngestConfig(**{"shrink": 1} | config), out, print)


@pytest.fixture
def walk(tmp_path: Path) -> Path:
    """Thirty frames, of which each sixth is sharp."""
    (tmp_path / "walk").mkdir()
    encode(tmp_path / "walk/IMG_1.mp4", [noise(0.6 if number % 6 == 4 else 2.5, number) for number in range(30)])
    return tmp_path / "walk"


def test_the_sharp_frames_of_a_walk_become_photos(walk: Path, tmp_path: Path) -> None:
    assert recognise(walk) == "video"
    made = ingested(walk, frames=5)
    assert [photo.name for photo in made.photos] == [f"IMG_1_{number:06d}" for number in (4, 10, 16, 22, 28)]
    assert {(photo.camera_id, photo.frame, photo.width) for photo in made.photos} == {("0", 0, SIZE[0])}
    kept = read_image(tmp_path / "out" / made.photos[1].file)
    assert np.abs(kept.astype(int) - noise(0.6, 10)).mean() < 4


def test_photos_beside_a_video_go_first(walk: Path) -> None:
    for name in "abc":
        write_image(walk / f"{name}.jpg", grey(9))
    assert recognise(walk) == "photos"


def test_two_walks_are_two_captures(walk: Path) -> None:
    (walk / "IMG_2.MOV").write_bytes((walk / "IMG_1.mp4").read_bytes())
    with pytest.raises(InputError, match=r"expected one video, found IMG_1\.mp4, IMG_2\.MOV"):
        LAYOUTS["video"].shots(walk)


@pytest.mark.parametrize("name", ["-rf.mp4", "a\nb.mp4", "$(x).mp4", "x" * 121 + ".mp4"])
def test_a_dangerous_name_is_refused(walk: Path, stage: Path, name: str) -> None:
    for capture, video in ((walk, "IMG_1.mp4"), (stage, "cam01.mp4")):
        (capture / video).rename(capture / name)
        with pytest.raises(InputError, match="rename this photo") as caught:
            LAYOUTS[recognise(capture)].shots(capture)
        assert "\n" not in str(caught.value)


def test_a_video_elsewhere_is_refused(walk: Path, stage: Path) -> None:
    for capture, video in ((walk, "IMG_1.mp4"), (stage, "cam01.mp4")):
        (capture / video).rename(capture.parent / video)
        (capture / video).symlink_to(capture.parent / video)
        with pytest.raises(InputError, match=f"{video}: the link leaves the capture; put the video itself there"):
            recognise(capture)


def test_videos_that_share_a_name_but_for_case_are_refused(stage: Path) -> None:
    (stage / "CAM01.mp4").write_bytes((stage / "cam01.mp4").read_bytes())
    with pytest.raises(InputError, match=r"cam01\.mp4: would be the same view as .*CAM01\.mp4"):
        ingested(stage)


def pose(x: float) -> np.ndarray:
    """LLFF's row of a camera at (x, 0, 3) that looks along -z, for pictures of SIZE."""
    down, right, backwards = [0, -1, 0], [1, 0, 0], [0, 0, 1]
    return np.r_[np.stack([down, right, backwards, [x, 0, 3], [SIZE[1], SIZE[0], 70]], 1).ravel(), 1, 9]


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """Three cameras and four frames; the grey level tells both."""
    folder = tmp_path / "stage"
    folder.mkdir()
    for camera in range(3):
        encode(folder / f"cam{camera:02}.mp4", [grey(60 * camera + 15 * number) for number in range(4)])
    np.save(folder / "poses_bounds.npy", np.stack([pose(x) for x in range(3)]))
    return folder


@pytest.mark.parametrize("every", [1, 2])
def test_every_frame_has_its_cameras_pose(stage: Path, tmp_path: Path, every: int) -> None:
    assert recognise(stage) == "neural3dv"
    made = ingested(stage, every=every)
    given = LAYOUTS["neural3dv"].cameras(stage, made.photos)
    assert len(given) == 12 // every
    for one in given:
        camera, frame = int(one.photo.camera_id.removeprefix("cam")), one.photo.frame
        assert one.photo.name == f"cam{camera:02}_{frame:06d}"
        assert frame % every == 0
        np.testing.assert_allclose(one.lens.camera(one.cam_from_world).center, [camera, 0, 3])
        assert one.part == ("train" if camera else "test")
        assert abs(read_image(tmp_path / "out" / one.photo.file).mean() - 60 * camera - 15 * frame) < 3


def test_videos_of_different_lengths_are_refused(stage: Path) -> None:
    encode(stage / "cam01.mp4", [grey(9)] * 3)
    with pytest.raises(InputError, match=r"cam01\.mp4 has 3 frames, cam00\.mp4 4"):
        LAYOUTS["neural3dv"].shots(stage)


def test_a_pose_too_few_is_refused(stage: Path) -> None:
    made = ingested(stage)
    np.save(stage / "poses_bounds.npy", np.stack([pose(0)] * 2))
    with pytest.raises(InputError, match="2 poses for 3 photos"):
        LAYOUTS["neural3dv"].cameras(stage, made.photos)


def test_frames_that_a_broken_video_lacks_are_left_out_and_named(stage: Path) -> None:
    shots = LAYOUTS["neural3dv"].shots(stage)
    shots += [shots[-1]._replace(name="cam02_000009", frame=9, still=9)]
    (stage.parent / "out").mkdir()
    made = ingest(shots, IngestConfig(shrink=1), stage.parent / "out", print)
    assert made.left_out == {"cam02_000009": "the video ends before this frame"}
    assert len(made.photos) == 12
