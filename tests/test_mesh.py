"""Surfaces from distances whose zero is known: balls and a torus."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from plyfile import PlyData
from torch import Tensor

from loupe.errors import InputError
from loupe.mesh import Distance, Mesh, distance_to, extract, points_on, surface_error
from loupe.space import Kind, Space

BOX = Space("bounded", (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))


def ball(radius: float, *center: float) -> Distance:
    return lambda points: (points - points.new_tensor(center or (0, 0, 0))).norm(dim=1) - radius


def torus(points: Tensor) -> Tensor:
    """The tube is 0.2 thick at 0.6 from the axis z."""
    return torch.stack([points[:, :2].norm(dim=1) - 0.6, points[:, 2]], 1).norm(dim=1) - 0.2


def turned() -> Space:
    """An oblong box, turned about a slanted axis and moved."""
    axis = torch.tensor([0.4, -0.7, 0.2], dtype=torch.float64)
    cross = torch.linalg.cross(torch.eye(3, dtype=torch.float64), axis.expand(3, 3))
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.matrix_exp(cross)
    pose[:3, 3] = torch.tensor([0.3, -2.0, 1.1])
    rows = tuple(tuple(row) for row in pose.tolist())
    return Space("bounded", (-0.6, -0.9, -1.5), (1.2, 1.1, 1.3), rows)


def uses_of_edges(faces: NDArray[np.int32]) -> NDArray[np.int64]:
    """In how many faces each edge lies that lies in any."""
    edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1)
    return np.unique(edges, axis=0, return_counts=True)[1]


def euler_characteristic(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> int:
    return len(vertices) - len(uses_of_edges(faces)) + len(faces)


def volume(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> float:
    """Enclosed by faces that are oriented outwards; its negative if they are oriented inwards."""
    return float(np.linalg.det(vertices[faces].astype(float)).sum() / 6)


@pytest.mark.parametrize("radius", [0.5, 0.487])
def test_a_ball(radius: float) -> None:
    """At 0.5 the surface goes through points of the grid."""
    vertices, faces = extract(ball(radius), BOX, 48)
    assert (vertices.dtype, faces.dtype) == (np.float32, np.int32)
    assert np.abs(np.linalg.norm(vertices, axis=1) - radius).max() < 0.01 * radius
    corners = vertices[faces].astype(float)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((normals * corners.mean(1)).sum(1) > 0).all()
    assert abs(volume(vertices, faces) / (4 / 3 * np.pi * radius**3) - 1) < 0.01
    assert (uses_of_edges(faces) == 2).all()
    assert euler_characteristic(vertices, faces) == 2


def test_a_torus() -> None:
    vertices, faces = extract(torus, BOX, 48)
    assert (uses_of_edges(faces) == 2).all()
    assert euler_characteristic(vertices, faces) == 0
    assert abs(volume(vertices, faces) / (2 * np.pi**2 * 0.6 * 0.2**2) - 1) < 0.03
    assert torus(torch.from_numpy(vertices)).abs().max() < 0.01


def test_a_turned_box_has_its_surface_in_the_world() -> None:
    space = turned()
    center = space.to_world(torch.tensor([[0.45, 0.55, 0.5]]))[0].tolist()
    vertices, faces = extract(ball(0.7, *center), space, 48)
    away = vertices - np.float32(center)
    assert np.abs(np.linalg.norm(away, axis=1) - 0.7).max() < 0.005
    assert abs(volume(away, faces) / (4 / 3 * np.pi * 0.7**3) - 1) < 0.01
    assert euler_characteristic(vertices, faces) == 2


@pytest.mark.parametrize("shift", [0.0, 0.013, 0.029, 0.041])
def test_blocks_find_what_asking_everywhere_finds(shift: float) -> None:
    from skimage.measure import marching_cubes

    space, asked = Space("bounded", (-1.0, -0.8, -0.5), (1.0, 0.8, 0.5)), 0
    parts = [ball(0.3, -0.52 + shift, 0.1, 0.0), ball(0.23, 0.4, shift, -0.1), ball(0.01, 0.8, 0.5, shift)]

    def distance(points: Tensor) -> Tensor:
        nonlocal asked
        asked += len(points)
        return torch.stack([part(points) for part in parts]).amin(0)

    vertices, faces = extract(distance, space, 160)
    counts = (161, 129, 81)
    assert asked < 0.35 * np.prod(counts)
    everywhere = torch.cartesian_prod(*(torch.arange(count) / (count - 1) for count in counts))
    dense = distance(space.to_world(everywhere)).reshape(counts).numpy()
    expected = marching_cubes(dense, 0.0, allow_degenerate=False)
    assert np.array_equal(faces, expected[1])
    np.testing.assert_allclose(vertices, expected[0] / 80 - (1, 0.8, 0.5), atol=1e-6)


@pytest.mark.parametrize("beyond", [0.1, 0.4, 0.8])
def test_a_surface_between_two_blocks(beyond: float) -> None:
    """A plane crosses a block's diagonal between its last grid point and the next block's first one (cells 15 to 16):
    as far from the block's middle as can be without a crossing inside."""
    offset = 3 * ((15 + beyond) / 32 - 1)
    vertices, _ = extract(lambda points: (points.sum(1) - offset) / 3**0.5, BOX, 64)
    near = vertices[(np.abs(vertices - offset / 3) < 2 / 32).all(1)]
    assert len(near) > 3
    np.testing.assert_allclose(near.sum(1), offset, atol=1e-5)


