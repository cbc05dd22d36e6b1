"""Plants as parts: many leaves or blades, thin against whatever stands behind them.

Scene units, z up; each function returns parts that grow from the origin.
"""

import numpy as np
from patterns import leaf_skin
from shapes import Shape, grid, join, leaf, place, tube, turn
from studio import Part

GREENS = [
    ("#1f4226", "#3d7038", "#6a9a4a"),
    ("#2a4a1e", "#567f2f", "#93ab4a"),
    ("#17383a", "#2f6a55", "#64997a"),
]


def bush(height: float, reach: float, leaves: int, rng: np.random.Generator) -> list[Part]:
    """A leafy house plant: stems that lean outwards, leaves along each of them at the golden angle."""
    stems, skins = [], [[] for _ in GREENS]
    count = max(3, leaves // 9)
    for stem in range(count):
        heading = 137.5 * stem + rng.uniform(-15, 15)
        lean = reach * np.sqrt((stem + 0.5) / count) * rng.uniform(0.45, 0.75)
        a = np.radians(heading)
        tip = np.array([lean * np.cos(a), lean * np.sin(a), height * rng.uniform(0.7, 1.0)])
        stems.append(tube((0.15 * tip[0], 0.15 * tip[1], 0), tuple(tip), 0.016))
        for index in range(9):
            t = 0.3 + 0.7 * (index + 0.5) / 9
            base = np.array([tip[0] * (0.15 + 0.85 * t), tip[1] * (0.15 + 0.85 * t), tip[2] * t])
            length = reach * rng.uniform(0.38, 0.58) * (1.1 - 0.35 * t)
            blade = leaf(length, length * rng.uniform(0.42, 0.55), rng.uniform(0.5, 1.3), rng.uniform(0.1, 0.35))
            pitch = -rng.uniform(5, 50)
            rotation = turn("z", heading + 137.5 * index) @ turn("y", pitch) @ turn("x", rng.uniform(-25, 25))
            skins[rng.integers(len(skins))].append(place(blade, tuple(base), rotation))
    parts = [Part(join(stems), np.full((4, 4, 3), (88, 92, 44), np.uint8))]
    for shapes, colours in zip(skins, GREENS, strict=True):
        parts.append(Part(join(shapes), leaf_skin(384, colours, rng), "gloss", 0.35))
    return parts


def blade(height: float, width: float, bend: float) -> Shape:
    """A blade of grass, upright at its root, that has bent over by `bend` radians at its tip (towards +x)."""

    def surface(u, v):
        angle = np.maximum(bend * v, 1e-4)
        side = (u - 0.5) * width * (1 - v**2.5)
        return height * v * (1 - np.cos(angle)) / angle, side, height * v * np.sin(angle) / angle

    return grid(2, 12, surface)


def tuft(height: float, radius: float, blades: int, rng: np.random.Generator) -> list[Part]:
    """A tuft of grass on a disc of the given radius."""
    tones = [[] for _ in GREENS]
    for index in range(blades):
        heading = 137.5 * index
        distance = radius * np.sqrt((index + 0.5) / blades)
        a = np.radians(heading)
        shape = blade(height * rng.uniform(0.6, 1.0), rng.uniform(0.014, 0.024), rng.uniform(0.3, 1.5))
        foot = (distance * np.cos(a), distance * np.sin(a), 0.0)
        tones[index % len(tones)].append(place(shape, foot, turn("z", heading + rng.uniform(-40, 40))))
    return [Part(join(shapes), leaf_skin(128, colours, rng)) for shapes, colours in zip(tones, GREENS, strict=True)]
