"""Scoring a folder of renders, on a made-up scene of three training and two test photos."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from loupe import metrics, scoring, weights
from loupe.camera import Camera
from loupe.errors import InputError
from loupe.images import Pixels, read_image, shrink, write_image
from loupe.scene import Points, Scene, View
from loupe.scoring import ScoreConfig, error_map, nearest_view, save_scores, score_renders

WIDTH, HEIGHT, RATIO = 130, 97, 4  # the last two columns and the last row are no part of the scores
POSITIONS = {"a": 0.0, "b": 0.1, "c": 1.0, "d": 1.4, "e": 3.0}
PLAIN = ScoreConfig(scores=("psnr", "ssim"), crop=32)


def textured(seed: int) -> Pixels:
    random = np.random.default_rng(seed)
    coarse = cv2.resize(random.uniform(30, 220, (9, 12, 3)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.clip(coarse + random.normal(0, 5, coarse.shape), 0, 255).astype(np.uint8)


def camera_at(x: float, width: int = WIDTH) -> Camera:
    pose = np.eye(4)
    pose[0, 3] = -x
    return Camera(width, HEIGHT, 100, 100, width / 2, HEIGHT / 2, pose)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Views a to e on a line; b and d are test views. Their renders are the photos plus 10 in every channel."""
    folder, renders = tmp_path / "scene", tmp_path / "renders" / "test"
    folder.mkdir()
    renders.mkdir(parents=True)
    for seed, name in enumerate(POSITIONS):
        photo = textured(seed) // 2 + 20
        write_image(folder / f"{name}.png", photo)
        if name in "bd":
            write_image(renders / f"{name}.png", photo[:96, :128] + 10)
    views = [View(name, camera_at(x), f"{name}.png", 2.0, 6.0) for name, x in POSITIONS.items()]
    made = Scene(folder, views, Points.none(), ["a", "c", "e"], ["b", "d"], RATIO, "made up")
    made.save()
    return made


def score(scene: Scene, config: ScoreConfig = PLAIN, said: list[str] | None = None) -> dict:
    out = scene.folder.parent / "scores"
    out.mkdir(exist_ok=True)
    say = (said if said is not None else []).append
    root = scene.folder.parent
    return score_renders(root / "renders", scene, root / "space", Path(), config, root / "weights", out, say)


def test_scores_are_those_of_the_cropped_photos(scene: Scene) -> None:
    made = score(scene)
    error = 20 * math.log10(255 / 10)
    assert made["views"]["b"]["psnr"] == pytest.approx(error)
    assert made["mean"]["psnr"] == pytest.approx(error)
    photo = scene.picture("d")[:96, :128]
    assert made["views"]["d"]["ssim"] == pytest.approx(metrics.ssim(photo + 10, photo), abs=1e-12)
    assert made["sizes"] == {"b": [128, 96], "d": [128, 96]}
    assert made["left_out"] == {}


def test_the_encoder_is_scored_where_it_was_drawn(scene: Scene) -> None:
    assert "encoder" not in score(scene)
    folder = scene.folder.parent / "renders" / "encoder"
    folder.mkdir()
    for name in "bd":
        write_image(folder / f"{name}.png", scene.picture(name)[:96, :128] + 5)
    made = score(scene)
    assert made["encoder"]["mean"]["psnr"] == pytest.approx(20 * math.log10(255 / 5))
    assert made["mean"]["psnr"] == pytest.approx(20 * math.log10(255 / 10))
    assert "encoder" not in made["baselines"]
    (folder / "d.png").unlink()
    with pytest.raises(InputError, match=r"d\.png"):
        score(scene)