def test_only_what_is_occupied() -> None:
    vertices, faces = extract(ball(0.5), BOX, 48)
    kept, fewer = extract(ball(0.5), BOX, 48, lambda unit: unit[:, 2] < 0.6)
    assert kept[:, 2].max() < 0.2
    assert kept[:, 2].max() > 0.2 - 3 / 48
    assert len(np.unique(fewer)) == len(kept)
    whole = vertices[faces[(vertices[faces][:, :, 2] < 0.2).all(1)]]
    assert np.array_equal(kept[fewer], whole)
    assert euler_characteristic(kept, fewer) == 1  # a disc's


@pytest.mark.parametrize(
    ("distance", "line"),
    [
        (ball(0.5, 0, 0, 3), "all of the space's box is outside"),
        (lambda points: points.abs().sum(1), "all of the space's box is outside"),
        (ball(5), "all of the space's box is inside"),
        (lambda points: points[:, 0] / 0, "not finite"),
    ],
)
def test_no_surface(distance: Distance, line: str) -> None:
    with pytest.raises(InputError, match=line):
        extract(distance, BOX, 20)


def test_no_surface_where_nothing_is_occupied() -> None:
    with pytest.raises(InputError, match="not occupied"):
        extract(ball(0.5), BOX, 20, lambda unit: (unit - 0.5).norm(dim=1) < 0.2)


def test_no_mesh_of_a_space_that_reaches_to_infinity() -> None:
    kind: Kind = "forward"
    with pytest.raises(InputError, match="bounded space"):
        extract(ball(0.5), Space(kind, (-1, -1, -1), (1, 1, 1)), 20)


def test_other_programs_read_the_mesh(tmp_path: Path) -> None:
    vertices, faces = extract(torus, BOX, 20)
    colours = np.random.default_rng(0).integers(0, 256, vertices.shape).astype(np.uint8)
    Mesh(vertices, faces, colours).save(tmp_path / "mesh.ply")
    read = PlyData.read(tmp_path / "mesh.ply")
    assert (read.byte_order, read.text) == ("<", False)
    assert np.array_equal(np.stack([read["vertex"][axis] for axis in "xyz"], 1), vertices)
    assert np.array_equal(np.stack([read["vertex"][name] for name in ("red", "green", "blue")], 1), colours)
    assert np.array_equal(np.stack(list(read["face"]["vertex_indices"])), faces)


def points_of_a_ball(radius: float, count: int = 20_000) -> NDArray[np.float32]:
    at = np.random.default_rng(1).normal(size=(count, 3))
    return np.asarray(radius * at / np.linalg.norm(at, axis=1, keepdims=True), np.float32)


def mesh_of(distance: Distance, occupied: Callable[[Tensor], Tensor] | None = None) -> Mesh:
    vertices, faces = extract(distance, BOX, 64, occupied)
    return Mesh(vertices, faces, np.zeros(vertices.shape, np.uint8))


