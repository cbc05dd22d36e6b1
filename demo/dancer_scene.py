"""The scene `dancer`: a harlequin who turns, bends and reaches, in the middle of a round studio.

Nothing of her is rigid: knees and elbows bend, the spine leans and twists, the skirt swings after the hips. Each part
of the body is a bent grid of the same size at all times, so a vertex is one spot of the costume, to be followed.

A scene unit is a metre; the floor is z = 0, and time runs from 0 to 1.
"""

from typing import NamedTuple

import lettering
import numpy as np
import patterns
from shapes import Shape, ball, grid, join, lathe, place, smooth_outline, sweep, turn
from studio import Lamp, Part

LAMPS = [
    Lamp((-2.2, -2.6, 5.0), (0, 0, 0.9), 2.6, (10.5, 10.1, 9.5)),
    Lamp((2.8, 2.2, 5.0), (0, 0, 0.9), 2.6, (8.0, 8.3, 8.8)),
]
AMBIENT = 0.62
MIDDLE = np.array([0.0, 0.0, 0.92])  # what the cameras look at

UP = np.array([0.0, 0.0, 1.0])
THIGH, SHIN, UPPER_ARM, FOREARM, HAND = 0.44, 0.43, 0.29, 0.26, 0.15
ANKLE = 0.085  # of the foot that stands, above the floor
INK, CREAM = "#1b1d2b", "#f0e6cf"
REDS, BLUES = ("#b3261e", "#d9482b", "#e8893a"), ("#173a5e", "#2a6a8c", "#57a0a8")
BROWNS = ("#2a1710", "#5a3420", "#7a4a2c")


class Pose(NamedTuple):
    """Joints (3,) in the world; limbs run from the trunk outwards, (4, 3); `turned` is the body's heading (3, 3)."""

    turned: np.ndarray
    spine: np.ndarray
    hips: np.ndarray
    shoulders: np.ndarray
    legs: list[np.ndarray]
    arms: list[np.ndarray]
    raised: float


def dancer(time: float) -> dict[str, Shape]:
    """Every part of the body at a time, under the costume's names."""
    pose = strike(time)
    return {
        "trunk": trunk(pose),
        "skirt": skirt(pose, time),
        **{f"{side}_leg": leg(joints, pose) for side, joints in zip(("left", "right"), pose.legs, strict=True)},
        **{f"{side}_arm": arm(joints) for side, joints in zip(("left", "right"), pose.arms, strict=True)},
        "head": head(pose),
        "bun": bun(pose),
    }


def dressed(body: dict[str, Shape], skins: dict[str, np.ndarray]) -> list[Part]:
    """The body in its costume."""
    return [Part(shape, skins[name]) for name, shape in body.items()]


def studio_room() -> list[Part]:
    """Floor and wall in one, without a corner, as photographers have it."""
    outline = smooth_outline([(0, 0), (2.5, 0), (4.6, 0.0), (6.2, 0.5), (6.9, 2.0), (7.0, 4.2)])
    return [Part(lathe(outline), np.full((2, 2, 3), patterns.rgb("#a3a29e"), np.uint8))]


def strike(time: float) -> Pose:
    """Where the joints are: she sinks on the left leg and rises, while the right one and the arms sweep around."""
    swing = 2 * np.pi * time
    turned = turn("z", -70 + 150 * time)
    chest_turned = turn("z", -70 + 150 * time + 28 * np.sin(swing))
    right, chest_right = turned @ [-1, 0, 0], chest_turned @ [-1, 0, 0]
    pelvis = np.array([0.08 * np.sin(swing), 0.06 * np.cos(swing), 0.93 - 0.15 * np.sin(np.pi * time) ** 2])
    lean = turned @ [0.34 * np.sin(swing + 0.6), 0.22 * np.cos(swing), 1]
    lean /= np.linalg.norm(lean)
    spine = pelvis + np.array([0.0, 0.16, 0.38, 0.52])[:, None] * (UP + np.linspace(0, 1, 4)[:, None] * (lean - UP))
    hips = pelvis - 0.03 * UP + np.outer([-0.085, 0.085], right)
    shoulders = spine[2] + 0.03 * lean + np.outer([-0.13, 0.13], chest_right)
    stand = np.array([-0.02, 0.04, ANKLE])
    sweep_out = aim(turned, -30 - 120 * time, -62 + 46 * np.sin(np.pi * (0.15 + 0.8 * time)))
    legs = [
        limb(hips[0], stand, THIGH, SHIN, turned @ [0.2, -1, 0], 0.16 * (turned @ [0.3, -1, -0.25])),
        limb(hips[1], hips[1] + (0.8 + 0.06 * np.cos(swing)) * sweep_out, THIGH, SHIN, UP - right, 0.17 * sweep_out),
    ]
    reach = [
        aim(chest_turned, 35 + 60 * time, -50 + 120 * time),
        aim(chest_turned, -100 + 50 * np.sin(swing), 62 - 95 * time),
    ]
    lengths = 0.53 - 0.07 * np.cos([swing, 2 * swing])
    arms = [
        limb(shoulder, shoulder + length * way, UPPER_ARM, FOREARM, chest_turned @ [0, 1, -0.6], HAND * way)
        for shoulder, length, way in zip(shoulders, lengths, reach, strict=True)
    ]
    return Pose(turned, spine, hips, shoulders, legs, arms, float(sweep_out[2]))


