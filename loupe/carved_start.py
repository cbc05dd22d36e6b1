"""How a surface field begins where carving has been: points, no rays, teach it what is known of the scene by then.

Anywhere in the box, the distance to the border of what was found empty; on the points that the photos agree on, their
colours. A step costs a fraction of one on rays, and rays then have detail to add to a scene that already stands, not a
scene to find in a ball of fog.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn.functional import grid_sample, normalize

from loupe.camera import Camera
from loupe.cloud import Cloud
from loupe.fields.sdf import distance_and_normal
from loupe.fields.surface import SurfaceField
from loupe.occupancy import Occupancy
from loupe.space import Space

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_DISTANCE = 10.0  # the weight of distances, as shares of the box's extent, against colours


class CarvedBatch(NamedTuple):
    """Points (n, 3) of the box and their distances (n,) from the border of what was carved away; points on surfaces
    (m, 3), their colours (m, 3), and directions (m, 3) in which training cameras would look at them."""

    points: Float[Tensor, "n 3"]
    distances: Float[Tensor, " n"]
    surface: Float[Tensor, "m 3"]
    colours: Float[Tensor, "m 3"]
    directions: Float[Tensor, "m 3"]


class CarvedStart:
    """What carving found of a scene, to draw from."""

    def __init__(self, space: Space, occupancy: Occupancy, cloud: Cloud, cameras: Sequence[Camera]) -> None:
        """`cloud`: the points on surfaces, at least one; `cameras`: the training views'."""
        self._space, self._distance = space, carved_distance(space, occupancy)
        self._xyz, self._rgb = torch.from_numpy(cloud.xyz), torch.from_numpy(cloud.rgb)
        self._eyes = torch.tensor(np.stack([camera.center for camera in cameras])).float()

    def draw(self, count: int, generator: torch.Generator, device: torch.device | str) -> CarvedBatch:
        """`count` points of either kind."""
        unit = torch.rand(count, 3, generator=generator)
        # grid_sample names the last axis first, and has -1 and 1 at the grid's faces.
        grid, at = self._distance.permute(2, 1, 0)[None, None], (2 * unit - 1)[None, None, None]
        distances = grid_sample(grid, at, padding_mode="border", align_corners=False).flatten()
        chosen = torch.randint(len(self._xyz), (count,), generator=generator)
        surface, colours = self._xyz[chosen], self._rgb[chosen].float() / 255
        eyes = self._eyes[torch.randint(len(self._eyes), (count,), generator=generator)]
        drawn = self._space.to_world(unit), distances, surface, colours, normalize(surface - eyes)
        return CarvedBatch(*(part.to(device) for part in drawn))


def carved_distance(space: Space, occupancy: Occupancy) -> Float[Tensor, "nx ny nz"]:
    """The signed distance from voxels' middles to the border between what is occupied, where it is negative, and what
    is empty, in world units; to within half a voxel."""
    from scipy.ndimage import distance_transform_edt

    occupied = occupancy.grid.numpy()
    voxel = np.subtract(space.high, space.low) / occupied.shape
    # To the nearest middle of the other kind; the border is half a voxel before it.
    apart = distance_transform_edt(~occupied, voxel) - distance_transform_edt(occupied, voxel)
    found = apart - np.sign(apart) * voxel.mean() / 2
    return torch.from_numpy(found.astype(np.float32))


def carved_terms(field: SurfaceField, batch: CarvedBatch) -> dict[str, Tensor]:
    """The absolute differences of the distances, as a share of the box's extent, and of the colours."""
    found, _ = field.shape(batch.points)
    _, features, gradient = distance_and_normal(field.shape, batch.surface)
    shown = field.shown("colour", batch.surface, batch.directions, features, gradient)
    return {
        "distance": _DISTANCE * (found - batch.distances).abs().mean() / field.shape.scale,
        "colour": (shown - batch.colours).abs().mean(),
    }
