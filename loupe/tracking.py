"""The tracking of steps. Steps alone use this module, and no other knows MLflow.

A step's log is a folder (`loupe.steplog`), and the truth; MLflow shows it. A process of its own copies the log there
while the step runs and once more when it is over, so a slow, broken or absent MLflow costs the step nothing: importing
MLflow alone takes seconds, and a fresh database ten. `python -m loupe.tracking sync` copies every log under `data/`, so
stages restored from DVC's cache show as well. A log is known by its execution id: copying it again adds nothing.

The store is `MLFLOW_TRACKING_URI`, or `sqlite:///mlflow.db` with artifacts in `mlartifacts/`; "none" means no MLflow.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import select
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from loupe.errors import InputError
from loupe.interrupt import REQUEUE, ending_with_parent
from loupe.progress import Progress
from loupe.provenance import flat, without_secrets
from loupe.steplog import Log

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_EXPERIMENT = "loupe"
_DEFAULT_STORE = "sqlite:///mlflow.db"
_MIRROR_EVERY = 30.0
_FIRST_MIRROR = 10.0
_PATIENCE = 5.0
_MLFLOW_STATUS = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED"}


@contextmanager
def step(
    name: str,
    instance: str,
    log: Path,
    parameters: Mapping[str, object] | None = None,
    inputs: Sequence[Path] = (),
) -> Iterator[Log]:
    """Run the body of a step under a log in the folder `log`; SIGTERM ends it when whoever started it is gone.

    Args:
        name: the step, for example "fit_encoder".
        instance: what it works on, for example "demo" or "demo.voxel_grid"; the runs of an instance stand together.
        log: the folder for the log; an older log in it is replaced.
        parameters: the configuration, as plain nested values; the body may add to it (`Log.parameters`).
        inputs: folders and files that the step reads; their digests are noted.

    Raises:
        SystemExit: 2 after an `InputError`, whose message is printed, where `log` climbs out of a folder, and where the
            disk is full; 130 after a keyboard interrupt.
    """
    sys.excepthook = _print_without_secrets
    if ".." in log.parts:
        Progress(f"{name} {instance}").say(f"{log}: a name in configs/pipeline.yaml leads out of its folder")
        raise SystemExit(2)
    with _full_disk_in_one_line(name, instance, log):
        yield from _recorded(name, instance, log, parameters or {}, inputs)


def _recorded(
    name: str, instance: str, log: Path, parameters: Mapping[str, object], inputs: Sequence[Path]
) -> Iterator[Log]:
    record = Log(log, name, instance)
    record.save()
    mirror = _start_mirror(log)
    listener = _Listener(record)
    logger = logging.getLogger("loupe")
    logger.setLevel(logging.INFO)
    logger.addHandler(listener)
    status = "failed"
    try:
        with ending_with_parent():
            record.read(inputs)
            record.parameters(parameters)
            yield record
        status = "finished"
    except InputError as error:
        record.facts["error"] = str(error)
        record.say(str(error))
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        status = "interrupted"
        raise SystemExit(130) from None
    except SystemExit as exit_:
        status = {None: "finished", 0: "finished", REQUEUE: "interrupted"}.get(exit_.code, "failed")  # type: ignore[arg-type]
        raise
    except BaseException as error:
        record.facts["error"] = repr(error)
        raise
    finally:
        logger.removeHandler(listener)
        record.close(status)
        _finish_mirror(mirror, record)


@contextmanager
def _full_disk_in_one_line(name: str, instance: str, log: Path) -> Iterator[None]:
    """Product and log lie on one disk as a rule, so nothing can be written down, either; libraries raise errors of
    their own, which have the system's words in common."""
    try:
        yield
    except Exception as error:
        if not any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):
            raise
        Progress(f"{name} {instance}").say(f"{log}: the disk is full; free some space there and run again")
        raise SystemExit(2) from None


