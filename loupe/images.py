"""Reading and writing pictures.

In memory a picture is RGB (or RGBA, or one channel), rows first, uint8 on disk and in tiles, float32 in [0, 1] where it
is computed with. sRGB values are used as they are: no method here works in linear light.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from loupe.errors import InputError

Pixels = NDArray[np.uint8]
HALF, WHOLE = 127, 250  # above them, a pixel is in the mask for the most part, or wholly (give or take JPEG)


def read_image(path: Path) -> Pixels:
    """The picture in a file that this project wrote (8-bit PNG or JPEG): (h, w, 3) RGB, (h, w, 4) RGBA or (h, w).

    Photos of unknown origin go through `ingest_photos` first, which also turns them upright.
    Raises `InputError` if the file is missing or broken.
    """
    try:
        raw = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    picture = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED) if raw.size else None
    if picture is None or picture.dtype != np.uint8:
        raise InputError(f"{path}: not a complete 8-bit picture")
    if picture.ndim == 2:
        return np.asarray(picture, np.uint8)
    code = cv2.COLOR_BGRA2RGBA if picture.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(picture, code), np.uint8)


def write_image(path: Path, picture: Pixels | NDArray[np.uint16], quality: int | None = None) -> None:
    """Write (h, w, 3), (h, w, 4) or (h, w) uint8 or uint16 as the suffix says; `quality` is for JPEG (0 to 100).

    The file appears whole or not at all: it is written beside its place and renamed.
    """
    ordered = picture
    if picture.ndim == 3:
        ordered = cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA if picture.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    options = [] if quality is None else [cv2.IMWRITE_JPEG_QUALITY, quality]
    encoded = cv2.imencode(path.suffix, ordered, options)[1]
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(encoded.tobytes())
    os.replace(unfinished, path)


def composite(picture: Pixels, mask: Pixels, backdrop: tuple[int, int, int]) -> Pixels:
    """(h, w, 3) where the mask (h, w) is 255, `backdrop` where it is 0, and between them in proportion."""
    if mask.min() == 255:
        return picture
    share = mask[..., None].astype(np.uint16)
    mixed = picture * share + np.array(backdrop, np.uint16) * (255 - share)
    return np.asarray((mixed + 127) // 255, np.uint8)


def shrink(picture: Pixels, factor: int) -> Pixels:
    """(h, w) or (h, w, 3) averaged over `factor` x `factor` areas; h and w must be multiples of `factor`."""
    height, width = picture.shape[:2]
    if height % factor or width % factor:
        raise ValueError(f"{width}x{height} is no multiple of {factor}")
    return np.asarray(cv2.resize(picture, (width // factor, height // factor), interpolation=cv2.INTER_AREA), np.uint8)


def to_uint8(picture: NDArray[np.floating]) -> Pixels:
    """Values in [0, 1] (clipped) as rounded uint8."""
    return np.asarray(np.clip(picture, 0, 1) * 255 + 0.5, np.uint8)


def detailed_windows(picture: Pixels, side: int, count: int) -> list[tuple[int, int, int, int]]:
    """Up to `count` squares (x, y, width, height) with the most detail, at least a `side` apart so that they show
    different things; smaller than `side` only where the picture is."""
    height, width = (min(side, size) for size in picture.shape[:2])
    detail = np.abs(cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_32F))
    sums = cv2.boxFilter(detail, -1, (width, height), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    free = sums[: picture.shape[0] - height + 1, : picture.shape[1] - width + 1].copy()
    windows: list[tuple[int, int, int, int]] = []
    while len(windows) < count and free.max() > -np.inf:
        y, x = (int(index) for index in np.unravel_index(np.argmax(free), free.shape))
        windows.append((x, y, width, height))
        free[max(y - 2 * height + 1, 0) : y + 2 * height, max(x - 2 * width + 1, 0) : x + 2 * width] = -np.inf
    return windows


def fit(picture: Pixels, side: int) -> Pixels:
    """Resampled by area to `side` pixels on the long side."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def sharpness(picture: Pixels) -> float:
    """The variance of the Laplacian of an RGB picture's grey levels, in [0, 1]; it compares pictures of one size."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())
