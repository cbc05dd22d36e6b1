"""The layout of NeRF's synthetic scenes: `transforms_train.json`, `transforms_test.json` and the pictures they name.

Mildenhall et al. 2020, https://github.com/bmild/nerf; the conventions stand in `loupe.sources.transforms`. A picture's
alpha channel becomes its mask; bounds follow from the points.

`transforms_val.json` is ignored: its views served the authors to choose settings. In published scores they neither
train nor test.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loupe.errors import InputError
from loupe.photos import Photo, Shot
from loupe.sources.checked import read_json
from loupe.sources.given import Given, Part
from loupe.sources.transforms import Frame, by_view, cameras_of, frames_of, shots_of

_FILES: dict[str, Part] = {"transforms_train.json": "train", "transforms_test.json": "test"}


def recognises(capture: Path) -> bool:
    """Whether there is a `transforms_train.json`."""
    return (capture / "transforms_train.json").is_file()


def shots(capture: Path) -> list[Shot]:
    """The pictures of both sides of the split, named `train_r_0`, `test_r_0`; raises `InputError` if one is missing."""
    return shots_of(capture, _views(capture))


def cameras(capture: Path, photos: Sequence[Photo]) -> list[Given]:
    """The given cameras, with their side of the split.

    Raises:
        InputError: a file holds no such frames, or a number in it is none.
    """
    return cameras_of(photos, _views(capture))


def _views(capture: Path) -> dict[str, Frame]:
    frames: list[Frame] = []
    for name, part in _FILES.items():
        path = capture / name
        frames += frames_of(path, read_json(path), part)
    for frame in frames:
        if "time" in frame.values:  # D-NeRF: one camera, and another shape of the scene in each picture
            raise InputError(f"{frame.where}: time: a scene that moves before a single camera is not read here")
    return by_view(frames)
