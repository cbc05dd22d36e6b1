"""Seconds, memory and disk of the first four steps and of what training reads, on large captures.

31 cameras that film 150 frames, with masks, and 60 photos of 12 megapixels, both with given cameras. Each step is a
process of its own, watched from here. Its peak holds mapped pages of the tiles, too, which are the page cache's and
go when another needs the room; the anonymous part is the program's own, and fails above `_MOST`.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks._ball import film, photograph
from benchmarks._machine import seconds

_MOST = 3000  # megabytes
_EVERY = 0.005  # seconds from one look at a process to the next
_CONFIG = "ingest: {}\nposes: {}\nscene: { ratio: 4 }\nspace: {}\n"


class Measured(NamedTuple):
    """A process: seconds of wall and of processor time, and in megabytes its highest memory (at its very end, when
    libraries are put away, it may be higher than what its own log knows) and the highest anonymous part of it."""

    seconds: float
    processor: float
    peak: float
    anonymous: float


def watch(command: list[str]) -> Measured:
    """Run a command to its end; its output stays, its failure ends the benchmark."""
    started, before = time.perf_counter(), _processor_seconds()
    process = subprocess.Popen(command, env=os.environ | {"MLFLOW_TRACKING_URI": "none"}, stderr=subprocess.PIPE)
    peak = anonymous = 0.0
    while process.poll() is None:
        resident, own = memory(process.pid)
        peak, anonymous = max(peak, resident), max(anonymous, own)
        time.sleep(_EVERY)
    taken = time.perf_counter() - started
    if process.returncode:
        sys.exit(f"{' '.join(command)}:\n{process.stderr.read().decode() if process.stderr else ''}")
    return Measured(taken, _processor_seconds() - before, peak, anonymous)


def _processor_seconds() -> float:
    """Of all processes that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory(process: int) -> tuple[float, float]:
    """Resident and anonymous megabytes; nothing of a process that has just ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0, 0.0
    values = dict(line.split(":", 1) for line in lines)
    resident, own = (float(values.get(key, "0").split()[0]) / 1024 for key in ("VmHWM", "RssAnon"))
    return resident, own


def megabytes(folder: Path) -> float:
    """On the disk."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def steps(capture: Path, work: Path) -> dict[str, tuple[Path, list[str]]]:
    """Each step's product, and its arguments but for product and log."""
    config = work / "ball.yaml"
    config.write_text(_CONFIG, encoding="utf8")
    photos, scene, tiles, space = (work / name for name in ("photos", "scene", "tiles", "space"))
    arguments = {
        "ingest_photos": (photos, {"capture": capture, "config": config, "reference": work / "reference"}),
        "estimate_poses": (scene, {"capture": capture, "photos": photos, "config": config}),
        "cut_tiles": (tiles, {"scene": scene}),
        "carve_space": (space, {"scene": scene, "tiles": tiles, "config": config}),
    }
    return {
        name: (product, [word for key, path in given.items() for word in (f"--{key}", str(path))])
        for name, (product, given) in arguments.items()
    }


def run(title: str, make: Callable[[Path], None]) -> float:
    """Make a capture, run and measure everything on it; returns the largest anonymous part of any process."""
    with TemporaryDirectory() as folder:
        work = Path(folder)
        took = seconds(lambda: make(work / "capture"))
        print(f"\n{title}: made in {took:.0f} s, {megabytes(work):.0f} MB")
        print(f"{'':16} seconds processor  peak MB anonymous  logged  disk MB", flush=True)
        highest = 0.0
        for name, (product, arguments) in steps(work / "capture", work).items():
            log = work / "log" / name
            outputs = ["--out", str(product), "--log", str(log)]
            measured = watch([sys.executable, f"steps/{name}.py", *arguments, *outputs])
            logged = json.loads((log / "run.json").read_text(encoding="utf8"))["peak_memory_mb"]
            show(name, measured, f"{logged:8.0f}{megabytes(product):9.0f}")
            highest = max(highest, measured.anonymous)
        reading = [sys.executable, "-m", "benchmarks._training_reads", str(work / "scene"), str(work / "tiles")]
        measured = watch(reading)
        show("training reads", measured, "")
    return max(highest, measured.anonymous)


def show(name: str, measured: Measured, more: str) -> None:
    """A row of the table."""
    numbers = f"{measured.seconds:8.1f}{measured.processor:10.1f}{measured.peak:9.0f}{measured.anonymous:10.0f}"
    print(f"{name:16}{numbers}{more}", flush=True)


def main() -> None:
    """Both captures."""
    highest = [
        run("31 cameras x 150 frames of 640x480", lambda capture: film(capture, 31, 150)),
        run("60 photos of 4000x3000", lambda capture: photograph(capture, 60)),
    ]
    if max(highest) > _MOST:
        sys.exit(f"a process held {max(highest):.0f} MB of its own, above {_MOST}")


if __name__ == "__main__":
    main()
