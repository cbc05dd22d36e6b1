"""A scene: posed views, sparse points, bounds and the split, in the world frame of whatever gave the poses.

The poses are kept as the source gave them: methods choose their own frame (`loupe.space`), so an export lines up with
the user's own reconstruction. `full` is the target resolution; `low` is 1 / `ratio` of it by area averaging. A size
that is no multiple of `ratio` loses its last rows and columns at both. In a *sealed* scene the pictures are the low
resolution themselves; what they would be at full resolution lies apart, and is read by `loupe.truth` alone.

On disk: `scene.json`, `points.safetensors`, and `images/` where pixels had to be resampled.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from loupe.camera import Array, Camera
from loupe.errors import InputError
from loupe.images import Pixels, composite, read_image

Level = Literal["full", "low"]
MaskUse = Literal["carve", "cut", "look"]
"""What masks mean. "carve": the subject, for the hull and for methods that model nothing else. "cut": all that there
is; what lies outside is the backdrop, in every picture. "look": where a picture may be looked at."""

_FORMAT = 2
_WHITE = (255, 255, 255)


@dataclass(frozen=True, eq=False)
class View:
    """One picture with its camera.

    Attributes:
        name: unique in the scene; the photo's file name without suffix.
        camera: at the size of the picture file.
        image: the picture's path relative to the scene's folder.
        near, far: z-depths between which the scene lies, in world units, 0 < near < far.
        camera_id, frame: the physical camera and the time index; one of each in a static capture of photos.
        mask: path of the mask relative to the scene's folder, or None; `MaskUse` says what masks mean.
        lens: of a picture that was resampled, the numbers of the `loupe.undistort.Lens` that bent it; else None.
    """

    name: str
    camera: Camera
    image: str
    near: float
    far: float
    camera_id: str = "0"
    frame: int = 0
    mask: str | None = None
    lens: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.near < self.far < np.inf:
            raise InputError(f"view {self.name}: near {self.near} and far {self.far} are not 0 < near < far")


@dataclass(frozen=True, eq=False)
class Points:
    """Sparse points: `xyz` (n, 3) float32 in the world, `rgb` (n, 3) uint8, `seen` (n,) int32: by how many views."""

    xyz: NDArray[np.float32]
    rgb: NDArray[np.uint8]
    seen: NDArray[np.int32]

    def __post_init__(self) -> None:
        count = len(self.xyz)
        if self.xyz.shape != (count, 3) or self.rgb.shape != (count, 3) or self.seen.shape != (count,):
            raise InputError(f"points: shapes {self.xyz.shape}, {self.rgb.shape} and {self.seen.shape} disagree")
        types = [str(part.dtype) for part in (self.xyz, self.rgb, self.seen)]
        if types != ["float32", "uint8", "int32"]:
            raise InputError(f"points: types {', '.join(types)}, expected float32, uint8, int32")
        if not np.isfinite(self.xyz).all():
            raise InputError("points: a position is NaN or infinite")

    @classmethod
    def none(cls) -> Points:
        """No points at all (given cameras without a reconstruction)."""
        return cls(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros(0, np.int32))

    @classmethod
    def load(cls, path: Path) -> Points:
        """The points in a file; raises `InputError` if they are damaged, `FileNotFoundError` if there are none."""
        try:
            return cls(**load_file(path))
        except (KeyError, TypeError, ValueError, SafetensorError) as error:
            raise InputError(f"{path}: not points ({error}); run estimate_poses again") from None


@dataclass(frozen=True, eq=False)
class Scene:
    """Views in name order, points, and which views train and test.

    Attributes:
        folder: where the scene lies; picture paths are relative to it.
        train, test: view names; disjoint, both non-empty.
        ratio: full-resolution pixels per low-resolution pixel, along each axis.
        source: how the poses came about, for reports (for example "pycolmap incremental", "llff").
        masks: what the views' masks mean.
        backdrop: RGB, 8 bits each: what stands around what masks cut out.
        sealed: whether the pictures are the low resolution.
    """

    folder: Path
    views: Sequence[View]
    points: Points
    train: Sequence[str]
    test: Sequence[str]
    ratio: int
    source: str
    masks: MaskUse = "carve"
    backdrop: tuple[int, int, int] = _WHITE
    sealed: bool = False
    _by_name: dict[str, View] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {view.name: view for view in self.views})
        if len(self._by_name) != len(self.views):
            raise InputError(f"{self.folder}: two views share a name")
        if not isinstance(self.ratio, int) or self.ratio < 1:
            raise InputError(f"{self.folder}: ratio {self.ratio!r} is no whole number from 1 on")
        if not self.train or not self.test:
            raise InputError(f"{self.folder}: {len(self.train)} training and {len(self.test)} test views; need both")
        if both := set(self.train) & set(self.test):
            raise InputError(f"{self.folder}: views {sorted(both)} are in the training and the test split")
        if missing := (set(self.train) | set(self.test)) - set(self._by_name):
            raise InputError(f"{self.folder}: the split names unknown views {sorted(missing)}")
        if self.masks not in get_args(MaskUse):
            raise InputError(f"{self.folder}: masks {self.masks!r} is none of {', '.join(get_args(MaskUse))}")

    @property
    def moves(self) -> bool:
        """Whether its training views are of several moments."""
        return len({self.view(name).frame for name in self.train}) > 1

    def time(self, frame: int) -> float:
        """When a frame was taken: from 0 at the scene's first to 1 at its last; 0 where there is one only."""
        first, last = (pick(view.frame for view in self.views) for pick in (min, max))
        return (frame - first) / (last - first) if last > first else 0.0

    def view(self, name: str) -> View:
        """The view of that name; raises `InputError` if there is none."""
        if name not in self._by_name:
            raise InputError(f"{self.folder}: no view is named {name!r}")
        return self._by_name[name]

    def picture(self, name: str) -> Pixels:
        """The view's picture, RGB (h, w, 3), at the size of `view(name).camera`; over the backdrop if masks cut.

        Raises:
            InputError: the file is missing, broken, not RGB, or of another size.
        """
        view = self.view(name)
        picture = self._read(view.image, (view.camera.height, view.camera.width, 3))
        mask = self.mask(name) if self.masks == "cut" else None
        return picture if mask is None else composite(picture, mask, self.backdrop)

    def mask(self, name: str) -> Pixels | None:
        """The view's mask (h, w), from 0 to 255, at the size of `view(name).camera`; None if it has none.

        Raises:
            InputError: the file is missing, broken, not of one channel, or of another size.
        """
        view = self.view(name)
        return self._read(view.mask, (view.camera.height, view.camera.width)) if view.mask else None

    def _read(self, file: str, expected: tuple[int, ...]) -> Pixels:
        path = self.folder / file
        picture = read_image(path)
        if picture.shape != expected:
            raise InputError(f"{path}: shape {picture.shape}, expected {expected}; run estimate_poses again")
        return picture

    def camera(self, name: str, level: Level) -> Camera:
        """The view's camera at the `full` or `low` resolution."""
        camera = self.view(name).camera
        if self.sealed:
            return camera if level == "low" else camera.resized(camera.width * self.ratio, camera.height * self.ratio)
        width, height = camera.width // self.ratio, camera.height // self.ratio
        full = camera.cropped(0, 0, width * self.ratio, height * self.ratio)
        return full if level == "full" else full.resized(width, height)

    def cameras(self, names: Sequence[str], level: Level) -> list[Camera]:
        """The cameras of several views, in the order of `names`."""
        return [self.camera(name, level) for name in names]

    def save(self) -> None:
        """Write `scene.json` and `points.safetensors` into `folder`, which exists."""
        content: dict[str, Any] = {
            "format": _FORMAT,
            "source": self.source,
            "ratio": self.ratio,
            "masks": self.masks,
            "backdrop": list(self.backdrop),
            "sealed": self.sealed,
            "train": list(self.train),
            "test": list(self.test),
            "views": [_view_to_json(view) for view in self.views],
        }
        (self.folder / "scene.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")
        save_file(
            {"xyz": self.points.xyz, "rgb": self.points.rgb, "seen": self.points.seen},
            self.folder / "points.safetensors",
        )

    @classmethod
    def load(cls, folder: Path) -> Scene:
        """The scene in `folder`; raises `InputError` if it is missing or makes no sense."""
        path = folder / "scene.json"
        try:
            content = json.loads(path.read_text(encoding="utf8"))
            if content["format"] != _FORMAT:
                raise InputError(f"{path}: format {content['format']}, expected {_FORMAT}; run estimate_poses again")
            return cls(
                folder=folder,
                views=[_view_from_json(values, path) for values in content["views"]],
                points=Points.load(folder / "points.safetensors"),
                train=content["train"],
                test=content["test"],
                ratio=content["ratio"],
                source=content["source"],
                masks=content["masks"],
                backdrop=tuple(content["backdrop"]),
                sealed=content["sealed"],
            )
        except FileNotFoundError:
            raise InputError(
                f"{folder}: scene.json or points.safetensors is missing; run estimate_poses first"
            ) from None
        except InputError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"{path}: not a scene ({error!r}); run estimate_poses again") from None


