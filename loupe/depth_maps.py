"""Sweeps -> a depth for every pixel of every view that its neighbours agree with.

A plane sweep finds depths where there is texture. A depth is *certain* where it matches, two neighbours find the same
surface, and it is no speck. Between the certain ones a thin-plate spline goes on: the map that is nearest to them and
bent least. It is bent in *inverse depth*, where a plane of the scene is a linear function of the pixel, so whatever is
flat and plain (a floor, a wall) is continued flat, to the edge of the picture too. What the spline says counts where
the views agree once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from loupe.camera import Array, Camera
from loupe.sweep import Sweep, found_at

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Map = NDArray[np.floating]
Mask = NDArray[np.bool_]

_AGREEING = 2  # neighbours that must find a surface where a view finds one
_SAME, _ALIKE = 1.5, 3.0  # planes of the sweep by which a certain depth may be off, and one of the spline
_MATCHES = 0.5  # the least correlation of a certain depth: plain pictures agree on any
_SPECK = 60  # pixels: a smaller piece of certain depths is none
_STRAY = 4.0  # planes: a certain depth so far from the spline is none
_STIFFNESS = (
    3.0  # of the spline: a bend by a plane, from one pixel to the next, weighs as much as missing by 1.7 planes
)


def whole_depths(sweeps: Sequence[Sweep], known: Sequence[Mask], neighbours: Sequence[Sequence[int]]) -> list[Map]:
    """For each view the inverse depth (h, w) of what stands in each pixel, 0 where that stays open.

    Args:
        sweeps: of all views.
        known: for each view, the pixels (h, w) whose colours are to be relied on.
        neighbours: for each view, those that it is compared with.
    """
    found = [sweep.best for sweep in sweeps]
    splines = []
    for index, sweep in enumerate(sweeps):
        agreeing = _agreement(sweeps, found, neighbours, index, _SAME)
        certain = (agreeing >= _AGREEING) & known[index] & (sweep.best > 0) & (sweep.match > _MATCHES)
        splines.append(_bridged(sweep, _without_specks(sweep, certain)))
    kept = []
    for index, spline in enumerate(splines):
        agreeing = _agreement(sweeps, splines, neighbours, index, _ALIKE)
        kept.append(np.where(agreeing >= _AGREEING, spline, 0))
    return kept


def points_of(camera: Camera, inverse_depth: Map) -> Array:
    """The places in the world (h, w, 3) of a view's pixels at these inverse depths, which are above 0."""
    height, width = inverse_depth.shape
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns, rows], -1).reshape(-1, 2) + 0.5
    return camera.unproject(pixels, 1 / inverse_depth.reshape(-1).astype(np.float64)).reshape(height, width, 3)


def _agreement(
    sweeps: Sequence[Sweep], found: Sequence[Map], neighbours: Sequence[Sequence[int]], index: int, planes: float
) -> NDArray[np.int_]:
    """How many neighbours find a surface where a view does, give or take so many planes, (h, w)."""
    points = points_of(sweeps[index].camera, np.maximum(found[index], 1e-6)).reshape(-1, 3)
    agreeing = np.zeros(len(points), int)
    for other in neighbours[index]:
        agreeing += found_at(sweeps[other].camera, found[other], points, planes * sweeps[other].step)
    return agreeing.reshape(found[index].shape)


def _without_specks(sweep: Sweep, certain: Mask) -> Mask:
    """Less the pieces, of depths no more than a plane and a half from pixel to pixel, that are too small."""
    levels = np.where(certain, np.rint(16 * sweep.best / max(sweep.step, 1e-9)) + 1, 0).astype(np.int16)
    cv2.filterSpeckles(levels, 0, _SPECK, 24)
    return levels > 0


def _bridged(sweep: Sweep, certain: Mask) -> Map:
    """The spline through the certain depths, once more without those far from it; 0 where there are too few."""
    if certain.sum() < _SPECK:
        return np.zeros_like(sweep.best)
    once = _spline(sweep.best, certain)
    near = certain & (np.abs(once - sweep.best) < _STRAY * sweep.step)
    spline = _spline(sweep.best, near) if near.sum() >= _SPECK else once
    return np.clip(spline, sweep.step, sweep.nearest)


def _spline(values: Map, certain: Mask) -> Map:
    """Minimises the squares of what it misses by, and of the second derivatives."""
    from scipy.sparse import diags
    from scipy.sparse.linalg import spsolve

    weight = certain.ravel().astype(np.float64)
    solved = spsolve((diags(weight) + _STIFFNESS * _bending(*values.shape)).tocsc(), weight * values.ravel())
    return np.asarray(solved, np.float32).reshape(values.shape)


@cache
def _bending(height: int, width: int) -> csr_matrix:
    """The quadratic form of a map's bending energy, from differences of neighbouring pixels."""
    from scipy.sparse import diags, identity, kron

    def differences(count: int, order: int) -> csr_matrix:
        steps = [[-1.0, 1.0], [1.0, -2.0, 1.0]][order - 1]
        return diags(steps, list(range(order + 1)), shape=(count - order, count))

    across = kron(identity(height), differences(width, 2))
    down = kron(differences(height, 2), identity(width))
    askew = kron(differences(height, 1), differences(width, 1))
    return (across.T @ across + down.T @ down + 2 * askew.T @ askew).tocsr()
