"""A toy project in a folder of its own: the real Snakefile, `workflow/` and DVC settings over `tests/toy/dvc.yaml`.

Its steps count their executions outside the repository (see toy/steps/toy.py), which is what the tests look at:
listed jobs, restored outputs and skipped stages leave no trace there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).parents[1]
ENGINES = {"dvc": ["dvc", "repro"], "snakemake": ["snakemake", "all"]}
TRIALS = ["left.plain", "left.sharp", "right.plain", "right.sharp"]
EVERY = sorted(
    ["ingest_photos@left", "ingest_photos@right", "write_report@all"]
    + [f"{step}@{trial}" for step in ("fit_encoder", "train_joint") for trial in TRIALS]
)
STEPS = 200  # of a training, see toy/steps/training.py


@dataclass
class Project:
    """`root` is the repository; `orders` the folder where steps count and take orders."""

    root: Path
    orders: Path

    def path(self, name: str) -> Path:
        return self.root / name

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of this machine's settings, and nothing written outside the test's folder."""
        foreign = ("DVC_", "SNAKEMAKE_", "GIT_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        home = self.root.parent / "home"
        home.mkdir(exist_ok=True)
        own = {
            "TOY": self.orders,
            "MLFLOW_TRACKING_URI": "none",
            "HOME": home,
            "XDG_CACHE_HOME": home,
            "XDG_CONFIG_HOME": home,
            "DVC_SITE_CACHE_DIR": home,
            "GIT_CONFIG_NOSYSTEM": 1,
            "GIT_AUTHOR_NAME": "toy",
            "GIT_AUTHOR_EMAIL": "toy",
            "GIT_COMMITTER_NAME": "toy",
            "GIT_COMMITTER_EMAIL": "toy",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        return kept | {name: str(value) for name, value in own.items()}

    def start(self, *command: str, **options: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # under nohup steps watch no parent
            **options,
        )

    def call(self, *command: str, succeeds: bool = True) -> str:
        """The command's output on the terminal."""
        process = self.start(*command)
        try:
            output, _ = process.communicate(timeout=900)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert (process.returncode == 0) == succeeds, output
        return output

    def executed(self) -> list[str]:
        """What was executed so far, in order: `<step>@<key>`."""
        counter = self.orders / "executed"
        return [line.split()[0] for line in counter.read_text().splitlines()] if counter.exists() else []

    def executed_by(self, engine: str) -> list[str]:
        """What one successful run of the engine executes, sorted."""
        before = len(self.executed())
        self.call(*ENGINES[engine])
        return sorted(self.executed()[before:])

    def order(self, instance: str, what: str) -> Path:
        order = self.orders / instance.replace("@", ".")
        order.write_text(what)
        return order

    def trained(self, instance: str) -> list[list[int]]:
        """The steps, in order, that each execution of a training did."""
        lines = self.orders / f"trained.{instance.replace('@', '.')}"
        done: dict[str, list[int]] = {}
        for line in lines.read_text().splitlines() if lines.exists() else []:
            process, step = line.split()
            done.setdefault(process, []).append(int(step))
        return list(done.values())

    def replace(self, name: str, old: str, new: str) -> None:
        text = self.path(name).read_text()
        assert old in text
        self.path(name).write_text(text.replace(old, new))

    def product(self) -> str:
        return self.path("data/report/product.txt").read_text()

    def true_product(self, scratch: Path, trainings: Sequence[str] = ()) -> str:
        """The report's product by the steps alone, run one after the other in a copy of the sources."""
        for name in ("steps", "configs", "data/captures"):
            shutil.copytree(self.path(name), scratch / name)
        for instance in trainings:
            Project(scratch, scratch).order(instance, "train 0")
        stages = yaml.safe_load(self.path("dvc.lock").read_text())["stages"]
        order = ["ingest_photos", "fit_encoder", "train_joint", "write_report"]
        environment = self.environment | {"TOY": str(scratch)}
        for name in sorted(stages, key=lambda name: order.index(name.partition("@")[0])):
            subprocess.run(stages[name]["cmd"], shell=True, check=True, cwd=scratch, env=environment)
        return (scratch / "data/report/product.txt").read_text()


def create(folder: Path) -> Project:
    """A project under version control, with nothing made yet."""
    project = Project(folder / "project", folder / "orders")
    project.orders.mkdir()
    shutil.copytree(ROOT / "tests/toy", project.root, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "workflow", project.path("workflow"), symlinks=True)
    for name in ("Snakefile", ".dvcignore"):
        shutil.copy(ROOT / name, project.path(name))
    for name in ("profiles", "slurm", "local"):
        project.path(name).symlink_to(os.readlink(ROOT / name))
    project.call("git", "init", "--quiet")
    project.call("dvc", "init", "--quiet")
    shutil.copy(ROOT / ".dvc/config", project.path(".dvc/config"))
    return project


def copy(project: Project, folder: Path) -> Project:
    """The project as it stands, dates and hard links kept, in another folder."""
    subprocess.run(["cp", "-a", f"{project.root.parent}/.", str(folder)], check=True)
    return Project(folder / "project", folder / "orders")


def below(folder: Path) -> list[str]:
    """The command lines of the processes that work in this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == folder:
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
