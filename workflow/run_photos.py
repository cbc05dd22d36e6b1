"""One's own photos in one command: name the capture, write its YAML, check the machine, run, say where the report is.

python workflow/run_photos.py FOLDER [--name NAME] [--recipe RECIPE]
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import yaml

from loupe.config import Config, check_name, load_yaml, read_section
from loupe.errors import InputError
from loupe.pipeline import (
    CodebookCaptureEntry,
    CodebookEntry,
    CodebookGraftEntry,
    EncoderEntry,
    Pipeline,
    TrialEntry,
    read_pipeline,
)
from loupe.sources import LAYOUTS

PIPELINE = Path("configs/pipeline.yaml")
RECIPES = Path("configs/recipes")
CODEBOOKS = Path("configs/codebooks")
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
    """List capture, trial and what the trial begins with in the pipeline, where they are not yet; comments stay.

    Raises `InputError`, and leaves the file as it was, where the trial does not fit beside what is listed.
    """
    listed = read_pipeline(PIPELINE)
    if f"{name}.{recipe}" in listed.trials:
        return
    before = text = PIPELINE.read_text(encoding="utf8")
    if name not in listed.captures:
        text = insert(text, "captures", f"- {in_one_line(name)}")
    for section, (key, entry) in entries_for(name, recipe, listed).items():
        there = getattr(listed, section)
        if there.get(key, entry) != entry:
            raise InputError(f"{PIPELINE}: {section}.{key}: {recipe} needs an entry of this name; rename the one there")
        if entry not in there.values():
            text = insert(text, section, f"{key}: {in_one_line(entry.model_dump())}")
    PIPELINE.write_text(text, encoding="utf8")
    try:
        read_pipeline(PIPELINE)
    except InputError:
        PIPELINE.write_text(before, encoding="utf8")
        raise


def insert(text: str, section: str, line: str) -> str:
    """The pipeline's text with this line at the head of a section, which is written line by line or holds nothing."""
    head = re.compile(rf"^({section}:)(?: *(?:\{{ *\}}|\[ *\]))?( +#.*| *)$", re.MULTILINE)
    text, found = head.subn(rf"\1\2\n  {line}", text, count=1)
    if not found:
        raise InputError(f"{PIPELINE}: '{section}:' must open a line and be written line by line")
    return text


def in_one_line(content: object) -> str:
    """As YAML; a name that would be read as a number is quoted."""
    return yaml.safe_dump([content], default_flow_style=True, sort_keys=False, width=math.inf).strip()[1:-1]


def entries_for(name: str, recipe: str, listed: Pipeline) -> dict[str, tuple[str, Config]]:
    """Section -> key and entry, of the trial and of what it begins with; those that are listed, where they will do."""
    begin = encoder = encoder_for(name, recipe, listed)
    entries: dict[str, tuple[str, Config]] = {
        "encoders": (f"{name}.{encoder}", EncoderEntry(capture=name, recipe=encoder))
    }
    if load_yaml(RECIPES / f"{recipe}.yaml").get("method") == "vq_nerf":
        codebook, trained = codebook_for(name, recipe, listed)
        coded = f"{encoder}_{trained.config}"
        own = CodebookGraftEntry(capture=name, name=coded, encoder=encoder, codebook=codebook)
        graft = graft_for(own, listed)
        gathered = CodebookCaptureEntry(codebook=codebook, capture=name)
        entries["codebooks"] = codebook, trained
        entries["codebook_captures"] = f"{codebook}.{name}", gathered
        entries["codebook_grafts"] = f"{name}.{graft.name}", graft
        begin = graft.name
    entries["trials"] = f"{name}.{recipe}", TrialEntry(capture=name, recipe=recipe, encoder=begin)
    return entries


def encoder_for(name: str, recipe: str, listed: Pipeline) -> str:
    """The recipe whose encoder the trial begins with: one listed for this capture that is the same, or its own."""
    wanted = load_yaml(RECIPES / f"{recipe}.yaml").get("encoder")
    others = [entry.recipe for entry in listed.encoders.values() if entry.capture == name and entry.recipe != recipe]
    same = [other for other in others if load_yaml(RECIPES / f"{other}.yaml").get("encoder") == wanted]
    return same[0] if same else recipe


def codebook_for(name: str, recipe: str, listed: Pipeline) -> tuple[str, CodebookEntry]:
    """The codebook that the recipe asks for: one listed that is trained on this capture too, or its own."""
    config = codebook_config_for(recipe)
    for codebook, entry in listed.codebooks.items():
        if entry.config == config and name in entry.captures:
            return codebook, entry
    return f"{name}_{config}", CodebookEntry(config=config, captures=[name])


def codebook_config_for(recipe: str) -> str:
    """The file of configs/codebooks whose network the recipe asks for; `InputError` unless it is exactly one."""
    from loupe.codebook import CodebookConfig
    from loupe.methods.vq_nerf import Joint

    path = RECIPES / f"{recipe}.yaml"
    wanted = read_section(path, "joint", Joint).codebook
    files = sorted(CODEBOOKS.glob("*.yaml"))
    found = [file.stem for file in files if read_section(file, "codebook", CodebookConfig).network == wanted]
    if len(found) != 1:
        raise InputError(
            f"{path}: joint.codebook: must be the network of one file of {CODEBOOKS}, and is that of "
            f"{', '.join(found) or 'none'}; list the trial in {PIPELINE} by hand, or change these files"
        )
    return found[0]


def graft_for(own: CodebookGraftEntry, listed: Pipeline) -> CodebookGraftEntry:
    """A graft that is listed and is the same but for its name, or this one."""
    same = [graft for graft in listed.codebook_grafts.values() if graft.model_copy(update={"name": own.name}) == own]
    return same[0] if same else own


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
