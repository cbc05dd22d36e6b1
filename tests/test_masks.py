"""What masks do between the photos and the losses: they cut the subject out, or say where to look.

A ball floats before clutter. One half of it is as white as the backdrop: where a field could hide a hole.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_method_contract import RECIPES, look_at

from loupe.camera import Camera
from loupe.errors import InputError
from loupe.images import Pixels, composite, write_image
from loupe.method import Method, Phase, Recipe, Setting
from loupe.methods import METHODS
from loupe.methods.voxel_grid import VoxelGrid
from loupe.occupancy import Occupancy
from loupe.patches import TrainingPatches
from loupe.photos import Photo
from loupe.pixels import TrainingPixels
from loupe.poses import SceneConfig, mask_use
from loupe.rays import camera_rays
from loupe.scene import MaskUse, Points, Scene, View
from loupe.space import Space
from loupe.tiles import LEVELS, Tiles, write_tiles
from loupe.training import fit

RADIUS, RATIO = 0.5, 2
BACKDROP = (255, 255, 255)


def ball(camera: Camera) -> tuple[Pixels, Pixels]:
    """The ball's picture and its mask, exactly; around it the picture is black."""
    origins, directions = (part.double().numpy() for part in camera_rays(camera))
    along = -(origins * directions).sum(1)
    gap = RADIUS**2 - (origins**2).sum(1) + along**2
    where = (origins + (along - np.sqrt(np.maximum(gap, 0)))[:, None] * directions) / RADIUS
    coloured = np.where(where[:, 1:2] < 0, 255.0, 110 + 100 * where)
    size = (camera.height, camera.width)
    mask = np.where(gap > 0, 255, 0).astype(np.uint8).reshape(size)
    return np.where(gap[:, None] > 0, coloured, 0).astype(np.uint8).reshape(*size, 3), mask


def made(folder: Path, masks: MaskUse, clutter: int = 0) -> Scene:
    """Pictures and masks on disk; what stands around the ball is noise that `clutter` seeds."""
    folder.mkdir()
    random = np.random.default_rng(clutter)
    views = []
    for number, turn in enumerate(np.linspace(0, 2 * np.pi, 12, endpoint=False)):
        pose = look_at((2 * np.sin(turn), (-0.8, 0.1, 0.9)[number % 3], -2 * np.cos(turn)), (0, 0, 0))
        camera = Camera(48, 40, 50.0, 50.0, 24.0, 20.0, pose)
        picture, mask = ball(camera)
        noise = random.integers(0, 256, picture.shape).astype(np.uint8)
        write_image(folder / f"{number}.png", np.where(mask[..., None] > 0, picture, noise))
        write_image(folder / f"{number}.mask.png", mask)
        views.append(View(f"v{number:02}", camera, f"{number}.png", 1.0, 4.0, mask=f"{number}.mask.png"))
    names = [view.name for view in views]
    return Scene(folder, views, Points.none(), names[1:], names[:1], RATIO, "made", masks, BACKDROP)


def tiled(scene: Scene) -> Setting:
    write_tiles(scene.folder, ((view.name, scene.picture(view.name)) for view in scene.views), RATIO, scene.mask)
    space = Space("bounded", (-0.7, -0.7, -0.7), (0.7, 0.7, 0.7))
    return Setting(scene, space, Occupancy(torch.ones(8, 8, 8, dtype=torch.bool)), Tiles(scene.folder))


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return tiled(made(tmp_path_factory.mktemp("cut") / "scene", "cut"))


def test_composition_rounds_to_the_nearest_level() -> None:
    random = np.random.default_rng(0)
    picture, mask = (random.integers(0, 256, shape).astype(np.uint8) for shape in ((9, 7, 3), (9, 7)))
    share = mask[..., None] / 255
    exact = picture * share + np.array([10, 200, 255]) * (1 - share)
    assert np.abs(composite(picture, mask, (10, 200, 255)) - exact).max() <= 0.5 + 1e-9


