"""IDR's and NeuS's layout: matrices that are taken apart, spheres that become bounds, and DTU's scan 65."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from rig import HEIGHT, WIDTH, Posed, check_cameras, ingested_cameras, read_cameras, ring, save

from loupe.camera import Array, Camera
from loupe.errors import InputError
from loupe.photos import Photo
from loupe.sources import LAYOUTS, idr, recognise

RIG = ring(4)
CENTER, RADIUS = np.array([0.1, -0.2, 0.3]), 1.5


def projection(posed: Posed, scale: float = 1.0) -> Array:
    """K [R | t] with pixels counted from the centre of the first one, times anything, above 0 0 0 1."""
    intrinsics = posed.intrinsics - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    return np.concatenate([scale * intrinsics @ posed.pose[:3], [[0, 0, 0, 1]]])


def matrices() -> dict[str, Array]:
    sphere = np.diag([RADIUS, RADIUS, RADIUS, 1])
    sphere[:3, 3] = CENTER
    made = {f"world_mat_{n}": projection(posed, 3.0) for n, posed in enumerate(RIG)}
    return made | {f"scale_mat_{n}": sphere for n in range(len(RIG))}


def capture(
    folder: Path, pictures: str = "image", masks: str = "mask", file: str = "cameras.npz", **more: Array
) -> Path:
    for number, posed in enumerate(RIG):
        save(folder / pictures / f"{number:03d}.png", posed.photograph())
        save(folder / masks / f"m{number}.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    np.savez(folder / file, **(matrices() | more))
    return folder


@pytest.mark.parametrize("shrink", [1, 2])
@pytest.mark.parametrize(("pictures", "masks"), [("image", "mask"), ("images", "masks")])
def test_cameras_come_back_at_the_pictures_size(tmp_path: Path, shrink: int, pictures: str, masks: str) -> None:
    folder = capture(tmp_path / "scan", pictures, masks)
    assert recognise(folder) == "idr"
    given = ingested_cameras(folder, tmp_path / "out", shrink)
    check_cameras(given, {f"{n:03d}": posed for n, posed in enumerate(RIG)}, tmp_path / "out")
    assert given[1].photo.mask == "masks/002.png"
    assert [shot.mask.name for shot in idr.shots(folder) if shot.mask] == ["m0.png", "m1.png", "m2.png", "m3.png"]


def test_bounds_touch_the_sphere(tmp_path: Path) -> None:
    for one, posed in zip(read_cameras(capture(tmp_path)), RIG, strict=True):
        depth = (posed.pose @ [*CENTER, 1])[2]
        assert one.bounds == pytest.approx((depth - RADIUS, depth + RADIUS))


def test_a_camera_in_the_sphere_sees_from_in_front_of_it(tmp_path: Path) -> None:
    wide = {f"scale_mat_{n}": np.diag([9.0, 9.0, 9.0, 1.0]) for n in range(len(RIG))}
    for one in read_cameras(capture(tmp_path, **wide)):
        assert one.bounds == pytest.approx((0.09, 13.0))


def test_without_spheres_there_are_no_bounds(tmp_path: Path) -> None:
    folder = capture(tmp_path)
    np.savez(folder / "cameras.npz", **{key: value for key, value in matrices().items() if key.startswith("world")})
    assert [one.bounds for one in read_cameras(folder)] == [None] * len(RIG)


def test_the_closer_sphere_counts(tmp_path: Path) -> None:
    folder = capture(tmp_path)
    close = {f"scale_mat_{n}": np.diag([0.5, 0.5, 0.5, 1.0]) for n in range(len(RIG))}
    np.savez(folder / "cameras_sphere.npz", **(matrices() | close))
    assert read_cameras(folder)[0].bounds == pytest.approx((3.5, 4.5))


@pytest.mark.parametrize("scale", [1.0, -0.02, 700.0])
def test_decomposition_is_exact(scale: float) -> None:
    """Whatever its scale and sign, the projection's parts are the parts and make it up again."""
    for posed in ring(20, seed=1):
        intrinsics, pose = idr.decompose(scale * (posed.intrinsics @ posed.pose[:3]))
        np.testing.assert_allclose(intrinsics, posed.intrinsics, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(pose, posed.pose, atol=1e-12)
        np.testing.assert_allclose(intrinsics @ pose[:3], posed.intrinsics @ posed.pose[:3], atol=1e-9)


def skewed(by: float) -> Array:
    intrinsics = RIG[1].intrinsics.copy()
    intrinsics[0, 1] = by
    return projection(RIG[1]._replace(intrinsics=intrinsics))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"world_mat_1": np.full((4, 4), np.nan)}, "world_mat_1, view 001: holds NaN"),
        ({"world_mat_1": np.eye(3)}, "world_mat_1, view 001: expected 4x4 plain numbers"),
        ({"world_mat_1": np.array([["x"] * 4] * 4)}, "world_mat_1, view 001: expected 4x4 plain numbers"),
        ({"world_mat_1": np.ones((4, 4))}, "world_mat_1, view 001: singular"),
        ({"world_mat_1": skewed(1.0)}, "world_mat_1, view 001: skew 1 moves pixels"),
        ({"world_mat_4": np.eye(4)}, "5 cameras for 4 photos"),
        ({"scale_mat_2": np.diag([1.0, 2, 1, 1])}, "scale_mat_2, view 002: does not scale"),
        ({"scale_mat_2": np.zeros((4, 4))}, "scale_mat_2, view 002: does not scale"),
        ({"scale_mat_2": np.full((4, 4), np.inf)}, "scale_mat_2, view 002: holds NaN or infinity"),
    ],
)
def test_bad_matrices_are_refused(tmp_path: Path, more: dict[str, Array], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_cameras(capture(tmp_path, **more))
    assert str(caught.value).startswith(str(tmp_path / "cameras.npz"))


def test_rounding_is_no_skew(tmp_path: Path) -> None:
    given = read_cameras(capture(tmp_path, world_mat_1=skewed(0.05)))
    assert given[1].lens.fx == pytest.approx(RIG[1].intrinsics[0, 0])


def behind(folder: Path) -> None:
    sphere = np.eye(4)
    sphere[:3, 3] = np.linalg.inv(RIG[0].pose)[:3] @ [0, 0, -5, 1]
    np.savez(folder / "cameras.npz", **(matrices() | {"scale_mat_0": sphere}))


def keys(*names: str) -> Callable[[Path], None]:
    return lambda folder: np.savez(folder / "cameras.npz", **{name: projection(RIG[0]) for name in names})


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('a pickle ran')",)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (behind, "scale_mat_0, view 000: the sphere lies behind"),
        (keys(*(f"world_mat_{n}" for n in range(1, 5))), "world_mat_0, view 000: missing"),
        (keys(*(f"world_mat_{n}" for n in range(4)), "scale_mat_3"), "scale_mat_0, view 000: missing"),
        (lambda folder: (folder / "cameras.npz").write_bytes(b"PK\3\4 no"), "not plain NumPy arrays"),
        (lambda folder: np.save((folder / "cameras.npz").open("wb"), np.eye(4)), "one array, without a name"),
        (
            lambda folder: np.savez(folder / "cameras.npz", world_mat_0=np.array([Evil()], dtype=object)),
            "not plain NumPy arrays",
        ),
        (lambda folder: (folder / "mask" / "m3.png").unlink(), "3 masks for 4 photos"),
        (lambda folder: [path.unlink() for path in (folder / "image").iterdir()], "holds no photos in image or"),
    ],
)
def test_a_bad_capture_is_refused(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(capture(tmp_path))
    with pytest.raises(InputError, match=message) as caught:
        read_cameras(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_of_pictures_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = capture(tmp_path / "scan")
    (folder / "image").rename(tmp_path / "elsewhere")
    (folder / "image").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="'image' leaves the capture"):
        idr.shots(folder)


@pytest.fixture(scope="module")
def scan65() -> tuple[Path, list[Camera], list[tuple[float, float] | None]]:
    folder = Path(os.environ["LOUPE_DATA"]) / "dtu_scan65"
    layout = LAYOUTS[recognise(folder)]
    assert layout.cameras is idr.cameras
    size = 1600, 1200, 1600, 1200, 1
    photos = [Photo(shot.name, shot.file.name, *size, None, "", 1.0, 0.5) for shot in layout.shots(folder)]
    given = layout.cameras(folder, photos)
    return folder, [one.lens.camera(one.cam_from_world) for one in given], [one.bounds for one in given]


real = pytest.mark.skipif("LOUPE_DATA" not in os.environ, reason="LOUPE_DATA is unset")


def meeting_point(cameras: list[Camera], pixels: Array) -> Array:
    """The point nearest to the rays through one pixel of each camera."""
    towards = np.array(
        [
            camera.unproject(pixel[None], np.ones(1))[0] - camera.center
            for camera, pixel in zip(cameras, pixels, strict=True)
        ]
    )
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    across = np.eye(3) - towards[:, :, None] * towards[:, None]
    centers = np.array([camera.center for camera in cameras])
    return np.linalg.solve(across.sum(0), np.einsum("nij,nj->i", across, centers))


@pytest.mark.real
@real
def test_scan_65_has_its_object_where_the_masks_see_it(
    scan65: tuple[Path, list[Camera], list[tuple[float, float] | None]],
) -> None:
    """The middles of 49 masks unproject to nearly one point, which lies between the bounds."""
    folder, cameras, bounds = scan65
    assert len(cameras) == 49
    middles = []
    for shot in idr.shots(folder):
        y, x = np.nonzero(cv2.imread(str(shot.mask), cv2.IMREAD_GRAYSCALE) > 127)
        middles.append([x.mean() + 0.5, y.mean() + 0.5])
    point = meeting_point(cameras, np.array(middles))
    for camera, middle, near_and_far in zip(cameras, middles, bounds, strict=True):
        pixel, depth = camera.project(point[None])
        assert np.linalg.norm(pixel[0] - middle) < 40  # of 1600: the middle of a silhouette is no point of the object
        assert near_and_far is not None
        assert near_and_far[0] < depth[0] < near_and_far[1]
        assert near_and_far[1] - near_and_far[0] == pytest.approx(2 * 164.60439, rel=1e-4)


@pytest.mark.real
@real
def test_scan_65_matches_lie_on_their_epipolar_lines(
    scan65: tuple[Path, list[Camera], list[tuple[float, float] | None]],
) -> None:
    """Matches fit within a pixel, and better than half a pixel to either side of where they are."""
    folder, cameras, _ = scan65
    files = [shot.file for shot in idr.shots(folder)]
    chosen = range(0, 49, 4)
    sift = cv2.SIFT_create(4000, enable_precise_upscale=True)  # without that, positions are a quarter of a pixel off
    features = {n: sift.detectAndCompute(cv2.imread(str(files[n]), cv2.IMREAD_GRAYSCALE), None) for n in chosen}
    errors: dict[float, list[Array]] = {-0.5: [], 0.0: [], 0.5: []}
    for a, b in combinations(chosen, 2):
        near = cv2.BFMatcher().knnMatch(features[a][1], features[b][1], k=2)
        pairs = [(one.queryIdx, one.trainIdx) for one, other in near if one.distance < 0.7 * other.distance]
        if len(pairs) < 20:
            continue
        at_a, at_b = (np.array([features[n][0][pair[side]].pt for pair in pairs]) for side, n in enumerate((a, b)))
        for shift, found in errors.items():
            found.append(epipolar_error(cameras[a], cameras[b], at_a + 0.5 + shift, at_b + 0.5 + shift))
    error = np.concatenate(errors[0.0])
    good = error < 2
    assert good.sum() > 1000
    assert good.mean() > 0.8
    assert np.median(error) < 0.5
    mean = {shift: np.sqrt((np.concatenate(found)[good] ** 2).mean()) for shift, found in errors.items()}
    assert mean[0.0] < min(mean[-0.5], mean[0.5])


def epipolar_error(a: Camera, b: Camera, at_a: Array, at_b: Array) -> Array:
    """Sampson's distance of matched pixels (n, 2) in pixels, (n,)."""
    b_from_a = b.cam_from_world @ a.world_from_cam
    x, y, z = b_from_a[:3, 3]
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ b_from_a[:3, :3]
    k_a, k_b = (np.array([[c.fx, 0, c.cx], [0, c.fy, c.cy], [0, 0, 1]]) for c in (a, b))
    fundamental = np.linalg.inv(k_b).T @ essential @ np.linalg.inv(k_a)
    ones = np.ones((len(at_a), 1))
    in_a, in_b = np.concatenate([at_a, ones], 1), np.concatenate([at_b, ones], 1)
    line_b, line_a = in_a @ fundamental.T, in_b @ fundamental
    squared = (line_a[:, :2] ** 2).sum(1) + (line_b[:, :2] ** 2).sum(1)
    return np.asarray(np.abs((in_b * line_b).sum(1)) / np.sqrt(squared))
