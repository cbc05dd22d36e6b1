"""Views are taken one at a time: memory does not grow with their number, and each file is decoded as often as said.

tracemalloc counts what Python, NumPy and OpenCV's arrays take, and no mapped files.
"""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from test_hull import ring
from test_silhouettes import CONFIG, shoot

from benchmarks._ball import film
from loupe.images import write_image
from loupe.ingestion import IngestConfig, ingest
from loupe.occupancy import CarveConfig
from loupe.patches import TrainingPatches
from loupe.photos import Shot, read_photos
from loupe.pixels import TrainingPixels
from loupe.poses import PosesConfig, SceneConfig, estimate_scene
from loupe.scene import Points, Scene, View
from loupe.silhouettes import carve_masks
from loupe.sources import LAYOUTS, recognise
from loupe.space import seen_together
from loupe.tiles import Tiles, cut_tiles, write_tiles

FEW, MANY = 16, 64
SIZE = (160, 200)  # rows and columns: 96,000 bytes
ROW = 20_000  # bytes that a view may leave behind: its row in tables, its camera, its grey miniature
THUMBNAIL = 60_000  # noise makes large JPEGs
FRAME = 100_000  # bytes that a moment may leave behind: its surface points


def peak(work: Callable[[], object]) -> int:
    """The most bytes held at a time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def staring(count: int, folder: Path) -> Scene:
    """Cameras in a ring."""
    cameras = [camera.resized(SIZE[1], SIZE[0]) for camera in ring(count)]
    views = [View(f"{number:03d}", camera, "x", 1.5, 4.5) for number, camera in enumerate(cameras)]
    names = [view.name for view in views]
    return Scene(folder, views, Points.none(), names[1:], names[:1], 4, "made")


def test_ingestion_holds_one_photo_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loupe.ingestion._MOST_THUMBNAILS", 8)
    shots = [Shot(f"{number:03d}", tmp_path / f"{number:03d}.png") for number in range(MANY)]
    for number, shot in enumerate(shots):
        write_image(shot.file, noise(number))

    def run(count: int) -> int:
        out = tmp_path / str(count)
        out.mkdir()
        return peak(lambda: ingest(shots[:count], IngestConfig(), out, lambda _: None))

    run(4)  # imports and caches
    assert run(MANY) - run(FEW) < (MANY - FEW) * THUMBNAIL


def test_tiles_are_written_one_view_at_a_time(tmp_path: Path) -> None:
    def run(count: int) -> int:
        return peak(lambda: write_tiles(tmp_path, ((str(number), noise(number)) for number in range(count)), 4))

    run(4)
    assert run(MANY) - run(FEW) < (MANY - FEW) * ROW


def test_training_reads_no_more_of_many_views_than_of_few(tmp_path: Path) -> None:
    def run(count: int) -> int:
        scene, folder = staring(count, tmp_path), tmp_path / str(count)
        folder.mkdir()
        write_tiles(folder, ((view.name, noise(number)) for number, view in enumerate(scene.views)), scene.ratio)

        def read() -> None:
            tiles = Tiles(folder)
            TrainingPixels(scene, tiles, "full").draw(512, torch.Generator().manual_seed(0), "cpu")
            TrainingPatches(scene, tiles, 8).draw(0, 2, 0, "cpu")

        return peak(read)

    run(4)
    assert run(MANY) - run(FEW) < (MANY - FEW) * ROW


def test_what_cameras_see_together_is_found_view_by_view(tmp_path: Path) -> None:
    few, many = staring(FEW, tmp_path), staring(MANY, tmp_path)
    seen_together(few)
    assert peak(lambda: seen_together(many)) - peak(lambda: seen_together(few)) < (MANY - FEW) * ROW


def test_moments_are_carved_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(frames: int) -> int:
        monkeypatch.setattr("test_silhouettes.PLACES", dict.fromkeys(range(frames), np.zeros(3)))
        scene, tiles = shoot(tmp_path / str(frames))
        return peak(lambda: carve_masks(scene, tiles, CONFIG, print))

    run(1)
    assert run(8) - run(2) < 6 * FRAME


def test_files_are_decoded_as_often_as_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo and a mask once as they were taken and once for the tiles. Carving and training decode nothing. What
    pycolmap reads for points does not count here."""
    film(tmp_path / "capture", 8, 2, (160, 120))
    decoded = count_decodings(monkeypatch, tmp_path)
    for name in ("photos", "scene", "tiles"):
        (tmp_path / name).mkdir()
    capture, photos, said = tmp_path / "capture", tmp_path / "photos", []
    ingest(LAYOUTS[recognise(capture)].shots(capture), IngestConfig(), photos, said.append)
    given = photos, read_photos(photos)
    scene = estimate_scene(
        capture, given, PosesConfig(), SceneConfig(), tmp_path / "scene", said.append, lambda *_: None
    ).scene
    cut_tiles(scene, tmp_path / "tiles")
    tiles = Tiles(tmp_path / "tiles")
    carve_masks(scene, tiles, CarveConfig(resolution=24), said.append)
    TrainingPixels(scene, tiles, "full").draw(64, torch.Generator().manual_seed(0), "cpu")
    TrainingPatches(scene, tiles, 8).draw(0, 2, 0, "cpu")
    taken = [path.relative_to(tmp_path) for folder in ("ims", "seg") for path in (capture / folder).rglob("*.*")]
    masks = [Path("photos") / view.mask.split("photos/")[1] for view in scene.views if view.mask]
    expected = Counter(taken) + Counter(Path("photos") / f"{view.name}.jpg" for view in scene.views)
    expected.update(masks)
    assert len(taken) == 32
    assert len(masks) == 16
    assert decoded == expected


def count_decodings(monkeypatch: pytest.MonkeyPatch, root: Path) -> Counter[Path]:
    """Counts the pictures under `root` that the two ways of decoding open from now on."""
    decoded: Counter[Path] = Counter()
    read, opened = Path.read_bytes, PIL.Image.open

    def counting_read(path: Path) -> bytes:
        if path.suffix in (".jpg", ".png"):
            decoded[path.resolve().relative_to(root)] += 1
        return read(path)

    def counting_open(path: Path, *rest: Any, **options: Any) -> Any:
        decoded[path.resolve().relative_to(root)] += 1
        return opened(path, *rest, **options)

    monkeypatch.setattr(Path, "read_bytes", counting_read)
    monkeypatch.setattr(PIL.Image, "open", counting_open)
    return decoded
