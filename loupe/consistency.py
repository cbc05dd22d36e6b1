"""How steady a film is: what one frame shows of a surface against what the frame before showed of it.

Each frame is looked up in the one before it by its own depth and both cameras; where the frame before sees the same
surface, the mean absolute difference of the colours is the *warping error* (Lai et al., "Learning blind video temporal
consistency", 2018, section 4.2, with rendered geometry in the place of optical flow). Shading that truly changes with
the view counts too, so the number compares recipes on one path and is no absolute.

The *slice* shows the same: the middle column of every frame, side by side (4K-NeRF, figure 4). Steady surfaces leave
smooth streaks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import grid_sample

from loupe.camera import Camera
from loupe.images import Pixels, to_uint8
from loupe.method import Picture

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_SAME = 0.01  # of the depth: nearer together than that, two surfaces are one
_SOLID = 0.5  # the opacity from which on a pixel has a surface


class Consistency:
    """Collects the frames of one film."""

    def __init__(self) -> None:
        self._before: tuple[Picture, Camera] | None = None
        self._errors: list[float] = []
        self._columns: list[Pixels] = []

    def add(self, picture: Picture, camera: Camera) -> None:
        """The next frame."""
        if self._before:
            error, seen = warping_error(picture, camera, *self._before)
            self._errors += [error] if seen else []
        self._before = picture, camera
        self._columns.append(to_uint8(picture.colour[:, picture.colour.shape[1] // 2].cpu().numpy()))

    @property
    def error(self) -> float | None:
        """The mean over the pairs of frames, in levels of 8 bits; None where no frame sees what another does."""
        return 255 * float(np.mean(self._errors)) if self._errors else None

    @property
    def slice(self) -> Pixels:
        """(height, frames, 3)."""
        return np.stack(self._columns, 1)


def warping_error(picture: Picture, camera: Camera, before: Picture, camera_before: Camera) -> tuple[float, float]:
    """The mean absolute difference between a frame and the one before it, over the pixels whose surface both see; and
    the share of those pixels."""
    height, width = picture.depth.shape
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([x, y], -1).reshape(-1, 2).double().numpy()
    depth = picture.depth.cpu().double().reshape(-1).numpy()
    there, expected = camera_before.project(camera.unproject(pixels, np.where(depth > 0, depth, 1.0)))
    at = torch.from_numpy(there / (camera_before.width, camera_before.height) * 2 - 1).float().view(1, height, width, 2)
    maps = torch.cat([before.colour.movedim(-1, 0), before.depth[None], before.opacity[None]])[None].cpu()
    looked = grid_sample(maps, at, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    # Beyond the edge, and where bilinear weights reach across a silhouette, depth differs.
    distance = torch.from_numpy(expected).float().view(height, width)
    same = ((looked[3] - distance).abs() < _SAME * distance) & (looked[4] > _SOLID)
    same &= (picture.opacity.cpu() > _SOLID) & (picture.depth.cpu() > 0)
    return _mean_over(same, looked[:3].movedim(0, -1) - picture.colour.cpu()), float(same.float().mean())


def _mean_over(mask: Float[Tensor, "h w"], values: Float[Tensor, "h w 3"]) -> float:
    return float(values.abs().mean(-1)[mask].mean()) if bool(mask.any()) else 0.0
