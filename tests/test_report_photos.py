"""The page on a capture of made-up photos: what is remarked on, what stands on it, that it stays small and safe."""

from __future__ import annotations

import base64
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from htmlpage import Page
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.images import read_image, write_image
from loupe.ingestion import IngestConfig, Ingested, ingest
from loupe.looks import Look, look
from loupe.photos import Photo, Shot
from loupe.report.charts import line_chart
from loupe.report.photos import render_photos
from loupe.report.remarks import BLACK, BLANK_MASK, BLURRY, BRIGHT, DARK, NO_FOCAL, NO_MASK, SIZE, WHITE
from loupe.report.remarks import remark as remark_on

ROOT = Path(__file__).parents[1]
EVIL = '<script>alert("x")</script>'
PLAIN = Look(thumbnail=b"\xff\xd8", black=0.0, white=0.0, mask_is_white=False)
USUAL = Photo("a", "a.jpg", 640, 480, 640, 480, 1, 500.0, "", sharpness=0.02, exposure=0.4)


def photos(count: int, **changed: object) -> list[Photo]:
    """`count` photos like any other, the first one `changed`."""
    same = [replace(USUAL, name=f"p{number}", file=f"p{number}.jpg") for number in range(count)]
    return [replace(same[0], **changed), *same[1:]]


def ingested(taken: Sequence[Photo], looks: Sequence[Look] | None = None, **others: object) -> Ingested:
    values = {"left_out": {}, "alike": [], "contact_sheet": np.zeros((1, 1, 3), np.uint8)} | others
    return Ingested(photos=list(taken), looks=list(looks or [PLAIN] * len(taken)), **values)


def kinds(taken: Sequence[Photo], looks: Sequence[Look] | None = None) -> list[list[str]]:
    return [[own.kind for own in remarks] for remarks in remark_on(taken, looks or [PLAIN] * len(taken))]


# --- remarks ----------------------------------------------------------------------------------------------------------


def in_light(factor: float) -> float:
    """The grey level where a photo of the usual level gets so many times the light."""
    return USUAL.exposure * factor ** (1 / 2.2)


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"sharpness": 0.26 * USUAL.sharpness}, None),
        ({"sharpness": 0.24 * USUAL.sharpness}, BLURRY),
        ({"exposure": in_light(0.51)}, None),
        ({"exposure": in_light(0.49)}, DARK),
        ({"exposure": in_light(1.95)}, None),
        ({"exposure": in_light(2.05)}, BRIGHT),
        ({"width": 480, "height": 640}, SIZE),
        ({"focal": None}, NO_FOCAL),
        ({"mask": "masks/a.png"}, None),
    ],
)
def test_a_photo_unlike_the_others_is_remarked_on(changed: dict[str, object], kind: str | None) -> None:
    found = kinds(photos(5, **changed))[0]
    assert found == ([kind] if kind else [])


def test_a_photo_without_a_mask_is_remarked_on_where_others_have_one() -> None:
    assert kinds(photos(3, mask="masks/p0.png")) == [[], [NO_MASK], [NO_MASK]]
    blank = PLAIN._replace(mask_is_white=True)
    assert kinds(photos(3, mask="masks/p0.png"), [blank, PLAIN, PLAIN])[0] == [BLANK_MASK]


@pytest.mark.parametrize(("share", "clipped"), [(0.29, False), (0.31, True)])
def test_what_is_clipped_counts_against_what_the_others_clip(share: float, clipped: bool) -> None:
    """The others, before a white background, are white in a fifth of the picture."""
    looks = [PLAIN._replace(white=white) for white in (share, 0.2, 0.2, 0.2, 0.2)]
    assert kinds(photos(5), looks) == [[WHITE] * clipped, [], [], [], []]
    assert kinds(photos(3), [PLAIN._replace(black=0.3), PLAIN, PLAIN])[0] == [BLACK]
    fewer = [PLAIN._replace(white=white) for white in (0.0, 0.5, 0.5)]
    assert kinds(photos(3), fewer) == [[], [], []]


def test_a_scene_that_is_itself_darker_on_one_side_is_not_remarked_on() -> None:
    """Photos spread evenly over four stops: the ends are two from the median. One more is five."""
    levels = [in_light(2**stop) for stop in np.linspace(-2, 2, 21)]
    around = [replace(photo, exposure=level) for photo, level in zip(photos(21), levels, strict=True)]
    assert kinds(around) == [[]] * 21
    far = replace(USUAL, name="far", exposure=in_light(2**-5.5))
    assert kinds([*around, far])[-1] == [DARK]