def test_what_masks_cut_stands_on_the_backdrop_at_both_levels(cut: Setting) -> None:
    """The low picture over other colours is the mean of the full one over them."""
    assert cut.tiles is not None
    for name in cut.scene.train[:3]:
        picture, mask = ball(cut.scene.view(name).camera)
        assert np.array_equal(cut.scene.picture(name), np.where(mask[..., None] > 0, picture, 255))
        for level, size in zip(LEVELS, (1, RATIO), strict=True):
            covered = cut.tiles.mask(name, level)
            assert covered is not None
            assert covered.shape == cut.tiles.image(name, level).shape[:2]
            share = mask.reshape(40 // size, size, 48 // size, size).mean((1, 3))
            assert np.abs(covered - share).max() <= 0.5
    pixels = TrainingPixels(cut.scene, cut.tiles, "low")
    batch = pixels.at(torch.arange(pixels.count), "cpu")
    over = batch.over(torch.tensor([[0.2, 0.4, 0.6]]), torch.ones(3)).view(len(cut.scene.train), -1, 3)
    for name, low in zip(cut.scene.train, over, strict=True):
        picture, mask = ball(cut.scene.view(name).camera)
        other = np.where(mask[..., None] > 0, picture / 255, [0.2, 0.4, 0.6])
        mean = other.reshape(40 // RATIO, RATIO, 48 // RATIO, RATIO, 3).mean((1, 3))
        np.testing.assert_allclose(low.view(mean.shape).numpy(), mean, atol=2.5 / 255)


def test_a_scene_with_masks_comes_back(cut: Setting) -> None:
    cut.scene.save()
    again = Scene.load(cut.scene.folder)
    assert (again.masks, again.backdrop) == ("cut", BACKDROP)
    with pytest.raises(InputError, match="masks 'cutt' is none of carve, cut, look"):
        replace(cut.scene, masks="cutt")  # type: ignore[arg-type]


@pytest.mark.parametrize("masks", ["cut", "look"])
@pytest.mark.parametrize("phase", ["encoder", "joint"])
@pytest.mark.parametrize("name", ["voxel_grid", "four_k_nerf"])
def test_what_masks_hide_changes_nothing(tmp_path: Path, name: str, phase: Phase, masks: MaskUse) -> None:
    """Other clutter around the ball, the same losses and gradients; without masks they differ."""

    def states(use: MaskUse) -> list[dict[str, torch.Tensor]]:
        settings = [tiled(made(tmp_path / f"{use}{clutter}", use, clutter)) for clutter in (0, 1)]
        return [trained(name, phase, setting, tmp_path / f"{use}.{index}") for index, setting in enumerate(settings)]

    first, second = states(masks)
    # The backdrop of scenes in which masks only hide is the photos' mean colour, clutter and all.
    assert all(torch.equal(first[key], second[key]) for key in first if key != "backdrop")
    first, second = states("carve")
    assert any(not torch.equal(first[key], second[key]) for key in first if key != "backdrop")


def trained(name: str, phase: Phase, setting: Setting, folder: Path) -> dict[str, torch.Tensor]:
    """The state after a few steps; a joint phase begins with an untrained encoder, over black."""
    recipe = RECIPES[name]()
    del recipe["encoder"]["bounded"]["fit"]["coarse"]
    torch.manual_seed(0)
    encoder: Method = METHODS[name]("encoder", Recipe(recipe), setting)
    if phase == "encoder":
        method = encoder
    else:
        method = METHODS[name](phase, Recipe(recipe), setting)
        method.start_from(encoder.state() | {"backdrop": torch.zeros(3)})
    fit(method, seed=0, resume=folder, configuration={}, report=lambda *_: None)
    return dict(method.state())


def test_hidden_pixels_are_never_drawn_and_the_others_alike(tmp_path: Path) -> None:
    setting = tiled(made(tmp_path / "scene", "look"))
    assert setting.tiles is not None
    pixels = TrainingPixels(setting.scene, setting.tiles, "full")
    batch = pixels.draw(20_000, torch.Generator().manual_seed(0), "cpu")
    inside = np.concatenate([ball(setting.scene.view(name).camera)[1].ravel() > 0 for name in setting.scene.train])
    assert len(batch.colours) == pytest.approx(20_000, rel=0.05)
    ends = batch.rays.origins + batch.rays.directions * -(batch.rays.origins * batch.rays.directions).sum(1)[:, None]
    assert ends.norm(dim=1).max() < RADIUS  # all rays meet the ball
    views = torch.unique(batch.rays.origins, dim=0, return_counts=True)[1]
    assert views.min() > 0.7 * 20_000 / len(setting.scene.train)
    assert 0.1 < inside.mean() < 0.5


def test_a_patch_knows_what_may_be_looked_at(tmp_path: Path) -> None:
    setting = tiled(made(tmp_path / "scene", "look"))
    assert setting.tiles is not None
    patches = TrainingPatches(setting.scene, setting.tiles, 10)
    for step in range(8):
        (index,) = patches.chosen(step, 1, 0)
        view, x, y, width, height = patches.windows[index]
        (patch,) = patches.draw(step, 1, 0, "cpu")
        mask = ball(setting.scene.view(setting.scene.train[view]).camera)[1] > 0
        expected = mask[RATIO * y : RATIO * (y + height), RATIO * x : RATIO * (x + width)]
        assert np.array_equal(patch.full_seen[0].numpy(), expected)
        low = expected.reshape(height, RATIO, width, RATIO).mean((1, 3)) == 1
        assert np.array_equal(patch.low_seen[0].numpy(), low)


def test_masks_that_hide_everything_are_refused(tmp_path: Path) -> None:
    scene = made(tmp_path / "scene", "look")
    for path in scene.folder.glob("*.mask.png"):
        write_image(path, np.zeros((40, 48), np.uint8))
    setting = tiled(scene)
    assert setting.tiles is not None
    with pytest.raises(InputError, match="the masks of the training views let nothing be looked at"):
        TrainingPixels(scene, setting.tiles, "full")


def test_a_white_subject_on_white_is_no_hole(cut: Setting, tmp_path: Path) -> None:
    """Half of the ball has the backdrop's colour; the field is solid within the mask all the same."""
    numbers: dict[str, Any] = {"rays": 512, "refresh": 50, "grid_rate": 0.3, "network_rate": 3e-3, "decay": 1000}
    shape = {"coarse": {"voxels": 8000, "steps": 80, "opacity": 1e-3, "cull": 1e-4}}
    stages = [{"voxels": 15_000, "steps": 150}]
    field = {"channels": 4, "hidden": 16, "view_frequencies": 1}
    flat = {"stages": [{"voxels": 4000, "steps": 2, "planes": 8}]}
    parts = {"bounded": {"field": field, "fit": {**numbers, **shape, "stages": stages}}, "forward": {"fit": flat}}
    torch.manual_seed(0)
    method = VoxelGrid("encoder", Recipe({"method": "voxel_grid", "encoder": parts}), cut)
    fit(method, seed=0, resume=tmp_path, configuration={}, report=lambda *_: None)
    name = cut.scene.test[0]
    camera = cut.scene.camera(name, "low")
    picture, mask = ball(cut.scene.view(name).camera)
    seen = method.render(camera, 0.0)
    share = mask.reshape(20, RATIO, 24, RATIO).mean((1, 3)) / 255
    white = (picture.reshape(20, RATIO, 24, RATIO, 3).mean((1, 3)) > 250).all(2)
    opacity = seen.opacity.numpy()
    assert white[share == 1].sum() > 20
    assert opacity[(share == 1) & white].mean() > 0.95
    assert opacity[(share == 1) & ~white].mean() > 0.95
    assert opacity[share == 0].mean() < 0.05
    assert seen.colour.numpy()[share == 0].mean() > 0.97


def photo(name: str, **values: Any) -> Photo:
    return Photo(name, f"{name}.png", 8, 8, 8, 8, 1, None, "", 0.0, 0.0, **values)


@pytest.mark.parametrize(
    ("wanted", "transparent", "usual", "expected"),
    [
        ("auto", True, "carve", "cut"),
        ("auto", True, "look", "cut"),
        ("auto", False, "look", "look"),
        ("auto", False, "carve", "carve"),
        ("look", True, "carve", "look"),
    ],
)
def test_what_masks_mean(wanted: str, transparent: bool, usual: MaskUse, expected: str) -> None:
    config = SceneConfig(masks=wanted)  # type: ignore[arg-type]
    said: list[str] = []
    photos = [photo("a", mask="m.png", transparent=transparent), photo("b")]
    assert mask_use(photos, config, usual, said.append) == expected
    line = "1 of 2 photos have no mask and count as covered whole: b"
    assert said == ([line] if expected == "cut" else [])


def test_masks_that_are_not_there_cannot_cut() -> None:
    with pytest.raises(InputError, match=r"scene\.masks: cut, but no photo has a mask"):
        mask_use([photo("a")], SceneConfig(masks="cut"), "carve", print)
