"""Masks by background subtraction: a textured disc that crosses a textured wall, with noise, flicker and its shadow."""

from __future__ import annotations

import re
import tracemalloc
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from rig import save
from test_sources_panoptic import capture as panoptic_capture

from loupe import background
from loupe.background import clean_plate, commonest, exposure, foreground, noise_level
from loupe.errors import InputError
from loupe.images import Pixels, read_image
from loupe.ingestion import IngestConfig, Ingested, ingest
from loupe.photos import Shot, read_photos
from loupe.sources import LAYOUTS
from loupe.subtraction import MIN_FRAMES

HEIGHT, WIDTH, RADIUS, NOISE = 120, 240, 18, 1.5
SHADE = 0.2  # of the light is taken away in the middle of the shadow


class Film(NamedTuple):
    """Frames (n, h, w, 3), the true masks (n, h, w), the shadows' middles (n, h, w) and the true wall (h, w, 3)."""

    frames: Pixels
    masks: np.ndarray
    shadows: np.ndarray
    wall: np.ndarray


def texture(random: np.random.Generator, middle: tuple[float, float, float]) -> np.ndarray:
    smooth = cv2.GaussianBlur(random.normal(size=(HEIGHT, WIDTH, 3)), (0, 0), 2)
    return middle + 25 * smooth / smooth.std()


def distance(x: float, y: float) -> np.ndarray:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.hypot(columns - x, rows - y)


def film(count: int = 20, flicker: float = 0.1, shade: float = SHADE, seed: int = 0) -> Film:
    """The disc goes from the left to the right, its shadow ahead of it, the light as it likes."""
    random = np.random.default_rng(seed)
    wall, skin = texture(random, (110, 120, 130)), texture(random, (170, 90, 80))
    frames, masks, shadows = [], [], []
    for x in np.linspace(30, WIDTH - 50, count):
        masks.append(distance(x, 60) < RADIUS)
        away = distance(x + 28, 75)
        shadows.append((away < 8) & ~masks[-1])
        lit = wall * (1 - shade * np.exp(-((away / 14) ** 2)))[..., None]
        shown = np.where(masks[-1][..., None], np.roll(skin, round(x), 1), lit) * random.uniform(
            1 - flicker, 1 + flicker
        )
        frames.append(np.clip(shown + random.normal(scale=NOISE, size=wall.shape) + 0.5, 0, 255).astype(np.uint8))
    return Film(np.stack(frames), np.stack(masks), np.stack(shadows), wall)


def readers(frames: Pixels) -> list[background.Frame]:
    return [partial(np.copy, frame) for frame in frames]


def overlap(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / (found | truth).sum())


def test_the_plate_is_the_wall_and_less_noisy_than_the_median() -> None:
    made = film(flicker=0, shade=0)
    plate = clean_plate(readers(made.frames))
    assert plate.settled.mean() > 0.999
    assert plate.noise == pytest.approx(NOISE, rel=0.1)
    error, of_median, of_one = (
        float(np.sqrt(np.mean((picture - made.wall)[~made.masks[0]] ** 2)))
        for picture in (plate.picture, np.median(made.frames, 0), made.frames[0])
    )
    assert error < 0.3 * of_one
    assert error < 0.95 * of_median


@pytest.mark.parametrize("flicker", [0, 0.1])
def test_the_masks_are_the_discs(flicker: float) -> None:
    made = film(flicker=flicker)
    plate = clean_plate(readers(made.frames))
    found = np.stack([foreground(frame, plate) for frame in made.frames])
    assert set(np.unique(found)) == {0, 255}
    each = [overlap(mask > 0, truth) for mask, truth in zip(found, made.masks, strict=True)]
    assert min(each) > 0.9
    assert (found[made.shadows] > 0).mean() < 0.02


def test_light_that_changes_is_no_foreground_and_lamps_stay_lamps() -> None:
    made = film(flicker=0, shade=0)
    made.frames[:, :30, 100:130] = 255
    plate = clean_plate(readers(made.frames))
    for gain in (0.8, 0.9, 1.1):
        lit = np.clip(plate.picture * np.array([gain, 1, gain]), 0, 255).astype(np.uint8)
        lit[:30, 100:130] = 255
        assert not foreground(lit, plate).any()


def test_a_crowded_place_shows_its_background_in_few_frames() -> None:
    """In the middle the disc is in 12 of 20 frames, at places of its own: the median is none of the wall."""
    made = film(count=20, flicker=0, shade=0)
    random = np.random.default_rng(1)
    for frame in made.frames[4:16]:
        frame[40:80, 60:100] = random.integers(0, 256, (40, 40, 3))
    middle = (slice(40, 80), slice(60, 100))
    plate = clean_plate(readers(made.frames[[*range(3), *range(4, 16), *range(17, 20)]]))
    assert np.abs(plate.picture[middle] - made.wall[middle]).max() < 4 * NOISE
    assert plate.settled[middle].all()


