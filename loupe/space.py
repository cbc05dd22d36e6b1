"""The box that a field covers, and the map from the world into it.

A *bounded* space is a box of the world, turned as `frame_from_world` says. A *forward* space serves captures whose
cameras all look one way: the frustum in front of the mean camera, from `near` to infinity, becomes a box by the
projective map of NeRF (Mildenhall et al. 2020, appendix C; here with z forward), under which a straight ray stays
straight.

Both hand out *unit coordinates*: the box is [0, 1]^3. Along a ray, `t` is the distance in world units in a bounded
space; in a forward space it is 1 - near / Z, Z being the z-depth seen from the mean camera: 0 at the near plane, 1 at
infinity.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field

from loupe.camera import Array, Camera
from loupe.config import Config
from loupe.errors import InputError
from loupe.rays import Cameras, Rays
from loupe.scene import Scene, mean_pose

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Kind = Literal["bounded", "forward"]
_MOST_POINTS = 6000  # enough for the extent of a cloud, few enough for all its mutual distances
_IDENTITY = tuple(tuple(float(row == column) for column in range(4)) for row in range(4))


class SpaceConfig(Config):
    """How the box is chosen.

    Attributes:
        kind: "auto" takes a forward space where every training camera looks within `turn` degrees of their mean
            direction and none stands farther to the side than the nearest content is deep; else a bounded one.
        near_factor: forward: the near plane, as a share of the nearest bound of any view (LLFF's 0.75).
        min_seen: bounded: points seen by fewer views do not count.
        margin: bounded: how far the box reaches beyond the points on each side, as a share of its diagonal.
    """

    kind: Literal["auto", "bounded", "forward"] = "auto"
    turn: float = Field(25.0, gt=0, lt=90)
    near_factor: float = Field(0.75, gt=0, le=1)
    min_seen: int = Field(3, ge=2)
    margin: float = Field(0.03, ge=0, le=1)


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
        low, high: corners of the box, in its frame (bounded) or in NDC (forward; z from -1 at near to 1 at infinity).
        frame_from_world: rigid, (4, 4) rows: the frame along whose axes the box lies; forward: the mean camera's.
        near: z-depth of the near plane in that frame, world units (forward only).
        focal: x and y focal length over half the picture's width and height (forward only).
    """

    kind: Kind
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    frame_from_world: tuple[tuple[float, ...], ...] = _IDENTITY
    near: float = 1.0
    focal: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise InputError(f"the space's box is empty: from {self.low} to {self.high}")

    def to_unit(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """World points -> unit coordinates. In a forward space a point behind the mean camera becomes NaN."""
        pose = self._pose(points)
        inner = points @ pose[:3, :3].T + pose[:3, 3]
        return self._box_to_unit(inner if self.kind == "bounded" else self._to_ndc(inner))

    def to_world(self, unit: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """The inverse of `to_unit`; in a forward space the far face (z = 1) lies at infinity."""
        low, high = unit.new_tensor(self.low), unit.new_tensor(self.high)
        inner = low + unit * (high - low)
        if self.kind == "forward":
            depth = 2 * self.near / (1 - inner[:, 2])
            inner = torch.stack([inner[:, 0] * depth / self.focal[0], inner[:, 1] * depth / self.focal[1], depth], -1)
        pose = self._pose(unit)
        return (inner - pose[:3, 3]) @ pose[:3, :3]

    def cast(self, rays: Rays) -> BoxRays:
        """World rays -> the same rays in unit coordinates, with the stretch of t that lies inside the box."""
        inner = self._in_frame(rays)
        origins, directions = inner if self.kind == "bounded" else self._ndc_rays(inner)
        finish = torch.inf if self.kind == "bounded" else 1.0
        low, high = origins.new_tensor(self.low), origins.new_tensor(self.high)
        unit_origins, unit_directions = (origins - low) / (high - low), directions / (high - low)
        # A zero component of the direction gives +-inf, which the minimum and maximum treat rightly; 0 / 0 is a ray
        # within a face.
        a, b = -unit_origins / unit_directions, (1 - unit_origins) / unit_directions
        enter = torch.minimum(a, b).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).amax(-1)
        leave = torch.maximum(a, b).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf).amin(-1)
        meets = torch.isfinite(directions).all(-1)
        return BoxRays(
            unit_origins, unit_directions, enter.clamp(min=0.0), torch.where(meets, leave.clamp(max=finish), -torch.inf)
        )

    def distance(self, rays: Rays, t: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """`t` along each ray -> distance from the ray's origin in world units."""
        if self.kind == "bounded":
            return t
        origins, directions = self._in_frame(rays)
        return (self.near / (1 - t).clamp(min=1e-6) - origins[:, 2]) / directions[:, 2]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(self.__dict__, indent=1) + "\n", encoding="utf8")

    @classmethod
    def load(cls, path: Path) -> Space:
        """Read what `save` wrote; raises `InputError` if it is missing or unusable."""
        try:
            values = json.loads(path.read_text(encoding="utf8"))
            values["frame_from_world"] = tuple(tuple(row) for row in values["frame_from_world"])
            return cls(**values | {key: tuple(values[key]) for key in ("low", "high", "focal")})
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; run carve_space first") from None
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise InputError(f"{path}: not a space ({error!r})") from None

    def _box_to_unit(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        low, high = points.new_tensor(self.low), points.new_tensor(self.high)
        return (points - low) / (high - low)

    def _pose(self, like: Tensor) -> Float[Tensor, "4 4"]:
        return like.new_tensor(self.frame_from_world)

    def _in_frame(self, rays: Rays) -> Rays:
        pose = self._pose(rays.origins)
        return Rays(rays.origins @ pose[:3, :3].T + pose[:3, 3], rays.directions @ pose[:3, :3].T)

    def _to_ndc(self, inner: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        depth = torch.where(inner[:, 2:] > 0, inner[:, 2:], torch.nan)
        return torch.cat([inner.new_tensor(self.focal) * inner[:, :2] / depth, 1 - 2 * self.near / depth], -1)

    def _ndc_rays(self, inner: Rays) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
        """Origins moved to the near plane, and directions such that t = 1 is infinity."""
        origins, directions = inner
        # A ray that runs sideways or backwards never meets the frustum: NaN here, a miss in `cast`.
        slope = directions / torch.where(directions[:, 2:] > 1e-6, directions[:, 2:], torch.nan)
        at_near = origins + slope * (self.near - origins[:, 2:])
        focal = origins.new_tensor(self.focal)
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
    rows = _rows(pose)
    unbounded = Space("forward", (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), rows, float(near), focal)
    depths = [float((pose[:3, :3] @ camera.center + pose[:3, 3])[2]) for camera in cameras]
    if max(depths) >= near:
        raise InputError(
            f"a camera stands {max(depths):.3g} in front of the mean camera, beyond the near plane {near:.3g}"
        )
    origins, directions = unbounded._ndc_rays(unbounded._in_frame(_corner_rays(cameras)))
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


def choose_space(scene: Scene, config: SpaceConfig) -> Space:
    """The space for a scene, from its training cameras, their bounds and the sparse points.

    Raises:
        InputError: a forward space was asked for and the cameras do not allow it, or a bounded one and nothing is seen
            by two cameras.
    """
    cameras = scene.cameras(scene.train, "low")
    nears = [scene.view(name).near for name in scene.train]
    if config.kind == "forward" or (config.kind == "auto" and _look_one_way(cameras, nears, config)):
        return forward_space(cameras, _near_plane(cameras, nears, config.near_factor))
    seen_often = scene.points.xyz[scene.points.seen >= config.min_seen].astype(np.float64)
    points = without_strays(_thinned(seen_often)) if len(seen_often) >= 100 else seen_together(scene)
    return bounded_space(points, config.margin)


def bounded_space(points: Array, margin: float) -> Space:
    """The smallest box, however turned, around points (n, 3), widened by `margin` of its diagonal on each side."""
    rotation = smallest_box_rotation(points)
    inner = points @ rotation.T
    low, high = inner.min(0), inner.max(0)
    widening = margin * float(np.linalg.norm(high - low))
    pose = np.eye(4)
    pose[:3, :3] = rotation
    return Space("bounded", _triple(low - widening), _triple(high + widening), _rows(pose))


def smallest_box_rotation(points: Array) -> Array:
    """The rotation (3, 3) into the frame in which the upright box around points (n, 3) is smallest.

    A pattern search over turns about the three axes, from the world's axes and from the principal axes. The frame's
    axes are named so that they come nearest to the world's own.
    """
    principal = np.linalg.svd(points - points.mean(0), full_matrices=False)[2]
    best, smallest = np.eye(3), np.inf
    for rotation in (np.eye(3), principal):
        volume = _box_volume(points, rotation)
        for step in np.radians([16, 8, 4, 2, 1, 0.5, 0.25]):
            turns = [_turn(axis, angle) for axis in range(3) for angle in (step, -step)]
            improved = True
            while improved:
                volumes = [_box_volume(points, turn @ rotation) for turn in turns]
                improved = min(volumes) < volume * (1 - 1e-9)
                if improved:
                    volume = min(volumes)
                    rotation = turns[int(np.argmin(volumes))] @ rotation
        if volume < smallest * (1 - 1e-6):
            best, smallest = rotation, volume
    return _named_like_world(best)


def without_strays(points: Array, neighbour: int = 6, gap: float = 8.0) -> Array:
    """Points (n, 3) less those whose `neighbour`-th nearest one is more than `gap` times as far as usual (the median).

    Percentiles would clip what is truly there (the edges of a table), the raw extremes belong to wrong matches.
    """
    cloud = torch.from_numpy(points)
    distance = torch.cdist(cloud, cloud).kthvalue(min(neighbour + 1, len(points)), dim=1).values.numpy()
    kept: Array = points[distance <= gap * np.median(distance)]
    return kept


def _thinned(points: Array) -> Array:
    order = np.random.default_rng(0).permutation(len(points))
    return points[np.sort(order[:_MOST_POINTS])]


def _look_one_way(cameras: Sequence[Camera], nears: Sequence[float], config: SpaceConfig) -> bool:
    axes = np.stack([camera.forward for camera in cameras])
    mean = axes.mean(0)
    if np.min(axes @ mean) < np.cos(np.radians(config.turn)) * np.linalg.norm(mean):
        return False
    pose = mean_pose(cameras)
    centers = np.stack([pose[:3, :3] @ camera.center + pose[:3, 3] for camera in cameras])
    sideways = float(np.linalg.norm(centers[:, :2], axis=1).max())
    return sideways < min(nears) and float(centers[:, 2].max()) < _near_plane(cameras, nears, config.near_factor)


def _near_plane(cameras: Sequence[Camera], nears: Sequence[float], factor: float) -> float:
    """`factor` times the z-depth of the nearest bound, seen from the mean camera."""
    pose = mean_pose(cameras)
    forward = [float(pose[2, :3] @ camera.center + pose[2, 3]) for camera in cameras]
    return factor * min(start + near for start, near in zip(forward, nears, strict=True))


def seen_together(scene: Scene) -> Array:
    """Random points (n, 3) all over the training views' frusta, between near and far, that at least half as many views
    see as see the best-seen one."""
    views = [scene.view(name) for name in scene.train]
    across, down, deep = (grid.ravel() for grid in np.meshgrid(*[np.linspace(0, 1, 24)] * 3, indexing="ij"))
    # A few of all views' points, taken before there are any: a long film's frusta hold 10^8.
    total = len(views) * len(deep)
    chosen = np.sort(np.random.default_rng(0).choice(total, min(total, _MOST_POINTS), replace=False, shuffle=False))
    which, within = np.divmod(chosen, len(deep))
    clouds = []
    for place, view in enumerate(views):
        taken = within[which == place]
        pixels = np.stack([across[taken] * view.camera.width, down[taken] * view.camera.height], 1)
        clouds.append(view.camera.unproject(pixels, view.near + deep[taken] * (view.far - view.near)))
    points = np.concatenate(clouds)
    seen = np.zeros(len(points), int)
    for view in views:
        pixels, depth = view.camera.project(points)
        inside = ((pixels >= 0) & (pixels <= (view.camera.width, view.camera.height))).all(1)
        seen += inside & (depth >= view.near) & (depth <= view.far)
    if seen.max() < 2:
        raise InputError(f"{scene.folder}: no place is seen by two training views; the poses or the bounds are wrong")
    common: Array = points[2 * seen >= seen.max()]
    return common


def _box_volume(points: Array, rotation: Array) -> float:
    inner = points @ rotation.T
    return float(np.prod(inner.max(0) - inner.min(0)))


def _turn(axis: int, angle: float) -> Array:
    first, second = (axis + 1) % 3, (axis + 2) % 3
    rotation = np.eye(3)
    rotation[first, first] = rotation[second, second] = np.cos(angle)
    rotation[first, second], rotation[second, first] = -np.sin(angle), np.sin(angle)
    return rotation


def _named_like_world(rotation: Array) -> Array:
    """The same three axes, reordered and reversed so that the rotation turns least."""
    choices = [
        rotation[list(order)] * np.array(signs)[:, None]
        for order in permutations(range(3))
        for signs in product((1.0, -1.0), repeat=3)
    ]
    return max((axes for axes in choices if np.linalg.det(axes) > 0), key=np.trace)


def _triple(values: Array) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _rows(matrix: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in matrix)
