"""What rays see of a surface whose distance is known, and what VQ-NeRF makes of codes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from loupe.camera import Camera
from loupe.codebook import CodebookConfig, NetworkConfig, VqVae, encode_view
from loupe.config import load_yaml, parse_section
from loupe.errors import InputError
from loupe.fields.background import BackgroundConfig, InvertedSphere
from loupe.fields.sdf import Density, LaplaceDensity, LogisticDensity, SignedDistance
from loupe.fields.surface import SurfaceConfig, SurfaceField
from loupe.images import to_uint8
from loupe.method import DECODER, Recipe, Setting
from loupe.methods import volsdf, vq_nerf
from loupe.methods.volsdf import VolSdf
from loupe.methods.vq_nerf import VqNerf
from loupe.occupancy import Occupancy
from loupe.rays import Rays
from loupe.scene import Points, Scene, View
from loupe.space import Space
from loupe.surface_fit import (
    Anywhere,
    EncoderConfig,
    SurfaceFitConfig,
    coloured_mesh,
    look_through,
    make_field,
    shape_terms,
)
from loupe.tiles import Tiles, write_tiles

RECIPES, CODEBOOKS = (Path(__file__).parents[1] / "configs" / kind for kind in ("recipes", "codebooks"))
SPACE = Space("bounded", (-1.0, -0.8, -1.2), (1.0, 0.9, 1.1))
MIDDLE, RADIUS = torch.tensor([0.1, 0.0, -0.05]), 0.5
BOUND = {"uniform": 32, "rounds": 3, "samples": 48, "extra": 8}
SMALL: dict[str, dict[str, Any]] = {
    "hash": {"hash": {"grid": {"levels": 2, "table": 256, "base": 4, "finest": 8}, "hidden": 8, "features": 3}},
    "mlp": {"mlp": {"hidden": 8, "layers": 2, "skip": 1, "features": 3}, "bound": BOUND},
}


class KnownBall(SignedDistance):
    """The distance to the ball, in the place of a network, over the sphere of another field."""

    def __init__(self, like: SignedDistance) -> None:
        super().__init__(like.centre.tolist(), float(like.scale))

    def encode(self, normalised: Tensor) -> Tensor:
        return normalised

    def network(self, normalised: Tensor) -> Tensor:
        points = self.centre + self.scale * normalised
        distance = (points - MIDDLE).norm(dim=1, keepdim=True) - RADIUS
        return torch.cat([distance / self.scale, torch.zeros_like(points)], 1)


def ball(kind: str, density: str = "laplace", scale: float = 0.003) -> SurfaceField:
    """A field whose distance is that to a ball, exactly."""
    config = {"kind": kind, "density": density, "heads": {"hidden": 8, "layers": 1}, **SMALL[kind]}
    field = SurfaceField(SurfaceConfig.model_validate(config), SPACE, torch.ones(16, 16, 16, dtype=torch.bool))
    field.shape = KnownBall(field.shape)  # type: ignore[assignment]
    with torch.no_grad():
        field.density.softness.fill_(scale / float(field.shape.scale))
    return field.eval()


def fan(count: int = 300) -> Rays:
    """Rays from one point towards the ball and past it."""
    generator = torch.Generator().manual_seed(0)
    origin = torch.tensor([0.3, -0.4, -4.0])
    target = MIDDLE + 1.4 * RADIUS * (2 * torch.rand(count, 3, generator=generator) - 1)
    return Rays(origin.expand(count, 3), torch.nn.functional.normalize(target - origin, dim=1))


@pytest.mark.parametrize(("kind", "density"), [("hash", "laplace"), ("hash", "logistic"), ("mlp", "laplace")])
def test_rays_end_on_the_surface(kind: str, density: str) -> None:
    field, rays = ball(kind, density), fan()
    seen = field.look(rays, "colour")
    along = ((MIDDLE - rays.origins) * rays.directions).sum(1)
    gap = RADIUS**2 - (MIDDLE - rays.origins).square().sum(1) + along**2
    hits, misses = gap > 0.01, gap < -0.06
    assert min(hits.sum(), misses.sum()) > 50
    assert seen.left[hits].max() < 0.01
    assert seen.left[misses].min() > 0.99
    opacity = 1 - seen.left
    true = along - gap.clamp(min=0).sqrt()
    assert (seen.t / opacity - true)[hits].abs().max() < 0.02
    assert (seen.t / opacity - true)[hits].abs().mean() < 0.006
    normal = torch.nn.functional.normalize(seen.normal, dim=1)
    expected = (rays.origins + true[:, None] * rays.directions - MIDDLE) / RADIUS
    assert (normal * expected).sum(1)[hits].min() > 0.97


def test_long_steps_see_what_short_ones_see() -> None:
    """The optical depth of a piece is exact, so a hard surface is no matter of luck."""
    long, short = ball("hash"), ball("hash")
    object.__setattr__(long.config, "step", 2.0)
    object.__setattr__(short.config, "step", 0.1)
    rays = fan()
    one, other = (field.look(rays, "colour") for field in (long, short))
    assert (one.left - other.left).abs().mean() < 0.03
    both = (one.left < 0.5) & (other.left < 0.5)
    assert ((one.t / (1 - one.left)) - (other.t / (1 - other.left)))[both].abs().mean() < 0.03


@pytest.mark.parametrize("kind", [LaplaceDensity, LogisticDensity])
def test_depths_are_the_integral_of_the_density(kind: type[Density]) -> None:
    density = kind().double()
    generator = torch.Generator().manual_seed(1)
    distance = torch.randn(40, generator=generator, dtype=torch.float64) * 0.3
    slope = 2 * torch.rand(40, generator=generator, dtype=torch.float64) - 1
    slope[:3] = torch.tensor([0.0, 1e-9, 1e-4])
    length = torch.rand(40, generator=generator, dtype=torch.float64) * 0.5
    share = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000 - 0.5
    fine = (
        density((distance[:, None] + slope[:, None] * length[:, None] * share).flatten()).view(40, -1).mean(1) * length
    )
    torch.testing.assert_close(density.depth(distance, slope, length), fine, rtol=1e-4, atol=1e-6)


def test_cells_without_surface_are_passed_over() -> None:
    field, rays = ball("hash"), fan()
    before = field.look(rays, "colour")
    field.refresh()
    assert 0.02 < field.alive.float().mean() < 0.5
    after = field.look(rays, "colour")
    torch.testing.assert_close(after.left, before.left, atol=1e-3, rtol=0)
    with torch.no_grad():
        field.density.softness.fill_(1.0)
    field.refresh()
    assert field.alive.all()  # nothing is gone for good


def test_a_mesh_of_it() -> None:
    field = ball("hash")
    setting = Setting(None, SPACE, Occupancy(torch.ones(8, 8, 8, dtype=torch.bool)))  # type: ignore[arg-type]
    mesh = coloured_mesh(field, setting)
    off = np.linalg.norm(mesh.vertices - MIDDLE.numpy(), axis=1) - RADIUS
    assert np.abs(off).max() < 0.01 * RADIUS
    assert len(mesh.colours) == len(mesh.vertices)


def test_a_camera_sees_depth_and_normals() -> None:
    field = ball("hash")
    pose = np.eye(4)
    pose[2, 3] = 4.0
    camera = Camera(32, 24, 40.0, 40.0, 16.0, 12.0, pose)
    _, _, depth, opacity, normals = look_through(field, "colour", camera)
    middle = depth[12, 17], opacity[12, 17], normals[12, 17]
    assert abs(float(middle[0]) - (4 - 0.05 - RADIUS)) < 0.03
    assert middle[1] > 0.99
    assert middle[2][2] < -0.95
    assert depth[0, 0] == opacity[0, 0] == normals[0, 0].abs().sum() == 0


NETWORK = {"factor": 2, "codes": 24, "channels": 4, "width": 8, "encoder_blocks": 1, "decoder_blocks": 1}


def scene_of(folder: Path, ratio: int = 2) -> Setting:
    random = np.random.default_rng(0)
    pose = np.eye(4)
    pose[2, 3] = 4.0
    camera = Camera(32, 24, 40.0, 40.0, 16.0, 12.0, pose)
    views = [View(name, camera, f"{name}.png", 2.0, 6.0) for name in "abc"]
    pictures = [(name, random.integers(0, 255, (24, 32, 3), np.uint8)) for name in "ab"]
    write_tiles(folder, pictures, ratio)
    scene = Scene(folder, views, Points.none(), ["a", "b"], ["c"], ratio, "analytic")
    return Setting(scene, SPACE, Occupancy(torch.ones(8, 8, 8, dtype=torch.bool)), Tiles(folder))


def vq(setting: Setting, background: bool = False, **joint: Any) -> VqNerf:
    field = {"heads": {"hidden": 8, "layers": 1}, **SMALL["hash"]}
    field |= {"background": {"samples": 4, "hidden": 8, "layers": 1}} if background else {}
    encoder = {"field": field, "fit": {"steps": 1}}
    section = {"steps": 1, "codebook": NETWORK, "patch": 8, "weights": {"semantic": 0.0}} | joint
    recipe = Recipe({"method": "vq_nerf", "encoder": encoder, "joint": section})
    torch.manual_seed(0)
    made = vq_nerf.make_vq_nerf("joint", recipe, setting)
    assert isinstance(made, VqNerf)
    return made


def begun(setting: Setting, **joint: Any) -> VqNerf:
    made = vq(setting, **joint)
    torch.manual_seed(1)
    codebook = VqVae(NetworkConfig.model_validate(NETWORK))
    for parameter in codebook.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    state = {name: value for name, value in made.state().items() if not name.startswith(DECODER)}
    made.start_from(state | {f"{DECODER}{name}": value for name, value in codebook.state_dict().items()})
    return made


def test_the_decoder_reads_the_codes(tmp_path: Path) -> None:
    """Another order of the codes makes another picture; the same order the same one."""
    setting = scene_of(tmp_path)
    made, camera = begun(setting), setting.scene.camera("c", "full")
    before = made.render(camera, 0.0).colour
    order = torch.randperm(NETWORK["codes"], generator=torch.Generator().manual_seed(3))
    look_up = made.codebook.quantizer.lookup
    made.codebook.quantizer.lookup = lambda indices: look_up(order[indices])  # type: ignore[method-assign]
    permuted = made.render(camera, 0.0).colour
    assert (before - permuted).abs().mean() > 0.05
    made.codebook.quantizer.lookup = look_up  # type: ignore[method-assign]
    assert torch.equal(made.render(camera, 0.0).colour, before)


def test_what_goes_past_the_surface_meets_the_background() -> None:
    field, rays = ball("hash"), fan()
    before = field.look(rays, "colour")
    torch.testing.assert_close(before.bare, before.left)
    field.background = InvertedSphere(BackgroundConfig(samples=4, hidden=8, layers=1), MIDDLE.tolist(), 2.0).eval()
    with torch.no_grad():
        behind = field.background.look(rays, "colour")
        after = field.look(rays, "colour")
    assert not after.bare.any()
    torch.testing.assert_close(after.values, before.values + before.left[:, None] * behind, atol=2e-4, rtol=0)
    torch.testing.assert_close(after.left, before.left)


def test_the_codes_loss_moves_the_field_towards_the_photos_codes(tmp_path: Path) -> None:
    setting = scene_of(tmp_path)
    made = begun(setting, rays=0)
    segment = made.segments()[0]
    batch = made.batch(segment, 0, torch.Generator().manual_seed(0))
    terms = made.losses(batch, segment)["joint"]
    assert set(terms) == {"decoded", "codes", "eikonal", "empty"}
    terms["codes"].backward()
    bias = made.field.heads["code"].get_parameter("last.bias")
    assert bias.grad is not None
    assert bias.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in made.codebook.parameters())


@pytest.mark.parametrize("background", [False, True])
def test_codes_begin_as_colours(tmp_path: Path, background: bool) -> None:
    """Before any step, the features are the latents of cells that have the colours."""
    setting = scene_of(tmp_path)
    made = vq(setting, background)
    made.start_from(made.state())
    camera = setting.scene.camera("c", "low")
    colours, codes = (look_through(made.field, head, camera) for head in ("colour", "code"))
    shown = (colours.values + colours.bare * made._backdrop).flatten(0, 1)
    found, wanted = made._features(codes.values, codes.bare).flatten(0, 1), made._plain(shown)
    together = torch.stack([(part - part.mean(0)).flatten() for part in (found, wanted)])
    assert torch.corrcoef(together)[0, 1] > 0.95
    assert (found - wanted).abs().mean() < 0.01


def test_features_that_are_the_photos_codes_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And each code is of the whole photo, wherever a patch of it is cut off."""
    setting = scene_of(tmp_path)
    made = begun(setting, rays=0)
    segment = made.segments()[0]
    batch = made.batch(segment, 0, torch.Generator().manual_seed(0))
    assert setting.tiles is not None
    maps = []
    for patch in batch.patches:
        photo = encode_view(made.codebook, setting.tiles.image(setting.scene.train[patch.view], "full"))
        codes = made.codebook.quantizer(photo).codes
        maps.append(codes[0, :, *patch.part].flatten(1).T)
    monkeypatch.setattr(made, "_features", lambda values, left: torch.cat(maps))
    terms = made.losses(batch, segment)["joint"]
    assert terms["codes"] == 0
    assert made.progress()["right"] == 1
    monkeypatch.setattr(made, "_features", lambda values, left: torch.cat(maps).flip(0))
    assert made.losses(batch, segment)["joint"]["codes"] > 0.01