def test_baselines_are_what_they_say(scene: Scene) -> None:
    baselines = score(scene)["baselines"]
    assert baselines["nearest_view"]["taken_from"] == {"b": "a", "d": "c"}
    photos = {name: scene.picture(name)[:96, :128] for name in "abcde"}
    assert baselines["nearest_view"]["views"]["d"]["psnr"] == pytest.approx(metrics.psnr(photos["c"], photos["d"]))
    mean = np.mean([photos[name].reshape(-1, 3).mean(0) for name in "ace"], 0).round()
    flat = np.broadcast_to(mean.astype(np.uint8), photos["b"].shape)
    assert baselines["mean_colour"]["views"]["b"]["psnr"] == pytest.approx(metrics.psnr(flat, photos["b"]))
    enlarged = cv2.resize(shrink(photos["b"], RATIO), (128, 96), interpolation=cv2.INTER_CUBIC)
    oracle = baselines["bicubic_of_true_low"]["views"]["b"]
    assert oracle["ssim"] == pytest.approx(metrics.ssim(enlarged, photos["b"]))


def test_nearness_counts_turning_as_well_as_moving(scene: Scene) -> None:
    turned = np.array(
        [[0, 0, -1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float
    )  # at the origin, looking along x
    views = [
        View("test", camera_at(0), "-", 2, 6),
        View("turned", Camera(WIDTH, HEIGHT, 100, 100, 65, 48, turned), "-", 2, 6),
        View("moved", camera_at(2), "-", 2, 6),
        View("other_size", camera_at(0.1, width=WIDTH + 8), "-", 2, 6),
    ]
    train = ["turned", "moved", "other_size"]
    assert nearest_view(Scene(scene.folder, views, Points.none(), train, ["test"], 4, ""), "test") == "moved"
    assert nearest_view(Scene(scene.folder, views, Points.none(), train[2:], ["test"], 4, ""), "test") is None


def test_the_nearest_view_is_one_of_the_same_moment() -> None:
    """Of a film by four cameras; the nearest photo of another moment shows the subject elsewhere."""
    views = [
        View(f"{camera}{frame}", camera_at(x), f"{camera}{frame}.png", 2.0, 6.0, camera, frame)
        for camera, x in (("p", 0.0), ("q", 0.1), ("r", 1.0), ("s", 3.0))
        for frame in range(3)
    ]
    train = ["p0", "p2", "r0", "r1", "r2", "s0", "s1"]
    made = Scene(Path(), views, Points.none(), train, ["q0", "q1", "q2", "s2"], 1, "made up")
    assert [nearest_view(made, name) for name in made.test] == ["p0", "r1", "p2", "r2"]
    alone = Scene(Path(), views, Points.none(), ["p0", "r2"], ["q1"], 1, "made up")
    assert nearest_view(alone, "q1") is None


def test_a_missing_render_is_an_error_that_names_the_views(scene: Scene) -> None:
    for name in "bd":
        (scene.folder.parent / "renders" / "test" / f"{name}.png").unlink()
    with pytest.raises(InputError, match="no render of test views b, d; run render_views again"):
        score(scene)


def test_a_render_of_another_size_is_refused(scene: Scene) -> None:
    write_image(scene.folder.parent / "renders" / "test" / "d.png", scene.picture("d"))
    with pytest.raises(InputError, match=r"d\.png: shape \(97, 130, 3\), but view d has \(96, 128, 3\)"):
        score(scene)


def test_a_missing_weight_leaves_its_score_out_and_says_so(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(scene.folder))
    said: list[str] = []
    made = score(scene, ScoreConfig(crop=32), said)
    assert sorted(made["left_out"]) == ["lpips_alex", "lpips_vgg", "niqe"]
    reason = "weights/alexnet-owt-7be5be79.pth is missing, see weights/README.md"
    assert made["left_out"]["lpips_alex"] == reason
    assert f"lpips_alex is left out: {reason}" in said
    assert made["views"]["b"]["lpips_alex"] is None
    assert made["mean"]["niqe"] is None
    assert made["mean"]["psnr"] > 0
    assert made["baselines"]["photo"] == {"views": {"b": {}, "d": {}}, "mean": {}, "left_out": {}}
    assert made["box"] is None


def test_scores_with_weights_are_loaded_from_their_files(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random network under the file name that is expected of the real one: the digest check is what is set aside."""
    from torchvision.models import alexnet

    folder = scene.folder.parent / "weights"
    folder.mkdir()
    torch.manual_seed(0)
    torch.save(alexnet(weights=None).state_dict(), folder / weights.ALEXNET.name)
    with pytest.raises(InputError, match="expected 7be5be79"):
        score(scene, ScoreConfig(scores=("lpips_alex",)))
    monkeypatch.setattr(weights, "ALEXNET", weights.WeightFile(weights.ALEXNET.name))
    made = score(scene, ScoreConfig(scores=("lpips_alex",)))
    model = metrics.load_lpips("alex", folder / weights.ALEXNET.name)
    photo = scene.picture("b")[:96, :128]
    assert made["views"]["b"]["lpips_alex"] == pytest.approx(metrics.lpips_distance(photo + 10, photo, model), rel=1e-5)


def test_what_is_undefined_is_null_with_its_reason(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(scene.folder.parent / "renders" / "test" / "d.png", scene.picture("d")[:96, :128])
    monkeypatch.setitem(scoring.__dict__, "_score", lambda name, path: {"psnr": metrics.psnr}.get(name, _nan))
    monkeypatch.setattr(weights, "find_weights", lambda file, folder: folder)
    made = score(scene, ScoreConfig(scores=("psnr", "niqe"), crop=32))
    assert made["views"]["d"]["psnr"] is None
    assert made["views"]["b"]["psnr"] == pytest.approx(20 * math.log10(25.5))
    assert made["mean"] == {"psnr": None, "niqe": None}
    assert made["left_out"]["psnr"] == "infinite, the pictures are equal: d"
    assert made["left_out"]["niqe"].endswith("blocks with texture: b, d")
    save_scores(scene.folder, "x", "y", made)  # would raise on what JSON cannot hold


def _nan(rendered: Pixels, true: Pixels) -> float:
    return math.nan


def test_pictures_are_kept_and_the_same_every_time(scene: Scene) -> None:
    made = score(scene)
    folder = scene.folder.parent / "scores"
    first = {path.name: path.read_bytes() for path in (folder / "pictures").iterdir()}
    for crop in made["pictures"]["b"]["crops"]:
        x, y, width, height = crop["window"]
        assert (width, height) == (32, 32)
        shown = read_image(folder / crop["true"]).astype(int)
        true = scene.picture("b")[y : y + height, x : x + width]
        assert np.abs(shown - true).mean() < 4
        assert np.abs(read_image(folder / crop["render"]).astype(int) - true).mean() == pytest.approx(10, abs=2)
    assert score(scene) == made
    assert {path.name: path.read_bytes() for path in (folder / "pictures").iterdir()} == first


def test_the_error_map_is_black_where_nothing_differs() -> None:
    true = textured(0)
    rendered = true.copy()
    rendered[:10] ^= 128
    shown = error_map(rendered, true)
    assert shown[20:].max() <= 5
    assert shown[:10].min(0).mean() > 100


def test_the_step_writes_scores_and_exits_with_2_on_bad_input(scene: Scene) -> None:
    root, trial = Path(__file__).parents[1], scene.folder.parent / "fern" / "voxel_grid"
    config = scene.folder / "pipeline.yaml"
    config.write_text("score: {scores: [psnr], crop: 32}\n")
    options = {
        "renders": scene.folder.parent / "renders",
        "scene": scene.folder,
        "space": scene.folder,
        "config": config,
        "weights": root / "weights",
        "out": trial / "scores",
        "reference": trial / "none",
        "log": trial / "log" / "score_renders",
    }
    command = [sys.executable, str(root / "steps" / "score_renders.py")]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    environment = {"MLFLOW_TRACKING_URI": "none", "PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"}
    subprocess.run(command, check=True, env=environment, cwd=root)
    written = json.loads((trial / "scores" / "scores.json").read_text())
    assert (written["capture"], written["recipe"]) == ("fern", "voxel_grid")
    assert "seconds" not in json.dumps(written)
    config.write_text("score: {scores: [beauty]}\n")
    failed = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert failed.returncode == 2
    assert "score: scores.0:" in failed.stderr
    assert "Traceback" not in failed.stderr
