"""Coloured points on surfaces, as a scene's sweeps agree on them: to look at, and to start from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from loupe.camera import Camera
from loupe.errors import InputError
from loupe.images import Pixels
from loupe.ply import COLOURS, write_ply
from loupe.space import Space
from loupe.sweep import Sweep, found_at

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

_AGREEING = 2  # neighbours that must find a surface where a view finds one
_TOLERANCE = 1.5  # planes of the sweep


class Cloud(NamedTuple):
    """Points `xyz` (n, 3) in the world and their colours `rgb` (n, 3)."""

    xyz: NDArray[np.float32]
    rgb: NDArray[np.uint8]

    @classmethod
    def load(cls, path: Path) -> Cloud:
        """The points in a PLY file that `save` wrote; raises `InputError` if there is none, or it is damaged."""
        return cls.load_with(path, ())[0]

    @classmethod
    def load_with(cls, path: Path, more: Sequence[str]) -> tuple[Cloud, NDArray[np.float32]]:
        """The same, and further properties of the points (n, m)."""
        from plyfile import PlyData, PlyElementParseError, PlyHeaderParseError

        try:
            rows = PlyData.read(str(path))["vertex"]
            cloud = cls(
                np.stack([rows[axis] for axis in "xyz"], 1).astype(np.float32),
                np.stack([rows[name] for name in COLOURS], 1).astype(np.uint8),
            )
            columns = [np.asarray(rows[name], np.float32) for name in more]
            return cloud, np.stack(columns, 1) if more else np.zeros((len(cloud.xyz), 0), np.float32)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; run carve_space first, with masks") from None
        except (PlyElementParseError, PlyHeaderParseError, KeyError, ValueError) as error:
            raise InputError(f"{path}: not points ({error}); run carve_space again") from None

    def joined(self, other: Cloud) -> Cloud:
        """These points, then the others."""
        return Cloud(np.concatenate([self.xyz, other.xyz]), np.concatenate([self.rgb, other.rgb]))

    def within(self, space: Space, occupied: Callable[[Float[Tensor, "n 3"]], Bool[Tensor, " n"]]) -> Cloud:
        """The points whose unit coordinates are `occupied`."""
        kept = occupied(space.to_unit(torch.from_numpy(self.xyz))).numpy()
        return Cloud(self.xyz[kept], self.rgb[kept])

    def one_a_voxel(self, space: Space, shape: Sequence[int]) -> Cloud:
        """One point, at the mean position and colour, for each voxel of a grid over the box that holds any."""
        counts = np.asarray(shape)
        unit = space.to_unit(torch.from_numpy(self.xyz)).numpy()
        voxel = np.ravel_multi_index(tuple((unit * counts).astype(int).clip(0, counts - 1).T), tuple(shape))
        _, group, members = np.unique(voxel, return_inverse=True, return_counts=True)
        sums = [np.bincount(group, column, len(members)) for column in np.concatenate([self.xyz, self.rgb], 1).T]
        means = np.stack(sums, 1) / members[:, None]
        return Cloud(means[:, :3].astype(np.float32), np.round(means[:, 3:]).astype(np.uint8))

    def drawn(self, camera: Camera) -> Pixels:
        """The points as a camera sees them, a pixel each, on black (height, width, 3)."""
        picture = np.zeros((camera.height, camera.width, 3), np.uint8)
        pixels, depth = camera.project(self.xyz.astype(np.float64))
        inside = (depth > 0) & (pixels >= 0).all(1) & (pixels < (camera.width, camera.height)).all(1)
        far_first = np.flatnonzero(inside)[np.argsort(-depth[inside], kind="stable")]
        columns, rows = pixels[far_first].astype(int).T
        picture[rows, columns] = self.rgb[far_first]
        return picture

    def save(self, path: Path, **more: NDArray[np.float32]) -> None:
        """Write binary PLY with colours, as other programs read it; `more`: further properties of the points (n,)."""
        write_ply(path, self.xyz, self.rgb, more)


class SizedCloud(NamedTuple):
    """A cloud and of each point its radius (n,), in world units, and its opacity at its middle (n,), in [0, 1]."""

    cloud: Cloud
    radius: NDArray[np.float32]
    opacity: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Write binary PLY with the properties `radius` and `opacity` after the colours."""
        self.cloud.save(path, radius=self.radius, opacity=self.opacity)


def surface_cloud(pictures: Sequence[Pixels], sweeps: Sequence[Sweep], neighbours: Sequence[Sequence[int]]) -> Cloud:
    """The likeliest surface point of every pixel of every view with which two of the view's neighbours agree."""
    clouds = [np.zeros((0, 3))]
    colours = [np.zeros((0, 3), np.uint8)]
    for picture, sweep, around in zip(pictures, sweeps, neighbours, strict=True):
        known = np.isfinite(sweep.first) & (sweep.best > 0)
        rows, columns = np.nonzero(known)
        pixels = np.stack([columns, rows], 1).astype(np.float64) + 0.5
        points = sweep.camera.unproject(pixels, 1 / sweep.best[known].astype(np.float64))
        agreeing = np.zeros(len(points), int)
        for other in around:
            found = sweeps[other]
            agreeing += found_at(found.camera, found.best, points, _TOLERANCE * found.step)
        clouds.append(points[agreeing >= _AGREEING])
        colours.append(picture[known][agreeing >= _AGREEING])
    return Cloud(np.concatenate(clouds).astype(np.float32), np.concatenate(colours))
