"""Tables of scores: for the page, and as `scores.csv`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from loupe.report.gather import Trial
from loupe.report.published import PUBLISHED
from loupe.scoring import SCORES

ABSENT = "\N{EN DASH}"
Kind = Literal["trial", "baseline", "published"]

LABELS = {"psnr": "PSNR", "ssim": "SSIM", "lpips_alex": "LPIPS alex", "lpips_vgg": "LPIPS vgg", "niqe": "NIQE"}
BASELINES = {
    "mean_colour": "mean colour of the training photos",
    "nearest_view": "nearest training photo",
    "bicubic_of_true_low": "true low resolution, enlarged (an oracle: it saw the test photo)",
    "photo": "the test photo itself",
}
_DIGITS = {"psnr": 2, "ssim": 3, "lpips_alex": 3, "lpips_vgg": 3, "niqe": 2, "warping_error": 2}
_HIGHER_IS_BETTER = {"psnr", "ssim"}


@dataclass(frozen=True)
class Cell:
    """A number as text, whether it is the best of the trials, and the footnote (from 1) that says why it is absent."""

    text: str
    best: bool = False
    footnote: int | None = None


@dataclass(frozen=True)
class Row:
    """A line: what it is, the scores of its views' mean or of one view."""

    kind: Kind
    label: str
    cells: Sequence[Cell]
    view: str = ""


@dataclass
class ScoreTable:
    """`columns` are score names; `footnotes` the reasons of what is absent."""

    columns: Sequence[str]
    rows: list[Row] = field(default_factory=list)
    footnotes: list[str] = field(default_factory=list)
    source: str = ""

    def cell(self, values: Mapping[str, Any], name: str, left_out: Mapping[str, str], best: bool = False) -> Cell:
        """The score `name` of `values`; where it is absent for a reason, that becomes a footnote."""
        value = values.get(name)
        if value is not None:
            return Cell(number(name, value), best)
        if name not in left_out:
            return Cell(ABSENT)
        reason = f"{LABELS[name]}: {left_out[name]}"
        if reason not in self.footnotes:
            self.footnotes.append(reason)
        return Cell(ABSENT, footnote=self.footnotes.index(reason) + 1)


def number(name: str, value: float) -> str:
    """A score with the digits that papers give it."""
    return f"{value:.{_DIGITS[name]}f}"


def arrow(name: str) -> str:
    """Which way is better."""
    return "↑" if name in _HIGHER_IS_BETTER else "↓"


def mean_table(trials: Sequence[Trial]) -> ScoreTable:
    """Means over the test views of one capture: its trials, the baselines, and a paper's numbers for these photos."""
    scored = [trial for trial in trials if trial.scores]
    table = ScoreTable(_columns(scored))
    best = {name: _best(name, [trial.scores["mean"].get(name) for trial in scored]) for name in table.columns}
    for trial in scored:
        mean, left_out = trial.scores["mean"], trial.scores["left_out"]
        cells = [
            table.cell(mean, name, left_out, len(scored) > 1 and mean.get(name) == best[name]) for name in table.columns
        ]
        table.rows.append(Row("trial", trial.recipe, cells))
    _add_encoders(table, scored)
    if scored:
        _add_baselines(table, scored[0])
        _add_published(table, scored[0])
    return table


def boxed(trials: Sequence[Trial]) -> list[Trial]:
    """The trials with scores in a subject's box, and these alone in place of those of the whole pictures."""
    return [replace(trial, scores=trial.scores["box"]) for trial in trials if trial.scores.get("box")]


def _add_encoders(table: ScoreTable, scored: Sequence[Trial]) -> None:
    """What the trials began with, once where several share it."""
    shown: list[Mapping[str, Any]] = []
    for trial in scored:
        row = trial.scores.get("encoder")
        if row and row["views"] not in shown:
            shown.append(row["views"])
            cells = [table.cell(row["mean"], name, row["left_out"]) for name in table.columns]
            table.rows.append(Row("baseline", f"the encoder of {trial.recipe} alone, enlarged", cells))


def _add_baselines(table: ScoreTable, trial: Trial) -> None:
    for key, label in BASELINES.items():
        row = trial.scores["baselines"].get(key)
        if row is not None and row["mean"]:
            left_out = row["left_out"]
            cells = [table.cell(row["mean"], name, left_out) for name in table.columns]
            table.rows.append(Row("baseline", label, cells))


def _add_published(table: ScoreTable, trial: Trial) -> None:
    sizes = {(width, height) for width, height in trial.scores.get("sizes", {}).values()}
    published = PUBLISHED.get((trial.capture, sizes.pop())) if len(sizes) == 1 else None
    if published is not None:
        table.source = published.source
        for label, values in published.rows.items():
            table.rows.append(Row("published", label, [table.cell(values, name, {}) for name in table.columns]))


def view_table(trials: Sequence[Trial]) -> ScoreTable:
    """One row for each test view and trial of one capture."""
    scored = [trial for trial in trials if trial.scores]
    table = ScoreTable(_columns(scored))
    for view in dict.fromkeys(view for trial in scored for view in trial.scores["views"]):
        for trial in scored:
            values = trial.scores["views"].get(view)
            if values is not None:
                cells = [table.cell(values, name, {}) for name in table.columns]
                table.rows.append(Row("trial", trial.recipe, cells, view))
    return table


def _columns(scored: Sequence[Trial]) -> list[str]:
    present = {name for trial in scored for name in trial.scores["mean"]}
    return [name for name in SCORES if name in present]


def _best(name: str, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    pick = max if name in _HIGHER_IS_BETTER else min
    return pick(known, default=None)


def scores_csv(trials: Sequence[Trial]) -> str:
    """All scores as comma-separated values: a row for each capture, recipe and view, and for their mean.

    Baselines stand once a capture, as recipes "baseline.<name>", and what a trial began with as "<recipe>.encoder"; an
    absent score is an empty field. Where a trial has scores in a subject's box, columns "box.<score>" follow.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [*SCORES, *(f"box.{name}" for name in SCORES if boxed(trials))]
    writer.writerow(["capture", "recipe", "view", *columns])
    shown: set[str] = set()
    for trial in trials:
        if not trial.scores:
            continue
        first = trial.capture not in shown
        shown.add(trial.capture)
        whole, box = (_by_row(trial, scores, first) for scores in (trial.scores, trial.scores.get("box")))
        for (recipe, view), values in whole.items():
            in_box = {f"box.{name}": value for name, value in box.get((recipe, view), {}).items()}
            numbers = [(values | in_box).get(name) for name in columns]
            fields = ("" if number is None else f"{number:.6g}" for number in numbers)
            writer.writerow([trial.capture, recipe, view or "mean", *fields])
    return text.getvalue()


def _by_row(trial: Trial, scores: Mapping[str, Any] | None, baselines: bool) -> dict[tuple[str, str | None], Any]:
    """Scores by recipe and view; None is their mean."""
    if scores is None:
        return {}
    rows = {trial.recipe: scores}
    if "encoder" in scores:
        rows[f"{trial.recipe}.encoder"] = scores["encoder"]
    if baselines:
        rows |= {f"baseline.{name}": row for name, row in scores["baselines"].items()}
    return {
        (recipe, view): values
        for recipe, row in rows.items()
        for view, values in [*row["views"].items(), (None, row["mean"])]
    }
