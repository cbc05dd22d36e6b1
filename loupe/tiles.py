"""Training pixels on disk: decoded once, read at random through the page cache.

A folder holds, for each level (`full`, `low`), one flat uint8 file of all views' RGB rows one after another, in a scene
with masks another one of their masks' rows, and `tiles.json`, which says where each view starts and how large it is. A
level is read as `np.memmap`, so memory holds only the pages in use. Low is the area average of full. Of a sealed scene
there is no full level, and of what `share_full` shared there is no other.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loupe.errors import InputError
from loupe.images import Pixels, shrink
from loupe.scene import Level, Scene

LEVELS: tuple[Level, Level] = ("full", "low")


@dataclass(frozen=True)
class Entry:
    """Where a view lies in a level's file: its first pixel, and its height and width in pixels."""

    first: int
    height: int
    width: int


class Tiles:
    """The cut pixels of a scene."""

    def __init__(self, folder: Path) -> None:
        """Open what `write_tiles` wrote; raises `InputError` if it is missing or files and table disagree."""
        try:
            content = json.loads((folder / "tiles.json").read_text(encoding="utf8"))
            self.ratio: int = content["ratio"]
            masked: bool = content["masked"]
            self._entries: dict[Level, dict[str, Entry]] = {
                level: {name: Entry(*values) for name, values in content["views"][level].items()}
                for level in LEVELS
                if level in content["views"]
            }
        except FileNotFoundError:
            raise InputError(f"{folder / 'tiles.json'}: no such file; run cut_tiles first") from None
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise InputError(
                f"{folder / 'tiles.json'}: not a table of tiles ({error!r}); run cut_tiles again"
            ) from None
        self._folder = folder
        self._pixels = {level: self._mapped(folder / f"{level}.u8", level, 3) for level in self._entries}
        self._masks = {level: self._mapped(folder / f"{level}.mask.u8", level, 1) for level in self._entries if masked}

    @property
    def names(self) -> list[str]:
        """The views, in the scene's order."""
        return list(next(iter(self._entries.values())))

    def image(self, name: str, level: Level) -> Pixels:
        """The view's pixels (h, w, 3), mapped, not read; raises `InputError` if there is no such view or level."""
        return self._of(self._pixels, name, level, 3)

    def mask(self, name: str, level: Level) -> Pixels | None:
        """The view's mask (h, w), 255 where the view has none, mapped, not read; None in a scene without masks."""
        return self._of(self._masks, name, level, 1)[..., 0] if self._masks else None

    def pixels(self, level: Level) -> Pixels:
        """All views' pixels one after another (n, 3), mapped; raises `InputError` if there is no such level."""
        self._check(level)
        return self._pixels[level]

    def masks(self, level: Level) -> Pixels | None:
        """Their masks (n,), mapped, not read; None in a scene without masks."""
        self._check(level)
        return self._masks[level][:, 0] if self._masks else None

    def first_pixel(self, name: str, level: Level) -> int:
        """Which of `pixels` is the view's first."""
        return self._entry(name, level).first

    def _mapped(self, path: Path, level: Level, channels: int) -> Pixels:
        """A level's file, (pixels, channels)."""
        size = channels * sum(entry.height * entry.width for entry in self._entries[level].values())
        if not path.is_file() or path.stat().st_size != size:
            raise InputError(f"{path}: expected {size} bytes; run cut_tiles again")
        return np.memmap(path, np.uint8, "r").reshape(-1, channels)

    def _of(self, pixels: dict[Level, Pixels], name: str, level: Level, channels: int) -> Pixels:
        entry = self._entry(name, level)
        count = entry.height * entry.width
        return pixels[level][entry.first : entry.first + count].reshape(entry.height, entry.width, channels)

    def _entry(self, name: str, level: Level) -> Entry:
        self._check(level)
        if name not in self._entries[level]:
            raise InputError(f"view {name!r} is not in the tiles")
        return self._entries[level][name]

    def _check(self, level: Level) -> None:
        if level not in self._entries:
            raise InputError(f"{self._folder}: the {level} resolution is sealed: nothing may be trained on it")


