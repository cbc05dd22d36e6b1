"""A training of no weight, by the real loop: its steps take as long as they are told to."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from loupe.method import Segment
from loupe.training import fit

STEPS = 200


class Walk:
    """Weights that follow random numbers: where they end depends on every step and on the optimiser's state."""

    def __init__(self, pause: float) -> None:
        self.pause = pause
        self.place = torch.zeros(3, requires_grad=True)

    def segments(self) -> Sequence[Segment]:
        return [Segment("walk", STEPS)]

    def optimizers(self, segment: Segment) -> dict[str, torch.optim.Optimizer]:
        return {"place": torch.optim.Adam([self.place], lr=0.1)}

    def learning_rates(self, segment: Segment, step: int) -> Mapping[str, float]:
        return {"place": 1.0}

    def batch(self, segment: Segment, step: int, generator: torch.Generator) -> Tensor:
        time.sleep(self.pause)
        return torch.randn(3, generator=generator)

    def losses(self, batch: Tensor, segment: Segment) -> dict[str, dict[str, Tensor]]:
        return {"place": {"distance": (self.place - batch).square().sum()}}

    def after_step(self, segment: Segment, step: int) -> bool:
        return False

    def progress(self) -> Mapping[str, float]:
        return {}

    def state(self) -> dict[str, Tensor]:
        time.sleep(min(20 * self.pause, 2))  # saving takes a while, too
        return {"place": self.place}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.place = state["place"].clone().requires_grad_()


def train(pause: float, resume: Path, trained: Path) -> list[float]:
    """Where the walk ends; every step that is done becomes a line of `trained`: the process and the step's number."""

    def report(part: str, done: int, total: int, values: Mapping[str, float]) -> None:
        if part != "resumed":
            with trained.open("a") as lines:
                lines.write(f"{os.getpid()} {done}\n")

    walk = Walk(pause)
    fit(walk, seed=0, resume=resume, configuration={}, report=report)
    return walk.place.tolist()
