"""Points that move: their place, size and look at every frame, read from grids over space and time.

Every frame has points of its own to begin with, and there are no correspondences between frames: what the frames share
is the grids, whose features vary smoothly in space and time (Xu et al., "4K4D", 2024, section 3.1). A point's colour is
what photos of its moment show there, weighed against each other, and a part that depends on the direction (section
3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import nn

from loupe.camera import Array, Camera
from loupe.config import Config
from loupe.fields.harmonics import CONSTANT, HARMONICS, harmonics
from loupe.fields.planes4d import Planes4d, PlanesConfig
from loupe.nets.pyramid import FEATURES, Pyramid
from loupe.space import Space

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

_HIDDEN = 64
_DENSE = 5.0  # what is added to the density's logit, so that points begin nearly opaque


class PointsConfig(Config):
    """The model. Lengths of the paper are in metres, before a subject of two; here they are shares.

    Attributes:
        count: points a frame.
        positions, features: the two grids.
        reach: what the head's output of one moves a point by, as a share of the box's longest side.
        least_radius, radii, radius_logit: a radius is least + radii * sigmoid(x + logit), in mean distances between
            neighbouring points of the hull.
        images: whether the photos' colours count; `sources` of them for a point, out of the `among` nearest while
            training, where with the probability `own` the view itself is one of them.
        harmonics: whether colour depends on the direction, beside the photos' by up to `limit`.
        grid: False gives every point of every frame parameters of its own, the paper's ablation.
        layers: K, the most points that count in a pixel.
    """

    count: int = Field(default=262_144, ge=16)
    positions: PlanesConfig = PlanesConfig(levels=2)
    features: PlanesConfig = PlanesConfig()
    reach: float = Field(default=0.05, gt=0)
    least_radius: float = Field(default=0.35, gt=0)
    radii: float = Field(default=5.0, gt=0)
    radius_logit: float = -5.0
    images: bool = True
    sources: int = Field(default=4, ge=1)
    among: int = Field(default=5, ge=1)
    own: float = Field(default=0.1, ge=0, le=1)
    harmonics: bool = True
    limit: float = Field(default=0.25, gt=0, le=1)
    grid: bool = True
    layers: int = Field(default=15, ge=1)


class Moment(NamedTuple):
    """The points at a frame: where they are, how large and dense, how far they were moved, and their features."""

    points: Float[Tensor, "n 3"]
    radius: Float[Tensor, " n"]
    density: Float[Tensor, " n"]
    shift: Float[Tensor, "n 3"]
    features: Float[Tensor, "n c"]


class Source(NamedTuple):
    """A photo to take colours from: `picture` (3, h, w) in [0, 1] over black, the subject's `mask` (h, w), and the
    camera over both."""

    picture: Float[Tensor, "3 h w"]
    mask: Float[Tensor, "h w"]
    camera: Camera

    def covers(self, points: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """Which points the mask covers: beyond it the photo shows something else."""
        return _looked_up(self.mask[None], points, self.camera)[:, 0] > 0.5


class Appearance(NamedTuple):
    """What the points' colours are made of, wherever they are seen from.

    `coefficients` (n, 3, k): of the first k spherical harmonics, 0, 1 or all. Of s photos: their colours `rgb`
    (s, n, 3) at the points; how much each counts, `logit` (s, n); and `sight` (s, n), which points each sees. What the
    harmonics add to the photos' colours is at most `limit`.
    """

    coefficients: Float[Tensor, "n 3 k"]
    rgb: Float[Tensor, "s n 3"]
    logit: Float[Tensor, "s n"]
    sight: Bool[Tensor, "s n"]
    limit: float

    def seen_from(self, points: Float[Tensor, "n 3"], eye: Float[Tensor, " 3"]) -> Float[Tensor, "n 3"]:
        """The colours of points seen from `eye`, in [0, 1]; where a point is does not learn from it (the published
        code)."""
        towards = nn.functional.normalize(points.detach() - eye, dim=1)
        functions = harmonics(towards)[:, None, : self.coefficients.shape[-1]]
        return self._with((self.coefficients * functions).sum(-1))

    def seen_from_all_around(self) -> Float[Tensor, "n 3"]:
        """The colours with the mean of the harmonics over all directions, in [0, 1]."""
        return self._with(CONSTANT * self.coefficients[..., :1].sum(-1))

    def of_photos(self, chosen: list[int]) -> Appearance:
        """With those photos alone."""
        return self._replace(rgb=self.rgb[chosen], logit=self.logit[chosen], sight=self.sight[chosen])

    def to(self, kind: torch.dtype) -> Appearance:
        """With numbers of that kind."""
        return self._replace(coefficients=self.coefficients.to(kind), rgb=self.rgb.to(kind), logit=self.logit.to(kind))

    def _with(self, by_direction: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        if not len(self.rgb):
            return torch.sigmoid(by_direction)
        # A point that no photo sees takes from all of them.
        weight = self.logit.masked_fill(~self.sight & self.sight.any(0), -torch.inf).softmax(0)
        shown = (weight[..., None] * self.rgb).sum(0)
        return (shown + self.limit * torch.tanh(by_direction)).clamp(0, 1)


class PointField(nn.Module):
    """The points of all frames and what their look is made of."""

    def __init__(self, config: PointsConfig, space: Space, positions: Sequence[Tensor], spacing: float) -> None:
        """`positions`: those of each frame, in the world; `spacing`: the usual distance between neighbours."""
        super().__init__()
        self.config, self.space = config, space
        self.side = max(high - low for low, high in zip(space.low, space.high, strict=True))
        self.spacing: Tensor
        self.register_buffer("spacing", torch.tensor(spacing))
        self.positions = nn.ParameterList(positions)
        frames = len(positions)
        width = config.features.levels * config.features.channels
        if config.grid:
            self.features = Planes4d(config.features, frames)
            self.shifts = Planes4d(config.positions, frames)
            self.shift = _head(self.shifts.width, 3, layers=2, still=True)
        else:
            self.features_of = nn.ParameterList(torch.zeros(len(points), width) for points in positions)
        self.shape = _head(width, 2, layers=2)
        if config.images:
            self.pyramid = Pyramid()
            self.blend = _head(width + FEATURES + 3, 1, layers=1)
        if config.harmonics:
            first, last = nn.Linear(width, _HIDDEN), nn.Linear(_HIDDEN, 3 * HARMONICS)
            nn.init.constant_(first.bias, -1.0)
            nn.init.normal_(last.weight, std=0.01)
            self.harmonics = nn.Sequential(first, nn.Softplus(), last)
        elif not config.images:
            self.plain = _head(width, 3, layers=1)

    def at(self, index: int) -> Moment:
        """The points at the frame of this number."""
        config, base = self.config, self.positions[index]
        time = index / max(1, len(self.positions) - 1)
        if config.grid:
            shift = config.reach * self.side * self.shift(self.shifts(self.space.to_unit(base), time))
            points = base + shift
            features = self.features(self.space.to_unit(points), time)
        else:
            shift, points, features = torch.zeros_like(base), base, self.features_of[index]
        size, density = self.shape(features).unbind(1)
        radius = config.least_radius + config.radii * torch.sigmoid(size + config.radius_logit)
        return Moment(points, self.spacing * radius, torch.sigmoid(density + _DENSE), shift, features)

    def colours(
        self, moment: Moment, eye: Float[Tensor, " 3"], sources: Sequence[Source], sight: Bool[Tensor, "s n"] | None
    ) -> Float[Tensor, "n 3"]:
        """The points' colours seen from `eye`, in [0, 1]; `sight`: which sources see which points."""
        return self.appearance(moment, sources, sight).seen_from(moment.points, eye)

    def appearance(self, moment: Moment, sources: Sequence[Source], sight: Bool[Tensor, "s n"] | None) -> Appearance:
        """What the points' colours are made of; `sight`: which sources see which points, None without sources."""
        coefficients = self._coefficients(moment)
        if not self.config.images:
            rgb = moment.points.new_zeros(0, len(moment.points), 3)
            return Appearance(coefficients, rgb, rgb[..., 0], rgb[..., 0].bool(), self.config.limit)
        assert sight is not None
        looks = torch.stack([self._look(moment, source) for source in sources])  # (s, n, c)
        features = moment.features.expand(len(looks), -1, -1)
        logit = self.blend(torch.cat([features, looks], -1))[..., 0]
        return Appearance(coefficients, looks[..., FEATURES:], logit, sight, self.config.limit)

    def _coefficients(self, moment: Moment) -> Float[Tensor, "n 3 k"]:
        if self.config.harmonics:
            coefficients: Tensor = self.harmonics(moment.features)
            return coefficients.view(-1, 3, HARMONICS)
        if self.config.images:
            return moment.features.new_zeros(len(moment.features), 3, 0)
        plain: Tensor = self.plain(moment.features)
        return plain[..., None] / CONSTANT

    def _look(self, moment: Moment, source: Source) -> Float[Tensor, "n c"]:
        """What a source and the features of its pixels show at the points."""
        maps = torch.cat([self.pyramid(source.picture[None])[0], source.picture])
        return _looked_up(maps, moment.points, source.camera)


