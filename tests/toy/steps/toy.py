"""A step of no weight: its product is a digest of what it reads, and every execution leaves a line in $TOY/executed.

The folder $TOY lies outside the repository. A file `<step>.<key>` in it tells the step what to do this once:
`fail` with one line, `wait` for as long as the file exists, or `hang` for good. As long as the file says `train PAUSE`,
the step is a training that rests so many seconds at each of its own steps.
"""

import argparse
import hashlib
import os
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import yaml


def run(step: str, version: int) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--key", required=True)
    parser.add_argument("--read", type=Path, required=True)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--sections", nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    arguments = parser.parse_args()

    toy = Path(os.environ["TOY"])
    with (toy / "executed").open("a") as executed:
        executed.write(f"{step}@{arguments.key} {os.getpid()}\n")
    learned = _obey(toy / f"{step}.{arguments.key}", arguments.log)

    config = yaml.safe_load(arguments.config.read_text()) if arguments.config else {}
    parts = [version, {section: config[section] for section in arguments.sections}, _read(arguments.read), *learned]
    arguments.out.mkdir(parents=True)
    (arguments.out / "product.txt").write_text(hashlib.sha256(repr(parts).encode()).hexdigest())
    arguments.log.mkdir(parents=True, exist_ok=True)
    (arguments.log / "times.txt").write_text(str(time.time()))


def _obey(order: Path, log: Path) -> list[float]:
    """What the step learned, where it was told to train."""
    match order.read_text().split() if order.exists() else []:
        case ["fail"]:
            order.unlink()
            sys.exit(f"photo {order.name}: cannot be read; remove it")
        case ["wait"]:
            while order.exists():
                time.sleep(0.02)
        case ["hang"]:
            order.unlink()
            with _real_step(order.name, log):
                time.sleep(600)
        case ["train", pause]:
            from training import train

            with _real_step(order.name, log):
                return train(float(pause), Path("data/resume") / order.name, order.with_name(f"trained.{order.name}"))
    return []


def _real_step(name: str, log: Path) -> AbstractContextManager[object]:
    """What the real steps run in; the others do not wait for its import."""
    from loupe import tracking

    return tracking.step(name, "toy", log)


def _read(folder: Path) -> list[tuple[str, bytes]]:
    """Relative path and bytes of every file below, logs and Snakemake's date left out."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".snakemake_timestamp"]
    return [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in files if "log" not in path.parts]
