"""The log of a step, and its mirror in MLflow."""

from __future__ import annotations

import importlib
import io
import json
import logging
import multiprocessing
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from loupe import progress, provenance, tracking
from loupe.errors import InputError
from loupe.interrupt import REQUEUE
from loupe.progress import Progress, in_words
from loupe.steplog import Log


@pytest.fixture(autouse=True)
def no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a test names a store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")


def facts(log: Path) -> dict[str, Any]:
    return dict(json.loads((log / "run.json").read_text()))


def write_log(folder: Path, name: str = "fit_encoder", instance: str = "demo.voxel_grid", points: int = 3) -> Path:
    """The log of a small step that went well."""
    log = folder / instance / "log" / name
    with tracking.step(name, instance, log, {"encoder": {"lr": 0.1, "sizes": [1, 2]}, "seed": 0}) as record:
        for number in range(points):
            record.scalars(number * 10, {"loss.colour": 1 / (1 + number), "psnr": 20.0 + number})
        record.picture("view", np.zeros((4, 6, 3), np.uint8))
        record.page("look", "<p>")
        record.summary({"psnr": 27.5, "lpips": None, "why": "no weights"})
        record.say("went well")
    return log


# --- the log on disk --------------------------------------------------------------------------------------------------


def test_a_log_says_what_ran_on_what_and_how_it_went(tmp_path: Path) -> None:
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "scene.json").write_text("{}")
    log = tmp_path / "log"
    before = time.time()
    with tracking.step("fit_encoder", "demo.a", log, {"lr": 0.1}, [tmp_path / "scene"]) as record:
        assert facts(log)["status"] == "running"
        record.scalars(3, {"loss": 0.5, "psnr": float("nan"), "depth": float("inf")})
        record.picture("held out", np.full((4, 6, 3), 200, np.uint8))
        record.summary({"psnr": 27.5})
        record.summary({"views": 3})
        record.parameters({"seed": 1})
        record.say("a line")
    known = facts(log)
    assert known["status"] == "finished"
    assert known["parameters"] == {"lr": 0.1, "seed": 1}
    assert known["summary"] == {"psnr": 27.5, "views": 3}
    assert known["inputs"] == record.inputs == {str(tmp_path / "scene"): provenance.digest(tmp_path / "scene")}
    assert before <= known["started"] <= time.time()
    assert 0 <= known["seconds"] < 60
    assert known["peak_memory_mb"] > 10
    assert known["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert re.fullmatch("[0-9a-f]{32}", known["execution"])
    (point,) = [json.loads(line) for line in (log / "metrics.jsonl").read_text().splitlines()]
    assert point.pop("time") >= before
    assert point == {"step": 3, "values": {"loss": 0.5, "psnr": None, "depth": None}}
    assert (log / "log.txt").read_text() == "a line\n"
    assert cv2.imread(str(log / "pictures" / "held out.jpg")).shape == (4, 6, 3)


def test_bad_input_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, tracking.step("cut_tiles", "demo", tmp_path):
        raise InputError("photo a.jpg is broken; replace it")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "cut_tiles demo: photo a.jpg is broken; replace it\n"
    assert (facts(tmp_path)["status"], facts(tmp_path)["error"]) == ("failed", "photo a.jpg is broken; replace it")


@pytest.mark.parametrize(
    ("raised", "code", "status"),
    [
        (InputError("no photos"), 2, "failed"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (SystemExit(REQUEUE), 75, "interrupted"),
        (SystemExit(1), 1, "failed"),
        (SystemExit(0), 0, "finished"),
        (SystemExit(), None, "finished"),
    ],
)
def test_how_a_step_ended(tmp_path: Path, raised: BaseException, code: int | None, status: str) -> None:
    with pytest.raises(SystemExit) as caught, tracking.step("cut_tiles", "demo", tmp_path):
        raise raised
    assert caught.value.code == code
    assert facts(tmp_path)["status"] == status


def test_a_bug_is_passed_on_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bug"), tracking.step("cut_tiles", "demo", tmp_path):
        raise ValueError("bug")
    assert (facts(tmp_path)["status"], facts(tmp_path)["error"]) == ("failed", "ValueError('bug')")


def test_an_older_log_is_replaced_and_never_written_through(tmp_path: Path) -> None:
    """DVC links outputs to its cache: writing to the file in place would change the cache."""
    log = write_log(tmp_path)
    cached = tmp_path / "cached.jsonl"
    os.link(log / "metrics.jsonl", cached)
    content = cached.read_text()
    with tracking.step("fit_encoder", "demo.voxel_grid", log) as record:
        record.scalars(0, {"loss": 1.0})
    assert cached.read_text() == content
    assert len((log / "metrics.jsonl").read_text().splitlines()) == 1
    assert not list((log / "pictures").iterdir())
    assert not list(log.glob("*.html"))


def test_a_step_whose_log_is_removed_ends_as_it_would(tmp_path: Path) -> None:
    """Snakemake removes what a job that it takes down has not finished, while the step in it saves."""
    folder = tmp_path / "log"

    def end() -> None:
        with tracking.step("fit", "a.b", folder) as log:
            shutil.rmtree(folder)
            log.say("saved")
            log.scalars(1, {"loss": 1.0})
            raise SystemExit(REQUEUE)

    with pytest.raises(SystemExit) as ended:
        end()
    assert ended.value.code == REQUEUE
    assert not folder.exists()


def test_what_the_library_logs_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tracking.step("fit_encoder", "demo", tmp_path):
        logging.getLogger("loupe.checkpoint").warning("%s is damaged", "x")
    assert capsys.readouterr().err == "fit_encoder demo: x is damaged\n"
    logging.getLogger("loupe.checkpoint").warning("later")
    assert (tmp_path / "log.txt").read_text() == "x is damaged\n"


SECRETS = re.compile(rb"hunter2|sesame|swordfish")


def write_log_with_secrets(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they may well come from: parameters, the environment, an address, an error that quotes them."""
    monkeypatch.setenv("HUB_TOKEN", "hunter2hunter2")
    url = "https://me:swordfish@example.org/x"
    parameters = {"api_key": "sesame-open", "tokens": 512, "url": url, "list": ["hunter2hunter2"]}

    def tell_all(record: Log) -> None:
        record.scalars(0, {"loss": 1.0})
        record.say("using hunter2hunter2")
        record.page("look", "<p>hunter2hunter2")
        record.summary({"note": "hunter2hunter2"})
        raise InputError("hunter2hunter2 was refused")

    with pytest.raises(SystemExit), tracking.step("s", "demo", log, parameters) as record:
        tell_all(record)


def test_secrets_are_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any) -> None:
    write_log_with_secrets(tmp_path, monkeypatch)
    written = (
        b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file()) + capfdbinary.readouterr().err
    )
    assert not SECRETS.search(written)
    assert facts(tmp_path)["parameters"]["tokens"] == 512
    assert facts(tmp_path)["parameters"]["url"] == "https://(hidden)@example.org/x"
    assert facts(tmp_path)["summary"] == {"note": "(hidden)"}
    assert facts(tmp_path)["error"] == "(hidden) was refused"


def test_secrets_in_an_error_that_nobody_expected_are_not_printed(tmp_path: Path) -> None:
    """Python prints it itself, with what caused it and the lines of the program."""
    program = (
        "from pathlib import Path\n"
        "from loupe import tracking\n"
        "with tracking.step('s', 'demo', Path('log')):\n"
        "    try:\n"
        "        raise KeyError('hunter2hunter2')\n"
        "    except KeyError as error:\n"
        "        raise RuntimeError('GET https://me:swordfish@example.org/x failed') from error\n"
    )
    environment = os.environ | {"HUB_TOKEN": "hunter2hunter2"}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 1
    assert not SECRETS.search(done.stdout + done.stderr + (tmp_path / "log" / "run.json").read_bytes())
    assert done.stderr.startswith(b"Traceback")
    assert b"KeyError: '(hidden)'" in done.stderr
    assert done.stderr.endswith(b"RuntimeError: GET https://(hidden)@example.org/x failed\n")


# --- provenance and progress ------------------------------------------------------------------------------------------


def test_a_digest_follows_names_and_contents_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "x").write_text("1")
    first = provenance.digest(folder)
    os.utime(folder / "x", (1, 1))
    shutil.copytree(folder, tmp_path / "b")
    assert provenance.digest(folder) == provenance.digest(tmp_path / "b") == first
    (folder / "x").write_text("2")
    assert provenance.digest(folder) != first
    (folder / "x").rename(folder / "y")
    (folder / "y").write_text("1")
    assert provenance.digest(folder) != first
    assert first.startswith("sha256:")
    with pytest.raises(InputError, match="absent: no such"):
        provenance.digest(tmp_path / "absent")


def test_the_digest_of_a_large_file_is_sampled_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "large"
    size = (64 << 20) + 7
    with open(path, "wb") as file:
        file.truncate(size)
    first = provenance.digest(path)
    assert first.startswith("sampled-sha256:")
    for place in (0, size // 2, size - 1):
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(b"x")
        assert provenance.digest(path) != first
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(b"\0")
    assert provenance.digest(path) == first


def test_a_terminal_that_is_gone_stops_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    shown = Progress("fit_encoder demo")
    shown.say("a line")
    shown.show("fine", 1, 100, {})
    shown.close()


def test_plain_progress_comes_at_most_every_quarter_minute_and_tells_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    shown = Progress("fit_encoder demo")
    for done in range(1, 101):
        shown.show("fine", done, 100, {"loss.colour": 0.0012345, "psnr": 28.123, "lr.grid": 0.1})
        clock[0] += 1
    lines = [re.sub(r"\d+ MB", "N MB", line) for line in capsys.readouterr().err.splitlines()]
    assert lines[0] == "fit_encoder demo: fine 1/100, loss.colour 0.001234, psnr 28.12, N MB"
    assert lines[1] == "fit_encoder demo: fine 16/100, loss.colour 0.001234, psnr 28.12, N MB, 1 min 24 s left"
    assert lines[-1] == "fit_encoder demo: fine 100/100, loss.colour 0.001234, psnr 28.12, N MB"
    assert len(lines) == 8


def test_durations_in_words() -> None:
    assert [in_words(seconds) for seconds in (0, 59.7, 3600, 93784)] == ["0 s", "1 min 0 s", "1 h 0 min", "26 h 3 min"]


# --- MLflow -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables and the experiment, which takes seconds to make."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
        tracking.Mirror()
    return folder / "mlflow.db"


@pytest.fixture
def database(empty_store: Path, tmp_path: Path) -> Path:
    """A store of the test's own; `use` puts it to use."""
    path = tmp_path / "mlflow.db"
    shutil.copy(empty_store, path)
    return path


def use(database: Path, monkeypatch: pytest.MonkeyPatch) -> tracking.Mirror:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    return tracking.Mirror()


def runs(database: Path) -> dict[str, Any]:
    """{run name: MLflow's Run}"""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.get_experiment_by_name("loupe")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert len({run.info.run_name for run in found}) == len(found), "a run stands there twice"
    return {run.info.run_name: run for run in found}


def rows(database: Path) -> dict[str, int]:
    """How many rows each table has."""
    with sqlite3.connect(database) as connection:
        tables = ("runs", "metrics", "params", "tags", "latest_metrics")
        return {table: connection.execute(f"select count(*) from {table}").fetchone()[0] for table in tables}


def test_a_log_becomes_a_run_under_its_trial(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    log = write_log(tmp_path)
    mirror = use(database, monkeypatch)
    assert mirror.replay(log)
    found = runs(database)
    run, parent, known = found["fit_encoder"], found["demo.voxel_grid"], facts(log)
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.data.tags["loupe.execution"] == known["execution"]
    assert run.info.status == parent.info.status == "FINISHED"
    assert run.info.start_time == int(known["started"] * 1000)
    assert run.info.end_time == int((known["started"] + known["seconds"]) * 1000)
    assert run.data.params == {"encoder.lr": "0.1", "encoder.sizes": "[1, 2]", "seed": "0"}
    assert run.data.metrics["final/psnr"] == parent.data.metrics["fit_encoder/psnr"] == 27.5
    assert run.data.tags["loupe.why"] == "no weights"
    assert run.data.tags["loupe.python"] == known["versions"]["python"]
    client = MlflowClient(f"sqlite:///{database}")
    history = client.get_metric_history(run.info.run_id, "psnr")
    assert [(point.step, point.value) for point in history] == [(0, 20.0), (10, 21.0), (20, 22.0)]
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["log.txt", "look.html", "pictures"]
    assert [item.path for item in client.list_artifacts(run.info.run_id, "pictures")] == ["pictures/view.jpg"]


def test_copying_again_adds_nothing(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write_log(tmp_path)
    use(database, monkeypatch).replay(log)
    before = rows(database)
    assert not use(database, monkeypatch).replay(log)
    # Nor where a copy was cut short before it was marked as complete.
    with sqlite3.connect(database) as connection:
        connection.execute("delete from tags where key in ('loupe.status', 'loupe.lines')")
    assert use(database, monkeypatch).replay(log)
    assert rows(database) == before


def test_a_running_log_is_copied_piece_by_piece(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    mirror = use(database, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    with tracking.step("fit_encoder", "demo", log) as record:
        record.scalars(0, {"loss": 1.0})
        with open(log / "metrics.jsonl", "a") as file:
            file.write('{"step": 1, "val')  # A line that is being written.
        mirror.replay(log)
        assert runs(database)["fit_encoder"].data.metrics == {"loss": 1.0}
        assert runs(database)["fit_encoder"].info.status == runs(database)["demo"].info.status == "RUNNING"
        with open(log / "metrics.jsonl", "a") as file:
            file.write('ues": {"loss": 0.5}, "time": 1}\n')
        mirror.replay(log)
        assert runs(database)["fit_encoder"].data.metrics == {"loss": 0.5}
    mirror.replay(log)
    assert runs(database)["fit_encoder"].info.status == "FINISHED"
    assert runs(database)["fit_encoder"].data.tags["loupe.lines"] == "2"


def test_the_log_of_a_killed_step_is_shown_as_killed(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write_log(tmp_path)
    dead = subprocess.Popen(["true"])
    dead.wait()
    (log / "run.json").write_text(json.dumps(facts(log) | {"status": "running", "pid": dead.pid}))
    use(database, monkeypatch).replay(log)
    assert runs(database)["fit_encoder"].info.status == "KILLED"


def test_sync_finds_restored_logs_and_says_what_is_new(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(tmp_path / "data" / "trials", "fit_encoder", "demo.a")
    write_log(tmp_path / "data" / "trials", "train_joint", "demo.a")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert [tracking.main(["sync"]), tracking.main(["sync"])] == [0, 0]
    assert capsys.readouterr().out == "MLflow: 2 logs, 2 new\nMLflow: 2 logs, 0 new\n"
    assert runs(database).keys() == {"demo.a", "fit_encoder", "train_joint"}
    moved = tmp_path / "clone" / "data"
    shutil.copytree(tmp_path / "data", moved)
    assert tracking.main(["sync", str(moved)]) == 0
    assert capsys.readouterr().out == "MLflow: 2 logs, 0 new\n"


def test_secrets_do_not_reach_mlflow(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log_with_secrets(tmp_path / "log", monkeypatch)
    use(database, monkeypatch).replay(tmp_path / "log")
    run = runs(database)["s"]
    assert run.data.params["api_key"] == run.data.tags["loupe.note"] == "(hidden)"
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    files = [*tmp_path.glob("mlflow.db*"), *(path for path in artifacts.rglob("*") if path.is_file())]
    assert {path.name for path in files} >= {"mlflow.db", "log.txt"}
    written = {path: path.read_bytes() for path in files}
    assert not [path for path, content in written.items() if SECRETS.search(content)]
    assert b"example.org" in written[tmp_path / "mlflow.db"]  # what is not secret can be found like this
    assert b"using (hidden)" in written[artifacts / "log.txt"]


def test_four_at_once_on_a_fresh_database_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("mlflow")  # once, before the processes part
    logs = [write_log(tmp_path, f"step_{number}", points=20) for number in range(4)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///fresh.db")
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=lambda log=log: tracking.Mirror().replay(log)) for log in logs]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0, 0]
    found = runs(tmp_path / "fresh.db")
    assert found.keys() == {"demo.voxel_grid", "step_0", "step_1", "step_2", "step_3"}
    assert all(found[f"step_{number}"].data.metrics["psnr"] == 39.0 for number in range(4))


STEP = """
import sys
from pathlib import Path
from loupe import tracking
with tracking.step("cut_tiles", "demo", Path("data/log/cut_tiles")) as log:
    log.scalars(0, {"loss": 1.0})
"""


def test_a_step_does_not_wait_for_a_server_that_is_away(tmp_path: Path) -> None:
    environment = os.environ | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    subprocess.run([sys.executable, "-c", STEP], cwd=tmp_path, env=environment, check=True, timeout=60)
    assert facts(tmp_path / "data/log/cut_tiles")["seconds"] < 5


def test_a_log_written_while_the_server_was_away_is_synced_later(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    away = os.environ | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    subprocess.run([sys.executable, "-c", STEP], cwd=tmp_path, env=away, check=True, timeout=60)
    assert runs(database) == {}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    monkeypatch.chdir(tmp_path)
    assert tracking.main(["sync"]) == 0
    assert capsys.readouterr().out == "MLflow: 1 logs, 1 new\n"
    run = runs(database)["cut_tiles"]
    assert run.data.metrics["loss"] == 1.0
    assert run.info.status == "FINISHED"
    assert run.data.tags["loupe.execution"] == facts(tmp_path / "data/log/cut_tiles")["execution"]


def test_sync_says_that_a_server_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    before = time.monotonic()
    assert tracking.main(["sync", str(tmp_path)]) == 1
    assert time.monotonic() - before < 60
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("MLflow does not answer")
    assert "me:secret" not in message


@pytest.mark.parametrize(("mirror", "warned"), [("exit 1", True), ("exec sleep 30", False), ("exit 0", False)])
def test_the_end_of_a_step_waits_for_its_mirror_a_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mirror: str, warned: bool
) -> None:
    program = tmp_path / "mirror"
    program.write_text(f"#!/bin/sh\n{mirror}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(tracking, "_FIRST_MIRROR", -1)
    monkeypatch.setattr(tracking, "_PATIENCE", 0.5)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///unused.db")
    before = time.monotonic()
    with tracking.step("cut_tiles", "demo", tmp_path / "log"):
        pass
    assert time.monotonic() - before < 10
    assert ("sync" in capsys.readouterr().err) == warned


def test_a_step_is_mirrored_without_being_asked(database: Path, tmp_path: Path) -> None:
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{database}"}
    subprocess.run([sys.executable, "-c", STEP], cwd=tmp_path, env=environment, check=True, timeout=60)
    deadline = time.monotonic() + 120
    while "FINISHED" not in [run.info.status for run in runs(database).values()]:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert runs(database)["cut_tiles"].data.metrics["loss"] == 1.0