def _looked_up(maps: Float[Tensor, "c h w"], points: Float[Tensor, "n 3"], camera: Camera) -> Float[Tensor, "n c"]:
    """What maps over a camera's picture show at points of the world, bilinear; beyond the edge, what stands there."""
    pose = torch.from_numpy(camera.cam_from_world).to(points)
    placed = points @ pose[:3, :3].T + pose[:3, 3]
    focal, centre = points.new_tensor([camera.fx, camera.fy]), points.new_tensor([camera.cx, camera.cy])
    pixels = focal * placed[:, :2] / placed[:, 2:].clamp(min=1e-6) + centre
    at = 2 * pixels / points.new_tensor([camera.width, camera.height]) - 1
    looked = nn.functional.grid_sample(maps[None], at[None, None], padding_mode="border", align_corners=False)
    return looked[0, :, 0].T


def _head(before: int, after: int, layers: int, still: bool = False) -> nn.Sequential:
    """A small network; `still`: its output begins at zero."""
    parts: list[nn.Module] = []
    for size in [before, *[_HIDDEN] * (layers - 1)]:
        parts += [nn.Linear(size, _HIDDEN), nn.ReLU(inplace=True)]
    last = nn.Linear(_HIDDEN, after)
    if still:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(*parts, last)


def mean_spacing(points: Array) -> float:
    """The median distance of a point to its nearest neighbour."""
    from scipy.spatial import KDTree

    return float(np.median(KDTree(points).query(points, 2)[0][:, 1]))


def exactly(points: Array, count: int, jitter: float, generator: np.random.Generator) -> Array:
    """So many of the points, or all of them and copies, each moved a little."""
    order = np.concatenate([generator.permutation(len(points)) for _ in range(-(-count // len(points)))])[:count]
    moved = generator.normal(0, jitter, (count, 3))
    moved[: len(points)] = 0
    return np.asarray(points[order] + moved)
