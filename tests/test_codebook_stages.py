"""The stages of codebooks as `dvc.yaml` has them, over steps of no weight: what runs when captures come and go.

A stub stands for each step: it counts its executions and copies what it reads.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import toyproject
import yaml
from dvc.repo import Repo
from toyproject import ROOT, Project

from workflow import dag

pytestmark = pytest.mark.timeout(600)

STUB = """\
import os, shutil, sys
from pathlib import Path
step, options = Path(sys.argv[0]).stem, dict(zip(sys.argv[1::2], map(Path, sys.argv[2::2])))
out, log = options["--out"], options["--log"]
key = f"{out.parts[2]}.{out.name}" if step == "gather_views" else out.parts[2]
with (Path(os.environ["TOY"]) / "executed").open("a") as executed:
    executed.write(f"{step}@{key} {os.getpid()}\\n")
shutil.copytree(options.get("--tiles", options.get("--views")), out, ignore=shutil.ignore_patterns(".*"))
log.mkdir(parents=True)
(log / "run.json").write_text(str(os.getpid()))
"""
STAGES = ("gather_views", "pretrain_codebook")
BOTH, SINGLE = {"both": ["left", "right"]}, {"single": ["right"]}


def list_codebooks(project: Project, codebooks: dict[str, list[str]]) -> None:
    """Write these codebooks, each with its captures, into the pipeline."""
    pairs = [(name, capture) for name, captures in codebooks.items() for capture in captures]
    content = {
        "codebooks": {name: {"config": "small", "captures": captures} for name, captures in codebooks.items()},
        "codebook_captures": {f"{name}.{capture}": {"codebook": name, "capture": capture} for name, capture in pairs},
    }
    project.path("configs/pipeline.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Made once, by Snakemake: a codebook of two captures, and one of the second of them."""
    project = toyproject.create(tmp_path_factory.mktemp("finished"))
    real = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    stages = {name: real["stages"][name] for name in STAGES}
    project.path("dvc.yaml").write_text(yaml.safe_dump({"vars": real["vars"], "stages": stages}))
    shutil.copytree(ROOT / "tests/pipeline/configs/codebooks", project.path("configs/codebooks"))
    shutil.copy(ROOT / ".gitignore", project.root)
    for step in STAGES:
        project.path(f"steps/{step}.py").write_text(STUB)
    for name in ("left", "right", "third"):
        for part in ("scene", "tiles"):
            project.path(f"data/scenes/{name}/{part}").mkdir(parents=True)
            project.path(f"data/scenes/{name}/{part}/full.u8").write_text(f"{part} of {name}")
    list_codebooks(project, BOTH | SINGLE)
    pairs = ["gather_views@both.left", "gather_views@both.right", "gather_views@single.right"]
    assert project.executed_by("snakemake") == [*pairs, "pretrain_codebook@both", "pretrain_codebook@single"]
    assert project.executed_by("dvc") == []
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    return toyproject.copy(finished, tmp_path)


def trained_on(project: Project, codebook: str) -> list[str]:
    return sorted(path.name for path in project.path(f"data/codebooks/{codebook}/codebook").iterdir() if path.is_dir())


def test_a_codebook_reads_the_views_of_its_own_captures(finished: Project) -> None:
    rules = {rule.name: rule for rule in dag.rules(Repo(str(finished.root)))}
    for codebook, captures in (BOTH | SINGLE).items():
        rule = rules[f"pretrain_codebook@{codebook}"]
        assert sorted(rule.made) == [f"data/codebooks/{codebook}/views/{capture}" for capture in captures]
        assert trained_on(finished, codebook) == captures


def test_a_new_capture_trains_its_codebook_alone(project: Project) -> None:
    list_codebooks(project, BOTH | {"single": ["right", "third"]})
    assert project.executed_by("dvc") == ["gather_views@single.third", "pretrain_codebook@single"]
    assert trained_on(project, "single") == ["right", "third"]


def test_a_capture_taken_away_trains_its_codebook_again(project: Project) -> None:
    """Its folder stays, and the real step refuses that (see `load_captures`); without the folder, all is as listed."""
    list_codebooks(project, {"both": ["left"]} | SINGLE)
    assert project.executed_by("dvc") == ["pretrain_codebook@both"]
    assert project.path("data/codebooks/both/views/right").is_dir()
    shutil.rmtree(project.path("data/codebooks/both/views/right"))
    assert project.executed_by("snakemake") == ["pretrain_codebook@both"]
    assert trained_on(project, "both") == ["left"]
    assert project.executed_by("dvc") == []


def test_other_pixels_train_the_codebooks_of_that_capture(project: Project) -> None:
    project.path("data/scenes/left/tiles/full.u8").write_text("other tiles")
    assert project.executed_by("dvc") == ["gather_views@both.left", "pretrain_codebook@both"]


def test_another_scene_with_the_same_views_trains_nothing(project: Project) -> None:
    """Other cameras, say: what is gathered is the same."""
    project.path("data/scenes/left/scene/full.u8").write_text("other scene")
    assert project.executed_by("dvc") == ["gather_views@both.left"]


def test_gathered_views_are_links_to_one_file(finished: Project) -> None:
    """DVC makes one object of the cache and links of what are equal files; the scenes here are none of its outputs."""
    views = [finished.path(f"data/codebooks/{name}/views/right/full.u8").stat() for name in BOTH | SINGLE]
    assert len({view.st_ino for view in views}) == 1
