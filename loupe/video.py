"""Videos: their frames, upright and in order, and which of them are worth taking as photos.

Frames are numbered from 0 as they are decoded. Times are the frames' own, so a variable rate does no harm; the rotation
that a camera noted is applied.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from loupe.errors import InputError
from loupe.images import Pixels, fit, sharpness

_SUFFIXES = {"mp4", "mov", "m4v", "mkv", "webm", "avi"}
_HDR = {16: "PQ", 18: "HLG"}  # ITU-T H.273, transfer characteristics
_LOOKED_AT = 512  # pixels on the long side, where sharpness is measured


class Frame(NamedTuple):
    """The `number`-th frame, at `time` seconds, RGB (h, w, 3)."""

    number: int
    time: float
    pixels: Pixels


def read_frames(video: Path, numbers: Collection[int] | None = None) -> Iterator[Frame]:
    """The frames of a video, or those of these numbers.

    Raises:
        InputError: it is no video, is broken, or is coded for a high dynamic range.
    """
    import av

    last = max(numbers, default=-1) if numbers is not None else None
    try:
        with av.open(str(video)) as container:
            if not container.streams.video:
                raise InputError(f"{video}: holds no pictures")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if name := _HDR.get(stream.codec_context.color_trc):
                raise InputError(
                    f"{video}: coded for a high dynamic range ({name}); convert it to standard range first"
                )
            for number, frame in enumerate(container.decode(stream)):
                if last is not None and number > last:
                    return
                if numbers is None or number in numbers:
                    yield Frame(
                        number, float(frame.time or 0), _upright(frame.to_ndarray(format="rgb24"), frame.rotation)
                    )
    except av.error.FFmpegError as error:
        raise InputError(f"{video}: broken or no video ({error.strerror})") from None


def count_frames(video: Path) -> int:
    """As an MP4 says it, or by decoding: other files do not say it, or count the places of dropped frames (AVI).

    Raises `InputError` as `read_frames` does.
    """
    import av

    try:
        with av.open(str(video)) as container:
            if "mp4" in container.format.name and container.streams.video and container.streams.video[0].frames:
                return int(container.streams.video[0].frames)
    except av.error.FFmpegError as error:
        raise InputError(f"{video}: broken or no video ({error.strerror})") from None
    return sum(1 for _ in read_frames(video))


def find_videos(folder: Path) -> list[Path]:
    """The videos in a folder, by suffix, in name order; raises `InputError` if a link leaves the folder."""
    found = sorted(path for path in folder.iterdir() if path.suffix[1:].lower() in _SUFFIXES and path.is_file())
    for path in found:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{path}: the link leaves the capture; put the video itself there")
    return found


def sharpest_frames(video: Path, count: int) -> list[int]:
    """The number of the sharpest frame in each of `count` equal stretches of time; of all frames, if there are no more.

    Raises:
        InputError: the video has no frames, or see `read_frames`.
    """
    seen = [(frame.time, _sharpness_small(frame.pixels)) for frame in read_frames(video)]
    if not seen:
        raise InputError(f"{video}: holds no frames")
    if len(seen) <= count:
        return list(range(len(seen)))
    times, sharp = (np.array(column) for column in zip(*seen, strict=True))
    edges = np.searchsorted(times, np.linspace(times[0], times[-1], count + 1))
    edges[-1] = len(times)
    return [int(first + sharp[first:end].argmax()) for first, end in pairwise(edges) if end > first]


def _sharpness_small(pixels: Pixels) -> float:
    return sharpness(fit(pixels, min(_LOOKED_AT, max(pixels.shape))))


def _upright(pixels: Pixels, degrees: int) -> Pixels:
    """Turned counterclockwise by a multiple of 90 degrees."""
    return np.ascontiguousarray(np.rot90(pixels, round(degrees / 90)))
