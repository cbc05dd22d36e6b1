"""Checkpoints of one training run in one folder: whole or absent, verified, and never pickled.

A checkpoint is one safetensors file named by its step and the SHA-256 of its bytes; its facts (position, history,
configuration) are JSON in the file's metadata. It is written in `unfinished/`, flushed to the disk and moved to its
place, so a process that dies at any moment leaves the checkpoints before it as they were. The newest two are kept.

`state.json` tells the world how the run stands: {"state": "running", "requeue", "failed" or "complete", ...}.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from loupe.errors import InputError
from loupe.provenance import flat

if TYPE_CHECKING:
    from torch import Tensor

_KEPT = 2
_NO_ROOM = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
_logger = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """Tensors by name, and facts as plain JSON values."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run in `folder`, held by one process at a time: use it in a `with` statement.

    Args:
        folder: made if it is missing.
        configuration: plain nested values; a checkpoint made under other values is refused.
    """

    def __init__(self, folder: Path, configuration: Mapping[str, Any]) -> None:
        self.folder = folder
        self._configuration = json.loads(json.dumps(flat(configuration)))
        self._lock: BinaryIO | None = None

    def __enter__(self) -> Self:
        """Raises `InputError` if another process holds the folder, or it cannot be written."""
        with self._in_one_line("cannot be written"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / "lock", "a+b", buffering=0)
        try:
            self._take(self._lock)
        except InputError:
            self._lock.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        if self._lock is not None:
            self._lock.close()

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep `tensors` and `facts` as the checkpoint of `step`; raises `InputError` if they cannot be written."""
        metadata = {"facts": json.dumps({**facts, "configuration": self._configuration})}
        with self._unfinished(f"step {step} cannot be saved") as unfinished:
            save_file(_own_memory(tensors), unfinished / "checkpoint", metadata)
            digest = _flushed_digest(unfinished / "checkpoint")
            os.replace(unfinished / "checkpoint", self.folder / f"{step:09d}-{digest}.safetensors")
            _flush_folder(self.folder)
            for path in self._paths()[:-_KEPT]:
                path.unlink()

    def newest(self) -> Checkpoint | None:
        """The newest sound checkpoint, or None; a damaged one is named in a warning, removed and passed over.

        Raises:
            InputError: it was made under another configuration; the message shows the difference, key by key.
        """
        for path in reversed(self._paths()):
            try:
                checkpoint = _read(path)
            except SafetensorError as error:
                _logger.warning("%s is damaged (%s): going back to the checkpoint before it", path, error)
                path.unlink()
                continue
            self._check(checkpoint.facts.pop("configuration"))
            return checkpoint
        return None

    def note(self, state: str, **facts: Any) -> None:
        """Write `state.json`; raises `InputError` if it cannot be written."""
        with self._unfinished("state.json cannot be written") as unfinished:
            (unfinished / "state.json").write_text(json.dumps({"state": state, **facts}) + "\n", encoding="utf8")
            os.replace(unfinished / "state.json", self.folder / "state.json")

    def _take(self, lock: BinaryIO) -> None:
        try:
            # The system frees the lock when its holder dies in whatever way, so none is ever stale.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().decode() or "another process"
            raise InputError(f"{self.folder}: in use by {holder}; wait for it") from None
        except OSError as error:
            _logger.warning("%s: no locks on this file system (%s): start no second run here", self.folder, error)
        with self._in_one_line("cannot be written"):
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}".encode())

    @contextmanager
    def _unfinished(self, failure: str) -> Iterator[Path]:
        """A folder for what is being written. It goes with all that is left in it, be it by a library that writes to a
        temporary file of its own or by a process that was killed."""
        folder = self.folder / "unfinished"
        try:
            with self._in_one_line(failure):
                folder.mkdir(exist_ok=True)
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # A file system that has become read-only refuses that, too.

    @contextmanager
    def _in_one_line(self, failure: str) -> Iterator[None]:
        """Whatever the file system refuses becomes an `InputError`."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{self.folder}: {failure} ({_reason(error)}); put that right and start again; earlier checkpoints "
                "are kept"
            ) from None

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"))

    def _check(self, saved: dict[str, Any]) -> None:
        now = self._configuration
        changed = [key for key in sorted(saved.keys() | now.keys()) if saved.get(key, _ABSENT) != now.get(key, _ABSENT)]
        if changed:
            changes = ", ".join(f"{key} {saved.get(key, _ABSENT)} -> {now.get(key, _ABSENT)}" for key in changed)
            raise InputError(
                f"{self.folder}: holds a run with another configuration: {changes}; "
                "change it back to go on, or delete the folder to start anew"
            )


_ABSENT = "(none)"


def clear(folder: Path) -> None:
    """Remove a run's checkpoints, when its product is written."""
    shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path) -> Checkpoint:
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != path.stem.partition("-")[2]:
            raise SafetensorError("its digest differs from its name")
    with safe_open(path, "pt") as content:
        facts = (content.metadata() or {}).get("facts")
        if facts is None:
            raise SafetensorError("it holds no facts")
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        return Checkpoint(tensors, json.loads(facts))


def _own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, and no two in the same memory, which safetensors refuses."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        local = tensor.detach().cpu().contiguous()
        memory = local.untyped_storage().data_ptr()
        plain[name] = local.clone() if memory in seen else local
        seen.add(memory)
    return plain


def _flushed_digest(path: Path) -> str:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    """What the system says, in plain words; libraries that raise errors of their own quote it."""
    for number, words in _NO_ROOM.items():
        if os.strerror(number) in str(error):
            return words
    return getattr(error, "strerror", None) or str(error)
