"""BlendedMVS's layout: a text file a camera."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rig import Posed, check_cameras, ingested_cameras, read_cameras, ring, save

from loupe.errors import InputError
from loupe.sources import blendedmvs, recognise

RIG = {f"{number:08d}": posed for number, posed in enumerate(ring(4))}


def rows(matrix: np.ndarray) -> str:
    return "\n".join(" ".join(f"{value:.17g}" for value in row) for row in matrix)


def text(posed: Posed, depths: str) -> str:
    return f"extrinsic\n{rows(posed.pose)}\n\nintrinsic\n{rows(posed.intrinsics)}\n\n{depths}\n"


def capture(folder: Path, depths: str = "2.5 0.01 128 3.77") -> Path:
    (folder / "cams").mkdir(parents=True)
    (folder / "cams" / "pair.txt").write_text("0")
    for name, posed in RIG.items():
        save(folder / "blended_images" / f"{name}.jpg", posed.photograph())
        save(folder / "blended_images" / f"{name}_masked.jpg", posed.photograph())
        (folder / "cams" / f"{name}_cam.txt").write_text(text(posed, depths))
    return folder


@pytest.mark.parametrize("shrink", [1, 2])
def test_cameras_come_back_at_the_pictures_size(tmp_path: Path, shrink: int) -> None:
    folder = capture(tmp_path / "scan")
    assert recognise(folder) == "blendedmvs"
    assert [str(shot) for shot in blendedmvs.shots(folder)] == [f"{name}.jpg" for name in RIG]
    check_cameras(ingested_cameras(folder, tmp_path / "out", shrink), RIG, tmp_path / "out")


@pytest.mark.parametrize(
    ("depths", "bounds"),
    [
        ("2.5 0.01 128 3.77", (2.5, 3.77)),
        ("2.5 0.01 128", (2.5, 3.77)),
        ("2.5 0.01", None),
        ("-0.1 0.01 128 1.17", None),
        ("0 0.01 128 1.27", None),
        ("2.5 0.01 1 2.5", None),
    ],
)
def test_bounds_are_the_first_and_the_last_depth(
    tmp_path: Path, depths: str, bounds: tuple[float, float] | None
) -> None:
    assert [one.bounds for one in read_cameras(capture(tmp_path, depths))] == [bounds and pytest.approx(bounds)] * 4


BAD = "00000001"


def rewritten(old: str, new: str) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        before = path.read_text()
        assert old in before
        path.write_text(before.replace(old, new, 1))

    return spoil


def with_camera(change: Callable[[Posed], Posed]) -> Callable[[Path], object]:
    return lambda path: path.write_text(text(change(RIG[BAD]), "2.5 0.01 128 3.77"))


SKEW = np.array([[0, 1, 0], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "no such file; every photo needs its camera"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "not text"),
        (rewritten("extrinsic", "camera"), "expected 'extrinsic' and 16 numbers"),
        (rewritten("intrinsic", ""), "expected 'extrinsic' and 16 numbers"),
        (rewritten("2.5 0.01 128 3.77", ""), "and 2 to 4 numbers"),
        (rewritten("2.5 0.01 128 3.77", "2.5 x"), "could not convert string to float: 'x'"),
        (rewritten("2.5 0.01 128 3.77", "nan 1"), "holds NaN or infinity"),
        (with_camera(lambda one: one._replace(pose=2 * one.pose)), "extrinsic: not a rotation"),
        (with_camera(lambda one: one._replace(pose=np.diag([1.0, 1, -1, 1]))), "extrinsic: not a rotation"),
        (with_camera(lambda one: one._replace(intrinsics=-one.intrinsics)), "intrinsic: not intrinsics"),
        (with_camera(lambda one: one._replace(intrinsics=one.intrinsics.T)), "intrinsic: not intrinsics"),
        (with_camera(lambda one: one._replace(intrinsics=one.intrinsics + SKEW)), "intrinsic: skew 1 moves"),
    ],
)
def test_a_bad_camera_is_refused(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    path = capture(tmp_path) / "cams" / f"{BAD}_cam.txt"
    spoil(path)
    with pytest.raises(InputError, match=message) as caught:
        read_cameras(tmp_path)
    assert str(caught.value).startswith(f"{path}: view {BAD}: ")


def test_a_camera_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = capture(tmp_path / "scan")
    path = folder / "cams" / f"{BAD}_cam.txt"
    path.rename(tmp_path / "elsewhere.txt")
    path.symlink_to(tmp_path / "elsewhere.txt")
    with pytest.raises(InputError, match=f"cams/{BAD}_cam.txt' leaves the capture"):
        read_cameras(folder)


def test_no_photos_are_refused(tmp_path: Path) -> None:
    for path in (capture(tmp_path) / "blended_images").iterdir():
        if "masked" not in path.name:
            path.unlink()
    with pytest.raises(InputError, match="blended_images: holds no photos"):
        blendedmvs.shots(tmp_path)
