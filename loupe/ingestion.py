"""Photos of unknown origin -> upright 8-bit RGB pictures that the rest of loupe can trust, and a table of them.

What was taken, what was left out and why stands in `photos.json`; the capture itself is only read.
"""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from pydantic import Field, model_validator

from loupe.alike import find_alike, miniature
from loupe.camera import Array
from loupe.config import Config
from loupe.decoding import Decoded, Unusable, decode, is_foreign, is_plain_png, turned
from loupe.errors import InputError
from loupe.images import Pixels, fit, sharpness, shrink, write_image
from loupe.looks import Look, look
from loupe.photos import MIN_PHOTOS, Photo, Shot
from loupe.subtraction import refuse_unfit, subtract
from loupe.video import read_frames, sharpest_frames

_THUMBNAIL = 512
_MOST_THUMBNAILS = 96  # on the contact sheet
_MOST_NAMED = 5
# Of the photos' median sharpness. A Gaussian blur of 0.6 of the 512 pixels leaves a photo of the demo, fern or banana a
# quarter of its own; as they were taken, these captures' photos keep at least 0.58 of the median, DTU's 0.48.
BLURRED = 0.25


class IngestConfig(Config):
    """Section `ingest` of a capture.

    Attributes:
        shrink: photos are shrunk by this whole factor, averaging areas; that is the input scale.
        frames: of a video through a scene that holds still: so many, the sharpest of as many equal stretches.
        every: of a scene that moves: each n-th frame.
        seal: above 1, the photos are handed on shrunk by this factor once more, and what they would be without it is
            sealed: the reference that scoring alone opens.
        masks: those that are given, or, of a subject that moves before cameras that stand still, those that background
            subtraction finds (`subtract`); these replace given ones, which are not even read.
    """

    shrink: int = Field(1, ge=1, le=64)
    frames: int = Field(120, ge=MIN_PHOTOS)
    every: int = Field(1, ge=1)
    seal: int = Field(1, ge=1, le=16)
    masks: Literal["given", "subtract"] = "given"

    @model_validator(mode="after")
    def _one_or_the_other(self) -> IngestConfig:
        if self.seal > 1 and self.masks == "subtract":
            raise ValueError("seal: masks by subtraction are not sealed; leave one of the two out")
        return self


class Ingested(NamedTuple):
    """What `ingest` made: the `photos` and a look at each, the files `left_out` with the reason, the names of each two
    photos that look `alike`, and a `contact_sheet` of the photos, or of some of them, evenly apart, if they are many.
    """

    photos: list[Photo]
    looks: list[Look]
    left_out: dict[str, str]
    alike: list[tuple[str, str]]
    contact_sheet: Pixels


def ingest(
    shots: Sequence[Shot],
    config: IngestConfig,
    out: Path,
    say: Callable[[str], None],
    reference: Path | None = None,
) -> Ingested:
    """Turn photos into upright 8-bit RGB pictures in `out`, which exists, one at a time, and write `photos.json`.

    Of videos and of scenes that move, frames are taken as `config` says. A JPEG or PNG in which nothing has to change
    is copied byte for byte; anything else becomes a PNG. An alpha channel becomes a mask, unless the photo has one of
    its own. A photo that cannot be used is left out and named; photos that look the same are named and kept. With
    `config.seal`, what is sealed goes into `reference`, which exists.

    Raises:
        InputError: two photos share a name but for case or suffix, fewer than three are usable, a video is none, or
            masks cannot be subtracted.
    """
    shots = [still for shot in shots if shot.frame % config.every == 0 for still in _stills(shot, config.frames)]
    _refuse_clashes(shots)
    subtracted = config.masks == "subtract"
    if subtracted:
        refuse_unfit(shots)
    photos: list[Photo] = []
    looks: list[Look] = []
    left_out: dict[str, str] = {}
    thumbnails: list[Pixels] = []
    miniatures: list[Array] = []
    apart = -(-len(shots) // _MOST_THUMBNAILS)
    for shot, decoded in _decode_all(shots):
        try:
            if isinstance(decoded, Unusable):
                raise decoded
            decoded = decoded._replace(alpha=None) if subtracted else _with_mask(decoded, shot.mask)
            photo, small = _store(shot, decoded, config, out)
            if config.seal > 1:
                _seal(shot, decoded, config, reference)
        except Unusable as reason:
            left_out[str(shot)] = str(reason)
            say(f"{shot} left out: {reason}")
            continue
        thumbnail = fit(small, 160)
        if len(photos) % apart == 0:
            thumbnails.append(thumbnail)
        photos.append(photo)
        looks.append(look(small, decoded.alpha))
        miniatures.append(miniature(thumbnail))
    if len(photos) < MIN_PHOTOS:
        raise InputError(_too_few(shots, photos, left_out))
    if subtracted:
        photos = subtract(photos, out, say)
    content = {"format": 1, "photos": [asdict(photo) for photo in photos], "left_out": left_out}
    (out / "photos.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")
    alike = _find_alike(photos, miniatures)
    _name_blurred(photos, say)
    _name_alike(alike, say)
    _name_blank(photos, looks, say)
    if len(thumbnails) < len(photos):
        say(f"the contact sheet shows {len(thumbnails)} of {len(photos)} photos")
    return Ingested(photos, looks, left_out, alike, _contact_sheet(thumbnails))


def _too_few(shots: Sequence[Shot], photos: Sequence[Photo], left_out: Mapping[str, str]) -> str:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:3]) or "no other found"
    where = f"{shots[0].file.parent}: " if shots else ""
    return f"{where}{len(photos)} of {len(shots)} photos are usable, need {MIN_PHOTOS} ({reasons})"


