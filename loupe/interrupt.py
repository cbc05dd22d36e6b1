"""Noticing that this process is asked to stop: by a signal, or because whoever started it is gone.

A signal sets a flag and nothing else; the work goes on until it looks at the flag where it can save. DVC does not hand
signals on to the steps it runs and dies of them itself, so a step also watches its parent, and its parent's parent
where a shell stands in between; once they are gone, it sends itself SIGTERM. A training saves at that; all else ends.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

REQUEUE = 75
"""Exit status of a step that was interrupted, saved its state and wants to be started again (EX_TEMPFAIL)."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "fish", "busybox"}
_LOOK_EVERY = 1.0


class Interruption:
    """Within `with Interruption() as interruption`, `interruption.reason()` says why to stop, or None to go on.

    Signals are heard in the main thread only. Where hang-ups are ignored (`nohup`), they stay so.
    """

    def __init__(self) -> None:
        self._reason: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        heard = [number for number in _SIGNALS if number != signal.SIGHUP or not _ignores_hang_ups()]
        self._before = {number: signal.signal(number, self._hear) for number in heard}
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        # A process that is told to stop is often told twice, and the second time must not cut its end short.
        if self._reason is None:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def reason(self) -> str | None:
        """Why to stop: the name of the signal; None while there is no reason."""
        return self._reason

    def _hear(self, number: int, _: FrameType | None) -> None:
        self._reason = signal.Signals(number).name


@contextmanager
def ending_with_parent() -> Iterator[None]:
    """Within it, this process gets SIGTERM once whoever started it is gone.

    Where hang-ups are ignored (`nohup`), the parent may leave.
    """
    if _ignores_hang_ups():
        yield
        return
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(_ancestors(), over), daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()  # Whatever comes next is cut short by no late signal.


def _ignores_hang_ups() -> bool:
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def _watch(ancestors: list[int], over: threading.Event) -> None:
    while not over.wait(_LOOK_EVERY):
        if _ancestors() != ancestors:
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _ancestors() -> list[int]:
    """The parent, and behind a shell also the shell's parent (where /proc tells)."""
    parent = os.getppid()
    try:
        name, _, rest = Path(f"/proc/{parent}/stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return [parent]
    return [parent, int(rest.split()[1])] if name in _SHELLS else [parent]
