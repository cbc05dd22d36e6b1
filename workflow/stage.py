"""Has DVC bring one stage up to date, and takes it down when the workflow that asked for it is gone.

    python workflow/stage.py STAGE

DVC hands no signal on, and a process that is killed outright cannot: without this, a step would train on for hours
after its workflow was killed, and stand in the way of the next one. A signal goes to the step, not to DVC, so that the
step can save and DVC reports the failure and lets go of its locks.
"""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

RUNNING = Path(".snakemake/running")  # locked (shared) by every stage that runs, so that the next workflow can wait
PATIENCE_SECONDS = 120.0  # what a step that was told to stop has to save its state


def main(stage: str) -> int:
    workflow = os.getppid()
    with RUNNING.open("a") as running:
        fcntl.flock(running, fcntl.LOCK_SH)
        dvc = psutil.Popen(["dvc", "--wait-for-lock", "repro", "--quiet", "--single-item", stage])
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the step as well
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda number, frame: tell_step(dvc, number))
        while dvc.poll() is None and os.getppid() == workflow:
            wait(dvc, 0.5)
        if dvc.poll() is None:
            take_down(dvc)
        return dvc.wait()


def take_down(dvc: psutil.Popen) -> None:
    """Asks the step to stop, and after a while leaves it no choice."""
    tell_step(dvc, signal.SIGTERM)
    if not wait(dvc, PATIENCE_SECONDS):
        for process in [*dvc.children(recursive=True), dvc]:
            process.kill()


def tell_step(dvc: psutil.Popen, number: int) -> None:
    """Signals the step, which DVC's shell gives its place to, or DVC itself where no step runs yet."""
    for process in dvc.children() or [dvc]:
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
