"""The scene `shelf`: a still life in a niche, with print, leaves, cloth, wood and glaze at several depths.

Scene units are about 25 cm; x right, y away from the viewer, z up; the table top is z = 0, the wall stands at y = 1.
"""

import lettering
import numpy as np
import patterns
from foliage import bush, tuft
from shapes import ball, box, grid, join, lathe, place, plane, smooth_outline, tube, turn
from studio import Lamp, Part

LAMPS = [
    Lamp((-2.6, -3.0, 4.2), (0, 0.3, 0.3), 2.6, (11.0, 10.2, 9.0)),
    Lamp((3.4, -3.2, 2.6), (0, 0.3, 0.4), 2.0, (3.8, 4.2, 5.0)),
]
AMBIENT = 0.6


def shelf(rng: np.random.Generator) -> list[Part]:
    """Everything in the niche."""
    parts = [*niche(rng), *picture_frame(rng), *open_book(rng), *book_stack(rng), *cloth(rng)]
    parts += moved(potted_bush(rng), (-1.22, 0.28, 0))
    parts += moved(grass_pot(rng), (1.12, 0.4, 0.6))
    parts += moved(vase(rng), (0.22, 0.42, 0))
    parts += moved(pencil_jar(rng), (-0.35, 0.12, 0))
    return [*parts, *fruit(rng), *cards(rng)]


def moved(parts: list[Part], at: tuple[float, float, float]) -> list[Part]:
    """The same parts, shifted by `at`."""
    return [Part(place(p.shape, at), p.colour, p.finish, p.roughness) for p in parts]


def niche(rng: np.random.Generator) -> list[Part]:
    """Table of oak planks, papered wall, painted side boards."""
    oak = patterns.wood((3000, 4200), 9, ("#4f3018", "#8c5d31", "#bd8d55", "#d3ab74"), rng)
    paint = patterns.wood((1400, 1800), 7, ("#27454b", "#3a626a", "#4c7b82", "#6d979b"), rng)
    paper = patterns.wallpaper(
        (2100, 3240), 180, ("#b9a98c", "#d9cdb0"), ["#5d6a4a", "#7f9070", "#94a27e", "#a58e62", "#a8584a"], rng
    )
    boards = [place(box(0.12, 1.8, 2.6), (x, 0.1, 0)) for x in (-1.96, 1.96)]
    return [
        Part(plane((-3, -2.4, 0), (6, 0, 0), (0, 3.6, 0)), oak, "gloss", 0.3),
        Part(plane((-2, 1, 0), (4, 0, 0), (0, 0, 2.6)), paper),
        Part(join(boards), np.rot90(paint)),
    ]


def picture_frame(rng: np.random.Generator) -> list[Part]:
    """The poster in its frame, on the wall."""
    width, height, rim = 0.86, 1.12, 0.06
    walnut = patterns.wood((200, 1600), 1, ("#2a1710", "#4f2d1c", "#74472d"), rng)
    sheet = plane((-width / 2, 0, 0), (width, 0, 0), (0, 0, height))
    rails = [place(box(width + 2 * rim, 0.07, rim), (0, 0, z)) for z in (-rim, height)]
    stile = place(box(height, 0.07, rim), (-height / 2, 0, -rim / 2))
    posts = [place(stile, (x, 0, 0), turn("y", 90)) for x in (-(width + rim) / 2, (width + rim) / 2)]
    at = (-0.42, 0.96, 0.42)
    return [
        Part(place(sheet, at), lettering.poster((1792, 1376), rng)),
        Part(place(join(rails + posts), at), walnut, "gloss", 0.25),
    ]


