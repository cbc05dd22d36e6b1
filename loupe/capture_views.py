"""What a codebook needs of a capture: the views at full resolution, and which of them train and which test.

On disk: the tiles of `loupe.tiles.share_full`, and `split.json`. Neither cameras nor points, masks nor the low level: a
codebook is not trained again when only those change.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loupe.errors import InputError
from loupe.images import Pixels
from loupe.scene import Scene
from loupe.tiles import Tiles, share_full


@dataclass(frozen=True)
class CaptureViews:
    """A capture's views: `tiles` with the full level, and the names of those that train and of those that test."""

    tiles: Tiles
    train: Sequence[str]
    test: Sequence[str]

    def pictures(self, names: Sequence[str]) -> dict[str, Pixels]:
        """The pixels of these views by name, mapped, not read; raises `InputError` for one that is not there."""
        return {name: self.tiles.image(name, "full") for name in names}

    @classmethod
    def load(cls, folder: Path) -> CaptureViews:
        """What `gather_views` made in `folder`; raises `InputError` if it is not whole."""
        try:
            content = json.loads((folder / "split.json").read_text(encoding="utf8"))
            return cls(Tiles(folder), content["train"], content["test"])
        except FileNotFoundError:
            raise InputError(f"{folder}: no views of this capture; run gather_views first") from None
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise InputError(f"{folder / 'split.json'}: not a split ({error!r}); run gather_views again") from None


def gather_views(scene: Scene, tiles: Path, folder: Path) -> int:
    """Write a capture's views into `folder`, which exists; how many bytes of pixels, which `tiles` still holds."""
    size = share_full(tiles, folder)
    split = {"train": list(scene.train), "test": list(scene.test)}
    (folder / "split.json").write_text(json.dumps(split) + "\n", encoding="utf8")
    return size


def load_captures(folder: Path, names: Sequence[str]) -> dict[str, CaptureViews]:
    """The views of these captures, each a folder in `folder`, in their order.

    DVC leaves a folder behind where a capture is taken from a codebook, and goes on counting it among the codebook's
    dependencies.

    Raises:
        InputError: views are missing or not whole, or there are views of another capture.
    """
    left = sorted({path.name for path in folder.glob("*") if path.is_dir()} - set(names))
    if left:
        raise InputError(f"{folder / left[0]}: not among the captures of this codebook; delete this folder")
    return {name: CaptureViews.load(folder / name) for name in names}