def aim(turned: np.ndarray, aside: float, up: float) -> np.ndarray:
    """A unit vector `aside` degrees to the left of the body's front and `up` degrees above the level."""
    a, e = np.radians(aside), np.radians(up)
    return turned @ [np.sin(a) * np.cos(e), -np.cos(a) * np.cos(e), np.sin(e)]


def limb(
    root: np.ndarray, tip: np.ndarray, upper: float, lower: float, pole: np.ndarray, end: np.ndarray
) -> np.ndarray:
    """Root, joint, tip and end (4, 3) of two bones, by the law of cosines.

    The joint points towards `pole`; `end` leads on from the tip, which is brought into reach if it is not.
    """
    reach = min(np.linalg.norm(tip - root), 0.995 * (upper + lower))
    along = (tip - root) / np.linalg.norm(tip - root)
    out = pole - (pole @ along) * along
    out /= np.linalg.norm(out)
    ahead = (reach**2 + upper**2 - lower**2) / (2 * reach)
    joint = root + ahead * along + np.sqrt(max(upper**2 - ahead**2, 0)) * out
    tip = root + reach * along
    return np.stack([root, joint, tip, tip + end])


def across(joints: np.ndarray) -> np.ndarray:
    """The unit vector (3,) across the plane in which a limb bends."""
    normal = np.cross(joints[1] - joints[0], joints[2] - joints[1])
    return normal / np.linalg.norm(normal)


def arm(joints: np.ndarray) -> Shape:
    """A sleeve with a mitten."""
    radii = [(0.06, 0.06), (0.044, 0.044), (0.033, 0.033), (0.034, 0.02)]
    return sweep(joints, radii, across(joints), 32, 96)


def leg(joints: np.ndarray, pose: Pose) -> Shape:
    """A leg in tights, down to the point of the shoe."""
    knots = np.insert(joints, 3, joints[2] + 0.3 * (joints[3] - joints[2]), axis=0)
    radii = [(0.098, 0.098), (0.064, 0.064), (0.044, 0.048), (0.044, 0.05), (0.03, 0.025)]
    return sweep(knots, radii, across(joints), 40, 128)


def trunk(pose: Pose) -> Shape:
    """From the hips to the neck, turned from the one to the other."""
    side = pose.shoulders[1] - pose.shoulders[0]
    hip_side = pose.hips[1] - pose.hips[0]
    sides = [hip_side / np.linalg.norm(hip_side)] * 2 + [side / np.linalg.norm(side)] * 3
    below = pose.spine[0] - [0, 0, 0.1]
    knots = np.concatenate([[below], pose.spine])
    return sweep(knots, [(0.13, 0.1), (0.15, 0.11), (0.125, 0.095), (0.165, 0.115), (0.05, 0.05)], sides, 64, 96)


def skirt(pose: Pose, time: float) -> Shape:
    """A rippled bell that lags behind the turn and gives way to the raised leg."""
    swing = 2 * np.pi * time
    foot = np.linalg.inv(pose.turned) @ (pose.legs[1][2] - pose.hips[1])
    towards_foot = np.arctan2(foot[1], foot[0])

    def surface(u, v):
        down = 1 - v
        angle = 2 * np.pi * u + np.pi / 2
        fold = np.sin(6 * angle + 2 * swing) + 0.5 * np.sin(9 * angle - swing + 1)
        radius = 0.145 + 0.24 * down**0.8 + 0.035 * down * fold
        lift = down**2 * (0.34 + 0.34 * pose.raised) * np.maximum(np.cos(angle - towards_foot), 0) ** 2
        lagged = angle - 0.5 * down * np.cos(swing)
        return radius * np.cos(lagged), radius * np.sin(lagged), 0.07 - 0.36 * down + 0.03 * down * fold + lift

    return place(grid(160, 40, surface), tuple(pose.spine[0]), pose.turned)


def head(pose: Pose) -> Shape:
    """An egg that follows the spine."""
    egg = ball(1.0)
    egg = egg._replace(vertices=(egg.vertices - [0, 0, 1]) * [0.092, 0.108, 0.132])
    return place(egg, tuple(pose.spine[3] + 0.1 * spine_end(pose)), facing(pose))


