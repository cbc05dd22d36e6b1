"""A trial's two phases of training, and the model on disk that each leaves.

A model is a folder: `model.safetensors`, the method's state, and `model.json`, its name, phase and the recipe's
sections that made it. A model is rendered with those, whatever has become of the recipe since.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from loupe.codebook import Codebook
from loupe.config import load_yaml
from loupe.errors import InputError
from loupe.images import Pixels, to_uint8
from loupe.method import DECODER, Method, Phase, Recipe, Setting
from loupe.methods import METHODS
from loupe.metrics import psnr
from loupe.occupancy import Occupancy
from loupe.scene import Level, Scene
from loupe.space import Space
from loupe.surroundings import SURROUNDINGS
from loupe.tiles import Tiles
from loupe.training import Report, fit

if TYPE_CHECKING:
    from torch import Tensor

_FORMAT = 1
_SECTIONS: Mapping[Phase, tuple[str, ...]] = {"encoder": ("encoder",), "joint": ("encoder", "joint")}


@dataclass(frozen=True, eq=False)
class Model:
    """What a phase leaves: the phase, the recipe's sections that count, and the state."""

    phase: Phase
    recipe: Recipe
    state: Mapping[str, Tensor]

    def save(self, folder: Path) -> None:
        """Write into `folder`, which is made if it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.cpu().contiguous() for name, value in self.state.items()}, folder / "model.safetensors")
        content = {"format": _FORMAT, "phase": self.phase, "recipe": self.recipe.content}
        (folder / "model.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")

    @classmethod
    def load(cls, folder: Path) -> Model:
        """Read what `save` wrote; raises `InputError` if it is missing or damaged."""
        try:
            content = json.loads((folder / "model.json").read_text(encoding="utf8"))
            state = load_file(folder / "model.safetensors")
            phase, wanted = content["phase"], ("method", *_SECTIONS[content["phase"]])
            recipe = Recipe({key: content["recipe"][key] for key in wanted}, str(folder / "model.json"))
        except FileNotFoundError:
            raise InputError(f"{folder}: no model there; run the training steps first") from None
        except (KeyError, TypeError, ValueError, SafetensorError) as error:
            raise InputError(f"{folder}: not a model ({_reason(error)}); train again") from None
        _check_method(recipe)
        return cls(phase, recipe, state)

    def method_for(self, setting: Setting) -> Method:
        """The trained method, ready to render; raises `InputError` if the state is not that of such a method."""
        method = _make(self.phase, self.recipe, setting)
        with self.taken_over():
            method.load_state(self.state)
            for name, value in method.state().items():
                given = self.state[name]
                # Some would be stretched or converted without a word.
                if (given.dtype, given.shape) != (value.dtype, value.shape):
                    raise TypeError(f"{name}: {_kind(given)}, expected {_kind(value)}")
        return method

    def without_decoder(self) -> Model:
        """An encoder as it was before a decoder was grafted onto it; any other is itself."""
        return replace(self, state={name: value for name, value in self.state.items() if not name.startswith(DECODER)})

    @contextmanager
    def taken_over(self) -> Iterator[None]:
        """While a method takes over the state: whatever it says of one that is not its own becomes an `InputError`."""
        try:
            yield
        except (InputError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(
                f"{self.recipe.where}: the state in model.safetensors beside it does not fit ({_reason(error)}); "
                "train again"
            ) from None


def load_setting(scene: Path, space: Path, tiles: Path | None = None, sources: Path | None = None) -> Setting:
    """The folders that the steps before have made, on the best device there is."""
    surroundings = space / SURROUNDINGS
    clouds = [space / "points.ply", *sorted((space / "points").glob("*.ply"))]
    return Setting(
        Scene.load(scene),
        Space.load(space / "space.json"),
        Occupancy.load(space / "occupancy.safetensors"),
        Tiles(tiles) if tiles else None,
        "cuda" if torch.cuda.is_available() else "cpu",
        space / "points",
        next((cloud for cloud in clouds if cloud.is_file()), None),
        Tiles(sources) if sources else None,
        surroundings if surroundings.is_dir() else None,
    )


def read_recipe(path: Path, phase: Phase) -> Recipe:
    """`method` and the sections of the recipe at `path` that `phase` reads; raises `InputError` if one is missing."""
    content = load_yaml(path)
    wanted = ("method", *_SECTIONS[phase])
    if missing := [key for key in wanted if key not in content]:
        raise InputError(f"{path}: section '{missing[0]}' is missing")
    recipe = Recipe({key: content[key] for key in wanted}, str(path))
    _check_method(recipe)
    return recipe


def train_phase(
    phase: Phase,
    recipe: Recipe,
    setting: Setting,
    *,
    resume: Path,
    inputs: Mapping[str, str],
    report: Report,
    encoder: Model | None = None,
) -> Model:
    """Train one phase of a trial, from the newest checkpoint in `resume` if there is one.

    Args:
        recipe: as `read_recipe` gives it.
        inputs: digests of what is read; a checkpoint made from others is refused.
        encoder: where the joint phase begins.

    Raises:
        InputError: the recipe does not fit, the encoder was made by another section `encoder`, or its state is not that
            of such an encoder.
    """
    seed = int(recipe.content[phase].get("seed", 0))
    torch.manual_seed(seed)
    method = _make(phase, recipe, setting)
    if encoder:
        if encoder.recipe.content["encoder"] != recipe.content["encoder"]:
            raise InputError(
                f"{recipe.where}: its section 'encoder' is not that of {encoder.recipe.where}, with which it should "
                "begin; make them equal, or give the trial an encoder of its own in configs/pipeline.yaml"
            )
        with encoder.taken_over():
            method.start_from(encoder.state)
    fit(method, seed=seed, resume=resume, configuration={"recipe": recipe.content, "inputs": inputs}, report=report)
    return Model(phase, recipe, method.state())


def graft(encoder: Model, donor: Model) -> Model:
    """`encoder` with the decoder of a trained trial, with which a joint phase then begins (4K-NeRF, section 5.6).

    Raises `InputError` if the donor has no decoder.
    """
    decoder = {name: value for name, value in donor.state.items() if name.startswith(DECODER)}
    if not decoder:
        raise InputError(f"{donor.recipe.where}: its method {donor.recipe.method!r} has no decoder to begin with")
    return replace(encoder, state={**encoder.state, **decoder})


def graft_codebook(encoder: Model, codebook: Codebook) -> Model:
    """`encoder` with a pretrained codebook, with which the joint phase of VQ-NeRF then begins."""
    tensors = {f"{DECODER}{name}": value for name, value in codebook.model.state_dict().items()}
    return replace(encoder, state={**encoder.state, **tensors})


def sample(model: Model, setting: Setting, level: Level) -> tuple[Pixels, float]:
    """The first test view, rendered beside its photo, and its PSNR in dB."""
    if setting.tiles is None:
        raise ValueError("a sample needs the tiles")
    name = setting.scene.test[0]
    picture = model.method_for(setting).render(setting.scene.camera(name, level), 0.0)
    rendered, photo = to_uint8(picture.colour.cpu().numpy()), setting.tiles.image(name, level)
    return np.concatenate([rendered, photo], 1), psnr(rendered, photo)


def _make(phase: Phase, recipe: Recipe, setting: Setting) -> Method:
    method: Method = METHODS[recipe.method](phase, recipe, setting)
    return method


def _check_method(recipe: Recipe) -> None:
    if recipe.method not in METHODS:
        raise InputError(f"{recipe.where}: method: unknown {recipe.method!r}; known: {', '.join(METHODS)}")


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def _reason(error: Exception) -> str:
    """In one line; torch's last one names a tensor."""
    *_, last = str(error).splitlines() or [type(error).__name__]
    return f"{last.strip()} is missing" if isinstance(error, KeyError) else last.strip()
