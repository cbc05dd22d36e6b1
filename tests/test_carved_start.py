"""A surface's beginning on what carving found, against a ball."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_surface_fit import BOX, CELLS, MIDDLE, RADIUS, cameras, pictures
from torch.nn.functional import normalize

from loupe.carved_start import CarvedStart, carved_distance
from loupe.cloud import Cloud
from loupe.errors import InputError
from loupe.fields.sdf import distance_and_normal
from loupe.fields.surface import SurfaceConfig
from loupe.images import to_uint8
from loupe.method import Segment, Setting
from loupe.occupancy import Occupancy
from loupe.surface_fit import SurfaceFit, SurfaceFitConfig

VOXEL = 1.2 / CELLS
GRID = {"levels": 3, "channels": 2, "table": 16384, "base": 8, "finest": 24}
FIELD = {"hash": {"grid": GRID, "hidden": 32}, "heads": {"hidden": 32, "layers": 2}, "appearance": GRID}
FIT = {"begin": 150, "steps": 1, "rays": 16, "network_rate": 5e-3}


def middles() -> torch.Tensor:
    """Of the voxels, in the world (x, y, z, 3)."""
    axis = (torch.arange(CELLS) + 0.5) / CELLS
    return BOX.to_world(torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)).reshape(
        CELLS, CELLS, CELLS, 3
    )


def from_ball(points: torch.Tensor) -> torch.Tensor:
    return (points - torch.from_numpy(MIDDLE).float()).norm(dim=-1) - RADIUS


def carved_ball() -> Occupancy:
    return Occupancy(from_ball(middles()) < 0)


def colour(points: torch.Tensor) -> torch.Tensor:
    return 0.5 + 0.4 * (points - torch.from_numpy(MIDDLE).float()) / RADIUS


def ball_cloud() -> Cloud:
    directions = np.random.default_rng(0).normal(size=(3000, 3))
    xyz = (MIDDLE + RADIUS * directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)
    return Cloud(xyz, to_uint8(colour(torch.from_numpy(xyz)).numpy()))


def carved_setting(folder: Path) -> Setting:
    ball_cloud().save(folder / "points.ply")
    return replace(pictures(folder), occupancy=carved_ball(), cloud=folder / "points.ply")


def test_the_distance_is_that_of_the_ball() -> None:
    found, true = carved_distance(BOX, carved_ball()), from_ball(middles())
    assert ((found > 0) == (true > 0)).all()
    assert (found - true).abs().max() < VOXEL
    assert (found - true).mean().abs() < VOXEL / 4


def test_drawn_distances_belong_to_their_points() -> None:
    seen_by = list(cameras(5))
    start = CarvedStart(BOX, carved_ball(), ball_cloud(), seen_by)
    batch = start.draw(2000, torch.Generator().manual_seed(0), "cpu")
    # At the box's faces nothing is known of what is beyond.
    inside = ((batch.points - torch.from_numpy(MIDDLE).float()).abs() < 0.6 - VOXEL).all(1)
    assert (batch.distances - from_ball(batch.points))[inside].abs().max() < VOXEL
    assert (batch.colours - colour(batch.surface)).abs().max() < 1 / 255
    # Each direction leads from one of the cameras to its point.
    eyes = torch.tensor(np.stack([camera.center for camera in seen_by])).float()
    towards = normalize(batch.surface[:, None] - eyes, dim=-1)
    assert ((towards * batch.directions[:, None]).sum(-1).amax(1) > 1 - 1e-5).all()
    assert torch.allclose(batch.directions.norm(dim=1), torch.ones(2000))


def descend(surface: SurfaceFit, segment: Segment) -> None:
    optimizer = surface.optimizers(segment)["surface"]
    for step in range(segment.steps):
        batch = surface.batch(segment, step, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        sum(surface.losses(batch, segment)["surface"].values()).backward()
        optimizer.step()


def test_points_alone_teach_the_ball_and_its_colours(tmp_path: Path) -> None:
    setting = carved_setting(tmp_path)
    torch.manual_seed(0)
    surface = SurfaceFit(setting, "full", SurfaceFitConfig.model_validate(FIT), SurfaceConfig.model_validate(FIELD))
    descend(surface, surface.segments()[0])
    points = torch.from_numpy(ball_cloud().xyz)
    distance, features, gradient = distance_and_normal(surface.field.eval().shape, points)
    outwards = (points - torch.from_numpy(MIDDLE).float()) / RADIUS
    with torch.no_grad():
        shown = surface.field.shown("colour", points, -outwards, features, gradient)
    assert distance.abs().mean() < VOXEL / 2
    assert (normalize(gradient, dim=1) * outwards).sum(1).mean() > 0.95
    assert (shown - colour(points)).abs().mean() < 0.03


def test_without_points_it_says_so(tmp_path: Path) -> None:
    setting = carved_setting(tmp_path)
    Cloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)).save(tmp_path / "none.ply")
    for cloud, says in ((None, "no points lie beside"), (tmp_path / "none.ply", "no surface to begin with")):
        surface = SurfaceFit(
            replace(setting, cloud=cloud),
            "full",
            SurfaceFitConfig.model_validate(FIT),
            SurfaceConfig.model_validate(FIELD),
        )
        with pytest.raises(InputError, match=says):
            surface.batch(surface.segments()[0], 0, torch.Generator())