def test_what_lies_inside_where_carving_found_nothing_is_counted() -> None:
    """By how deep it lies, over all points: for a ball, against its own integral."""
    field = ball("hash")
    field.train()
    unit = torch.rand(200_000, 3, generator=torch.Generator().manual_seed(0))
    points = SPACE.to_world(unit)
    empty = points[:, 0] > MIDDLE[0]
    weights = SurfaceFitConfig(steps=1, eikonal=0, empty=2.0)
    terms = shape_terms(field, torch.zeros(0, 3), Anywhere(points, empty), weights)
    # A half ball's depth, integrated, over the box's volume: 2 pi (R^4 / 3 - R^4 / 4).
    expected = 2.0 * 2 * math.pi * RADIUS**4 / 12 / (2.0 * 1.7 * 2.3) / float(field.shape.scale)
    assert set(terms) == {"empty"}
    assert float(terms["empty"].detach()) == pytest.approx(expected, rel=0.03)


def test_masks_that_cut_leave_nothing_behind(tmp_path: Path) -> None:
    setting = scene_of(tmp_path)
    config = SurfaceConfig.model_validate(SMALL["hash"] | {"background": {}})
    assert make_field(setting, config).background is not None
    cut = replace(setting, scene=replace(setting.scene, masks="cut"))
    assert make_field(cut, config).background is None


