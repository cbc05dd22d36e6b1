"""COLMAP models written by pycolmap, and one that COLMAP made of photographs."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycolmap
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
from test_poses import CONFIG, estimate, take, true_camera

from loupe.align import compare_cameras
from loupe.camera import Array
from loupe.config import parse_section
from loupe.errors import InputError
from loupe.images import write_image
from loupe.ingestion import IngestConfig, ingest
from loupe.poses import PosesConfig
from loupe.sfm import reconstruct
from loupe.sources import colmap, recognise

LENSES = {
    "SIMPLE_PINHOLE": [71.0, 40.2, 31.1],
    "PINHOLE": [71.0, 74.0, 40.2, 31.1],
    "SIMPLE_RADIAL": [71.0, 40.2, 31.1, 0.2],
    "RADIAL": [71.0, 40.2, 31.1, 0.2, -0.1],
    "OPENCV": [71.0, 74.0, 40.2, 31.1, 0.2, -0.1, 0.03, -0.02],
    "FULL_OPENCV": [71.0, 74.0, 40.2, 31.1, 0.2, -0.1, 0.03, -0.02, 0.05, 0.0, 0.0, 0.0],
}
NAMES = ["a.png", "b/a.png", "b/c.png", "e.png"]


def model_of(names: list[str], kind: str = "OPENCV", seed: int = 0) -> pycolmap.Reconstruction:
    """Random cameras that see the point, and nine more points."""
    random = np.random.default_rng(seed)
    model = pycolmap.Reconstruction()
    params = LENSES.get(kind, LENSES["OPENCV"])
    model.add_camera_with_trivial_rig(
        pycolmap.Camera(camera_id=3, model=kind, width=WIDTH, height=HEIGHT, params=params)
    )
    for number, name in enumerate(names):
        image = pycolmap.Image(name=name, keypoints=np.zeros((10, 2)), camera_id=3, image_id=7 - number)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(random_pose(random)[:3]))
    for place in range(10):
        track = pycolmap.Track([pycolmap.TrackElement(7 - number, place) for number in range(len(names))])
        model.add_point3D(POINT + place, track)
    return model


def pixels_in(model: pycolmap.Reconstruction) -> dict[str, Array]:
    """Where COLMAP projects the point to, by name."""
    images = [model.image(key) for key in model.reg_image_ids()]
    return {image.name: image.camera.img_from_cam((image.cam_from_world() * POINT)[None])[0] for image in images}


def write(model: pycolmap.Reconstruction, folder: Path, suffix: str = ".txt") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (model.write_text if suffix == ".txt" else model.write_binary)(folder)


def capture_of(folder: Path, model: pycolmap.Reconstruction, suffix: str = ".txt", images: str = "images") -> Path:
    write(model, folder / "sparse/0", suffix)
    for name, pixel in pixels_in(model).items():
        write_dot(folder / images / name, pixel)
    return folder


def by_view(pixels: dict[str, Array]) -> dict[str, Array]:
    return {name.removesuffix(".png").replace("/", "_"): pixel for name, pixel in pixels.items()}


@pytest.mark.parametrize("shrink", [1, 2])
@pytest.mark.parametrize(("kind", "suffix"), [*((kind, ".txt") for kind in LENSES), ("OPENCV", ".bin")])
def test_cameras_are_those_of_colmap(tmp_path: Path, kind: str, suffix: str, shrink: int) -> None:
    model = model_of([*NAMES, "f g.png"] if suffix == ".bin" else NAMES, kind)  # in a text model, names end at a space
    capture = capture_of(tmp_path / "capture", model, suffix)
    given = check_round_trip("colmap", capture, by_view(pixels_in(model)), tmp_path / "photos", shrink)
    assert {(one.bounds, one.part, one.photo.camera_id) for one in given} == {(None, None, "0")}


@pytest.mark.parametrize("shrink", [1, 2])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_cameras_turn_with_photos_that_exif_turns(tmp_path: Path, orientation: int, shrink: int) -> None:
    capture = capture_of(tmp_path / "capture", model_of(NAMES))
    check_turned("colmap", capture, tmp_path / "photos", orientation, shrink)


@pytest.mark.parametrize("folder", ["sparse/0", "sparse", "colmap/sparse/0", "."])
def test_the_model_is_found_where_it_may_lie(tmp_path: Path, folder: str) -> None:
    """Here with the photos in the capture's folder itself, and as COLMAP wrote it before there were rigs."""
    model = model_of(["a.png", "b.png", "c.png"])
    capture = capture_of(tmp_path / "capture", model, images=".")
    (capture / folder).mkdir(parents=True, exist_ok=True)
    for file in (capture / "sparse/0").iterdir():
        file.rename(capture / folder / file.name)
    for table in ("rigs.txt", "frames.txt"):
        (capture / folder / table).unlink()
    check_round_trip("colmap", capture, by_view(pixels_in(model)), tmp_path / "photos", 1)