def _print_without_secrets(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """In the place of Python's own hook: an error that nobody expected may quote a login or a token."""
    sys.stderr.write(without_secrets("".join(traceback.format_exception(kind, error, trace))))


class _Listener(logging.Handler):
    """Hands what the library logs (warnings, mostly) to the step's log."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.INFO)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.say(record.getMessage())


def store() -> str | None:
    """Where MLflow keeps its runs; None where the user wants no MLflow."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or _DEFAULT_STORE
    return None if uri == "none" else uri


def _start_mirror(log: Path) -> subprocess.Popen[bytes] | None:
    """A process that copies `log` to MLflow until its standard input closes: when this step ends, in whatever way."""
    if store() is None:
        return None
    return subprocess.Popen(
        [sys.executable, "-m", "loupe.tracking", "follow", str(log)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Control-C stops the step; the mirror has yet to say so.
    )


def _finish_mirror(mirror: subprocess.Popen[bytes] | None, log: Log) -> None:
    """Let the mirror do its last round. One that runs already is quick; a step too short for that does not wait."""
    if mirror is None or mirror.stdin is None:
        return
    mirror.stdin.close()
    try:
        failed = mirror.wait(_PATIENCE if log.facts["seconds"] > _FIRST_MIRROR else 0) != 0
    except subprocess.TimeoutExpired:
        failed = False
    if failed:
        log.terminal.say("MLflow does not answer; `python -m loupe.tracking sync` brings this log there later")


def follow(log: Path) -> int:
    """Copy `log` to MLflow every half minute, and a last time when standard input closes. Returns the exit status."""
    os.nice(10)
    mirror, wait, over = None, _FIRST_MIRROR, False
    while not over:
        over = bool(select.select([sys.stdin], [], [], wait)[0])
        wait = _MIRROR_EVERY
        # After the end DVC moves the files into its cache and links them back: for a moment there may be none.
        for pause in (0, 1, 3) if over else (0,):
            time.sleep(pause)
            with suppress(Exception):
                mirror = mirror or Mirror()
                mirror.replay(log, over)
                break
        else:
            mirror = None
    return 0 if mirror else 1


class Mirror:
    """An MLflow store, and the copying of logs into it. Raises what MLflow raises."""

    def __init__(self) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        from mlflow import MlflowClient

        self._uri = store() or _DEFAULT_STORE
        with _alone(self._uri):
            self._client: MlflowClient = MlflowClient(self._uri)
            self._experiment = self._find_experiment()

    def replay(self, log: Path, over: bool = False) -> bool:
        """Copy what MLflow does not know yet of the log in a folder; `over`: its step's process has ended.

        Returns whether there was anything to copy.
        """
        facts = json.loads((log / "run.json").read_text(encoding="utf8"))
        if facts["status"] == "running" and (over or not _alive(facts)):
            facts["status"] = "killed"
        with _alone(self._uri):
            run = self._find_run(facts)
            if run.data.tags.get("loupe.status") == facts["status"] != "running":
                return False
            self._copy_metrics(run, log)
            self._copy_files(run, log)
            self._copy_facts(run, facts)
        return True

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(_EXPERIMENT)
        if found:
            return str(found.experiment_id)
        local = self._uri.startswith("sqlite:")
        location = Path("mlartifacts").absolute().as_uri() if local else None
        tags = {"mlflow.experimentKind": "custom_model_development"}  # The page opens on runs, not on chats.
        return str(self._client.create_experiment(_EXPERIMENT, artifact_location=location, tags=tags))

    def _search(self, tag: str, value: str) -> Run | None:
        found = self._client.search_runs([self._experiment], f"tags.`{tag}` = '{value}'", max_results=1)
        return found[0] if found else None

    def _find_run(self, facts: dict[str, Any]) -> Run:
        found = self._search("loupe.execution", facts["execution"])
        if found:
            return found
        parent = self._find_parent(facts)
        tags = {
            "loupe.execution": facts["execution"],
            "loupe.instance": facts["instance"],
            "mlflow.parentRunId": parent.info.run_id,
            "mlflow.source.name": f"steps/{facts['step']}.py",
            "mlflow.source.type": "LOCAL",
        }
        if facts["commit"]:
            tags["mlflow.source.git.commit"] = facts["commit"]
        tags |= {f"input {path}": value for path, value in facts["inputs"].items()}
        return self._create(facts["step"], facts, tags)

    def _find_parent(self, facts: dict[str, Any]) -> Run:
        """The run that holds all steps of a capture or trial."""
        instance = facts["instance"]
        return self._search("loupe.parent", instance) or self._create(instance, facts, {"loupe.parent": instance})

    def _create(self, name: str, facts: dict[str, Any], tags: dict[str, str]) -> Run:
        started = _milliseconds(facts["started"])
        return self._client.create_run(self._experiment, start_time=started, tags=tags, run_name=name)

    def _copy_metrics(self, run: Run, log: Path) -> None:
        from mlflow.entities import Metric, RunTag

        done = int(run.data.tags.get("loupe.lines", 0))
        lines = (log / "metrics.jsonl").read_text(encoding="utf8").splitlines(keepends=True)
        points = [json.loads(line) for line in lines[done:] if line.endswith("\n")]
        metrics = [
            Metric(_plain(key), value, _milliseconds(point["time"]), point["step"])
            for point in points
            for key, value in point["values"].items()
            if value is not None
        ]
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(run.info.run_id, metrics=metrics[start : start + 1000])
        self._client.log_batch(run.info.run_id, tags=[RunTag("loupe.lines", str(done + len(points)))])

    def _copy_files(self, run: Run, log: Path) -> None:
        for folder, paths in (
            ("", [*log.glob("log.txt"), *log.glob("*.html")]),
            ("pictures", log.glob("pictures/*.jpg")),
        ):
            known = {
                Path(item.path).name: item.file_size for item in self._client.list_artifacts(run.info.run_id, folder)
            }
            for path in sorted(paths):
                if known.get(path.name) != path.stat().st_size:
                    self._client.log_artifact(run.info.run_id, str(path), folder or None)

    def _copy_facts(self, run: Run, facts: dict[str, Any]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        ended = _milliseconds(facts["started"] + facts.get("seconds", 0))
        summary = {**facts["summary"], **{key: facts.get(key) for key in ("seconds", "peak_memory_mb", "peak_gpu_mb")}}
        numbers = {key: value for key, value in summary.items() if isinstance(value, int | float)}
        words = {key: value for key, value in summary.items() if isinstance(value, str)}
        words |= {key: str(facts[key]) for key in ("threads", "device", "error") if key in facts}
        words |= facts.get("versions", {})
        params = [Param(_plain(key), str(value)[:6000]) for key, value in flat(facts["parameters"]).items()]
        for start in range(0, len(params), 100):
            self._client.log_batch(run.info.run_id, params=params[start : start + 100])
        parent = run.data.tags["mlflow.parentRunId"]
        for run_id, prefix in ((run.info.run_id, "final"), (parent, facts["step"])):
            metrics = [Metric(_plain(f"{prefix}/{key}"), value, ended, 0) for key, value in numbers.items()]
            self._client.log_batch(run_id, metrics=metrics if facts["status"] != "running" else [])
        tags = [RunTag(f"loupe.{_plain(key)}", value[:5000]) for key, value in words.items()]
        self._client.log_batch(run.info.run_id, tags=[*tags, RunTag("loupe.status", facts["status"])])
        for run_id in (run.info.run_id, parent):
            self._set_status(run_id, facts["status"], ended)

    def _set_status(self, run_id: str, status: str, ended: int) -> None:
        """A parent shows the step that ended last."""
        known = _MLFLOW_STATUS.get(status, "KILLED")
        before = self._client.get_run(run_id).info
        if known == "RUNNING":
            self._client.update_run(run_id, known)
        elif before.end_time is None or before.end_time <= ended:
            self._client.set_terminated(run_id, known, ended)


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Keep other mirrors out: several at once lose runs on a fresh database, and each would make its own parent."""
    database = uri.removeprefix("sqlite:///") if uri.startswith("sqlite:///") else "mlflow.db"
    with open(f"{database}.lock", "w", encoding="utf8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _alive(facts: dict[str, Any]) -> bool:
    """Whether the process that wrote the log may still run; on another host, nobody knows."""
    if facts["host"] != socket.gethostname():
        return True
    try:
        os.kill(facts["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _plain(key: str) -> str:
    """A key that MLflow takes."""
    return "".join(letter if letter.isalnum() or letter in "_-./ " else "_" for letter in key)[:250]


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def sync(folders: Sequence[Path]) -> int:
    """Copy every log under the folders to MLflow, and say so. Returns the exit status."""
    logs = sorted(path.parent for folder in folders for path in folder.glob("**/log/*/run.json"))
    if store() is None or not logs:
        print(f"MLflow: nothing to copy ({len(logs)} logs)")
        return 0
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        mirror = Mirror()
        new = sum(mirror.replay(log) for log in logs)
    except Exception as error:
        print(f"MLflow does not answer; the logs stay where they are ({without_secrets(str(error))})", file=sys.stderr)
        return 1
    print(f"MLflow: {len(logs)} logs, {new} new")
    return 0


def main(arguments: Sequence[str]) -> int:
    """`sync [DIR ...]` (default: data), or `follow LOG`, which a step starts."""
    match arguments:
        case ["sync", *folders]:
            return sync([Path(folder) for folder in folders] or [Path("data")])
        case ["follow", log]:
            return follow(Path(log))
    print("usage: python -m loupe.tracking sync [DIR ...]", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
