"""Procedural materials without words: wood, wallpaper, cloth, leaves, clay, glaze, peel.

Conventions: every picture is RGB uint8 (H, W, 3) in sRGB, first row on top; sizes in texels; all randomness comes from
the generator that is passed in, so a seed fixes every texel.
"""

import cv2
import numpy as np

Cell = float | tuple[float, float]


def noise(shape: tuple[int, int], cell: Cell, rng: np.random.Generator, octaves: int = 4) -> np.ndarray:
    """Smooth noise (H, W) in [0, 1]; `cell` is the size in texels of its largest features, as (down, across)."""
    height, width = shape
    down, across = cell if isinstance(cell, tuple) else (cell, cell)
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        rows, columns = (max(2, int(n * 2**octave / c) + 2) for n, c in ((height, down), (width, across)))
        coarse = rng.random((min(rows, height), min(columns, width)), np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    low, high = np.percentile(total[::7, ::7], [0.5, 99.5])
    return np.clip((total - low) / (high - low), 0, 1)


def tint(value: np.ndarray, *colours: str) -> np.ndarray:
    """Colours (H, W, 3) float 0..255 for values (H, W) in [0, 1], along evenly spaced stops like '#d8b98a'."""
    stops = np.array([rgb(c) for c in colours], np.float32)
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(value, at, stops[:, i]) for i in range(3)], axis=-1).astype(np.float32)


