"""DVGO v2: its field against its formulas, its masks against what is rendered, and a short training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import WINDOWS, room_camera, room_photo

from loupe import field_views, volume
from loupe.errors import InputError
from loupe.fields.radiance import FieldConfig, RadianceField, lattice_shape, plane_shift
from loupe.method import Recipe, Setting, Window
from loupe.methods import METHODS
from loupe.methods.voxel_grid import VoxelGrid
from loupe.occupancy import Occupancy
from loupe.rays import Rays, camera_rays
from loupe.space import Space, forward_space
from loupe.training import fit

FIELD = FieldConfig(channels=4, hidden=16, view_frequencies=1)
UNIT = Space("bounded", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def recipe(**numbers: Any) -> dict[str, Any]:
    """A toy recipe for the room."""
    fit = {"rays": 512, "refresh": 40, "grid_rate": 0.3, "network_rate": 3e-3, "decay": 1000, "worth": 0.01, **numbers}
    coarse = {"voxels": 8000, "steps": 60, "opacity": 1e-3, "cull": 1e-4}
    stages = [{"voxels": 15_000, "steps": 80}, {"voxels": 30_000, "steps": 140}]
    flat = {"stages": [{"voxels": 4000, "steps": 2, "planes": 8}]}
    field = {"channels": 4, "hidden": 16, "view_frequencies": 1}
    return {
        "encoder": {
            "bounded": {"field": field, "fit": {"coarse": coarse, "stages": stages, **fit}},
            "forward": {"field": field, "fit": flat},
        },
        "joint": {"bounded": {"stages": [{"voxels": 60_000, "steps": 20}], **fit}, "forward": flat},
    }


def random_field(seed: int = 0, cells: int = 12) -> RadianceField:
    """A field of random densities, empty in places."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    occupied = torch.rand(cells, cells, cells, generator=generator) < 0.5
    field = RadianceField(UNIT, occupied, FIELD, 1 / cells)
    field.make_transparent(0.05)
    with torch.no_grad():
        field.table.normal_(generator=generator).mul_(2)
    return field


def rays_at_unit_box(count: int) -> Rays:
    generator = torch.Generator().manual_seed(1)
    origins = torch.rand(count, 3, generator=generator) * 2 - 0.5
    towards = torch.rand(count, 3, generator=generator) - origins
    return Rays(origins, torch.nn.functional.normalize(towards, dim=-1))


def test_the_untrained_field_has_the_opacity_asked_for() -> None:
    field = RadianceField(UNIT, torch.ones(8, 8, 8, dtype=torch.bool), FIELD, 1 / 8)
    field.make_transparent(0.02)
    rays = Rays(torch.tensor([[-1.0, 0.51, 0.52]]), torch.tensor([[1.0, 0.0, 0.0]]))
    # One grain through is 2 %: the whole box, 8 grains, lets 0.98^8 pass.
    assert field.hits(rays).left.item() == pytest.approx(0.98**8, rel=0.02)


def test_every_plane_of_an_untrained_forward_field_weighs_the_same() -> None:
    cameras = [room_camera(angle, 0.0) for angle in (-0.1, 0.0, 0.1)]
    space = forward_space(cameras, near=1.5)
    planes = 16
    field = RadianceField(
        space, torch.ones(7, 6, planes - 1, dtype=torch.bool), FIELD.model_copy(update={"step": 1.0}), 1
    )
    field.make_transparent(0.5)
    rays = camera_rays(cameras[1].resized(6, 5))
    hits = field.hits(rays)
    counts = torch.bincount(hits.ray, minlength=30)
    assert (counts == planes).all()
    torch.testing.assert_close(hits.weight, torch.full_like(hits.weight, 1 / planes), atol=2e-3, rtol=0)
    torch.testing.assert_close(hits.t.view(30, planes)[0], torch.linspace(0, 1, planes))


def test_plane_shift_is_that_of_its_opacities() -> None:
    shift = plane_shift(32, 8.0).double()
    alpha = 1 - (1 + shift.exp()) ** -8
    torch.testing.assert_close(alpha, 1 / (32 - torch.arange(32.0)).double(), atol=2e-4, rtol=0)


def test_a_random_batch_of_rays_is_the_same_rays_in_order() -> None:
    """A wrong ray index crashes nothing; here it shows."""
    field, rays = random_field(), rays_at_unit_box(200)
    order = torch.randperm(200)
    hits, mixed = field.hits(rays), field.hits(Rays(rays.origins[order], rays.directions[order]))
    there = volume.composite(hits.weight, field.colours(hits, rays.directions), hits.ray, 200)[order]
    here = volume.composite(mixed.weight, field.colours(mixed, rays.directions[order]), mixed.ray, 200)
    torch.testing.assert_close(here, there)
    torch.testing.assert_close(mixed.left, hits.left[order])


