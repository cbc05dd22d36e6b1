"""What shows of a photo at a glance, for whoever judges a capture; no later step reads it."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from loupe.images import Pixels, fit

_SIDE = 256
_QUALITY = 80
# Grey levels: JPEG moves what was clipped by a few.
BLACKEST, WHITEST = 5, 250


class Look(NamedTuple):
    """A `thumbnail` (JPEG, 256 pixels on the long side), the shares of the picture that are `black` and `white`, from 0
    to 1, and whether it has a mask that says nothing."""

    thumbnail: bytes
    black: float
    white: float
    mask_is_white: bool


def look(picture: Pixels, mask: Pixels | None) -> Look:
    """A look at an RGB picture, already small, and at its foreground mask of any size."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return Look(
        thumbnail=_jpeg(fit(picture, _SIDE)),
        black=float(np.mean(grey <= BLACKEST)),
        white=float(np.mean(grey >= WHITEST)),
        mask_is_white=mask is not None and bool(mask.min() == 255),
    )


def _jpeg(picture: Pixels) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1])
