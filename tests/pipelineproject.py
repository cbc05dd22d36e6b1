"""The real steps in a project of their own: the repository's `steps/` and `dvc.yaml` over `tests/pipeline/`.

A capture of nine of the demo's photos, and everything at toy size, so that one processor core goes from photos to
report in under a minute. Nothing is random, and no GPU is used.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import yaml
from toyproject import ROOT, Project

PHOTOS = [f"view_{number:02}.jpg" for number in range(0, 18, 2)]


class Pipeline(Project):
    """A project whose stages are the repository's."""

    @property
    def environment(self) -> dict[str, str]:
        """Torch's cache is empty, so no weights are found; one thread unless the caller says otherwise."""
        threads = os.environ.get("OMP_NUM_THREADS", "1")
        own = {"MLFLOW_TRACKING_URI": "none", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": threads}
        base = super().environment
        base.pop("PYTHONDONTWRITEBYTECODE", None)  # torch's compiler, which every optimiser imports, would take 7 s
        return base | own | {"OMP_WAIT_POLICY": "PASSIVE", "TORCH_HOME": base["HOME"]}

    @property
    def stages(self) -> dict[str, dict]:
        """What DVC recorded of each stage, in the order of `dvc.yaml`, then of their names."""
        order = list(yaml.safe_load(self.path("dvc.yaml").read_text())["stages"])
        recorded = yaml.safe_load(self.path("dvc.lock").read_text())["stages"]
        return dict(sorted(recorded.items(), key=lambda pair: (order.index(step_of(pair[0])), pair[0])))

    def product(self, stage: str) -> Path:
        """The folder of the stage's product."""
        return self.path(self._option(stage, "--out"))

    def log(self, stage: str) -> Path:
        """The folder of the stage's log."""
        return self.path(self._option(stage, "--log"))

    def command(self, stage: str) -> list[str]:
        """The stage's own command line: python, the script, and its options."""
        return shlex.split(self.stages[stage]["cmd"])

    def _option(self, stage: str, name: str) -> str:
        words = self.command(stage)
        return words[words.index(name) + 1]


def step_of(stage: str) -> str:
    """`fit_encoder@tiny.small` -> `fit_encoder`."""
    return stage.partition("@")[0]


def create(folder: Path) -> Pipeline:
    """The project in a folder, with nothing made yet."""
    project = Pipeline(folder / "project", folder / "orders")
    shutil.copytree(ROOT / "tests/pipeline", project.root)
    shutil.copytree(ROOT / "steps", project.path("steps"), ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", "weights/README.md", *(f"data/captures/demo/{photo}" for photo in PHOTOS)):
        copied = project.path(name.replace("/demo/", "/tiny/"))
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copied)
    project.call("git", "init", "--quiet")
    project.call("dvc", "init", "--quiet")
    shutil.copy(ROOT / ".dvc/config", project.path(".dvc/config"))
    return project


def spoil(project: Pipeline, stage: str, views: list[str]) -> None:
    """Replace the pixels of some views in the tiles that `stage` cut by noise."""
    from loupe.tiles import LEVELS, Tiles

    folder = project.product(stage)
    tiles, random = Tiles(folder), np.random.default_rng(0)
    table = yaml.safe_load((folder / "tiles.json").read_text())
    for level in LEVELS:
        path = folder / f"{level}.u8"
        pixels = np.fromfile(path, np.uint8)
        for view in views:
            start, count = 3 * table["views"][level][view][0], tiles.image(view, level).size
            pixels[start : start + count] = random.integers(0, 256, count, np.uint8)
        path.unlink()  # a link into DVC's cache
        pixels.tofile(path)
