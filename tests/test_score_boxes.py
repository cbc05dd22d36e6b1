"""Scores of a scene that moves: within the box of its subject, and with pictures of some views only."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from duet import HELD_OUT, Film

from loupe import metrics, scoring
from loupe.images import Pixels, shrink, write_image
from loupe.scoring import ScoreConfig, score_renders
from loupe.space import Space

FIRST, LAST = f"{HELD_OUT}_000000", f"{HELD_OUT}_000002"


@pytest.fixture
def place(duet: Film, tmp_path: Path) -> Path:
    """The duet's space, and renders that are the photos plus 10, and their negative in the two rows at the top."""
    (tmp_path / "space").mkdir()
    (tmp_path / "scores").mkdir()
    (tmp_path / "renders" / "test").mkdir(parents=True)
    duet.carved.save(tmp_path / "space")
    for name in duet.setting.scene.test:
        photo = duet.setting.scene.picture(name)
        rendered = photo + 10
        rendered[:2] = 255 - photo[:2]
        write_image(tmp_path / "renders" / "test" / f"{name}.png", rendered)
    return tmp_path


def score(duet: Film, place: Path, said: list[str] | None = None) -> dict:
    config, say = ScoreConfig(scores=("psnr", "ssim"), crop=16), (said if said is not None else []).append
    folders = place / "space", Path(), config, place / "weights", place / "scores"
    return score_renders(place / "renders", duet.setting.scene, *folders, say)


def put_box(place: Path, low: tuple[float, float, float], high: tuple[float, float, float]) -> None:
    Space("bounded", low, high).save(place / "space" / "space.json")


def cut(picture: Pixels, window: list[int]) -> Pixels:
    x, y, width, height = window
    return np.ascontiguousarray(picture[y : y + height, x : x + width])


def test_what_lies_beside_the_box_does_not_count(duet: Film, place: Path) -> None:
    put_box(place, (-0.5, -0.4, -0.5), (0.5, 0.4, 0.5))
    made = score(duet, place)
    box = made["box"]
    assert list(box) == ["views", "mean", "left_out", "baselines", "windows"]
    assert list(box["windows"]) == list(duet.setting.scene.test) == list(box["views"])
    assert all(window[1] >= 2 for window in box["windows"].values())
    assert box["mean"]["psnr"] == pytest.approx(20 * math.log10(25.5))
    assert made["mean"]["psnr"] < 20 * math.log10(25.5) - 3
    true = cut(duet.setting.scene.picture(LAST), box["windows"][LAST])
    assert box["views"][LAST]["ssim"] == pytest.approx(metrics.ssim(true + 10, true), abs=1e-12)
    assert made["views"][LAST]["ssim"] < box["views"][LAST]["ssim"]


def test_baselines_are_scored_in_the_box_too(duet: Film, place: Path) -> None:
    scene, made = duet.setting.scene, score(duet, place)
    box = made["box"]
    assert list(box["baselines"]) == ["mean_colour", "bicubic_of_true_low", "nearest_view", "photo"]
    photo, window = scene.picture(FIRST), box["windows"][FIRST]
    true, height, width = cut(photo, window), *photo.shape[:2]
    taken = made["baselines"]["nearest_view"]["taken_from"][FIRST]
    assert taken.endswith("_000000")  # of the same moment
    low = cv2.resize(shrink(photo, scene.ratio), (width, height), interpolation=cv2.INTER_CUBIC)
    everything = np.concatenate([scene.picture(name).reshape(-1, 3) for name in scene.train])
    flat = np.broadcast_to(everything.mean(0).round().astype(np.uint8), photo.shape)
    for name, picture in {
        "nearest_view": scene.picture(taken),
        "bicubic_of_true_low": low,
        "mean_colour": flat,
    }.items():
        expected = metrics.psnr(cut(picture, window), true)
        assert box["baselines"][name]["views"][FIRST]["psnr"] == pytest.approx(expected)
        assert made["baselines"][name]["views"][FIRST]["psnr"] != pytest.approx(expected)


def test_a_box_too_small_for_a_score_says_so(duet: Film, place: Path) -> None:
    put_box(place, (-0.1, -0.1, -0.1), (0.1, 0.1, 0.1))
    made = score(duet, place)
    assert made["box"]["mean"]["psnr"] == pytest.approx(20 * math.log10(25.5))
    assert made["box"]["mean"]["ssim"] is None
    reason = f"undefined, fewer than 11 pixels a side: {', '.join(duet.setting.scene.test)}"
    assert made["box"]["left_out"] == {"ssim": reason}
    assert made["left_out"] == {}


def test_a_box_that_a_view_misses_gives_no_scores(duet: Film, place: Path) -> None:
    put_box(place, (50, 0, 0), (51, 1, 1))
    said: list[str] = []
    assert score(duet, place, said)["box"] is None
    assert f"no scores in the subject's box: it is not in the picture of {', '.join(duet.setting.scene.test)}" in said


def test_a_space_that_photos_carved_has_no_box(duet: Film, place: Path) -> None:
    whole = score(duet, place)
    (place / "space" / "points").rename(place / "points")
    said: list[str] = []
    assert score(duet, place, said) == whole | {"box": None}
    assert not any("box" in line for line in said)


def test_pictures_are_kept_of_some_views_evenly_taken(duet: Film, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    assert list(score(duet, place, said)["pictures"]) == list(duet.setting.scene.test)
    assert not any(" of " in line for line in said)
    for picture in (place / "scores" / "pictures").iterdir():
        picture.unlink()
    monkeypatch.setattr(scoring, "_PICTURED", 2)
    made = score(duet, place, said)
    assert list(made["pictures"]) == [FIRST, LAST]
    assert list(made["sizes"]) == list(made["views"]) == list(duet.setting.scene.test)
    kept = {path.name.split(".")[0] for path in (place / "scores" / "pictures").iterdir()}
    assert kept == {FIRST, LAST}
    assert "pictures are kept of 2 of 3 test views" in said


def test_a_films_mean_colour_is_that_of_some_photos(duet: Film, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, said = duet.setting.scene, []
    monkeypatch.setattr(scoring, "_MEANT", 2)
    made = score(duet, place, said)
    assert f"the mean colour is that of 2 of {len(scene.train)} training photos" in said
    ends = np.concatenate([scene.picture(scene.train[index]).reshape(-1, 3) for index in (0, -1)])
    flat = np.broadcast_to(ends.mean(0).round().astype(np.uint8), scene.picture(FIRST).shape).copy()
    expected = metrics.psnr(flat, scene.picture(FIRST))
    assert made["baselines"]["mean_colour"]["views"][FIRST]["psnr"] == pytest.approx(expected)