def open_book(rng: np.random.Generator) -> list[Part]:
    """An open book with arched pages that lies in front, on the left."""
    width, height = 0.62, 0.86

    def arch(t):
        return 0.085 * np.sin(np.pi * np.minimum(t * 0.97 + 0.02, 1)) ** 0.8 + 0.02 * (1 - t) + 0.03

    def page(side: int):
        def surface(u, v):
            t = u if side > 0 else 1 - u
            return side * width * t, (v - 0.5) * height, arch(t)

        return grid(48, 2, surface)

    def cut(side: int, y: float):
        return grid(48, 1, lambda u, v: (side * width * u, y, v * arch(u)))

    rotation, at = turn("z", 14), (-0.72, -0.52, 0.012)
    cover = place(box(2 * width + 0.08, height + 0.06, 0.025), at, rotation)
    cuts = join([cut(side, y * height / 2) for side in (-1, 1) for y in (-1, 1)] + [box(2 * width, height, 0.03)])
    pages = [
        Part(place(page(side), at, rotation), lettering.book_page((1800, 1300), heading, initial, number, rng))
        for side, heading, initial, number in ((-1, "Nearness", "G", 24), (1, "Order", "L", 25))
    ]
    edges = patterns.tint(patterns.noise((160, 512), (7, 300), rng, 2), "#b5a582", "#e3d8bd")
    red = patterns.mottled((256, 384), ("#5a1a1c", "#7d2a2a"), 60, rng)
    return [*pages, Part(cover, red), Part(place(cuts, at, rotation), patterns.to_bytes(edges))]


def book_stack(rng: np.random.Generator) -> list[Part]:
    """Three closed books on the right, their titles towards the viewer."""
    books = [
        ("ATLAS OF LEAVES", ("#1d3a4f", "#2c5470"), "#e2c878", 1.06, -4),
        ("RUSH & REED", ("#6b2a22", "#8f3d2e"), "#ead9a8", 0.98, 5),
        ("OPTICKS", ("#33452c", "#4d6340"), "#e8d9a0", 0.9, -9),
    ]
    parts, z, thick = [], 0.0, 0.2
    for title, cloth_colours, ink, width, heading in books:
        depth = width * 0.72
        rotation, at = turn("z", heading), (1.14, 0.4, z)
        front = plane((-width / 2, -depth / 2 - 0.003, 0), (width, 0, 0), (0, 0, thick - 0.004))
        cloth_skin = patterns.mottled((512, 768), cloth_colours, 90, rng)
        parts.append(Part(place(box(width, depth, thick - 0.004), at, rotation), cloth_skin))
        spine = lettering.spine((300, round(300 * width / thick)), title, cloth_colours, ink, rng)
        parts.append(Part(place(front, at, rotation), spine, "gloss", 0.3))
        z += thick
    return parts


def cloth(rng: np.random.Generator) -> list[Part]:
    """A woven napkin with a few folds and a fringe, in front on the right."""
    size = 1.15
    waves = rng.uniform(0, 2 * np.pi, 4)

    def height(u, v):
        fold = 0.045 * np.sin(9 * u + 3 * v + waves[0]) ** 4 + 0.03 * np.sin(4 * u - 11 * v + waves[1]) ** 6
        weave = 0.0012 * np.sin(280 * u) * np.sin(280 * v)
        return 0.012 + fold + weave

    sheet = grid(360, 360, lambda u, v: ((u - 0.5) * size, (v - 0.5) * size, height(u, v)))
    yarns = []
    for u in np.linspace(0.005, 0.995, 90):
        for v, out in ((0.0, -1), (1.0, 1)):
            start = ((u - 0.5) * size, (v - 0.5) * size, float(height(u, v)))
            end = (start[0] + rng.normal(0, 0.012), start[1] + out * rng.uniform(0.06, 0.09), 0.004)
            yarns.append(tube(start, end, 0.0045, -0.01))
    rotation, at = turn("z", -19), (0.85, -0.62, 0)
    colours = ["#e8e0cf", "#e8e0cf", "#2f5d62", "#b8462f", "#d9a441"]
    return [
        Part(place(sheet, at, rotation), patterns.plaid(2200, 150, colours, rng)),
        Part(place(join(yarns), at, rotation), patterns.mottled((64, 64), ("#cfc4aa", "#ece4d2"), 16, rng)),
    ]


def potted_bush(rng: np.random.Generator) -> list[Part]:
    """The house plant in its lettered pot of clay."""
    outline = smooth_outline(
        [(0, 0), (0.22, 0), (0.25, 0.05), (0.31, 0.4), (0.34, 0.44), (0.34, 0.5), (0.31, 0.5), (0.3, 0.42)]
    )
    soil = lathe([(0.0, 0.44), (0.305, 0.43)])
    return [
        Part(lathe(outline), lettering.pot_skin((1000, 2600), "SALVIA 7", rng)),
        Part(soil, patterns.mottled((256, 256), ("#1f1610", "#4a3524"), 12, rng)),
        *moved(bush(0.85, 0.6, 81, rng), (0, 0, 0.43)),
    ]


