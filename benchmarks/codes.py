"""One view through VQ-NeRF's codes and its decoder, and the same field ray by ray at full resolution, which is said to
take more than ten times as long (Yang et al. 2023, table 2).

Nothing is trained: the field begins as a ball, which is made hard and is looked at near its surface alone, as training
would leave it; codes and decoder are random. By codes a sixteenth of the rays is left, so that the ratio would be 16 if
nothing came on top of them. A deep network on a CPU is taken ray by ray in every sixteenth row.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks._machine import device, peak, products_per_second, seconds
from loupe.camera import Camera
from loupe.config import load_yaml
from loupe.method import Recipe, Setting
from loupe.methods.vq_nerf import VqNerf, make_vq_nerf
from loupe.occupancy import Occupancy
from loupe.scene import Points, Scene, View
from loupe.space import Space
from loupe.surface_fit import look_through

ON_CPU = {"vq_nerf_small": (640, 480, 1), "vq_nerf": (320, 240, 16)}  # width, height, and of so many rows one is taken
ON_GPU = (1600, 1200, 1)
TRIES = 2
SPACE = Space("bounded", (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
START = 0.45  # the ball's radius, of half the box's diagonal
RADIUS = START * 3**0.5
HARD = 0.005  # the density's scale, of the ball's radius
CELLS, SHELL = 128, 0.07  # of the box along an axis; those looked at reach so far from the surface


class Watch:
    """The seconds `spent` in the calls of a part."""

    def __init__(self, part: nn.Module) -> None:
        self.spent = 0.0
        part.register_forward_pre_hook(lambda *_: self._add(-_now()))
        part.register_forward_hook(lambda *_: self._add(_now()))

    def _add(self, value: float) -> None:
        self.spent += value


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def camera(width: int, height: int) -> Camera:
    """The ball spans nine tenths of the picture's height."""
    pose = np.eye(4)
    pose[2, 3] = 4.0
    focal = 0.45 * height * ((4.0 / RADIUS) ** 2 - 1) ** 0.5
    return Camera(width, height, focal, focal, width / 2, height / 2, pose)


def shell() -> Occupancy:
    """The cells that a field which has found the ball still looks at."""
    axis = (torch.arange(CELLS) + 0.5) / CELLS * 2 - 1
    distance = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0) - RADIUS
    return Occupancy(distance.abs() < SHELL)


def method_of(recipe: str, view: Camera) -> VqNerf:
    """A recipe's joint phase where masks cut out the ball."""
    content = load_yaml(Path(f"configs/recipes/{recipe}.yaml"))
    field, ratio = content["encoder"]["field"], content["joint"]["codebook"]["factor"]
    field[field["kind"]]["radius"] = START
    views = [View(name, view, f"{name}.png", 2.0, 6.0) for name in ("train", "test")]
    scene = Scene(Path(), views, Points.none(), ["train"], ["test"], ratio, "analytic", masks="cut")
    torch.manual_seed(0)
    method = make_vq_nerf("joint", Recipe(content, recipe), Setting(scene, SPACE, shell(), device=device()))
    assert isinstance(method, VqNerf)
    torch.nn.init.constant_(method.field.density.softness, HARD * START)
    return method


def compare(recipe: str, width: int, height: int, rows: int) -> None:
    """One recipe's lines. The two ways take turns, and the best of each counts."""
    view = camera(width, height)
    method, some = method_of(recipe, view), view.resized(width, height // rows)
    covered = method.render(view.resized(width // 8, height // 8), 0.0).opacity.mean()
    parts = {"quantisation": Watch(method.codebook.quantizer), "decoder": Watch(method.codebook.decoder)}
    single, codes = [], []
    for _ in range(TRIES):
        single.append(rows * seconds(lambda: look_through(method.field, "colour", some)))
        before = [part.spent for part in parts.values()]
        whole = seconds(lambda: method.render(view, 0.0))
        codes.append((whole, *(part.spent - spent for part, spent in zip(parts.values(), before, strict=True))))
    whole, *spent = min(codes)
    print(f"{recipe} ({method.field.config.kind}), {width}x{height}, the ball on {float(covered):.0%} of it:")
    print(f"  ray by ray {min(single):.2f} s (1 row in {rows} taken), {width * height / min(single):,.0f} rays/s")
    split = ", ".join(f"{name} {value:.3f}" for name, value in zip(parts, spent, strict=True))
    print(f"  by codes {whole:.2f} s: field {whole - sum(spent):.3f}, {split}")
    print(f"  {min(single) / whole:.1f} times as fast as ray by ray; {peak():.2f} GB", flush=True)


def main() -> None:
    """On the GPU where there is one."""
    gpu = device().type == "cuda"
    print("GPU" if gpu else f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}", end="; ")
    print(f"matrix product: {products_per_second() / 1e9:.0f} GFLOP/s; the best of {TRIES}")
    print(f"an untrained ball; its density's scale is {HARD:.1%} of its radius; ", end="")
    print(f"{float(shell().share):.1%} of {CELLS}^3 cells are looked at")
    for recipe, size in ON_CPU.items():
        compare(recipe, *(ON_GPU if gpu else size))


if __name__ == "__main__":
    main()
