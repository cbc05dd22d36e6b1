"""4K-NeRF in the room: what each switch of the paper changes, and that windows and odd sizes are parts of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import WINDOWS
from torchvision.models import vgg19

from loupe.config import load_yaml
from loupe.errors import InputError
from loupe.fields.tensor_vm import VmConfig
from loupe.method import Recipe, Setting, Window
from loupe.methods import four_k_nerf as module
from loupe.methods.four_k_nerf import FourKNerf, make_four_k_nerf
from loupe.nets import perceptual
from loupe.voxel_fit import EncoderConfig, VoxelFit

FIT: dict[str, Any] = {"rays": 256, "opacity": 0.1, "decay": 100, "stages": [{"voxels": 4000, "steps": 1}]}
FIELD = {"channels": 3, "hidden": 8, "view_frequencies": 1}
DECODER = {"blocks": 1, "width": 8, "growth": 4}


def recipe(**joint: Any) -> Recipe:
    part = {"field": FIELD, "fit": FIT}
    plain = {"steps": 3, "patch": 16, "features": 2, "decoder": DECODER, "weights": {"perceptual": 0.0}}
    return Recipe({"method": "four_k_nerf", "encoder": {"bounded": part, "forward": part}, "joint": plain | joint})


def only(**weights: float) -> dict[str, float]:
    """Weights of the loss: these, the absolute difference, and nothing else."""
    return {"adversarial": 0.0, "perceptual": 0.0, "low": 0.0} | weights


@pytest.fixture(scope="module")
def encoder(room: Setting) -> dict[str, torch.Tensor]:
    """A field with something in it."""
    torch.manual_seed(0)
    method = make_four_k_nerf("encoder", recipe(), room)
    assert isinstance(method, VoxelFit)
    with torch.no_grad():
        method.field.table.normal_(0, 2)
    return method.state()


@pytest.fixture
def joint(room: Setting, encoder: dict[str, torch.Tensor]) -> Any:
    """Makes the joint phase of a recipe with these changes."""

    def make(**changes: Any) -> FourKNerf:
        torch.manual_seed(0)
        method = make_four_k_nerf("joint", recipe(**changes), room)
        assert isinstance(method, FourKNerf)
        method.start_from(encoder)
        return method

    return make


def losses_of(method: FourKNerf) -> dict[str, dict[str, torch.Tensor]]:
    segment = method.segments()[0]
    return method.losses(method.batch(segment, 0, torch.Generator()), segment)


def gradient(loss: torch.Tensor, parameter: torch.Tensor) -> float:
    (given,) = torch.autograd.grad(loss, parameter, retain_graph=True, allow_unused=True)
    return 0.0 if given is None else given.abs().sum().item()


def test_the_papers_weights_and_rates_are_the_defaults() -> None:
    config = module.Joint(steps=1)
    weights = config.weights
    assert (weights.colour, weights.adversarial, weights.perceptual, weights.low) == (1.0, 0.02, 0.5, 1.0)
    assert (config.rates.grid, config.rates.decoder, config.patch, config.features) == (1e-4, 2e-4, 64, 6)
    assert (config.decoder.blocks, config.decoder.width, config.decoder.growth) == (5, 64, 32)


def test_every_term_reaches_whom_it_concerns(joint: Any) -> None:
    method = joint()
    terms = losses_of(method)
    assert terms.keys() == {"generator", "discriminator"}
    generator, table = terms["generator"], method.field.table
    assert generator.keys() == {"low", "colour", "adversarial"}
    decoder, judge = method.decoder.trunk.first.weight, method.discriminator.first.weight
    assert gradient(generator["low"], table) > 0
    assert gradient(generator["low"], decoder) == 0
    for name in ("colour", "adversarial"):
        assert min(gradient(generator[name], table), gradient(generator[name], decoder)) > 0
    for name in ("real", "fake"):
        assert gradient(terms["discriminator"][name], judge) > 0
        assert gradient(terms["discriminator"][name], decoder) == 0


def test_patches_of_several_sizes_count_alike(joint: Any) -> None:
    method = joint(patches=6)
    segment = method.segments()[0]
    batch = method.batch(segment, 0, torch.Generator())
    assert len({patch.low.shape for patch in batch}) > 1
    together = method.losses(batch, segment)["generator"]
    alone = [method.losses([patch], segment)["generator"] for patch in batch]
    mean = torch.stack([one["colour"] for one in alone]).mean()
    torch.testing.assert_close(together["colour"], mean)


def test_without_adversarial_there_is_no_discriminator(joint: Any) -> None:
    method = joint(weights=only())
    assert losses_of(method).keys() == {"generator"}
    assert losses_of(method)["generator"].keys() == {"colour"}
    assert not [name for name in method.state() if name.startswith("discriminator")]
    assert method.optimizers(method.segments()[0]).keys() == {"generator"}


def test_separate_training_leaves_the_field_alone(joint: Any) -> None:
    method = joint(train_encoder=False)
    groups = method.optimizers(method.segments()[0])["generator"].param_groups
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    assert id(method.field.table) not in trained
    assert {id(parameter) for parameter in method.decoder.parameters()} <= trained
    assert "low" not in losses_of(method)["generator"]


def test_the_published_code_decodes_colours(joint: Any, room: Setting) -> None:
    method = joint(features=0, weights=only())
    assert method.state()["decoder.trunk.first.weight"].shape[1] == 3
    assert not [name for name in method.state() if name.startswith("reduce")]
    terms = losses_of(method)["generator"]
    assert gradient(terms["colour"], method.field.table) > 0
    assert method.render(room.scene.camera(room.scene.test[0], "full"), 0.0).colour.shape == (64, 80, 3)


@pytest.mark.parametrize("conditions", [[], ["depth"], ["direction"], ["depth", "direction"]])
def test_conditions_are_parameters_of_the_decoder(joint: Any, conditions: list[str]) -> None:
    method = joint(conditions=conditions, weights=only())
    first = [value for name, value in method.state().items() if name == "decoder.trunk.condition.0.weight"]
    channels = sum({"depth": 1, "direction": 3}[name] for name in conditions)
    assert [weight.shape[1] for weight in first] == ([channels] if conditions else [])
    assert losses_of(method)["generator"]["colour"] > 0


def test_depth_is_a_condition_and_no_way_back_into_the_field(joint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the features' way cut, the colour's loss no longer reaches the field, however much depth says."""
    method = joint(weights=only())
    assert gradient(losses_of(method)["generator"]["colour"], method.field.table) > 0
    shade = method.field.shade
    monkeypatch.setattr(method.field, "shade", lambda *given: tuple(part.detach() for part in shade(*given)))
    weights = method.decoder.state_dict()["trunk.condition.0.weight"]
    assert weights.abs().sum() > 0
    with torch.no_grad():
        method.reduce.weight.zero_()
        method.reduce.bias.zero_()
    assert gradient(losses_of(method)["generator"]["colour"], method.field.table) == 0


