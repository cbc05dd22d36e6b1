"""Two captures of a patterned ball over a patterned floor, made in a minute: one filmed by a dome of cameras, one of
large photos. Each pixel is what its ray meets, so cameras, photos and masks agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from loupe.camera import Array, Camera
from loupe.images import Pixels, write_image

Floats = NDArray[np.float32]

RADIUS = 0.5
MIDDLE = np.array([0.0, 0.0, 0.6])  # what all cameras look at; z is up
_BEYOND = (150, 160, 170)
_FLOOR_SCALE, _BALL_SCALE = 128, 100  # pixels of the pattern a world unit
_BALL_AXES = np.array([[1.0, 0.3], [0.2, -0.4], [-0.3, 1.0]], np.float32)


def _pattern(seed: int) -> Pixels:
    """(1024, 1024, 3) of coloured blots of several sizes, which repeats."""
    noise = np.random.default_rng(seed)
    coarse = [noise.uniform(-1, 1, (side, side, 3)).astype(np.float32) for side in (32, 96, 288)]
    blots = [cv2.resize(some, (1024, 1024), interpolation=cv2.INTER_CUBIC) for some in coarse]
    return np.asarray(np.clip(128 + 70 * sum(blots), 0, 255), np.uint8)


_FLOOR, _SKIN = _pattern(0), _pattern(1)


class Backdrop(NamedTuple):
    """What a camera sees without the ball, and the directions (h, w, 3) in which its pixels look."""

    camera: Camera
    directions: Floats
    picture: Pixels

    @classmethod
    def of(cls, camera: Camera) -> Backdrop:
        """The floor z = 0 as far as it reaches."""
        x = (np.arange(camera.width) + 0.5 - camera.cx) / camera.fx
        y = (np.arange(camera.height) + 0.5 - camera.cy) / camera.fy
        inside = np.stack([*np.meshgrid(x, y), np.ones((camera.height, camera.width))], -1).astype(np.float32)
        directions = inside @ camera.cam_from_world[:3, :3].astype(np.float32)
        down = np.minimum(directions[..., 2], -1e-3)
        at = camera.center[:2].astype(np.float32) - directions[..., :2] * np.float32(camera.center[2]) / down[..., None]
        picture = cv2.remap(_FLOOR, at * _FLOOR_SCALE, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        picture[directions[..., 2] > -0.05] = _BEYOND
        return cls(camera, directions, np.asarray(picture, np.uint8))

    def with_ball(self, place: Array) -> tuple[Pixels, Pixels]:
        """The picture with the ball around `place`, and its mask."""
        corners = place + RADIUS * np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3), -1).reshape(8, 3)
        pixels = self.camera.project(corners)[0]
        left, top = np.maximum(pixels.min(0), 0).astype(int)
        right, bottom = pixels.max(0).astype(int) + 1
        looks = self.directions[top:bottom, left:right]
        offset = (self.camera.center - place).astype(np.float32)
        squared, along = (looks**2).sum(-1), looks @ offset
        rest = along**2 - squared * np.float32(offset @ offset - RADIUS**2)
        distance = (-along - np.sqrt(np.maximum(rest, 0))) / squared
        normals = (offset + distance[..., None] * looks) / np.float32(RADIUS)
        skin = cv2.remap(_SKIN, normals @ _BALL_AXES * _BALL_SCALE, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        picture, mask = self.picture.copy(), np.zeros(self.picture.shape[:2], np.uint8)
        mask[top:bottom, left:right] = np.where(rest > 0, 255, 0)
        picture[top:bottom, left:right][rest > 0] = skin[rest > 0]
        return picture, mask


def film(capture: Path, cameras: int, frames: int, size: tuple[int, int] = (640, 480)) -> None:
    """A capture in CMU Panoptic's layout: the ball goes round; every eighth camera tests. Masks for all."""
    tables: dict[str, dict[str, list[list[object]]]] = {side: {} for side in ("train", "test")}
    for number, camera in enumerate(dome(cameras, size)):
        backdrop = Backdrop.of(camera)
        for folder in ("ims", "seg"):
            (capture / folder / str(number)).mkdir(parents=True)
        values = {"cam_id": number, "k": _matrix(camera), "w2c": camera.cam_from_world.tolist()}
        table = tables["test" if number % 8 == 7 else "train"]
        for frame in range(frames):
            turn = 2 * np.pi * frame / frames
            picture, mask = backdrop.with_ball(MIDDLE + 0.5 * np.array([np.cos(turn), np.sin(turn), 0.0]))
            file = f"{number}/{frame:06d}"
            write_image(capture / f"ims/{file}.jpg", picture, quality=90)
            write_image(capture / f"seg/{file}.png", mask)
            for key, value in (values | {"fn": f"{file}.jpg"}).items():
                table.setdefault(key, [[] for _ in range(frames)])[frame].append(value)
    for side, table in tables.items():
        content = {"w": size[0], "h": size[1], **table}
        (capture / f"{side}_meta.json").write_text(json.dumps(content), encoding="utf8")


def photograph(capture: Path, photos: int, size: tuple[int, int] = (4000, 3000)) -> None:
    """A capture in nerfstudio's layout, the ball at rest. Drawn at half the size and enlarged."""
    width, height = size
    (capture / "images").mkdir(parents=True)
    frames = []
    for number, camera in enumerate(dome(photos, size)):
        picture, _ = Backdrop.of(camera.resized(width // 2, height // 2)).with_ball(MIDDLE)
        file = f"images/{number:03d}.jpg"
        write_image(capture / file, np.asarray(cv2.resize(picture, size), np.uint8), quality=90)
        matrix = camera.world_from_cam @ np.diag([1.0, -1.0, -1.0, 1.0])
        frames.append({"file_path": file, "transform_matrix": matrix.tolist()})
    lens = {"w": width, "h": height, "fl_x": camera.fx, "fl_y": camera.fy, "cx": camera.cx, "cy": camera.cy}
    (capture / "transforms.json").write_text(json.dumps(lens | {"frames": frames}), encoding="utf8")


def dome(count: int, size: tuple[int, int]) -> Iterator[Camera]:
    """Cameras that look at the middle, evenly around and at four heights."""
    width, height = size
    for number in range(count):
        around, up = 2 * np.pi * number / count, np.radians((25, 40, 32, 50)[number % 4])
        center = MIDDLE + 3.5 * np.array([np.cos(around) * np.cos(up), np.sin(around) * np.cos(up), np.sin(up)])
        forward = (MIDDLE - center) / 3.5
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
        pose[:3, 3] = -pose[:3, :3] @ center
        yield Camera(width, height, 1.1 * width, 1.1 * width, width / 2, height / 2, pose)


def _matrix(camera: Camera) -> list[list[float]]:
    return [[camera.fx, 0.0, camera.cx], [0.0, camera.fy, camera.cy], [0.0, 0.0, 1.0]]
