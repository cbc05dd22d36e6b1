"""Surfaces as triangle meshes: everything in the demo is a bent grid, or several of them joined.

Conventions: vertices (N, 3) in scene units, z up; faces (M, 3) are indices into them; uv (N, 2) lies in [0, 1]^2 with u
to the right and v upwards in the texture, so that v = 1 is the first row of its picture.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Shape(NamedTuple):
    """A triangle mesh with texture coordinates."""

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray


def join(shapes: list[Shape]) -> Shape:
    """One mesh from many."""
    starts = np.cumsum([0] + [len(s.vertices) for s in shapes[:-1]])
    faces = np.concatenate([s.faces + start for s, start in zip(shapes, starts, strict=True)])
    return Shape(np.concatenate([s.vertices for s in shapes]), faces, np.concatenate([s.uv for s in shapes]))


def turn(axis: str, degrees: float) -> np.ndarray:
    """Rotation matrix (3, 3) about a coordinate axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def place(shape: Shape, at: tuple[float, float, float], rotation: np.ndarray | None = None) -> Shape:
    """The shape, turned about the origin first and then moved to `at`."""
    vertices = shape.vertices if rotation is None else shape.vertices @ rotation.T
    return shape._replace(vertices=vertices + np.asarray(at, float))


def grid(columns: int, rows: int, surface: Callable[[np.ndarray, np.ndarray], tuple]) -> Shape:
    """`columns` x `rows` cells bent into `surface(u, v) -> (x, y, z)`, which takes and returns arrays over [0, 1]^2."""
    v, u = np.meshgrid(np.linspace(0, 1, rows + 1), np.linspace(0, 1, columns + 1), indexing="ij")
    xyz = np.stack([np.broadcast_to(c, u.shape) for c in surface(u, v)], axis=-1)
    index = np.arange(u.size).reshape(u.shape)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)]).reshape(-1, 3)
    return Shape(xyz.reshape(-1, 3).astype(float), faces, np.stack([u, v], -1).reshape(-1, 2))


def plane(origin: tuple, edge_u: tuple, edge_v: tuple) -> Shape:
    """The parallelogram that starts at `origin` and is spanned by two edges."""
    o, eu, ev = (np.asarray(x, float) for x in (origin, edge_u, edge_v))
    return grid(1, 1, lambda u, v: tuple(o[i] + u * eu[i] + v * ev[i] for i in range(3)))


def box(width: float, depth: float, height: float) -> Shape:
    """A box that stands on the origin, centred in x and y; each side shows the whole texture, seen from outside."""
    w, d, h = width / 2, depth / 2, height
    sides = [
        ((-w, -d, 0), (2 * w, 0, 0), (0, 0, h)),
        ((w, -d, 0), (0, 2 * d, 0), (0, 0, h)),
        ((w, d, 0), (-2 * w, 0, 0), (0, 0, h)),
        ((-w, d, 0), (0, -2 * d, 0), (0, 0, h)),
        ((-w, -d, h), (2 * w, 0, 0), (0, 2 * d, 0)),
        ((-w, d, 0), (2 * w, 0, 0), (0, -2 * d, 0)),
    ]
    return join([plane(*side) for side in sides])


def lathe(profile: list[tuple[float, float]], columns: int = 96, rows: int = 96) -> Shape:
    """The outline [(radius, z), ...] turned about the z axis; u runs around (from the back), v along the outline."""
    points = np.asarray(profile, float)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])

    def surface(u, v):
        radius, z = (np.interp(v * length[-1], length, points[:, i]) for i in range(2))
        angle = 2 * np.pi * u + np.pi / 2
        return radius * np.cos(angle), radius * np.sin(angle), z

    return grid(columns, rows, surface)


def smooth_outline(knots: list[tuple[float, float]], count: int = 64) -> list[tuple[float, float]]:
    """A rounded outline for `lathe` through the given (radius, z) knots (Catmull-Rom)."""
    p = np.asarray([knots[0], *knots, knots[-1]], float)
    s = np.linspace(0, len(knots) - 1, count)[:, None]
    i = np.clip(s.astype(int)[:, 0], 0, len(knots) - 2)
    t = s - i[:, None]
    a, b, c, d = p[i], p[i + 1], p[i + 2], p[i + 3]
    curve = b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return [tuple(point) for point in curve]


def ball(radius: float) -> Shape:
    """A sphere that stands on the origin."""
    angle = np.linspace(0, np.pi, 64)
    return lathe([(radius * np.sin(a), radius * (1 - np.cos(a))) for a in angle])


def tube(start: tuple, end: tuple, radius: float, sag: float = 0.0) -> Shape:
    """A round rod from `start` to `end`, thinner towards its end; `sag` lowers its middle by that much."""
    a, b = np.asarray(start, float), np.asarray(end, float)
    along = (b - a) / np.linalg.norm(b - a)
    side = np.cross(along, [0.31, 0.87, 0.38])
    side /= np.linalg.norm(side)
    other = np.cross(along, side)

    def surface(u, v):
        r, angle = radius * (1 - 0.4 * v), 2 * np.pi * u
        ring = [r * (np.cos(angle) * side[i] + np.sin(angle) * other[i]) for i in range(3)]
        drop = (0, 0, 4 * sag * v * (1 - v))
        return tuple(a[i] + v * (b[i] - a[i]) + ring[i] - drop[i] for i in range(3))

    return grid(10, 12, surface)


def sweep(
    knots: np.ndarray, radii: list[tuple[float, float]], across: np.ndarray, columns: int = 48, rows: int = 96
) -> Shape:
    """A closed tube along the smooth curve through `knots` (n, 3), rounded off at both ends; u runs around, v along it.

    `radii` (n, 2) are the half axes of its section: along `across`, (3,) or (n, 3), and at right angles to it.
    """

    def smooth(values):
        return np.array(smooth_outline(list(values), rows + 1))[:, None]

    centre, half_axes = smooth(knots), smooth(radii)
    along = np.gradient(centre, axis=0)
    along /= np.linalg.norm(along, axis=-1, keepdims=True)
    side = smooth(np.broadcast_to(across, np.shape(knots)))
    side = side - (side * along).sum(-1, keepdims=True) * along
    side /= np.linalg.norm(side, axis=-1, keepdims=True)
    other = np.cross(along, side)

    def surface(u, v):
        cap = np.sqrt(1 - np.abs(2 * v - 1) ** 24)[..., None]
        angle = 2 * np.pi * u[..., None]
        ring = half_axes[..., :1] * np.cos(angle) * side + half_axes[..., 1:] * np.sin(angle) * other
        return tuple(np.moveaxis(centre + cap * ring, -1, 0))

    return grid(columns, rows, surface)


def leaf(length: float, width: float, bend: float, fold: float) -> Shape:
    """A pointed leaf that grows from the origin along +x.

    `bend` is the angle in radians by which it has curved down at its tip; `fold` lifts the edges (0 flat, 1 steep).
    """

    def surface(u, v):
        across = (2 * v - 1) * width / 2 * np.sin(np.pi * u**0.75) ** 0.9
        angle = bend * np.maximum(u, 1e-6)
        x = length * u * np.sinc(angle / np.pi)
        z = -length * u * (1 - np.cos(angle)) / angle if bend else 0 * u
        return x, across, z + fold * np.abs(across) + 0.02 * length * np.sin(9 * u) * (2 * v - 1)

    return grid(14, 6, surface)
