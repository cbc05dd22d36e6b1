"""What a photographer should know of single photos of a capture: plain remarks, and the rules behind them.

Photos are judged against each other. How bright and how sharp a photo should be depends on the scene; that the photos
of one scene differ is what spoils its colours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from loupe.camera import Array
from loupe.ingestion import BLURRED, looks_blurred, usual_sharpness
from loupe.looks import Look
from loupe.photos import Photo

# Half or twice the light. With the exposure locked, the demo, fern and banana stay within 0.2 stops of their median.
STOPS = 1.0
# Of a picture: less is a lamp, a window or a shadow.
CLIPPED = 0.1
# A scene that is itself darker on one side spreads its photos: of DTU, a figure before black, 13 of 49 are more than a
# stop away from the median. What lies this many robust standard deviations away, the scene does not explain.
_DEVIATIONS = 3
_ROBUST = 1.4826  # standard deviations in a median absolute deviation of normally distributed values
_GAMMA = 2.2  # of sRGB, nearly: grey levels to light

BLURRY = "looks blurred"
DARK = "much darker than the others"
BRIGHT = "much brighter than the others"
BLACK = "under-exposed in part"
WHITE = "over-exposed in part"
SIZE = "another size than most"
NO_MASK = "no mask, unlike the others"
BLANK_MASK = "its mask is all white"
NO_FOCAL = "no focal length in EXIF"

MEANING: Mapping[str, str] = MappingProxyType(
    {
        BLURRY: f"Less than {BLURRED:.0%} of the median sharpness. Leave it out if others show the same.",
        DARK: "At most half the light. Lock the exposure: the model learns the difference as colour.",
        BRIGHT: "At least twice the light. Lock the exposure: the model learns the difference as colour.",
        BLACK: f"Black in {CLIPPED:.0%} more of the picture than the others. There is nothing to learn there.",
        WHITE: f"White in {CLIPPED:.0%} more of the picture than the others. There is nothing to learn there.",
        SIZE: "Taken by another camera, turned or cropped? A cropped photo misleads whatever finds the cameras.",
        NO_MASK: "It has no vote where masks carve the scene.",
        BLANK_MASK: "It says nothing of what is foreground.",
        NO_FOCAL: "Structure from motion finds it from the photos; cameras that the capture gives do not need it.",
    }
)


class Remark(NamedTuple):
    """One of the kinds in `MEANING`, and the photo's own figure, or ""."""

    kind: str
    detail: str = ""


def remark(photos: Sequence[Photo], looks: Sequence[Look]) -> list[list[Remark]]:
    """The remarks on each photo, in the order of `MEANING`."""
    rules: list[Callable[[Sequence[Photo], Sequence[Look]], Iterator[tuple[int, Remark]]]]
    rules = [_blurred, _lit, _clipped, _sized, _masked, _unmeasured]
    found: list[list[Remark]] = [[] for _ in photos]
    for rule in rules:
        for place, made in rule(photos, looks):
            found[place].append(made)
    return found


def stops(photos: Sequence[Photo]) -> Array:
    """How much brighter than the median each photo is, in stops: powers of two of the light."""
    levels = np.maximum([photo.exposure for photo in photos], 1 / 255)
    return np.asarray(_GAMMA * np.log2(levels / np.median(levels)))


def signed(value: float) -> str:
    """With its sign, rounded to a tenth.

    >>> signed(-0.27), signed(0.13), signed(-0.01)
    ('−0.3', '+0.1', '0.0')
    """
    text = f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")
    return text if text[1:] != "0.0" else "0.0"


def spread(values: Array) -> float:
    """From the 5th to the 95th percentile."""
    low, high = np.percentile(values, [5, 95])
    return float(high - low)


def _blurred(photos: Sequence[Photo], looks: Sequence[Look]) -> Iterator[tuple[int, Remark]]:
    usual = usual_sharpness(photos)
    for place, photo in enumerate(photos):
        if looks_blurred(photo, usual):
            yield place, Remark(BLURRY, f"{photo.sharpness / usual:.0%} of the median sharpness")


def _lit(photos: Sequence[Photo], looks: Sequence[Look]) -> Iterator[tuple[int, Remark]]:
    lighter = stops(photos)
    for place in _outliers(lighter, STOPS):
        yield place, Remark(BRIGHT if lighter[place] > 0 else DARK, f"{signed(float(lighter[place]))} stops")


def _clipped(photos: Sequence[Photo], looks: Sequence[Look]) -> Iterator[tuple[int, Remark]]:
    for kind, colour, shares in (
        (BLACK, "black", np.array([look.black for look in looks])),
        (WHITE, "white", np.array([look.white for look in looks])),
    ):
        for place in _outliers(shares, CLIPPED):
            if shares[place] > np.median(shares):
                yield place, Remark(kind, f"{shares[place]:.0%} {colour}")


def _sized(photos: Sequence[Photo], looks: Sequence[Look]) -> Iterator[tuple[int, Remark]]:
    sizes = [size(photo) for photo in photos]
    usual = Counter(sizes).most_common(1)[0][0]
    for place, own in enumerate(sizes):
        if own != usual:
            yield place, Remark(SIZE, f"most are {usual}")


def _masked(photos: Sequence[Photo], looks: Sequence[Look]) -> Iterator[tuple[int, Remark]]:
    some_have = any(photo.mask for photo in photos)
    for place, (photo, look) in enumerate(zip(photos, looks, strict=True)):
        if look.mask_is_white:
            yield place, Remark(BLANK_MASK)
        elif some_have and photo.mask is None:
            yield place, Remark(NO_MASK)


def _unmeasured(photos: Sequence[Photo], looks: Sequence[Look]) -> Iterator[tuple[int, Remark]]:
    for place, photo in enumerate(photos):
        if photo.focal is None:
            yield place, Remark(NO_FOCAL)


def limit(values: Array, least: float) -> float:
    """From how far off their median values stand out: from `least` on, and beyond how most of them spread."""
    return max(least, _DEVIATIONS * _ROBUST * float(np.median(np.abs(values - np.median(values)))))


def _outliers(values: Array, least: float) -> list[int]:
    """The places of the values that stand out."""
    return [int(place) for place in np.flatnonzero(np.abs(values - np.median(values)) >= limit(values, least))]


def size(photo: Photo) -> str:
    """Width and height as text."""
    return f"{photo.width} \N{MULTIPLICATION SIGN} {photo.height}"