def test_what_vq_nerf_refuses(tmp_path: Path) -> None:
    setting = scene_of(tmp_path)
    with pytest.raises(InputError, match=r"joint\.codebook\.factor 4 must be the scene's ratio of 2"):
        vq(setting, codebook=NETWORK | {"factor": 4})
    made = vq(setting)
    bare = {name: value for name, value in made.state().items() if not name.startswith(DECODER)}
    with pytest.raises(InputError, match="needs a codebook beside its encoder"):
        made.start_from(bare)
    with pytest.raises(InputError, match=r"joint\.codebook is not the shape of the codebook"):
        made.start_from(bare | {f"{DECODER}quantizer.codebook": torch.zeros(3, 4)})
    encoder = {"field": SMALL["hash"] | {"heads": {"hidden": 8, "layers": 1}}, "fit": {"steps": 1}}
    surface = VolSdf("encoder", Recipe({"method": "volsdf", "encoder": encoder}), setting)
    with pytest.raises(InputError, match="volsdf has no decoder"):
        surface.start_from(surface.state() | {f"{DECODER}x": torch.zeros(1)})
    with pytest.raises(ValueError, match="density laplace alone"):
        SurfaceConfig.model_validate({"kind": "mlp", "density": "logistic"})


def test_the_recipes_are_valid() -> None:
    for name, module in (("volsdf", volsdf), ("vq_nerf", vq_nerf)):
        paths = sorted(RECIPES.glob(f"{name}*.yaml"))
        assert paths
        for path in paths:
            content = load_yaml(path)
            assert content["method"] == name
            parse_section(EncoderConfig, content["encoder"], str(path))
            parse_section(module.Joint, content["joint"], str(path))


