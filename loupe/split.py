"""Which of a capture's views train, and which test."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from loupe.config import Config
from loupe.errors import InputError
from loupe.sources.given import Given

_EVERY = 8


class SplitConfig(Config):
    """Which views test: those named in `test`, or all of the `cameras` named, or the 1st and then `every` n-th in name
    order; where nothing is said, those of the capture's own split, or every 8th. The others train, unless `train` names
    them."""

    every: int | None = Field(default=None, ge=2)
    cameras: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    train: tuple[str, ...] = ()


def split_views(given: Sequence[Given], split: SplitConfig) -> tuple[list[str], list[str]]:
    """The names that train and the names that test, each in name order.

    Raises:
        InputError: fewer than two views train or none tests, a name is unknown, or one stands on both sides.
    """
    ordered = sorted(one.photo.name for one in given)
    if unknown := sorted((set(split.test) | set(split.train)) - set(ordered)):
        raise InputError(f"scene.split: no view is named {', '.join(unknown)}; it was left out or never was")
    if unknown := sorted(set(split.cameras) - {one.photo.camera_id for one in given}):
        raise InputError(f"scene.split: no camera is named {', '.join(unknown)}; it was left out or never was")
    test = sorted(set(split.test)) if split.test else _tests(given, ordered, split)
    train = sorted(set(split.train)) if split.train else [name for name in ordered if name not in set(test)]
    if both := sorted(set(test) & set(train)):
        raise InputError(f"scene.split: {', '.join(both)} would both train and test")
    if len(train) < 2 or not test:
        raise InputError(f"scene.split: {len(train)} views train and {len(test)} test, of {len(ordered)}; need 2 and 1")
    return train, test


def _tests(given: Sequence[Given], ordered: Sequence[str], split: SplitConfig) -> list[str]:
    """The test views of the cameras held out, or every n-th view, or those of the capture's own split."""
    if split.cameras:
        return sorted(one.photo.name for one in given if one.photo.camera_id in split.cameras)
    own = sorted(one.photo.name for one in given if one.part == "test")
    return own if own and split.every is None else list(ordered[:: split.every or _EVERY])
