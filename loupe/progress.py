"""How far a step has come: a live line on a terminal, a plain line every quarter of a minute anywhere else.

TERM=dumb asks for plain lines on a terminal, too: live ones of several steps at once would overwrite each other.
"""

from __future__ import annotations

import os
import re
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.status import Status

_PLAIN_EVERY = 15.0
_PER_MEGABYTE = 1 << 20


class Progress:
    """The progress of one step, written to standard error under the step's `title`."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._is_live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._live: Status | None = None
        self._pace: Pace | None = None
        self._written = -float("inf")

    def show(self, part: str, done: int, total: int, values: Mapping[str, float]) -> None:
        """`done` of `total` pieces of work are done, the last of them in `part`; of `values` losses and PSNR show."""
        now = time.monotonic()
        if self._pace is None or self._pace.part != part:
            self._pace = Pace(part, done, now)
        if not self._is_live and done < total and now - self._written < _PLAIN_EVERY:
            return
        self._written = now
        numbers = [f"{key} {value:.4g}" for key, value in values.items() if key.startswith("loss") or key == "psnr"]
        left = self._pace.left(done, total, now)
        words = [f"{part} {done}/{total}", *numbers, f"{peak_memory_mb():.0f} MB", *([left] if left else [])]
        self._write(f"{self._title}: {', '.join(words)}")

    def say(self, text: str) -> None:
        """One line that stays."""
        _print(f"{self._title}: {text}")

    def close(self) -> None:
        """Give the terminal back."""
        if self._live is not None:
            with suppress(OSError):
                self._live.stop()

    def _write(self, line: str) -> None:
        if not self._is_live:
            _print(line)
        elif self._live is not None:
            self._live.update(line)
        else:
            from rich.console import Console

            # While it lives, rich passes on what else is printed, above its line.
            self._live = Console(stderr=True, markup=False, highlight=False).status(line)
            self._live.start()


def _print(line: str) -> None:
    """Control-C ends the reader of a pipe, too (`dvc repro 2>&1 | tee`), and the step has yet to save its state."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


class Pace:
    """The speed within one part of the work, from its first report on: parts differ in speed."""

    def __init__(self, part: str, done: int, now: float) -> None:
        self.part = part
        self._first = done
        self._since = now

    def left(self, done: int, total: int, now: float) -> str:
        """The time left in words; empty while nothing is known, or nothing is left."""
        if done <= self._first or done >= total:
            return ""
        return f"{in_words((now - self._since) * (total - done) / (done - self._first))} left"


def in_words(seconds: float) -> str:
    """A duration for people.

    >>> in_words(80), in_words(7290), in_words(3)
    ('1 min 20 s', '2 h 1 min', '3 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def peak_memory_mb() -> float:
    """The most memory that this process has held so far, in MiB; pages of mapped files count."""
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf8")):
            return int(found[1]) / 1024  # what `getrusage` tells begins at the memory of whoever started this process
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / _PER_MEGABYTE if sys.platform == "darwin" else peak / 1024


def peak_gpu_mb() -> float | None:
    """The most GPU memory that torch has held so far, in MiB; None where no GPU was used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return float(torch.cuda.max_memory_allocated()) / _PER_MEGABYTE