def cut_tiles(scene: Scene, folder: Path) -> int:
    """Cut all of a scene's pictures, and masks if it has any, into `folder`, which exists; see `write_tiles`."""
    pictures = ((view.name, scene.picture(view.name)) for view in scene.views)
    masked = any(view.mask for view in scene.views)
    return write_tiles(folder, pictures, scene.ratio, scene.mask if masked else None, scene.sealed)


def write_tiles(
    folder: Path,
    pictures: Iterable[tuple[str, Pixels]],
    ratio: int,
    mask_of: Callable[[str], Pixels | None] | None = None,
    sealed: bool = False,
) -> int:
    """Cut `pictures` (name, RGB (h, w, 3)) into `folder`, which exists; sizes are trimmed to multiples of `ratio`.

    Pictures are taken one at a time: memory holds one. Returns how many bytes of pixels were written.

    Args:
        mask_of: name -> the view's mask (h, w), or None, which counts as covered whole; without it no masks are kept.
        sealed: whether the pictures are the low level.

    Raises:
        InputError: a picture is smaller than `ratio`.
    """
    levels = LEVELS[1:] if sealed else LEVELS
    table: dict[Level, dict[str, list[int]]] = {level: {} for level in levels}
    first = dict.fromkeys(levels, 0)
    written = 0
    with ExitStack() as stack:
        names = [f"{level}{kind}.u8" for level in levels for kind in (("", ".mask") if mask_of else ("",))]
        files = {name: stack.enter_context(open(folder / name, "wb")) for name in names}
        for name, picture in pictures:
            for level, pixels in _cut(name, picture, levels, ratio):
                height, width = pixels.shape[:2]
                table[level][name] = [first[level], height, width]
                first[level] += height * width
                written += files[f"{level}.u8"].write(pixels.tobytes())
            if mask_of:
                mask = mask_of(name)
                mask = np.full(picture.shape[:2], 255, np.uint8) if mask is None else mask
                for level, pixels in _cut(name, mask, levels, ratio):
                    written += files[f"{level}.mask.u8"].write(pixels.tobytes())
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    content = {"ratio": ratio, "masked": mask_of is not None, "views": table}
    (folder / "tiles.json").write_text(json.dumps(content) + "\n", encoding="utf8")
    return written


def share_full(source: Path, folder: Path) -> int:
    """Make tiles in `folder`, which exists, of the full level alone of those in `source`, without masks.

    The pixels are one more hard link to the same file where the disk allows it, and cost nothing; else they are copied.
    Returns how many bytes of pixels there are. Raises `InputError` as `Tiles` does, and where the full level is sealed.
    """
    size = Tiles(source).pixels("full").nbytes
    content = json.loads((source / "tiles.json").read_text(encoding="utf8"))
    content |= {"masked": False, "views": {"full": content["views"]["full"]}}
    (folder / "full.u8").unlink(missing_ok=True)
    try:
        os.link((source / "full.u8").resolve(), folder / "full.u8")
    except OSError:
        shutil.copyfile(source / "full.u8", folder / "full.u8")
    (folder / "tiles.json").write_text(json.dumps(content) + "\n", encoding="utf8")
    return size


def _cut(name: str, picture: Pixels, levels: Sequence[Level], ratio: int) -> list[tuple[Level, Pixels]]:
    """The picture at each level; at the only one, as it is."""
    if len(levels) == 1:
        return [(levels[0], np.ascontiguousarray(picture))]
    height, width = (side // ratio * ratio for side in picture.shape[:2])
    if not height or not width:
        raise InputError(f"view {name}: {picture.shape[1]}x{picture.shape[0]} pixels have no 1/{ratio}")
    full = np.ascontiguousarray(picture[:height, :width])
    return list(zip(levels, (full, shrink(full, ratio)), strict=True))
