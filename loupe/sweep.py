"""Plane sweep: how near the surface behind each pixel of a view can stand, from how well other views match.

A view is compared with a few neighbours by warping them over planes of constant z-depth (Collins 1996). Planes are
even in *inverse depth*, 1 / z, from the nearest allowed depth to infinity, about a pixel of parallax apart. The measure
is the normalised cross-correlation of small windows, so it asks for texture, not for brightness; the mean of the best
two neighbours counts, so that a neighbour whose sight is blocked does no harm (Kang, Szeliski and Chai 2001).
Semi-global matching (Hirschmüller 2008, eq. 13) then lets every pixel listen to the ones around it.

Pictures here are grey, float32, 0 in the middle; cameras have the pictures' size.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from loupe.camera import Array, Camera
from loupe.images import Pixels

Grey = NDArray[np.floating]
Volume = NDArray[np.floating]

_NEIGHBOURS = 6
_ANGLE, _NARROWER, _WIDER = 8.0, 4.0, 16.0  # degrees between lines of sight: the best, and how fast worse ones fall off
_WINDOW = 5
_NOISE = 6e-5  # variance of a picture's noise, (2 / 255)^2: what is flatter than that matches nothing
_NO_MATCH = 0.3  # a correlation up to this says nothing, just as a depth does that fewer than two neighbours see
_SMALL_STEP, _LARGE_STEP = 0.03, 0.2  # semi-global matching's penalties for a change by one plane and by more
_PARALLAX = 1.0  # pixels that a picture moves from plane to plane, at the most, in a neighbour at the median distance
_FEWEST_PLANES, _MOST_PLANES = 32, 256
_OUTSIDE = -4.0  # marks where a warped picture has no pixel


@dataclass(frozen=True, eq=False)
class Sweep:
    """What a view's sweep found.

    Attributes:
        camera: at the size of the swept picture.
        nearest: inverse depth before which nothing stands, by the view's own bound.
        limit: (h, w) inverse depth; the sweep is blind to what is nearer, for fewer than two neighbours see it.
        first: (h, w) inverse depth; what is nearer than it and not beyond the limit is empty. Infinite where any depth
            would do.
        best: (h, w) inverse depth of the likeliest surface.
        match: (h, w) the correlation there, up to 1; where nothing can be matched it is low whatever `best` is.
        step: inverse depth from plane to plane; 0 for a view without neighbours.
    """

    camera: Camera
    nearest: float
    limit: Grey
    first: Grey
    best: Grey
    match: Grey
    step: float


def sweep_views(
    pictures: Sequence[Pixels],
    cameras: Sequence[Camera],
    neighbours: Sequence[Sequence[int]],
    nears: Sequence[float],
    slack: float,
) -> list[Sweep]:
    """Sweep each picture (h, w, 3) against its neighbours among the others.

    Args:
        pictures, cameras: the views; a camera has its picture's size.
        neighbours: for each view, which others it is compared with.
        nears: for each view, the z-depth before which nothing stands.
        slack: how much worse than a pixel's best match (cost from 0 to 1) a nearer one may be and still count.
    """
    greys = [_grey(picture) for picture in pictures]

    def one(index: int) -> Sweep:
        around = [(greys[other], cameras[other]) for other in neighbours[index]]
        return _sweep_one(greys[index], cameras[index], around, nears[index], slack)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(one, range(len(cameras))))


def choose_neighbours(cameras: Sequence[Camera], middles: Sequence[float]) -> list[list[int]]:
    """For each camera the (up to six) others that best see the point in its middle, at z-depth `middles`."""
    centers = np.stack([camera.center for camera in cameras])
    chosen = []
    for index, camera in enumerate(cameras):
        point = camera.center + middles[index] * camera.forward
        sight = (point - centers) / np.linalg.norm(point - centers, axis=1, keepdims=True)
        angle = np.degrees(np.arccos(np.clip(sight @ sight[index], -1, 1)))
        fit = np.exp(-(((angle - _ANGLE) / np.where(angle < _ANGLE, _NARROWER, _WIDER)) ** 2) / 2)
        fit *= [_sees(other, point) for other in cameras]
        fit[index] = 0
        order = np.argsort(-fit, kind="stable")[:_NEIGHBOURS]
        chosen.append([int(other) for other in order if fit[other] > 0.02])
    return chosen


def found_at(camera: Camera, inverse_depth: Grey, points: Array, tolerance: float) -> NDArray[np.bool_]:
    """Whether a view's map of inverse depth has a surface where points (n, 3) lie."""
    pixels, depth = camera.project(points)
    found = (depth > 0) & ((pixels >= 0) & (pixels < (camera.width, camera.height))).all(1)
    columns, rows = pixels[found].astype(int).T
    found[found] = np.abs(inverse_depth[rows, columns] - 1 / depth[found]) <= tolerance
    return found


def _sees(camera: Camera, point: Array) -> bool:
    pixel, depth = camera.project(point[None])
    return bool(depth[0] > 0 and (pixel[0] >= 0).all() and (pixel[0] < (camera.width, camera.height)).all())


def _grey(picture: Pixels) -> Grey:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.float32) / 255 - 0.5


