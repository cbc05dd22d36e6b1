"""What training reads of a scene: random pixels and patches, a few steps of each. Prints how long a draw takes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from benchmarks._machine import seconds
from loupe.patches import TrainingPatches
from loupe.pixels import TrainingPixels
from loupe.scene import Scene
from loupe.tiles import Tiles

RAYS, PATCHES, STEPS = 4096, 4, 30


def main(scene_folder: str, tiles_folder: str) -> None:
    """`RAYS` pixels and `PATCHES` patches of 32 low-resolution pixels a step."""
    scene, tiles = Scene.load(Path(scene_folder)), Tiles(Path(tiles_folder))
    generator = torch.Generator().manual_seed(0)
    pixels, patches = TrainingPixels(scene, tiles, "full"), TrainingPatches(scene, tiles, 32)
    by_pixels = seconds(lambda: [pixels.draw(RAYS, generator, "cpu") for _ in range(STEPS)]) / STEPS
    by_patches = seconds(lambda: [patches.draw(step, PATCHES, 0, "cpu") for step in range(STEPS)]) / STEPS
    print(f"{RAYS} pixels in {1000 * by_pixels:.1f} ms, {PATCHES} patches in {1000 * by_patches:.1f} ms")


if __name__ == "__main__":
    main(*sys.argv[1:])
