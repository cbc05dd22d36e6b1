"""What the Snakefile needs of `dvc.yaml`: one `Rule` per stage, read from DVC's own index, and which stages changed.

DVC alone decides whether a stage has to run, by digests; Snakemake decides by modification times, which say too little
(the same date on new bytes, an edit inside a folder, outputs that the other engine made) or too much (a touched file).
So the sources of a rule are `ancient`, and every rule has a marker among its inputs, a folder that Snakemake finds
newer than any output exactly if `dvc status` calls the stage changed. Snakemake then runs the changed stages and all
that stand behind them, and DVC, asked for each, runs it, restores it from its cache or leaves it as it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from dvc.repo import Repo
from dvc.stage import PipelineStage

MARKERS = Path(".snakemake/changed")


@dataclass(frozen=True)
class Rule:
    """A stage in Snakemake's words; paths are relative to the repository."""

    name: str
    sources: list[str]
    made: list[str]
    marker: str
    outputs: list[str]
    threads: int
    resources: dict[str, object]


def rules(repo: Repo) -> list[Rule]:
    """One rule per stage of `dvc.yaml`. A dependency on a folder that holds outputs stands for all of them."""
    stages = [stage for stage in repo.index.stages if isinstance(stage, PipelineStage)]
    made = [_path(out, repo) for stage in stages for out in stage.outs]
    return [_rule(stage, made, repo) for stage in stages]


def mark_changed(repo: Repo, every: Iterable[Rule]) -> None:
    """Dates each rule's marker: now if DVC calls the stage changed, else 1970."""
    changed = repo.status()
    for rule in every:
        Path(rule.marker).mkdir(parents=True, exist_ok=True)
        date = time.time() if rule.name in changed else 0.0
        os.utime(rule.marker, (date, date))


def _rule(stage: PipelineStage, made: list[str], repo: Repo) -> Rule:
    needed = [_path(dependency, repo) for dependency in stage.deps]
    below = [path for path in made if any(path == need or path.startswith(f"{need}/") for need in needed)]
    sources = [need for need in needed if not any(path == need or path.startswith(f"{need}/") for path in made)]
    asked = dict((stage.meta or {}).get("resources", {}))
    threads = asked.pop("threads", 1)
    growing = {key: _growing(asked.pop(key)) for key in ("mem_mb", "runtime") if key in asked}
    return Rule(
        name=stage.name,
        sources=list(dict.fromkeys(sources)),
        made=below,
        marker=str(MARKERS / stage.name),
        outputs=[_path(out, repo) for out in stage.outs],
        threads=threads,
        resources=asked | growing,
    )


def _growing(amount: int) -> Callable[[object, int], int]:
    """A first attempt gets the amount, the second twice as much ...: it may have died for want of memory or time."""
    return lambda wildcards, attempt: amount * attempt


def _path(item: object, repo: Repo) -> str:
    return Path(item.fs_path).relative_to(repo.root_dir).as_posix()