SWITCHES: dict[str, dict[str, Any]] = {
    "no_clip": {"weights": {"semantic": 0.0}},
    "no_global": {"rays": 0},
    "no_clip_no_global": {"weights": {"semantic": 0.0}, "rays": 0},
    "1024x16": {"codebook": {"codes": 1024}},
    "4096x16": {"codebook": {"codes": 4096}},
    "2048x8": {"codebook": {"channels": 8}},
    "2048x32": {"codebook": {"channels": 32}},
}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_recipe_of_a_switch_differs_in_nothing_else(name: str) -> None:
    expected, found = (load_yaml(RECIPES / f"vq_nerf{end}.yaml") for end in ("", f"_{name}"))
    for key, value in SWITCHES[name].items():
        expected["joint"][key] = expected["joint"][key] | value if isinstance(value, dict) else value
    assert found == expected


@pytest.mark.parametrize("size", ["2048x16", "1024x16", "4096x16", "2048x8", "2048x32"])
def test_every_size_of_the_codebook_has_its_recipe(size: str) -> None:
    """The paper's table 4; the codebooks differ in nothing but their size, and are what the recipes begin with."""
    known = load_yaml(CODEBOOKS / "vqvae_f4_2048x16.yaml")["codebook"]
    found = load_yaml(CODEBOOKS / f"vqvae_f4_{size}.yaml")["codebook"]
    recipe = load_yaml(RECIPES / ("vq_nerf.yaml" if size == "2048x16" else f"vq_nerf_{size}.yaml"))
    assert recipe["joint"]["codebook"] == found["network"]
    codes, channels = map(int, size.split("x"))
    assert found == known | {"network": known["network"] | {"codes": codes, "channels": channels}}
    parse_section(CodebookConfig, found, size)


