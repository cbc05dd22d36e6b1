"""A trial's models on disk: what is loaded is what was saved, or a line that names the file; and whose run it was."""

from __future__ import annotations

import json
import signal
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from loupe.errors import InputError
from loupe.method import Phase, Recipe, Setting
from loupe.methods import METHODS
from loupe.trial import Model, train_phase

FIELD = {"channels": 3, "hidden": 8, "view_frequencies": 1}
PART = {"field": FIELD, "fit": {"rays": 32, "opacity": 0.1, "stages": [{"voxels": 300, "steps": 2}]}}
ENCODER = {"bounded": PART, "forward": PART}
JOINT = {
    "steps": 2,
    "patch": 8,
    "features": 2,
    "decoder": {"blocks": 1, "width": 8, "growth": 4},
    "weights": {"perceptual": 0.0},
}
RECIPES: dict[Phase, Recipe] = {
    "encoder": Recipe({"method": "four_k_nerf", "encoder": ENCODER}),
    "joint": Recipe({"method": "four_k_nerf", "encoder": ENCODER, "joint": JOINT}),
}


@pytest.fixture(scope="module")
def models(room: Setting) -> dict[Phase, Model]:
    """An untrained model of each phase."""
    torch.manual_seed(0)
    encoder = METHODS["four_k_nerf"]("encoder", RECIPES["encoder"], room)
    joint = METHODS["four_k_nerf"]("joint", RECIPES["joint"], room)
    joint.start_from(encoder.state())
    made: dict[Phase, Any] = {"encoder": encoder, "joint": joint}
    return {phase: Model(phase, RECIPES[phase], method.state()) for phase, method in made.items()}


@pytest.mark.parametrize("phase", ["encoder", "joint"])
def test_what_is_saved_is_loaded(models: dict[Phase, Model], room: Setting, tmp_path: Path, phase: Phase) -> None:
    models[phase].save(tmp_path)
    loaded = Model.load(tmp_path)
    assert (loaded.phase, loaded.recipe.content) == (phase, RECIPES[phase].content)
    state = loaded.method_for(room).state()
    assert state.keys() == models[phase].state.keys()
    assert all(torch.equal(value, state[name]) for name, value in models[phase].state.items())


def without(state: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if key != name}


Change = Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]
STATES: dict[str, tuple[Phase, Change, str]] = {
    "a table transposed": ("encoder", lambda s: s | {"table": s["table"].T.contiguous()}, "size|shape"),
    "a table of one row": ("encoder", lambda s: s | {"table": s["table"][:1]}, r"table: float32 \(1, 4\), expected"),
    "a table of half precision": ("encoder", lambda s: s | {"table": s["table"].half()}, "table: float16"),
    "a table missing": ("encoder", lambda s: without(s, "table"), "'table' is missing"),
    "a box missing": ("joint", lambda s: without(s, "box"), "'box' is missing"),
    "a shape of two axes": ("encoder", lambda s: s | {"shape": s["shape"][:2]}, "unpack"),
    "cells beyond the box": ("encoder", lambda s: s | {"cells": s["cells"] + 100_000}, "out of bounds"),
    "a layer transposed": (
        "joint",
        lambda s: s | {"shading.colour.weight": s["shading.colour.weight"].T.contiguous()},
        r"size mismatch for colour\.weight",
    ),
    "a layer of integers": (
        "joint",
        lambda s: s | {"decoder.trunk.first.bias": s["decoder.trunk.first.bias"].int()},
        r"decoder\.trunk\.first\.bias: int32 \(8,\), expected float32 \(8,\)",
    ),
    "a layer missing": ("joint", lambda s: without(s, "reduce.bias"), "reduce|bias"),
}


