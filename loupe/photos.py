"""The photos of a capture: as they lie there, and as ingestion hands them on."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from loupe.decoding import is_picture
from loupe.errors import InputError

MIN_PHOTOS = 3
_STEM = re.compile(r"\w[\w .,()+@=-]{0,119}")
_MOST_BYTES = 200  # of the 255 that file systems take; pictures made of the view need some for their suffixes


@dataclass(frozen=True)
class Photo:
    """One ingested photo.

    Attributes:
        name: the view's name: the photo's file name without suffix, after its folders where photos lie in several.
        file: the picture, relative to the folder of `photos.json`.
        width, height: its size.
        source_width, source_height: the upright photo's size before shrinking.
        shrink: the factor between them; rows and columns beyond a multiple of it were cut off at the end.
        seal: the sealed reference of the same name is larger by this factor; 1: there is none.
        transparent: whether the mask is the photo's alpha channel.
        focal: focal length in pixels of the picture, from the EXIF 35 mm equivalent, or None.
        camera: make and model from EXIF, or "".
        sharpness: variance of the Laplacian at 512 pixels on the long side, grey levels in [0, 1]; low is blurred.
        exposure: mean grey level, 0 to 1.
        mask: its mask, from the photo's alpha channel or a file of its own, relative as `file`, or None.
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
    seal: int = 1
    transparent: bool = False

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


def find_photos(folder: Path) -> list[Path]:
    """The files of `folder` that are photos by content or by suffix, in name order; hidden files are none.

    Raises:
        InputError: a link leaves the folder, or a name could not safely become a view's name.
    """
    root = folder.resolve()
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file() or not is_picture(path):
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


def read_photos(folder: Path) -> list[Photo]:
    """The photos that `ingest` put into `folder`; raises `InputError` if it has not."""
    path = folder / "photos.json"
    try:
        return [Photo(**values) for values in json.loads(path.read_text(encoding="utf8"))["photos"]]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run ingest_photos first") from None
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a table of photos ({error!r})") from None