def test_the_small_recipe_is_of_the_small_codebook() -> None:
    small = load_yaml(CODEBOOKS / "vqvae_f4.yaml")["codebook"]["network"]
    assert load_yaml(RECIPES / "vq_nerf_small.yaml")["joint"]["codebook"] == small


def test_the_small_recipes_share_their_encoder() -> None:
    one, other = (load_yaml(RECIPES / f"{name}_small.yaml")["encoder"] for name in ("volsdf", "vq_nerf"))
    assert one == other


def test_codes_of_the_backdrop_stand_behind(tmp_path: Path) -> None:
    """Where a ray meets nothing, the picture is what the codebook makes of the backdrop."""
    setting = scene_of(tmp_path)
    made = begun(setting)

    def far(points: Tensor) -> tuple[Tensor, Tensor]:
        return 9 + 0 * points[:, 0], points.new_zeros(len(points), 3)

    made.field.shape.forward = far  # type: ignore[method-assign]
    picture = made.render(setting.scene.camera("c", "full"), 0.0)
    assert picture.opacity.max() < 1e-3
    codes = made.codebook.quantizer(made._code_behind.view(1, -1, 1, 1).expand(1, -1, 40, 40)).codes
    expected = made.codebook.decode(codes)[0, :, 40:42, 40:42].clamp(0, 1)
    torch.testing.assert_close(picture.colour[12:14, 16:18].movedim(-1, 0), expected, atol=1e-4, rtol=0)
    assert to_uint8(picture.colour.numpy()).shape == (24, 32, 3)