def bun(pose: Pose) -> Shape:
    """The hair, put up."""
    at = pose.spine[3] + 0.2 * spine_end(pose) + facing(pose) @ [0, 0.075, 0]
    return place(ball(0.055), tuple(at - [0, 0, 0.055]))


def spine_end(pose: Pose) -> np.ndarray:
    """The unit vector up the neck."""
    neck = pose.spine[3] - pose.spine[2]
    return neck / np.linalg.norm(neck)


def facing(pose: Pose) -> np.ndarray:
    """The head's rotation (3, 3): up the neck, and ahead with the shoulders."""
    up = spine_end(pose)
    back = np.cross(up, pose.shoulders[0] - pose.shoulders[1])
    back /= np.linalg.norm(back)
    return np.stack([np.cross(back, up), back, up], axis=1)


def costume(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A texture for each part of the body."""
    return {
        "trunk": bodice(rng),
        "skirt": lettered_skirt(rng),
        "left_leg": patterns.diamonds((1000, 400), (4, 10), (CREAM, *REDS[:2], INK), rng),
        "right_leg": patterns.diamonds((1000, 400), (4, 10), (CREAM, *BLUES[:2], "#d9a441"), rng),
        "left_arm": banded((800, 320), (*BLUES, CREAM), 11, rng),
        "right_arm": banded((800, 320), (*REDS, CREAM), 11, rng),
        "head": face(rng),
        "bun": patterns.mottled((200, 400), BROWNS, 30, rng),
    }


def bodice(rng: np.random.Generator) -> np.ndarray:
    """Diamonds, with a number on the breast and another one on the back."""
    picture = patterns.diamonds((700, 1000), (8, 6), (REDS[0], REDS[1], BLUES[0], "#d9a441"), rng)
    for x, number in ((0.25, "4"), (0.75, "7")):
        left, top = int(x * 1000) - 110, 170
        picture[top : top + 260, left : left + 220] = patterns.rgb(CREAM)
        lettering.write(picture, number, (left + 40, top + 220), 250, 800, INK)
    return picture


def lettered_skirt(rng: np.random.Generator) -> np.ndarray:
    """Large letters between a band of diamonds and the hem."""
    picture = patterns.mottled((460, 2000), (CREAM, "#e2d3b0"), 80, rng)
    picture[:110] = patterns.diamonds((110, 2000), (24, 1), (*BLUES, CREAM), rng)
    picture[400:440] = patterns.rgb(REDS[0])
    inks = (REDS[0], BLUES[0], INK, REDS[1], BLUES[1])
    for index, letter in enumerate("LOUPE4KMOVES"):
        x = (index + 0.5) * 2000 / 12 - lettering.width_of(letter, 250, 800) / 2
        lettering.write(picture, letter, (x, 360), 250, 800, inks[index % len(inks)])
    return picture


def banded(shape: tuple[int, int], colours: tuple[str, ...], bands: int, rng: np.random.Generator) -> np.ndarray:
    """Bands of unequal width around a sleeve, every other one with dots."""
    height, width = shape
    edges = np.sort(np.linspace(0, height, bands + 1)[1:-1] + rng.uniform(-0.3, 0.3, bands - 1) * height / bands)
    picture = np.empty((height, width, 3), np.uint8)
    for index, rows in enumerate(np.split(np.arange(height), edges.astype(int))):
        picture[rows] = patterns.rgb(colours[index % len(colours)])
        for x in np.arange(5) * width / 5 + rng.uniform(0, width / 5) if index % 2 else ():
            patterns.dot(picture, (x, rows.mean()), width * 0.05, colours[(index + 2) % len(colours)])
    return picture


def face(rng: np.random.Generator) -> np.ndarray:
    """Eyes, brows and mouth to the front, hair behind and above."""
    picture = patterns.mottled((400, 800), ("#c98a5e", "#dba478", "#e2b28a"), 90, rng)
    v, u = np.mgrid[0:400, 0:800] / [[[400]], [[800]]]
    hair = ((v < 0.3 + 0.04 * np.sin(40 * u)) | (np.abs(u - 0.5) > 0.26)) & (v < 0.72)
    picture[hair] = patterns.mottled((400, 800), BROWNS, 30, rng)[hair]
    for side in (-1, 1):
        x = 400 + side * 62
        for radius, ink in ((25, "#f4efe6"), (15, BLUES[0]), (7, INK)):
            patterns.dot(picture, (x, 190), radius, ink)
        picture[143:154, x - 34 : x + 34] = patterns.rgb("#3a2116")
    picture[268:284, 352:448] = patterns.rgb(REDS[0])
    return picture


def followed(body: dict[str, Shape], every: int = 40) -> np.ndarray:
    """Spots of the surface (n, 3), the same ones of the costume at all times; a few are inside another part."""
    return join(list(body.values())).vertices[::every]
