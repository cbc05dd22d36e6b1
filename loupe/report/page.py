"""The page: one HTML file that holds everything it shows and loads nothing.

Templates escape whatever they are given; only the charts, which escape their own labels, come as markup. The page's
content security policy allows no script but its own and no request at all.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from loupe.errors import InputError
from loupe.images import read_image
from loupe.pipeline import read_pipeline
from loupe.report import tables
from loupe.report.charts import Chart, draw
from loupe.report.gather import Codebook, Film, StepLog, Trial, read_codebooks, read_trials
from loupe.report.templates import data_uri, fill, style

_HERE = Path(__file__).parent
_VIEWS = 3  # of a capture, shown with pictures
_PAIRS = 12  # of a test view and its nearest training photo
_CODEBOOK_VIEWS = 2
_LARGE = 20 << 20
_LARGE_FILM = 8 << 20
_KINDS = {".jpg": "image/jpeg", ".png": "image/png", ".mp4": "video/mp4"}
_TRAINING = ("fit_encoder", "train_joint")


@dataclass(frozen=True)
class Shot:
    """What a trial made of a view: pictures as data URIs, its crops, and its scores as text by label."""

    recipe: str
    render: str
    true: str
    error: str
    crops: Sequence[Mapping[str, Any]]
    scores: Mapping[str, str]


@dataclass(frozen=True)
class Shown:
    """A film of a scene that moves, as a data URI, or "" where it is too large for the page."""

    recipe: str
    place: str
    file: str
    uri: str


@dataclass(frozen=True)
class Capture:
    """A capture's part of the page; `box_means` and `box_views` are scores within the subject's box, without a row
    where there are none; `unseen` views are scored and not shown, and of `kept` of them there are pictures; `films`:
    recipe, slice as a data URI, and what to know of it."""

    name: str
    size: str
    scored: Sequence[Trial]
    missing: Sequence[Trial]
    means: tables.ScoreTable
    views: tables.ScoreTable
    box_means: tables.ScoreTable
    box_views: tables.ScoreTable
    shots: Mapping[str, Sequence[Shot]]
    unseen: int
    kept: int
    charts: Sequence[Chart]
    costs: Sequence[tuple[str, StepLog]]
    nearest: str
    films: Sequence[tuple[str, str, str]]
    moving: Sequence[Shown]


def write_report(config: Path, trials: Path, codebooks: Path, out: Path, say: Callable[[str], None]) -> int:
    """Write `index.html` and `scores.csv` into `out`, which exists; returns the number of trials with scores.

    Args:
        config: the pipeline's configuration, which lists trials and codebooks.
        trials, codebooks: the folders that hold them.
        say: takes a line for each trial or codebook that is missing, and one if the page is large.

    Raises:
        InputError: the configuration lists something that cannot be one, or a file of a trial is broken.
    """
    pipeline = read_pipeline(config)
    listed, books = read_trials(pipeline, trials), read_codebooks(pipeline, codebooks)
    for trial in listed:
        if not trial.scores:
            say(f"{trial.capture}.{trial.recipe} has no scores yet")
    for book in books:
        if not book.scores:
            say(f"codebook {book.name} has not been trained yet")
    page = render_page(listed, books).encode()
    if len(page) > _LARGE:
        say(f"the page is large: {len(page) / 1e6:.0f} MB")
    (out / "index.html").write_bytes(page)
    (out / "scores.csv").write_text(tables.scores_csv(listed), encoding="utf8")
    return sum(bool(trial.scores) for trial in listed)


def render_page(trials: Sequence[Trial], codebooks: Sequence[Codebook]) -> str:
    """The page as text. Raises `InputError` if a picture that the scores name is missing."""
    script = (_HERE / "compare.js").read_text(encoding="utf8").strip()
    captures = list(dict.fromkeys(trial.capture for trial in trials))
    return fill(
        "page.html.jinja",
        captures=[_capture(name, [trial for trial in trials if trial.capture == name]) for name in captures],
        trials=trials,
        codebooks=[(book, _codebook_pictures(book), _codebook_charts(book)) for book in codebooks],
        style=style("style.css"),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        commits=_commits([*(trial.logs for trial in trials), *(book.logs for book in codebooks)]),
        labels=tables.LABELS,
        arrow=tables.arrow,
        cost=_cost,
        parameters=_parameters,
    )


def _commits(logs: Iterable[Mapping[str, StepLog]]) -> list[str]:
    return sorted({log.run["commit"] for steps in logs for log in steps.values() if log.run["commit"]})


def _capture(name: str, trials: Sequence[Trial]) -> Capture:
    scored = [trial for trial in trials if trial.scores]
    views = list(dict.fromkeys(view for trial in scored for view in trial.scores["views"]))
    kept = [view for view in views if any(view in trial.scores["pictures"] for trial in scored)]
    sizes = sorted({tuple(size) for trial in scored for size in trial.scores["sizes"].values()})
    return Capture(
        name=name,
        size=", ".join(f"{width} \N{MULTIPLICATION SIGN} {height}" for width, height in sizes),
        scored=scored,
        missing=[trial for trial in trials if not trial.scores],
        means=tables.mean_table(trials),
        views=tables.view_table(trials),
        box_means=tables.mean_table(tables.boxed(trials)),
        box_views=tables.view_table(tables.boxed(trials)),
        shots={view: [shot for trial in scored if (shot := _shot(trial, view))] for view in kept[:_VIEWS]},
        unseen=len(views) - len(kept[:_VIEWS]),
        kept=len(kept[_VIEWS:]),
        charts=[chart for step in _TRAINING for chart in _training_charts(step, trials)],
        costs=[(trial.recipe, log) for trial in trials for log in trial.logs.values()],
        nearest=_nearest(scored),
        films=[(trial.recipe, *_film(trial.film)) for trial in trials if trial.film],
        moving=[_moving(trial.recipe, *film) for trial in trials for film in trial.moving.items()],
    )


def _shot(trial: Trial, view: str) -> Shot | None:
    kept = trial.scores["pictures"].get(view)
    if kept is None:
        return None
    values = trial.scores["views"][view]
    crops = [
        {"window": crop["window"], **{key: _data_uri(trial.folder / crop[key]) for key in ("render", "true")}}
        for crop in kept["crops"]
    ]
    shown = {tables.LABELS[name]: tables.number(name, value) for name, value in values.items() if value is not None}
    pictures = {key: _data_uri(trial.folder / kept[key]) for key in ("render", "true", "error")}
    return Shot(recipe=trial.recipe, **pictures, crops=crops, scores=shown)


def _film(film: Film) -> tuple[str, str]:
    """The slice as a data URI, and what to know of it."""
    uri, error = _data_uri(film.slice), tables.number("warping_error", film.warping_error)
    height, frames = read_image(film.slice).shape[:2]
    return uri, f"warping error {error}; {frames} frames, {height} pixels high"


def _moving(recipe: str, place: str, path: Path) -> Shown:
    large = path.is_file() and path.stat().st_size > _LARGE_FILM
    return Shown(recipe, place, path.name, "" if large else _data_uri(path))


def _data_uri(path: Path) -> str:
    try:
        return data_uri(path.read_bytes(), _KINDS[path.suffix])
    except OSError:
        raise InputError(f"{path}: cannot be read; run the step that makes it again") from None


def _nearest(scored: Sequence[Trial]) -> str:
    """Which training photo the baseline took for which view."""
    chosen = scored[0].scores["baselines"].get("nearest_view", {}).get("taken_from", {}) if scored else {}
    pairs = [f"{view} ← {taken}" for view, taken in chosen.items()]
    rest = len(pairs) - _PAIRS
    return ", ".join([*pairs[:_PAIRS], *([f"and for {rest} more views, see scores.json"] if rest > 0 else [])])


def _training_charts(step: str, trials: Sequence[Trial]) -> Iterable[Chart]:
    """PSNR over the steps, a line for each recipe; then the loss terms of each recipe."""
    logs = {trial.recipe: trial.logs[step].curves for trial in trials if step in trial.logs}
    yield from draw(f"{step} · PSNR, dB", {recipe: curves.get("psnr", []) for recipe, curves in logs.items()})
    for recipe, curves in logs.items():
        yield from _losses(f"{step} · {recipe} · losses", curves)


def _codebook_charts(book: Codebook) -> list[Chart]:
    log = book.logs.get("pretrain_codebook")
    if log is None:
        return []
    lines = {"with quantisation": "psnr", "without": "reference.psnr"}
    psnr = {label: log.curves[key] for label, key in lines.items() if key in log.curves}
    return [*draw("PSNR of batches, dB", psnr), *_losses("losses", log.curves)]


def _losses(title: str, curves: Mapping[str, list[tuple[int, float]]]) -> Iterable[Chart]:
    terms = {name.removeprefix("loss."): points for name, points in curves.items() if name.startswith("loss.")}
    return draw(title, terms, logarithmic=True)


def _codebook_pictures(book: Codebook) -> list[dict[str, str]]:
    """For the first views of each capture: the same crop as photographed, with and without quantisation."""
    shown = []
    for capture, scores in book.scores.get("captures", {}).items():
        for view in list(scores["views"])[:_CODEBOOK_VIEWS]:
            name = f"{capture}.{view}"
            files = {key: book.folder / "pictures" / f"{name}_{key}.jpg" for key in ("original", "vq", "plain")}
            shown.append({"view": name} | {key: _data_uri(path) for key, path in files.items() if path.is_file()})
    return shown


def _cost(run: Mapping[str, Any]) -> dict[str, str]:
    """What a step took: time, memory and machine, as text; a dash where it has not ended."""
    seconds, memory, gpu = (run.get(key) for key in ("seconds", "peak_memory_mb", "peak_gpu_mb"))
    return {
        "time": tables.ABSENT if seconds is None else _duration(seconds),
        "memory": tables.ABSENT if memory is None else f"{memory / 1000:.2f} GB",
        "gpu": f"{gpu / 1000:.2f} GB" if gpu else tables.ABSENT,
        "machine": f"{run.get('device', '?')}, {run.get('threads', '?')} threads",
    }


def _duration(seconds: float) -> str:
    """
    >>> _duration(5.25), _duration(75), _duration(7300)
    ('5.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _parameters(log: StepLog) -> str:
    return yaml.safe_dump(log.run["parameters"], sort_keys=False, default_flow_style=None, allow_unicode=True)
