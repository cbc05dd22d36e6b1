"""Scores of a folder of renders against the photos of the test views, beside baselines that any method should beat.

Scoring sees pictures and never the method. A score whose weights are missing, or that is undefined for a picture, is
left out with its reason, and so is its mean: a mean over fewer views would pass for one over all.

`scores.json`: `views` {view: {score: value or null}}, `mean`, `left_out` {score: reason}; the same three for each of
the `baselines`; `sizes` {view: [width, height]}; `pictures` {view: files}, relative to the folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from pydantic import Field

from loupe import metrics, weights
from loupe.config import Config
from loupe.errors import InputError
from loupe.images import Pixels, detailed_windows, read_image, shrink, write_image
from loupe.scene import Scene
from loupe.truth import true_picture

ScoreName = Literal["psnr", "ssim", "lpips_alex", "lpips_vgg", "niqe"]
Score = Callable[[Pixels, Pixels], float]
"""Takes the rendered and the true picture."""

Values = dict[str, float]

SCORES: tuple[ScoreName, ...] = ("psnr", "ssim", "lpips_alex", "lpips_vgg", "niqe")
_WITHOUT_TRUTH = {"niqe"}
_UNDEFINED = {"psnr": "infinite, the pictures are equal", "niqe": "undefined, fewer than two blocks with texture"}
_WIDTH = 800  # of the pictures kept for the report, pixels
_CROPS = 3
_ERROR_WHITE = 64  # the mean absolute error, of 255, at which the error map is brightest


class ScoreConfig(Config):
    """Section `score` of the pipeline's configuration.

    Attributes:
        scores: which to compute.
        crop: side of the full-resolution crops kept for the report, pixels.
    """

    scores: tuple[ScoreName, ...] = SCORES
    crop: int = Field(192, ge=16, le=2048)


def score_renders(
    renders: Path,
    scene: Scene,
    reference: Path,
    config: ScoreConfig,
    weights_folder: Path,
    out: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Score `renders/test/<view>.png` of every test view; write pictures into `out`, which exists.

    Returns the content of `scores.json`, for `save_scores`.

    Raises:
        InputError: a render is missing, broken or not of the size of its photo; a weight file is a wrong one.
    """
    files = _find_renders(renders, scene.test)
    scores, left_out = load_scores(config.scores, weights_folder)
    for name, reason in left_out.items():
        say(f"{name} is left out: {reason}")
    (out / "pictures").mkdir(exist_ok=True)
    truth = partial(true_picture, scene, reference=reference)
    colour, nearest = _mean_colour(map(truth, scene.train)), _nearest_views(scene)
    if nearest is None:
        say("the baseline nearest_view is left out: a test view has the size of no training view")
    tables: dict[str, dict[str, Values]] = {}
    pictures, sizes = {}, {}
    for view, file in files.items():
        true = truth(view)
        rendered = _read_render(file, view, true)
        candidates = {"render": rendered, **_baselines(true, colour, scene.ratio)}
        if nearest is not None:
            candidates["nearest_view"] = truth(nearest[view])
        for row, candidate in candidates.items():
            tables.setdefault(row, {})[view] = {name: score(candidate, true) for name, score in scores.items()}
        blind = {name: score for name, score in scores.items() if name in _WITHOUT_TRUTH}
        tables.setdefault("photo", {})[view] = {name: score(true, true) for name, score in blind.items()}
        sizes[view] = [true.shape[1], true.shape[0]]
        pictures[view] = _keep_pictures(out, view, rendered, true, config.crop)
        say(f"{view}: " + ", ".join(f"{name} {value:.4g}" for name, value in tables["render"][view].items()))
    photo = _summed_up(tables.pop("photo"), {})
    baselines = {row: _summed_up(table, left_out) for row, table in tables.items() if row != "render"}
    if nearest is not None:
        baselines["nearest_view"]["taken_from"] = nearest
    return {
        **_summed_up(tables["render"], left_out),
        "baselines": {**baselines, "photo": photo},
        "sizes": sizes,
        "pictures": pictures,
    }


def save_scores(folder: Path, capture: str, recipe: str, content: Mapping[str, Any]) -> None:
    """Write `scores.json`."""
    text = json.dumps({"capture": capture, "recipe": recipe, **content}, indent=1, allow_nan=False)
    (folder / "scores.json").write_text(text + "\n", encoding="utf8")


def load_scores(names: Sequence[ScoreName], folder: Path) -> tuple[dict[str, Score], dict[str, str]]:
    """The scores that can be computed, and why the others cannot. Raises `InputError` for a wrong weight file."""
    files = {"lpips_alex": weights.ALEXNET, "lpips_vgg": weights.VGG16, "niqe": weights.NIQE}
    scores: dict[str, Score] = {}
    left_out: dict[str, str] = {}
    for name in names:
        path = weights.find_weights(files[name], folder) if name in files else None
        if name in files and path is None:
            left_out[name] = f"{folder.name}/{files[name].name} is missing, see {folder.name}/README.md"
        else:
            scores[name] = _score(name, path)
    return scores, left_out


def _score(name: ScoreName, path: Path | None) -> Score:
    match name, path:
        case "lpips_alex", Path():
            return partial(metrics.lpips_distance, model=metrics.load_lpips("alex", path))
        case "lpips_vgg", Path():
            return partial(metrics.lpips_distance, model=metrics.load_lpips("vgg", path))
        case "niqe", Path():
            model = metrics.load_niqe(path)
            return lambda rendered, true: metrics.niqe(rendered, model)
        case "ssim", _:
            return metrics.ssim
        case _:
            return metrics.psnr


