"""Ingestion: what comes in as anything comes out as an upright 8-bit picture, or is named with its reason."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from loupe.errors import InputError
from loupe.images import read_image
from loupe.ingestion import IngestConfig, Ingested, ingest
from loupe.photos import Shot, find_photos, read_photos

RANDOM = np.random.default_rng(0)


def smooth(width: int = 64, height: int = 40) -> np.ndarray:
    """A picture without symmetry, which a JPEG keeps within a few levels."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x / width, 255 * y / height, 128 + 100 * np.sin(x / 9 + y / 5)], -1).astype(np.uint8)


def save(path: Path, picture: np.ndarray | Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(path, **options)
    return path


def run(folder: Path, shrink: int = 1, fillers: int = 3) -> tuple[Ingested, Path, list[str]]:
    """Ingest `folder` with `fillers` good photos added, so that what is tried decides nothing else."""
    for number in range(fillers):
        save(folder / f"zz{number}.png", smooth())
    out, said = folder.parent / "out", list[str]()
    out.mkdir()
    return (
        ingest([Shot(path.stem, path) for path in find_photos(folder)], IngestConfig(shrink=shrink), out, said.append),
        out,
        said,
    )


def exif(orientation: int | None = None, focal: object = None) -> Image.Exif:
    made = Image.Exif()
    if orientation is not None:
        made[0x0112] = orientation
    made[0x010F], made[0x0110] = "Acme\0 ", "One\n"
    if focal is not None:
        made.get_ifd(0x8769)[0xA405] = focal
    return made


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_nothing_to_change_keeps_the_bytes(tmp_path: Path, suffix: str) -> None:
    source = save(tmp_path / "in" / f"a.{suffix}", smooth(), exif=exif(1))
    made, out, _ = run(tmp_path / "in")
    assert (out / made.photos[0].file).read_bytes() == source.read_bytes()
    assert (made.photos[0].width, made.photos[0].height) == (64, 40)
    assert read_photos(out) == made.photos


def test_of_several_pictures_in_a_jpeg_the_first_counts(tmp_path: Path) -> None:
    other = Image.fromarray(np.zeros((40, 64, 3), np.uint8))
    source = save(tmp_path / "in" / "a.jpg", smooth(), format="MPO", save_all=True, append_images=[other])
    made, out, _ = run(tmp_path / "in")
    assert (out / "a.jpg").read_bytes() == source.read_bytes()
    assert np.abs(read_image(out / "a.jpg").astype(int) - smooth()).mean() < 6
    assert not made.left_out


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    """The picture is stored as EXIF says it was held; the eight ways are written out by hand."""
    upright = smooth()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    lossless = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    save(tmp_path / "in" / f"a.{suffix}", np.ascontiguousarray(stored), exif=exif(orientation), **lossless)
    made, out, _ = run(tmp_path / "in")
    difference = np.abs(read_image(out / made.photos[0].file).astype(int) - upright)
    assert difference.max() <= (4 if suffix == "jpg" else 0)
    assert made.photos[0].orientation == orientation
    assert made.photos[0].stored_size == stored.shape[1::-1]
    assert read_photos(out) == made.photos


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(Image.fromarray(smooth()).convert("L"), id="grey"),
        pytest.param(Image.fromarray(smooth()).convert("CMYK"), id="cmyk"),
        pytest.param(Image.fromarray(smooth()).quantize(256), id="palette"),
        pytest.param(Image.fromarray(smooth()[..., 0].astype(np.uint16) * 257), id="16 bit grey"),
    ],
)
def test_other_kinds_of_pixels_become_rgb(tmp_path: Path, stored: Image.Image) -> None:
    kept = "jpg" if stored.mode == "CMYK" else "png"
    save(tmp_path / "in" / f"a.{kept}", stored)
    made, out, _ = run(tmp_path / "in")
    picture = read_image(out / "a.png").astype(int)
    grey = stored.mode in ("L", "I;16")
    expected = np.asarray(Image.fromarray(smooth()).convert("L") if stored.mode == "L" else smooth()[..., 0])
    assert picture.shape == (40, 64, 3)
    if grey:
        assert np.array_equal(picture, expected[..., None].repeat(3, 2))
    else:
        assert np.abs(picture - smooth()).mean() < 6
    assert not made.left_out


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_rgb_becomes_8(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / f"a.{suffix}"), cv2.cvtColor(smooth().astype(np.uint16) * 257, cv2.COLOR_RGB2BGR))
    _, out, _ = run(tmp_path / "in")
    assert np.array_equal(read_image(out / "a.png"), smooth())


