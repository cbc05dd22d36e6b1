"""What the report reads: scores and logs of the trials and codebooks that the pipeline lists."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loupe.errors import InputError
from loupe.pipeline import Pipeline

STEPS = ("train_joint", "render_views", "score_renders")


@dataclass(frozen=True)
class StepLog:
    """The log of a step: `run.json`, and its curves {name: [(step, value)]} in the order of the steps."""

    name: str
    run: Mapping[str, Any]
    curves: Mapping[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Film:
    """How steady a trial's film is: see `loupe.consistency`."""

    warping_error: float
    slice: Path


@dataclass(frozen=True)
class Trial:
    """A recipe on a capture. `scores` is the content of its `scores.json`, empty where it has not been scored yet;
    picture paths in it are relative to `folder`. `film` is None where its frames have nothing in common. `moving` are
    the films of a scene that moves, by where their cameras stand."""

    capture: str
    recipe: str
    folder: Path
    scores: Mapping[str, Any]
    logs: Mapping[str, StepLog]
    film: Film | None = None
    moving: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Codebook:
    """A pretrained codebook; `scores` is empty where it has not been trained yet."""

    name: str
    captures: Sequence[str]
    config: str
    folder: Path
    scores: Mapping[str, Any]
    logs: Mapping[str, StepLog]


def read_trials(pipeline: Pipeline, folder: Path) -> list[Trial]:
    """The trials that the pipeline lists, in its order. Raises `InputError` for broken files."""
    fitted = {(graft.capture, graft.name): graft.encoder for graft in pipeline.grafts.values()}
    fitted |= {(graft.capture, graft.name): graft.encoder for graft in pipeline.codebook_grafts.values()}
    trials = []
    for entry in pipeline.trials.values():
        capture, encoder = folder / entry.capture, fitted.get((entry.capture, entry.encoder), entry.encoder)
        place = capture / entry.recipe
        logs = read_logs(capture / encoder / "log", ("fit_encoder",)) | read_logs(place / "log", STEPS)
        scores = _read_json(place / "scores" / "scores.json")
        films = _read_film(place / "renders"), _moving_films(place / "renders")
        trials.append(Trial(entry.capture, entry.recipe, place / "scores", scores, logs, *films))
    return trials


def _read_film(renders: Path) -> Film | None:
    content = _read_json(renders / "renders.json")
    error = content.get("warping_error")
    return None if error is None else Film(error, renders / "slice.png")


def _moving_films(renders: Path) -> dict[str, Path]:
    """The films of a scene that moves: its renders hold no slice."""
    content = {} if (renders / "slice.png").exists() else _read_json(renders / "renders.json")
    places = {"held_out": "held-out camera", "film": "moving camera"}
    return {place: renders / content[key] for key, place in places.items() if content.get(key)}


def read_codebooks(pipeline: Pipeline, folder: Path) -> list[Codebook]:
    """The codebooks that the pipeline lists. Raises `InputError` for broken files."""
    codebooks = []
    for name, entry in pipeline.codebooks.items():
        made, logs = folder / name / "codebook", read_logs(folder / name / "log", ("pretrain_codebook",))
        scores = _read_json(made / "scores.json")
        codebooks.append(Codebook(name, entry.captures, entry.config, made, scores, logs))
    return codebooks


def read_logs(folder: Path, steps: Sequence[str]) -> dict[str, StepLog]:
    """The logs of `steps` in `folder`, as far as there are any."""
    logs = {}
    for name in steps:
        run = _read_json(folder / name / "run.json")
        if run:
            logs[name] = StepLog(name, run, _read_curves(folder / name / "metrics.jsonl"))
    return logs


def _read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Of points that stand twice, after a resumption, the later one; what was not finite (null) is no point."""
    points: dict[str, dict[int, float]] = {}
    for line in path.read_text(encoding="utf8").splitlines() if path.is_file() else ():
        try:
            content = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a step that was killed while it wrote
        for name, value in content["values"].items():
            if value is not None:
                points.setdefault(name, {})[content["step"]] = value
    return {name: sorted(curve.items()) for name, curve in points.items()}


def _read_json(path: Path) -> dict[str, Any]:
    """The table in a file, empty where there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not complete JSON ({error}); run its step again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a table; run its step again")
    return content
