"""Noticing that this process is asked to stop: by a signal, or because whoever started it is gone.

A signal sets a flag and nothing else; the work goes on until it looks at the flag where it can save. DVC does not hand
signals on to the steps it runs and dies of them itself, so a step also watches its parent, and its parent's parent
where a shell stands in between.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

REQUEUE = 75
"""Exit status of a step that was interrupted, saved its state and wants to be started again (EX_TEMPFAIL)."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
_SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "fish", "busybox"}
_LOOK_EVERY = 1.0


class Interruption:
    """Within `with Interruption() as interruption`, `interruption.reason()` says why to stop, or None to go on.

    Signals are heard in the main thread only. Where hang-ups are ignored (`nohup`), the parent may leave.
    """

    def __init__(self) -> None:
        self._reason: str | None = None
        self._looked = time.monotonic()
        self._ancestors = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else _ancestors()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._hear) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def reason(self) -> str | None:
        """Why to stop: the signal's name, or that the parent is gone; None while there is no reason."""
        now = time.monotonic()
        if self._reason is None and now - self._looked > _LOOK_EVERY:
            self._looked = now
            if self._ancestors and _ancestors() != self._ancestors:
                self._reason = "the process that started it is gone"
        return self._reason

    def _hear(self, number: int, _: FrameType | None) -> None:
        self._reason = signal.Signals(number).name


def _ancestors() -> list[int]:
    """The parent, and behind a shell also the shell's parent (where /proc tells)."""
    parent = os.getppid()
    try:
        name, _, rest = Path(f"/proc/{parent}/stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return [parent]
    return [parent, int(rest.split()[1])] if name in _SHELLS else [parent]