def _sweep_one(grey: Grey, camera: Camera, around: Sequence[tuple[Grey, Camera]], near: float, slack: float) -> Sweep:
    if len(around) < 2:
        zeros = np.zeros_like(grey)
        return Sweep(camera, 1 / near, zeros, np.full_like(grey, np.inf), zeros, zeros, 0.0)
    planes = _planes(camera, [other for _, other in around], near)
    cost, unseen = _matching_cost(grey, camera, around, planes)
    raw, cost = cost, _smooth(cost)
    first = (cost <= cost.min(2, keepdims=True) + slack).argmax(2).astype(np.float32)
    # A window across an edge takes the depth of either side: the nearer one within a pixel counts, less a plane.
    first = cv2.erode(first, np.ones((3, 3), np.uint8)) - 1
    step = float(planes[0] - planes[1])
    reach = np.where(first > 0, planes[0] - first * step, np.inf)
    limit = np.where(unseen.all(2), 0, planes[unseen.argmin(2)]).astype(np.float32)
    likeliest = cost.argmin(2)
    match = 1 - np.take_along_axis(raw, likeliest[..., None], 2)[..., 0]
    return Sweep(camera, 1 / near, limit, reach.astype(np.float32), planes[likeliest].astype(np.float32), match, step)


def _planes(camera: Camera, others: Sequence[Camera], near: float) -> Array:
    """Inverse depths from 1 / near to 0."""
    distance = float(np.median([np.linalg.norm(other.center - camera.center) for other in others]))
    count = int(np.clip(np.ceil(camera.fx * distance / (near * _PARALLAX)), _FEWEST_PLANES, _MOST_PLANES))
    return np.linspace(1 / near, 0, count + 1)


def _matching_cost(
    grey: Grey, camera: Camera, around: Sequence[tuple[Grey, Camera]], planes: Array
) -> tuple[Volume, NDArray[np.bool_]]:
    """(h, w, planes): 1 - the mean correlation with the best two neighbours, and where fewer than two see the place."""
    height, width = grey.shape
    mean = _box(grey)
    deviation = np.sqrt(np.maximum(_box(grey * grey) - mean * mean, 0) + _NOISE)
    warps = [_plane_warp(camera, other) for _, other in around]
    cost = np.empty((height, width, len(planes)), np.float32)
    unseen = np.empty(cost.shape, bool)
    for plane, inverse_depth in enumerate(planes):
        best = np.full((height, width), -np.inf, np.float32)
        second = best
        for (picture, _), (at_infinity, per_inverse_depth) in zip(around, warps, strict=True):
            warped = cv2.warpPerspective(
                picture,
                at_infinity + inverse_depth * per_inverse_depth,
                (width, height),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=_OUTSIDE,
            )
            score = _correlation(warped, grey, mean, deviation)
            second = np.maximum(second, np.minimum(best, score))
            best = np.maximum(best, score)
        unseen[:, :, plane] = second == -np.inf
        cost[:, :, plane] = 1 - ((best + second) / 2).clip(_NO_MATCH, 1)
    return cost, unseen


def _correlation(warped: Grey, grey: Grey, mean: Grey, deviation: Grey) -> Grey:
    """Normalised cross-correlation of the windows around each pixel; -inf where `warped` has no pixel."""
    outside = warped < -0.6
    warped[outside] = 0
    sums = _box(np.stack([warped, warped * warped, warped * grey], 2))
    other = sums[:, :, 0]
    variance = np.maximum(sums[:, :, 1] - other * other, 0) + _NOISE
    score = (sums[:, :, 2] - other * mean) / (np.sqrt(variance) * deviation)
    return np.where(outside, -np.inf, score)


def _box(values: Grey) -> Grey:
    return np.asarray(cv2.boxFilter(values, -1, (_WINDOW, _WINDOW), borderType=cv2.BORDER_REFLECT_101))


def _plane_warp(camera: Camera, other: Camera) -> tuple[Array, Array]:
    """(a, b): the homography from `camera`'s pixels to `other`'s over the plane z = 1 / w is a + w * b (3, 3).

    Pixels here have whole numbers at their centres, as OpenCV's warps do.
    """
    other_from_camera = other.cam_from_world @ camera.world_from_cam
    back = np.linalg.inv(_intrinsics(camera))
    translation = np.zeros((3, 3))
    translation[:, 2] = other_from_camera[:3, 3]
    forth = _intrinsics(other)
    return forth @ other_from_camera[:3, :3] @ back, forth @ translation @ back


def _intrinsics(camera: Camera) -> Array:
    return np.array([[camera.fx, 0, camera.cx - 0.5], [0, camera.fy, camera.cy - 0.5], [0, 0, 1]])


def _smooth(cost: Volume) -> Volume:
    """Semi-global matching: the mean of the path costs that reach each pixel from the left, right, top and bottom."""
    total = np.zeros_like(cost)
    for axis in (0, 1):
        lines, sums = np.moveaxis(cost, axis, 0), np.moveaxis(total, axis, 0)
        for order in (range(len(lines)), range(len(lines) - 1, -1, -1)):
            path = np.zeros_like(lines[0])
            for line in order:
                path = _step_path(path, lines[line])
                sums[line] += path
    return total / 4


def _step_path(before: Volume, cost: Volume) -> Volume:
    """One step of semi-global matching along lines (n, planes), less the least cost before, which keeps it bounded."""
    least = before.min(1, keepdims=True)
    path: Volume = np.minimum(before, least + _LARGE_STEP)
    np.minimum(path[:, 1:], before[:, :-1] + _SMALL_STEP, out=path[:, 1:])
    np.minimum(path[:, :-1], before[:, 1:] + _SMALL_STEP, out=path[:, :-1])
    path += cost
    path -= least
    return path
