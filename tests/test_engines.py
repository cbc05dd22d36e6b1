"""Both engines over one description: what is executed after which edit, whoever made the outputs.

The steps of a toy project count their executions. "Executes" below means just that; jobs may be listed by Snakemake
that DVC then skips or restores.
"""

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
import toyproject
from toyproject import ENGINES, EVERY, STEPS, TRIALS, Project, below, wait_for

pytestmark = pytest.mark.timeout(1200)  # some forty runs of an engine: two minutes where nothing else computes

PLAIN_JOINT = sorted(["train_joint@left.plain", "train_joint@right.plain", "write_report@all"])
LEFT = sorted(
    ["ingest_photos@left", "write_report@all"]
    + [f"{step}@left.{recipe}" for step in ("fit_encoder", "train_joint") for recipe in ("plain", "sharp")]
)
JOINT = sorted([f"train_joint@{trial}" for trial in TRIALS] + ["write_report@all"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Made once, by Snakemake as a user types it; tests work on copies."""
    project = toyproject.create(tmp_path_factory.mktemp("finished"))
    assert project.executed_by("snakemake") == EVERY
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    return toyproject.copy(finished, tmp_path)


def edit_photo(project: Project, number: int) -> list[str]:
    project.path("data/captures/left/one.txt").write_text(f"left {number}")
    return LEFT


def edit_parameter(project: Project, number: int) -> list[str]:
    project.path("configs/recipes/plain.yaml").write_text(
        f"method: plain\nencoder: {{ lr: 0.1 }}\njoint: {{ lr: 0.0{number} }}\n"
    )
    return PLAIN_JOINT


def edit_script(project: Project, number: int) -> list[str]:
    project.path("steps/train_joint.py").write_text(
        f'from toy import run\n\nVERSION = {number}\n\nrun("train_joint", VERSION)\n'
    )
    return JOINT


def test_each_engine_brings_up_to_date_what_either_made(project: Project, tmp_path: Path) -> None:
    """Every ordered pair of engines and every kind of edit: the walk below holds all twelve."""
    number, made_by, pairs = 1, "snakemake", set()
    for edit in (edit_photo, edit_parameter, edit_script):
        for engine in ("snakemake", "dvc", "dvc", "snakemake"):
            number += 1
            expected = edit(project, number)
            assert project.executed_by(engine) == expected, (edit.__name__, made_by, engine)
            pairs.add((made_by, engine, edit))
            made_by = engine
    assert len(pairs) == 12
    assert project.product() == project.true_product(tmp_path / "scratch")
    assert "Nothing to be done" in project.call(*ENGINES["snakemake"])
    assert project.executed_by("dvc") == []


def test_a_value_set_back_is_restored(project: Project) -> None:
    """Also where Snakemake last saw that value before DVC made the outputs anew."""
    first = project.product()
    edit_parameter(project, 7)
    assert project.executed_by("snakemake") == PLAIN_JOINT
    second = project.product()
    assert second != first
    for engine, digit, product in (("dvc", 1, first), ("snakemake", 7, second), ("snakemake", 1, first)):
        edit_parameter(project, digit)
        assert project.executed_by(engine) == []
        assert project.product() == product


def test_what_changes_no_meaning_executes_nothing(project: Project) -> None:
    for engine in ENGINES:
        with project.path("configs/recipes/plain.yaml").open("a") as recipe:
            recipe.write(f"# for {engine}\n")
        for name in ("data/captures/left/one.txt", "steps/fit_encoder.py", "data/scenes/left/photos/product.txt"):
            os.utime(project.path(name))
        assert project.executed_by(engine) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_new_bytes_of_the_same_date_are_noticed(project: Project, engine: str) -> None:
    photo = project.path("data/captures/left/one.txt")
    before = photo.stat()
    same_size = project.path("other.txt")
    same_size.write_text(photo.read_text().replace("one", "two"))
    os.replace(same_size, photo)
    os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert photo.stat().st_size == before.st_size
    assert project.executed_by(engine) == LEFT


def test_an_edit_behind_a_linked_capture_is_noticed(project: Project, tmp_path: Path) -> None:
    capture = project.path("data/captures/left")
    shutil.move(capture, tmp_path / "elsewhere")
    capture.symlink_to(tmp_path / "elsewhere")
    assert project.executed_by("dvc") == []
    (tmp_path / "elsewhere/one.txt").write_text("LEFT ONE\n")
    assert project.executed_by("snakemake") == LEFT


def test_a_fresh_clone_pulls_and_executes_nothing(project: Project, tmp_path: Path) -> None:
    project.call("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    project.call("git", "add", "--all")
    project.call("git", "commit", "--quiet", "--message", "as made")
    project.call("dvc", "push", "--quiet")
    project.call("git", "clone", "--quiet", ".", str(tmp_path / "clone/project"))
    clone = Project(tmp_path / "clone/project", project.orders)
    clone.call("dvc", "pull", "--quiet")
    assert clone.product() == project.product()
    assert clone.executed_by("snakemake") == []
    assert clone.executed_by("dvc") == []


@pytest.mark.parametrize("engine", ENGINES)
def test_a_corrupted_output_is_rebuilt(project: Project, engine: str) -> None:
    """An output and its object in the cache are one file, written once and protected: both are bad, and both come back.

    The report reads the new log as well, with its new times.
    """
    model = project.path("data/trials/left/plain/model/product.txt")
    good = model.read_text()
    assert model.stat().st_nlink == 2
    assert not stat.S_IMODE(model.stat().st_mode) & stat.S_IWUSR
    model.chmod(0o644)
    model.write_text("bad")
    assert project.executed_by(engine) == ["train_joint@left.plain", "write_report@all"]
    assert model.read_text() == good


@pytest.mark.parametrize("engine", ENGINES)
def test_a_missing_source_is_named(project: Project, engine: str) -> None:
    project.path("configs/recipes/sharp.yaml").unlink()
    assert "configs/recipes/sharp.yaml" in project.call(*ENGINES[engine], succeeds=False)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_failed_step_says_why_in_one_line(project: Project, engine: str) -> None:
    edit_parameter(project, 5)
    project.order("train_joint@left.plain", "fail")
    before = len(project.executed())
    terminal = project.call(*ENGINES[engine], succeeds=False)
    assert terminal.splitlines().count("photo train_joint.left.plain: cannot be read; remove it") == 1
    rest = project.executed_by(engine)
    assert sorted(project.executed()[before:]) == sorted([*PLAIN_JOINT, "train_joint@left.plain"])
    assert "train_joint@left.plain" in rest


def test_a_killed_workflow_leaves_nothing_to_clean_up(project: Project) -> None:
    """Killed outright in the middle of a step: that step ends too, and the next run does what is left, no more."""
    edit_photo(project, 5)
    project.order("train_joint@left.sharp", "hang")
    before = len(project.executed())
    driver = project.start(*ENGINES["snakemake"])
    wait_for(lambda: "train_joint@left.sharp" in project.executed()[before:])

    refused = project.call(*ENGINES["snakemake"], succeeds=False)
    assert "another workflow runs in this folder" in refused

    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    rest = project.executed_by("snakemake")
    assert not below(project.root)
    assert sorted(project.executed()[before:]) == sorted([*LEFT, "train_joint@left.sharp"])
    assert "train_joint@left.sharp" in rest


def test_a_killed_dvc_leaves_nothing_to_clean_up(project: Project) -> None:
    edit_parameter(project, 5)
    project.order("train_joint@left.plain", "hang")
    before = len(project.executed())
    driver = project.start(*ENGINES["dvc"])
    wait_for(lambda: len(project.executed()) > before)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    assert "train_joint@left.plain" in project.executed_by("dvc")
    assert len(project.executed()) - before <= len(PLAIN_JOINT) + 1


TRAINING = "train_joint@left.plain"
TRAINED = "data/trials/left/plain/model/product.txt"
BRING_TRAINING = {"dvc": ["dvc", "repro", TRAINING], "snakemake": ["snakemake", TRAINING]}


@pytest.fixture(scope="module")
def undisturbed(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a training makes that nobody interrupts."""
    project = toyproject.copy(finished, tmp_path_factory.mktemp("undisturbed"))
    edit_parameter(project, 5)
    scratch = project.root.parent / "scratch"
    project.true_product(scratch, [TRAINING])
    return (scratch / TRAINED).read_text()


@pytest.mark.parametrize(
    ("engine", "interruptions"),
    [
        ("dvc", [(os.kill, signal.SIGTERM), (os.kill, signal.SIGKILL), (os.killpg, signal.SIGINT)]),
        ("snakemake", [(os.killpg, signal.SIGTERM), (os.kill, signal.SIGKILL), (os.killpg, signal.SIGINT)]),
    ],
)
def test_a_training_is_saved_at_every_interruption_and_goes_on(
    project: Project, undisturbed: str, engine: str, interruptions: list[tuple[Callable[[int, int], None], int]]
) -> None:
    """`kill` reaches the engine alone, `killpg` all its processes at once, as Control-C does."""
    edit_parameter(project, 5)
    for number, (send, what) in enumerate(interruptions):
        driver = start_training(project, engine, "train 0.05")
        send(driver.pid, what)
        driver.wait()
        if send is os.kill:
            wait_for(lambda: not below(project.root), 20)
        assert not below(project.root), f"{number}: an engine that can wait for its steps does"
        last = project.trained(TRAINING)[number][-1]
        assert last < STEPS
        assert last == newest_checkpoint(project)

    driver = start_training(project, engine, "train 0.01")
    if engine == "snakemake":
        driver.terminate()  # it alone: that finishes what runs
    driver.wait()
    assert not below(project.root)
    assert list(chain(*project.trained(TRAINING))) == list(range(1, STEPS + 1))
    assert project.path(TRAINED).read_text() == undisturbed


def start_training(project: Project, engine: str, order: str) -> subprocess.Popen[str]:
    """The engine, when it trains."""
    before = len(project.trained(TRAINING))
    project.order(TRAINING, order)
    driver = project.start(*BRING_TRAINING[engine])
    wait_for(lambda: [len(steps) > 2 for steps in project.trained(TRAINING)[before:]] == [True])
    return driver


def newest_checkpoint(project: Project) -> int:
    """Its step."""
    resume = project.path("data/resume") / TRAINING.replace("@", ".")
    return max(int(path.name.partition("-")[0]) for path in resume.glob("*.safetensors"))


def test_a_step_that_cannot_save_ends_with_its_dvc(project: Project) -> None:
    edit_parameter(project, 5)
    project.order(TRAINING, "hang")
    driver = project.start(*BRING_TRAINING["dvc"])
    wait_for(project.path("data/trials/left/plain/log/train_joint/run.json").exists)
    driver.kill()
    wait_for(lambda: not below(project.root), 20)


@pytest.mark.parametrize(("told", "left"), [("sleep 1; touch saved; exit", ["saved"]), (":", [])])
def test_a_stage_waits_for_the_step_of_a_dead_dvc_and_kills_it_in_the_end(
    tmp_path: Path, told: str, left: list[str]
) -> None:
    """In the place of DVC stands a script that starts a step and dies at once; the step does what it is `told`."""
    (tmp_path / ".snakemake").mkdir()
    (tmp_path / "dvc").write_text(
        f"#!/bin/sh\n(trap '{told}' TERM; touch started; for _ in $(seq 300); do sleep 0.1; done) &\n"
        "until [ -e started ]; do sleep 0.1; done\nkill -KILL $$\n"
    )
    (tmp_path / "dvc").chmod(0o755)
    shutil.copy(toyproject.ROOT / "workflow/stage.py", tmp_path)
    Project(tmp_path, tmp_path).replace("stage.py", "PATIENCE_SECONDS = 120.0", "PATIENCE_SECONDS = 4.0")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    run = subprocess.run([sys.executable, "stage.py", "any"], cwd=tmp_path, env=environment, check=False)
    assert run.returncode != 0
    assert not below(tmp_path)
    assert [path.name for path in tmp_path.glob("saved")] == left
