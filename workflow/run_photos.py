"""One's own photos in one command: name the capture, write its YAML, check the machine, run, say where the report is.

python workflow/run_photos.py FOLDER [--name NAME] [--recipe RECIPE]
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from loupe.config import check_name, load_yaml
from loupe.errors import InputError
from loupe.pipeline import Pipeline, read_pipeline
from loupe.sources import LAYOUTS

PIPELINE = Path("configs/pipeline.yaml")
RECIPES = Path("configs/recipes")
CAPTURES = Path("data/captures")
CAPTURE_YAML = """\
# Written by `make run`; edit freely. Only what reads a changed section runs again.
ingest:
  shrink: 1          # average this many photo pixels, along each axis, into one
poses:
  source: auto       # poses that lie beside the photos where there are any, else structure from motion
scene:
  ratio: 4           # full-resolution pixels per low-resolution pixel
  split: {}          # held out for the scores: what the capture itself says, else every 8th photo
space:
  kind: auto         # bounded box or forward-facing frustum, as the cameras suggest
"""
# Bytes on disk per byte of photo (JPEG), measured on fern: pictures, tiles and DVC's cache.
DISK_PER_PHOTO_BYTE = 40
MEMORY_GB = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", help="folder of photos, or of a capture that holds images/ and poses")
    parser.add_argument("--name", help="the capture's name (default: made from the folder's)")
    parser.add_argument("--recipe", default="voxel_grid", help="a file of configs/recipes (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        photos = find_capture(arguments.photos)
        name = check_name(arguments.name or name_for(photos), "capture")
        recipe = check_name(arguments.recipe, "recipe")
        if not (RECIPES / f"{recipe}.yaml").is_file():
            known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
            raise InputError(f"recipe {recipe!r}: no such file in configs/recipes; known: {known}")
        check_machine(photos)
        link_capture(photos, name)
        write_capture_config(name)
        add_trial(name, recipe)
    except InputError as error:
        sys.exit(f"run: {error}")
    run(name, recipe)


def find_capture(photos: str) -> Path:
    """The capture's folder: the one given, or the one above where that holds the cameras of these `images`."""
    folder = Path(photos).expanduser()
    if not photos or not folder.is_dir():
        raise InputError(f"PHOTOS={photos!r}: no such folder; use make run PHOTOS=folder")
    folder = folder.resolve()
    beside = any(layout.cameras and layout.recognises(folder.parent) for layout in LAYOUTS.values())
    return folder.parent if folder.name == "images" and beside else folder


def name_for(folder: Path) -> str:
    """A capture name from a folder's name (its parent's, if it is just `images`): what is not allowed becomes '_'."""
    telling = folder.parent if folder.name == "images" else folder
    return re.sub(r"[^A-Za-z0-9_-]+", "_", telling.name).strip("_-")[:64]


def check_machine(photos: Path) -> None:
    """Refuse before hours are spent: disk and memory; and say what computes."""
    size = sum(path.stat().st_size for path in photos.rglob("*") if path.is_file())
    if size == 0:
        raise InputError(f"{photos}: holds no files")
    need, free = size * DISK_PER_PHOTO_BYTE, shutil.disk_usage(".").free
    if need > free:
        raise InputError(
            f"disk: about {need / 1e9:.0f} GB are needed for these photos, {free / 1e9:.0f} GB are free here"
        )
    memory = psutil.virtual_memory().available / 1e9
    if memory < MEMORY_GB:
        raise InputError(f"memory: a step takes up to {MEMORY_GB} GB, {memory:.1f} GB are free; close other programs")
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: the CPU computes"
    print(
        f"run: {size / 1e6:.0f} MB of photos, {free / 1e9:.0f} GB of disk and {memory:.0f} GB of memory free; {device}"
    )


def link_capture(photos: Path, name: str) -> None:
    """`data/captures/<name>` -> the folder; the photos stay where they are."""
    link = CAPTURES / name
    if link.resolve() == photos:
        return
    if link.exists() or link.is_symlink():
        raise InputError(f"{link}: is another capture already; choose another NAME=")
    link.symlink_to(photos, target_is_directory=True)


def write_capture_config(name: str) -> None:
    """The capture's YAML, unless there is one: then it is the user's."""
    path = Path(f"configs/captures/{name}.yaml")
    if not path.exists():
        path.write_text(CAPTURE_YAML, encoding="utf8")
        print(f"run: wrote {path}")


def add_trial(name: str, recipe: str) -> None:
    """List capture, encoder and trial in the pipeline, where they are not yet; the file's comments stay."""
    listed = read_pipeline(PIPELINE)
    encoder = encoder_for(name, recipe, listed)
    lines = {
        "captures": (name in listed.captures, f"  - {name}\n"),
        "encoders": (
            f"{name}.{encoder}" in listed.encoders,
            f"  {name}.{encoder}: {{capture: {name}, recipe: {encoder}}}\n",
        ),
        "trials": (
            f"{name}.{recipe}" in listed.trials,
            f"  {name}.{recipe}: {{capture: {name}, recipe: {recipe}, encoder: {encoder}}}\n",
        ),
    }
    text = PIPELINE.read_text(encoding="utf8")
    for section, (there, line) in lines.items():
        if not there:
            text, found = re.subn(rf"(?m)^{section}:\n", f"{section}:\n{line}", text, count=1)
            if not found:
                raise InputError(f"{PIPELINE}: '{section}:' must open a line and be written line by line")
    PIPELINE.write_text(text, encoding="utf8")


def encoder_for(name: str, recipe: str, listed: Pipeline) -> str:
    """The recipe whose encoder the trial begins with: one listed for this capture that is the same, or its own."""
    wanted = load_yaml(RECIPES / f"{recipe}.yaml").get("encoder")
    others = [entry.recipe for entry in listed.encoders.values() if entry.capture == name and entry.recipe != recipe]
    same = [other for other in others if load_yaml(RECIPES / f"{other}.yaml").get("encoder") == wanted]
    return same[0] if same else recipe


def run(name: str, recipe: str) -> None:
    """This trial and what it needs, then the report over all trials that have been run."""
    scores = f"score_renders@{name}.{recipe}"
    # The report depends on both folders, and the first capture may have no codebook.
    Path("data/codebooks").mkdir(exist_ok=True)
    for command in (["repro", scores], ["repro", "--single-item", "write_report"]):
        finished = subprocess.run(["dvc", *command], check=False)
        if finished.returncode:
            sys.exit(f"run: stopped; what is finished is kept, the same command goes on from there ({scores})")
    subprocess.run([sys.executable, "-m", "loupe.tracking", "sync", "data"], check=False)
    print("Report: data/report/index.html   Scores: data/report/scores.csv   Runs: make ui")


if __name__ == "__main__":
    main()
