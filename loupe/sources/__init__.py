"""The ways in which captures lie on disk: one file each, recognised by content.

A layout says which photos there are and, if it comes with cameras, gives them. A new one is a file here and a line in
`LAYOUTS`; the first line that recognises a capture wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from loupe.errors import InputError
from loupe.photos import Photo, Shot
from loupe.scene import MaskUse
from loupe.sources import (
    blendedmvs,
    colmap,
    easymocap,
    idr,
    llff,
    nerf_synthetic,
    nerfstudio,
    neural3dv,
    panoptic,
    photos,
    video,
)
from loupe.sources.given import Given


class Layout(NamedTuple):
    """One layout.

    Attributes:
        recognises: whether a capture has it.
        shots: the capture's photos, in the order of their names; raises `InputError` where there are none.
        cameras: the cameras that the capture gives for the ingested photos; None where they must be estimated.
        masks: what masks mean in it (`loupe.scene.MaskUse`).
        is_walk: whether its photos, in this order, are frames of one camera that moves.
    """

    recognises: Callable[[Path], bool]
    shots: Callable[[Path], list[Shot]]
    cameras: Callable[[Path, Sequence[Photo]], list[Given]] | None
    masks: MaskUse = "carve"
    is_walk: bool = False


LAYOUTS: dict[str, Layout] = {
    "neural3dv": Layout(neural3dv.recognises, neural3dv.shots, neural3dv.cameras),  # before LLFF, whose table it has
    "llff": Layout(llff.recognises, photos.shots, llff.cameras),
    "nerf_synthetic": Layout(nerf_synthetic.recognises, nerf_synthetic.shots, nerf_synthetic.cameras),
    # Before the COLMAP model that nerfstudio makes its file of, and keeps in the same folder.
    "nerfstudio": Layout(nerfstudio.recognises, nerfstudio.shots, nerfstudio.cameras, "look"),
    "colmap": Layout(colmap.recognises, colmap.shots, colmap.cameras),
    "video": Layout(video.recognises, video.shots, None, is_walk=True),
    "idr": Layout(idr.recognises, idr.shots, idr.cameras),
    "blendedmvs": Layout(blendedmvs.recognises, blendedmvs.shots, blendedmvs.cameras),
    "panoptic": Layout(panoptic.recognises, panoptic.shots, panoptic.cameras),
    "easymocap": Layout(easymocap.recognises, easymocap.shots, easymocap.cameras),
    "photos": Layout(photos.recognises, photos.shots, None),
}


def recognise(capture: Path) -> str:
    """The name of the capture's layout; raises `InputError` if it has none of them."""
    if not capture.is_dir():
        raise InputError(f"{capture}: no such folder")
    for name, layout in LAYOUTS.items():
        if layout.recognises(capture):
            return name
    raise InputError(
        f"{capture}: holds no photos (JPEG, PNG, TIFF or WebP), neither directly nor in images/, and no video"
    )