def test_rendering_is_that_of_a_dense_loop() -> None:
    """Every step of every ray, one after another, with no skipping: only what is culled may differ."""
    field, rays = random_field(3), rays_at_unit_box(40)
    hits = field.hits(rays)
    colours = volume.composite(hits.weight, field.colours(hits, rays.directions), hits.ray, 40)
    cast, stride = UNIT.cast(rays), field.stride
    for index in range(40):
        through, expected = 1.0, torch.zeros(3)
        t = torch.arange(0, 3.0, stride)
        for value in t[(t >= cast.enter[index]) & (t <= cast.leave[index])]:
            point = (rays.origins[index] + value * rays.directions[index])[None]
            cell = field.lattice.find(point)
            if cell < 0:
                continue
            places = field.lattice.places(point, cell)
            row = (field.table.detach()[places.rows.long()] * places.weights[..., None]).sum(1)
            alpha = (1 - (1 + (row[:, 0] + field.shift).exp()) ** -field.interval).item()
            assert field.shading is not None
            seen = field.shading(row[:, 1:], rays.directions[index][None], torch.zeros(1, dtype=torch.long))
            expected += through * alpha * torch.sigmoid(seen[0].detach())
            through *= 1 - alpha
        torch.testing.assert_close(colours[index].detach(), expected, atol=3e-3, rtol=0)


def test_growing_keeps_the_picture() -> None:
    """Twice the nodes, the same function: steps are half as long, so only the quadrature differs."""
    occupied = torch.ones(6, 6, 6, dtype=torch.bool)
    field = RadianceField(UNIT, occupied, FIELD, 1 / 6)
    field.make_transparent(0.05)
    with torch.no_grad():
        field.table.normal_(generator=torch.Generator().manual_seed(5))
    finer = field.resized((13, 13, 13))
    rays = rays_at_unit_box(100)
    pictures = []
    for one in (field, finer):
        hits = one.hits(rays)
        pictures.append(volume.composite(hits.weight, one.colours(hits, rays.directions), hits.ray, 100))
    torch.testing.assert_close(pictures[1], pictures[0], atol=0.03, rtol=0)
    assert finer.edge == pytest.approx(field.edge / 2)


def test_resized_to_its_own_shape_is_the_same_field() -> None:
    field = random_field(6)
    again = field.resized(field.lattice.shape)
    torch.testing.assert_close(again.table, field.table)
    assert torch.equal(again.lattice.nodes, field.lattice.nodes)


def test_state_travels_between_shapes() -> None:
    field = random_field(7, cells=9)
    alive = torch.rand(len(field.lattice.cells)) < 0.7
    field.keep(alive)
    back = RadianceField.from_state({k: v.clone() for k, v in field.state().items()}, UNIT, FIELD, "cpu")
    rays = rays_at_unit_box(60)
    first, second = field.hits(rays), back.hits(rays)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(field.colours(first, rays.directions), back.colours(second, rays.directions))


def test_an_occupancy_that_covers_the_density_changes_nothing() -> None:
    """Cells whose every corner is as good as transparent can go without a trace."""
    field = RadianceField(UNIT, torch.ones(10, 10, 10, dtype=torch.bool), FIELD, 0.1)
    field.make_transparent(1e-3)
    blob = ((field.lattice.positions() - 0.5).norm(dim=-1) < 0.25).float()
    with torch.no_grad():
        field.table[:, 0] = -30 + 38 * blob
    rays = rays_at_unit_box(300)
    before = field.hits(rays)
    field.keep((blob[field.lattice.corners.long()] > 0).any(-1))
    after = field.hits(rays)
    assert after.asked < 0.5 * before.asked
    torch.testing.assert_close(after.left, before.left, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.weight, before.weight)


@pytest.fixture(scope="module")
def trained(room: Setting, tmp_path_factory: pytest.TempPathFactory) -> VoxelGrid:
    """The encoder phase on the room."""
    torch.manual_seed(0)
    method = METHODS["voxel_grid"]("encoder", Recipe(recipe()), room)
    fit(method, seed=0, resume=tmp_path_factory.mktemp("resume"), configuration={}, report=lambda *_: None)
    return method


def psnr(method: VoxelGrid, room: Setting, level: Any) -> float:
    errors = []
    for name in room.scene.test:
        camera = room.scene.camera(name, level)
        photo = torch.from_numpy(room_photo(camera)) / 255
        errors.append((method.render(camera, 0.0).colour - photo).square().mean())
    return -10 * torch.stack(errors).mean().log10().item()


def test_a_short_training_finds_the_room(trained: VoxelGrid, room: Setting) -> None:
    photos = torch.stack([torch.from_numpy(room_photo(room.scene.camera(n, "low"))) / 255 for n in room.scene.test])
    mean_colour = -10 * (photos - photos.mean((0, 1, 2))).square().mean().log10().item()
    assert psnr(trained, room, "low") > mean_colour + 12
    assert trained.progress()["skipped"] > 0.2


