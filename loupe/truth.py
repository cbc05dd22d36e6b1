"""The true pictures of a scene's views at full resolution: what renders are scored by.

Nothing else opens the reference of a sealed scene.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loupe.errors import InputError
from loupe.images import Pixels, composite, read_image
from loupe.scene import Scene
from loupe.undistort import Lens, undistort


def true_picture(scene: Scene, name: str, reference: Path) -> Pixels:
    """A view's picture, RGB (h, w, 3), as its camera at full resolution sees it.

    Args:
        reference: the folder of what is sealed; without meaning for a scene in which nothing is.

    Raises:
        InputError: a file is missing, broken, or of another size.
    """
    camera = scene.camera(name, "full")
    picture = _sealed(scene, name, reference) if scene.sealed else scene.picture(name)
    return np.ascontiguousarray(picture[: camera.height, : camera.width])


def _sealed(scene: Scene, name: str, reference: Path) -> Pixels:
    """What is sealed, without distortion, over the backdrop if masks cut."""
    camera, bent = scene.camera(name, "full"), scene.view(name).lens
    path = reference / f"{name}.png"
    picture = read_image(path)
    width, height = (scene.ratio * round(side) for side in bent[:2]) if bent else (camera.width, camera.height)
    if picture.ndim < 3 or picture.shape[:2] != (height, width):
        raise InputError(f"{path}: shape {picture.shape}, expected {(height, width, 3)}; run ingest_photos again")
    if bent:
        lens = Lens(round(bent[0]), round(bent[1]), *bent[2:]).resized(width, height)
        picture = undistort(picture, lens, camera)
    colours = np.ascontiguousarray(picture[..., :3])
    cuts = scene.masks == "cut" and picture.shape[2] == 4
    return composite(colours, picture[..., 3], scene.backdrop) if cuts else colours