def test_alpha_becomes_a_mask(tmp_path: Path) -> None:
    alpha = np.zeros((40, 64, 1), np.uint8)
    alpha[10:30, 20:40] = 255
    save(tmp_path / "in" / "a.png", np.concatenate([smooth(), alpha], 2))
    save(tmp_path / "in" / "b.png", np.concatenate([smooth(), np.full_like(alpha, 255)], 2))
    made, out, _ = run(tmp_path / "in", shrink=2)
    assert made.photos[0].mask == "masks/a.png"
    assert [photo.transparent for photo in made.photos[:2]] == [True, False]
    mask = read_image(out / "masks" / "a.png")
    assert mask.shape == (20, 32)
    assert mask.mean() == alpha.mean()
    assert made.photos[1].mask is None


def mask(folder: Path, value: int = 255, size: tuple[int, int] = (64, 40)) -> Path:
    """One bit a pixel, `value` on the left half."""
    pixels = np.zeros(size[::-1], np.uint8)
    pixels[:, : size[0] // 2] = value
    return save(folder / "mask.png", Image.fromarray(pixels).convert("1"))


def test_a_mask_in_a_file_of_its_own(tmp_path: Path) -> None:
    files = [save(tmp_path / "in" / f"{name}.png", smooth()) for name in "abc"]
    shots = [Shot(f"0_{path.stem}", path, "0", number, mask(tmp_path)) for number, path in enumerate(files)]
    (tmp_path / "out").mkdir()
    made = ingest(shots, IngestConfig(shrink=2), tmp_path / "out", print)
    assert [(photo.name, photo.camera_id, photo.frame) for photo in made.photos][1] == ("0_b", "0", 1)
    assert read_photos(tmp_path / "out") == made.photos
    kept = read_image(tmp_path / "out" / str(made.photos[1].mask))
    assert kept.shape == (20, 32)
    assert (kept[:, :16] == 255).all()
    assert not kept[:, 16:].any()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("lies", ["as stored", "upright", "as stored, and says so"])
def test_a_mask_is_turned_with_its_photo(tmp_path: Path, orientation: int, lies: str) -> None:
    """Pillow's own turning is the second route."""
    upright = np.zeros((40, 64), np.uint8)
    upright[5:12, 30:60] = 255
    back = {6: 8, 8: 6}.get(orientation, orientation)
    other = Image.new("L", (1, 1)).getexif()
    other[0x0112] = back

    def laid(pixels: np.ndarray) -> np.ndarray:
        flat = Image.fromarray(pixels)
        flat.getexif()[0x0112] = back
        return np.asarray(ImageOps.exif_transpose(flat))

    files = [save(tmp_path / "in" / f"{name}.png", laid(smooth()), exif=exif(orientation)) for name in "abc"]
    how = {"exif": exif(orientation)} if lies == "as stored, and says so" else {}
    own = save(tmp_path / "mask.png", upright if lies == "upright" else laid(upright), **how)
    (tmp_path / "out").mkdir()
    made = ingest([Shot(path.stem, path, mask=own) for path in files], IngestConfig(), tmp_path / "out", print)
    kept = read_image(tmp_path / "out" / str(made.photos[0].mask))
    # Nothing says that a mask is upright where it would fit either way.
    ambiguous = lies == "upright" and orientation in (2, 3, 4)
    assert np.array_equal(kept, laid(upright) if ambiguous else upright)
    assert not made.photos[0].transparent


@pytest.mark.parametrize(
    ("size", "value", "reason"),
    [
        ((64, 41), 255, "its mask has 64x41 pixels, the photo 64x40"),
        ((64, 40), 0, "its mask mask.png is all black"),
    ],
)
def test_a_view_whose_mask_does_not_fit_is_left_out(
    tmp_path: Path, size: tuple[int, int], value: int, reason: str
) -> None:
    files = [save(tmp_path / "in" / f"{name}.png", smooth()) for name in "abcd"]
    shots = [Shot(path.stem, path) for path in files]
    shots[0] = shots[0]._replace(mask=mask(tmp_path, value, size))
    (tmp_path / "out").mkdir()
    made = ingest(shots, IngestConfig(shrink=1), tmp_path / "out", print)
    assert made.left_out["a.png"].startswith(reason)
    assert len(made.photos) == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "its mask mask.png is missing"),
        (b"", "its mask mask.png: empty file"),
        (b"text", "its mask mask.png: not a JPEG"),
        ("huge", "its mask mask.png: more than 200 megapixels"),
    ],
)
def test_a_view_whose_mask_cannot_be_read_is_left_out(tmp_path: Path, content: bytes | str | None, reason: str) -> None:
    shots = [Shot(name, save(tmp_path / "in" / f"{name}.png", smooth())) for name in "abcd"]
    shots[0] = shots[0]._replace(mask=tmp_path / "mask.png")
    if content is not None:
        (tmp_path / "mask.png").write_bytes(content if isinstance(content, bytes) else png_header(60_000, 60_000))
    (tmp_path / "out").mkdir()
    made = ingest(shots, IngestConfig(shrink=1), tmp_path / "out", print)
    assert list(made.left_out) == ["a.png"]
    assert made.left_out["a.png"].startswith(reason)


