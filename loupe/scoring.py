"""Scores of a folder of renders against the photos of the test views, beside baselines that any method should beat.

Scoring sees pictures and never the method. A score whose weights are missing, or that is undefined for a picture, is
left out with its reason, and so is its mean: a mean over fewer views would pass for one over all.

`scores.json`: `views` {view: {score: value or null}}, `mean`, `left_out` {score: reason}; the same three for each of
the `baselines`, and for `encoder`, what the trial began with, if `renders/encoder` holds its pictures; `sizes` {view:
[width, height]}; `pictures` {view: files}, relative to the folder, of at most a dozen views; and `box`, where masks
carved a subject, else null: the same scores within the subject's box alone (see `loupe.subject`), as `views`, `mean`,
`left_out`, `baselines`, `encoder`, and `windows` {view: [x, y, width, height]}.
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
from loupe.scene import Scene, evenly
from loupe.subject import Window, subject_box, window_around
from loupe.truth import true_picture

ScoreName = Literal["psnr", "ssim", "lpips_alex", "lpips_vgg", "niqe"]
Score = Callable[[Pixels, Pixels], float]
"""Takes the rendered and the true picture."""

Values = dict[str, float]
Tables = dict[str, dict[str, Values]]
"""The scores of every view, for the render and each baseline."""

SCORES: tuple[ScoreName, ...] = ("psnr", "ssim", "lpips_alex", "lpips_vgg", "niqe")
_WITHOUT_TRUTH = {"niqe"}
_LEAST_SIDE = {"ssim": metrics.SSIM_SIDE, "lpips_alex": metrics.LPIPS_SIDE, "lpips_vgg": metrics.LPIPS_SIDE}
_UNDEFINED = {"psnr": "infinite, the pictures are equal", "niqe": "undefined, fewer than two blocks with texture"} | {
    name: f"undefined, fewer than {side} pixels a side" for name, side in _LEAST_SIDE.items()
}
_PICTURED = 12  # test views of which the report's pictures are kept
_MEANT = 256  # training photos of which the mean colour is taken
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
    space: Path,
    reference: Path,
    config: ScoreConfig,
    weights_folder: Path,
    out: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Score `renders/test/<view>.png` of every test view; write pictures into `out`, which exists.

    `space` is the folder that carve_space made. Returns the content of `scores.json`, for `save_scores`.

    Raises:
        InputError: a render is missing, broken or not of the size of its photo; a weight file is a wrong one.
    """
    files = _find_renders(renders, scene.test)
    scores, left_out = load_scores(config.scores, weights_folder)
    for name, reason in left_out.items():
        say(f"{name} is left out: {reason}")
    (out / "pictures").mkdir(exist_ok=True)
    truth = partial(true_picture, scene, reference=reference)
    colour = _mean_colour(map(truth, _some(scene.train, _MEANT, "the mean colour is that", "training photos", say)))
    nearest, windows = _nearest_views(scene, say), _windows(scene, space, say)
    pictured = _some(scene.test, _PICTURED, "pictures are kept", "test views", say)
    whole: Tables = {}
    boxed: Tables = {}
    pictures, sizes = {}, {}
    for view, file in files.items():
        true = truth(view)
        rendered = _read_render(file, view, true)
        candidates = {"render": rendered, **_baselines(true, colour, scene.ratio)}
        if (renders / "encoder").is_dir():
            candidates["encoder"] = _read_render(renders / "encoder" / f"{view}.png", view, true)
        if nearest is not None:
            candidates["nearest_view"] = truth(nearest[view])
        _enter(whole, view, candidates, true, scores)
        if windows is not None:
            cut = partial(_cut, window=windows[view])
            _enter(boxed, view, {row: cut(candidate) for row, candidate in candidates.items()}, cut(true), scores)
        sizes[view] = [true.shape[1], true.shape[0]]
        if view in pictured:
            pictures[view] = _keep_pictures(out, view, rendered, true, config.crop)
        say(f"{view}: " + ", ".join(f"{name} {value:.4g}" for name, value in whole["render"][view].items()))
    content = _summary(whole, left_out) | {"sizes": sizes, "pictures": pictures}
    if nearest is not None:
        content["baselines"]["nearest_view"]["taken_from"] = nearest
    box = None if windows is None else _summary(boxed, left_out) | {"windows": windows}
    return content | {"box": box}


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


def _enter(
    tables: Tables, view: str, candidates: Mapping[str, Pixels], true: Pixels, scores: Mapping[str, Score]
) -> None:
    """Enter what the candidates score in a view; and the photo itself, where a score needs no truth."""
    for row, candidate in candidates.items():
        tables.setdefault(row, {})[view] = _values(scores, candidate, true)
    blind = {name: score for name, score in scores.items() if name in _WITHOUT_TRUTH}
    tables.setdefault("photo", {})[view] = _values(blind, true, true)


def _values(scores: Mapping[str, Score], rendered: Pixels, true: Pixels) -> Values:
    """NaN where the pictures are too small for a score, as a box may be."""
    side = min(true.shape[:2])
    return {
        name: score(rendered, true) if side >= _LEAST_SIDE.get(name, 1) else math.nan for name, score in scores.items()
    }


def _summary(tables: Tables, left_out: Mapping[str, str]) -> dict[str, Any]:
    """The render's scores, and those of the encoder and the baselines."""
    rows = {row: _summed_up(table, {} if row == "photo" else left_out) for row, table in tables.items()}
    encoder = {"encoder": rows.pop("encoder")} if "encoder" in rows else {}
    return rows.pop("render") | encoder | {"baselines": rows}


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


def _nearest_views(scene: Scene, say: Callable[[str], None]) -> dict[str, str] | None:
    """The nearest training view of every test view; None if one has none of its size."""
    found = {view: nearest for view in scene.test if (nearest := nearest_view(scene, view)) is not None}
    if len(found) < len(scene.test):
        say("the baseline nearest_view is left out: a test view has the size of no training view")
        return None
    return found


def _windows(scene: Scene, space: Path, say: Callable[[str], None]) -> dict[str, Window] | None:
    """Where the subject's box is in every test view; None if there is none, or one that misses a view."""
    corners = subject_box(scene, space)
    if corners is None:
        return None
    found = {view: window_around(corners, scene.camera(view, "full")) for view in scene.test}
    seen = {view: window for view, window in found.items() if window is not None}
    if unseen := [view for view in found if view not in seen]:
        say(f"no scores in the subject's box: it is not in the picture of {', '.join(unseen)}")
        return None
    return seen


def _cut(picture: Pixels, window: Window) -> Pixels:
    x, y, width, height = window
    return picture[y : y + height, x : x + width]


def _some(names: Sequence[str], most: int, what: str, kind: str, say: Callable[[str], None]) -> list[str]:
    """At most so many of the names, evenly taken; says so where that leaves some out."""
    taken = evenly(names, most)
    if len(taken) < len(names):
        say(f"{what} of {len(taken)} of {len(names)} {kind}")
    return taken


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
    for index, window in enumerate(detailed_windows(true, side, _CROPS)):
        crops = {
            name: keep(f"crop{index}.{name}", _cut(picture, window), 95)
            for name, picture in (("render", rendered), ("true", true))
        }
        kept["crops"].append({"window": list(window), **crops})
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
