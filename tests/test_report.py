"""The report on made-up trials: what stands in it, what must not, and that it loads nothing."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from htmlpage import Page
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.errors import InputError
from loupe.images import write_image
from loupe.pipeline import read_pipeline
from loupe.report import page as report_page
from loupe.report import tables
from loupe.report.charts import line_chart
from loupe.report.gather import Trial, read_logs, read_trials
from loupe.report.page import write_report
from loupe.scoring import save_scores

EVIL = '<script>alert("x")</script>'


def scores(psnr: float, view: str = "a", size: tuple[int, int] = (128, 96)) -> dict:
    values = {"psnr": psnr, "ssim": 0.7, "lpips_alex": None}
    row = {"views": {view: values}, "mean": values, "left_out": {"lpips_alex": "weights/x.pth is missing"}}
    nearest = {**row, "taken_from": {view: "b"}}
    shown = {name: f"pictures/{name}.jpg" for name in ("render", "true", "error")}
    crop = {"window": [0, 0, 8, 8], "render": "pictures/render.jpg", "true": "pictures/true.jpg"}
    return {
        **row,
        "baselines": {"nearest_view": nearest, "photo": {"views": {view: {}}, "mean": {}, "left_out": {}}},
        "sizes": {view: list(size)},
        "pictures": {view: {**shown, "crops": [crop]}},
    }


def write_log(folder: Path, step: str, **facts: object) -> None:
    place = folder / "log" / step
    place.mkdir(parents=True)
    known = {"step": step, "status": "finished", "commit": "c0ffee", "inputs": {}, "parameters": {}, "seconds": 75.0}
    (place / "run.json").write_text(json.dumps(known | {"peak_memory_mb": 1500.0, "peak_gpu_mb": None} | facts))
    lines = [{"step": i, "values": {"psnr": 20.0 + i, "loss.colour": 0.1**i}, "time": 0} for i in range(5)]
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_trial(folder: Path, capture: str, recipe: str, content: dict) -> Path:
    place = folder / "trials" / capture / recipe
    (place / "scores" / "pictures").mkdir(parents=True)
    save_scores(place / "scores", capture, recipe, content)
    for shade, name in enumerate(("render", "true", "error")):
        picture = np.full((12, 16, 3), 60 * shade, np.uint8)
        write_image(place / "scores" / "pictures" / f"{name}.jpg", picture, 90)
    return place


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two scored trials and one without scores of capture "shelf"; one trained codebook and one untrained."""
    for recipe, psnr in (("good", 30.125), ("poor", 20.5)):
        write_log(write_trial(tmp_path, "shelf", recipe, scores(psnr)), "fit_encoder")
    book = tmp_path / "codebooks" / "tiny"
    (book / "codebook").mkdir(parents=True)
    content = {"codes": 64, "perplexity": 31.5, "dead": 3, "psnr": 28.25, "psnr_plain": None, "captures": {}}
    (book / "codebook" / "scores.json").write_text(json.dumps(content))
    write_log(book, "pretrain_codebook")
    trials = "".join(
        f"  shelf.{name}: {{capture: shelf, recipe: {name}, encoder: {name}}}\n" for name in ("good", "poor", "late")
    )
    books = "".join(f"  {name}: {{captures: [shelf, table], config: small}}\n" for name in ("tiny", "untrained"))
    pairs = "".join(
        f"  {name}.{capture}: {{codebook: {name}, capture: {capture}}}\n"
        for name in ("tiny", "untrained")
        for capture in ("shelf", "table")
    )
    (tmp_path / "pipeline.yaml").write_text(f"trials:\n{trials}codebooks:\n{books}codebook_captures:\n{pairs}")
    (tmp_path / "report").mkdir()
    return tmp_path


def report(tree: Path, said: list[str] | None = None) -> str:
    say = (said if said is not None else []).append
    write_report(tree / "pipeline.yaml", tree / "trials", tree / "codebooks", tree / "report", say)
    return (tree / "report" / "index.html").read_text()


def write_film(folder: Path, error: float | None) -> None:
    folder.mkdir(parents=True)
    (folder / "renders.json").write_text(json.dumps({"film": "path.mp4", "warping_error": error}))
    write_image(folder / "slice.png", np.zeros((8, 4, 3), np.uint8))


