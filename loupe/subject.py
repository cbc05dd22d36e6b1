"""Where the subject of a capture stands in its views: the rectangle around its box.

Around a subject lies backdrop, the same for every method, or a room that methods of a subject do not model; over whole
pictures it decides the scores. So 4K4D scores captures of people in the projection of the subject's box alone (Xu et
al. 2024). The box is the space's, wherever masks carved it: it holds the hulls of all frames, and the margin that
`loupe.space` gives it. It does not follow the subject, so a view has the same rectangle at each moment.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import torch

from loupe.camera import Array, Camera
from loupe.scene import Scene
from loupe.space import Space

Window = tuple[int, int, int, int]
"""Of a picture: x and y of the top-left pixel, width, height."""


def subject_box(scene: Scene, folder: Path) -> Array | None:
    """The corners (8, 3) of the subject's box in the world; None where no masks carved the space in `folder`.

    Raises:
        InputError: masks did, and the space is missing or unusable.
    """
    # Carving by masks leaves the surface of every frame; carving by photos leaves one `points.ply`.
    if scene.masks == "look" or not (folder / "points").is_dir():
        return None
    corners = torch.tensor(list(product((0.0, 1.0), repeat=3)), dtype=torch.float64)
    return np.asarray(Space.load(folder / "space.json").to_world(corners))


def window_around(corners: Array, camera: Camera) -> Window | None:
    """The pixels that the rectangle around the projections of `corners` (n, 3) touches; None if none lies in the
    picture. The whole picture where some corners are behind the camera: it stands beside the box, or in it."""
    pixels, depth = camera.project(corners)
    if (depth <= 0).all():
        return None
    if (depth <= 0).any():
        return 0, 0, camera.width, camera.height
    size = (camera.width, camera.height)
    left, top = (int(side) for side in np.clip(np.floor(pixels.min(0)), 0, size))
    right, bottom = (int(side) for side in np.clip(np.ceil(pixels.max(0)), 0, size))
    return (left, top, right - left, bottom - top) if left < right and top < bottom else None