@pytest.mark.parametrize(("difference", "style"), [("squared", 0.0), ("absolute", 0.2)])
def test_the_perceptual_terms(
    joint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: str, style: float
) -> None:
    torch.manual_seed(0)
    torch.save(vgg19().state_dict(), tmp_path / "vgg.pth")
    monkeypatch.setattr(perceptual, "find_weights", lambda file, folder: tmp_path / "vgg.pth")
    method = joint(weights=only(perceptual=0.5, style=style), difference=difference)
    terms = losses_of(method)["generator"]
    assert terms.keys() == {"colour", "perceptual"} | ({"style"} if style else set())
    for name in terms:
        assert gradient(terms[name], method.decoder.head.colour.weight) > 0


def test_missing_weights_are_named_before_training(joint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "find_weights", lambda file, folder: None)
    with pytest.raises(InputError, match=r"vgg19-dcbb9e9d\.pth.*weights/README.*joint\.weights\.perceptual"):
        joint(weights={})


def test_low_precision_is_close_and_its_losses_are_not(joint: Any) -> None:
    exact, coarse = (losses_of(joint(precision=name))["generator"] for name in ("float32", "bfloat16"))
    assert all(value.dtype == torch.float32 for value in coarse.values())
    assert coarse["colour"].item() != exact["colour"].item()
    assert coarse["colour"].item() == pytest.approx(exact["colour"].item(), rel=0.05)


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_a_window_is_a_part_of_the_whole(joint: Any, room: Setting, window: Window) -> None:
    method = joint()
    camera = room.scene.camera(room.scene.test[0], "full")
    whole = method.render(camera, 0.0)
    assert whole.colour.shape == (64, 80, 3)
    part = slice(window.y, window.y + window.height), slice(window.x, window.x + window.width)
    for made, of in zip(method.render(camera, 0.0, window), whole, strict=True):
        torch.testing.assert_close(made, of[part], rtol=0, atol=1e-5)


