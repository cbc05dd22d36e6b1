"""4K-NeRF's joint phase on the demo: patches a second beside the floor that its multiplications set, checkpoints, and
memory beside that of the baseline, which trains ray by ray.

Needs the demo's scene and encoder, as `make demo` leaves them. Each training has a process of its own, and so a peak.
"""

from __future__ import annotations

import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._machine import peak, products_per_second, seconds
from loupe.checkpoint import Checkpoints
from loupe.config import load_yaml
from loupe.method import Method, Recipe
from loupe.methods import METHODS
from loupe.trial import Model, load_setting

SCENE, ENCODER = Path("data/scenes/demo"), Path("data/trials/demo/voxel_grid/encoder")
BASELINE = "voxel_grid"
RECIPES = {
    "ray by ray, the baseline": BASELINE,
    "small preset": "four_k_nerf_small",
    "5 blocks, no discriminator": "four_k_nerf_l1",
    "5 blocks, discriminator": "four_k_nerf_no_perceptual",
}
STEPS = 3


class Cost(NamedTuple):
    """Of a training: seconds a step, the floor beside it, the most memory in GB; a checkpoint's bytes and seconds."""

    step: float
    floor: float
    memory: float
    size: int
    save: float


def train(method: Method, steps: range) -> None:
    """Steps of all groups, as `loupe.training.fit` takes them."""
    (segment,) = method.segments()
    optimizers = method.optimizers(segment)
    generator = torch.Generator()
    for step in steps:
        losses = method.losses(method.batch(segment, step, generator), segment)
        for name, optimizer in optimizers.items():
            parameters = [part for group in optimizer.param_groups for part in group["params"]]
            total = torch.stack(list(losses[name].values())).sum()
            total.backward(inputs=parameters, retain_graph=True)  # type: ignore[no-untyped-call]
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()


def measure(recipe: str) -> Cost:
    """One recipe's joint phase, from the demo's encoder whatever the recipe would have fitted."""
    setting = load_setting(SCENE / "scene", SCENE / "space", SCENE / "tiles")
    encoder = Model.load(ENCODER)
    speed = products_per_second()
    content = load_yaml(Path(f"configs/recipes/{recipe}.yaml"))
    chosen = {**encoder.recipe.content, "method": content["method"], "joint": content["joint"]}
    method: Method = METHODS[content["method"]]("joint", Recipe(chosen), setting)
    method.start_from(encoder.state)
    train(method, range(1))
    with FlopCounterMode(display=False) as counter:
        train(method, range(1, 2))
    step = seconds(lambda: train(method, range(2, 2 + STEPS))) / STEPS
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder), {}) as checkpoints:
        save = seconds(lambda: checkpoints.save(1, method.state(), {}))
        size = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    return Cost(step, counter.get_total_flops() / speed, peak(), size, save)


def main() -> None:
    """On the GPU where there is one."""
    if not ENCODER.is_dir():
        sys.exit(f"{ENCODER}: not there yet; run make demo first")
    baseline = float("nan")
    for name, recipe in RECIPES.items():
        with get_context("spawn").Pool(1) as pool:
            cost = pool.apply(measure, (recipe,))
        print(f"{name}: {cost.step:.2f} s a step (floor {cost.floor:.2f}), {cost.memory:.2f} GB")
        if recipe == BASELINE:
            baseline = cost.memory
        else:
            print(f"  {1 / cost.step:.2f} patches/s; {cost.memory / baseline:.2f} of the baseline's memory")
        print(f"  checkpoint, less the optimisers' memory: {cost.size / 1e6:.0f} MB in {cost.save:.2f} s", flush=True)


if __name__ == "__main__":
    main()
