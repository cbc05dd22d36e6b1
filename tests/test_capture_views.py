"""What is gathered of captures, and a codebook of several: what it sees, what it refuses, and that one is as before."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_codebook import CONFIG, picture

from loupe.camera import Camera
from loupe.capture_views import CaptureViews, gather_views, load_captures
from loupe.codebook import view_digest
from loupe.errors import InputError
from loupe.images import Pixels
from loupe.method import Segment
from loupe.pretraining import CodebookTraining, Pretrained, pretrain_codebook
from loupe.scene import Points, Scene, View
from loupe.tiles import Tiles, share_full, write_tiles

CONFIG = CONFIG.model_copy(update={"reference": False})
NAMES = "abcd"


def make_capture(root: Path, capture: str, first: int, test: str) -> Scene:
    """A scene of four views, and its tiles in `<capture>_tiles`; `first` is the seed of its first picture."""
    camera = Camera(48, 40, 50, 50, 24, 20, np.eye(4))
    views = [View(name, camera, f"{name}.png", 1, 2) for name in NAMES]
    tiles = root / f"{capture}_tiles"
    tiles.mkdir()
    pictures = [(name, picture(first + number)) for number, name in enumerate(NAMES)]
    write_tiles(tiles, pictures, 4, lambda name: np.full((40, 48), 9, np.uint8))
    return Scene(root, views, Points.none(), [name for name in NAMES if name != test], [test], 4, "given")


@pytest.fixture
def gathered(tmp_path: Path) -> Path:
    """The views of captures "left" (view "c" tests) and "right" (view "a" tests), whose names of views are the same."""
    for capture, first, test in (("left", 0, "c"), ("right", 10, "a")):
        folder = tmp_path / "views" / capture
        folder.mkdir(parents=True)
        gather_views(make_capture(tmp_path, capture, first, test), tmp_path / f"{capture}_tiles", folder)
    return tmp_path / "views"


def pretrain(gathered: Path, *captures: str) -> Pretrained:
    resume = gathered.parent / "resume" / "-".join(captures)
    return pretrain_codebook(load_captures(gathered, captures), CONFIG, resume, lambda *_: None)


def test_gathered_views_are_those_of_the_tiles_and_cost_no_disk(tmp_path: Path, gathered: Path) -> None:
    views, tiles = load_captures(gathered, ["left", "right"])["right"], Tiles(tmp_path / "right_tiles")
    assert (views.train, views.test) == (["b", "c", "d"], ["a"])
    assert views.tiles.names == tiles.names
    for name, pixels in views.pictures(NAMES).items():
        np.testing.assert_array_equal(pixels, tiles.image(name, "full"))
    assert os.path.samefile(gathered / "right/full.u8", tmp_path / "right_tiles/full.u8")
    assert sorted(path.name for path in (gathered / "right").iterdir()) == ["full.u8", "split.json", "tiles.json"]
    assert views.tiles.masks("full") is None


def test_gathering_again_changes_no_tiles(tmp_path: Path, gathered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the disk knows no hard links; a link to other tiles that lies there is not written through."""

    def no_link(*_: object) -> None:
        raise OSError

    before = (tmp_path / "left_tiles/full.u8").read_bytes()
    monkeypatch.setattr(os, "link", no_link)
    share_full(tmp_path / "right_tiles", gathered / "left")
    assert (tmp_path / "left_tiles/full.u8").read_bytes() == before
    assert (gathered / "left/full.u8").read_bytes() == (tmp_path / "right_tiles/full.u8").read_bytes()


def test_a_sealed_capture_is_refused(tmp_path: Path) -> None:
    write_tiles(tmp_path, [("a", picture(0))], 4, sealed=True)
    with pytest.raises(InputError, match="the full resolution is sealed"):
        share_full(tmp_path, tmp_path)


def test_a_codebook_sees_the_training_views_of_all_its_captures(gathered: Path) -> None:
    made = pretrain(gathered, "left", "right")
    seeds = {f"left.{name}": seed for seed, name in enumerate(NAMES)}
    seeds |= {f"right.{name}": 10 + seed for seed, name in enumerate(NAMES)}
    expected = {name: view_digest(picture(seed)) for name, seed in seeds.items() if name not in ("left.c", "right.a")}
    assert made.codebook.seen == expected


