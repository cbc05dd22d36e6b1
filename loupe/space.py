"""The box that a field covers, and the map from the world into it.

A *bounded* space is an axis-aligned box of the world. A *forward* space serves captures whose cameras all look one
way: the frustum in front of the mean camera, from `near` to infinity, becomes a box by the projective map of NeRF
(Mildenhall et al. 2020, appendix C; here with z forward), under which a straight ray stays straight.

Both hand out *unit coordinates*: the box is [0, 1]^3. Along a ray, `t` is the distance in world units in a bounded
space; in a forward space it is 1 - near / Z, Z being the z-depth seen from the mean camera: 0 at the near plane, 1 at
infinity.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from loupe.camera import Camera
from loupe.errors import InputError
from loupe.rays import Cameras, Rays
from loupe.scene import mean_pose

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Kind = Literal["bounded", "forward"]
_IDENTITY = tuple(tuple(float(row == column) for column in range(4)) for row in range(4))


class BoxRays(NamedTuple):
    """Rays in unit coordinates: position = `origins` + t * `directions`, inside the box for t from `enter` to `leave`.

    `directions` are not of unit length: t keeps the meaning that the module's head gives it. A ray that misses the box
    has enter >= leave.
    """

    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]
    enter: Float[Tensor, " n"]
    leave: Float[Tensor, " n"]


@dataclass(frozen=True)
class Space:
    """A box and the map into it.

    Attributes:
        kind: "bounded" or "forward".
        low, high: corners of the box, in the world (bounded) or in NDC (forward; z from -1 at near to 1 at infinity).
        mean_from_world: (4, 4) rows; the mean camera's frame (forward only).
        near: z-depth of the near plane in that frame, world units (forward only).
        focal: x and y focal length over half the picture's width and height (forward only).
    """

    kind: Kind
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    mean_from_world: tuple[tuple[float, ...], ...] = _IDENTITY
    near: float = 1.0
    focal: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise InputError(f"the space's box is empty: from {self.low} to {self.high}")

    def to_unit(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """World points -> unit coordinates. In a forward space a point behind the mean camera becomes NaN."""
        return self._box_to_unit(points if self.kind == "bounded" else self._to_ndc(points))

    def to_world(self, unit: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """The inverse of `to_unit`; in a forward space the far face (z = 1) lies at infinity."""
        low, high = unit.new_tensor(self.low), unit.new_tensor(self.high)
        inner = low + unit * (high - low)
        if self.kind == "bounded":
            return inner
        depth = 2 * self.near / (1 - inner[:, 2])
        in_mean = torch.stack([inner[:, 0] * depth / self.focal[0], inner[:, 1] * depth / self.focal[1], depth], -1)
        mean_from_world = self._mean_from_world(unit)
        return (in_mean - mean_from_world[:3, 3]) @ mean_from_world[:3, :3]

    def cast(self, rays: Rays) -> BoxRays:
        """World rays -> the same rays in unit coordinates, with the stretch of t that lies inside the box."""
        if self.kind == "bounded":
            origins, directions, start = rays.origins, rays.directions, 0.0
            finish = torch.inf
        else:
            origins, directions = self._ndc_rays(rays)
            start, finish = 0.0, 1.0
        low, high = origins.new_tensor(self.low), origins.new_tensor(self.high)
        unit_origins, unit_directions = (origins - low) / (high - low), directions / (high - low)
        # A zero component of the direction gives +-inf, which the minimum and maximum treat rightly.
        a, b = -unit_origins / unit_directions, (1 - unit_origins) / unit_directions
        enter = torch.minimum(a, b).nan_to_num(nan=-torch.inf).amax(-1).clamp(min=start)
        leave = torch.maximum(a, b).nan_to_num(nan=torch.inf).amin(-1).clamp(max=finish)
        return BoxRays(unit_origins, unit_directions, enter, leave)

    def distance(self, rays: Rays, t: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """`t` along each ray -> distance from the ray's origin in world units."""
        if self.kind == "bounded":
            return t
        origins, directions = self._in_mean(rays)
        return (self.near / (1 - t).clamp(min=1e-6) - origins[:, 2]) / directions[:, 2]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(self.__dict__, indent=1) + "\n", encoding="utf8")

    @classmethod
    def load(cls, path: Path) -> Space:
        """Read what `save` wrote; raises `InputError` if it is missing or unusable."""
        try:
            values = json.loads(path.read_text(encoding="utf8"))
            values["mean_from_world"] = tuple(tuple(row) for row in values["mean_from_world"])
            return cls(**values | {key: tuple(values[key]) for key in ("low", "high", "focal")})
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; run carve_space first") from None
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise InputError(f"{path}: not a space ({error!r})") from None

    def _box_to_unit(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        low, high = points.new_tensor(self.low), points.new_tensor(self.high)
        return (points - low) / (high - low)

    def _mean_from_world(self, like: Tensor) -> Float[Tensor, "4 4"]:
        return like.new_tensor(self.mean_from_world)

    def _in_mean(self, rays: Rays) -> Rays:
        pose = self._mean_from_world(rays.origins)
        return Rays(rays.origins @ pose[:3, :3].T + pose[:3, 3], rays.directions @ pose[:3, :3].T)

    def _to_ndc(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        pose = self._mean_from_world(points)
        in_mean = points @ pose[:3, :3].T + pose[:3, 3]
        depth = torch.where(in_mean[:, 2] > 0, in_mean[:, 2], torch.nan)
        return torch.stack(
            [
                self.focal[0] * in_mean[:, 0] / depth,
                self.focal[1] * in_mean[:, 1] / depth,
                1 - 2 * self.near / depth,
            ],
            -1,
        )

    def _ndc_rays(self, rays: Rays) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
        """Origins moved to the near plane, and directions such that t = 1 is infinity."""
        origins, directions = self._in_mean(rays)
        # A ray that runs sideways or backwards never meets the frustum: NaN here, a miss in `cast`.
        slope = directions / torch.where(directions[:, 2:] > 1e-6, directions[:, 2:], torch.nan)
        at_near = origins + slope * (self.near - origins[:, 2:])
        focal = origins.new_tensor([*self.focal])
        start = focal * at_near[:, :2] / self.near
        sideways = focal * slope[:, :2] - start
        return (
            torch.cat([start, -torch.ones_like(start[:, :1])], -1),
            torch.cat([sideways, 2 * torch.ones_like(start[:, :1])], -1),
        )


def forward_space(cameras: Sequence[Camera], near: float) -> Space:
    """The forward space of cameras that all look roughly one way: it holds every ray of every camera.

    Args:
        cameras: the training cameras, any resolution.
        near: z-depth of the near plane seen from the mean camera, world units; nothing of the scene may be nearer.

    Raises:
        InputError: a camera looks sideways or backwards, seen from the mean camera, or stands beyond the near plane.
    """
    pose = mean_pose(cameras)
    focal = (
        sum(2 * camera.fx / camera.width for camera in cameras) / len(cameras),
        sum(2 * camera.fy / camera.height for camera in cameras) / len(cameras),
    )
    rows = tuple(tuple(float(value) for value in row) for row in pose)
    unbounded = Space("forward", (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), rows, float(near), focal)
    depths = [float((pose[:3, :3] @ camera.center + pose[:3, 3])[2]) for camera in cameras]
    if max(depths) >= near:
        raise InputError(
            f"a camera stands {max(depths):.3g} in front of the mean camera, beyond the near plane {near:.3g}"
        )
    origins, directions = unbounded._ndc_rays(_corner_rays(cameras))
    ends = torch.cat([origins[:, :2], (origins + directions)[:, :2]])
    if not bool(torch.isfinite(ends).all()):
        raise InputError(
            "a camera looks sideways or backwards: these views are not forward-facing; use a bounded space"
        )
    low, high = ends.amin(0).tolist(), ends.amax(0).tolist()
    return Space("forward", (low[0], low[1], -1.0), (high[0], high[1], 1.0), rows, float(near), focal)


def _corner_rays(cameras: Sequence[Camera]) -> Rays:
    stacked = Cameras.stack(list(cameras))
    view = torch.arange(len(cameras)).repeat_interleave(4)
    # Pixel index -0.5 is the picture's outer edge.
    right = torch.tensor([camera.width - 0.5 for camera in cameras])
    bottom = torch.tensor([camera.height - 0.5 for camera in cameras])
    left = torch.full_like(right, -0.5)
    x = torch.stack([left, right, left, right], 1).flatten()
    y = torch.stack([left, left, bottom, bottom], 1).flatten()
    return stacked.rays(view, x, y)
