"""Has DVC bring one stage up to date, and takes it down when the workflow that asked for it is gone.

    python workflow/stage.py STAGE

DVC hands no signal on, and a process that is killed outright cannot: without this, a step would train on for hours
after its workflow was killed, and stand in the way of the next one. A signal goes to the step, not to DVC, so that the
step can save and DVC reports the failure and lets go of its locks. Where DVC itself dies of a signal (SLURM sends it to
every process of a job), its step may still be saving; it is waited for.
"""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

RUNNING = Path(".snakemake/running")  # locked (shared) by every stage that runs, so that the next workflow can wait
PATIENCE_SECONDS = 120.0  # what a step that was told to stop has to save its state
PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def main(stage: str) -> int:
    workflow = os.getppid()
    adopt_orphans()
    with RUNNING.open("a") as running:
        fcntl.flock(running, fcntl.LOCK_SH)
        dvc = psutil.Popen(["dvc", "--wait-for-lock", "repro", "--quiet", "--single-item", stage])
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the step as well
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda number, frame: tell_step(dvc, number))
        while not wait(dvc, 0.5) and os.getppid() == workflow:
            pass
        if dvc.returncode is None or dvc.returncode < 0:
            take_down(dvc)
        return dvc.wait()


def adopt_orphans() -> None:
    """Makes this process the parent of what DVC leaves behind, which nobody could find otherwise. Linux alone can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def take_down(dvc: psutil.Popen) -> None:
    """Asks the step to stop, and after a while leaves it no choice."""
    tell_step(dvc, signal.SIGTERM)
    if wait(dvc, PATIENCE_SECONDS):
        psutil.wait_procs(psutil.Process().children(recursive=True), PATIENCE_SECONDS)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def tell_step(dvc: psutil.Popen, number: int) -> None:
    """Signals the step: DVC's child (its shell gives its place to it), or this process's, where DVC is dead.

    Where no step runs yet, DVC itself.
    """
    with suppress(psutil.NoSuchProcess):
        orphans = psutil.Process().children() if dvc.poll() is not None else []
        for process in orphans or dvc.children() or [dvc]:
            process.send_signal(number)


def wait(dvc: psutil.Popen, seconds: float) -> bool:
    """Whether DVC ended within so many seconds."""
    try:
        dvc.wait(seconds)
    except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