def test_photos_that_the_model_does_not_place_are_no_shots_and_one_left_out_shifts_nothing(tmp_path: Path) -> None:
    model = model_of(["a.png", "b.png", "c.png", "d.png"])
    capture = capture_of(tmp_path / "capture", model)
    write_dot(capture / "images/aa.png", np.array([1, 1]))
    (capture / "images/b.png").write_bytes(b"")
    shots = colmap.shots(capture)
    assert [shot.name for shot in shots] == ["a", "b", "c", "d"]
    (tmp_path / "photos").mkdir()
    photos = ingest(shots, IngestConfig(shrink=1), tmp_path / "photos", print).photos
    given = colmap.cameras(capture, [photos[2], photo("aa"), photos[0]])
    assert [one.photo.name for one in given] == ["d", "a"]
    poses = {image.name: image.cam_from_world().matrix() for image in model.images.values()}
    for one in given:
        np.testing.assert_allclose(one.cam_from_world[:3], poses[f"{one.photo.name}.png"], atol=1e-12)


@pytest.mark.parametrize("images", ["images", "."])
def test_masks_lie_as_the_photos_do(tmp_path: Path, images: str) -> None:
    capture = capture_of(tmp_path, model_of(["left/a.png", "left/b.png", "c.png"]), images=images)
    (tmp_path / "masks" / "left").mkdir(parents=True)
    own = tmp_path / "masks" / "left" / "b.png.png"
    write_image(own, np.full((HEIGHT, WIDTH), 255, np.uint8))
    assert {shot.name: shot.mask for shot in colmap.shots(capture)} == {"left_a": None, "left_b": own, "c": None}


def test_points_are_not_read(tmp_path: Path) -> None:
    """pycolmap reads a broken table of points for ever."""
    capture = capture_of(tmp_path, model_of(["a.png", "b.png", "c.png"]), ".bin")
    (capture / "sparse/0/points3D.bin").write_bytes(b"\xff" * 100)
    assert len(import_all("colmap", capture, [photo("a"), photo("b")])) == 2
    (capture / "sparse/0/points3D.bin").unlink()
    assert recognise(capture) == "colmap"
    assert len(import_all("colmap", capture, [photo("a")])) == 1


def test_photos_of_another_resolution_scale_the_lens(tmp_path: Path) -> None:
    capture = capture_of(tmp_path, model_of(["a.png"], "PINHOLE"))
    lens = colmap.cameras(capture, [photo("a", 4 * WIDTH, 4 * HEIGHT)])[0].lens
    assert lens[:6] == pytest.approx((4 * WIDTH, 4 * HEIGHT, *(4 * np.array(LENSES["PINHOLE"]))))
    with pytest.raises(InputError, match=r"sparse/0: image a\.png: cameras are for 83x61 pixels.*another shape"):
        colmap.cameras(capture, [photo("a", HEIGHT, WIDTH)])


