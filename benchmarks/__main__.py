"""Run the benchmarks, each in a process of its own, under a line that says on what machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent


def machine() -> str:
    """One line: commit, processor, cores, GPU, versions."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = models[0].split(":")[1].strip() if models else platform.processor()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"commit {commit.stdout.strip() or 'unknown'}; {processor}, {os.cpu_count()} cores; {gpu}; "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def main(asked: list[str]) -> int:
    """Run the benchmarks asked for, or all. Returns the number that failed."""
    known = sorted(path.stem for path in HERE.glob("[a-z]*.py"))
    if unknown := set(asked) - set(known):
        sys.exit(f"benchmarks: no {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    print(machine(), flush=True)
    failed = 0
    for name in asked or known:
        print(f"\n== {name}", flush=True)
        failed += subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
