"""Random training patches per second: from the memory-mapped tiles, against decoding the JPEG each time."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from loupe.images import read_image, write_image
from loupe.tiles import Tiles, write_tiles

SIDE = 256
VIEWS = 4


def main() -> None:
    """Four pictures of 12 megapixels of noise on a gradient; patches of 256 x 256."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        ramp = np.linspace(0, 200, 4032, dtype=np.float32)[None, :, None]
        names = [f"view_{index}" for index in range(VIEWS)]
        for name in names:
            picture = (ramp + generator.integers(0, 50, (3024, 4032, 3))).astype(np.uint8)
            write_image(root / f"{name}.jpg", picture, quality=92)
        start = time.perf_counter()
        write_tiles(root, ((name, read_image(root / f"{name}.jpg")) for name in names), 4)
        print(f"cut {VIEWS} views of 4032x3024: {time.perf_counter() - start:.1f} s")
        tiles = Tiles(root)

        def from_tiles() -> int:
            x, y = generator.integers(0, 4032 - SIDE), generator.integers(0, 3024 - SIDE)
            return int(tiles.image(names[generator.integers(VIEWS)], "full")[y : y + SIDE, x : x + SIDE].copy().size)

        def from_jpeg() -> int:
            return int(read_image(root / f"{names[generator.integers(VIEWS)]}.jpg")[:SIDE, :SIDE].copy().size)

        mapped, decoded = per_second(from_tiles, 20000), per_second(from_jpeg, 8)
        print(
            f"memory-mapped tiles {mapped:,.0f} patches/s, JPEG {decoded:,.1f} patches/s, ratio {mapped / decoded:,.0f}"
        )


def per_second(read: Callable[[], int], times: int) -> float:
    """Calls of `read` per second, over `times` calls after a warm-up."""
    read()
    start = time.perf_counter()
    for _ in range(times):
        read()
    return times / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