def test_masks_that_are_all_white_are_warned_of_and_kept(tmp_path: Path) -> None:
    white = save(tmp_path / "white.png", np.full((40, 64), 255, np.uint8))
    masks = [white, white, mask(tmp_path), None]
    files = [save(tmp_path / "in" / f"{name}.png", smooth()) for name in "abcd"]
    shots = [Shot(path.stem, path, mask=one) for path, one in zip(files, masks, strict=True)]
    (tmp_path / "out").mkdir()
    said: list[str] = []
    made = ingest(shots, IngestConfig(shrink=1), tmp_path / "out", said.append)
    assert [line for line in said if "mask" in line] == [
        "2 masks are all white and say nothing, the first is that of a"
    ]
    assert [photo.mask is not None for photo in made.photos] == [True, True, True, False]


def test_a_photo_of_nothing_is_left_out(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", np.concatenate([smooth(), np.zeros((40, 64, 1), np.uint8)], 2))
    assert run(tmp_path / "in")[0].left_out == {"a.png": "wholly transparent"}


def test_shrinking_averages_areas_and_trims(tmp_path: Path) -> None:
    noise = RANDOM.integers(0, 256, (41, 66, 3)).astype(np.uint8)
    save(tmp_path / "in" / "a.png", noise, exif=exif(focal=28))
    made, out, _ = run(tmp_path / "in", shrink=4)
    photo, picture = made.photos[0], read_image(out / "a.png")
    naive = noise[:40, :64].reshape(10, 4, 16, 4, 3).mean((1, 3))
    assert np.abs(picture - naive).max() <= 0.5
    assert (photo.width, photo.height, photo.source_width, photo.source_height, photo.shrink) == (16, 10, 66, 41, 4)
    assert photo.focal == pytest.approx(28 / np.hypot(36, 24) * np.hypot(66, 41) / 4, abs=1e-3)


@pytest.mark.parametrize("focal", [None, 0, 65535, "wide"])
def test_a_missing_or_silly_focal_length_is_none(tmp_path: Path, focal: object) -> None:
    save(tmp_path / "in" / "a.jpg", smooth(), exif=exif(focal=focal))
    made, _, _ = run(tmp_path / "in")
    assert made.photos[0].focal is None
    assert made.photos[0].camera == "Acme One"


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    encoded = io.BytesIO()
    Image.fromarray(smooth()).save(encoded, "png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(encoded.getvalue())
    (tmp_path / "in" / "no_suffix").write_bytes(encoded.getvalue())
    made, out, _ = run(tmp_path / "in")
    assert [photo.file for photo in made.photos[:2]] == ["a.png", "no_suffix.png"]
    assert np.array_equal(read_image(out / "a.png"), smooth())


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x08\x02\0\0\0") + pixels + chunk(b"IEND", b"")


def huge_jpeg() -> bytes:
    """With 60,000 x 60,000 in the frame header (SOF0: length, precision, height, width)."""
    encoded = bytearray(jpeg())
    at = encoded.index(b"\xff\xc0") + 5
    encoded[at : at + 4] = (60_000).to_bytes(2, "big") * 2
    return bytes(encoded)


def huge_tiff() -> bytes:
    """One strip of grey pixels, 60,000 x 60,000."""
    long, short = 4, 3
    tags = [(256, long, 60_000), (257, long, 60_000), (258, short, 8), (259, short, 1), (262, short, 1)]
    tags += [(273, long, 8), (277, short, 1), (278, long, 60_000), (279, long, 3_600_000_000)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def huge_webp() -> bytes:
    """An extended header with a canvas of 16,384 x 16,384, the largest there is."""
    canvas = b"VP8X" + struct.pack("<II", 10, 2) + (16_383).to_bytes(3, "little") * 2
    chunks = b"WEBP" + canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def fits() -> bytes:
    """8 x 8 grey pixels as astronomers store them; Pillow alone would open it, and unpack a compressed one whole."""
    cards = ["SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 8", "NAXIS2  = 8", "END"]
    return "".join(card.ljust(80) for card in cards).ljust(2880).encode() + bytes(2880)


def encoded_as(kind: str, **options: object) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(smooth()).save(encoded, kind, **options)
    return encoded.getvalue()


def jpeg() -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(encoded, "jpeg")
    return encoded.getvalue()


def animation() -> bytes:
    encoded = io.BytesIO()
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (0, 90, 200)]
    frames[0].save(encoded, "webp", save_all=True, append_images=frames[1:])
    return encoded.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jpg", b"", "empty"),
        ("a.jpg", jpeg()[:2000], "broken.*truncated"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(20), "broken|not a"),
        ("a.jpg", b"<html>", "not a JPEG"),
        ("a.heic", b"\0\0\0\x18ftypheic", "convert"),
        ("a.dng", b"II*\0" + bytes(30), "convert"),
        ("a.webp", animation(), "holds 3 pictures"),
        ("a.png", png_header(60_000, 60_000), "more than 200 megapixels"),
        ("a.jpg", huge_jpeg(), "more than 200 megapixels"),
        ("a.tif", huge_tiff(), "more than 200 megapixels"),
        ("a.webp", huge_webp(), "more than 200 megapixels"),
        ("a.jpg", fits(), "not a JPEG"),
        ("a.jpg", encoded_as("bmp"), "not a JPEG"),
        ("a.jpg", b"\0\0\0\x18ftypheic", "not a JPEG"),
        ("a.png", encoded_as("png")[:400], "broken.*truncated"),
        ("a.tif", encoded_as("tiff")[:4000], "broken.*truncated"),
        ("a.webp", encoded_as("webp")[:300], "broken"),
        ("a.png", encoded_as("png", save_all=True, append_images=[Image.new("RGB", (64, 40))]), "holds 2 pictures"),
        ("a.tif", encoded_as("tiff", save_all=True, append_images=[Image.new("RGB", (64, 40))]), "holds 2 pictures"),
    ],
)
def test_an_unusable_photo_is_left_out_with_its_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    made, out, said = run(tmp_path / "in")
    assert list(made.left_out) == [name]
    assert [photo.name for photo in made.photos] == ["zz0", "zz1", "zz2"]
    with pytest.raises(InputError, match=f"a.*{reason}"):
        raise InputError(said[0])
    assert json.loads((out / "photos.json").read_text())["left_out"] == made.left_out


