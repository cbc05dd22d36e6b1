"""Photos of unknown origin -> upright 8-bit RGB pictures that the rest of loupe can trust, and a table of them.

Pixels are taken as sRGB whatever colour profile a photo names. What was taken, what was left out and why stands in
`photos.json`; the capture itself is only read.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import struct
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from pydantic import Field

from loupe.camera import Array
from loupe.config import Config
from loupe.errors import InputError
from loupe.images import Pixels, shrink, write_image
from loupe.video import read_frames, sharpest_frames

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")  # a JPEG that holds several pictures opens as "MPO", the first in front
MIN_PHOTOS = 3
MAX_PIXELS = 200_000_000
# Camera raw files open as TIFF, but what opens is their thumbnail.
_FOREIGN = {"heic", "heif", "avif", "jxl", "gif", "bmp", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf"}
_PICTURE = {"jpg", "jpeg", "mpo", "png", "tif", "tiff", "webp"} | _FOREIGN
_MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n|II\*\0|MM\0\*|RIFF....WEBP", re.DOTALL)
_STEM = re.compile(r"\w[\w .,()+@=-]{0,119}")
_MOST_BYTES = 200  # of the 255 that file systems take; pictures made of the view need some for their suffixes
_DIAGONAL_35MM = math.hypot(36, 24)
_THUMBNAIL = 512
_MOST_THUMBNAILS = 96  # on the contact sheet
# Miniatures, of mean 0 and deviation 1, differ by at most 0.016 (root mean square) where a photo was saved anew as a
# JPEG of quality 20 to 95, at half the size or darker, and by at least 0.19 where two were taken from different places:
# measured on fern (the closest), banana, DTU's scan 65 and the demo.
_ALIKE = 0.04
_MINIATURE = 32
_COMPARED = 400  # photos, the next in name order, with each one
_MOST_NAMED = 5

# Pillow reads the size from the header and refuses more than twice this before it decodes.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2


class IngestConfig(Config):
    """Section `ingest` of a capture.

    Attributes:
        shrink: photos are shrunk by this whole factor, averaging areas; that is the input scale.
        frames: of a video through a scene that holds still: so many, the sharpest of as many equal stretches.
        every: of a scene that moves: each n-th frame.
    """

    shrink: int = Field(1, ge=1, le=64)
    frames: int = Field(120, ge=MIN_PHOTOS)
    every: int = Field(1, ge=1)


@dataclass(frozen=True)
class Photo:
    """One ingested photo.

    Attributes:
        name: the view's name: the photo's file name without suffix, after its folders where photos lie in several.
        file: the picture, relative to the folder of `photos.json`.
        width, height: its size.
        source_width, source_height: the upright photo's size before shrinking.
        shrink: the factor between them; rows and columns beyond a multiple of it were cut off at the end.
        focal: focal length in pixels of the picture, from the EXIF 35 mm equivalent, or None.
        camera: make and model from EXIF, or "".
        sharpness: variance of the Laplacian at 512 pixels on the long side, grey levels in [0, 1]; low is blurred.
        exposure: mean grey level, 0 to 1.
        mask: foreground mask, from the photo's alpha channel or a file of its own, relative as `file`, or None.
        camera_id, frame: the camera that took it, and when.
        orientation: how the photo lay in its file, from 1 (upright) to 8, as EXIF counts; ingestion turned it upright.
    """

    name: str
    file: str
    width: int
    height: int
    source_width: int
    source_height: int
    shrink: int
    focal: float | None
    camera: str
    sharpness: float
    exposure: float
    mask: str | None = None
    camera_id: str = "0"
    frame: int = 0
    orientation: int = 1

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height of the photo as it lay in its file, before it was turned upright and shrunk."""
        lay_on_its_side = self.orientation >= 5
        size = self.source_width, self.source_height
        return size[::-1] if lay_on_its_side else size


class Shot(NamedTuple):
    """A photo of a capture as it was taken, or a frame of a video, or a whole video.

    Attributes:
        name: of the view; of a whole video, what its views' names begin with.
        file: the photo or the video.
        camera_id, frame: which camera took it, and when; one of each in a capture of single photos.
        mask: the file of its foreground mask, or None.
        still: the number of the video's frame that it is, or None for a photo.
        is_walk: whether it stands for a whole video, of a scene that holds still, out of which frames are to be taken.
    """

    name: str
    file: Path
    camera_id: str = "0"
    frame: int = 0
    mask: Path | None = None
    still: int | None = None
    is_walk: bool = False

    def __str__(self) -> str:
        return self.name + ("" if self.still is not None else self.file.suffix)


