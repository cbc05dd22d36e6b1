"""Where the demo's photos are taken from, and how cameras are written down.

Conventions: a world with z up; cameras are 4x4 `world_from_cam` matrices with OpenCV axes (x right, y down, z forward);
one pinhole camera without distortion serves all photos, its principal point is the middle of the picture, and the
centre of the first pixel lies at (.5, .5). Angles in degrees unless a name says otherwise.
"""

from dataclasses import dataclass

import cv2
import numpy as np

HELD_OUT_EVERY = 8


@dataclass(frozen=True)
class Lens:
    """The shared pinhole: picture size and focal length, all in pixels."""

    width: int
    height: int
    focal: float

    def scaled(self, factor: float) -> "Lens":
        """The same lens on a picture `factor` times as large (rounded to whole pixels)."""
        return Lens(round(self.width * factor), round(self.height * factor), self.focal * factor)


def held_out(index: int) -> bool:
    """True for the views kept for scoring: every eighth, starting with the first."""
    return index % HELD_OUT_EVERY == 0


def spread(count: int) -> np.ndarray:
    """`count` points (count, 2) that fill the square [-1, 1]^2 evenly in every prefix (the R2 sequence)."""
    plastic = 1.32471795724474602596
    index = np.arange(1, count + 1)[:, None]
    return 2 * np.mod(0.5 + index / plastic ** np.arange(1, 3), 1) - 1


def look_at(eye: np.ndarray, target: np.ndarray, roll: float) -> np.ndarray:
    """`world_from_cam` (4, 4) of a camera at `eye` that looks at `target`, turned by `roll` about its axis."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(np.radians(roll)), np.sin(np.radians(roll))
    pose = np.eye(4)
    pose[:3, :4] = np.stack([c * right + s * down, c * down - s * right, forward, eye], axis=1)
    return pose


def around(target: np.ndarray, azimuth: float, elevation: float, distance: float) -> np.ndarray:
    """The point (3,) seen from `target` at these angles; azimuth 0 is the front, that is, the direction -y."""
    a, e = np.radians(azimuth), np.radians(elevation)
    return target + distance * np.array([np.sin(a) * np.cos(e), -np.cos(a) * np.cos(e), np.sin(e)])


def hand_held_arc(count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Poses on an arc before a shelf, as somebody would take them who walks past it and raises the arms now and then.

    Held-out views are drawn towards the middle of the arc, so that scoring them asks for interpolation only.
    """
    poses = []
    kept = [index for index in range(count) if held_out(index)]
    angles = np.insert(
        spread(count - len(kept)), np.array(kept) - np.arange(len(kept)), 0.6 * spread(len(kept)), axis=0
    )
    for across, up in angles:
        azimuth = 36 * across + rng.uniform(-1.5, 1.5)
        elevation = 26 + 10 * up + rng.uniform(-1, 1)
        target = np.array([0.0, 0.1, 0.5]) + rng.uniform(-0.08, 0.08, 3)
        eye = around(target, azimuth, elevation, 3.45 + rng.uniform(-0.2, 0.2))
        poses.append(look_at(eye, target, rng.uniform(-3, 3)))
    return poses


def dome(count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Poses spread evenly over the upper half of a sphere of radius 4 about the origin, all looking at it."""
    poses = []
    for across, up in spread(count):
        elevation = np.degrees(np.arcsin(0.03 + 0.93 * (up + 1) / 2))
        eye = around(np.zeros(3), 180 * across + rng.uniform(-2, 2), elevation, 4.0)
        poses.append(look_at(eye, np.zeros(3), 0.0))
    return poses


def rings(count: int, target: np.ndarray, distance: float) -> list[np.ndarray]:
    """Poses all around `target`, in three rings: a low one, a high one and, last and held out, one between the two.

    The last quarter of the cameras is held out. No two cameras of the lower ring face each other if their number is
    odd: opposite outlines would be the same.
    """
    between = count // 4
    high = round((count - between) * 5 / 12)
    poses = []
    for number, elevation, start in ((count - between - high, 6.0, 0.0), (high, 44.0, 21.0), (between, 24.0, 38.0)):
        for azimuth in start + 360 * np.arange(number) / number:
            poses.append(look_at(around(target, azimuth, elevation, distance), target, 0.0))
    return poses


def colmap_record(lens: Lens, pose: np.ndarray) -> dict:
    """One entry of `cameras.json`: intrinsics in pixels and `cam_from_world` as nested lists."""
    size = {"width": lens.width, "height": lens.height}
    centre = {"cx": lens.width / 2, "cy": lens.height / 2}
    return size | {"fx": lens.focal, "fy": lens.focal} | centre | {"cam_from_world": np.linalg.inv(pose).tolist()}


def blender_record(file_path: str, pose: np.ndarray) -> dict:
    """One frame of `transforms_*.json`: `transform_matrix` is world from camera with OpenGL axes (y up, z backward)."""
    return {"file_path": file_path, "transform_matrix": (pose @ np.diag([1, -1, -1, 1])).tolist()}


def opencv_lens(lens: Lens) -> dict[str, np.ndarray]:
    """A camera's entries of EasyMocap's intri.yml; OpenCV counts pixels from the centre of the first one."""
    centre = np.array([lens.width, lens.height]) / 2 - 0.5
    intrinsics = np.array([[lens.focal, 0, centre[0]], [0, lens.focal, centre[1]], [0, 0, 1]])
    return {"K": intrinsics, "dist": np.zeros((1, 5))}


def opencv_pose(pose: np.ndarray) -> dict[str, np.ndarray]:
    """A camera's entries of EasyMocap's extri.yml: rotation vector and matrix, and translation."""
    cam_from_world = np.linalg.inv(pose)
    rotation = np.ascontiguousarray(cam_from_world[:3, :3])
    return {"R": cv2.Rodrigues(rotation)[0], "Rot": rotation, "T": np.ascontiguousarray(cam_from_world[:3, 3:])}
