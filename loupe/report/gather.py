"""What the report reads: scores and logs of the trials and codebooks that the pipeline lists."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loupe.config import Config, check_name, load_yaml, parse_section
from loupe.errors import InputError

STEPS = ("pretrain_codebook", "fit_encoder", "train_joint", "render_views", "score_renders")


class TrialEntry(Config):
    """An entry of the pipeline's `trials`."""

    capture: str
    recipe: str


class CodebookEntry(Config):
    """An entry of the pipeline's `codebooks`: trained on `capture` as configs/codebooks/`config`.yaml says."""

    capture: str
    config: str


@dataclass(frozen=True)
class StepLog:
    """The log of a step: `run.json`, and its curves {name: [(step, value)]} in the order of the steps."""

    name: str
    run: Mapping[str, Any]
    curves: Mapping[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Trial:
    """A recipe on a capture. `scores` is the content of its `scores.json`, empty where it has not been scored yet;
    picture paths in it are relative to `folder`."""

    capture: str
    recipe: str
    folder: Path
    scores: Mapping[str, Any]
    logs: Mapping[str, StepLog]


@dataclass(frozen=True)
class Codebook:
    """A pretrained codebook; `scores` is empty where it has not been trained yet."""

    name: str
    capture: str
    config: str
    folder: Path
    scores: Mapping[str, Any]
    logs: Mapping[str, StepLog]


def read_trials(config: Path, folder: Path) -> list[Trial]:
    """The trials that the configuration lists, in its order. Raises `InputError` for bad entries and broken files."""
    trials = []
    for key, content in _listed(config, "trials").items():
        entry = parse_section(TrialEntry, content, f"{config}: trials.{key}")
        place = folder / check_name(entry.capture, "capture") / check_name(entry.recipe, "recipe")
        scores = _read_json(place / "scores" / "scores.json")
        trials.append(Trial(entry.capture, entry.recipe, place / "scores", scores, read_logs(place / "log")))
    return trials


def read_codebooks(config: Path, folder: Path) -> list[Codebook]:
    """The codebooks that the configuration lists. Raises `InputError` as `read_trials` does."""
    codebooks = []
    for name, content in _listed(config, "codebooks").items():
        entry = parse_section(CodebookEntry, content, f"{config}: codebooks.{name}")
        place = folder / check_name(name, "codebook")
        made, logs = place / "codebook", read_logs(place / "log")
        scores = _read_json(made / "scores.json")
        codebooks.append(Codebook(name, entry.capture, entry.config, made, scores, logs))
    return codebooks


def _listed(config: Path, section: str) -> dict[str, Any]:
    entries = load_yaml(config).get(section) or {}
    if not isinstance(entries, dict):
        raise InputError(f"{config}: {section}: expected 'name: {{...}}' lines")
    return entries


def read_logs(folder: Path) -> dict[str, StepLog]:
    """The logs in `folder`, in the order of the steps."""
    logs = {}
    for name in STEPS:
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
