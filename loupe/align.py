"""Two sets of cameras of one capture -> the similarity between their worlds, and how far they then disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from loupe.camera import Array, Camera
from loupe.errors import InputError


class Similarity(NamedTuple):
    """x -> scale * rotation @ x + translation: `scale` > 0, `rotation` (3, 3), `translation` (3,)."""

    scale: float
    rotation: Array
    translation: Array

    def apply(self, points: Array) -> Array:
        """Points (n, 3) -> points (n, 3)."""
        return np.asarray(self.scale * points @ self.rotation.T + self.translation)


class Disagreement(NamedTuple):
    """Per camera, (n,) each: the angle between orientations in `degrees`, and the `distance` between
    positions as a share of `radius`, the largest distance of a true camera from their mean."""

    degrees: Array
    distance: Array
    radius: float


def fit_similarity(source: Array, target: Array) -> Similarity:
    """The similarity that takes points `source` (n, 3) closest to `target` (n, 3) in the least-squares sense.

    Umeyama 1991, equations 40 to 42.

    Raises:
        InputError: fewer than three points, or all on one line, from which no rotation follows.
    """
    if len(source) != len(target) or len(source) < 3:
        raise InputError(f"alignment: {len(source)} and {len(target)} positions; need the same three or more")
    source_mean, target_mean = source.mean(0), target.mean(0)
    centred = source - source_mean
    u, singular, vt = np.linalg.svd((target - target_mean).T @ centred / len(source))
    if singular[1] <= 1e-12 * singular[0]:
        raise InputError("alignment: the positions lie on one line, so that no rotation follows from them")
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(sign) @ vt
    scale = float((singular * sign).sum() / (centred**2).sum(1).mean())
    return Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)


def compare_cameras(estimated: Sequence[Camera], true: Sequence[Camera]) -> Disagreement:
    """How far cameras differ from the `true` ones, pair by pair, once their positions are aligned."""
    similarity = fit_similarity(_centers(estimated), _centers(true))
    turned = np.array([camera.cam_from_world[:3, :3] @ similarity.rotation.T for camera in estimated])
    return _disagreement(similarity.apply(_centers(estimated)), turned, true)


def compare_cameras_of_one_world(estimated: Sequence[Camera], true: Sequence[Camera]) -> Disagreement:
    """How far cameras differ from the `true` ones, pair by pair, as they stand."""
    rotations = np.array([camera.cam_from_world[:3, :3] for camera in estimated])
    return _disagreement(_centers(estimated), rotations, true)


def _centers(cameras: Sequence[Camera]) -> Array:
    return np.array([camera.center for camera in cameras])


def _disagreement(centers: Array, rotations: Array, true: Sequence[Camera]) -> Disagreement:
    """Positions (n, 3) and camera-from-world rotations (n, 3, 3) against the `true` cameras."""
    true_centers = _centers(true)
    radius = float(np.linalg.norm(true_centers - true_centers.mean(0), axis=1).max())
    distance = np.linalg.norm(centers - true_centers, axis=1) / radius
    there = np.array([camera.cam_from_world[:3, :3] for camera in true])
    # |A - B| = 2 sqrt(2) sin(angle / 2) for rotations (Frobenius): exact for small angles, where the trace is not.
    chord = np.linalg.norm(rotations - there, axis=(1, 2)) / (2 * np.sqrt(2))
    return Disagreement(np.degrees(2 * np.arcsin(np.clip(chord, 0, 1))), distance, radius)
