"""`snakemake --profile slurm all`, as typed, on a real SLURM (workflow/slurm_testbed/up.sh starts one)."""

import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import toyproject
from toyproject import EVERY, Project


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


def cut_time_limit(project: Project, rule: str) -> None:
    """Leaves the running job of the rule one minute, the least that SLURM knows."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        for job in jobs_of(project.root):
            if job.rule == rule and job["JobState"] == "RUNNING":
                subprocess.run(["scontrol", "update", f"JobId={job['JobId']}", "TimeLimit=1"], check=True)
                return
        time.sleep(0.5)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Run once: one job fails at its first attempt, another exceeds its time limit."""
    project = toyproject.create(tmp_path_factory.mktemp("slurm"))
    project.order("ingest_photos@right", "fail")
    project.order("train_joint@left.plain", "hang")
    cutting = threading.Thread(target=cut_time_limit, args=(project, "train_joint@left.plain"))
    cutting.start()
    (project.root.parent / "terminal").write_text(project.call("snakemake", "--profile", "slurm", "all"))
    cutting.join()
    return project


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
        if rule != "train_joint@left.plain":
            assert job["TimeLimit"] == limit


def test_jobs_that_fail_or_take_too_long_are_tried_again_with_more(project: Project) -> None:
    attempts: dict[str, list[Job]] = {}
    for job in jobs_of(project.root):
        attempts.setdefault(job.rule, []).append(job)
    ends = {rule: [job["JobState"] for job in jobs] for rule, jobs in attempts.items()}
    assert ends.pop("ingest_photos@right") == ["FAILED", "COMPLETED"]
    assert ends.pop("train_joint@left.plain") == ["TIMEOUT", "COMPLETED"]
    assert set(map(tuple, ends.values())) == {("COMPLETED",)}
    second = attempts["train_joint@left.plain"][1]
    assert (second.resources["mem"], second["TimeLimit"]) == ("600M", "00:26:00")
    twice = ["ingest_photos@right", "train_joint@left.plain"]
    assert sorted(project.executed()) == sorted([*EVERY, *twice])


def test_the_reason_of_a_failure_reaches_the_terminal(project: Project) -> None:
    terminal = (project.root.parent / "terminal").read_text()
    assert terminal.splitlines().count("photo ingest_photos.right: cannot be read; remove it") == 1


def test_trials_run_side_by_side(project: Project) -> None:
    spans = [
        (job["StartTime"], job["EndTime"]) for job in jobs_of(project.root) if job.rule.startswith("fit_encoder@left")
    ]
    assert len(spans) == 2
    assert max(start for start, _ in spans) < min(end for _, end in spans)


def test_the_product_is_what_one_machine_makes(project: Project, tmp_path: Path) -> None:
    assert project.product() == project.true_product(tmp_path / "scratch")
    assert project.executed_by("dvc") == []