class Ingested(NamedTuple):
    """What `ingest` made: the `photos`, the files `left_out` with the reason, the names of each two photos that look
    `alike`, and a `contact_sheet` of the photos, or of some of them, evenly apart, if they are many."""

    photos: list[Photo]
    left_out: dict[str, str]
    alike: list[tuple[str, str]]
    contact_sheet: Pixels


class _Unusable(Exception):
    """Why one photo is left out."""


class _Decoded(NamedTuple):
    pixels: Pixels
    alpha: Pixels | None
    focal: float | None
    camera: str
    unchanged: bool
    orientation: int = 1


def find_photos(folder: Path) -> list[Path]:
    """The files of `folder` that are photos by content or by suffix, in name order; hidden files are none.

    Raises:
        InputError: a link leaves the folder, or a name could not safely become a view's name.
    """
    root = folder.resolve()
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file() or not (_suffix(path) in _PICTURE or _has_magic(path)):
            continue
        if not path.resolve().is_relative_to(root):
            raise InputError(f"{path}: the link leaves the capture; put the photo itself there")
        check_view_name(path.stem, repr(str(path)))
        found.append(path)
    return found


def check_view_name(name: str, where: str) -> None:
    """Raises `InputError`, opened by `where`, for a photo's name that could not safely become a view's name."""
    if not _STEM.fullmatch(unicodedata.normalize("NFC", name)) or len(name.encode()) > _MOST_BYTES:
        raise InputError(
            f"{where}: rename this photo: at most 120 letters, digits, spaces and .,()+@=-_ ({_MOST_BYTES} bytes)"
        )


def ingest(shots: Sequence[Shot], config: IngestConfig, out: Path, say: Callable[[str], None]) -> Ingested:
    """Turn photos into upright 8-bit RGB pictures in `out`, which exists, one at a time, and write `photos.json`.

    Of videos and of scenes that move, frames are taken as `config` says. A JPEG or PNG in which nothing has to change
    is copied byte for byte; anything else becomes a PNG. An alpha channel becomes a mask, unless the photo has one of
    its own. A photo that cannot be used is left out and named; photos that look the same are named and kept.

    Raises:
        InputError: two photos share a name but for case or suffix, fewer than three are usable, or a video is none.
    """
    shots = [still for shot in shots if shot.frame % config.every == 0 for still in _stills(shot, config.frames)]
    _refuse_clashes(shots)
    photos: list[Photo] = []
    left_out: dict[str, str] = {}
    thumbnails: list[Pixels] = []
    miniatures: list[Array] = []
    all_white: list[str] = []
    apart = -(-len(shots) // _MOST_THUMBNAILS)
    for shot, decoded in _decode_all(shots):
        try:
            if isinstance(decoded, _Unusable):
                raise decoded
            decoded = _with_mask(decoded, shot.mask)
            photo, thumbnail = _store(shot, decoded, config.shrink, out)
        except _Unusable as reason:
            left_out[str(shot)] = str(reason)
            say(f"{shot} left out: {reason}")
            continue
        if len(photos) % apart == 0:
            thumbnails.append(thumbnail)
        photos.append(photo)
        miniatures.append(_miniature(thumbnail))
        if decoded.alpha is not None and decoded.alpha.min() == 255:
            all_white.append(shot.name)
    if len(photos) < MIN_PHOTOS:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:3]) or "no other found"
        where = f"{shots[0].file.parent}: " if shots else ""
        raise InputError(f"{where}{len(photos)} of {len(shots)} photos are usable, need {MIN_PHOTOS} ({reasons})")
    content = {"format": 1, "photos": [asdict(photo) for photo in photos], "left_out": left_out}
    (out / "photos.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")
    alike = _find_alike(photos, miniatures)
    _name_blurred(photos, say)
    _name_alike(alike, say)
    if all_white:
        say(f"{len(all_white)} masks are all white and say nothing, the first is that of {all_white[0]}")
    if len(thumbnails) < len(photos):
        say(f"the contact sheet shows {len(thumbnails)} of {len(photos)} photos")
    return Ingested(photos, left_out, alike, _contact_sheet(thumbnails))


def read_photos(folder: Path) -> list[Photo]:
    """The photos that `ingest` put into `folder`; raises `InputError` if it has not."""
    path = folder / "photos.json"
    try:
        return [Photo(**values) for values in json.loads(path.read_text(encoding="utf8"))["photos"]]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run ingest_photos first") from None
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a table of photos ({error!r})") from None


def _suffix(path: Path) -> str:
    return path.suffix[1:].lower()


def _has_magic(path: Path) -> bool:
    with open(path, "rb") as file:
        return _MAGIC.match(file.read(16)) is not None


