"""Training pixels on disk: decoded once, read at random through the page cache.

A folder holds, for each level (`full`, `low`), one flat uint8 file of all views' RGB rows one after another, and
`tiles.json`, which says where each view starts and how large it is. A level is read as `np.memmap`, so memory holds
only the pages in use. Low is the area average of full.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InputError
from loupe.images import Pixels, shrink
from loupe.scene import Level

LEVELS: tuple[Level, Level] = ("full", "low")


@dataclass(frozen=True)
class Entry:
    """Where a view lies in a level's file: first byte, and its height and width in pixels."""

    offset: int
    height: int
    width: int


class Tiles:
    """The cut pixels of a scene."""

    def __init__(self, folder: Path) -> None:
        """Open what `write_tiles` wrote; raises `InputError` if it is missing or files and table disagree."""
        try:
            content = json.loads((folder / "tiles.json").read_text(encoding="utf8"))
            self.ratio: int = content["ratio"]
            self._entries: dict[Level, dict[str, Entry]] = {
                level: {name: Entry(*values) for name, values in content[level].items()} for level in LEVELS
            }
        except FileNotFoundError:
            raise InputError(f"{folder / 'tiles.json'}: no such file; run cut_tiles first") from None
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise InputError(
                f"{folder / 'tiles.json'}: not a table of tiles ({error!r}); run cut_tiles again"
            ) from None
        self._pixels: dict[Level, NDArray[np.uint8]] = {}
        for level in LEVELS:
            path = folder / f"{level}.u8"
            size = sum(entry.height * entry.width * 3 for entry in self._entries[level].values())
            if not path.is_file() or path.stat().st_size != size:
                raise InputError(f"{path}: expected {size} bytes; run cut_tiles again")
            self._pixels[level] = np.memmap(path, np.uint8, "r")

    @property
    def names(self) -> list[str]:
        """The views, in the scene's order."""
        return list(self._entries["full"])

    def image(self, name: str, level: Level) -> Pixels:
        """The view's pixels (h, w, 3), mapped, not read."""
        entry = self._entry(name, level)
        size = entry.height * entry.width * 3
        return self._pixels[level][entry.offset : entry.offset + size].reshape(entry.height, entry.width, 3)

    def pixels(self, level: Level) -> Pixels:
        """All views' pixels one after another (n, 3), mapped, not read."""
        return self._pixels[level].reshape(-1, 3)

    def first_pixel(self, name: str, level: Level) -> int:
        """Which of `pixels` is the view's first."""
        return self._entry(name, level).offset // 3

    def _entry(self, name: str, level: Level) -> Entry:
        if name not in self._entries[level]:
            raise InputError(f"view {name!r} is not in the tiles")
        return self._entries[level][name]


def write_tiles(folder: Path, pictures: Iterable[tuple[str, Pixels]], ratio: int) -> int:
    """Cut `pictures` (name, RGB (h, w, 3)) into `folder`, which exists; sizes are trimmed to multiples of `ratio`.

    Pictures are taken one at a time: memory holds one. Returns how many bytes of pixels were written.

    Raises:
        InputError: a picture is smaller than `ratio`.
    """
    table: dict[Level, dict[str, list[int]]] = {level: {} for level in LEVELS}
    offsets = dict.fromkeys(LEVELS, 0)
    with open(folder / "full.u8", "wb") as full_file, open(folder / "low.u8", "wb") as low_file:
        for name, picture in pictures:
            height, width = (side // ratio * ratio for side in picture.shape[:2])
            if not height or not width:
                raise InputError(f"view {name}: {picture.shape[1]}x{picture.shape[0]} pixels have no 1/{ratio}")
            full = np.ascontiguousarray(picture[:height, :width])
            for level, pixels, file in zip(LEVELS, (full, shrink(full, ratio)), (full_file, low_file), strict=True):
                table[level][name] = [offsets[level], *pixels.shape[:2]]
                offsets[level] += file.write(pixels.tobytes())
        for file in (full_file, low_file):
            file.flush()
            os.fsync(file.fileno())
    content = {"ratio": ratio, "full": table["full"], "low": table["low"]}
    (folder / "tiles.json").write_text(json.dumps(content) + "\n", encoding="utf8")
    return sum(offsets.values())
