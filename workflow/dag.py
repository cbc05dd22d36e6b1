"""What the Snakefile needs of `dvc.yaml`: one `Rule` per stage, read from DVC's own index, and which stages changed.

DVC alone decides whether a stage has to run, by digests; Snakemake decides by modification times, which say too little
(the same date on new bytes, an edit inside a folder, outputs that the other engine made) or too much (a touched file).
So the sources of a rule are `ancient`, and every rule has a marker among its inputs, a folder that Snakemake finds
newer than any output exactly if `dvc status` calls the stage changed. Snakemake then runs the changed stages and all
that stand behind them, and DVC, asked for each, runs it, restores it from its cache or leaves it as it is.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dvc.dependency import Dependency
from dvc.output import Output
from dvc.repo import Repo
from dvc.stage import PipelineStage
from snakemake_interface_common.exceptions import WorkflowError

from loupe.errors import InputError
from loupe.pipeline import read_pipeline
from workflow.stage import RUNNING

PIPELINE = Path("configs/pipeline.yaml")
MARKERS = Path(".snakemake/changed")
WORKFLOW = Path(".snakemake/workflow")  # locked by the one workflow of this folder


@dataclass(frozen=True)
class Rule:
    """A stage in Snakemake's words; paths are relative to the repository.

    `made` are the outputs of other stages that this one reads, `sources` all else that it reads.
    """

    name: str
    sources: list[str]
    made: list[str]
    marker: str
    outputs: list[str]
    threads: int
    resources: dict[str, object]


def rules(repo: Repo) -> list[Rule]:
    """One rule per stage of `dvc.yaml`. A dependency on a folder that holds outputs stands for all of them.

    Raises `WorkflowError` for a pipeline with names that cannot be any.
    """
    try:
        read_pipeline(Path(repo.root_dir) / PIPELINE)
    except InputError as error:
        raise WorkflowError(str(error)) from None
    stages = [stage for stage in repo.index.stages if isinstance(stage, PipelineStage)]
    outputs = [_path(output) for stage in stages for output in stage.outs]
    return [_rule(stage, outputs) for stage in stages]


def start(repo: Repo, every: list[Rule]) -> IO[str]:
    """Makes this the one workflow of its folder for as long as the file returned is open, and dates the markers.

    The system drops the lock of a process that dies, so nothing needs to be unlocked by hand; stages that a killed
    workflow left behind end by themselves and are waited for. Raises `WorkflowError` where another workflow runs, or
    where a source is missing: Snakemake itself says so only as long as no output exists.
    """
    try:
        workflow = _lock(WORKFLOW, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise WorkflowError("another workflow runs in this folder: wait for its end, or stop it") from None
    _check_sources(every)
    _wait_for_left_stages()
    changed = repo.status()
    for rule in every:
        _date_marker(Path(rule.marker), changed=rule.name in changed)
    return workflow


def _check_sources(every: list[Rule]) -> None:
    for rule in every:
        for source in rule.sources:
            if not os.path.exists(source):
                raise WorkflowError(f"{source}: not there, and {rule.name} reads it")


def _wait_for_left_stages() -> None:
    try:
        _lock(RUNNING, fcntl.LOCK_EX | fcntl.LOCK_NB).close()
    except BlockingIOError:
        print("waiting for the stages that an earlier workflow left running", file=sys.stderr)
        _lock(RUNNING, fcntl.LOCK_EX).close()


def _lock(path: Path, how: int) -> IO[str]:
    path.parent.mkdir(exist_ok=True)
    file = path.open("a")
    fcntl.flock(file, how)
    return file


def _date_marker(marker: Path, changed: bool) -> None:
    """Now, or 1970."""
    marker.mkdir(parents=True, exist_ok=True)
    date = time.time() if changed else 0.0
    os.utime(marker, (date, date))


def _rule(stage: PipelineStage, outputs: list[str]) -> Rule:
    needed = [_path(dependency) for dependency in stage.deps]
    asked = dict((stage.meta or {}).get("resources", {}))
    growing = {name: _growing(asked.pop(name)) for name in ("mem_mb", "runtime") if name in asked}
    return Rule(
        name=stage.name,
        sources=[need for need in dict.fromkeys(needed) if not any(_within(output, need) for output in outputs)],
        made=[output for output in outputs if any(_within(output, need) for need in needed)],
        marker=str(MARKERS / stage.name),
        outputs=[_path(output) for output in stage.outs],
        threads=asked.pop("threads", 1),
        resources=asked | growing,
    )


def _growing(amount: int) -> Callable[[object, int], int]:
    """A first attempt gets the amount, a second twice as much ...: it may have died for want of memory or time."""
    return lambda wildcards, attempt: amount * attempt


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _path(item: Dependency | Output) -> str:
    return Path(item.fs_path).relative_to(item.repo.root_dir).as_posix()