def _refuse_clashes(shots: Sequence[Shot]) -> None:
    seen: dict[str, Shot] = {}
    for shot in shots:
        if _suffix(shot.file) in _FOREIGN:  # often beside its own JPEG, and left out anyway
            continue
        key = unicodedata.normalize("NFC", shot.name).casefold()
        if key in seen:
            raise InputError(f"{shot.file}: would be the same view as {seen[key].file}; rename one")
        seen[key] = shot


def _stills(shot: Shot, frames: int) -> list[Shot]:
    """The shot itself, or the frames that are taken of a walk."""
    if not shot.is_walk:
        return [shot]
    numbers = sharpest_frames(shot.file, frames)
    return [shot._replace(name=f"{shot.name}_{number:06d}", still=number, is_walk=False) for number in numbers]


def _decode_all(shots: Sequence[Shot]) -> Iterator[tuple[Shot, _Decoded | _Unusable]]:
    """Each shot with its pixels or the reason why it has none; a video is decoded once for all frames in a row."""
    for _, group in groupby(shots, key=lambda shot: (shot.file, shot.still is None)):
        together = list(group)
        yield from _decode_stills(together) if together[0].still is not None else map(_decode_photo, together)


def _decode_photo(shot: Shot) -> tuple[Shot, _Decoded | _Unusable]:
    try:
        return shot, _decode(shot.file)
    except _Unusable as reason:
        return shot, reason


def _decode_stills(shots: Sequence[Shot]) -> Iterator[tuple[Shot, _Decoded | _Unusable]]:
    wanted = {shot.still: shot for shot in shots}
    try:
        for frame in read_frames(shots[0].file, {number for number in wanted if number is not None}):
            yield wanted.pop(frame.number), _Decoded(frame.pixels, None, None, "", unchanged=False)
        reason = "the video ends before this frame"
    except InputError as error:
        reason = str(error)
    for shot in wanted.values():
        yield shot, _Unusable(reason)


def _decode(path: Path) -> _Decoded:
    """The upright pixels of a photo; raises `_Unusable`."""
    if path.stat().st_size == 0:
        raise _Unusable("empty file")
    if _suffix(path) in _FOREIGN:
        raise _Unusable(f".{_suffix(path)} is not read here; convert it to JPEG, PNG or TIFF")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes that are allowed here and of odd EXIF
            return _decode_open(path)
    except Image.DecompressionBombError:
        raise _Unusable(f"more than {MAX_PIXELS // 1_000_000} megapixels") from None
    except UnidentifiedImageError:
        raise _Unusable("not a JPEG, PNG, TIFF or WebP picture") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, MemoryError) as error:
        raise _Unusable(f"broken: {error}") from None


def _decode_open(path: Path) -> _Decoded:
    with Image.open(path, formats=FORMATS) as photo:
        if photo.format != "MPO" and getattr(photo, "n_frames", 1) > 1:
            raise _Unusable(f"holds {photo.n_frames} pictures; save the one that is meant")  # type: ignore[attr-defined]
        exif = photo.getexif()
        orientation = _orientation(exif)  # before loading, which turns a TIFF upright and forgets how it lay
        photo.load()
        upright = ImageOps.exif_transpose(photo)
        pixels, alpha = _to_rgb(upright)
        unchanged = (
            photo.mode == "RGB"
            and alpha is None
            and orientation == 1
            and (photo.format in ("JPEG", "MPO") or _is_plain_png(path))
        )
        return _Decoded(pixels, alpha, _focal(exif, *upright.size), _camera(exif), unchanged, orientation)


def _is_plain_png(path: Path) -> bool:
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
        raise _Unusable("32 bits a pixel; save it with 8 or 16")
    if photo.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in photo.info:
        both = np.asarray(photo.convert("RGBA"))
        alpha = np.ascontiguousarray(both[..., 3])
        if not alpha.any():
            raise _Unusable("wholly transparent")
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


def _with_mask(decoded: _Decoded, file: Path | None) -> _Decoded:
    """With the mask of a file in the place of the alpha channel; raises `_Unusable` for one that does not fit."""
    if file is None:
        return decoded
    try:
        mask = _decode(file).pixels.max(2)
    except FileNotFoundError:
        raise _Unusable(f"its mask {file.name} is missing") from None
    except _Unusable as reason:
        raise _Unusable(f"its mask {file.name}: {reason}") from None
    if mask.shape != decoded.pixels.shape[:2]:
        sizes = (f"{width}x{height}" for height, width in (mask.shape, decoded.pixels.shape[:2]))
        raise _Unusable("its mask has {} pixels, the photo {}".format(*sizes))
    if not mask.any():
        raise _Unusable(f"its mask {file.name} is all black: nothing of it would be seen")
    return decoded._replace(alpha=mask)


