"""The visual hull: what of a box the foreground masks of posed views leave.

A voxel lives if at least `least` views see its middle, and at least the share `agree` of those have it in their mask
(a vote, where the strict hull lets one bad mask cut a hole; Laurentini 1994 for the strict one). A view sees what lies
before it and inside its frame.

From coarse to fine: the projection of a cell lies within the rectangle around its corners' projections, and a
summed-area table tells at once whether a rectangle of a mask is empty or full. So most cells are decided whole, and
only those that some outline crosses are cut into eight. The result is that of asking every voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from loupe.camera import Array, Camera

Mask = NDArray[np.bool_]
Grid = NDArray[np.bool_]
Cells = NDArray[np.int64]

_CELLS_AT_ONCE = 1 << 16


class Silhouette(NamedTuple):
    """A view: `mask` (h, w), True in the foreground, and the camera at its size."""

    mask: Mask
    camera: Camera


class Votes(NamedTuple):
    """The least number of views that must see a voxel, and how many percent of them must have it in their mask."""

    least: int = 2
    agree: int = 95


def carve_hull(
    views: Sequence[Silhouette], low: Array, voxel: Array, shape: tuple[int, int, int], votes: Votes
) -> Grid:
    """Which voxels of a grid live.

    Args:
        views: all of one moment.
        low: the grid's lowest corner in the world, (3,).
        voxel: the sides of a voxel, in world units, (3,).
        shape: voxels along the world's axes.
        votes: what it takes.
    """
    tables = [_Table(view) for view in views]
    alive = np.zeros(shape, bool)
    side = 1 << (max(shape) - 1).bit_length()
    cells = np.zeros((1, 3), np.int64)  # lowest voxels of cubes with `side` voxels a side
    while side > 1 and len(cells):
        verdicts = [_decide(tables, some, side, low, voxel, votes) for some in _pieces(cells)]
        dead, whole = (np.concatenate(parts) for parts in zip(*verdicts, strict=True))
        for x, y, z in cells[whole]:
            alive[x : x + side, y : y + side, z : z + side] = True
        side //= 2
        cells = _eighths(cells[~dead & ~whole], side, shape)
    for some in _pieces(cells):
        chosen = some[_live(tables, low + (some + 0.5) * voxel, votes)]
        alive[tuple(chosen.T)] = True
    return alive


class _Table:
    """A view that answers for many points or rectangles at once."""

    def __init__(self, view: Silhouette) -> None:
        self._mask, self._pose = view.mask, view.camera.cam_from_world
        self._focal = np.array([[view.camera.fx], [view.camera.fy]])
        self._centre = np.array([[view.camera.cx], [view.camera.cy]])
        self._size = np.array([[view.camera.width], [view.camera.height]])
        self._sums = cv2.integral(view.mask.astype(np.uint8))

    def ask(self, points: Array) -> tuple[Mask, Mask]:
        """Which points (n, 3) the view sees, and which of these lie in its mask."""
        pixels, front = self._project(points)
        sees = front & ((pixels >= 0) & (pixels < self._size)).all(0)
        x, y = np.where(sees, pixels, 0).astype(int)
        return sees, sees & self._mask[y, x]

    def bounds(self, corners: Array) -> tuple[Mask, Mask, Mask, Mask]:
        """Of boxes with these corners (n, 8, 3): whether some point may be seen, whether all are; whether some seen
        one may lie in the mask, whether all that are seen do."""
        pixels, front = self._project(corners.reshape(-1, 3))
        # Corners before boxes: NumPy takes the least of many rows fast, and that of many short rows slowly.
        pixels = np.ascontiguousarray(pixels.reshape(2, -1, 8).swapaxes(1, 2))
        front = np.ascontiguousarray(front.reshape(-1, 8).T)
        first, last = np.floor(pixels.min(1)), np.floor(pixels.max(1))
        sound, some_before = front.all(0), front.any(0)
        within = sound & ((first >= 0) & (last < self._size)).all(0)
        near = some_before & (~sound | ((last >= 0) & (first < self._size)).all(0))
        (left, top), (right, bottom) = (np.clip(edge, 0, self._size - 1).astype(int) for edge in (first, last))
        inside = (
            self._sums[bottom + 1, right + 1]
            - self._sums[top, right + 1]
            - self._sums[bottom + 1, left]
            + self._sums[top, left]
        )
        full = inside == (bottom + 1 - top) * (right + 1 - left)
        return near, within, near & (~sound | (inside > 0)), sound & full

    def _project(self, points: Array) -> tuple[Array, Mask]:
        """Pixel positions (2, n), and which points lie before the camera."""
        placed = np.ascontiguousarray((points @ self._pose[:3, :3].T).T) + self._pose[:3, 3:]
        front = placed[2] > 0
        depth = np.where(front, placed[2], 1.0)
        return placed[:2] / depth * self._focal + self._centre, front


def _decide(
    tables: Sequence[_Table], cells: Cells, side: int, low: Array, voxel: Array, votes: Votes
) -> tuple[Mask, Mask]:
    """Which cubes of voxels are dead for sure, and which live wholly."""
    ends = np.stack(np.meshgrid(*[[0.5, side - 0.5]] * 3, indexing="ij"), -1).reshape(8, 3)
    corners = low + (cells[:, None] + ends) * voxel
    most_seen, least_seen, best, worst = np.zeros((4, len(cells)), np.int64)
    for table in tables:
        near, within, some, full = table.bounds(corners)
        most_seen += near
        least_seen += within
        # What the view adds to 100 times those inside less `agree` times those who see, at best and at worst.
        best += np.where(some, 100 - votes.agree, np.where(within, -votes.agree, 0))
        worst += np.where(~near, 0, np.where(full, np.where(within, 100 - votes.agree, 0), -votes.agree))
    return (most_seen < votes.least) | (best < 0), (least_seen >= votes.least) & (worst >= 0)


def _live(tables: Sequence[_Table], middles: Array, votes: Votes) -> Mask:
    """The same of views that are tables already."""
    seen, inside = np.zeros((2, len(middles)), np.int64)
    for table in tables:
        sees, has = table.ask(middles)
        seen += sees
        inside += has
    return np.asarray((seen >= votes.least) & (100 * inside >= votes.agree * seen))


def live(views: Sequence[Silhouette], middles: Array, votes: Votes) -> Mask:
    """Whether voxels with these middles (n, 3) live, each asked by itself."""
    return _live([_Table(view) for view in views], middles, votes)


def dissenters(views: Sequence[Silhouette], middles: Array) -> tuple[int, list[int]]:
    """Of the point (n, 3) that lies in the most masks: in how many, and which views see it outside of theirs."""
    asked = [_Table(view).ask(middles) for view in views]
    seen, inside = (np.stack(parts) for parts in zip(*asked, strict=True))
    best = int(inside.sum(0).argmax())
    return int(inside[:, best].sum()), [int(view) for view in np.flatnonzero(seen[:, best] & ~inside[:, best])]


def _eighths(cells: Cells, side: int, shape: tuple[int, int, int]) -> Cells:
    """The cubes of half the side within the grid."""
    steps = np.stack(np.meshgrid(*[[0, side]] * 3, indexing="ij"), -1).reshape(8, 3)
    every = (cells[:, None] + steps).reshape(-1, 3)
    return np.asarray(every[(every < shape).all(1)])


def _pieces(cells: Cells) -> list[Cells]:
    return np.array_split(cells, max(1, -(-len(cells) // _CELLS_AT_ONCE)))
