"""Frames of videos that the tests encode themselves: their number, order, orientation and sharpness."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from loupe.errors import InputError
from loupe.video import read_frames, sharpest_frames

SIZE = (96, 64)


def encode(path: Path, pictures: Sequence[np.ndarray], times: Sequence[int] | None = None, **options: object) -> Path:
    """H.264 of pictures (h, w, 3), at these hundredths of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=100, options={"crf": "4", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv444p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 100)
        for name, value in options.items():
            setattr(stream.codec_context, name, value)
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


def test_a_noted_rotation_is_applied(tmp_path: Path) -> None:
    """The matrix in the track's header sends x to y and y to -x: right goes down, and top goes right."""
    picture = grey(20)
    picture[:16, :16] = 220
    data = bytearray(encode(tmp_path / "a.mp4", [picture] * 3).read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(data)
    first = next(read_frames(tmp_path / "a.mp4")).pixels
    assert first.shape == (SIZE[0], SIZE[1], 3)
    assert first[4:12, -12:-4].mean() > 200
    assert first[4:12, 4:12].mean() < 40


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


def test_a_high_dynamic_range_is_refused(tmp_path: Path) -> None:
    video = encode(tmp_path / "a.mp4", [grey(50)] * 3, color_trc=16)
    with pytest.raises(InputError, match=r"high dynamic range \(PQ\)"):
        list(read_frames(video))


def test_a_video_cut_short_gives_what_is_whole_or_says_so(tmp_path: Path) -> None:
    whole = encode(tmp_path / "a.mkv", [noise(1, number) for number in range(12)])
    (tmp_path / "b.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    frames = list(read_frames(tmp_path / "b.mkv"))
    assert 2 < len(frames) < 12
    assert [frame.number for frame in frames] == list(range(len(frames)))
