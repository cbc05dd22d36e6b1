"""Which pictures show nearly the same: copies saved anew, and shots from one place."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from loupe.camera import Array
from loupe.images import Pixels

# Miniatures, of mean 0 and deviation 1, differ by at most 0.016 (root mean square) where a photo was saved anew as a
# JPEG of quality 20 to 95, at half the size or darker, and by at least 0.19 where two were taken from different places:
# measured on fern (the closest), banana, DTU's scan 65 and the demo.
_ALIKE = 0.04
_MINIATURE = 32
_COMPARED = 400  # photos, the next in name order, with each one


def miniature(picture: Pixels) -> Array:
    """What shows at a glance, whatever the exposure: few grey levels, flattened, of mean 0 and deviation 1."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64)
    small = cv2.resize(grey, (_MINIATURE, _MINIATURE), interpolation=cv2.INTER_AREA).ravel()
    contrast = max(small.std(), 1.0)  # below a grey level there is only noise
    return np.asarray((small - small.mean()) / contrast)


def find_alike(miniatures: Sequence[Array]) -> list[tuple[int, int]]:
    """Each two of the pictures, by their places, that show nearly the same."""
    pictures = np.stack(miniatures)
    alike = []
    for place, picture in enumerate(pictures):
        difference = np.sqrt(np.mean((pictures[place + 1 : place + 1 + _COMPARED] - picture) ** 2, 1))
        alike += [(place, place + 1 + int(after)) for after in np.flatnonzero(difference < _ALIKE)]
    return alike