def _view_to_json(view: View) -> dict[str, Any]:
    values: dict[str, Any] = {key: getattr(view, key) for key in ("name", "image", "near", "far", "camera_id", "frame")}
    return values | {"mask": view.mask, "lens": view.lens and list(view.lens), "camera": view.camera.to_json()}


def _view_from_json(values: dict[str, Any], path: Path) -> View:
    try:
        lens = values["lens"] and tuple(values["lens"])
        return View(**(values | {"camera": Camera.from_json(values["camera"]), "lens": lens}))
    except InputError as error:
        raise InputError(f"{path}: {values.get('name')}: {error}; run estimate_poses again") from None


def evenly(names: Sequence[str], most: int) -> list[str]:
    """At most so many of the names, evenly taken, in their order."""
    return [names[index] for index in sorted({round(x) for x in np.linspace(0, len(names) - 1, min(len(names), most))})]


def mean_pose(cameras: Sequence[Camera]) -> Array:
    """`mean_from_world` (4, 4): the frame at the mean position, looking along the mean direction, upright as the
    cameras are on average (the recentring of LLFF)."""
    center = np.mean([camera.center for camera in cameras], 0)
    forward = _unit(np.mean([camera.forward for camera in cameras], 0))
    down = np.mean([camera.cam_from_world[1, :3] for camera in cameras], 0)
    right = _unit(np.cross(down, forward))
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ center
    return pose


def _unit(vector: Array) -> Array:
    length = np.linalg.norm(vector)
    if length < 1e-9:
        raise InputError("the cameras look in opposite directions: they have no mean direction")
    return vector / length
