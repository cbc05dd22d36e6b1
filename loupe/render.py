"""A trained method -> pictures on disk: the test views, their depth, and a film along a camera path.

test/<view>.png    8 bits a channel, the size of the scene's `full` level
depth/<view>.png   16 bits, z-depth in steps of `depth_scale` world units; 0 where nothing was hit
path.mp4           the film, if the recipe wants one; of a scene that moves, time runs through it once
slice.png          the middle column of each of its frames (see `loupe.consistency`); not of a scene that moves
held_out.mp4       of a scene that moves: the test views of the first camera that has several, one after another
points/<n>.ply     if the model is made of points, those at each frame n that trained
mesh.ply           if the model says where the surface is, that surface, coloured
normal/<view>.png  and the normals that the test views see, 8 bits a channel (see `normal_picture`)
encoder/<view>.png what the encoder alone makes of the test views at low resolution, enlarged; not of a scene that moves
renders.json       what there is, and the film's warping error
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from pydantic import Field

from loupe.camera import Camera
from loupe.config import Config
from loupe.consistency import Consistency
from loupe.errors import InputError
from loupe.images import Pixels, to_uint8, write_image
from loupe.method import HasSurface, MadeOfPoints, Method, Picture
from loupe.paths import arc, read_camera_path, spiral
from loupe.scene import Scene
from loupe.space import Space

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_logger = logging.getLogger(__name__)

_FAR = 1.25  # depths up to so many times the scene's far bound can be told apart


class PathConfig(Config):
    """The film: `frames` (0 for none) at `rate` a second, `width` pixels wide; `file`: a camera path of nerfstudio's,
    which then decides on frames and size."""

    frames: int = Field(default=48, ge=0)
    rate: int = Field(default=24, ge=1, le=120)
    width: int = Field(default=512, ge=16)
    file: Path | None = None


class RenderConfig(Config):
    """The recipe's section `render`."""

    path: PathConfig = PathConfig()


Done = Callable[[str, int, int, Mapping[str, float]], None]
"""Told what was rendered, how many pictures of how many are done, and numbers (none here)."""


class Rendered(NamedTuple):
    """The test views' `pictures` by name, and the film's warping error in levels of 8 bits, if there is one."""

    pictures: Mapping[str, Pixels]
    warping_error: float | None


