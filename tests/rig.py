"""Small captures whose cameras are known, for the tests of the layouts: cameras around a spot of light.

Intrinsics are here as everywhere: the centre of the top-left pixel lies at (.5, .5).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from loupe.camera import Array
from loupe.images import Pixels, read_image
from loupe.ingestion import IngestConfig, ingest
from loupe.photos import Photo, Shot
from loupe.sources import LAYOUTS, recognise
from loupe.sources.given import Given

WIDTH, HEIGHT = 61, 47  # odd: shrinking cuts a row and a column off
SPOT = np.array([0.31, -0.22, 0.17])


class Posed(NamedTuple):
    """A camera: intrinsics (3, 3) and cam_from_world (4, 4)."""

    intrinsics: Array
    pose: Array

    def shows(self, point: Array = SPOT) -> Array:
        """Where, in pixels, by the rows of the matrices."""
        x, y, z = self.pose[:3, :3] @ point + self.pose[:3, 3]
        return np.array(
            [
                self.intrinsics[0, 0] * x / z + self.intrinsics[0, 2],
                self.intrinsics[1, 1] * y / z + self.intrinsics[1, 2],
            ]
        )

    def photograph(self) -> Pixels:
        """The spot of light in the dark."""
        y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
        u, v = self.shows()
        light = 250 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 2.5**2))
        return np.repeat(light[..., None], 3, 2).astype(np.uint8)


def ring(count: int, seed: int = 0) -> list[Posed]:
    """Cameras 4 away from the origin in all directions, turned about their axes anyhow, with lenses of their own."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        forward, aside = random.normal(size=(2, 3))
        forward /= np.linalg.norm(forward)
        right = np.cross(aside, forward)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
        pose[:3, 3] = [*random.uniform(-0.2, 0.2, 2), 4.0]
        fx, fy = random.uniform(70, 90, 2)
        made.append(Posed(np.array([[fx, 0, WIDTH / 2 + 1.7], [0, fy, HEIGHT / 2 - 2.3], [0, 0, 1]], np.float64), pose))
    return made


def save(path: Path, picture: Pixels) -> Path:
    """Write a picture, of one channel or three; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 98] if path.suffix == ".jpg" else [])
    return path


def write_opencv(path: Path, values: Mapping[str, object]) -> None:
    """Write numbers, matrices and lists of words as OpenCV's FileStorage does."""
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    for key, value in values.items():
        if isinstance(value, list):
            storage.startWriteStruct(key, cv2.FILE_NODE_SEQ)
            for entry in value:
                storage.write("", entry)
            storage.endWriteStruct()
        else:
            storage.write(key, value)
    storage.release()


def as_ingested(shots: list[Shot], width: int = WIDTH, height: int = HEIGHT) -> list[Photo]:
    """The table's rows of photos of one size, without ingesting them."""
    size = width, height, width, height, 1
    return [
        Photo(shot.name, f"{shot.name}.png", *size, None, "", 1.0, 0.5, None, shot.camera_id, shot.frame)
        for shot in shots
    ]


def read_cameras(capture: Path, width: int = WIDTH, height: int = HEIGHT) -> list[Given]:
    """What the capture's layout says of all its photos, which are of one size, without ingesting them."""
    layout = LAYOUTS[recognise(capture)]
    assert layout.cameras is not None
    return layout.cameras(capture, as_ingested(layout.shots(capture), width, height))


def ingested_cameras(capture: Path, out: Path, shrink: int) -> list[Given]:
    """What it says of its photos as ingestion made them; one in the middle of the table is left out."""
    layout = LAYOUTS[recognise(capture)]
    assert layout.cameras is not None
    shots = layout.shots(capture)
    assert [shot.name for shot in shots] == sorted(shot.name for shot in shots)
    out.mkdir()
    photos = ingest(shots, IngestConfig(shrink=shrink), out, print).photos
    assert [photo.name for photo in photos] == [shot.name for shot in shots]
    del photos[1]
    given = layout.cameras(capture, photos)
    assert [one.photo for one in given] == photos
    return given


def check_cameras(given: list[Given], truth: Mapping[str, Posed], folder: Path, atol: float = 1e-6) -> None:
    """The cameras show the spot where it was computed by hand, and where the ingested pictures show it."""
    for one in given:
        camera = one.lens.camera(one.cam_from_world)
        assert (camera.width, camera.height) == (one.photo.width, one.photo.height)
        np.testing.assert_allclose(camera.cam_from_world, truth[one.photo.name].pose, atol=atol)
        shown = camera.project(SPOT[None])[0][0]
        np.testing.assert_allclose(shown, truth[one.photo.name].shows() / one.photo.shrink, atol=100 * atol)
        light = read_image(folder / one.photo.file)[..., 0].astype(float)
        light[light < 20] = 0  # what JPEG leaves in the dark
        y, x = np.mgrid[0 : camera.height, 0 : camera.width] + 0.5
        np.testing.assert_allclose([(light * x).sum(), (light * y).sum()] / light.sum(), shown, atol=0.12)
