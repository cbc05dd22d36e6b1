"""4K4D at play: frames a second from frames made ready and from the model itself, beside the point renderer alone, and
the megabytes of a frame.

A patterned ball between sixteen photos of 1920x1080. Nothing is trained: points lie on the ball, as large as the gaps
between them, and networks say what they say at the start, in the same time. The view that is timed is none of the
photos'; the ball's outline touches its upper and lower edge. Without a GPU, a part of the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks import splat
from benchmarks._ball import MIDDLE, RADIUS, Backdrop, dome
from benchmarks._machine import device, peak, seconds
from loupe.camera import Array, Camera
from loupe.cloud import Cloud
from loupe.frame_cache import FrameCache
from loupe.method import Recipe, Setting
from loupe.methods.four_k4d import FourK4d
from loupe.occupancy import Occupancy
from loupe.scene import Points, Scene, View
from loupe.space import Space
from loupe.splat import render_points
from loupe.tiles import Tiles, write_tiles

SIZES = [(1280, 720), (1920, 1080), (3840, 2160)]
COUNTS = [65_536, 262_144]
ON_A_CPU = {(65_536, 1280), (65_536, 1920), (65_536, 3840)}  # points and width
PHOTOS, FRAMES, TRIES = 16, 2, 3
_APART = 0.3  # what the ball moves from frame to frame


def film(folder: Path) -> Setting:
    """The first camera tests, the others train; the ball moves on from frame to frame."""
    views, masks, pictures = [], {}, {}
    for number, camera in enumerate(dome(PHOTOS + 1, (1920, 1080))):
        backdrop = Backdrop.of(camera)
        for frame in range(FRAMES):
            name = f"{number:02d}_{frame}"
            pictures[name], masks[name] = backdrop.with_ball(_place(frame))
            views.append(View(name, camera, f"{name}.png", 1.0, 6.0, str(number), frame, f"{name}.mask.png"))
    test, train = ([view.name for view in views if (view.camera_id == "0") == tests] for tests in (True, False))
    write_tiles(folder, pictures.items(), 2, masks.get)
    side = RADIUS + _APART * FRAMES
    low, high = ((MIDDLE + sign * side).tolist() for sign in (-1, 1))
    scene = Scene(folder, views, Points.none(), train, test, 2, "analytic")
    full = Occupancy(torch.ones(8, 8, 8, dtype=torch.bool))
    return Setting(scene, Space("bounded", low, high), full, Tiles(folder), device(), folder / "points")


def model(setting: Setting, count: int) -> FourK4d:
    """With so many points on the ball at each frame."""
    assert setting.points is not None
    setting.points.mkdir(exist_ok=True)
    ball = splat.ball(count)[0].detach().cpu().numpy()
    for frame in range(FRAMES):
        xyz = (_place(frame) + RADIUS * ball).astype(np.float32)
        Cloud(xyz, np.zeros_like(xyz, np.uint8)).save(setting.points / f"{frame:06d}.ply")
    fit = {"steps": 1}
    recipe = Recipe({"encoder": {"points": {"count": count, "least_radius": 1.0}, "fit": fit}, "joint": {"fit": fit}})
    made = FourK4d("joint", recipe, setting)
    made.start_from(FourK4d("encoder", recipe, setting).state())
    return made


def camera(setting: Setting, width: int, height: int) -> Camera:
    """The test camera, turned to the ball at the first frame, which fills the height."""
    pose = setting.scene.camera(setting.scene.test[0], "full").cam_from_world.copy()
    pose[:3, 3] = [0, 0, 3.5] - pose[:3, :3] @ _place(0)
    focal = height / 2 * math.sqrt((3.5 / RADIUS) ** 2 - 1)
    return Camera(width, height, focal, focal, width / 2, height / 2, pose)


@torch.no_grad()
def compare(method: FourK4d, cache: FrameCache, view: Camera) -> str:
    """A line of the table."""
    moment = method.field.at(0)
    colours = torch.rand_like(moment.points)
    ways: dict[str, Callable[[], Any]] = {
        "ready": lambda: cache.render(view),
        "not": lambda: method.render(view, 0.0),
        "the renderer alone": lambda: render_points(
            moment.points, colours, moment.radius, moment.density, view, cache.layers
        ),
    }
    found = {name: way() for name, way in ways.items()}
    white = found["ready"].colour + (1 - found["ready"].opacity)[..., None]
    apart = 255 * float((white - found["not"].colour).abs().mean())
    # In turns, so that other work on the machine slows them alike.
    took = [[seconds(way) for way in ways.values()] for _ in range(TRIES)]
    rates = ", ".join(f"{1 / min(of):.3g} {name}" for name, of in zip(ways, zip(*took, strict=True), strict=True))
    return f"{view.width}x{view.height}, frames/s: {rates}; {apart:.3f} levels of 255 apart"


def sizes(method: FourK4d, cache: FrameCache, folder: Path) -> str:
    """Megabytes on disk."""
    cache.save(folder / "frame.safetensors")
    ready = (folder / "frame.safetensors").stat().st_size
    state = method.state()
    own = sum(value.nbytes for name, value in state.items() if name.startswith("positions.")) / FRAMES
    shared = sum(value.nbytes for name, value in state.items() if not name.startswith("positions."))
    return (
        f"ready {ready / 1e6:.2f} MB a frame with {PHOTOS} photos' colours; the model {own / 1e6:.2f} MB a frame and "
        f"{shared / 1e6:.2f} MB for all, without its photos"
    )


def main() -> None:
    """For each number of points the sizes, and a line for each size of picture."""
    gpu = device().type == "cuda"
    name = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    with TemporaryDirectory() as work:
        setting = film(Path(work))
        for count in COUNTS:
            widths = [size for size in SIZES if gpu or (count, size[0]) in ON_A_CPU]
            if not widths:
                continue
            method = model(setting, count)
            took = min(seconds(lambda m=method: m.cache(0)) for _ in range(TRIES))  # type: ignore[misc]
            cache = method.cache(0)
            print(f"{name}, {count:,} points: {sizes(method, cache, Path(work))}; made ready in {took:.2f} s")
            for width, height in widths:
                print(f"  {compare(method, cache, camera(setting, width, height))}; {peak():.2f} GB", flush=True)


def _place(frame: int) -> Array:
    """The ball's middle."""
    place: Array = MIDDLE + np.array([_APART * frame, 0.0, 0.0])
    return place


if __name__ == "__main__":
    main()