def _refuse_clashes(shots: Sequence[Shot]) -> None:
    seen: dict[str, Shot] = {}
    for shot in shots:
        if is_foreign(shot.file):  # often beside its own JPEG, and left out anyway
            continue
        key = unicodedata.normalize("NFC", shot.name).casefold()
        if key in seen:
            raise InputError(f"{shot.file}: would be the same view as {seen[key].file}; rename one")
        seen[key] = shot


def _stills(shot: Shot, frames: int) -> list[Shot]:
    """The shot itself, or the frames that are taken of a walk."""
    if not shot.is_walk:
        return [shot]
    numbers = sharpest_frames(shot.file, frames)
    return [shot._replace(name=f"{shot.name}_{number:06d}", still=number, is_walk=False) for number in numbers]


def _decode_all(shots: Sequence[Shot]) -> Iterator[tuple[Shot, Decoded | Unusable]]:
    """Each shot with its pixels or the reason why it has none; a video is decoded once for all frames in a row."""
    for _, group in groupby(shots, key=lambda shot: (shot.file, shot.still is None)):
        together = list(group)
        yield from _decode_stills(together) if together[0].still is not None else map(_decode_photo, together)


def _decode_photo(shot: Shot) -> tuple[Shot, Decoded | Unusable]:
    try:
        return shot, decode(shot.file)
    except Unusable as reason:
        return shot, reason


def _decode_stills(shots: Sequence[Shot]) -> Iterator[tuple[Shot, Decoded | Unusable]]:
    wanted = {shot.still: shot for shot in shots}
    try:
        for frame in read_frames(shots[0].file, {number for number in wanted if number is not None}):
            yield wanted.pop(frame.number), Decoded(frame.pixels, None, None, "", unchanged=False)
        reason = "the video ends before this frame"
    except InputError as error:
        reason = str(error)
    for shot in wanted.values():
        yield shot, Unusable(reason)


def _with_mask(decoded: Decoded, file: Path | None) -> Decoded:
    """With the mask of a file in the place of the alpha channel; raises `Unusable` for one that does not fit.

    A mask that says nothing of its orientation lies as the photo's pixels are stored, unless it fits the upright photo
    alone.
    """
    if file is None:
        return decoded
    try:
        own = decode(file)
        mask = np.maximum.reduce(cv2.split(own.pixels))  # the same as max(2), at a tenth of the time
        stored = turned(mask, decoded.orientation)
        if own.orientation == 1 and stored.shape == decoded.pixels.shape[:2]:
            mask = stored
    except FileNotFoundError:
        raise Unusable(f"its mask {file.name} is missing") from None
    except Unusable as reason:
        raise Unusable(f"its mask {file.name}: {reason}") from None
    if mask.shape != decoded.pixels.shape[:2]:
        sizes = (f"{width}x{height}" for height, width in (mask.shape, decoded.pixels.shape[:2]))
        raise Unusable("its mask has {} pixels, the photo {}".format(*sizes))
    if not mask.any():
        raise Unusable(f"its mask {file.name} is all black: nothing of it would be seen")
    return decoded._replace(alpha=mask)


def _store(shot: Shot, decoded: Decoded, config: IngestConfig, out: Path) -> tuple[Photo, Pixels]:
    """Write the picture and its mask; returns the table's row and the picture as small as sharpness is measured on."""
    factor = config.shrink * config.seal
    source_height, source_width = decoded.pixels.shape[:2]
    if min(source_height, source_width) < factor:
        raise Unusable(f"{source_width}x{source_height} pixels cannot be shrunk by {factor}")
    pixels = _colours(shot, decoded, factor)
    if decoded.unchanged and factor == 1:
        file = shot.name + (".png" if is_plain_png(shot.file) else ".jpg")
        shutil.copyfile(shot.file, out / file)
    else:
        file = shot.name + ".png"
        write_image(out / file, pixels)
    mask = None
    if decoded.alpha is not None:
        mask = f"masks/{shot.name}.png"
        (out / "masks").mkdir(exist_ok=True)
        write_image(out / mask, _shrunk(decoded.alpha, factor))
    small = fit(pixels, _THUMBNAIL)
    photo = Photo(
        name=shot.name,
        file=file,
        width=pixels.shape[1],
        height=pixels.shape[0],
        source_width=source_width,
        source_height=source_height,
        shrink=factor,
        focal=None if decoded.focal is None else round(decoded.focal / factor, 3),
        camera=decoded.camera,
        sharpness=round(sharpness(small), 6),
        exposure=round(float(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).mean()) / 255, 4),
        mask=mask,
        transparent=mask is not None and shot.mask is None,
        camera_id=shot.camera_id,
        frame=shot.frame,
        orientation=decoded.orientation,
        seal=config.seal,
    )
    return photo, small