def test_points_on_triangles_are_spread_by_area() -> None:
    """A square of two unequal parts, and a sliver without area."""
    vertices = np.array([[0, 0, 2], [1, 0, 2], [1, 1, 2], [0, 1, 2], [0.25, 0, 2]], np.float32)
    faces = np.array([[0, 4, 3], [4, 1, 2], [4, 2, 3], [0, 4, 1]], np.int32)
    points = points_on(vertices, faces, 40_000)
    assert (points[:, 2] == 2).all()
    counts = np.histogram2d(points[:, 0], points[:, 1], bins=4, range=[[0, 1]] * 2)[0]
    np.testing.assert_allclose(counts, 2500, rtol=0.08)


def test_the_distance_to_triangles() -> None:
    """To one triangle: over its face, a side and a corner; to a mesh: as from all of its triangles."""
    vertices = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0]], np.float32)
    points = torch.tensor([[0.5, 0.5, 0.3], [1.0, -3.0, 4.0], [2.0, 2.0, 0.0], [5.0, 0.0, -4.0], [-3.0, -4.0, 0.0]])
    expected = torch.tensor([0.3, 5.0, 2**0.5, 5.0, 5.0])
    sliver = np.array([[0, 1, 1]], np.int32)
    torch.testing.assert_close(distance_to(vertices, np.array([[0, 1, 2]], np.int32))(points), expected)
    torch.testing.assert_close(distance_to(vertices, np.array([[0, 2, 1]], np.int32))(points), expected)
    torch.testing.assert_close(distance_to(vertices, sliver)(points)[:2], torch.tensor([0.34**0.5, 5.0]))
    mesh = extract(torus, BOX, 14)
    somewhere = 2 * torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) - 1
    single = [distance_to(mesh[0], face[None])(somewhere) for face in mesh[1]]
    torch.testing.assert_close(distance_to(*mesh)(somewhere), torch.stack(single).amin(0))


@pytest.mark.parametrize("radius", [0.4, 0.6])
def test_the_error_of_a_whole_ball(radius: float) -> None:
    """Smaller or larger by 0.1 on all sides; the truth's own points by its distance alone."""
    truth = points_on(*extract(ball(0.5), BOX, 64), 20_000)
    error = surface_error(mesh_of(ball(radius)), ball(0.5), truth)
    for spread in error:
        assert spread == pytest.approx((0.1, 0.1, 0.1), abs=2e-3)
    assert error.chamfer == pytest.approx(0.1, abs=1e-3)
    exact = surface_error(mesh_of(ball(0.5)), ball(0.5), truth)
    assert exact.accuracy.largest < 1e-3
    assert exact.completeness.largest < 1e-6


def test_what_is_missing_counts_one_way_and_what_is_too_much_the_other() -> None:
    """A ball without its cap, a few degrees of it at the rim cut away with the cells."""
    radius, cap = 0.5, 0.125
    parts = mesh_of(ball(radius), lambda unit: unit[:, 2] < 0.5 + (radius - cap) / 2)
    error = surface_error(parts, ball(radius), points_of_a_ball(radius))
    assert error.accuracy.largest < 1e-3
    rim = np.arccos(1 - cap / radius)
    away = np.linspace(0, rim, 1000)
    # Points of the cap, of share sin(away) / 2, are a chord away from its rim.
    expected = np.trapezoid(radius * np.sin((rim - away) / 2) * np.sin(away), away)
    assert error.completeness.mean == pytest.approx(expected, rel=0.15)
    assert error.completeness.high == pytest.approx(2 * radius * np.sin((rim - np.arccos(0.9)) / 2), abs=0.02)
    assert error.completeness.largest == pytest.approx(2 * radius * np.sin(rim / 2), abs=0.02)
    more = mesh_of(lambda points: torch.minimum(ball(radius)(points), ball(0.1, 0.8, 0.8, 0.8)(points)))
    error = surface_error(more, ball(radius), points_of_a_ball(radius))
    share = 0.1**2 / (0.1**2 + radius**2)
    assert error.completeness.largest < 1e-3
    assert error.accuracy.mean == pytest.approx(share * (0.8 * 3**0.5 - radius), rel=0.1)