def test_a_trial_on_views_of_any_of_its_captures_is_refused(gathered: Path) -> None:
    codebook = pretrain(gathered, "left", "right").codebook
    captures = load_captures(gathered, ["left", "right"])
    for views in captures.values():
        codebook.refuse(views.tiles, views.test)
    for name, other in (("left", "b"), ("right", "c")):  # as another split of the same capture would have it
        with pytest.raises(InputError, match=rf"test view {other}: .* \(as {name}\.{other}\)"):
            codebook.refuse(captures[name].tiles, [other])


def test_a_picture_that_one_capture_trains_on_and_another_tests_on_is_refused(tmp_path: Path, gathered: Path) -> None:
    """The same photos with another split: a test view's pixels would be trained on under another name."""
    (gathered / "again").mkdir()
    gather_views(make_capture(tmp_path, "again", 10, "b"), tmp_path / "again_tiles", gathered / "again")
    with pytest.raises(InputError, match=r"test view right\.a is the same picture as training view again\.a;"):
        pretrain(gathered, "left", "right", "again")


def test_scores_are_of_each_capture_and_of_all_views(gathered: Path) -> None:
    """Two test views on the left, one on the right: every view counts the same."""
    (gathered / "left/split.json").write_text(json.dumps({"train": ["a", "b"], "test": ["c", "d"]}))
    made = pretrain(gathered, "left", "right")
    left, right = made.captures["left"], made.captures["right"]
    every = [view["psnr"] for one in (left, right) for view in one["views"].values()]
    assert [sorted(one["views"]) for one in (left, right)] == [["c", "d"], ["a"]]
    assert made.scores["psnr"] == pytest.approx(sum(every) / 3)
    assert left["psnr"] == pytest.approx(sum(every[:2]) / 2)
    assert right["psnr"] == every[2]
    assert made.scores["perplexity"] not in (left["perplexity"], right["perplexity"])
    assert {name.partition("_")[0] for name in made.pictures} == {"left.c", "left.d", "right.a"}


def test_one_capture_makes_what_its_tiles_alone_would(tmp_path: Path, gathered: Path) -> None:
    """Whatever it is called, and whether others lie beside its tiles or not."""
    tiles = Tiles(tmp_path / "left_tiles")
    alone = {"other": CaptureViews(tiles, ["a", "b", "d"], ["c"])}
    shutil.rmtree(gathered / "right")
    one = pretrain(gathered, "left")
    two = pretrain_codebook(alone, CONFIG, tmp_path / "again", lambda *_: None)
    state = two.codebook.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in one.codebook.model.state_dict().items())
    assert one.scores == two.scores
    assert list(one.codebook.seen.values()) == list(two.codebook.seen.values())


def test_every_view_is_as_likely_as_any_other() -> None:
    """Views of one shade each, one from a small capture and three from a large one: all give as many squares."""
    shades = {name: np.full((16, 16, 3), shade, np.uint8) for shade, name in enumerate(["s.a", "l.a", "l.b", "l.c"])}
    config = CONFIG.model_copy(update={"batch": 4000})
    training = CodebookTraining(config, shades, quantise=True)
    batch = training.batch(Segment("plain", 1), 0, torch.Generator().manual_seed(0))
    counts = torch.bincount((batch[:, 0, 0, 0] * 255).round().long(), minlength=4)
    assert (counts - 1000).abs().max() < 5 * np.sqrt(4000 * 0.25 * 0.75)


def test_views_of_a_capture_that_was_taken_away_are_not_trained_on(gathered: Path) -> None:
    with pytest.raises(InputError, match=r"views/right: not among the captures of this codebook; delete this folder"):
        load_captures(gathered, ["left"])
    shutil.rmtree(gathered / "right")
    assert list(load_captures(gathered, ["left"])) == ["left"]


def test_views_that_are_missing_or_broken_are_named(gathered: Path) -> None:
    with pytest.raises(InputError, match="views/absent: no views of this capture; run gather_views"):
        load_captures(gathered, ["left", "right", "absent"])
    (gathered / "left/split.json").write_text("{}")
    with pytest.raises(InputError, match=r"left/split\.json: not a split .*; run gather_views again"):
        load_captures(gathered, ["left", "right"])


def test_a_view_too_small_is_named_with_its_capture(gathered: Path) -> None:
    pictures: dict[str, Pixels] = {"left.a": picture(0), "right.a": picture(1, 12, 48)}
    with pytest.raises(InputError, match=r"crop 16 does not fit into view right\.a \(12, 48\)"):
        CodebookTraining(CONFIG, pictures, quantise=True)
