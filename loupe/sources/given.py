"""The cameras that a capture comes with."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from loupe.camera import Array
from loupe.errors import InputError
from loupe.photos import Photo
from loupe.undistort import Lens

Part = Literal["train", "test"]

# By EXIF orientation: the quarter turns, clockwise, that set the photo upright. The others mirror it.
_QUARTER_TURNS = {1: 0, 6: 1, 3: 2, 8: 3}
_CLOCKWISE = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])  # what was right is below


class Given(NamedTuple):
    """The camera of an ingested photo, as its capture gives it.

    Attributes:
        photo: the photo.
        lens: over the ingested picture.
        cam_from_world: (4, 4), OpenCV axes, in the capture's own world.
        bounds: z-depths between which the scene lies, or None where the capture does not say.
        part: the side of the split on which the capture has the view, or None.
    """

    photo: Photo
    lens: Lens
    cam_from_world: Array
    bounds: tuple[float, float] | None = None
    part: Part | None = None


def give(
    where: str,
    photo: Photo,
    lens: Lens,
    cam_from_world: Array,
    bounds: tuple[float, float] | None = None,
    part: Part | None = None,
) -> Given:
    """The camera of a photo whose `lens` is given for the upright photo, at any resolution.

    Raises:
        InputError: the lens is for pictures of another shape, or the numbers make no camera; it opens with `where`.
    """
    try:
        over = lens_over(photo, lens)
        over.camera(cam_from_world)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if bounds is not None and not 0 < bounds[0] < bounds[1] < math.inf:
        raise InputError(f"{where}: near {bounds[0]:g} and far {bounds[1]:g} of {photo.name} are not 0 < near < far")
    return Given(photo, over, cam_from_world, bounds, part)


def turned_upright(where: str, photo: Photo, lens: Lens, cam_from_world: Array) -> tuple[Lens, Array]:
    """Lens and pose for the upright photo, of a camera for the photo as it lies in its file, whatever EXIF says.

    Ingestion turned the photo upright; the camera is turned about its optical axis with it.

    Raises:
        InputError: the orientation mirrors the photo, which no camera follows; it opens with `where`.
    """
    if photo.orientation not in _QUARTER_TURNS:
        raise InputError(
            f"{where}: the EXIF orientation of photo {photo.name}, {photo.orientation}, mirrors it, and no camera can"
            " follow; take the orientation out of the file and ingest anew"
        )
    for _ in range(_QUARTER_TURNS[photo.orientation]):
        lens, cam_from_world = lens.turned(), _CLOCKWISE @ cam_from_world
    return lens, cam_from_world


def lens_over(photo: Photo, given: Lens) -> Lens:
    """A lens as given for the upright photo, at any resolution, over the picture that ingestion made of it.

    Raises:
        InputError: the lens is for pictures of another shape.
    """
    if min(given[:2]) < 1 or abs(given.width / given.height / (photo.source_width / photo.source_height) - 1) > 0.01:
        raise InputError(
            f"cameras are for {given.width}x{given.height} pixels, but photo {photo.name} has"
            f" {photo.source_width}x{photo.source_height}, another shape"
        )
    source = given.resized(photo.source_width, photo.source_height)
    kept = source.cropped(photo.width * photo.shrink, photo.height * photo.shrink)
    return kept.resized(photo.width, photo.height)