def test_little_memory_makes_the_same_picture(joint: Any, room: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """In tiles of the decoder, which are otherwise as large as these pictures are."""
    method = joint()
    camera = room.scene.camera(room.scene.test[0], "full")
    whole = method.render(camera, 0.0)
    worked_on: list[torch.Size] = []
    method.decoder.trunk.register_forward_hook(lambda _, given, made: worked_on.append(given[0].shape))
    monkeypatch.setattr(module, "render_memory", lambda device: 1)
    for one, other in zip(method.render(camera, 0.0), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert len(worked_on) == 6  # of 40 x 32 low-resolution pixels, 16 a side


def test_a_picture_need_not_consist_of_whole_cells(joint: Any, room: Setting) -> None:
    method = joint()
    camera = room.scene.camera(room.scene.test[0], "full")
    whole, odd = (method.render(one, 0.0).colour for one in (camera, camera.cropped(0, 0, 79, 63)))
    assert odd.shape == (63, 79, 3)
    torch.testing.assert_close(odd, whole[:63, :79], rtol=0, atol=1e-5)


SWITCHES: dict[str, dict[str, Any]] = {
    "no_depth": {"conditions": []},
    "no_adversarial": {"weights": {"adversarial": 0.0}},
    "no_perceptual": {"weights": {"perceptual": 0.0}},
    "l1": {"weights": {"adversarial": 0.0, "perceptual": 0.0}},
    "separate": {"train_encoder": False},
    "patch32": {"patch": 32},
    "patch128": {"patch": 128},
    "blocks3": {"decoder": {"blocks": 3}},
    "blocks1": {"decoder": {"blocks": 1}},
    "direction": {"conditions": ["depth", "direction"]},
}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_recipe_of_a_switch_differs_in_nothing_else(name: str) -> None:
    expected, found = (load_yaml(Path(f"configs/recipes/four_k_nerf{end}.yaml")) for end in ("", f"_{name}"))
    for key, value in SWITCHES[name].items():
        expected["joint"][key] = expected["joint"].get(key, {}) | value if isinstance(value, dict) else value
    assert found == expected
    module.Joint.model_validate(found["joint"])


def test_tensorf_is_an_encoder_and_the_joint_phase_stays() -> None:
    base, found = (load_yaml(Path(f"configs/recipes/four_k_nerf{end}.yaml")) for end in ("", "_tensorf"))
    assert found["joint"] == base["joint"]
    encoder = EncoderConfig.model_validate(found["encoder"])
    assert encoder.forward.field.vm == VmConfig(density=(16, 4, 4), features=(48, 12, 12))
    assert encoder.bounded.field.vm == VmConfig()


def test_the_other_recipes_are_valid() -> None:
    for path in Path("configs/recipes").glob("four_k_nerf*.yaml"):
        content = load_yaml(path)
        module.Joint.model_validate(content["joint"])
        EncoderConfig.model_validate(content["encoder"])


def test_a_condition_stands_once(joint: Any) -> None:
    with pytest.raises(InputError, match="a condition stands twice"):
        joint(conditions=["depth", "depth"])


def test_a_decoder_to_begin_with(joint: Any, encoder: dict[str, torch.Tensor]) -> None:
    donor, fresh = joint(weights=only()), joint(weights=only())
    with torch.no_grad():
        donor.decoder.head.colour.weight.normal_()
        donor.reduce.weight.normal_()
    decoder = {name: value for name, value in donor.state().items() if name.startswith("decoder.")}
    own = fresh.state()["reduce.weight"].clone()
    fresh.start_from({**encoder, **decoder})
    for name, value in decoder.items():
        assert torch.equal(fresh.state()[name], value)
    assert torch.equal(fresh.state()["reduce.weight"], own)  # what a field's features mean is its own affair


def test_a_decoder_of_another_kind_is_refused(joint: Any, encoder: dict[str, torch.Tensor]) -> None:
    donor = joint(weights=only(), decoder=DECODER | {"width": 16})
    with pytest.raises(InputError, match=r"joint\.decoder is not of the kind.*size mismatch for"):
        joint(weights=only()).start_from({**encoder, **donor.state()})


def test_a_field_without_a_network_has_no_features(room: Setting) -> None:
    part = {"field": {"channels": 3, "hidden": 0}, "fit": FIT}
    content = recipe().content | {"encoder": {"bounded": part, "forward": part}}
    with pytest.raises(InputError, match="needs a field with a network"):
        make_four_k_nerf("joint", Recipe(content), room)