@given(st.lists(st.floats(0.05, 0.5), min_size=3, max_size=12), st.floats(0.3, 2.0))
@settings(max_examples=60, deadline=None)
def test_more_light_on_all_photos_changes_no_remark(levels: list[float], factor: float) -> None:
    taken = [replace(USUAL, name=str(place), exposure=level) for place, level in enumerate(levels)]
    lit = [replace(photo, exposure=photo.exposure * factor) for photo in taken]
    away = [abs(2.2 * math.log2(level / np.median(levels))) for level in levels]
    if not any(math.isclose(own, limit, rel_tol=1e-6) for own in away for limit in (1, 3 * 1.4826 * np.median(away))):
        assert kinds(lit) == kinds(taken)


# --- looks ------------------------------------------------------------------------------------------------------------


def test_a_look_measures_what_is_black_and_white_and_keeps_a_thumbnail() -> None:
    picture = np.full((300, 400, 3), 128, np.uint8)
    picture[:75], picture[75:90] = 252, 3
    seen = look(picture, np.full((30, 40), 255, np.uint8))
    assert (seen.white, seen.black, seen.mask_is_white) == (0.25, 0.05, True)
    thumbnail = cv2.imdecode(np.frombuffer(seen.thumbnail, np.uint8), cv2.IMREAD_COLOR)
    assert thumbnail.shape == (192, 256, 3)
    assert abs(float(thumbnail[100:].mean()) - 128) < 2
    mask = np.full((30, 40), 255, np.uint8)
    mask[0, 0] = 0
    assert not look(picture, mask).mask_is_white
    assert not look(picture, None).mask_is_white


def test_a_thumbnail_has_the_colours_of_its_photo() -> None:
    red = np.zeros((100, 100, 3), np.uint8)
    red[..., 0] = 200
    bgr = cv2.imdecode(np.frombuffer(look(red, None).thumbnail, np.uint8), cv2.IMREAD_COLOR)[128, 128]
    assert bgr[2] > 190
    assert max(bgr[:2]) < 10


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_names_those_that_ingestion_called_blurred(tmp_path: Path) -> None:
    files = sorted((ROOT / "data/captures/demo").glob("*.jpg"))[:6]
    for place, file in enumerate(files):
        picture = cv2.GaussianBlur(read_image(file), (0, 0), 3) if place in (1, 4) else read_image(file)
        write_image(tmp_path / f"p{place}.png", picture)
    (tmp_path / "out").mkdir()
    said: list[str] = []
    shots = [Shot(path.stem, path) for path in sorted(tmp_path.glob("*.png"))]
    made = ingest(shots, IngestConfig(shrink=1), tmp_path / "out", said.append)
    named = [line.split()[0] for line in said if "looks blurred" in line]
    assert named == ["p1", "p4"]
    (row,) = [row for row in Page(render_photos("demo", made)).rows if BLURRY in row[1]]
    assert [row[0], row[2]] == ["2", "p1, p4"]
    size = len(render_photos("demo", made)) / len(files)
    assert 60 * size < 3e6


def test_the_page_shows_what_was_left_out_and_what_looks_the_same() -> None:
    left_out = {f"broken{number}.jpg": f"reason {number}" for number in range(203)}
    taken = photos(15)
    looks = [PLAIN._replace(thumbnail=bytes([number])) for number in range(15)]
    alike = [("p0", f"p{number}") for number in range(1, 15)]
    text = render_photos("demo", ingested(taken, looks, left_out=left_out, alike=alike))
    page = Page(text)
    assert ["broken7.jpg", "reason 7"] in page.rows
    assert ["broken200.jpg", "reason 200"] not in page.rows
    assert "15 photos taken, 203 left out." in text
    assert "And 3 more: see" in text
    assert "And 2 more pairs." in text
    sources = [base64.b64decode(source.partition(",")[2]) for source in page.values("src")]
    pairs = [content for number in range(1, 13) for content in (bytes([0]), bytes([number]))]
    assert sources == [*pairs, *(bytes([number]) for number in range(15))]


def test_what_is_true_of_all_photos_is_said_once() -> None:
    taken = [replace(photo, focal=None) for photo in photos(9)]
    text = render_photos("demo", ingested(taken))
    assert text.count(NO_FOCAL) == 1
    assert "None stands out" in text
    some = render_photos("demo", ingested(photos(9, focal=None)))
    assert some.count(NO_FOCAL) == 2  # among the remarks, and with the photo


def test_what_many_photos_suffer_from_is_said_where_none_stands_out() -> None:
    assert "many" not in render_photos("demo", ingested(photos(9)))
    bright = render_photos("demo", ingested(photos(9), [PLAIN._replace(white=0.4)] * 9))
    assert "white in at least 40% of the picture" in bright
    levels = [in_light(2**stop) for stop in np.linspace(-2, 2, 21)]
    around = [replace(photo, exposure=level) for photo, level in zip(photos(21), levels, strict=True)]
    text = render_photos("demo", ingested(around))
    assert "their exposure spreads over 3.6 stops" in text
    assert "None stands out" in text