def test_where_the_subject_never_leaves_all_is_foreground() -> None:
    made = film(flicker=0, shade=0)
    random = np.random.default_rng(2)
    made.frames[:, 90:110, 10:40] = random.integers(0, 256, (len(made.frames), 20, 30, 3))
    plate = clean_plate(readers(made.frames))
    assert plate.settled[90:110, 10:40].mean() < 0.02
    assert plate.settled[:80].mean() > 0.99
    masks = np.stack([foreground(frame, plate) for frame in made.frames])
    assert (masks[:, 92:108, 12:38] == 255).all()


def test_what_never_moves_is_background() -> None:
    made = film(flicker=0, shade=0)
    made.frames[:, 90:110, 10:40] = 200
    plate = clean_plate(readers(made.frames))
    assert (plate.picture[90:110, 10:40] == 200).all()
    assert not foreground(made.frames[-1], plate)[90:110, 10:40].any()


@pytest.mark.parametrize("bytes_at_once", [1, 10_000, 1_000_000])
def test_bands_of_rows_give_the_same_plate(monkeypatch: pytest.MonkeyPatch, bytes_at_once: int) -> None:
    made = film(count=9)
    whole = clean_plate(readers(made.frames))
    monkeypatch.setattr(background, "_BAND_BYTES", bytes_at_once)
    banded = clean_plate(readers(made.frames))
    assert all(np.array_equal(one, other) for one, other in zip(whole, banded, strict=True))


def test_many_frames_are_read_a_few_times_each_and_all_are_averaged() -> None:
    made = film(count=70, flicker=0, shade=0)
    reads = [0] * 70

    def read(place: int) -> Pixels:
        reads[place] += 1
        return made.frames[place]

    plate = clean_plate([partial(read, place) for place in range(70)])
    assert min(reads) == 1
    assert sum(reads) <= 70 + 2 * 32 + 1
    error = np.sqrt(np.mean((plate.picture - made.wall)[100:] ** 2))
    assert error < 0.5  # a rounded mean of 70: sqrt(1/12 + 1.5**2/70) = .34; of 32: .39


def test_the_commonest_colour_is_that_of_a_naive_count() -> None:
    random = np.random.default_rng(3)
    pictures = random.integers(0, 12, (7, 9, 11, 3)).astype(np.uint8)
    colour, clear = commonest(list(pictures), 4)
    for y, x in np.ndindex(9, 11):
        values = pictures[:, y, x].astype(int)
        near = (np.abs(values[:, None] - values).max(2) <= 4).sum(1)
        best = int(near.argmax())
        others = near[np.abs(values - values[best]).max(1) > 4]
        assert (colour[y, x] == values[best]).all()
        assert clear[y, x] == (near[best] >= max(3, 2 * max(others, default=0)))


def test_exposure_and_noise_do_not_hear_of_what_covers_less_than_half() -> None:
    made = film(count=3, flicker=0, shade=0)
    one, other = made.frames[0].copy(), made.frames[2].copy()
    other[:25] = 30
    brighter = np.clip(other * np.array([1.2, 1.1, 0.9]) + 0.5, 0, 255).astype(np.uint8)
    np.testing.assert_allclose(exposure(brighter, one), [1.2, 1.1, 0.9], rtol=0.015)
    assert noise_level([one, other]) == pytest.approx(NOISE, rel=0.25)
    assert (exposure(one, np.zeros_like(one)) == 1).all()


def game(folder: Path, count: int = MIN_FRAMES, **cameras: np.ndarray) -> list[Shot]:
    """A capture in EasyMocap's layout, with given masks that are all white."""
    for name, frames in cameras.items():
        for number, frame in enumerate(frames[:count]):
            save(folder / "images" / name / f"{number}.png", frame[..., ::-1])
            save(folder / "masks" / name / f"{number}.png", np.full(frame.shape[:2], 255, np.uint8))
    storage = cv2.FileStorage(str(folder / "intri.yml"), cv2.FILE_STORAGE_WRITE)
    storage.startWriteStruct("names", cv2.FILE_NODE_SEQ)
    for name in cameras:
        storage.write("", name)
    storage.endWriteStruct()
    storage.release()
    (folder / "extri.yml").write_bytes((folder / "intri.yml").read_bytes())
    return LAYOUTS["easymocap"].shots(folder)