@pytest.mark.parametrize(("phase", "change", "reason"), STATES.values(), ids=STATES)
def test_a_state_that_does_not_fit_is_refused(
    models: dict[Phase, Model], room: Setting, tmp_path: Path, phase: Phase, change: Change, reason: str
) -> None:
    models[phase].save(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(dict(change(load_file(path))), path)
    with pytest.raises(InputError) as caught:
        Model.load(tmp_path).method_for(room)
    assert_refused(caught.value, f"{tmp_path}/model.json: the state in model.safetensors beside it does not fit")
    caught.match(reason)


def assert_refused(error: InputError, start: str) -> None:
    assert str(error).startswith(start)
    assert str(error).endswith("train again")
    assert "\n" not in str(error)


def test_the_joint_phase_refuses_an_encoder_that_does_not_fit(
    models: dict[Phase, Model], room: Setting, tmp_path: Path
) -> None:
    models["encoder"].save(tmp_path / "encoder")
    path = tmp_path / "encoder" / "model.safetensors"
    save_file(without(load_file(path), "alive"), path)
    encoder = Model.load(tmp_path / "encoder")
    with pytest.raises(InputError) as caught:
        train(room, tmp_path, phase="joint", encoder=encoder)
    assert_refused(caught.value, f"{tmp_path}/encoder/model.json: the state in model.safetensors")


def test_too_little_memory_is_not_blamed_on_the_model(models: dict[Phase, Model]) -> None:
    with pytest.raises(torch.OutOfMemoryError), models["encoder"].taken_over():
        raise torch.OutOfMemoryError


GOOD = {"format": 1, "phase": "joint", "recipe": RECIPES["joint"].content}


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("model.safetensors", struct.pack("<Q", 1 << 60) + bytes(24), "header too large"),
        ("model.safetensors", b"", "header too small"),
        ("model.json", b"\xff", "utf-8"),
        ("model.json", b"{", "Expecting property name"),
        ("model.json", b"[]", "list indices"),
        ("model.json", json.dumps(GOOD | {"phase": "third"}).encode(), "'third' is missing"),
        ("model.json", json.dumps(GOOD | {"recipe": RECIPES["encoder"].content}).encode(), "'joint' is missing"),
    ],
)
def test_what_is_no_model_is_refused(
    models: dict[Phase, Model], tmp_path: Path, file: str, content: bytes, reason: str
) -> None:
    models["joint"].save(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError) as caught:
        Model.load(tmp_path)
    assert_refused(caught.value, f"{tmp_path}: not a model (")
    assert reason in str(caught.value)


def test_a_method_that_nobody_knows_is_refused(models: dict[Phase, Model], tmp_path: Path) -> None:
    models["joint"].save(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(GOOD | {"recipe": GOOD["recipe"] | {"method": "nerf"}}))
    with pytest.raises(InputError, match=r"model\.json: method: unknown 'nerf'; known: voxel_grid, four_k_nerf"):
        Model.load(tmp_path)


def train(
    room: Setting, folder: Path, inputs: Mapping[str, str] | None = None, phase: Phase = "encoder", **rest: Any
) -> Model:
    options: dict[str, Any] = {"report": lambda *_: None} | rest
    return train_phase(phase, RECIPES[phase], room, resume=folder / "resume", inputs=inputs or {}, **options)


def test_another_input_is_refused_with_the_difference(room: Setting, tmp_path: Path) -> None:

    tiles, scene = {"data/tiles": "sha256:1111"}, {"data/scene": "sha256:3333"}
    with pytest.raises(SystemExit):
        train(room, tmp_path, tiles | scene, report=interrupt)
    for other, difference in (
        ({"data/tiles": "sha256:2222"} | scene, "inputs.data/tiles sha256:1111 -> sha256:2222;"),
        (tiles, "inputs.data/scene sha256:3333 -> (none);"),
    ):
        with pytest.raises(InputError) as caught:
            train(room, tmp_path, other)
        assert f"holds a run with another configuration: {difference} change it back" in str(caught.value)
    parts: list[str] = []
    train(room, tmp_path, tiles | scene, report=lambda part, *_: parts.append(part))
    assert parts == ["resumed", "stage1"]


def interrupt(part: str, done: int, total: int, values: Mapping[str, float]) -> None:
    """A report that asks the process to stop: it saves at the end of the step."""
    signal.raise_signal(signal.SIGUSR1)