def grass_pot(rng: np.random.Generator) -> list[Part]:
    """A tuft of grass in a low bowl."""
    outline = smooth_outline([(0, 0), (0.14, 0), (0.2, 0.08), (0.23, 0.2), (0.22, 0.21), (0.2, 0.17)])
    return [
        Part(lathe(outline), patterns.mottled((400, 1200), ("#3d4a52", "#71828a", "#a9b4b3"), 90, rng), "gloss", 0.15),
        Part(lathe([(0.0, 0.19), (0.2, 0.17)]), patterns.mottled((256, 256), ("#1f1610", "#4a3524"), 12, rng)),
        *moved(tuft(0.55, 0.18, 170, rng), (0, 0, 0.17)),
    ]


def vase(rng: np.random.Generator) -> list[Part]:
    """The glazed vase, which mirrors the lamps."""
    outline = smooth_outline(
        [
            (0, 0),
            (0.17, 0),
            (0.18, 0.03),
            (0.3, 0.3),
            (0.27, 0.55),
            (0.12, 0.74),
            (0.13, 0.86),
            (0.17, 0.92),
            (0.13, 0.88),
        ]
    )
    return [Part(lathe(outline, 128, 128), patterns.painted_glaze((1400, 2400), rng), "gloss", 0.06)]


def pencil_jar(rng: np.random.Generator) -> list[Part]:
    """Seven pencils in a jar of brushed copper."""
    jar = lathe([(0, 0), (0.13, 0), (0.14, 0.01), (0.14, 0.3), (0.13, 0.3), (0.13, 0.02)])
    parts = [Part(jar, patterns.wood((500, 1500), 1, ("#8f4a2c", "#c9794a", "#e8a878"), rng), "metal", 0.3)]
    paints = ["#b3261e", "#d99a2b", "#2f5d62", "#6d8a3a", "#31477d", "#c26b8a", "#4b4640"]
    for index, paint in enumerate(paints):
        a = 2 * np.pi * index / len(paints) + rng.uniform(-0.2, 0.2)
        start = (-0.07 * np.cos(a), -0.07 * np.sin(a), 0.02)
        end = (0.17 * np.cos(a), 0.17 * np.sin(a), rng.uniform(0.5, 0.62))
        skin = np.full((128, 16, 3), patterns.rgb(paint), np.uint8)
        skin[:14], skin[:4] = patterns.rgb("#dcb787"), patterns.rgb("#2b2a28")
        skin[40:60:4] = patterns.rgb("#e8dcc0")
        parts.append(Part(tube(start, end, 0.021), skin, "gloss", 0.2))
    return parts


def fruit(rng: np.random.Generator) -> list[Part]:
    """Two oranges and a ball of worn brass on the napkin."""
    peel = ("#b8560f", "#dd7f1c", "#eb9c35")
    brass = patterns.mottled((600, 1200), ("#7a5a24", "#c59a4a", "#e8c67c"), 120, rng)
    return [
        Part(
            place(ball(0.17), (0.98, -0.5, 0.03), turn("x", 30)),
            patterns.mottled((500, 1000), peel, 40, rng),
            "gloss",
            0.25,
        ),
        Part(
            place(ball(0.155), (1.28, -0.62, 0.03), turn("y", 70)),
            patterns.mottled((500, 1000), peel, 40, rng),
            "gloss",
            0.25,
        ),
        Part(place(ball(0.2), (0.6, -0.38, 0.03), turn("x", 50)), brass, "metal", 0.22),
    ]


def cards(rng: np.random.Generator) -> list[Part]:
    """A tent card with the test chart and a ruler before it."""
    card = plane((-0.36, -0.17, 0), (0.72, 0, 0), (0, 0.12, 0.44))
    back = plane((-0.36, 0.1, 0), (0.72, 0, 0), (0, -0.15, 0.44))
    rule = box(1.5, 0.13, 0.018)
    skin = lettering.ruler((170, 2000), rng)
    return [
        Part(place(card, (0.2, -0.12, 0), turn("z", -6)), lettering.test_card((900, 1472), rng)),
        Part(place(back, (0.2, -0.12, 0), turn("z", -6)), lettering.paper((200, 300), rng)),
        Part(place(rule, (0.2, -1.2, 0), turn("z", 5)), skin),
    ]
