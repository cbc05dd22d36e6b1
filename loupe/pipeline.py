"""What is run: `configs/pipeline.yaml`, which DVC's stages are made of. Its names become folders, stages and jobs."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from loupe.config import Config, check_name, load_yaml, parse_section
from loupe.errors import InputError


class EncoderEntry(Config):
    """An entry of `encoders`: a recipe's encoder phase on a capture."""

    capture: str
    recipe: str


class GraftEntry(Config):
    """An entry of `grafts`: the encoder of a recipe on a capture beside the decoder of another trial, `init_from`
    (capture/recipe). Trials name it as their encoder by `name`."""

    capture: str
    name: str
    encoder: str
    init_from: str


class CodebookGraftEntry(Config):
    """An entry of `codebook_grafts`: the encoder of a recipe on a capture beside a codebook. Trials of VQ-NeRF name it
    as their encoder by `name`."""

    capture: str
    name: str
    encoder: str
    codebook: str


class TrialEntry(Config):
    """An entry of `trials`: a recipe on a capture; `encoder` is the recipe whose encoder it begins with, or a graft."""

    capture: str
    recipe: str
    encoder: str


class CodebookEntry(Config):
    """An entry of `codebooks`: trained on all of `captures` together, as configs/codebooks/`config`.yaml says."""

    config: str
    captures: list[str]


class CodebookCaptureEntry(Config):
    """An entry of `codebook_captures`: a capture that a codebook is trained on, for which its views are gathered."""

    codebook: str
    capture: str


class Pipeline(Config):
    """The file's content; what it says of `score` is read by the step of that name."""

    captures: list[str] = Field(default_factory=list)
    encoders: dict[str, EncoderEntry] = Field(default_factory=dict)
    grafts: dict[str, GraftEntry] = Field(default_factory=dict)
    codebook_grafts: dict[str, CodebookGraftEntry] = Field(default_factory=dict)
    trials: dict[str, TrialEntry] = Field(default_factory=dict)
    codebooks: dict[str, CodebookEntry] = Field(default_factory=dict)
    codebook_captures: dict[str, CodebookCaptureEntry] = Field(default_factory=dict)
    score: object = None


def read_pipeline(path: Path) -> Pipeline:
    """The pipeline at `path`. Raises `InputError` for what does not fit and for names that are none."""
    content = {key: value for key, value in load_yaml(path).items() if value is not None}
    pipeline = parse_section(Pipeline, content, str(path))
    try:
        for capture in pipeline.captures:
            check_name(capture, "capture")
        grafts = *pipeline.grafts, *pipeline.codebook_grafts
        for key in (*pipeline.encoders, *grafts, *pipeline.trials, *pipeline.codebook_captures):
            for name in key.split(".", 1):
                check_name(name, "entry")
        for encoder in pipeline.encoders.values():
            check_name(encoder.capture, "capture")
            check_name(encoder.recipe, "recipe")
        for graft in pipeline.grafts.values():
            check_name(graft.capture, "capture")
            check_name(graft.name, "graft")
            check_name(graft.encoder, "encoder")
            for name in graft.init_from.split("/", 1):
                check_name(name, "init_from")
        for grafted in pipeline.codebook_grafts.values():
            check_name(grafted.capture, "capture")
            check_name(grafted.name, "graft")
            check_name(grafted.encoder, "encoder")
            check_name(grafted.codebook, "codebook")
        for trial in pipeline.trials.values():
            check_name(trial.capture, "capture")
            check_name(trial.recipe, "recipe")
            check_name(trial.encoder, "encoder")
        _check_folders(pipeline)
        _check_codebooks(pipeline)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return pipeline


def read_codebook(path: Path, name: str) -> CodebookEntry:
    """Codebook `name` of the pipeline at `path`; raises `InputError` as `read_pipeline` does, or if it is not there."""
    codebooks = read_pipeline(path).codebooks
    if name not in codebooks:
        raise InputError(f"{path}: codebooks: no {name!r} there")
    return codebooks[name]


def _check_folders(pipeline: Pipeline) -> None:
    """Encoders and grafts share the folders data/trials/<capture>/<name>/encoder: no two make the same one."""
    made = [(f"encoders.{key}", entry.capture, entry.recipe) for key, entry in pipeline.encoders.items()]
    made += [(f"grafts.{key}", entry.capture, entry.name) for key, entry in pipeline.grafts.items()]
    made += [(f"codebook_grafts.{key}", entry.capture, entry.name) for key, entry in pipeline.codebook_grafts.items()]
    makers: dict[str, str] = {}
    for key, capture, name in made:
        folder = f"data/trials/{capture}/{name}/encoder"
        if folder in makers:
            raise InputError(f"{key}: {makers[folder]} makes {folder} already; choose another name")
        makers[folder] = key


def _check_codebooks(pipeline: Pipeline) -> None:
    """Names; and that the captures that codebooks list are those of `codebook_captures`.

    They stand in both since DVC makes a stage of every entry, and knows no loop within a loop.
    """
    gathered = {(entry.codebook, entry.capture): key for key, entry in pipeline.codebook_captures.items()}
    for (name, capture), key in gathered.items():
        if name not in pipeline.codebooks:
            raise InputError(f"codebook_captures.{key}: no codebook {name!r} in codebooks")
        if capture not in pipeline.codebooks[name].captures:
            raise InputError(f"codebook_captures.{key}: codebooks.{name} does not list capture {capture!r}")
    for name, codebook in pipeline.codebooks.items():
        check_name(name, "codebook")
        check_name(codebook.config, "codebook configuration")
        if not codebook.captures:
            raise InputError(f"codebooks.{name}: captures is empty; name at least one to train on")
        if len(set(codebook.captures)) < len(codebook.captures):
            raise InputError(f"codebooks.{name}: captures names one twice")
        for capture in codebook.captures:
            check_name(capture, "capture")
            if (name, capture) not in gathered:
                line = f"{name}.{capture}: {{ codebook: {name}, capture: {capture} }}"
                raise InputError(f"codebooks.{name}: capture {capture!r} needs a line in codebook_captures: {line}")
