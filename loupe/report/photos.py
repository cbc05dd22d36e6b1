"""The page on a capture: whether its photos are any good, at a glance, before anything is trained on them.

One HTML file that holds everything it shows, loads nothing and runs nothing. Many moments of several cameras are summed
up by camera.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from loupe.ingestion import BLURRED, Ingested, usual_sharpness
from loupe.looks import BLACKEST, WHITEST, Look
from loupe.photos import Photo
from loupe.report.charts import Chart, draw
from loupe.report.remarks import CLIPPED, MEANING, NO_FOCAL, STOPS, Remark, limit, remark, signed, size, spread, stops
from loupe.report.templates import data_uri, fill, style

_MOST_SHOWN = 96  # photos with a thumbnail, as on the contact sheet
_MOST_PAIRS = 12
_MOST_LEFT_OUT = 200
_MOST_NAMED = 8
_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Shown:
    """A photo as the page shows it: `number` counts from 1 in the capture's order, `share` is of the median sharpness,
    `stops` of light more than the median. `remarks` leaves out what is true of all photos."""

    number: int
    photo: Photo
    size: str
    share: float
    stops: float
    look: Look
    remarks: Sequence[Remark]

    @property
    def thumbnail(self) -> str:
        """As a data URI."""
        return data_uri(self.look.thumbnail, "image/jpeg")


@dataclass(frozen=True)
class CameraRow:
    """The photos of a camera: shares of the median sharpness of all photos, stops of light more than the median."""

    name: str
    photos: int
    median: float
    least: float
    least_name: str
    darkest: float
    brightest: float
    remarked: int


@dataclass(frozen=True)
class Finding:
    """What was remarked on how many photos. `named` are the first of them, or of their cameras, each with the number of
    a photo that the page shows, or None; `more` is how many follow."""

    kind: str
    meaning: str
    count: int
    named: Sequence[tuple[str, int | None]]
    more: int


def render_photos(capture: str, made: Ingested) -> str:
    """The page on what was ingested of a capture, as text."""
    found = remark(made.photos, made.looks)
    shared = {kind for kind in MEANING if all(kind in (own.kind for own in remarks) for remarks in found)}
    shown = _shown(made, [[own for own in remarks if own.kind not in shared] for remarks in found])
    by_camera = _is_long(made.photos)
    cards = _one_of_each_camera(shown) if by_camera else _evenly(shown)
    pictured = {entry.number for entry in cards}
    name = _name_cameras if by_camera else _name_photos
    rest = [] if by_camera else [entry for entry in shown if entry.number not in pictured]
    by_name = {entry.photo.name: entry for entry in shown}
    left_out = list(made.left_out.items())
    return fill(
        "photos.html.jinja",
        style=style("style.css", "photos.css"),
        capture=capture,
        facts=_facts(made),
        shared=[(kind, MEANING[kind]) for kind in MEANING if kind in shared],
        usual=[*_usually_spread(made.photos), *_usually_clipped(made.looks)],
        findings=list(_findings(shown, name)),
        flawed=sum(any(own.kind != NO_FOCAL for own in entry.remarks) for entry in shown),
        left_out_total=len(left_out),
        left_out=left_out[:_MOST_LEFT_OUT],
        left_out_more=max(len(left_out) - _MOST_LEFT_OUT, 0),
        pairs=[(by_name[first], by_name[second]) for first, second in made.alike[:_MOST_PAIRS]],
        pairs_more=max(len(made.alike) - _MOST_PAIRS, 0),
        cameras=_cameras(shown) if by_camera else [],
        cards=cards,
        rest=rest,
        total=len(shown),
        shape=Counter((photo.width, photo.height) for photo in made.photos).most_common(1)[0][0],
        signed=signed,
        rule={"stops": f"{STOPS:g}", "black": BLACKEST, "white": WHITEST},
        charts=list(_charts_over_time(shown) if by_camera else _charts(shown)),
    )


def _is_long(photos: Sequence[Photo]) -> bool:
    """Whether it takes a row for each camera to sum up the photos: there are many, of many moments."""
    return len(photos) > _MOST_SHOWN and len({photo.frame for photo in photos}) > 1


def _shown(made: Ingested, remarks: Sequence[Sequence[Remark]]) -> list[Shown]:
    usual = usual_sharpness(made.photos) or 1.0  # all photos are blank
    lighter = stops(made.photos)
    return [
        Shown(
            number=place + 1,
            photo=photo,
            size=size(photo),
            share=photo.sharpness / usual,
            stops=float(lighter[place]),
            look=look,
            remarks=remarks[place],
        )
        for place, (photo, look) in enumerate(zip(made.photos, made.looks, strict=True))
    ]


def _facts(made: Ingested) -> Mapping[str, str]:
    photos = made.photos
    sizes = {size(photo) for photo in photos}
    cameras = len({photo.camera_id for photo in photos})
    moments = len({photo.frame for photo in photos})
    facts = {
        "photos taken": f"{len(photos)}",
        "left out": f"{len(made.left_out)}",
        "pairs that look the same": f"{len(made.alike)}",
        "pixels": sizes.pop() if len(sizes) == 1 else f"{len(sizes)} sizes",
        "exposure spread": f"{spread(stops(photos)):.1f} stops",
    }
    if cameras > 1:
        facts["cameras"] = f"{cameras}"
    if moments > 1:
        facts["moments"] = f"{moments}"
    if masks := sum(photo.mask is not None for photo in photos):
        facts["with a mask"] = f"{masks}"
    return facts


def _usually_spread(photos: Sequence[Photo]) -> Iterator[tuple[str, str]]:
    """Photos that differ so much from each other that no single one stands out, and what that means."""
    stops_apart = spread(stops(photos))
    if stops_apart >= 2 * STOPS:  # by as much to either side
        yield (
            f"their exposure spreads over {stops_apart:.1f} stops",
            "It was not locked, or some photos show much more of something dark.",
        )


def _usually_clipped(looks: Sequence[Look]) -> Iterator[tuple[str, str]]:
    """What half of the photos have too much of, which no single one stands out by, and what that means."""
    for name, shares, reason in (
        ("black", [look.black for look in looks], "They are under-exposed, or have a dark background."),
        ("white", [look.white for look in looks], "They are over-exposed, or have a bright background."),
    ):
        if np.median(shares) >= CLIPPED:  # so at least half of them do
            yield f"{name} in at least {np.median(shares):.0%} of the picture", reason


def _findings(
    shown: Sequence[Shown], name: Callable[[Sequence[Shown]], list[tuple[str, int | None]]]
) -> Iterator[Finding]:
    for kind, meaning in MEANING.items():
        concerned = [entry for entry in shown if any(own.kind == kind for own in entry.remarks)]
        if concerned:
            names = name(concerned)
            yield Finding(kind, meaning, len(concerned), names[:_MOST_NAMED], max(len(names) - _MOST_NAMED, 0))


def _name_photos(shown: Sequence[Shown]) -> list[tuple[str, int | None]]:
    return [(entry.photo.name, entry.number) for entry in shown]


def _name_cameras(shown: Sequence[Shown]) -> list[tuple[str, int | None]]:
    return [(f"camera {name}: {len(group)}", None) for name, group in _of_cameras(shown).items()]


def _grouped(shown: Sequence[Shown], key: Callable[[Photo], _Key]) -> dict[_Key, list[Shown]]:
    """The photos that have a key in common, in their order."""
    groups: dict[_Key, list[Shown]] = {}
    for entry in shown:
        groups.setdefault(key(entry.photo), []).append(entry)
    return groups


def _of_cameras(shown: Sequence[Shown]) -> dict[str, list[Shown]]:
    return _grouped(shown, lambda photo: photo.camera_id)


def _one_of_each_camera(shown: Sequence[Shown]) -> Sequence[Shown]:
    """The photo in the middle of each camera's; of many cameras, some, evenly apart."""
    return _evenly([group[len(group) // 2] for group in _of_cameras(shown).values()])


def _evenly(shown: Sequence[Shown]) -> Sequence[Shown]:
    """At most as many as have a thumbnail."""
    return shown[:: -(-len(shown) // _MOST_SHOWN)]


def _cameras(shown: Sequence[Shown]) -> list[CameraRow]:
    rows = []
    for name, group in _of_cameras(shown).items():
        least = min(group, key=lambda entry: entry.share)
        rows.append(
            CameraRow(
                name=name,
                photos=len(group),
                median=float(np.median([entry.share for entry in group])),
                least=least.share,
                least_name=least.photo.name,
                darkest=min(entry.stops for entry in group),
                brightest=max(entry.stops for entry in group),
                remarked=sum(bool(entry.remarks) for entry in group),
            )
        )
    return rows


def _charts(shown: Sequence[Shown]) -> Iterator[Chart]:
    """Each photo, in order, and what the rules hold it against."""

    def line(values: Sequence[float]) -> list[tuple[float, float]]:
        return [(entry.number, value) for entry, value in zip(shown, values, strict=True)]

    def level(value: float) -> list[tuple[float, float]]:
        return line([value] * len(shown))

    sharp = {"photo": line([entry.share for entry in shown]), "blurred below": level(BLURRED)}
    lighter = [entry.stops for entry in shown]
    far = limit(np.array(lighter), STOPS)
    light = {"photo": line(lighter), "darker below": level(-far), "brighter above": level(far)}
    clipped = {name: line([100 * getattr(entry.look, name) for entry in shown]) for name in ("white", "black")}
    clipped |= {f"{CLIPPED:.0%}": level(100 * CLIPPED)}
    yield from draw("Sharpness, as a share of the median", sharp, unit="photos", across=(1, len(shown)))
    yield from draw("Exposure, stops from the median", light, unit="photos", across=(1, len(shown)))
    yield from draw("White and black, % of the picture", clipped, unit="photos", across=(1, len(shown)))


def _charts_over_time(shown: Sequence[Shown]) -> Iterator[Chart]:
    """What all cameras saw at each moment."""
    moments = [group for _, group in sorted(_grouped(shown, lambda photo: photo.frame).items())]
    forms: dict[str, Callable[[list[float]], float]] = {"highest": np.max, "median": np.median, "lowest": np.min}
    values: dict[str, Callable[[Shown], float]] = {
        "Sharpness, as a share of the median": lambda entry: entry.share,
        "Exposure, stops from the median": lambda entry: entry.stops,
        "White, % of the picture": lambda entry: 100 * entry.look.white,
    }
    for title, value in values.items():
        own = [[value(entry) for entry in group] for group in moments]
        lines = {name: [(place, form(of)) for place, of in enumerate(own, 1)] for name, form in forms.items()}
        yield from draw(title, lines, unit="moments", across=(1, len(moments)))
