"""4K-NeRF's joint phase on the demo: patches a second, beside the floor that its multiplications set, and checkpoints.

Needs the demo's scene and encoder, as `make demo` leaves them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.frame import peak, products_per_second, seconds
from loupe.checkpoint import Checkpoints
from loupe.config import load_yaml
from loupe.method import Recipe
from loupe.methods.four_k_nerf import FourKNerf, make_four_k_nerf
from loupe.trial import Model, load_setting

SCENE, ENCODER = Path("data/scenes/demo"), Path("data/trials/demo/voxel_grid/encoder")
RECIPES = {
    "small preset": "four_k_nerf_small",
    "5 blocks, no discriminator": "four_k_nerf_l1",
    "5 blocks, discriminator": "four_k_nerf_no_perceptual",
}
STEPS = 3


def train(method: FourKNerf, steps: range) -> None:
    """Steps of all groups, as `loupe.training.fit` takes them."""
    (segment,) = method.segments()
    optimizers = method.optimizers(segment)
    for step in steps:
        losses = method.losses(method.batch(segment, step, torch.Generator()), segment)
        for name, optimizer in optimizers.items():
            parameters = [part for group in optimizer.param_groups for part in group["params"]]
            total = torch.stack(list(losses[name].values())).sum()
            total.backward(inputs=parameters, retain_graph=True)
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()


def main() -> None:
    """On the GPU where there is one."""
    if not ENCODER.is_dir():
        sys.exit(f"{ENCODER}: not there yet; run make demo first")
    setting = load_setting(SCENE / "scene", SCENE / "space", SCENE / "tiles")
    encoder = Model.load(ENCODER)
    speed = products_per_second()
    for name, recipe in RECIPES.items():
        # The field is the demo's, whatever the recipe would have fitted.
        joint = load_yaml(Path(f"configs/recipes/{recipe}.yaml"))["joint"]
        method = make_four_k_nerf("joint", Recipe({**encoder.recipe.content, "joint": joint}), setting)
        assert isinstance(method, FourKNerf)
        method.start_from(encoder.state)
        train(method, range(1))
        with FlopCounterMode(display=False) as counter:
            train(method, range(1, 2))
        took = seconds(lambda m=method: train(m, range(2, 2 + STEPS))) / STEPS  # type: ignore[misc]
        floor = counter.get_total_flops() / speed
        print(f"{name}: {1 / took:.2f} patches/s; {took:.2f} s a step (floor {floor:.2f}); {peak():.2f} GB so far")
        with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder), {}) as checkpoints:
            took = seconds(lambda m=method, c=checkpoints: c.save(1, m.state(), {}))  # type: ignore[misc]
            size = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
            print(f"  checkpoint, less the optimisers' memory: {size / 1e6:.0f} MB in {took:.2f} s")


if __name__ == "__main__":
    main()
