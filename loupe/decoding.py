"""A photo's file, of unknown origin -> upright 8-bit RGB pixels.

Pixels are taken as sRGB whatever colour profile a photo names.
"""

from __future__ import annotations

import math
import re
import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from loupe.images import Pixels

_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")  # a JPEG that holds several pictures opens as "MPO", the first in front
MAX_PIXELS = 200_000_000
# Camera raw files open as TIFF, but what opens is their thumbnail.
_FOREIGN = {"heic", "heif", "avif", "jxl", "gif", "bmp", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf"}
_PICTURE = {"jpg", "jpeg", "mpo", "png", "tif", "tiff", "webp"} | _FOREIGN
_MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n|II\*\0|MM\0\*|RIFF....WEBP", re.DOTALL)
_DIAGONAL_35MM = math.hypot(36, 24)

# Pillow reads the size from the header and refuses more than twice this before it decodes.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2


class Unusable(Exception):
    """Why a photo cannot be used."""


class Decoded(NamedTuple):
    """A photo's upright `pixels` (h, w, 3), and `alpha` (h, w) if some pixel is not opaque; `focal` length in pixels
    and the `camera`'s name, as EXIF tells; whether the file's bytes may stand as they are; its EXIF `orientation`."""

    pixels: Pixels
    alpha: Pixels | None
    focal: float | None
    camera: str
    unchanged: bool
    orientation: int = 1


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its suffix or its first bytes, be it one that can be decoded or not."""
    if _suffix(path) in _PICTURE:
        return True
    with open(path, "rb") as file:
        return _MAGIC.match(file.read(16)) is not None


def is_foreign(path: Path) -> bool:
    """Whether its suffix is that of a kind of picture that is not decoded here."""
    return _suffix(path) in _FOREIGN


def decode(path: Path) -> Decoded:
    """The upright pixels of a photo; raises `Unusable`."""
    if path.stat().st_size == 0:
        raise Unusable("empty file")
    if is_foreign(path):
        raise Unusable(f".{_suffix(path)} is not read here; convert it to JPEG, PNG or TIFF")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes that are allowed here and of odd EXIF
            return _decode_open(path)
    except Image.DecompressionBombError:
        raise Unusable(f"more than {MAX_PIXELS // 1_000_000} megapixels") from None
    except UnidentifiedImageError:
        raise Unusable("not a JPEG, PNG, TIFF or WebP picture") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, MemoryError) as error:
        raise Unusable(f"broken: {error}") from None


def _decode_open(path: Path) -> Decoded:
    with Image.open(path, formats=_FORMATS) as photo:
        if photo.format != "MPO" and getattr(photo, "n_frames", 1) > 1:
            raise Unusable(f"holds {photo.n_frames} pictures; save the one that is meant")  # type: ignore[attr-defined]
        exif = photo.getexif()
        orientation = _orientation(exif)  # before loading, which turns a TIFF upright and forgets how it lay
        photo.load()
        upright = ImageOps.exif_transpose(photo)
        pixels, alpha = _to_rgb(upright)
        unchanged = (
            photo.mode == "RGB"
            and alpha is None
            and orientation == 1
            and (photo.format in ("JPEG", "MPO") or is_plain_png(path))
        )
        return Decoded(pixels, alpha, _focal(exif, *upright.size), _camera(exif), unchanged, orientation)


def turned(picture: Pixels, orientation: int) -> Pixels:
    """A picture as stored, set upright as EXIF says by its `orientation`, 1 to 8."""
    if orientation >= 5:  # rows are stored as columns
        picture = picture.swapaxes(0, 1)
    upside_down, reversed_ = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(picture[:: -1 if upside_down else 1, :: -1 if reversed_ else 1])


def is_plain_png(path: Path) -> bool:
    """Whether the file is a PNG of 8-bit RGB (bit depth and colour type of its IHDR chunk)."""
    with open(path, "rb") as file:
        header = file.read(26)
    return header.startswith(b"\x89PNG") and header[24:26] == b"\x08\x02"


def _to_rgb(photo: Image.Image) -> tuple[Pixels, Pixels | None]:
    """(h, w, 3) and, where some pixel is not opaque, the alpha (h, w)."""
    if photo.mode.startswith("I;16"):
        grey = np.asarray(photo).astype(np.uint32)
        return cv2.cvtColor(((grey + 128) // 257).astype(np.uint8), cv2.COLOR_GRAY2RGB).astype(np.uint8), None
    if photo.mode in ("I", "F"):
        raise Unusable("32 bits a pixel; save it with 8 or 16")
    if photo.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in photo.info:
        both = np.asarray(photo.convert("RGBA"))
        alpha = np.ascontiguousarray(both[..., 3])
        if not alpha.any():
            raise Unusable("wholly transparent")
        return np.ascontiguousarray(both[..., :3]), None if alpha.min() == 255 else alpha
    return np.asarray(photo.convert("RGB")), None


def _orientation(exif: Image.Exif) -> int:
    """From 1 to 8; what is none of them turns nothing."""
    value = exif.get(ExifTags.Base.Orientation, 1)
    return int(value) if value in range(1, 9) else 1


def _focal(exif: Image.Exif, width: int, height: int) -> float | None:
    """Pixels, from the 35 mm equivalent, which compares diagonals (CIPA DCG-001)."""
    equivalent = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.FocalLengthIn35mmFilm)
    try:
        millimetres = float(equivalent)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return millimetres / _DIAGONAL_35MM * math.hypot(width, height) if 1 <= millimetres <= 2000 else None


def _camera(exif: Image.Exif) -> str:
    words = [str(exif.get(key, "")) for key in (ExifTags.Base.Make, ExifTags.Base.Model)]
    return " ".join("".join(c for c in " ".join(words) if c.isprintable()).split())[:80]


def _suffix(path: Path) -> str:
    return path.suffix[1:].lower()
