"""Frames of a camera that stands still -> its background without the subject, and what of a frame is foreground.

The *clean plate* is found pixel by pixel: the colour that most frames agree on, where it is clearly more common than
any other (a mode holds where a median fails: where a moving subject covers the pixel for more than half of the time).
Where no colour is, the subject may never have left, and the pixel is *unsettled*: its background is unknown, so it
counts as foreground. Something that never moves is background, by definition.

What this follows: candidates for the background are narrowed down by agreement in time before they are averaged
(Laugraud et al., "Simple median-based method for stationary background generation", 2015); shadows are told from
objects by brightness and chromaticity distortion (Horprasert, Harwood and Davis, "A statistical approach for real-time
robust background subtraction and shadow detection", 1999). Adaptive mixtures (OpenCV's MOG2 and KNN) are for streams
without an end: they learn from the past only, and in a short capture the first frames would have no background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from loupe.images import Pixels

Frame = Callable[[], Pixels]  # reads a picture (h, w, 3), each time anew
Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]

_ASKED = 32  # frames that are asked for the commonest colour; all are averaged
_BAND_BYTES = 1 << 28  # of the asked frames that are held at once
_AGREE = 3  # frames must agree on the background at least: two may do so by chance
_LEAD = 2  # times as common as the next colour must the background's be
_SAME = 4.0  # times the noise: two values nearer together than that may be one
_DIFFERS = 7.0  # times the noise: a frame that is as far from the plate shows something else
_SHADOW = 0.7  # of the light is left in the shadows that are recognised, and more
_GREY = 3.0  # times the noise by which the colour of a shadow may be off
_NOISE = 1.0, 8.0  # grey levels: rounding and compression leave the least, what is above the most has moved
_SMALL = 256  # pixels, at most twice as many, along a side of the pictures that exposure and noise are measured on
_SPECK = 5e-4  # of the picture: foreground smaller than that is none


class Plate(NamedTuple):
    """A camera's background: `picture` (h, w, 3); where it is `settled` (h, w); the camera's `noise`, the standard
    deviation of a pixel from frame to frame, in grey levels of 255."""

    picture: Pixels
    settled: Mask
    noise: float


def clean_plate(frames: Sequence[Frame]) -> Plate:
    """The background of frames of one size, at their median exposure.

    Up to 32 frames, evenly apart, are asked for the commonest colour, in bands of rows, so that memory does not grow
    with the frames or their size; each is read once for each band. Then the mean of all frames that agree with that
    colour is taken, which is less noisy than any one of them; each is read once more.
    """
    asked = [frames[index] for index in np.linspace(0, len(frames) - 1, min(_ASKED, len(frames))).round().astype(int)]
    small = [_thinned(frame()) for frame in asked]
    gains = np.stack([exposure(picture, small[0]) for picture in small])
    gains /= np.median(gains, 0)
    noise = noise_level([_evened(picture, gain) for picture, gain in zip(small, gains, strict=True)])
    height, width = asked[0]().shape[:2]
    # Copies, for a view would hold its whole frame.
    bands = [
        commonest(
            [_evened(frame()[band].copy(), gain) for frame, gain in zip(asked, gains, strict=True)], _SAME * noise
        )
        for band in _bands(height, width * 3 * len(asked))
    ]
    picture, settled = (np.concatenate(parts) for parts in zip(*bands, strict=True))
    return Plate(_mean_of_like(frames, picture, _SAME * noise), settled, noise)


def exposure(picture: Pixels, reference: Pixels) -> Floats:
    """How many times as bright as the reference a picture of the same place is, for each channel, (3,).

    The median over pixels, so what covers less than half of the picture does not count.
    """
    sound = ((reference > 20) & (reference < 235) & (picture > 5) & (picture < 250)).all(2)
    if not sound.any():
        return np.ones(3, np.float32)
    return np.asarray(np.median(picture[sound] / reference[sound].astype(np.float32), 0), np.float32)


def noise_level(pictures: Sequence[Pixels]) -> float:
    """The standard deviation of a value from picture to picture, from 1 to 8 grey levels.

    The median over places, so what changes in less than half of the picture does not count.
    """
    squares = [
        cv2.blur((after.astype(np.float32) - before).astype(np.float32) ** 2, (3, 3)).mean(2)
        for before, after in pairwise(pictures)
    ]
    return float(np.clip(np.sqrt(np.median(squares) / 2), *_NOISE))


def commonest(pictures: Sequence[Pixels], tolerance: float) -> tuple[Pixels, Mask]:
    """For each pixel the colour that most of the pictures show, but for a `tolerance` in each channel, (h, w, 3); and
    whether at least three do and it is clearly more common than any other (h, w)."""
    support = np.ones((len(pictures), *pictures[0].shape[:2]), np.uint8)
    for place, picture in enumerate(pictures):
        for other in range(place):
            alike = _alike(picture, pictures[other], tolerance)
            support[place] += alike
            support[other] += alike
    best = support.argmax(0)
    colour = np.zeros_like(pictures[0])
    for place, picture in enumerate(pictures):
        np.copyto(colour, picture, where=(best == place)[..., None])
    first = support.max(0)
    for place, picture in enumerate(pictures):
        support[place][_alike(picture, colour, tolerance)] = 0
    return colour, (first >= _AGREE) & (first >= _LEAD * support.max(0))


def foreground(picture: Pixels, plate: Plate) -> Pixels:
    """Where a frame shows something else than the plate, or the plate is unsettled: 255, elsewhere 0, (h, w).

    The plate's exposure is taken to be the frame's; shadows are background; gaps are closed, holes filled and specks
    dropped.
    """
    seen = _smooth(_evened(picture, exposure(_thinned(picture), _thinned(plate.picture))))
    empty = _smooth(plate.picture)
    differs = np.abs(seen - empty).max(2) > _DIFFERS * plate.noise
    return tidied((differs & ~_shadow(seen, empty, plate.noise)) | ~plate.settled)


def tidied(mask: Mask) -> Pixels:
    """A mask (h, w) without single pixels, with its gaps closed, its holes filled and its specks dropped, 0 or 255."""
    radius = max(1, round(min(mask.shape) / 360))
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, _disc(radius))
    closed = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, _disc(2 * radius))
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    kept = [outline for outline in outlines if cv2.contourArea(outline) >= _SPECK * mask.size]
    return np.asarray(cv2.drawContours(np.zeros(mask.shape, np.uint8), kept, -1, 255, cv2.FILLED), np.uint8)


def _shadow(seen: Floats, empty: Floats, noise: float) -> Mask:
    """Where there is the background, but darker: Horprasert's equations 5 and 6 with one noise for all pixels."""
    brightness = (seen * empty).sum(2) / np.maximum((empty**2).sum(2), 1)
    chromaticity = np.abs(seen - brightness[..., None] * empty).max(2)
    return np.asarray((brightness > _SHADOW) & (brightness < 1) & (chromaticity < _GREY * noise))


