"""The visual hull of the basketball capture: how it fits masks it has not seen, and its speed beside asking each voxel.

Needs `LOUPE_DATA`, the folder of real captures. Three of the 27 cameras with masks are left out of the carving.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmarks._machine import peak, seconds
from loupe.camera import Array, Camera
from loupe.hull import Grid, Silhouette, Votes, carve_hull, live
from loupe.images import read_image
from loupe.ingestion import IngestConfig, ingest
from loupe.occupancy import CarveConfig
from loupe.photos import read_photos
from loupe.poses import PosesConfig, SceneConfig, estimate_scene
from loupe.scene import Scene
from loupe.silhouettes import carve_masks
from loupe.sources import LAYOUTS, recognise
from loupe.tiles import Tiles, cut_tiles

LEFT_OUT = {"4", "14", "24"}
SIDE, EVERY = 256, 16  # voxels a side for the comparison; of so many slabs one is asked voxel by voxel


def made(capture: Path, folder: Path) -> tuple[Scene, Tiles]:
    """The scene and its tiles, by the functions that the steps call."""
    for name in ("photos", "scene", "tiles"):
        (folder / name).mkdir()
    ingest(LAYOUTS[recognise(capture)].shots(capture), IngestConfig(shrink=1), folder / "photos", lambda _: None)
    photos = folder / "photos", read_photos(folder / "photos")
    scene = estimate_scene(
        capture, photos, PosesConfig(), SceneConfig(), folder / "scene", lambda _: None, lambda *_: None
    ).scene
    cut_tiles(scene, folder / "tiles")
    return scene, Tiles(folder / "tiles")


def without(scene: Scene, cameras: set[str]) -> Scene:
    """The scene whose training views are those of the other cameras."""
    return replace(scene, train=[name for name in scene.train if scene.view(name).camera_id not in cameras])


def outline(points: Array, voxel: float, camera: Camera) -> Grid:
    """Which pixels cubes with these middles (n, 3) and sides cover, by the rectangles around their projections."""
    corners = points[:, None] + voxel / 2 * np.stack(np.meshgrid(*[[-1, 1]] * 3), -1).reshape(8, 3)
    pixels = camera.project(corners.reshape(-1, 3))[0].reshape(-1, 8, 2)
    size = np.array([camera.width, camera.height])
    first, last = (np.clip(np.floor(edge), 0, size - 1).astype(int) for edge in (pixels.min(1), pixels.max(1)))
    inside = ((pixels.max(1) >= 0) & (pixels.min(1) < size)).all(1)
    (left, top), (right, bottom) = first[inside].T, last[inside].T
    steps = np.zeros((camera.height + 1, camera.width + 1), int)
    for y, x, sign in ((top, left, 1), (top, right + 1, -1), (bottom + 1, left, -1), (bottom + 1, right + 1, 1)):
        np.add.at(steps, (y, x), sign)
    return np.asarray(steps.cumsum(0).cumsum(1)[:-1, :-1] > 0)


def overlap(scene: Scene, name: str, points: Array, voxel: float) -> float:
    """Intersection over union of the view's mask and the points' outline."""
    view = scene.view(name)
    mask, covered = read_image(scene.folder / str(view.mask)) > 127, outline(points, voxel, view.camera)
    return float((mask & covered).sum() / (mask | covered).sum())


def compare_speed(scene: Scene) -> None:
    """At the first frame, over the box between all cameras."""
    names = [name for name in scene.train if scene.view(name).mask and scene.view(name).frame == 0]
    views = [Silhouette(read_image(scene.folder / str(scene.view(n).mask)) > 127, scene.view(n).camera) for n in names]
    centers = np.stack([view.camera.center for view in views])
    low, voxel, shape = centers.min(0), np.ptp(centers, 0) / SIDE, (SIDE, SIDE, SIDE)
    votes = Votes(4, 90)
    found: dict[str, NDArray[np.bool_]] = {}
    fast = seconds(lambda: found.update(hull=carve_hull(views, low, voxel, shape, votes)))

    def ask() -> None:
        """A slab in `EVERY`, each voxel by itself."""
        y, z = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
        slabs = []
        for x in range(0, SIDE, EVERY):
            middles = low + (np.stack([np.full_like(y, x), y, z], -1).reshape(-1, 3) + 0.5) * voxel
            slabs.append(live(views, middles, votes).reshape(SIDE, SIDE))
        found["slabs"] = np.stack(slabs)

    slow = EVERY * seconds(ask)
    differing = int((found["hull"][::EVERY] != found["slabs"]).sum())
    print(f"{SIDE}^3, {len(views)} masks: {fast:.2f} s; every voxel {slow:.1f} s (a slab in {EVERY} taken), ", end="")
    print(f"{slow / fast:.0f} times as long; {differing} voxels differ; {found['hull'].sum()} live")


def main() -> None:
    """All 16 frames."""
    if "LOUPE_DATA" not in os.environ:
        sys.exit("LOUPE_DATA is not set: it names the folder of real captures")
    with TemporaryDirectory() as work:
        scene, tiles = made(Path(os.environ["LOUPE_DATA"]).resolve() / "basketball", Path(work))
        compare_speed(scene)
        config = CarveConfig(resolution=160)
        carved = []
        took = seconds(lambda: carved.append(carve_masks(without(scene, LEFT_OUT), tiles, config, lambda _: None)))
        space, occupancy, clouds = carved[0]
        voxel = float(np.max(np.subtract(space.high, space.low) / occupancy.grid.shape))
        names = [name for name in scene.train if scene.view(name).camera_id in LEFT_OUT]
        scores = [overlap(scene, name, clouds[scene.view(name).frame].xyz.astype(float), voxel) for name in names]
        print(f"{len(clouds)} frames carved in {took:.1f} s, voxels of {voxel:.4f}; {peak():.2f} GB")
        print(f"left-out masks: IoU {np.mean(scores):.3f} (least {min(scores):.3f}, {len(scores)} masks)")


if __name__ == "__main__":
    main()
