"""Pictures on disk and in memory."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from loupe.errors import InputError
from loupe.images import detailed_windows, read_image, shrink, to_uint8, write_image

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_png_keeps_every_value(tmp_path: Path, shape: tuple[int, ...]) -> None:
    picture = RANDOM.integers(0, 256, shape).astype(np.uint8)
    write_image(tmp_path / "a.png", picture)
    assert np.array_equal(read_image(tmp_path / "a.png"), picture)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_16_bit_png_keeps_every_value(tmp_path: Path) -> None:
    depth = RANDOM.integers(0, 65536, (5, 7)).astype(np.uint16)
    write_image(tmp_path / "a.png", depth)
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED), depth)
    with pytest.raises(InputError, match="8-bit"):
        read_image(tmp_path / "a.png")


def test_channels_are_red_green_blue_in_the_file(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.full((2, 2, 3), [200, 100, 50], np.uint8))
    assert Image.open(tmp_path / "a.png").getpixel((0, 0)) == (200, 100, 50)


def test_jpeg_quality_decides(tmp_path: Path) -> None:
    picture = RANDOM.integers(0, 256, (64, 64)).astype(np.uint8)
    errors = []
    for quality in (30, 95):
        write_image(tmp_path / "a.jpg", picture, quality)
        errors.append(np.abs(read_image(tmp_path / "a.jpg").astype(int) - picture).mean())
    assert errors[1] < errors[0] / 2


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((4, 8, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (4, 8, 3)


@pytest.mark.parametrize("content", [None, b"", b"text"])
def test_a_file_that_is_no_picture_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.sampled_from([(), (3,)]), st.integers(0, 99))
def test_shrink_is_the_mean_of_areas(factor: int, rows: int, columns: int, channels: tuple[int], seed: int) -> None:
    shape = (rows * factor, columns * factor, *channels)
    picture = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    small = shrink(picture, factor)
    naive = picture.reshape(rows, factor, columns, factor, *channels).mean((1, 3))
    assert small.shape == (rows, columns, *channels)
    assert np.abs(small - naive).max() <= 0.5 + 1e-4


def test_shrink_refuses_a_remainder() -> None:
    with pytest.raises(ValueError, match="no multiple"):
        shrink(np.zeros((8, 9, 3), np.uint8), 4)


def test_to_uint8_rounds_and_clips() -> None:
    values = np.array([-1.0, 0.0, 0.49 / 255, 0.51 / 255, 1.0, 7.0])
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 255, 255]
    assert np.array_equal(to_uint8(np.arange(256, dtype=np.float32) / 255), np.arange(256))


def test_detailed_windows_lie_where_the_detail_is_and_apart() -> None:
    picture = np.full((100, 120, 3), 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    picture[64:80, 16:32] = noise
    picture[8:24, 96:112] = noise // 2
    assert detailed_windows(picture, 18, 2) == [(15, 63, 18, 18), (95, 7, 18, 18)]
    assert detailed_windows(picture, 500, 3) == [(0, 0, 120, 100)]