def _seal(shot: Shot, decoded: Decoded, config: IngestConfig, reference: Path | None) -> None:
    """Write what the photo would be if nothing were sealed, its mask as alpha."""
    if reference is None:
        raise ValueError("there is no folder for what is sealed")
    whole = config.shrink * config.seal
    height, width = (side // whole * config.seal for side in decoded.pixels.shape[:2])
    parts = [_colours(shot, decoded, config.shrink)]
    if decoded.alpha is not None:
        parts.append(_shrunk(decoded.alpha, config.shrink)[..., None])
    write_image(reference / f"{shot.name}.png", np.ascontiguousarray(np.concatenate(parts, 2)[:height, :width]))


def _colours(shot: Shot, decoded: Decoded, factor: int) -> Pixels:
    """The photo's pixels, shrunk; of a transparent photo, what does not show does not count."""
    pixels = _shrunk(decoded.pixels, factor)
    if factor == 1 or decoded.alpha is None or shot.mask is not None:
        return pixels
    height, width = (side * factor for side in pixels.shape[:2])
    shows = decoded.alpha[:height, :width, None].astype(np.float32)
    visible, share = (
        cv2.resize(part, pixels.shape[1::-1], interpolation=cv2.INTER_AREA)
        for part in (decoded.pixels[:height, :width] * shows, shows)
    )
    mean = visible / np.maximum(share, 1e-6)[..., None]
    return np.where(share[..., None] > 0, np.rint(mean), pixels).astype(np.uint8)


def _shrunk(pixels: Pixels, factor: int) -> Pixels:
    height, width = (side // factor * factor for side in pixels.shape[:2])
    return pixels if factor == 1 else shrink(pixels[:height, :width], factor)


def usual_sharpness(photos: Sequence[Photo]) -> float:
    """The median."""
    return float(np.median([photo.sharpness for photo in photos]))


def looks_blurred(photo: Photo, usual: float) -> bool:
    """Whether a photo looks blurred among photos whose median sharpness is `usual`."""
    return photo.sharpness < BLURRED * usual


def _name_blurred(photos: Sequence[Photo], say: Callable[[str], None]) -> None:
    usual = usual_sharpness(photos)
    for photo in photos:
        if looks_blurred(photo, usual):
            say(f"{photo.name} looks blurred: sharpness {photo.sharpness:.2g}, the median is {usual:.2g}")


def _find_alike(photos: Sequence[Photo], miniatures: Sequence[Array]) -> list[tuple[str, str]]:
    """The names of each two photos of one camera that look the same.

    Photos of different moments are not compared: a camera that stands still before a scene that moves shows much the
    same for long.
    """

    def taken(place: int) -> tuple[str, int]:
        return photos[place].camera_id, photos[place].frame

    alike = []
    for _, group in groupby(sorted(range(len(photos)), key=taken), key=taken):
        together = list(group)
        pairs = find_alike([miniatures[place] for place in together])
        alike += [(photos[together[first]].name, photos[together[second]].name) for first, second in pairs]
    return alike


def _name_alike(alike: Sequence[tuple[str, str]], say: Callable[[str], None]) -> None:
    if alike:
        named = ", ".join(f"{first} and {second}" for first, second in alike[:_MOST_NAMED])
        more = ", ..." if len(alike) > _MOST_NAMED else ""
        count = "1 pair of photos looks" if len(alike) == 1 else f"{len(alike)} pairs of photos look"
        say(f"{count} the same: {named}{more}")


def _name_blank(photos: Sequence[Photo], looks: Sequence[Look], say: Callable[[str], None]) -> None:
    if all_white := [photo.name for photo, seen in zip(photos, looks, strict=True) if seen.mask_is_white]:
        say(f"{len(all_white)} masks are all white and say nothing, the first is that of {all_white[0]}")


def _contact_sheet(thumbnails: Sequence[Pixels], columns: int = 6) -> Pixels:
    """All thumbnails in rows, on grey."""
    height, width = np.max([picture.shape[:2] for picture in thumbnails], 0) + 8
    rows = -(-len(thumbnails) // columns)
    sheet = np.full((rows * height, min(columns, len(thumbnails)) * width, 3), 128, np.uint8)
    for place, picture in enumerate(thumbnails):
        y, x = place // columns * height + 4, place % columns * width + 4
        sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return sheet
