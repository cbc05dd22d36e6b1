"""Coarse measurements of what each stage of the toy pipeline makes, beside the VERSION of its step.

DVC re-runs a stage when its script changes, but does not see the library behind it: whoever changes what a step makes
raises VERSION in `steps/<step>.py`. `fingerprints.json` notices where that was forgotten. The measurements do not
depend on where the world's origin lies, which differs between machines, and are compared with a tolerance.

`python tests/fingerprints.py` runs the toy pipeline and writes the file anew.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pipelineproject import Pipeline, create, step_of
from safetensors.numpy import load_file
from toyproject import ROOT

from loupe.capture_views import CaptureViews
from loupe.images import read_image
from loupe.photos import read_photos
from loupe.scene import Scene
from loupe.tiles import LEVELS, Tiles

RECORD = Path(__file__).with_suffix(".json")
TOLERANCE = 0.02  # another seed of structure from motion, and so other cameras, moves none by 0.005
Fingerprint = dict[str, float | str]


def of_pixels(name: str, pixels: np.ndarray) -> Fingerprint:
    return {f"{name}.mean": float(pixels.mean()), f"{name}.std": float(pixels.std())}


def of_photos(folder: Path) -> Fingerprint:
    photos = read_photos(folder)
    pixels = np.concatenate([read_image(folder / photo.file).ravel() for photo in photos])
    means = {key: float(np.mean([getattr(photo, key) for photo in photos])) for key in ("sharpness", "exposure")}
    return {"photos": len(photos), **means, **of_pixels("pixels", pixels)}


def of_scene(folder: Path) -> Fingerprint:
    """Distances between the cameras count by their spread: their unit is arbitrary."""
    scene = Scene.load(folder)
    centers = np.array([view.camera.center for view in scene.views])
    apart = np.linalg.norm(centers[:, None] - centers, axis=-1)
    counts = {"train": len(scene.train), "test": len(scene.test), "points": len(scene.points.xyz)}
    focal = np.mean([view.camera.fx / view.camera.width for view in scene.views])
    numbers = {"focal": focal, "spread": apart.std() / apart.mean(), "seen": scene.points.seen.mean()}
    return {"source": scene.source, **counts, **{name: float(value) for name, value in numbers.items()}}


def of_tiles(folder: Path) -> Fingerprint:
    tiles = Tiles(folder)
    made: Fingerprint = {"views": len(tiles.names), "ratio": tiles.ratio}
    for level in LEVELS:
        made |= of_pixels(level, np.concatenate([tiles.image(name, level).ravel() for name in tiles.names]))
    return made


def of_capture_views(folder: Path) -> Fingerprint:
    views = CaptureViews.load(folder)
    counts = {"train": len(views.train), "test": len(views.test), "ratio": views.tiles.ratio}
    return {**counts, **of_pixels("full", views.tiles.pixels("full"))}


def of_space(folder: Path) -> Fingerprint:
    occupancy = load_file(folder / "occupancy.safetensors")
    share = np.unpackbits(occupancy["bits"]).sum() / occupancy["shape"].prod()
    kind = json.loads((folder / "space.json").read_text())["kind"]
    return {"kind": kind, "share": float(share), "megabytes": (folder / "points.ply").stat().st_size / 1e6}


def of_codebook(folder: Path) -> Fingerprint:
    scores = json.loads((folder / "scores.json").read_text())
    return {**of_model(folder), "psnr": scores["psnr"], "perplexity": scores["perplexity"]}


def of_model(folder: Path) -> Fingerprint:
    """The tensors' names and ranks, how many numbers they hold, and the spread of the largest."""
    tensors = load_file(folder / "model.safetensors")
    ranks = ", ".join(f"{name}[{value.ndim}]" for name, value in sorted(tensors.items()))
    largest = max(tensors.values(), key=lambda value: value.size)
    return {"tensors": ranks, "numbers": sum(value.size for value in tensors.values()), "std": float(largest.std())}


def of_renders(folder: Path) -> Fingerprint:
    pictures = [read_image(path) for path in sorted((folder / "test").iterdir())]
    sizes = sorted({f"{picture.shape[1]}x{picture.shape[0]}" for picture in pictures})
    content = json.loads((folder / "renders.json").read_text())
    pixels = of_pixels("pixels", np.concatenate([picture.ravel() for picture in pictures]))
    return {"views": len(content["views"]), "film": str(content["film"]), "sizes": ", ".join(sizes), **pixels}


def of_scores(folder: Path) -> Fingerprint:
    scores = json.loads((folder / "scores.json").read_text())
    made: Fingerprint = {"left out": ", ".join(scores["left_out"])}
    rows = {"render": scores, **{name: scores["baselines"][name] for name in ("mean_colour", "bicubic_of_true_low")}}
    for row, content in rows.items():
        made |= {f"{row}.{name}": content["mean"][name] for name in ("psnr", "ssim")}
    return made


def of_report(folder: Path) -> Fingerprint:
    page = (folder / "index.html").read_text()
    counts = {name: page.count(f"<{name}") for name in ("img", "svg", "table", "h2")}
    return {**counts, "rows": len((folder / "scores.csv").read_text().splitlines())}


MEASURES: dict[str, Callable[[Path], Fingerprint]] = {
    "ingest_photos": of_photos,
    "estimate_poses": of_scene,
    "cut_tiles": of_tiles,
    "carve_space": of_space,
    "gather_views": of_capture_views,
    "pretrain_codebook": of_codebook,
    "fit_encoder": of_model,
    "graft_decoder": of_model,
    "graft_codebook": of_model,
    "train_joint": of_model,
    "render_views": of_renders,
    "score_renders": of_scores,
    "write_report": of_report,
}


def version(step: str) -> int:
    found = re.search(r"^VERSION = (\d+)$", (ROOT / f"steps/{step}.py").read_text(), re.MULTILINE)
    assert found, f"steps/{step}.py: no line 'VERSION = <number>'"
    return int(found[1])


def measure(project: Pipeline) -> dict[str, Fingerprint]:
    """The version and the rounded fingerprint of every stage, in the order of the steps."""
    made = {}
    for stage in project.stages:
        values = MEASURES[step_of(stage)](project.product(stage))
        rounded = {key: value if isinstance(value, str) else float(f"{value:.4g}") for key, value in values.items()}
        made[stage] = {"VERSION": version(step_of(stage)), **rounded}
    return made


def difference(before: Mapping[str, float | str], after: Mapping[str, float | str]) -> list[str]:
    """What differs, beyond the tolerance, between two fingerprints of a stage, as `key: before -> after`."""
    keys = [key for key in before | after if key != "VERSION"]
    pairs = {key: (before.get(key, "absent"), after.get(key, "absent")) for key in keys}
    return [f"{key}: {old} -> {new}" for key, (old, new) in pairs.items() if not _alike(old, new)]


def _alike(old: float | str, new: float | str) -> bool:
    if isinstance(old, str) or isinstance(new, str):
        return old == new
    return math.isclose(old, new, rel_tol=TOLERANCE)


def main() -> None:
    """Run the toy pipeline and write its fingerprints down."""
    with TemporaryDirectory() as folder:
        project = create(Path(folder))
        project.call("dvc", "repro")
        RECORD.write_text(json.dumps(measure(project), indent=1) + "\n")
    print(f"{RECORD.relative_to(ROOT)} written; look at the difference before you commit it")


if __name__ == "__main__":
    main()
