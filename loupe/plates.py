"""What a capture's cameras see when the subject is away: clean plates.

A *stand* is a camera in one pose, and the training views that were taken so. Its clean plate is the mean of each pixel
over the views whose mask leaves it free (Xu et al., "4K4D", 2024, supplementary material); where every mask covers it,
the plate is unknown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from loupe.images import Pixels
from loupe.scene import Level, Scene
from loupe.tiles import Tiles, write_tiles

_AROUND = 0.006  # of a picture's longest side: so far beyond its mask a subject still blurs or shades what is behind it
_FEW = 256  # pixels on the longest side of the picture in which the unknown part of a plate is made up


def stands(scene: Scene) -> list[list[str]]:
    """The training views of each stand; a pose is the same if its numbers are, to six places."""
    found: dict[tuple[str, bytes], list[str]] = defaultdict(list)
    for name in scene.train:
        view = scene.view(name)
        found[view.camera_id, (view.camera.cam_from_world.round(6) + 0.0).tobytes()].append(name)
    return list(found.values())


def cut_plates(scene: Scene, tiles: Tiles, groups: Sequence[Sequence[str]], folder: Path) -> Tiles:
    """The plates of stands, as tiles in `folder`, which exists.

    A plate has the name of its stand's first view; its mask says where it is known. Memory holds a view and a plate.
    """
    level: Level = "low" if scene.sealed else "full"
    known: dict[str, Pixels] = {}

    def plates() -> Iterator[tuple[str, Pixels]]:
        for group in groups:
            picture, seen = clean_plate((tiles.image(name, level), tiles.mask(name, level)) for name in group)
            known[group[0]] = np.where(seen, np.uint8(255), np.uint8(0))
            yield group[0], picture

    write_tiles(folder, plates(), scene.ratio, known.pop, scene.sealed)
    return Tiles(folder)


def clean_plate(views: Iterable[tuple[Pixels, Pixels | None]]) -> tuple[Pixels, NDArray[np.bool_]]:
    """The plate (h, w, 3) of pictures with masks (h, w) from one stand, and where it is known (h, w).

    Where it is not, it goes on with what is around (Telea 2004): an edge there would pass for one of the scene.
    """
    total, count = np.zeros(1, np.float32), np.zeros(1, np.float32)
    for picture, mask in views:
        free = np.ones(picture.shape[:2], np.float32)
        if mask is not None:
            reach = 2 * round(_AROUND * max(mask.shape)) + 1
            free[cv2.dilate(mask, np.ones((reach, reach), np.uint8)) > 0] = 0
        total, count = total + free[..., None] * picture, count + free
    known = count > 0
    plate = np.rint(total / np.maximum(count, 1)[..., None]).astype(np.uint8)
    return np.where(known[..., None], plate, _continued(plate, known)), known


def _continued(plate: Pixels, known: NDArray[np.bool_]) -> Pixels:
    """The plate, its unknown part made up, in few pixels."""
    height, width = known.shape
    scale = min(1.0, _FEW / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    sure = cv2.resize(known.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) == 255
    small = cv2.resize(plate, size, interpolation=cv2.INTER_AREA)
    small = cv2.inpaint(small, (~sure).astype(np.uint8), 3, cv2.INPAINT_TELEA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
