"""Frames of videos that the tests encode themselves: their number, order, orientation and sharpness."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from loupe.errors import InputError
from loupe.video import count_frames, read_frames, sharpest_frames

SIZE = (96, 64)


def encode(path: Path, pictures: Sequence[np.ndarray], times: Sequence[int] | None = None, **options: object) -> Path:
    """H.264 of pictures (h, w, 3), at these hundredths of a second."""
    options = {"pix_fmt": "yuv444p", **options}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=100, options={"crf": "4", "bf": "0"})
        stream.width, stream.height = SIZE
        stream.codec_context.time_base = stream.time_base = Fraction(1, 100)
        for name, value in options.items():
            setattr(stream.codec_context, name, value)
        container.start_encoding()
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = (times[number] if times else 10 * number), Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def grey(level: int) -> np.ndarray:
    return np.full((*SIZE[::-1], 3), level, np.uint8)


def noise(blur: float, seed: int) -> np.ndarray:
    picture = np.random.default_rng(seed).integers(0, 256, (*SIZE[::-1], 3)).astype(np.uint8)
    return cv2.GaussianBlur(picture, (0, 0), blur)


def test_frames_come_in_order_at_their_own_times(tmp_path: Path) -> None:
    times = [0, 10, 15, 90, 100, 300]
    video = encode(tmp_path / "a.mp4", [grey(30 * number) for number in range(6)], times)
    frames = list(read_frames(video))
    assert [frame.number for frame in frames] == list(range(6))
    assert [frame.time for frame in frames] == pytest.approx([time / 100 for time in times])
    for frame in frames:
        assert abs(frame.pixels.astype(int) - 30 * frame.number).max() <= 3
    assert [frame.number for frame in read_frames(video, {4, 1})] == [1, 4]


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [((0, 1, -1, 0), (0, -1)), ((-1, 0, 0, -1), (-1, -1)), ((0, -1, 1, 0), (-1, 0))],
    ids=["right goes down", "right goes left", "right goes up"],
)
def test_a_noted_rotation_is_applied(tmp_path: Path, matrix: Sequence[int], corner: tuple[int, int]) -> None:
    """The matrix in the track's header sends x to its first row and y to its second; the top left corner is bright."""
    picture = grey(20)
    picture[:16, :16] = 220
    data = bytearray(encode(tmp_path / "a.mp4", [picture] * 3).read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(data)
    first = next(read_frames(tmp_path / "a.mp4")).pixels
    assert first.shape == ((*SIZE, 3) if b else (*SIZE[::-1], 3))
    corners = first[:: first.shape[0] - 1, :: first.shape[1] - 1].mean(-1)
    assert corners[corner] > 200
    assert (corners > 40).sum() == 1


def test_the_sharpest_of_each_stretch_of_time_is_taken(tmp_path: Path) -> None:
    """Four stretches of a second; many frames in the first do not take others' places."""
    times = [*range(0, 100, 10), 150, 180, 210, 250, 310, 399]
    sharp = {3, 11, 12, 14}
    pictures = [noise(0.6 if number in sharp else 2.5, number) for number in range(len(times))]
    video = encode(tmp_path / "a.mp4", pictures, times)
    assert sharpest_frames(video, 4) == sorted(sharp)
    assert sharpest_frames(video, 100) == list(range(len(times)))


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "broken or no video"), (b"\0\0\0\x18ftypmp42" + bytes(99), "broken or no video")]
)
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(InputError, match=f"a.mp4: {message}"):
        sharpest_frames(tmp_path / "a.mp4", 3)


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="holds no pictures"):
        list(read_frames(tmp_path / "a.mp4"))


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
@pytest.mark.parametrize("pixels", ["yuv444p", "yuv420p10le"])
def test_a_high_dynamic_range_is_refused(tmp_path: Path, transfer: int, name: str, pixels: str) -> None:
    video = encode(tmp_path / "a.mp4", [grey(50)] * 3, color_trc=transfer, pix_fmt=pixels)
    with pytest.raises(InputError, match=rf"a\.mp4: coded for a high dynamic range \({name}\); convert it"):
        list(read_frames(video))


def test_10_bits_of_standard_range_become_8(tmp_path: Path) -> None:
    levels = (50, 110, 170)
    video = encode(tmp_path / "a.mp4", [grey(level) for level in levels], pix_fmt="yuv444p10le")
    for level, frame in zip(levels, read_frames(video), strict=True):
        assert frame.pixels.dtype == np.uint8
        assert abs(frame.pixels.astype(int) - level).max() <= 3


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_video_without_frames_is_refused(tmp_path: Path, suffix: str) -> None:
    video = encode(tmp_path / f"a.{suffix}", [])
    with pytest.raises(InputError, match=rf"a\.{suffix}: (holds no frames|holds no pictures|broken or no video)"):
        sharpest_frames(video, 3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_frames_are_counted(tmp_path: Path, suffix: str) -> None:
    """A Matroska file does not say how many it holds, an AVI counts those that a variable rate leaves out."""
    assert count_frames(encode(tmp_path / f"a.{suffix}", [noise(1, number) for number in range(7)])) == 7


def test_a_video_cut_short_gives_what_is_whole_or_says_so(tmp_path: Path) -> None:
    whole = encode(tmp_path / "a.mkv", [noise(1, number) for number in range(12)])
    (tmp_path / "b.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    frames = list(read_frames(tmp_path / "b.mkv"))
    assert 2 < len(frames) < 12
    assert [frame.number for frame in frames] == list(range(len(frames)))
    assert count_frames(tmp_path / "b.mkv") == len(frames)


@pytest.mark.parametrize("read", [count_frames, lambda video: sharpest_frames(video, 3)])
def test_an_mp4_cut_short_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    """Its table of frames comes last."""
    whole = encode(tmp_path / "a.mp4", [noise(1, number) for number in range(12)])
    (tmp_path / "b.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size * 9 // 10])
    with pytest.raises(InputError, match=r"b\.mp4: broken or no video"):
        read(tmp_path / "b.mp4")