def test_a_film_is_shown_with_its_slice_and_its_error(tree: Path) -> None:
    assert "Steadiness" not in report(tree)
    write_film(tree / "trials/shelf/good/renders", 2.345)
    write_film(tree / "trials/shelf/poor/renders", None)  # its frames show nothing in common
    page = report(tree)
    assert page.count("data:image/png;base64,") == 1
    assert (
        'alt="slice of the film of good"><figcaption>good<br>warping error 2.35; 4 frames, 8 pixels high</figcaption>'
        in page
    )


def test_the_logs_of_a_graft_are_those_of_its_encoder(tree: Path) -> None:
    grafts = "grafts: {shelf.again: {capture: shelf, name: again, encoder: good, init_from: shelf/poor}}\n"
    config = tree / "pipeline.yaml"
    config.write_text(grafts + config.read_text().replace("encoder: poor", "encoder: again"))
    good, poor = read_trials(read_pipeline(config), tree / "trials")[:2]
    assert poor.logs["fit_encoder"] == good.logs["fit_encoder"]


def test_the_table_holds_the_means_the_baselines_and_the_reasons(tree: Path) -> None:
    text = report(tree)
    rows = Page(text).rows
    assert ["good", "30.12", "0.700", f"{tables.ABSENT}1"] in rows
    assert ["nearest training photo", "30.12", "0.700", f"{tables.ABSENT}1"] in rows
    assert "<li>LPIPS alex: weights/x.pth is missing</li>" in text
    assert "<b>30.12</b>" in text
    assert "<b>20.50</b>" not in text
    assert ["good", "fit_encoder", "1 min 15 s", "1.50 GB", tables.ABSENT, "?, ? threads", "finished"] in rows


def test_what_trials_began_with_stands_once(tmp_path: Path) -> None:
    """Beneath the trials in the table, and in the file of scores."""
    begun = scores(19.0)
    trials = [
        Trial("shelf", recipe, tmp_path, scores(psnr) | {"encoder": encoder}, {})
        for recipe, psnr, encoder in (("one", 20.0, begun), ("two", 21.0, begun), ("three", 22.0, scores(18.0)))
    ]
    rows = [(row.label, row.cells[0].text) for row in tables.mean_table(trials).rows]
    assert rows[:3] == [("one", "20.00"), ("two", "21.00"), ("three", "22.00")]
    assert rows[3:5] == [
        ("the encoder of one alone, enlarged", "19.00"),
        ("the encoder of three alone, enlarged", "18.00"),
    ]
    written = list(csv.DictReader(tables.scores_csv(trials).splitlines()))
    assert [row["psnr"] for row in written if row["recipe"] == "two.encoder"] == ["19", "19"]


def test_what_is_missing_is_named(tree: Path) -> None:
    said: list[str] = []
    text = report(tree, said)
    assert "<strong>late</strong> has no scores yet" in text
    assert "<strong>untrained</strong> has not been trained yet" in text
    assert said == ["shelf.late has no scores yet", "codebook untrained has not been trained yet"]
    (tree / "trials" / "shelf" / "good" / "scores" / "pictures" / "true.jpg").unlink()
    with pytest.raises(InputError, match=r"true\.jpg: cannot be read; run the step"):
        report(tree)


def test_the_codebook_shows_its_numbers(tree: Path) -> None:
    text = report(tree)
    for number in ("<dd>64</dd>", "<dd>31.5</dd>", "<dd>3</dd>", "<dd>28.25</dd>", f"<dd>{tables.ABSENT}</dd>"):
        assert number in text
    assert "small, trained on shelf, table</span>" in text


