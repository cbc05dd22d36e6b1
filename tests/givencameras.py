"""Random cameras that look at one point, pictures that show it as a dot, and what must become of both on import."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

from loupe.camera import Array
from loupe.images import read_image, write_image
from loupe.ingestion import IngestConfig, ingest
from loupe.photos import Photo
from loupe.sources import LAYOUTS, recognise
from loupe.sources.given import Given

WIDTH, HEIGHT = 83, 61  # odd, so that shrinking by 2 cuts a row and a column off
POINT = np.array([0.7, -0.4, 1.9])


def random_pose(random: np.random.Generator) -> Array:
    """cam_from_world with OpenCV's axes; `POINT` is 2 to 5 in front, off the axis."""
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(random.normal(size=3))[0]
    beside = random.uniform(0.05, 0.25, 2) * random.choice([-1, 1], 2)
    pose[:3, 3] = np.array([*beside, 1]) * random.uniform(2, 5) - pose[:3, :3] @ POINT
    return pose


def write_dot(path: Path, pixel: Array, alpha: bool = False) -> None:
    """A dark picture with the pixel white in which `pixel` lies, and with a hole in the corner if it has an `alpha`."""
    picture = np.zeros((HEIGHT, WIDTH, 4 if alpha else 3), np.uint8)
    picture[int(pixel[1]), int(pixel[0])] = 255
    if alpha:
        picture[8:, 8:, 3] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, picture)


def photo(name: str, width: int = WIDTH, height: int = HEIGHT) -> Photo:
    return Photo(name, f"{name}.png", width, height, width, height, 1, None, "", 1.0, 0.5)


def say_how_held(path: Path, orientation: int) -> None:
    """Gives a photo an EXIF orientation; its pixels stay as they lie."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    with Image.open(path) as stored:
        stored.save(path, exif=exif)


def import_all(layout: str, capture: Path, photos: list[Photo]) -> list[Given]:
    """What both steps ask of a layout."""
    LAYOUTS[layout].shots(capture)
    cameras = LAYOUTS[layout].cameras
    assert cameras is not None
    return cameras(capture, photos)


def pixel_of(given: Given) -> Array:
    """Where the imported camera shows `POINT`."""
    x, y, depth = given.cam_from_world[:3, :3] @ POINT + given.cam_from_world[:3, 3]
    assert depth > 0
    return given.lens.distort(np.array([x, y]) / depth)


def check_round_trip(layout: str, capture: Path, expected: dict[str, Array], out: Path, shrink: int) -> list[Given]:
    """Recognised, ingested and imported, every camera shows the point where its picture has the dot.

    Args:
        expected: where each view's photo, as taken, shows the point.
    """
    assert recognise(capture) == layout
    shots = LAYOUTS[layout].shots(capture)
    assert [shot.name for shot in shots] == sorted(expected)
    out.mkdir()
    photos = ingest(shots, IngestConfig(shrink=shrink), out, print).photos
    given = import_all(layout, capture, photos)
    assert [one.photo for one in given] == photos
    for one in given:
        picture = read_image(out / one.photo.file)
        assert (one.lens.width, one.lens.height) == picture.shape[1::-1] == (WIDTH // shrink, HEIGHT // shrink)
        np.testing.assert_allclose(pixel_of(one), expected[one.photo.name] / shrink, atol=1e-9)
        brightest = np.unravel_index(picture[..., 0].argmax(), picture.shape[:2])
        assert tuple(pixel_of(one).astype(int)[::-1]) == brightest
    return given


def check_turned(layout: str, capture: Path, out: Path, orientation: int, shrink: int = 1) -> None:
    """Where every photo says that it was held so, each camera still shows the point where its picture has the dot."""
    assert recognise(capture) == layout
    shots = LAYOUTS[layout].shots(capture)
    for shot in shots:
        say_how_held(shot.file, orientation)
    out.mkdir()
    photos = ingest(shots, IngestConfig(shrink=shrink), out, print).photos
    size = (HEIGHT, WIDTH) if orientation in (6, 8) else (WIDTH, HEIGHT)
    for one in import_all(layout, capture, photos):
        picture = read_image(out / one.photo.file)
        assert (one.lens.width, one.lens.height) == picture.shape[1::-1] == (size[0] // shrink, size[1] // shrink)
        brightest = np.unravel_index(picture[..., 0].argmax(), picture.shape[:2])
        assert tuple(pixel_of(one).astype(int)[::-1]) == brightest
