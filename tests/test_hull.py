"""The visual hull against every voxel asked by itself, and against a ball, whose outlines are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from loupe.camera import Array, Camera
from loupe.hull import Grid, Silhouette, Votes, carve_hull, dissenters

SIZE = (96, 72)


def camera(position: Array, target: Array, focal: float = 90.0) -> Camera:
    """At `position`, looking at `target`, with world y about down."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross([0.0, 1.0, 0.1], forward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ position
    return Camera(*SIZE, focal, focal * 1.1, SIZE[0] / 2 + 3, SIZE[1] / 2 - 2, pose)


def ring(count: int, distance: float = 3.0) -> list[Camera]:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    places = [distance * np.array([np.cos(a), 0.3 * np.sin(3 * a), np.sin(a)]) for a in angles]
    return [camera(place, np.zeros(3)) for place in places]


def ball(one: Camera, radius: float) -> Grid:
    """Its outline about the origin, exact in the middle of every pixel."""
    x, y = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    rays = one.unproject(np.stack([x, y], -1).reshape(-1, 2), np.ones(x.size)) - one.center
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    return (np.linalg.norm(np.cross(rays, one.center), axis=1) < radius).reshape(SIZE[::-1])


def asked_one_by_one(views: list[Silhouette], low: Array, voxel: Array, shape: tuple[int, ...], votes: Votes) -> Grid:
    alive = np.zeros(shape, bool)
    for cell in np.ndindex(shape):
        middle = low + (np.array(cell) + 0.5) * voxel
        seen = inside = 0
        for mask, one in views:
            pixel, depth = one.project(middle[None])
            if depth[0] > 0 and (pixel[0] >= 0).all() and (pixel[0] < SIZE).all():
                seen += 1
                inside += mask[int(pixel[0, 1]), int(pixel[0, 0])]
        alive[cell] = seen >= votes.least and 100 * inside >= votes.agree * seen
    return alive


@pytest.mark.parametrize("votes", [Votes(2, 100), Votes(3, 70), Votes(1, 40), Votes(4, 0)])
@pytest.mark.parametrize("seed", range(3))
def test_the_voxels_are_those_of_asking_every_one(votes: Votes, seed: int) -> None:
    """Cameras anywhere, inside the box too; blotchy masks; a grid that is no power of two."""
    random = np.random.default_rng(seed)
    views = []
    for _ in range(5):
        blots = cv2.resize(random.normal(size=(9, 12)), SIZE, interpolation=cv2.INTER_CUBIC) > -0.4
        place, target = random.normal(0, 1.2, 3), random.normal(0, 0.4, 3)
        views.append(Silhouette(blots, camera(place, target, random.uniform(40, 120))))
    low, voxel, shape = np.array([-1.0, -0.8, -1.1]), np.array([0.11, 0.1, 0.12]), (19, 15, 20)
    made = carve_hull(views, low, voxel, shape, votes)
    np.testing.assert_array_equal(made, asked_one_by_one(views, low, voxel, shape, votes))
    assert 0 < made.sum() < made.size


def test_a_ball_is_held_and_little_more() -> None:
    views = [Silhouette(ball(one, 0.5), one) for one in ring(16)]
    count = 48
    made = carve_hull(views, np.full(3, -0.8), np.full(3, 1.6 / count), (count,) * 3, Votes(2, 100))
    axis = (np.arange(count) + 0.5) / count * 1.6 - 0.8
    distance = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0)
    assert made[distance < 0.46].all()  # less a pixel, which is 1 / 30 there
    assert not made[distance > 0.75].any()
    assert made.sum() < 1.35 * (distance < 0.5).sum()


def test_one_bad_mask_is_outvoted() -> None:
    views = [Silhouette(ball(one, 0.5), one) for one in ring(10)]
    views[3] = views[3]._replace(mask=np.zeros_like(views[3].mask))
    strict, tolerant = (
        carve_hull(views, np.full(3, -0.8), np.full(3, 0.05), (32,) * 3, Votes(2, agree)) for agree in (100, 90)
    )
    assert not strict.any()
    assert tolerant.sum() > 1000


def test_who_disagrees_is_told() -> None:
    views = [Silhouette(ball(one, 0.5), one) for one in ring(10)]
    views[3] = views[3]._replace(mask=np.zeros_like(views[3].mask))
    axis = np.linspace(-0.8, 0.8, 9)
    middles = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
    assert dissenters(views, middles) == (9, [3])
    assert dissenters(views, middles + 100)[0] == 0