def _summed_up(table: Mapping[str, Values], left_out: Mapping[str, str]) -> dict[str, Any]:
    """Scores of views, their means, and what is left out: what is not finite becomes None, and with it the mean."""
    reasons, mean = dict(left_out), {}
    names = list(next(iter(table.values())))
    for name in names:
        bad = [view for view, values in table.items() if not math.isfinite(values[name])]
        if bad:
            reasons[name] = f"{_UNDEFINED.get(name, 'not finite')}: {', '.join(bad)}"
        mean[name] = None if bad else sum(values[name] for values in table.values()) / len(table)
    views = {
        view: {name: value if math.isfinite(value) else None for name, value in values.items()}
        | dict.fromkeys(left_out)
        for view, values in table.items()
    }
    return {"views": views, "mean": mean | dict.fromkeys(left_out), "left_out": reasons}


def _find_renders(folder: Path, views: Sequence[str]) -> dict[str, Path]:
    files = {view: folder / "test" / f"{view}.png" for view in views}
    missing = [view for view, file in files.items() if not file.is_file()]
    if missing:
        raise InputError(f"{folder / 'test'}: no render of test views {', '.join(missing)}; run render_views again")
    return files


def _read_render(file: Path, view: str, true: Pixels) -> Pixels:
    rendered = read_image(file)
    if rendered.shape != true.shape:
        raise InputError(f"{file}: shape {rendered.shape}, but view {view} has {true.shape}; scores resize nothing")
    return rendered


def _baselines(true: Pixels, colour: Pixels, ratio: int) -> dict[str, Pixels]:
    """Pictures that cost nothing: the mean colour, and an oracle's, which saw the view: the true low-resolution photo
    enlarged. It shows what lost detail alone scores, with every edge in its place."""
    height, width = true.shape[:2]
    made = {"mean_colour": np.broadcast_to(colour, true.shape).copy()}
    if ratio > 1:
        low = shrink(true, ratio)
        made["bicubic_of_true_low"] = np.asarray(cv2.resize(low, (width, height), interpolation=cv2.INTER_CUBIC))
    return made


def _nearest_views(scene: Scene) -> dict[str, str] | None:
    """The nearest training view of every test view; None if one has none of its size."""
    found = {view: nearest for view in scene.test if (nearest := nearest_view(scene, view)) is not None}
    return found if len(found) == len(scene.test) else None


def nearest_view(scene: Scene, view: str) -> str | None:
    """The training view of the same size and moment whose photo lies nearest to `view`'s; None if there is none.

    Near means a small shift of the picture: the turn of the camera, in radians, plus the move of its centre over the
    scene's (harmonic) mean depth.
    """
    own = scene.camera(view, "full")
    disparity = (1 / scene.view(view).near + 1 / scene.view(view).far) / 2

    def distance(name: str) -> float:
        other = scene.camera(name, "full")
        turn = math.acos(float(np.clip(own.forward @ other.forward, -1, 1)))
        return turn + disparity * float(np.linalg.norm(own.center - other.center))

    moment = scene.view(view).frame
    sizes = {name: scene.camera(name, "full") for name in scene.train if scene.view(name).frame == moment}
    alike = [name for name, camera in sizes.items() if (camera.width, camera.height) == (own.width, own.height)]
    return min(alike, key=distance, default=None)


def _mean_colour(photos: Iterable[Pixels]) -> Pixels:
    """Of all pixels of the photos."""
    total, pixels = np.zeros(3), 0
    for photo in photos:
        count = photo.shape[0] * photo.shape[1]
        total, pixels = total + np.array(cv2.mean(photo)[:3]) * count, pixels + count
    return np.asarray(np.rint(total / pixels), np.uint8)


def _keep_pictures(out: Path, view: str, rendered: Pixels, true: Pixels, side: int) -> dict[str, Any]:
    """Write the report's pictures of a view; returns their files."""

    def keep(name: str, picture: Pixels, quality: int) -> str:
        write_image(out / "pictures" / f"{view}.{name}.jpg", picture, quality)
        return f"pictures/{view}.{name}.jpg"

    made = {"render": rendered, "true": true, "error": error_map(rendered, true)}
    kept: dict[str, Any] = {name: keep(name, _small(picture), 90) for name, picture in made.items()}
    kept["crops"] = []
    for index, (x, y, width, height) in enumerate(detailed_windows(true, side, _CROPS)):
        crops = {
            name: keep(f"crop{index}.{name}", picture[y : y + height, x : x + width], 95)
            for name, picture in (("render", rendered), ("true", true))
        }
        kept["crops"].append({"window": [x, y, width, height], **crops})
    return kept


def error_map(rendered: Pixels, true: Pixels) -> Pixels:
    """The mean absolute difference of the channels as a colour: black none, brightest a quarter of the range."""
    difference = cv2.absdiff(rendered, true).mean(2)
    scaled = np.clip(difference * (255 / _ERROR_WHITE), 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB), np.uint8)


def _small(picture: Pixels) -> Pixels:
    height, width = picture.shape[:2]
    if width <= _WIDTH:
        return picture
    size = (_WIDTH, max(round(height * _WIDTH / width), 1))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