def render_views(method: Method, scene: Scene, space: Space, config: RenderConfig, out: Path, done: Done) -> Rendered:
    """Render all test views and the film into `out`, which is made."""
    for folder in ("test", "depth"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    film = film_cameras(scene, space, config.path)
    depth_scale = _FAR * max(scene.view(name).far for name in scene.test) / 65535
    total, pictures = len(scene.test) + len(film), {}
    for number, name in enumerate(scene.test, 1):
        picture = method.render(scene.camera(name, "full"), scene.time(scene.view(name).frame))
        pictures[name] = pixels_of(picture)
        write_image(out / "test" / f"{name}.png", pictures[name])
        depth = np.clip(picture.depth.cpu().numpy() / depth_scale + 0.5, 0, 65535).astype(np.uint16)
        write_image(out / "depth" / f"{name}.png", depth)
        done("views", number, total, {})
    watch = None if scene.moves else Consistency()
    if film:
        times = np.linspace(0, 1, len(film)) if scene.moves else np.zeros(len(film))
        seen = (method.render(camera, float(time)) for camera, time in zip(film, times, strict=True))
        frames = (pixels_of(_watched(watch, picture, camera)) for picture, camera in zip(seen, film, strict=True))
        write_film(out / "path.mp4", frames, config.path.rate, lambda n: done("film", len(scene.test) + n, total, {}))
    if film and watch:
        write_image(out / "slice.png", watch.slice)
    held_out = _one_camera(scene)
    if held_out:
        rate = max(1, min(config.path.rate, len(held_out) // 2))
        write_film(out / "held_out.mp4", (_trimmed(pictures[name]) for name in held_out), rate, lambda _: None)
    views = {name: {"picture": f"test/{name}.png", "depth": f"depth/{name}.png"} for name in scene.test}
    content = {"format": 1, "views": views, "depth_scale": depth_scale, "film": "path.mp4" if film else None}
    content |= {"warping_error": watch.error if watch else None, "held_out": "held_out.mp4" if held_out else None}
    if isinstance(method, MadeOfPoints):
        _write_clouds(method, out / "points")
        content["points"] = "points"
    if isinstance(method, HasSurface):
        content |= {"mesh": _write_mesh(method, out), "normals": _write_normals(method, scene, out)}
    (out / "renders.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")
    return Rendered(pictures, watch.error if watch else None)


def render_enlarged(encoder: Method, scene: Scene, out: Path, done: Done) -> None:
    """Render the test views at low resolution, enlarged bicubically, into `out/encoder`, which is made."""
    folder = out / "encoder"
    folder.mkdir(parents=True)
    for number, name in enumerate(scene.test, 1):
        small = pixels_of(encoder.render(scene.camera(name, "low"), scene.time(scene.view(name).frame)))
        full = scene.camera(name, "full")
        large = cv2.resize(small, (full.width, full.height), interpolation=cv2.INTER_CUBIC)
        write_image(folder / f"{name}.png", np.asarray(large, np.uint8))
        done("encoder", number, len(scene.test), {})


def film_cameras(scene: Scene, space: Space, config: PathConfig) -> list[Camera]:
    """The film's cameras: those of the file, or a spiral before a forward space, or an arc around a bounded one."""
    if config.file:
        return [_even(camera) for camera in read_camera_path(config.file)]
    if not config.frames:
        return []
    cameras = scene.cameras(scene.train, "full")
    height = round(cameras[0].height * config.width / cameras[0].width)
    small = [camera.resized(config.width, height) for camera in cameras]
    if space.kind == "bounded":
        path = arc(small, config.frames)
    else:
        # The harmonic mean of the bounds, as LLFF has it: where depth is half in disparity.
        near, far = (np.mean([getattr(scene.view(name), bound) for name in scene.train]) for bound in ("near", "far"))
        path = spiral(small, float(1 / (0.25 / near + 0.75 / far)), config.frames)
    return [_even(camera) for camera in path]


def write_film(path: Path, frames: Iterable[Pixels], rate: int, done: Callable[[int], None]) -> None:
    """Frames (h, w, 3), both sides even, as H.264 in MP4; `done` is told the number of frames so far."""
    import av

    with av.open(str(path), "w") as container:
        # With its macroblock tree x264 makes something of memory that nobody wrote: other bytes at every run.
        options = {"crf": "18", "preset": "medium", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        # One thread: the same bytes on every machine.
        stream.codec_context.thread_count = 1
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate(frames, 1):
            if number == 1:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            done(number)
        container.mux(stream.encode())


def _write_clouds(method: MadeOfPoints, folder: Path) -> None:
    """One file for each frame, named as those that the carving made."""
    folder.mkdir(exist_ok=True)
    for frame, cloud in method.clouds():
        cloud.save(folder / f"{frame:06d}.ply")


def _write_mesh(method: HasSurface, out: Path) -> str | None:
    """The name of the mesh's file; None where there is no surface, which costs no picture."""
    try:
        method.surface().save(out / "mesh.ply")
    except InputError as error:
        _logger.warning("no mesh: %s", error)
        return None
    return "mesh.ply"


def _write_normals(method: HasSurface, scene: Scene, out: Path) -> str:
    """The name of the folder with the normals of each test view."""
    (out / "normal").mkdir(exist_ok=True)
    for name in scene.test:
        camera = scene.camera(name, "full")
        write_image(out / "normal" / f"{name}.png", normal_picture(method.normals(camera), camera))
    return "normal"


def _watched(watch: Consistency | None, picture: Picture, camera: Camera) -> Picture:
    if watch:
        watch.add(picture, camera)
    return picture


def _one_camera(scene: Scene) -> list[str]:
    """The test views of the first camera that has several, in the order of their frames."""
    views = sorted((scene.view(name) for name in scene.test), key=lambda view: (view.camera_id, view.frame))
    for _, group in groupby(views, key=lambda view: view.camera_id):
        together = list(group)
        if len({view.frame for view in together}) > 1:
            return [view.name for view in together]
    return []


def pixels_of(picture: Picture) -> Pixels:
    """A rendered picture as uint8 (h, w, 3)."""
    return to_uint8(picture.colour.cpu().numpy())


def normal_picture(normals: Float[Tensor, "h w 3"], camera: Camera) -> Pixels:
    """World normals as the camera sees them, uint8 (h, w, 3): red is x to the right, green y upwards, blue z towards
    the camera, each from -1 (0) to 1 (255); black where the normal is 0."""
    world = normals.cpu().numpy()
    right_down_forward = world @ camera.cam_from_world[:3, :3].T
    there = (world != 0).any(-1, keepdims=True)
    return to_uint8(np.where(there, (1 + right_down_forward * (1, -1, -1)) / 2, 0))


def _trimmed(picture: Pixels) -> Pixels:
    """H.264 wants even sides."""
    height, width = (side // 2 * 2 for side in picture.shape[:2])
    return np.ascontiguousarray(picture[:height, :width])


def _even(camera: Camera) -> Camera:
    """H.264 wants even sides: the last row or column is left out."""
    return camera.cropped(0, 0, camera.width // 2 * 2, camera.height // 2 * 2)
