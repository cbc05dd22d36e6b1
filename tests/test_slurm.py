"""`snakemake --profile slurm all`, as typed, on a real SLURM (workflow/slurm_testbed/up.sh starts one)."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import toyproject
from toyproject import EVERY, STEPS, Project, below, wait_for

# SLURM may call a job ended a moment before the last process that it killed is gone; the next attempt comes later than
# that, for Snakemake has to look, and to submit.
GOING = 5.0


def slurm_answers() -> bool:
    return shutil.which("sinfo") is not None and subprocess.run(["sinfo"], capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not slurm_answers(), reason="no SLURM here: sinfo does not answer"),
]


class Job(dict[str, str]):
    """SLURM's own record of a job, from `scontrol show job`, which needs no accounting."""

    @property
    def rule(self) -> str:
        return self["Comment"].removeprefix("rule_")

    @property
    def resources(self) -> dict[str, str]:
        """Cores, memory and GPUs asked for: {"cpu": "1", "mem": "100M", "gpu": "1"}."""
        asked = self.get("ReqTRES") or self["TRES"]  # the name since SLURM 23.02, and before
        gpus = re.findall(r"gpu:(\d+)", self.get("TresPerJob", ""))
        return dict(pair.split("=") for pair in asked.split(",")) | dict(zip(["gpu"], gpus, strict=False))


def jobs_of(folder: Path) -> list[Job]:
    shown = subprocess.run(["scontrol", "show", "job", "-o"], capture_output=True, text=True, check=True).stdout
    jobs = [Job(re.findall(r"(\w+(?:/\w+)?)=(\S*)", line)) for line in shown.splitlines() if "JobId=" in line]
    return sorted((job for job in jobs if job["WorkDir"] == str(folder)), key=lambda job: int(job["JobId"]))


def cut_time_limit(job: str) -> None:
    """Leaves a job one minute, less than what the profile keeps for saving: SLURM tells its step to stop at once."""
    subprocess.run(["scontrol", "update", f"JobId={job}", "TimeLimit=1"], check=True)


def cancel(job: str) -> None:
    """srun is stopped, too, and kills its step, which may or may not have saved by then."""
    subprocess.run(["scancel", job], check=True)


def interrupt(project: Project, rule: str, how: Callable[[str], None]) -> list[str]:
    """Interrupts the first job of the rule when it trains; the next one may train without rests.

    Returns the command lines of its step's processes that are still there `GOING` seconds after SLURM calls the job
    ended.
    """
    wait_for(lambda: any(len(steps) > 2 for steps in project.trained(rule)))
    job = first_job(project, rule)["JobId"]
    how(job)
    project.order(rule, "train 0")
    wait_for(lambda: first_job(project, rule)["JobState"] not in ("RUNNING", "COMPLETING"))
    end = time.monotonic() + GOING
    while (left := steps_of(project, rule)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def steps_of(project: Project, rule: str) -> list[str]:
    return [line for line in below(project.root) if f"--key {rule.partition('@')[2]} " in line]


def first_job(project: Project, rule: str) -> Job:
    return next(job for job in jobs_of(project.root) if job.rule == rule)


TIMED_OUT = "train_joint@left.plain"
CANCELLED = "train_joint@right.sharp"


@dataclass
class Finished(Project):
    """`terminal` is what Snakemake said; `left` the processes of the timed-out step when its job had ended."""

    terminal: str
    left: list[str]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Run once: one job fails at its first attempt, another exceeds its time limit, a third is cancelled."""
    project = toyproject.create(tmp_path_factory.mktemp("slurm"))
    project.order("ingest_photos@right", "fail")
    for rule in (TIMED_OUT, CANCELLED):
        project.order(rule, "train 1")
    with ThreadPoolExecutor() as pool:
        timed_out = pool.submit(interrupt, project, TIMED_OUT, cut_time_limit)
        cancelled = pool.submit(interrupt, project, CANCELLED, cancel)
        terminal = project.call("snakemake", "--profile", "slurm", "all")
    cancelled.result()
    return Finished(project.root, project.orders, terminal, timed_out.result())


def test_each_job_gets_what_dvc_yaml_says(project: Project) -> None:
    asked = {
        "ingest_photos": ("cpu", "100M", "00:11:00", None, "1"),
        "fit_encoder": ("gpu", "200M", "00:12:00", "1", "2"),
        "train_joint": ("gpu", "300M", "00:13:00", "1", "1"),
        "write_report": ("cpu", "50M", "00:14:00", None, "1"),
    }
    first = {job.rule: job for job in reversed(jobs_of(project.root))}
    assert sorted(first) == sorted(name.removesuffix("@all") for name in EVERY)
    for rule, job in first.items():
        partition, memory, limit, gpus, cores = asked[rule.partition("@")[0]]
        given = job.resources
        assert (job["Partition"], given["mem"], given.get("gpu"), given["cpu"]) == (partition, memory, gpus, cores)
        if rule != TIMED_OUT:
            assert job["TimeLimit"] == limit


def test_jobs_that_fail_or_take_too_long_are_tried_again_with_more(project: Project) -> None:
    attempts: dict[str, list[Job]] = {}
    for job in jobs_of(project.root):
        attempts.setdefault(job.rule, []).append(job)
    ends = {rule: [job["JobState"] for job in jobs] for rule, jobs in attempts.items()}
    assert ends.pop("ingest_photos@right") == ["FAILED", "COMPLETED"]
    # It is told two minutes before its time is over; on a busy machine it may take longer than that to end.
    assert ends.pop(TIMED_OUT) in (["FAILED", "COMPLETED"], ["TIMEOUT", "COMPLETED"])
    assert ends.pop(CANCELLED) == ["CANCELLED", "COMPLETED"]
    assert set(map(tuple, ends.values())) == {("COMPLETED",)}
    second = attempts[TIMED_OUT][1]
    assert (second.resources["mem"], second["TimeLimit"]) == ("600M", "00:26:00")
    assert sorted(project.executed()) == sorted([*EVERY, "ingest_photos@right", TIMED_OUT, CANCELLED])


def test_a_training_whose_time_is_over_is_saved_and_goes_on(project: Finished) -> None:
    first, second = project.trained(TIMED_OUT)
    assert [*first, *second] == list(range(1, STEPS + 1))
    assert "SIGTERM: saved at step" in project.terminal


def test_a_training_whose_job_is_cancelled_goes_on_from_its_last_checkpoint(project: Finished) -> None:
    """Its only one is that of its end, if it came to that."""
    first, second = project.trained(CANCELLED)
    assert second in (list(range(len(first) + 1, STEPS + 1)), list(range(1, STEPS + 1)))


def test_a_job_ends_after_its_step(project: Finished) -> None:
    assert project.left == []
    assert not below(project.root)


def test_the_reason_of_a_failure_reaches_the_terminal(project: Finished) -> None:
    assert project.terminal.splitlines().count("photo ingest_photos.right: cannot be read; remove it") == 1


def test_trials_run_side_by_side(project: Project) -> None:
    spans = [
        (job["StartTime"], job["EndTime"]) for job in jobs_of(project.root) if job.rule.startswith("fit_encoder@left")
    ]
    assert len(spans) == 2
    assert max(start for start, _ in spans) < min(end for _, end in spans)


def test_the_product_is_what_one_machine_makes(project: Project, tmp_path: Path) -> None:
    assert project.product() == project.true_product(tmp_path / "scratch", [TIMED_OUT, CANCELLED])
    assert project.executed_by("dvc") == []