def test_masks_take_away_nothing_that_is_rendered(trained: VoxelGrid, room: Setting) -> None:
    """With every cell of the trained field occupied again, the pictures stay."""
    state = {name: value.clone() for name, value in trained.state().items()}
    state["alive"] = torch.ones_like(state["alive"])
    whole = METHODS["voxel_grid"]("encoder", Recipe(recipe()), room)
    whole.load_state(trained.state() | state)
    camera = room.scene.camera(room.scene.train[0], "low")
    masked, unmasked = trained.render(camera, 0.0).colour, whole.render(camera, 0.0).colour
    assert (masked - unmasked).abs().mean() < 2e-3


def test_depth_is_where_the_room_is(trained: VoxelGrid, room: Setting) -> None:
    from conftest import room_points

    camera = room.scene.camera(room.scene.test[0], "low")
    picture = trained.render(camera, 0.0)
    exact = torch.from_numpy(camera.project(room_points(camera))[1]).view(camera.height, camera.width)
    assert (picture.depth - exact).abs().median() < 0.12
    assert picture.opacity.mean() > 0.97


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_windows_are_parts_of_the_whole(trained: VoxelGrid, room: Setting, window: Window) -> None:
    camera = room.scene.camera(room.scene.test[0], "full")
    whole = trained.render(camera, 0.0)
    part = slice(window.y, window.y + window.height), slice(window.x, window.x + window.width)
    for made, of in zip(trained.render(camera, 0.0, window), whole, strict=True):
        torch.testing.assert_close(made, of[part], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_rays_a_few_at_a_time_make_the_picture_of_the_whole(
    trained: VoxelGrid, room: Setting, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    camera = room.scene.camera(room.scene.test[0], "low")
    assert camera.width * camera.height < field_views._CHUNK
    whole = trained.render(camera, 0.0)
    monkeypatch.setattr(field_views, "_CHUNK", chunk)
    for one, other in zip(trained.render(camera, 0.0), whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_the_joint_phase_starts_where_the_encoder_ended(trained: VoxelGrid, room: Setting) -> None:
    joint = METHODS["voxel_grid"]("joint", Recipe(recipe()), room)
    joint.start_from(trained.state())
    assert joint.field.lattice.shape == lattice_shape(joint.field.space, 60_000, None)
    assert psnr(joint, room, "full") > psnr(trained, room, "full") - 1.5


def test_a_graft_is_nothing_for_a_method_without_a_decoder(trained: VoxelGrid, room: Setting) -> None:
    joint = METHODS["voxel_grid"]("joint", Recipe(recipe()), room)
    with pytest.raises(InputError, match="voxel_grid has no decoder"):
        joint.start_from({**trained.state(), "decoder.weight": torch.zeros(1)})


def test_a_scene_that_moves_is_refused(room: Setting) -> None:
    views = [dataclasses.replace(view, frame=number % 2) for number, view in enumerate(room.scene.views)]
    moving = dataclasses.replace(room, scene=dataclasses.replace(room.scene, views=views))
    with pytest.raises(InputError, match="the scene moves, but this method knows a single moment only"):
        METHODS["voxel_grid"]("encoder", Recipe(recipe()), moving)


def test_an_empty_occupancy_is_refused(room: Setting) -> None:
    empty = dataclasses.replace(room, occupancy=Occupancy(torch.zeros(8, 8, 8, dtype=torch.bool)))
    with pytest.raises(InputError, match="occupancy is empty"):
        METHODS["voxel_grid"]("encoder", Recipe(recipe()), empty)


def test_stages_must_suit_the_space(room: Setting) -> None:
    with pytest.raises(InputError, match="planes"):
        METHODS["voxel_grid"](
            "encoder", Recipe(recipe(coarse=None, stages=[{"voxels": 100, "steps": 1, "planes": 4}])), room
        )


def test_a_cull_that_leaves_nothing_to_learn_is_refused(room: Setting) -> None:
    with pytest.raises(InputError, match=r"cull 0\.0001 leaves out the untrained field"):
        METHODS["voxel_grid"]("encoder", Recipe(recipe(coarse={"steps": 1, "opacity": 1e-4, "cull": 1e-4})), room)


def test_an_unknown_key_is_named(room: Setting) -> None:
    with pytest.raises(InputError, match=r"encoder: bounded\.fit\.speed: unknown key"):
        METHODS["voxel_grid"]("encoder", Recipe(recipe(speed=3)), room)


def test_the_recipes_that_come_along_are_valid(room: Setting) -> None:
    import yaml

    for path in Path("configs/recipes").glob("voxel_grid*.yaml"):
        content = yaml.safe_load(path.read_text(encoding="utf8"))
        METHODS["voxel_grid"]("joint", Recipe(content), room)
