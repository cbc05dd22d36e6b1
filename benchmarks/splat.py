"""The point renderer: a ball of points that fills the height of a picture, forward, and forward and backward.

The floor is what reading the points and writing the picture (and for the gradient reading that of the picture and
writing those of the points) would take at the speed of a copy.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from benchmarks._machine import bytes_per_second, device, peak, seconds
from loupe.camera import Camera
from loupe.splat import render_points

SIZES = [(960, 540), (1920, 1080), (3840, 2160)]
COUNTS = [65_536, 262_144]
LAYERS, TRIES = 15, 5
_FLOATS = 3 + 3 + 1 + 1  # of a point
_MAPS = 3 + 1 + 1  # of a picture


class Points(NamedTuple):
    """What is drawn."""

    xyz: torch.Tensor
    colour: torch.Tensor
    radius: torch.Tensor
    density: torch.Tensor


def ball(count: int) -> Points:
    """Positions evenly over the unit sphere (a Fibonacci lattice), colours, radii (the points' distance), densities."""
    index = torch.arange(count).double() + 0.5
    z, angle = 1 - 2 * index / count, math.pi * (1 + 5**0.5) * index
    ring = (1 - z**2).sqrt()
    points = torch.stack([ring * angle.cos(), ring * angle.sin(), z], 1)
    radius = torch.full((count,), math.sqrt(4 * math.pi / count))
    parts = points, (points + 1) / 2, radius, torch.full((count,), 0.99)
    return Points(*(part.to(device(), torch.float32).requires_grad_() for part in parts))


def camera(width: int, height: int) -> Camera:
    """The ball's outline touches the upper and lower edge."""
    pose = np.eye(4)
    pose[2, 3] = 3.0
    focal = height / 2 * math.sqrt(3.0**2 - 1)
    return Camera(width, height, focal, focal, width / 2, height / 2, pose)


def forward(given: Points, view: Camera) -> None:
    """A picture."""
    with torch.no_grad():
        render_points(*given, view, LAYERS)


def both(given: Points, view: Camera) -> None:
    """A picture and its gradient."""
    maps = render_points(*given, view, LAYERS)
    torch.autograd.grad(torch.stack([part.sum() for part in maps]).sum(), given)


def main() -> None:
    """One line for each number of points and size of picture."""
    gpu = device().type == "cuda"
    name = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    speed, tries = bytes_per_second(), TRIES if gpu else 1
    print(f"{name}: {speed / 1e9:.0f} GB/s in a copy; {LAYERS} layers; the best of {tries}; floors in brackets")
    for count in COUNTS:
        given = ball(count)
        for width, height in SIZES:
            view = camera(width, height)
            both(given, view)
            floor = 4 * (_FLOATS * count + _MAPS * width * height) / speed
            drawn = min(seconds(lambda g=given, v=view: forward(g, v)) for _ in range(tries))  # type: ignore[misc]
            learned = min(seconds(lambda g=given, v=view: both(g, v)) for _ in range(tries))  # type: ignore[misc]
            print(
                f"{count:7,} points, {width}x{height}: forward {1e3 * drawn:.2f} ms ({1e3 * floor:.2f}), "
                f"with gradient {1e3 * learned:.2f} ms ({2e3 * floor:.2f}); {peak():.2f} GB",
                flush=True,
            )


if __name__ == "__main__":
    main()