def test_too_few_usable_photos_say_why(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"2 of 3 photos are usable, need 3 \(a.jpg: empty file\)"):
        run(tmp_path / "in", fillers=2)


@pytest.mark.parametrize("pair", [("a.jpg", "a.png"), ("a.jpg", "A.JPG"), ("\u00e9.jpg", "e\u0301.jpg")])
def test_names_that_clash_are_refused(tmp_path: Path, pair: tuple[str, str]) -> None:
    for name in pair:
        save(tmp_path / "in" / name, smooth())
    with pytest.raises(InputError, match="same view") as caught:
        run(tmp_path / "in")
    assert all(str(tmp_path / "in" / name) in str(caught.value) for name in pair)


def test_a_raw_file_beside_its_jpeg_is_no_clash(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.jpg", smooth())
    (tmp_path / "in" / "a.cr2").write_bytes(b"II*\0" + bytes(30))
    made, _, _ = run(tmp_path / "in")
    assert (len(made.photos), list(made.left_out)) == (4, ["a.cr2"])


@pytest.mark.parametrize(
    "name",
    ["-rf.jpg", "a\nb.jpg", "x" * 121 + ".jpg", "\u6771" * 67 + ".jpg", "a;b.jpg", "$(a).jpg", "<b>.jpg", "\udcff.jpg"],
)
def test_a_dangerous_name_is_refused(tmp_path: Path, name: str) -> None:
    save(tmp_path / "in" / "ok.jpg", smooth())
    os.rename(tmp_path / "in" / "ok.jpg", tmp_path / "in" / name)
    with pytest.raises(InputError, match="rename this photo") as caught:
        find_photos(tmp_path / "in")
    assert "\n" not in str(caught.value)


def test_ordinary_names_are_taken(tmp_path: Path) -> None:
    for name in ("IMG 1234 (1).jpg", "Stra\u00dfe_\u6771\u4eac.JPG", "a.b.c.jpg", "1.jpg"):
        save(tmp_path / "in" / name, smooth(), format="jpeg")
    made, _, _ = run(tmp_path / "in", fillers=0)
    assert [photo.name for photo in made.photos] == ["1", "IMG 1234 (1)", "Stra\u00dfe_\u6771\u4eac", "a.b.c"]


def test_the_longest_name_is_taken(tmp_path: Path) -> None:
    """Pictures that are made of it have longer names still."""
    save(tmp_path / "in" / ("\u6771" * 66 + ".jpg"), smooth(), exif=exif(6))
    made, out, _ = run(tmp_path / "in")
    assert (out / made.photos[-1].file).name == "\u6771" * 66 + ".png"


def test_a_link_out_of_the_capture_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "secret.jpg", smooth())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(InputError, match="link leaves"):
        find_photos(tmp_path / "in")