def run(shots: list[Shot], out: Path, **config: object) -> tuple[Ingested, list[str]]:
    out.mkdir()
    said: list[str] = []
    return ingest(shots, IngestConfig.model_validate({"masks": "subtract", **config}), out, said.append), said


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_ingestion_replaces_given_masks_and_keeps_the_plates(tmp_path: Path) -> None:
    left, right = film(count=10), film(count=10, seed=5)
    shots = game(tmp_path / "game", 10, left=left.frames, right=right.frames)
    made, said = run(shots, tmp_path / "out")
    assert read_photos(tmp_path / "out") == made.photos
    truth = {"left": left, "right": right}
    for photo in made.photos:
        assert photo.mask == f"masks/{photo.name}.png"
        mask = read_image(tmp_path / "out" / photo.mask)
        assert mask.shape == (HEIGHT, WIDTH)
        assert overlap(mask > 0, truth[photo.camera_id].masks[photo.frame]) > 0.85
    for camera, shown in truth.items():
        plate = read_image(tmp_path / "out" / "plates" / f"{camera}.png")
        gain = np.median(plate[100:, :, :3] / shown.wall[100:])
        known = plate[..., 3] == 255
        assert known.mean() > 0.9
        assert np.abs(plate[..., :3] / gain - shown.wall)[known].mean() < 2
    assert [line.split(" in ")[0] for line in said] == ["the background is not known"]
    run(shots, tmp_path / "again")
    assert bytes_in(tmp_path / "again") == bytes_in(tmp_path / "out")


def test_shrunk_photos_have_shrunk_masks(tmp_path: Path) -> None:
    one = film()
    made, _ = run(game(tmp_path / "game", 20, a=one.frames), tmp_path / "out", shrink=2, every=2)
    assert sorted(photo.frame for photo in made.photos) == list(range(0, 20, 2))
    mask = read_image(tmp_path / "out" / str(made.photos[0].mask))
    assert overlap(mask > 127, one.masks[0][::2, ::2]) > 0.75


def test_a_camera_that_sees_no_subject_has_no_masks(tmp_path: Path) -> None:
    seen, empty = film(), film(shade=0)
    empty.frames[:] = np.random.default_rng(0).normal(empty.wall, NOISE, empty.frames.shape)
    made, said = run(game(tmp_path / "game", a=seen.frames, b=empty.frames), tmp_path / "out")
    assert {photo.name for photo in made.photos if photo.mask is None} == {f"b_{n}" for n in range(MIN_FRAMES)}
    assert {path.name for path in (tmp_path / "out/masks").iterdir()} == {f"a_{n}.png" for n in range(MIN_FRAMES)}
    assert said[-1] == f"{MIN_FRAMES} subtracted masks are all black; their views have no mask, the first is b_0"


def test_a_camera_that_shakes_is_named(tmp_path: Path) -> None:
    shaken = np.random.default_rng(0).integers(0, 256, (MIN_FRAMES, HEIGHT, WIDTH, 3)).astype(np.uint8)
    _, said = run(game(tmp_path / "game", a=film().frames, b=shaken), tmp_path / "out")
    assert any(re.search(r"at most (9[5-9]|100)\.\d%, in camera b", line) for line in said)
    assert any(
        line.startswith(f"{MIN_FRAMES} subtracted masks are nearly all white (does the camera move?)") for line in said
    )


def test_given_masks_are_taken_unless_asked_otherwise(tmp_path: Path) -> None:
    made, _ = run(game(tmp_path / "game", a=film().frames), tmp_path / "out", masks="given")
    assert read_image(tmp_path / "out" / str(made.photos[0].mask)).min() == 255
    assert not (tmp_path / "out/plates").exists()


def test_what_cannot_be_subtracted_is_refused(tmp_path: Path) -> None:
    frames = film(count=12).frames
    shots = game(tmp_path / "few", MIN_FRAMES - 1, a=frames)
    with pytest.raises(InputError, match=rf"camera a has {MIN_FRAMES - 1} frames, need {MIN_FRAMES}"):
        run(shots, tmp_path / "out1")
    with pytest.raises(InputError, match=r"camera a has 4 frames.*ingest\.every"):
        run(game(tmp_path / "thinned", 12, a=frames), tmp_path / "out2", every=3)
    with pytest.raises(InputError, match="does not move"):
        run([shot._replace(frame=0) for shot in shots], tmp_path / "out3")
    with pytest.raises(InputError, match="camera 10 has 2 frames"):
        run(LAYOUTS["panoptic"].shots(panoptic_capture(tmp_path / "panoptic")), tmp_path / "out4")


def test_frames_of_two_sizes_are_refused(tmp_path: Path) -> None:
    shots = game(tmp_path / "game", a=film().frames)
    save(shots[3].file, film().frames[3, :-10])
    with pytest.raises(InputError, match="camera a: a_3 has 240x110 pixels, a_0 240x120"):
        run(shots, tmp_path / "out")


def test_frames_that_could_not_be_used_are_missed(tmp_path: Path) -> None:
    shots = game(tmp_path / "game", a=film().frames)
    shots[3].file.write_bytes(b"")
    with pytest.raises(InputError, match=f"camera a has {MIN_FRAMES - 1} frames"):
        run(shots, tmp_path / "out")


def test_memory_does_not_hold_all_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = np.random.default_rng(0).integers(50, 200, (400, 400, 3)).astype(np.uint8)
    monkeypatch.setattr(background, "_BAND_BYTES", 1 << 20)
    monkeypatch.setattr(background, "_SMALL", 50)
    tracemalloc.start()
    clean_plate([partial(np.copy, wall)] * 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 28 * wall.nbytes  # 21 for sums and bands; with the 32 frames that are asked it would be 37