def rgb(colour: str) -> tuple[int, int, int]:
    """(255, 128, 0) for '#ff8000'."""
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """Float picture in 0..255 rounded and clipped to uint8."""
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def wood(shape: tuple[int, int], planks: int, colours: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
    """Boards that lie side by side, `planks` from top to bottom, with the grain from left to right."""
    height, width = shape
    rows = []
    for edge in np.array_split(np.arange(height), planks):
        part = (len(edge), width)
        warp = noise(part, (len(edge) * 0.8, width / 3), rng, 2)
        down = np.linspace(0, 1, len(edge), dtype=np.float32)[:, None]
        rings = 0.5 + 0.5 * np.sin(2 * np.pi * (5 * down + 9 * warp + rng.random()))
        fibre = noise(part, (7, 420), rng, 3)
        pores = noise(part, (4, 60), rng, 1) > 0.86
        value = 0.22 + 0.3 * rings * warp + 0.42 * fibre + 0.22 * (rng.random() - 0.5)
        board = tint(np.clip(value, 0, 1), *colours) * (1 - 0.28 * pores[..., None])
        board[:3] *= 0.35
        rows.append(board)
    return to_bytes(np.concatenate(rows))


def leaf_outline(centre: tuple[float, float], angle: float, length: float, width: float) -> np.ndarray:
    """Polygon (32, 2) of a pointed leaf that starts at `centre`; angle in radians, the rest in texels."""
    t = np.concatenate([np.linspace(0, 1, 16), np.linspace(1, 0, 16)])
    side = np.repeat([1, -1], 16) * np.sin(np.pi * t**0.8) * width / 2
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([centre[0] + c * length * t - s * side, centre[1] + s * length * t + c * side], axis=-1)


def fill(picture: np.ndarray, outline: np.ndarray, colour: tuple) -> None:
    """Paint a polygon (N, 2) in texels, with smooth edges."""
    cv2.fillPoly(picture, [np.round(outline * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)


def sprig(
    picture: np.ndarray,
    root: tuple[float, float],
    angle: float,
    size: float,
    colours: list[str],
    rng: np.random.Generator,
) -> None:
    """Paint a curved twig with pairs of leaves and a bud; `size` is its length in texels."""
    point, curve = np.array(root), rng.uniform(-0.09, 0.09)
    stem = rgb(colours[0])
    for step in range(9):
        tip = point + size / 9 * np.array([np.cos(angle), np.sin(angle)])
        ends = [tuple(round(c * 16) for c in p) for p in (point, tip)]
        cv2.line(picture, *ends, stem, max(1, round(size * 0.012)), cv2.LINE_AA, 4)
        for side in (-1, 1):
            length = size * (0.27 - 0.018 * step) * rng.uniform(0.8, 1.1)
            outline = leaf_outline(tip, angle + side * rng.uniform(0.7, 1.0), length, length * 0.42)
            fill(picture, outline, rgb(colours[1 + rng.integers(len(colours) - 2)]))
            cv2.line(picture, *[tuple(int(c * 16) for c in outline[i]) for i in (0, 14)], stem, 1, cv2.LINE_AA, 4)
        point, angle = tip, angle + curve
    cv2.circle(picture, tuple(int(c) for c in point), round(size * 0.045), rgb(colours[-1]), -1, cv2.LINE_AA)


def wallpaper(shape: tuple[int, int], spacing: float, paper: tuple[str, str], colours: list[str], rng) -> np.ndarray:
    """Sprigs scattered on mottled paper, no two alike, `spacing` texels apart."""
    height, width = shape
    picture = tint(noise(shape, 260, rng, 7), *paper)
    picture = to_bytes(picture)
    for row, y in enumerate(np.arange(0, height + spacing, spacing * 0.8)):
        for x in np.arange(-spacing / 2, width + spacing, spacing):
            jitter = rng.uniform(-0.16, 0.16, 2) * spacing
            root = (x + (row % 2) * spacing / 2 + jitter[0], y + jitter[1])
            sprig(picture, root, -np.pi / 2 + rng.uniform(-0.9, 0.9), spacing * rng.uniform(0.75, 1.0), colours, rng)
    grain = noise(shape, 3, rng, 1)[..., None]
    return to_bytes(picture * (0.92 + 0.12 * grain))


def plaid(size: int, threads: int, colours: list[str], rng: np.random.Generator) -> np.ndarray:
    """Plain weave of `threads` x `threads` coloured yarns in a (size, size) picture: over and under can be counted."""
    widths = rng.integers(2, 9, threads)
    stripe = np.repeat(rng.integers(0, len(colours), threads), widths)[:threads]
    palette = np.array([rgb(c) for c in colours], np.float32)[stripe]
    at = (np.arange(size) + 0.5) * threads / size
    yarn, across = at.astype(int), np.sin(np.pi * (at % 1))
    warp_on_top = ((yarn[:, None] + yarn[None]) % 2 == 0)[..., None]
    colour = np.where(warp_on_top, palette[yarn][None], palette[yarn][:, None])
    round_off = np.where(warp_on_top[..., 0], across[None], across[:, None])
    wear = noise((size, size), size / 40, rng, 5)
    return to_bytes(colour * (0.45 + 0.5 * round_off + 0.22 * (wear - 0.5))[..., None])


def leaf_skin(size: int, colours: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
    """A leaf's surface: midrib along the middle row, side veins, freckles."""
    v, u = np.mgrid[0:size, 0:size].astype(np.float32) / size
    off = np.abs(v - 0.5)
    veins = np.abs(((u - 0.9 * off) * 11) % 1 - 0.5) * 2
    value = 0.25 + 0.35 * noise((size, size), size / 5, rng) + 0.35 * off
    picture = tint(np.clip(value, 0, 1), *colours)
    pale = np.clip(1.25 - off * size / 9, 0, 1) + 0.5 * np.clip(1 - (1 - veins) * 7, 0, 1)
    picture += pale[..., None] * np.array([70, 74, 40], np.float32)
    freckles = noise((size, size), size / 22, rng, 2) > 0.93
    return to_bytes(picture * (1 - 0.35 * freckles[..., None]))


def mottled(shape: tuple[int, int], colours: tuple[str, ...], cell: float, rng: np.random.Generator) -> np.ndarray:
    """Earthy, speckled surface: clay, peel, metal with a patina."""
    value = 0.75 * noise(shape, cell, rng, 6) + 0.25 * noise(shape, 6, rng, 2)
    picture = tint(value, *colours)
    specks = noise(shape, 9, rng, 1)
    return to_bytes(picture * (1 - 0.3 * (specks > 0.93) + 0.12 * (specks < 0.06))[..., None])


def painted_glaze(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """White glaze with blue twigs between two banded borders, as on old delftware."""
    height, width = shape
    picture = to_bytes(tint(noise(shape, 300, rng, 5), "#c9d0d2", "#eceae2"))
    blues = ["#1d3a7a", "#2a56a8", "#3c6fc0", "#1d3a7a", "#7b2f3a"]
    for x in np.arange(0, width, width / 9):
        sprig(picture, (x + width / 18, height * 0.8), -np.pi / 2 + rng.uniform(-0.3, 0.3), height * 0.42, blues, rng)
        sprig(picture, (x, height * 0.5), -np.pi / 2 + rng.uniform(-0.5, 0.5), height * 0.25, blues, rng)
    for at in (0.07, 0.22, 0.84, 0.93):
        cv2.line(picture, (0, int(at * height)), (width, int(at * height)), rgb(blues[0]), height // 90)
    for x in np.arange(0, width, width / 48):
        outline = leaf_outline((x, height * 0.885), -0.6, width / 52, height * 0.03)
        fill(picture, outline, rgb(blues[1]))
    return picture


def diamonds(
    shape: tuple[int, int], counts: tuple[int, int], colours: tuple[str, ...], rng: np.random.Generator
) -> np.ndarray:
    """A harlequin's cloth: `counts` (across, down) diamonds of random colours with dark seams, seamless from side to
    side."""
    height, width = shape
    across, down = counts
    y, x = np.mgrid[0:height, 0:width] + 0.5
    a, b = x * across / width, y * down / height
    rising, falling = np.floor(a + b).astype(int), np.floor(a - b).astype(int)
    table = rng.integers(0, len(colours), (2 * down + 2, 2 * across))
    picture = np.array([rgb(c) for c in colours], np.float32)[
        table[(rising - falling) % len(table), (rising + falling) % (2 * across)]
    ]
    to_seam = np.minimum(*(np.minimum(c % 1, 1 - c % 1) for c in (a + b, a - b)))
    wear = noise(shape, height / 5, rng, 4)
    return to_bytes(picture * (np.where(to_seam < 0.07, 0.25, 1) * (0.85 + 0.2 * wear))[..., None])


def dot(picture: np.ndarray, centre: tuple[float, float], radius: float, colour: str) -> None:
    """Paint a disc, with a smooth edge; `centre` (x, y) and `radius` in texels."""
    spot = tuple(round(c * 16) for c in centre)
    cv2.circle(picture, spot, round(radius * 16), rgb(colour), -1, cv2.LINE_AA, 4)