def _store(shot: Shot, decoded: _Decoded, factor: int, out: Path) -> tuple[Photo, Pixels]:
    """Write the picture and its mask; returns the table's row and a thumbnail."""
    source_height, source_width = decoded.pixels.shape[:2]
    if min(source_height, source_width) < factor:
        raise _Unusable(f"{source_width}x{source_height} pixels cannot be shrunk by {factor}")
    pixels = _shrunk(decoded.pixels, factor)
    if decoded.unchanged and factor == 1:
        file = shot.name + (".png" if _is_plain_png(shot.file) else ".jpg")
        shutil.copyfile(shot.file, out / file)
    else:
        file = shot.name + ".png"
        write_image(out / file, pixels)
    mask = None
    if decoded.alpha is not None:
        mask = f"masks/{shot.name}.png"
        (out / "masks").mkdir(exist_ok=True)
        write_image(out / mask, _shrunk(decoded.alpha, factor))
    small = _fit(pixels, _THUMBNAIL)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    photo = Photo(
        name=shot.name,
        file=file,
        width=pixels.shape[1],
        height=pixels.shape[0],
        source_width=source_width,
        source_height=source_height,
        shrink=factor,
        focal=None if decoded.focal is None else round(decoded.focal / factor, 3),
        camera=decoded.camera,
        sharpness=round(float(cv2.Laplacian(grey, cv2.CV_32F).var()), 6),
        exposure=round(float(grey.mean()), 4),
        mask=mask,
        camera_id=shot.camera_id,
        frame=shot.frame,
        orientation=decoded.orientation,
    )
    return photo, _fit(small, 160)


def _shrunk(pixels: Pixels, factor: int) -> Pixels:
    height, width = (side // factor * factor for side in pixels.shape[:2])
    return pixels if factor == 1 else shrink(pixels[:height, :width], factor)


def _fit(pixels: Pixels, side: int) -> Pixels:
    """Resampled by area to `side` pixels on the long side."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _name_blurred(photos: Sequence[Photo], say: Callable[[str], None]) -> None:
    usual = float(np.median([photo.sharpness for photo in photos]))
    for photo in photos:
        if photo.sharpness < 0.25 * usual:
            say(f"{photo.name} looks blurred: sharpness {photo.sharpness:.2g}, the median is {usual:.2g}")


def _miniature(picture: Pixels) -> Array:
    """What shows at a glance, whatever the exposure: few grey levels, flattened, of mean 0 and deviation 1."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64)
    small = cv2.resize(grey, (_MINIATURE, _MINIATURE), interpolation=cv2.INTER_AREA).ravel()
    contrast = max(small.std(), 1.0)  # below a grey level there is only noise
    return np.asarray((small - small.mean()) / contrast)


def _find_alike(photos: Sequence[Photo], miniatures: Sequence[Array]) -> list[tuple[str, str]]:
    """The names of each two photos of one camera that look the same.

    Photos of different moments are not compared: a camera that stands still before a scene that moves shows much the
    same for long.
    """

    def taken(one: tuple[Photo, Array]) -> tuple[str, int]:
        return one[0].camera_id, one[0].frame

    alike = []
    for _, group in groupby(sorted(zip(photos, miniatures, strict=True), key=taken), key=taken):
        together = list(group)
        pictures = np.stack([picture for _, picture in together])
        for place, (photo, picture) in enumerate(together):
            later = slice(place + 1, place + 1 + _COMPARED)
            difference = np.sqrt(np.mean((pictures[later] - picture) ** 2, 1))
            same = np.flatnonzero(difference < _ALIKE)
            alike += [(photo.name, together[place + 1 + after][0].name) for after in same]
    return alike


def _name_alike(alike: Sequence[tuple[str, str]], say: Callable[[str], None]) -> None:
    if alike:
        named = ", ".join(f"{first} and {second}" for first, second in alike[:_MOST_NAMED])
        more = ", ..." if len(alike) > _MOST_NAMED else ""
        count = "1 pair of photos looks" if len(alike) == 1 else f"{len(alike)} pairs of photos look"
        say(f"{count} the same: {named}{more}")


def _contact_sheet(thumbnails: Sequence[Pixels], columns: int = 6) -> Pixels:
    """All thumbnails in rows, on grey."""
    height, width = np.max([picture.shape[:2] for picture in thumbnails], 0) + 8
    rows = -(-len(thumbnails) // columns)
    sheet = np.full((rows * height, min(columns, len(thumbnails)) * width, 3), 128, np.uint8)
    for place, picture in enumerate(thumbnails):
        y, x = place // columns * height + 4, place % columns * width + 4
        sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return sheet
