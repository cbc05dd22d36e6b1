"""The layout of nerfstudio and Instant-NGP: `transforms.json` and the photos and masks that it names.

https://docs.nerf.studio/quickstart/data_conventions.html and Instant-NGP's docs/nerf_dataset_tips.md; the conventions
stand in `loupe.sources.transforms`. The world is the one of the frames: `applied_transform` says how they were turned
after COLMAP, and `applied_scale` how scaled; both are done already, and are not undone here. Bounds follow from the
points.

`train_filenames`, `val_filenames` and `test_filenames`, if there are any, are the capture's split. As in nerfstudio, a
frame in no list is not used. The views of `test_filenames` test; where that names none, those of `val_filenames` do,
which else served to choose settings and are not used. A mask's black pixels are those that are not to be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from loupe.errors import InputError
from loupe.photos import Photo, Shot
from loupe.sources.checked import read_json
from loupe.sources.given import Given
from loupe.sources.transforms import Frame, by_view, cameras_of, frames_of, photo_at, shots_of

_FILE = "transforms.json"


def recognises(capture: Path) -> bool:
    """Whether there is a `transforms.json`."""
    return (capture / _FILE).is_file()


def shots(capture: Path) -> list[Shot]:
    """The photos of the frames, in the order of their names; raises `InputError` if one is missing."""
    return shots_of(capture, _views(capture))


def cameras(capture: Path, photos: Sequence[Photo]) -> list[Given]:
    """The given cameras, with their side of the split if the file has one.

    Raises:
        InputError: the file holds no such frames, a number in it is none, or the lists make no split.
    """
    return cameras_of(photos, _views(capture))


def _views(capture: Path) -> dict[str, Frame]:
    path = capture / _FILE
    content = read_json(path)
    return by_view(_split(path, content, frames_of(path, content)))


def _split(path: Path, content: dict[str, Any], frames: list[Frame]) -> list[Frame]:
    """The frames that the file's lists name, with their sides; all of them where it has no lists."""
    train, val, test = (_listed(path, content, f"{side}_filenames") for side in ("train", "val", "test"))
    if not (train or val or test):
        return frames
    tests = test or val
    known = {frame.photo for frame in frames}
    if strangers := sorted((train | tests) - known):
        raise InputError(f"{path}: {strangers[0]} is listed in a split, but has no frame; take it out")
    if not train:
        raise InputError(f"{path}: train_filenames: names no photo, but other lists do; list those that train")
    if both := sorted(train & tests):
        raise InputError(f"{path}: {both[0]} would both train and test; take it out of one of the lists")
    return [
        frame._replace(part="test" if frame.photo in tests else "train")
        for frame in frames
        if frame.photo in train | tests
    ]


def _listed(path: Path, content: dict[str, Any], key: str) -> set[PurePosixPath]:
    names = content.get(key, [])
    if not isinstance(names, list):
        raise InputError(f"{path}: {key}: expected a list of photos")
    return {photo_at(path, name, key) for name in names}
