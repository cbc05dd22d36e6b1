"""Renders the same points by the definition and by the Triton kernels, and saves both: `splat_cases.py OUT DEVICE`.

A process of its own, since Triton decides when it is imported whether it compiles kernels or interprets them.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from loupe import splat
from loupe.camera import Camera

# channels, the most density, the largest radius, layers. The picture is no multiple of a tile.
CASES = {
    "few layers": (3, 0.9, 0.3, 3),
    "many layers": (1, 0.4, 0.3, 60),
    "opaque": (2, 1.0, 2.5, 60),
    "many channels": (17, 0.9, 0.2, 8),
}


def maps_and_gradients(route: object, case: str, device: str) -> list[Tensor]:
    """What a route composites, and the gradients of a random weighting of it."""
    channels, density, size, layers = CASES[case]
    generator = torch.Generator().manual_seed(0)
    points = 0.5 * torch.randn(40, 3, generator=generator)
    rest = [torch.rand(40, count, generator=generator) for count in (channels, 1, 1)]
    given = [points, rest[0], size * rest[1][:, 0], density * rest[2][:, 0].sqrt()]
    points, colour, radius, densities = (part.to(device).requires_grad_() for part in given)
    pose = np.eye(4)
    pose[2, 3] = 3
    camera = Camera(37, 21, 24.0, 25.0, 18.0, 11.0, pose)
    sprites = splat.project(points, radius, densities, camera)
    values = torch.cat([colour[sprites.point], sprites.depth[:, None]], 1)
    picture = route(sprites, values, layers, camera.width, camera.height)  # type: ignore[operator]
    weighting = torch.randn(picture.shape, generator=generator).to(device)
    gradients = torch.autograd.grad((picture * weighting).sum(), (points, colour, radius, densities))
    return [part.detach().cpu() for part in (picture, *gradients)]


if __name__ == "__main__":
    from loupe.splat_triton import composite_tiles

    routes = {"definition": splat.composite, "kernels": composite_tiles}
    found = {
        case: {name: maps_and_gradients(route, case, sys.argv[2]) for name, route in routes.items()} for case in CASES
    }
    torch.save(found, Path(sys.argv[1]))
