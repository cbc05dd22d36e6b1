"""Printed matter: pages, a poster, spines, a label, a ruler and a test card.

The letters are those that OpenCV 5 carries inside (`cv2.FontFace`), so no font file is needed. The words are the
project's own. Sizes in texels; pictures as in `patterns`.
"""

import cv2
import numpy as np
from patterns import mottled, noise, rgb, sprig, tint, to_bytes

INK = "#23201d"
PROSE = (
    "To see a thing well, go near it. A leaf that was green from the door is, at the length of an arm, a map of roads; "
    "under the lens every road has lanes, and between the lanes lie fields with hedges of their own. Nothing was added "
    "on the way. It was there while we stood at the door and called it green. The maker of lenses grinds away all that "
    "hinders and keeps what is left, which is light in good order. So does the patient reader: he takes off what he "
    "brought along, and the page grows. Count the threads of the cloth, the rings of the board, the hairs of the rush. "
    "If two of them run into one, step closer or take a better glass; do not draw a line where you saw none. What "
    "cannot be seen from any side must not be told, and what is seen from three sides must agree with itself. "
)


def write(
    picture: np.ndarray, text: str, at: tuple[float, float], size: float, weight: int = 400, ink: str = INK
) -> None:
    """Write one line whose baseline starts at `at` (x, y); `size` is the em in texels, `weight` 300 to 800."""
    spot = (round(at[0]), round(at[1]))
    cv2.putText(picture, text, spot, rgb(ink), cv2.FontFace("sans"), round(size), weight)


def width_of(text: str, size: float, weight: int = 400) -> int:
    """How many texels wide `write` would set the text."""
    return cv2.getTextSize((1, 1), text, (0, 0), cv2.FontFace("sans"), round(size), weight)[2]


def write_centred(picture: np.ndarray, text: str, y: float, size: float, weight: int = 400, ink: str = INK) -> None:
    """Write one line in the middle of the picture, with its baseline at `y`."""
    write(picture, text, ((picture.shape[1] - width_of(text, size, weight)) / 2, y), size, weight, ink)


def write_block(
    picture: np.ndarray, words: list[str], box: tuple[float, float, float, float], size: float
) -> list[str]:
    """Set words in lines inside `box` (left, top, right, bottom) and return those that found no room."""
    left, top, right, bottom = box
    y, line = top, ""
    words = list(words)
    while words and y < bottom:
        longer = f"{line} {words[0]}".strip()
        if width_of(longer, size) <= right - left:
            line = longer
            words.pop(0)
            continue
        write(picture, line, (left, y), size)
        y, line = y + size * 1.42, ""
    return words


def paper(
    shape: tuple[int, int], rng: np.random.Generator, colours: tuple[str, str] = ("#d9cdb2", "#efe6d0")
) -> np.ndarray:
    """Blank paper with a faint tooth and a few stains."""
    value = 0.6 * noise(shape, 400, rng, 6) + 0.4 * noise(shape, 5, rng, 2)
    return to_bytes(tint(value, *colours))


def book_page(shape: tuple[int, int], heading: str, initial: str, number: int, rng: np.random.Generator) -> np.ndarray:
    """A page with a heading, a large initial, two sizes of text, a small drawing and a page number."""
    height, width = shape
    picture = paper(shape, rng)
    left, right = width * 0.1, width * 0.9
    write(picture, heading, (left, height * 0.13), height * 0.085, 800, "#8c2b22")
    words = (PROSE * 6).split()[7 * number % 40 :]
    side = left + width * 0.31
    write(picture, initial, (left, height * 0.365), height * 0.27, 800)
    words = write_block(picture, words, (side, height * 0.2, right, height * 0.37), height * 0.036)
    words = write_block(picture, words, (left, height * 0.42, right, height * 0.62), height * 0.036)
    write_block(picture, words, (left, height * 0.68, width * 0.52, height * 0.92), height * 0.023)
    greens = ["#3b3a2a", "#5d7a3c", "#3f6440", "#7d8f46", "#b0452f"]
    sprig(picture, (width * 0.72, height * 0.93), -np.pi / 2, height * 0.24, greens, rng)
    write_centred(picture, str(number), height * 0.97, height * 0.03)
    return picture