def test_the_page_loads_nothing_and_its_links_lead_somewhere() -> None:
    taken = photos(150, exposure=0.05)
    page = Page(render_photos("demo", ingested(taken, alike=[("p3", "p4")])))
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.values("src"))
    links = page.values("href")
    assert links == ["#photo-1"]
    assert {link[1:] for link in links} <= set(page.values("id"))
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.elements}
    assert page.values("content")[0] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@pytest.mark.parametrize("moments", [1, 50])
def test_names_are_escaped_wherever_they_come_from(moments: int) -> None:
    taken = [
        replace(photo, name=f"{EVIL}{place}", camera=EVIL, camera_id=EVIL, frame=place % moments, mask=EVIL)
        for place, photo in enumerate(photos(150, exposure=0.05, sharpness=1e-6, width=10))
    ]
    alike = [(taken[0].name, taken[1].name)]
    text = render_photos(EVIL, ingested(taken, left_out={EVIL: EVIL}, alike=alike))
    assert EVIL not in text
    assert text.count("&lt;script&gt;alert(") > 10
    assert not [tag for tag, _ in Page(text).elements if tag == "script"]


def test_of_many_photos_some_are_shown_and_the_others_named() -> None:
    page = Page(render_photos("demo", ingested(photos(250))))
    assert len(page.values("src")) == 84
    listed = [row[0] for row in page.rows if re.fullmatch(r"p\d+", row[0])]
    assert sorted(listed) == sorted(f"p{number}" for number in range(250) if number % 3)
    assert len([name for name in page.values("id") if name.startswith("photo-")]) == 250


def test_many_frames_of_several_cameras_are_summed_up_by_camera() -> None:
    """31 cameras of 150 frames: each has a row, with the numbers that are found plainly, and a picture."""
    random = np.random.default_rng(0)
    taken = [
        replace(
            USUAL,
            name=f"{camera}_{frame}",
            camera_id=f"c{camera}",
            frame=frame,
            sharpness=float(random.uniform(0.01, 0.04)),
            exposure=float(random.uniform(0.3, 0.5)),
        )
        for camera in range(31)
        for frame in range(150)
    ]
    text = render_photos("demo", ingested(taken, [PLAIN._replace(thumbnail=bytes(12_000))] * len(taken)))
    assert len(text) < 1_000_000
    page = Page(text)
    assert len(page.values("src")) == 31
    assert page.values("alt") == [f"photo {camera}_75" for camera in range(31)]
    rows = {row[0]: row[1:] for row in page.rows if re.fullmatch(r"c\d+", row[0])}
    assert len(rows) == 31
    usual, middle = np.median([p.sharpness for p in taken]), np.median([p.exposure for p in taken])
    own = [photo for photo in taken if photo.camera_id == "c17"]
    least = min(own, key=lambda photo: photo.sharpness)
    light = [
        f"{2.2 * math.log2(f(p.exposure for p in own) / middle):+.1f}".replace("-", "\N{MINUS SIGN}")
        for f in (min, max)
    ]
    median = np.median([photo.sharpness for photo in own])
    shares = [f"{100 * value / usual:.0f}%" for value in (median, least.sharpness)]
    assert rows["c17"][:5] == ["150", *shares, least.name, " to ".join(light)]


def test_photos_that_show_nothing_still_make_a_page() -> None:
    taken = [replace(photo, sharpness=0.0, exposure=0.0) for photo in photos(4)]
    text = render_photos("demo", ingested(taken))
    assert "None stands out" in text
    assert "nan" not in text


def test_a_chart_goes_across_from_the_first_photo_to_the_last() -> None:
    drawn = line_chart({"a": [(1, 0), (32, 1)]}, unit="photos", across=(1, 32))
    assert ">1</text>" in drawn
    assert ">32 photos</text>" in drawn
    assert 'd="M46.0 174.0L348.0 10.0"' in drawn


def test_the_step_writes_the_page_into_its_log(tmp_path: Path) -> None:
    for number, level in enumerate((100, 110, 120)):
        picture = np.random.default_rng(number).integers(0, level, (40, 60, 3), np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        write_image(tmp_path / "in" / f"photo{number}.png", picture)
    (tmp_path / "in" / "broken.png").write_bytes((tmp_path / "in" / "photo0.png").read_bytes()[:500])
    (tmp_path / "shelf.yaml").write_text("ingest: {}\n")
    given = {"capture": "in", "config": "shelf.yaml", "out": "out", "reference": "ref", "log": "log"}
    options = [word for name, path in given.items() for word in (f"--{name}", path)]
    environment = os.environ | {"MLFLOW_TRACKING_URI": "none", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "steps/ingest_photos.py"), *options]
    subprocess.run(command, cwd=tmp_path, check=True, env=environment)
    text = (tmp_path / "log" / "photos.html").read_text()
    assert "<h1>shelf</h1>" in text
    assert "3 photos taken, 1 left out." in text
    assert [row[0] for row in Page(text).rows if "broken" in row[-1]] == ["broken.png"]
    assert not (tmp_path / "out" / "photos.html").exists()