def replaced(table: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(capture: Path) -> None:
        path = capture / "sparse/0" / table
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return edit


def with_pose(numbers: str) -> Callable[[Path], None]:
    """Replaces quaternion and translation of b.png, in a model without frames, whose poses stand with the images."""

    def edit(capture: Path) -> None:
        for table in ("rigs.txt", "frames.txt"):
            (capture / "sparse/0" / table).unlink()
        path = capture / "sparse/0/images.txt"
        lines = path.read_text().splitlines()
        place = next(number for number, line in enumerate(lines) if line.endswith("b.png"))
        lines[place] = f"6 {numbers} 3 b.png"
        path.write_text("\n".join(lines) + "\n")

    return edit


def linked_out(capture: Path) -> None:
    (capture / "images/b.png").rename(capture.parent / "b.png")
    (capture / "images/b.png").symlink_to(capture.parent / "b.png")


def made_unsafe(capture: Path) -> None:
    (capture / "images/b.png").rename(capture / "images/b;.png")
    replaced("images.txt", "b.png", "b;.png")(capture)


def doubled(capture: Path) -> None:
    (capture / "images/a").mkdir()
    (capture / "images/b.png").rename(capture / "images/a_c.png")
    (capture / "images/c.png").rename(capture / "images/a/c.png")
    replaced("images.txt", "b.png", "a_c.png")(capture)
    replaced("images.txt", " c.png", " a/c.png")(capture)


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "fisheye": (replaced("cameras.txt", "OPENCV", "OPENCV_FISHEYE"), r"image .\.png: camera model OPENCV_FISHEYE is n"),
    "no model": (replaced("cameras.txt", "OPENCV", "OTHER"), "sparse/0: COLMAP cannot read .*model does not exist"),
    "focal": (replaced("cameras.txt", " 71 ", " -71 "), r"image .\.png: camera: focal length .* is not positive"),
    "size": (replaced("cameras.txt", f" {WIDTH} ", " 0 "), "image .* are for 0x61 pixels"),
    "too few": (replaced("cameras.txt", " -0.02", ""), "sparse/0: COLMAP cannot read"),
    "nan": (replaced("cameras.txt", "0.2", "nan"), "sparse/0: COLMAP cannot read"),
    "no camera": (replaced("images.txt", " 3 b.png", " 4 b.png"), "sparse/0: COLMAP cannot read"),
    "cut": (lambda capture: (capture / "sparse/0/images.txt").write_text("7 1 0"), "sparse/0: COLMAP cannot read"),
    "zeros": (with_pose("0 0 0 0 1 2 3"), r"image b\.png: its quaternion has length 0, not 1"),
    "long": (with_pose("1.1 0 0 0 1 2 3"), r"image b\.png: its quaternion has length 1\.1, not 1"),
    "words": (with_pose("1 0 0 0 1 x 3"), "sparse/0: COLMAP cannot read"),
    "gone": (lambda capture: (capture / "images/b.png").unlink(), r"image b\.png: no such photo in .*images"),
    "above": (replaced("images.txt", " b.png", " ../b.png"), r"image \.\./b\.png: .* leaves the capture"),
    "absolute": (replaced("images.txt", " b.png", " /b.png"), r"image /b\.png: .* leaves the capture"),
    "link": (linked_out, r"image b\.png: .* leaves the capture"),
    "unsafe": (made_unsafe, r"image b;\.png: rename this photo"),
    "twice": (doubled, "would be the same view as .*; rename one"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_model_is_refused(tmp_path: Path, what: str) -> None:
    capture = capture_of(tmp_path / "capture", model_of(["a.png", "b.png", "c.png"]))
    edit, message = BROKEN[what]
    edit(capture)
    with pytest.raises(InputError, match=message) as caught:
        import_all("colmap", capture, [photo(name) for name in "abc"])
    assert str(caught.value).startswith(str(capture / "sparse/0"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", [0, 4])
def test_nan_in_a_binary_model_is_refused(tmp_path: Path, place: int) -> None:
    capture = capture_of(tmp_path, model_of(["a.png", "b.png", "c.png"]), ".bin")
    path = capture / "sparse/0/cameras.bin"
    table = bytearray(path.read_bytes())
    struct.pack_into("<d", table, 8 + 4 + 4 + 8 + 8 + 8 * place, np.nan)  # behind count, number, kind, width, height
    path.write_bytes(table)
    with pytest.raises(InputError, match=r"sparse/0: image .\.png: camera OPENCV: holds NaN"):
        import_all("colmap", capture, [photo("a")])


@pytest.mark.parametrize("place", [9, 10, 11])
def test_a_rational_lens_is_refused(tmp_path: Path, place: int) -> None:
    model = model_of(["a.png"], "FULL_OPENCV")
    params = model.camera(3).params.copy()
    params[place] = 1e-3
    model.camera(3).params = params
    with pytest.raises(InputError, match=r"image a\.png: camera FULL_OPENCV: k4, k5 or k6 is not zero"):
        import_all("colmap", capture_of(tmp_path, model), [photo("a")])


def test_a_model_by_colmap_itself(tmp_path: Path) -> None:
    """Photographs through a bent lens: COLMAP's own model of them, imported, has the true cameras."""
    capture, photos = take(tmp_path, k=-0.08)
    write(
        reconstruct(photos, tmp_path / "photos", False, CONFIG, print, lambda *_: None)[0], capture / "sparse/0", ".bin"
    )
    made = estimate(tmp_path, capture, photos)
    assert made.scene.source == "colmap"
    error = compare_cameras([view.camera for view in made.scene.views], [true_camera(index) for index in range(9)])
    assert error.degrees.max() < 0.3
    assert error.distance.max() < 0.02
    assert made.attempt.error < 1
    assert {view.image for view in made.scene.views} == {f"images/p{index}.png" for index in range(9)}


def test_cameras_of_other_photos_are_refused(tmp_path: Path) -> None:
    capture, photos = take(tmp_path, count=3)
    write(model_of(["x.png", "y.png"]), capture / "sparse/0")
    for name in "xy":
        write_dot(capture / f"{name}.png", np.array([1, 1]))
    with pytest.raises(InputError, match="the capture as colmap has no photo p0; leave it at auto, or ingest anew"):
        estimate(tmp_path, capture, photos, source="colmap")


def test_a_source_without_cameras_is_refused() -> None:
    assert parse_section(PosesConfig, {"source": "colmap"}, "x.yaml: poses").source == "colmap"
    for name in ("photos", "colmpa"):
        with pytest.raises(
            InputError, match=rf"^x.yaml: poses: source: .*'{name}' gives no cameras; .* auto, sfm, .*llff"
        ):
            parse_section(PosesConfig, {"source": name}, "x.yaml: poses")
