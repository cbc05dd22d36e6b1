"""The log of a step on disk: a folder, and the truth about what ran.

`run.json` says what ran, on what and how it went, `metrics.jsonl` holds a point of the curves a line, `log.txt` what
was said, `pictures/` samples; some steps add a page. Times and memory stand here and never in a product. Secrets are
replaced before anything is written.
"""

from __future__ import annotations

import json
import math
import os
import platform
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loupe.images import Pixels, write_image
from loupe.progress import Progress, peak_gpu_mb, peak_memory_mb
from loupe.provenance import commit, digest, without_secrets


class Log:
    """What a running step writes down. Made by `loupe.tracking.step`."""

    def __init__(self, folder: Path, name: str, instance: str) -> None:
        """Begin the log of step `name` on `instance` in `folder`, in place of an older one."""
        _clear(folder)
        self.folder = folder
        self.facts: dict[str, Any] = _facts(name, instance)
        self.terminal = Progress(f"{name} {instance}")
        (folder / "metrics.jsonl").touch()

    def parameters(self, values: Mapping[str, object]) -> None:
        """Note the configuration, as plain nested values; a second call adds to the first."""
        self.facts["parameters"].update(values)
        self.save()

    def read(self, paths: Sequence[Path]) -> None:
        """Note the digests of files and folders that the step reads; `InputError` if one is missing."""
        self.facts["inputs"].update({str(path): digest(path) for path in paths})

    @property
    def inputs(self) -> Mapping[str, str]:
        """The digest of each input folder or file, by its path."""
        return dict(self.facts["inputs"])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """A point of curves, for example {"loss.colour": 0.1, "psnr": 27.0}; what is not finite is written as null."""
        plain = {key: float(value) if math.isfinite(value) else None for key, value in values.items()}
        self._append("metrics.jsonl", json.dumps({"step": step, "values": plain, "time": time.time()}))

    def progress(self, part: str, done: int, total: int, values: Mapping[str, float]) -> None:
        """`done` of `total` pieces are done, the last in `part`: a point of the curves, and a line on the terminal."""
        if values:
            self.scalars(done, values)
        self.terminal.show(part, done, total, values)

    def summary(self, values: Mapping[str, float | str | None]) -> None:
        """Final numbers of the step; a second call adds to the first."""
        self.facts["summary"].update(values)

    def picture(self, name: str, picture: Pixels) -> None:
        """A sample picture, uint8 (h, w, 3), as `pictures/<name>.jpg`."""
        path = self.folder / "pictures" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, picture, quality=90)

    def page(self, name: str, html: str) -> None:
        """A page that holds everything it shows, as `<name>.html`."""
        (self.folder / f"{name}.html").write_text(str(without_secrets(html)), encoding="utf8")

    def say(self, text: str) -> None:
        """One plain line to the terminal and into `log.txt`."""
        text = str(without_secrets(text))
        self.terminal.say(text)
        self._append("log.txt", text)

    def _append(self, name: str, line: str) -> None:
        with _unless_removed(self.folder), open(self.folder / name, "a", encoding="utf8") as file:
            file.write(line + "\n")

    def save(self) -> None:
        """Write `run.json`, whole or not at all."""
        unfinished = self.folder / "run.json.part"
        with _unless_removed(self.folder):
            unfinished.write_text(json.dumps(without_secrets(self.facts), indent=1) + "\n", encoding="utf8")
            os.replace(unfinished, self.folder / "run.json")

    def close(self, status: str) -> None:
        """Write down how the step ended."""
        self.terminal.close()
        self.facts["seconds"] = round(time.time() - self.facts["started"], 3)
        self.facts["status"] = status
        self.facts |= _machine() | {"peak_memory_mb": round(peak_memory_mb(), 1), "peak_gpu_mb": peak_gpu_mb()}
        self.save()


@contextmanager
def _unless_removed(folder: Path) -> Iterator[None]:
    """A workflow that is taken down removes what is not finished, this log too, while a training still saves."""
    try:
        yield
    except FileNotFoundError:
        if folder.is_dir():
            raise


def _clear(folder: Path) -> None:
    """Remove an older log. Its files may be links into DVC's cache, so they are removed, never written over."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = folder / "pictures"
    for path in [
        *pictures.glob("*"),
        *folder.glob("*.html"),
        *(folder / name for name in ("run.json", "metrics.jsonl", "log.txt")),
    ]:
        path.unlink(missing_ok=True)


def _facts(name: str, instance: str) -> dict[str, Any]:
    return {
        "format": 1,
        "step": name,
        "instance": instance,
        "execution": uuid.uuid4().hex,
        "status": "running",
        "started": time.time(),
        "commit": commit(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "parameters": {},
        "inputs": {},
        "summary": {},
    }


def _machine() -> dict[str, Any]:
    """Versions, threads and device; those of torch only where the step loaded it."""
    versions = {"python": platform.python_version()}
    torch = sys.modules.get("torch")
    if torch is None:
        return {"versions": versions, "threads": os.cpu_count(), "device": "cpu"}
    used = torch.cuda.is_initialized()
    return {
        "versions": versions | {"torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if used else "cpu",
    }