def _mean_of_like(frames: Sequence[Frame], picture: Pixels, tolerance: float) -> Pixels:
    """The mean, over the frames, of the values that are like those of the picture."""
    sums, counts = np.zeros(picture.shape, np.float32), np.zeros(picture.shape[:2], np.float32)
    reference = _thinned(picture)
    for frame in frames:
        pixels = frame()
        evened = _evened(pixels, exposure(_thinned(pixels), reference))
        alike = _alike(evened, picture, tolerance)
        cv2.accumulate(evened, sums, alike.astype(np.uint8))
        counts += alike
    mean = sums / np.maximum(counts, 1)[..., None]
    return np.where(counts[..., None] > 0, (mean + 0.5).astype(np.uint8), picture)


def _alike(first: Pixels, second: Pixels, tolerance: float) -> Mask:
    red, green, blue = cv2.split(cv2.absdiff(first, second))
    return np.asarray(cv2.max(cv2.max(red, green), blue) <= tolerance)


def _evened(picture: Pixels, gain: Floats) -> Pixels:
    """At the exposure that it is `gain` times as bright as; what is saturated stays so."""
    if (np.abs(gain - 1) < 1e-3).all():
        return picture
    return np.where(picture == 255, picture, np.clip(picture / gain + 0.5, 0, 255).astype(np.uint8))


def _thinned(picture: Pixels) -> Pixels:
    """Every n-th pixel: the values keep their noise."""
    step = max(1, min(picture.shape[:2]) // _SMALL)
    return np.ascontiguousarray(picture[::step, ::step])


def _smooth(picture: Pixels) -> Floats:
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (3, 3), 0))


def _disc(radius: int) -> Pixels:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)))


def _bands(height: int, bytes_per_row: int) -> Iterator[slice]:
    rows = max(1, _BAND_BYTES // bytes_per_row)
    return (slice(start, start + rows) for start in range(0, height, rows))
