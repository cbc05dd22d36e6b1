"""What every method owes, in every phase and kind of space: one contract over `METHODS`, and over TensoRF's factors.

The scene is analytic: a ball whose colour is a function of the direction from its centre, before a grey wall. A method
of scenes that move gets the duet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from duet import Film
from numpy.typing import NDArray
from torch.nn.functional import normalize

from loupe.camera import Camera
from loupe.cloud import Cloud
from loupe.codebook import NetworkConfig, VqVae
from loupe.images import Pixels, to_uint8
from loupe.method import DECODER, Method, Phase, Recipe, Setting, Window
from loupe.methods import METHODS
from loupe.occupancy import Occupancy
from loupe.rays import camera_rays
from loupe.scene import Points, Scene, View
from loupe.space import Kind, Space, forward_space
from loupe.tiles import Tiles, write_tiles
from loupe.training import fit

WIDTH, HEIGHT, RATIO, RADIUS = 48, 40, 4, 0.5
WALL = (0.2, 0.3, 0.4)


# Every method's recipe at toy size: the segments' steps together make the interruptions below, so keep them few.
def voxel_grid_recipe() -> dict[str, Any]:
    numbers = {"rays": 64, "refresh": 2, "decay": 100, "opacity": 0.1}
    stages = [{"voxels": 300, "steps": 3}, {"voxels": 500, "steps": 3}]
    planes = [{**stage, "planes": 6 + index} for index, stage in enumerate(stages)]
    field = {"channels": 3, "hidden": 8, "view_frequencies": 1}
    coarse = {"voxels": 300, "steps": 3, "opacity": 0.1}
    return {
        "method": "voxel_grid",
        "encoder": {
            "bounded": {"field": field, "fit": {**numbers, "stages": stages, "coarse": coarse}},
            "forward": {"field": field, "fit": {**numbers, "stages": planes}},
        },
        "joint": {
            "bounded": {**numbers, "stages": stages[1:]},
            "forward": {**numbers, "stages": planes[1:]},
        },
    }


def four_k_nerf_recipe() -> dict[str, Any]:
    decoder = {"blocks": 1, "width": 8, "growth": 4}
    joint = {"steps": 6, "patch": 8, "patches": 2, "features": 2, "decoder": decoder, "rates": {"decoder": 1e-3}}
    joint |= {"weights": {"perceptual": 0.0, "distortion": 0.01}}
    return voxel_grid_recipe() | {"method": "four_k_nerf", "joint": joint}


def tensorf_recipe() -> dict[str, Any]:
    recipe = voxel_grid_recipe()
    for part in recipe["encoder"].values():
        part["field"] = part["field"] | {"vm": {"density": [2, 1, 1], "features": [2, 1, 1]}}
    return recipe


def four_k4d_recipe() -> dict[str, Any]:
    planes = {"base": 4, "levels": 2, "channels": 4, "table": 64}
    points = {"count": 200, "positions": planes, "features": planes, "radii": 4.0, "radius_logit": -2.0}
    phase = {"fit": {"steps": 6, "size": 16, "position_rate": 1e-3, "weights": {"perceptual": 0.0, "shift": 0.1}}}
    return {"method": "four_k4d", "encoder": phase | {"points": points}, "joint": phase}


CODEBOOK = {"factor": RATIO, "codes": 16, "channels": 4, "width": 8, "encoder_blocks": 1, "decoder_blocks": 1}


def volsdf_recipe() -> dict[str, Any]:
    grid = {"levels": 2, "channels": 2, "table": 512, "base": 4, "finest": 8}
    field = {"hash": {"grid": grid, "hidden": 8, "features": 3}, "heads": {"hidden": 8, "layers": 1}, "step": 1.0}
    fit = {"steps": 6, "rays": 64, "network_rate": 5e-3, "scale_rate": 1e-2, "refresh": 2}
    return {"method": "volsdf", "encoder": {"field": field, "fit": fit}, "joint": {"fit": fit}}


def volsdf_mlp_recipe() -> dict[str, Any]:
    network = {"hidden": 16, "layers": 3, "skip": 1, "frequencies": 2, "features": 3}
    bound = {"uniform": 8, "rounds": 1, "bisections": 2, "samples": 6, "extra": 2}
    field = {"kind": "mlp", "mlp": network, "heads": {"hidden": 8, "layers": 1}, "bound": bound}
    recipe = volsdf_recipe()
    return recipe | {"encoder": recipe["encoder"] | {"field": field}}


def vq_nerf_recipe() -> dict[str, Any]:
    """With all that a field may have, and a beginning on carved points."""
    joint = {
        "steps": 6,
        "codebook": CODEBOOK,
        "patch": 8,
        "patches": 1,
        "rays": 32,
        "train_decoder": True,
        "refresh": 2,
    }
    joint |= {"network_rate": 5e-3, "decoder_rate": 1e-2, "weights": {"semantic": 0.0}}
    recipe = volsdf_recipe()
    appearance = {"levels": 2, "channels": 2, "table": 512, "base": 4, "finest": 8}
    background = {"samples": 4, "hidden": 8, "layers": 1}
    field = recipe["encoder"]["field"] | {"appearance": appearance, "background": background}
    encoder = {"field": field, "fit": recipe["encoder"]["fit"] | {"begin": 4, "points": 64}}
    return recipe | {"method": "vq_nerf", "joint": joint, "encoder": encoder}


RECIPES = {
    "voxel_grid": voxel_grid_recipe,
    "four_k_nerf": four_k_nerf_recipe,
    "tensorf": tensorf_recipe,
    "four_k4d": four_k4d_recipe,
    "volsdf": volsdf_recipe,
    "volsdf_mlp": volsdf_mlp_recipe,
    "vq_nerf": vq_nerf_recipe,
}
SURFACES = dict.fromkeys(("volsdf", "volsdf_mlp", "vq_nerf"), ("bounded",))
SETTINGS = dict.fromkeys(RECIPES, ("bounded", "forward")) | {"four_k4d": ("film",)} | SURFACES


def look_at(position: tuple[float, float, float], target: tuple[float, float, float]) -> NDArray[np.float64]:
    """cam_from_world of a camera at `position` that looks at `target`, y down."""
    forward = np.subtract(target, position) / np.linalg.norm(np.subtract(target, position))
    right = np.cross([0, 1, 0], forward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ position
    return pose


def photo(camera: Camera) -> Pixels:
    """The ball before the wall, exactly."""
    origins, directions = (part.double().numpy() for part in camera_rays(camera))
    along = -(origins * directions).sum(1)
    gap = RADIUS**2 - (origins**2).sum(1) + along**2
    where = origins + (along - np.sqrt(np.maximum(gap, 0)))[:, None] * directions
    colour = np.where(gap[:, None] > 0, 0.5 + 0.4 * where / RADIUS, WALL)
    return to_uint8(colour.reshape(camera.height, camera.width, 3))


def positions(kind: Kind) -> list[tuple[float, float, float]]:
    if kind == "bounded":
        return [(2 * np.sin(turn), 0.3, -2 * np.cos(turn)) for turn in np.linspace(0, 2 * np.pi, 6, endpoint=False)]
    return [(x, y, -2.0) for y in (-0.2, 0.2) for x in (-0.3, 0.0, 0.3)]


@pytest.fixture(scope="module")
def setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """The ball from around ("bounded") or from one side ("forward"), or the "film"."""
    folder = tmp_path_factory.mktemp(request.param)
    return film(folder, request.getfixturevalue("duet")) if request.param == "film" else ball(folder, request.param)


def film(folder: Path, duet: Film) -> Setting:
    duet.carved.save(folder)
    return replace(duet.setting, points=folder / "points")


def ball(folder: Path, kind: Kind) -> Setting:
    views = []
    for number, position in enumerate(positions(kind)):
        target = (0.0, 0.0, 0.0) if kind == "bounded" else (position[0], position[1], 0.0)
        camera = Camera(WIDTH, HEIGHT, 50.0, 50.0, WIDTH / 2, HEIGHT / 2, look_at(position, target))
        views.append(View(f"view{number}", camera, f"view{number}.png", near=1.0, far=4.0))
    names = [view.name for view in views]
    scene = Scene(folder, views, Points.none(), names[:-1], names[-1:], RATIO, "analytic")
    write_tiles(folder, [(name, photo(scene.camera(name, "full"))) for name in scene.train], RATIO)
    side = 0.7
    bounded = Space("bounded", (-side, -side, -side), (side, side, side))
    space = bounded if kind == "bounded" else forward_space(scene.cameras(scene.train, "low"), near=1.2)
    cloud = folder / "points.ply"
    on_ball = normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(0))).numpy()
    Cloud((RADIUS * on_ball).astype(np.float32), to_uint8(0.5 + 0.4 * on_ball)).save(cloud)
    occupancy = Occupancy(torch.ones(8, 8, 8, dtype=torch.bool))
    return Setting(scene, space, occupancy, Tiles(folder), cloud=cloud)


CASES = [(name, phase, setting) for name in RECIPES for phase in get_args(Phase) for setting in SETTINGS[name]]
over_methods = pytest.mark.parametrize(
    ("name", "phase", "setting"), CASES, indirect=["setting"], ids=["-".join(case) for case in CASES]
)


def make(name: str, phase: Phase, setting: Setting, tmp_path: Path, seed: int = 0) -> Method:
    """The method as its step makes it: the joint phase begins with a trained encoder."""
    recipe = RECIPES[name]()
    torch.manual_seed(seed)
    method: Method = METHODS[recipe["method"]](phase, Recipe(recipe), setting)
    if phase == "joint":
        method.start_from(encoder_state(name, setting, tmp_path))
    return method


_ENCODERS: dict[tuple[str, str], dict[str, torch.Tensor]] = {}


def encoder_state(name: str, setting: Setting, tmp_path: Path) -> Mapping[str, torch.Tensor]:
    key = (name, setting.space.kind)
    if key not in _ENCODERS:
        encoder = make(name, "encoder", setting, tmp_path)
        train(encoder, tmp_path / "encoder")
        _ENCODERS[key] = {part: tensor.clone() for part, tensor in encoder.state().items()}
        if name == "vq_nerf":
            codebook = VqVae(NetworkConfig.model_validate(CODEBOOK)).state_dict()
            _ENCODERS[key] |= {f"{DECODER}{part}": tensor for part, tensor in codebook.items()}
    return _ENCODERS[key]


class Stop(Exception):
    """Raised by a report, in the place of a kill."""


def train(method: Method, resume: Path, stop_at: int | None = None) -> list[tuple[str, Mapping[str, float]]]:
    """Train to the end, or die when `stop_at` steps are done; what was reported, the times left out."""
    told: list[tuple[str, Mapping[str, float]]] = []

    def report(part: str, done: int, total: int, values: Mapping[str, float]) -> None:
        if done == stop_at and part != "resumed":
            raise Stop
        told.append((part, {**values, "seconds": 0}))

    save_every = 300.0 if stop_at is None else 0.0
    try:
        fit(method, seed=0, resume=resume, configuration={}, report=report, save_every=save_every)
    except Stop:
        assert stop_at is not None
    return told


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The scene is too small to share."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_method_has_a_toy_recipe() -> None:
    assert {recipe()["method"] for recipe in RECIPES.values()} == METHODS.keys()


@over_methods
def test_twenty_steps_lower_the_loss(name: str, phase: Phase, setting: Setting, tmp_path: Path) -> None:
    """Of the first segment, repeated on one batch; groups that play against each other may not all get better."""
    method = make(name, phase, setting, tmp_path)
    segment = method.segments()[0]
    batch = method.batch(segment, 0, torch.Generator().manual_seed(0))
    optimizers = method.optimizers(segment)
    first = method.losses(batch, segment)
    for _ in range(20):
        for group, terms in method.losses(batch, segment).items():
            optimizers[group].zero_grad()
            sum(terms.values()).backward()
            optimizers[group].step()
    last = method.losses(batch, segment)
    assert first.keys() == optimizers.keys()
    assert any(sum(last[group].values()) < 0.9 * sum(first[group].values()) for group in first)


@over_methods
def test_pictures_have_the_right_shapes_and_ranges(name: str, phase: Phase, setting: Setting, tmp_path: Path) -> None:
    method = make(name, phase, setting, tmp_path)
    train(method, tmp_path / "resume")
    camera = setting.scene.camera(setting.scene.test[0], "full")
    whole = method.render(camera, 0.0)
    assert whole.colour.shape == (camera.height, camera.width, 3)
    assert whole.depth.shape == whole.opacity.shape == (camera.height, camera.width)
    for part in (whole.colour, whole.opacity):
        assert 0 <= part.min() <= part.max() <= 1
    assert bool((whole.depth >= 0).all())
    assert bool(whole.depth.isfinite().all())
    assert not any(part.requires_grad for part in whole)
    window = method.render(camera, 0.0, Window(5, 7, 20, 12))
    for piece, full in zip(window, whole, strict=True):
        torch.testing.assert_close(piece, full[7:19, 5:25], rtol=0, atol=1e-5)


@over_methods
def test_the_same_picture_after_saving_and_loading(name: str, phase: Phase, setting: Setting, tmp_path: Path) -> None:
    """Also with the tiles as no more than sources of colour, as rendering has them."""
    method = make(name, phase, setting, tmp_path)
    train(method, tmp_path / "resume")
    state = {part: tensor.clone() for part, tensor in method.state().items()}
    bare = Setting(setting.scene, setting.space, setting.occupancy, sources=setting.tiles)
    recipe = RECIPES[name]()
    loaded: Method = METHODS[recipe["method"]](phase, Recipe(recipe), bare)
    loaded.load_state(state)
    camera = setting.scene.camera(setting.scene.test[0], "low")
    for one, other in zip(method.render(camera, 0.0), loaded.render(camera, 0.0), strict=True):
        assert torch.equal(one, other)
    assert same(loaded.state(), state)


@over_methods
def test_interrupted_anywhere_it_ends_with_the_same_weights(
    name: str, phase: Phase, setting: Setting, tmp_path: Path
) -> None:
    """Also covers that `state` holds everything: each time a fresh object, made under another seed, goes on."""
    straight = make(name, phase, setting, tmp_path)
    told = train(straight, tmp_path / "straight")
    total = sum(segment.steps for segment in straight.segments())
    assert len(told) == total
    for stop_at in range(2, total + 1):
        resume = tmp_path / str(stop_at)
        train(make(name, phase, setting, tmp_path), resume, stop_at)
        resumed = make(name, phase, setting, tmp_path, seed=stop_at)
        again = train(resumed, resume)
        assert same(resumed.state(), straight.state()), f"differs when interrupted before step {stop_at}"
        assert [values for _, values in again] == [values for _, values in told]
        assert [part == "resumed" for part, _ in again] == [step < stop_at for step in range(1, total + 1)]


@over_methods
def test_same_seed_same_weights(name: str, phase: Phase, setting: Setting, tmp_path: Path) -> None:
    one, other = (make(name, phase, setting, tmp_path) for _ in range(2))
    train(one, tmp_path / "one")
    torch.rand(5)
    train(other, tmp_path / "other")
    assert same(one.state(), other.state())


@over_methods
def test_batches_depend_on_generator_and_step_alone(name: str, phase: Phase, setting: Setting, tmp_path: Path) -> None:
    method = make(name, phase, setting, tmp_path)
    segment = method.segments()[0]

    def drawn(seed: int) -> list[torch.Tensor]:
        return leaves(method.batch(segment, seed, torch.Generator().manual_seed(seed)))

    assert drawn(0)
    assert all(torch.equal(one, other) for one, other in zip(drawn(0), drawn(0), strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(drawn(0), drawn(1), strict=True))


def leaves(value: Any) -> list[torch.Tensor]:
    """The tensors within nested tuples, lists and mappings."""
    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else []
    return [leaf for part in inner for leaf in leaves(part)]


@over_methods
def test_segments_have_names_of_their_own(name: str, phase: Phase, setting: Setting, tmp_path: Path) -> None:
    names = [segment.name for segment in make(name, phase, setting, tmp_path).segments()]
    assert names
    assert all(one != other for one, other in pairwise(sorted(names)))