def poster(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A botanical plate: big title, three drawn plants with captions, a scale bar and small print."""
    height, width = shape
    picture = paper(shape, rng, ("#dfd3b4", "#f2e8cf"))
    cv2.rectangle(picture, (width // 26, width // 26), (width * 25 // 26, height - width // 26), rgb(INK), width // 160)
    write_centred(picture, "LOUPE", height * 0.185, height * 0.17, 800, "#1f3d35")
    write_centred(picture, "a field guide to small things", height * 0.245, height * 0.042, 500, "#8c2b22")
    inks = [
        ["#2c3325", "#4f7a3e", "#6f9350", "#355c3a", "#c0522f"],
        ["#3a2c22", "#b5832f", "#8f5a2a", "#cf9f45", "#7a2320"],
        ["#22303a", "#3d6b80", "#2c4f6b", "#6c93a0", "#d2a63a"],
    ]
    for column, (colours, name) in enumerate(zip(inks, ("Quercus", "Fagus", "Salix"), strict=True)):
        x = width * (0.23 + 0.27 * column)
        sprig(picture, (x, height * 0.74), -np.pi / 2 + rng.uniform(-0.15, 0.15), height * 0.4, colours, rng)
        write(picture, name, (x - width_of(name, height * 0.042, 700) / 2, height * 0.81), height * 0.042, 700)
    write_block(picture, PROSE.split(), (width * 0.1, height * 0.85, width * 0.9, height * 0.92), height * 0.019)
    for tick in range(10):
        ends = [(int(width * (0.3 + 0.04 * (tick + k))), int(height * (0.94 + 0.012 * k))) for k in (0, 1)]
        cv2.rectangle(picture, *ends, rgb(INK), -1 if tick % 2 else 1)
    return picture


def test_card(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A card with '4K', a fan of lines and bars that halve from group to group, to see where a picture gives up."""
    height, width = shape
    picture = paper(shape, rng, ("#e6e2d6", "#f4f1e8"))
    write(picture, "4K", (width * 0.05, height * 0.46), height * 0.5, 800, "#b3261e")
    centre = (width * 0.8, height * 0.31)
    for ray in np.arange(0, 2 * np.pi, np.pi / 18):
        ends = [
            [centre[0] + r * np.cos(a), centre[1] + r * np.sin(a)]
            for r, a in ((0, ray), (height * 0.27, ray), (height * 0.27, ray + np.pi / 36))
        ]
        points = np.round(np.array(ends) * 16).astype(np.int32)
        cv2.fillPoly(picture, [points], rgb(INK), cv2.LINE_AA, 4)
    x, stroke = width * 0.06, height * 0.04
    for _ in range(5):
        for bar in range(5):
            left = int(x + 2 * bar * stroke)
            cv2.rectangle(
                picture, (left, int(height * 0.66)), (int(left + stroke) - 1, int(height * 0.9)), rgb(INK), -1
            )
        x, stroke = x + 10.5 * stroke + width * 0.02, stroke / 1.6
    return picture


def spine(shape: tuple[int, int], title: str, cloth: tuple[str, str], ink: str, rng: np.random.Generator) -> np.ndarray:
    """The back of a book that lies on its side: cloth, two gilt bands and the title."""
    height, width = shape
    picture = mottled(shape, cloth, height / 3, rng)
    for at in (0.045, 0.065, 0.93, 0.95):
        cv2.line(picture, (int(at * width), 0), (int(at * width), height), rgb(ink), max(2, width // 200))
    write_centred(picture, title, height * 0.69, height * 0.54, 700, ink)
    return picture


def pot_skin(shape: tuple[int, int], text: str, rng: np.random.Generator) -> np.ndarray:
    """Terracotta with a pale band that carries `text` in front and behind."""
    height, width = shape
    picture = mottled(shape, ("#8a4326", "#b5653c", "#cb8157"), height / 4, rng)
    top, bottom = int(height * 0.34), int(height * 0.66)
    picture[top:bottom] = mottled((bottom - top, width), ("#d5c7a4", "#e9dfc4"), height / 5, rng)
    for y in (top, bottom):
        cv2.line(picture, (0, y), (width, y), rgb("#4a2a1b"), height // 60)
    for x in (0.25, 0.75):
        start = x * width - width_of(text, height * 0.24, 800) / 2
        write(picture, text, (start, height * 0.585), height * 0.24, 800, "#2f4a35")
    return np.roll(picture, width // 4, axis=1)  # the first one to the front, the other over the seam


def ruler(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A wooden ruler of 30 divisions with tenths and numbers."""
    height, width = shape
    picture = to_bytes(tint(noise(shape, (6, 300), rng, 3), "#cfa65b", "#e6c987"))
    for tick in range(301):
        x = int((0.01 + 0.98 * tick / 300) * width)
        length = 0.5 if tick % 10 == 0 else 0.36 if tick % 5 == 0 else 0.24
        cv2.line(
            picture, (x, 0), (x, int(length * height)), rgb(INK), max(1, width // (700 if tick % 10 == 0 else 1400))
        )
    for number in range(1, 30):
        x = (0.01 + 0.98 * number / 30) * width
        write(
            picture, str(number), (x - width_of(str(number), height * 0.42, 600) / 2, height * 0.9), height * 0.42, 600
        )
    return picture