def test_other_files_are_no_photos(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", smooth())
    for name in ("LICENSE", "poses_bounds.npy", ".hidden.jpg"):
        (tmp_path / "in" / name).write_bytes(b"text")
    (tmp_path / "in" / "folder.jpg").mkdir()
    assert [path.name for path in find_photos(tmp_path / "in")] == ["a.png"]


def test_blur_is_measured_and_named(tmp_path: Path) -> None:
    noise = RANDOM.integers(0, 256, (512, 512, 3)).astype(np.uint8)
    for turns, name in enumerate("abcd"):
        save(tmp_path / "in" / f"{name}.png", np.rot90(noise, turns))
    save(tmp_path / "in" / "e.png", cv2.GaussianBlur(noise, (0, 0), 3))
    made, _, said = run(tmp_path / "in", fillers=0)
    assert made.photos[4].sharpness < 0.1 * made.photos[0].sharpness
    assert made.photos[0].exposure == pytest.approx(0.5, abs=0.02)
    assert len(said) == 1
    assert "e looks blurred" in said[0]


ROOT = Path(__file__).parents[1]
DEMO = ROOT / "data/captures/demo"


def ingest_with_a_photo_saved_anew(files: list[Path], folder: Path) -> Ingested:
    """The photos, and the fourth of them again as another JPEG, smaller and darker."""
    with Image.open(files[3]) as photo:
        smaller = photo.resize((photo.width // 2, photo.height // 2))
    again = save(folder / "again.jpg", smaller.point(lambda level: level * 0.8), quality=40)
    (folder / "out").mkdir()
    shots = [Shot(file.stem, file) for file in [*files, again]]
    return ingest(shots, IngestConfig(shrink=1), folder / "out", print)


def test_of_true_photos_only_one_saved_anew_looks_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = ingest_with_a_photo_saved_anew(sorted(DEMO.glob("*.jpg")), tmp_path)
    assert made.alike == [("view_03", "again")]
    assert capsys.readouterr().out == "1 pair of photos looks the same: view_03 and again\n"
    assert [len(made.photos), len(made.left_out)] == [26, 0]


@pytest.mark.real
@pytest.mark.skipif("LOUPE_DATA" not in os.environ, reason="LOUPE_DATA is unset")
@pytest.mark.parametrize("folder", ["fern/images", "banana/images", "dtu_scan65/image"])
def test_of_real_photos_only_one_saved_anew_looks_the_same(tmp_path: Path, folder: str) -> None:
    files = find_photos(Path(os.environ["LOUPE_DATA"]) / folder)
    assert ingest_with_a_photo_saved_anew(files, tmp_path).alike == [(files[3].stem, "again")]


def test_of_many_photos_that_look_the_same_five_pairs_are_named(tmp_path: Path) -> None:
    for name in "abcd":
        save(tmp_path / "in" / f"{name}.png", smooth())
    made, _, said = run(tmp_path / "in", fillers=0)
    assert len(made.photos) == 4
    assert len(made.alike) == 6
    assert said == ["6 pairs of photos look the same: a and b, a and c, a and d, b and c, b and d, ..."]


def test_photos_that_show_nothing_look_the_same(tmp_path: Path) -> None:
    """Each is of one level, but for a few pixels that are a level brighter."""
    for name, level in zip("abc", (9, 10, 200), strict=True):
        noise = RANDOM.random((300, 400, 1)) < 0.05
        save(tmp_path / "in" / f"{name}.png", np.repeat(level + noise, 3, 2).astype(np.uint8))
    assert run(tmp_path / "in", fillers=0)[0].alike == [("a", "b"), ("a", "c"), ("b", "c")]


def test_the_step_counts_photos_that_look_the_same(tmp_path: Path) -> None:
    for name in "abc":
        save(tmp_path / "in" / f"{name}.png", smooth())
    (tmp_path / "x.yaml").write_text("ingest: {}\n")
    given = {"capture": "in", "config": "x.yaml", "out": "out", "reference": "ref", "log": "log"}
    options = [word for name, path in given.items() for word in (f"--{name}", path)]
    subprocess.run([sys.executable, str(ROOT / "steps/ingest_photos.py"), *options], cwd=tmp_path, check=True)
    facts = json.loads((tmp_path / "log/run.json").read_text())
    assert facts["summary"] == {"photos": 3, "left_out": 0, "alike": 3}


def test_a_photo_is_compared_with_so_many_of_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loupe.alike._COMPARED", 2)
    for name in "abcd":
        save(tmp_path / "in" / f"{name}.png", smooth())
    made = run(tmp_path / "in", fillers=0)[0]
    assert made.alike == [("a", "b"), ("a", "c"), ("b", "c"), ("b", "d"), ("c", "d")]


@pytest.mark.parametrize(("second", "alike"), [(("0", 0), 1), (("0", 1), 0), (("1", 0), 0)])
def test_only_photos_of_one_camera_and_moment_can_look_the_same(
    tmp_path: Path, second: tuple[str, int], alike: int
) -> None:
    pictures = {"a": smooth(), "b": smooth(), "c": smooth()[::-1], "d": smooth()[:, ::-1]}
    files = [save(tmp_path / "in" / f"{name}.png", picture) for name, picture in pictures.items()]
    shots = [Shot(file.stem, file) for file in files]
    shots[1] = Shot("b", files[1], *second)
    (tmp_path / "out").mkdir()
    assert ingest(shots, IngestConfig(shrink=1), tmp_path / "out", print).alike == [("a", "b")] * alike


def test_the_contact_sheet_shows_every_photo(tmp_path: Path) -> None:
    for name, level in zip("abcdefg", range(10, 80, 10), strict=True):
        save(tmp_path / "in" / f"{name}.png", np.full((30, 40, 3), level, np.uint8))
    sheet = run(tmp_path / "in", fillers=0)[0].contact_sheet
    assert set(range(10, 80, 10)) <= set(np.unique(sheet))


def test_of_many_photos_the_contact_sheet_shows_some(tmp_path: Path) -> None:
    """Every third of 250, from the first to nearly the last."""
    for number in range(250):
        save(tmp_path / "in" / f"{number:03d}.png", np.full((8, 8, 3), number, np.uint8))
    made, _, said = run(tmp_path / "in", fillers=0)
    assert len(made.photos) == 250
    assert set(np.unique(made.contact_sheet)) - {128} == set(range(0, 250, 3))
    assert said[-1] == "the contact sheet shows 84 of 250 photos"


def test_the_input_is_never_touched(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.jpg", smooth(), exif=exif(6))
    before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    run(tmp_path / "in")
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("content", ["[]", "{", '{"photos": [{"name": 1}]}'])
def test_a_broken_table_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "photos.json").write_text(content)
    with pytest.raises(InputError, match=r"photos\.json"):
        read_photos(tmp_path)
    with pytest.raises(InputError, match="run ingest_photos first"):
        read_photos(tmp_path / "nowhere")