def test_a_codebook_of_several_captures_shows_each(tree: Path) -> None:
    """Their numbers in a row each, and pictures of the first views of both."""
    book = tree / "codebooks/tiny/codebook"
    content = json.loads((book / "scores.json").read_text())
    views = {name: {"psnr": 28.0} for name in ("a", "b", "c")}
    (book / "pictures").mkdir()
    for capture, psnr in (("shelf", 29.125), ("table", 27.375)):
        content["captures"][capture] = {"perplexity": 20.25, "psnr": psnr, "psnr_plain": None, "views": views}
        for view in views:
            write_image(book / "pictures" / f"{capture}.{view}_vq.jpg", np.zeros((8, 8, 3), np.uint8), 90)
    (book / "scores.json").write_text(json.dumps(content))
    text = report(tree)
    assert ["shelf", "20.2", "29.12", tables.ABSENT] in Page(text).rows
    assert ["table", "20.2", "27.38", tables.ABSENT] in Page(text).rows
    shown = [
        f'alt="quantised, view {name}"' in text for name in ("shelf.a", "shelf.b", "shelf.c", "table.a", "table.b")
    ]
    assert shown == [True, True, False, True, True]


def test_the_page_loads_nothing(tree: Path) -> None:
    page = Page(report(tree))
    sources = [values["src"] for _, values in page.elements if "src" in values]
    assert len(sources) == 2 * 3 + 3  # photo, render and error of two trials, and a crop of all three
    assert all(source is not None and source.startswith("data:image/jpeg;base64,") for source in sources)
    links = [values["href"] or "" for _, values in page.elements if "href" in values]
    assert all(link.startswith("#") for link in links)
    assert not {"link", "iframe", "object", "embed"} & {tag for tag, _ in page.elements}
    policy = next(values["content"] for tag, values in page.elements if values.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_names_are_escaped_wherever_they_come_from(tree: Path) -> None:
    place = write_trial(tree, "evil", "recipe", scores(20, view=EVIL) | {"left_out": {"lpips_alex": EVIL}})
    write_log(
        place, "train_joint", commit=EVIL, parameters={"note": EVIL}, device=EVIL, status=EVIL, inputs={EVIL: EVIL}
    )
    curve = {"step": 1, "values": {f"loss.{EVIL}": 1.0}, "time": 0}
    lines = [json.dumps(curve | {"step": step}) + "\n" for step in range(3)]
    (place / "log" / "train_joint" / "metrics.jsonl").write_text("".join(lines))
    text = (tree / "pipeline.yaml").read_text()
    (tree / "pipeline.yaml").write_text(
        text.replace("trials:\n", "trials:\n  x: {capture: evil, recipe: recipe, encoder: recipe}\n")
    )
    page = report(tree)
    assert EVIL not in page
    assert page.count("&lt;script&gt;alert(") >= 9
    assert sum(tag == "script" for tag, _ in Page(page).elements) == 1


def test_names_that_are_paths_are_refused(tree: Path) -> None:
    (tree / "pipeline.yaml").write_text("trials:\n  x: {capture: ../.., recipe: y, encoder: y}\n")
    with pytest.raises(InputError, match="capture name"):
        report(tree)
    (tree / "pipeline.yaml").write_text("trials:\n  x: {capture: shelf, encoder: y}\n")
    with pytest.raises(InputError, match=r"trials\.x\.recipe"):
        report(tree)


def test_the_csv_has_a_row_for_each_view_and_mean(tree: Path) -> None:
    report(tree)
    rows = list(csv.DictReader((tree / "report" / "scores.csv").open()))
    assert list(rows[0]) == ["capture", "recipe", "view", "psnr", "ssim", "lpips_alex", "lpips_vgg", "niqe"]
    assert [(row["recipe"], row["view"]) for row in rows] == [
        ("good", "a"),
        ("good", "mean"),
        ("baseline.nearest_view", "a"),
        ("baseline.nearest_view", "mean"),
        ("baseline.photo", "a"),
        ("baseline.photo", "mean"),
        ("poor", "a"),
        ("poor", "mean"),
    ]
    assert rows[0]["psnr"] == "30.125"
    assert rows[0]["lpips_alex"] == ""


@pytest.mark.parametrize(("capture", "size", "shown"), [("fern", (4032, 3024), True), ("fern", (1008, 756), False)])
def test_published_numbers_stand_beside_the_same_photos_only(
    tmp_path: Path, capture: str, size: tuple[int, int], shown: bool
) -> None:
    trial = Trial(capture, "mine", tmp_path, scores(24, size=size), {})
    table = tables.mean_table([trial])
    published = {row.label: [cell.text for cell in row.cells] for row in table.rows if row.kind == "published"}
    assert ("4K-NeRF" in published) is shown
    if shown:
        assert published["4K-NeRF"] == ["23.49", "0.771", "0.190"]
        assert "table 8" in table.source


def boxed(psnr: float) -> dict:
    """Scores of whole pictures that differ from those within the box, for the render and the baseline."""
    made, within = scores(psnr), scores(psnr + 4)
    within["views"] = {"a": within["mean"] | {"psnr": psnr + 3}}
    kept = {key: within[key] for key in ("views", "mean", "left_out", "baselines")}
    return made | {"box": kept | {"windows": {"a": [1, 2, 30, 40]}}}


def test_scores_in_the_box_stand_beside_those_of_the_whole_pictures(tree: Path) -> None:
    assert "the subject's box" not in report(tree)
    before = (tree / "report" / "scores.csv").read_text()
    assert "box" not in before
    place = tree / "trials" / "shelf" / "good" / "scores"
    save_scores(place, "shelf", "good", boxed(30.125))
    text = report(tree)
    rows = Page(text).rows
    assert ["good", "30.12", "0.700", f"{tables.ABSENT}1"] in rows
    assert ["good", "34.12", "0.700", f"{tables.ABSENT}1"] in rows
    assert ["nearest training photo", "34.12", "0.700", f"{tables.ABSENT}1"] in rows
    assert ["a", "good", "33.12", "0.700", tables.ABSENT] in rows
    assert text.count("<h3>Within the subject's box</h3>") == 1
    table = list(csv.DictReader((tree / "report" / "scores.csv").open()))
    assert list(table[0])[8:] == ["box.psnr", "box.ssim", "box.lpips_alex", "box.lpips_vgg", "box.niqe"]
    numbers = {(row["recipe"], row["view"]): (row["psnr"], row["box.psnr"]) for row in table}
    assert numbers["good", "a"] == ("30.125", "33.125")
    assert numbers["good", "mean"] == ("30.125", "34.125")
    assert numbers["baseline.nearest_view", "a"] == ("30.125", "34.125")
    assert numbers["poor", "mean"] == ("20.5", "")
    plain = [line.split(",")[:8] for line in (tree / "report" / "scores.csv").read_text().splitlines()]
    assert plain == [line.split(",") for line in before.splitlines()]


def test_views_without_pictures_are_counted(tree: Path) -> None:
    """Of eight views five have pictures, and three of these are shown."""
    place, made = tree / "trials" / "shelf" / "good" / "scores", scores(30.0)
    (tree / "trials" / "shelf" / "poor" / "scores" / "scores.json").unlink()
    views, size, files = (made[key]["a"] for key in ("views", "sizes", "pictures"))
    made["baselines"]["nearest_view"]["taken_from"] = {f"v{number}": "b" for number in range(15)}
    many = {"views": dict.fromkeys("abcdefgh", views), "sizes": dict.fromkeys("abcdefgh", size)}
    save_scores(place, "shelf", "good", made | many | {"pictures": dict.fromkeys("bcdgh", files)})
    text = report(tree)
    assert [text.count(f"<h3>View {view}</h3>") for view in "abcdgh"] == [0, 1, 1, 1, 0, 0]
    assert "v11 ← b, and for 3 more views, see scores.json." in text
    assert "v12" not in text
    assert "5 more views are scored; pictures of 2 of them lie in each" in text
    save_scores(place, "shelf", "good", made | many | {"pictures": dict.fromkeys("abcdefgh", files)})
    assert "5 more views are scored; their pictures lie in each" in report(tree)


def test_films_of_a_scene_that_moves_are_on_the_page(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renders = tree / "trials/shelf/good/renders"
    write_film(renders, None)
    (renders / "slice.png").unlink()
    films = {"film": "path.mp4", "held_out": "held_out.mp4", "warping_error": None}
    (renders / "renders.json").write_text(json.dumps(films))
    with pytest.raises(InputError, match=r"held_out\.mp4: cannot be read"):
        report(tree)
    (renders / "path.mp4").write_bytes(b"around")
    (renders / "held_out.mp4").write_bytes(b"still, and long")
    text = report(tree)
    assert "Steadiness" not in text
    shown = [values for tag, values in Page(text).elements if tag == "video"]
    assert [values["aria-label"] for values in shown] == ["good, held-out camera", "good, moving camera"]
    assert shown[1]["src"] == "data:video/mp4;base64,YXJvdW5k"
    assert "media-src data:;" in text
    monkeypatch.setattr(report_page, "_LARGE_FILM", 10)
    text = report(tree)
    assert [values["aria-label"] for tag, values in Page(text).elements if tag == "video"] == ["good, moving camera"]
    assert "held-out camera: too large for this page, see <code>renders/held_out.mp4</code>" in text


def test_the_best_follows_each_scores_direction(tmp_path: Path) -> None:
    def trial(recipe: str, psnr: float, niqe: float | None) -> Trial:
        mean = {"psnr": psnr, "niqe": niqe}
        content = {"views": {"a": mean}, "mean": mean, "left_out": {}, "baselines": {}, "sizes": {"a": [8, 8]}}
        return Trial("c", recipe, tmp_path, content, {})

    table = tables.mean_table([trial("x", 30, 5.0), trial("y", 20, 4.0), trial("z", 25, None)])
    best = {row.label: [cell.best for cell in row.cells] for row in table.rows}
    assert best == {"x": [True, False], "y": [False, True], "z": [False, False]}
    assert not any(cell.best for cell in tables.mean_table([trial("x", 30, 5.0)]).rows[0].cells)


def test_curves_survive_a_resumption_a_kill_and_what_is_not_finite(tmp_path: Path) -> None:
    write_log(tmp_path, "fit_encoder")
    lines = [
        json.dumps({"step": step, "values": {"psnr": value}, "time": 0})
        for step, value in ((1, 5), (2, 6), (2, 7), (3, None))
    ]
    (tmp_path / "log" / "fit_encoder" / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "val')
    assert read_logs(tmp_path / "log", ["fit_encoder"])["fit_encoder"].curves == {"psnr": [(1, 5.0), (2, 7.0)]}


def test_broken_scores_are_an_error(tree: Path) -> None:
    (tree / "trials" / "shelf" / "good" / "scores" / "scores.json").write_text('{"views": ')
    with pytest.raises(InputError, match=r"scores\.json: not complete JSON"):
        read_trials(read_pipeline(tree / "pipeline.yaml"), tree / "trials")


numbers = st.floats(-1e6, 1e6) | st.just(math.nan)


@given(st.lists(st.lists(numbers, max_size=600), max_size=4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_charts_stay_inside_their_frame(lines: list[list[float]], logarithmic: bool) -> None:
    drawn = line_chart({f"<{i}>": list(enumerate(line)) for i, line in enumerate(lines)}, logarithmic)
    usable = [v for line in lines for v in line if math.isfinite(v) and (v > 0 or not logarithmic)]
    assert bool(drawn) == (len(usable) > 1)
    if drawn:
        for path in ElementTree.fromstring(drawn).iter("path"):
            points = [tuple(map(float, pair.split())) for pair in path.attrib["d"][1:].split("L")]
            assert len(points) <= 240
            assert all(45 < x < 361 and 0 <= y <= 200 for x, y in points)


def test_a_straight_line_is_drawn_straight_between_round_numbers() -> None:
    drawn = ElementTree.fromstring(line_chart({"a": [(0, 20), (50, 25), (100, 30)]}))
    texts = [text.text for text in drawn.iter("text")]
    assert texts == ["20", "22", "24", "26", "28", "30", "0", "100 steps"]
    (path,) = drawn.iter("path")
    points = [tuple(map(float, pair.split())) for pair in path.attrib["d"][1:].split("L")]
    assert points == [(46, 174), (197, 92), (348, 10)]


def test_the_step_writes_the_report(tree: Path) -> None:
    root = Path(__file__).parents[1]
    command = [sys.executable, str(root / "steps" / "write_report.py"), "--config", str(tree / "pipeline.yaml")]
    for name in ("trials", "codebooks", "out", "log"):
        command += [f"--{name}", str(tree / name)]
    environment = os.environ | {"MLFLOW_TRACKING_URI": "none", "PYTHONPATH": str(root)}
    subprocess.run(command, check=True, env=environment, cwd=root)
    assert (tree / "out" / "index.html").read_bytes() == report(tree).encode()
    assert json.loads((tree / "log" / "run.json").read_text())["summary"] == {"trials": 2}
