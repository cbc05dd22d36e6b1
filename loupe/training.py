"""The one training loop: it carries any `loupe.method.Trainee` through the segments of its phase.

Exactness. Every step starts from random numbers of its own (a hash of seed, segment and step), and a checkpoint holds
the method's state, the optimisers' states and the position, so a run that was interrupted and resumed ends with the
weights of a straight run, bit by bit on a CPU. There torch's deterministic algorithms are used, and a resumed run keeps
the number of threads that it began with.

A checkpoint is saved every few minutes, between segments, and when the process is asked to stop; it then exits with
status 75, "start me again".
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from loupe.checkpoint import Checkpoints
from loupe.errors import InputError
from loupe.interrupt import REQUEUE, Interruption
from loupe.method import Segment, Trainee

if TYPE_CHECKING:
    from torch import Tensor

Report = Callable[[str, int, int, Mapping[str, float]], None]
"""Takes the segment's name, the steps done and the steps in all (both of the whole phase), and the values so far: the
loss terms ("loss.colour", or "loss.generator.colour" where there are several groups), the learning rates
("lr.<group>"), the method's own progress and the "seconds" of training. Points from before a resumption come again,
named "resumed"."""

_POINTS = 500
_logger = logging.getLogger(__name__)


def fit(
    method: Trainee,
    *,
    seed: int,
    resume: Path,
    configuration: Mapping[str, Any],
    report: Report,
    save_every: float = 300.0,
) -> None:
    """Train `method` through all its segments, from the newest checkpoint in `resume` if there is one.

    The checkpoints stay when it returns: `loupe.checkpoint.clear(resume)` once the product is written.

    Args:
        method: as its constructor left it, the same for the same configuration.
        seed: of everything random in the training.
        resume: the folder for checkpoints; made if it is missing, held by one process.
        configuration: what the outcome depends on (parameters, digests of inputs); another one's checkpoint is refused.
        report: told at most about 500 times, and always at a segment's first and last step.
        save_every: seconds between checkpoints.

    Raises:
        InputError: a loss is not finite; `resume` is in use, holds another configuration, or cannot be written.
        SystemExit: status 75: the process was asked to stop, and its state is saved.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("WORLD_SIZE is above 1: one process trains one trial; give each trial its own process")
    with Checkpoints(resume, {"seed": seed, **configuration}) as checkpoints, Interruption() as interruption:
        run = _Run(method, seed, checkpoints, report)
        run.restore()
        with _deterministic(run.on_cpu):
            run.train(interruption, save_every)


def step_seed(seed: int, index: int, step: int) -> int:
    """What the generator of a step is seeded with, and torch itself: a batch can be made again with it.

    `index` is that of the segment among those with steps; the training's `seed`, the segment and the step stand in
    `state.json` where a training failed.
    """
    name = f"{seed} {index} {step}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")


class _Run:
    """The state of a training: the position is `_index` of the segment and the number of its steps that are done."""

    def __init__(self, method: Trainee, seed: int, checkpoints: Checkpoints, report: Report) -> None:
        self._method = method
        self._seed = seed
        self._checkpoints = checkpoints
        self._report = report
        self._segments = [segment for segment in method.segments() if segment.steps]
        self._total = sum(segment.steps for segment in self._segments)
        self._index = self._step = 0
        self._groups: dict[str, _Group] = {}
        self._watch = _Watch()
        self._history: list[tuple[int, dict[str, float]]] = []
        self._began = time.monotonic()

    @property
    def on_cpu(self) -> bool:
        """Whether all parameters in training lie on the CPU."""
        return all(parameter.is_cpu for group in self._groups.values() for parameter in group.parameters)

    def restore(self) -> None:
        """Take up the newest checkpoint, or begin."""
        checkpoint = self._checkpoints.newest()
        if checkpoint:
            facts = checkpoint.facts
            # Another number of threads would sum in another order.
            torch.set_num_threads(facts["threads"])
            self._index, self._step = facts["index"], facts["step"]
            self._began -= facts["seconds"]
            self._method.load_state(_below("method.", checkpoint.tensors))
            for done, values in facts["history"]:
                self._tell("resumed", done, values)
            _logger.info("resumed at step %d of %d", self._done, self._total)
        if self._index < len(self._segments):
            self._make_groups()
        if checkpoint:
            state = _below("optimizer.", checkpoint.tensors) | checkpoint.facts["optimizer"]
            for name, group in self._groups.items():
                group.load_state(_below(f"{name}.", state))

    def train(self, interruption: Interruption, save_every: float) -> None:
        """Go on to the end; leave with `SystemExit` when interrupted."""
        self._checkpoints.note("running", done=self._done, total=self._total)
        saved = time.monotonic()
        while self._index < len(self._segments):
            self._advance(self._segments[self._index])
            reason = interruption.reason()
            at_boundary = self._step == 0
            if reason or at_boundary or time.monotonic() - saved > save_every:
                self._save()
                saved = time.monotonic()
            if reason:
                self._checkpoints.note("requeue", done=self._done, total=self._total, reason=reason)
                _logger.warning("%s: saved at step %d of %d; start it again to go on", reason, self._done, self._total)
                raise SystemExit(REQUEUE)
        self._checkpoints.note("complete", done=self._done, total=self._total)

    @property
    def _done(self) -> int:
        return sum(segment.steps for segment in self._segments[: self._index]) + self._step

    def _advance(self, segment: Segment) -> None:
        """One step; behind a segment's last one stands the next segment's beginning."""
        if not self._groups:
            self._make_groups()
        generator = torch.Generator().manual_seed(self._reseed())
        losses = self._method.losses(self._method.batch(segment, self._step, generator), segment)
        self._watch.look(self._step, losses)
        if self.on_cpu:
            self._stop_if_not_finite()
        self._descend(losses, self._method.learning_rates(segment, self._step))
        replaced = self._method.after_step(segment, self._step)
        self._step += 1
        last = self._step == segment.steps
        if last or self._step == 1 or self._done % -(-self._total // _POINTS) == 0:
            self._stop_if_not_finite()
            self._tell(segment.name, self._done, self._values())
        if last or replaced:
            self._stop_if_ruined()
            self._groups = {}
        if last:
            self._index, self._step = self._index + 1, 0

    def _reseed(self) -> int:
        """Seed torch for this step, for what a method draws without the generator; returns the seed."""
        seed = step_seed(self._seed, self._index, self._step)
        # What `torch.manual_seed` does, without its walk through the stack where a GPU is not in use.
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed_all(seed)
        return seed

    def _make_groups(self) -> None:
        self._reseed()
        optimizers = self._method.optimizers(self._segments[self._index])
        self._groups = {name: _Group(optimizer) for name, optimizer in optimizers.items()}

    def _descend(self, losses: dict[str, dict[str, Tensor]], factors: Mapping[str, float]) -> None:
        """All gradients are taken before any parameter moves."""
        for left, (name, terms) in zip(reversed(range(len(losses))), losses.items(), strict=True):
            first, *rest = terms.values()
            self._groups[name].differentiate(sum(rest, first), keep_graph=left > 0)
        for name in losses:
            self._groups[name].descend(factors[name])

    def _values(self) -> dict[str, float]:
        rates = {f"lr.{name}": float(group.rate) for name, group in self._groups.items()}
        values = {f"loss.{name}": value for name, value in self._watch.values().items()}
        return values | rates | dict(self._method.progress()) | {"seconds": self._seconds}

    @property
    def _seconds(self) -> float:
        return round(time.monotonic() - self._began, 3)

    def _tell(self, part: str, done: int, values: dict[str, float]) -> None:
        self._history.append((done, values))
        self._report(part, done, self._total, values)

    def _stop_if_not_finite(self) -> None:
        bad = self._watch.first_bad()
        if bad:
            self._fail(*bad)

    def _fail(self, step: int, terms: list[str]) -> None:
        name = self._segments[self._index].name
        self._checkpoints.note("failed", segment=name, step=step, seed=self._seed, terms=terms)
        raise InputError(
            f"segment {name}, step {step}, seed {self._seed}: {', '.join(terms)} not finite; the last good checkpoint "
            f"is kept in {self._checkpoints.folder}; a lower learning rate may help"
        )

    def _stop_if_ruined(self) -> None:
        for name, group in self._groups.items():
            if not group.is_finite():
                self._fail(self._step - 1, [f"the parameters of {name}"])

    def _save(self) -> None:
        self._stop_if_ruined()
        tensors = {f"method.{name}": tensor for name, tensor in self._method.state().items()}
        scalars: dict[str, float] = {}
        for name, group in self._groups.items():
            for key, value in group.state().items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer.{name}.{key}"] = value
                else:
                    scalars[f"{name}.{key}"] = value
        facts = {"index": self._index, "step": self._step, "seconds": self._seconds, "history": self._history}
        facts |= {"threads": torch.get_num_threads(), "optimizer": scalars}
        self._checkpoints.save(self._done, tensors, facts)


class _Group:
    """A parameter group with its optimiser, as `Trainee.optimizers` made it."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._rates = [group["lr"] for group in optimizer.param_groups]
        every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.parameters: list[Tensor] = [parameter for parameter in every if parameter.requires_grad]

    @property
    def rate(self) -> float:
        """The learning rate of the last step (of the first of its parameters)."""
        return float(self._optimizer.param_groups[0]["lr"])

    def differentiate(self, loss: Tensor, keep_graph: bool) -> None:
        """Take the loss's gradient for this group's parameters and no others."""
        gradients = torch.autograd.grad(loss, self.parameters, retain_graph=keep_graph, allow_unused=True)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient

    def descend(self, factor: float) -> None:
        """One step of the optimiser, at `factor` times its initial learning rates."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
            if group.get("max_norm"):
                torch.nn.utils.clip_grad_norm_(group["params"], group["max_norm"])
        self._optimizer.step()
        self._optimizer.zero_grad()

    def is_finite(self) -> bool:
        """Whether all parameters are."""
        return all(bool(parameter.isfinite().all()) for parameter in self.parameters)

    def state(self) -> dict[str, Any]:
        """The optimiser's state, flat: "<number of the parameter>.<name>" -> tensor or number."""
        states = self._optimizer.state_dict()["state"]
        return {f"{index}.{key}": value for index, state in states.items() for key, value in state.items()}

    def load_state(self, flat: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        states: dict[int, dict[str, Any]] = {}
        for name, value in flat.items():
            index, _, key = name.partition(".")
            states.setdefault(int(index), {})[key] = _laid_out_like(parameters[int(index)], value)
        self._optimizer.load_state_dict({"state": states, "param_groups": self._optimizer.state_dict()["param_groups"]})


def _laid_out_like(parameter: Tensor, value: Any) -> Any:
    """A parameter's running mean in the parameter's own order in memory, which fused optimisers take for granted; a
    checkpoint holds plain contiguous tensors. Other values as they are."""
    if not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


class _Watch:
    """Looks out for losses that are not finite, without waiting for the device at every step."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._terms = torch.zeros(0)
        self._first_bad = torch.zeros(0, dtype=torch.int64)

    def look(self, step: int, losses: dict[str, dict[str, Tensor]]) -> None:
        """Remember the loss terms of a step, and for each the first step at which it was not finite."""
        alone = len(losses) == 1
        terms = {k if alone else f"{group}.{k}": v for group, inner in losses.items() for k, v in inner.items()}
        self._terms = torch.stack([term.detach().float() for term in terms.values()])
        if self._names != list(terms):
            self._names = list(terms)
            self._first_bad = torch.full_like(self._terms, -1, dtype=torch.int64)
        fresh = ~self._terms.isfinite() & (self._first_bad < 0)
        self._first_bad = torch.where(fresh, step, self._first_bad)

    def values(self) -> dict[str, float]:
        """The terms of the last step."""
        return dict(zip(self._names, self._terms.tolist(), strict=True))

    def first_bad(self) -> tuple[int, list[str]] | None:
        """The first step with a term that was not finite, and the names of those terms; None if all were."""
        steps = dict(zip(self._names, self._first_bad.tolist(), strict=True))
        first = min((step for step in steps.values() if step >= 0), default=None)
        return None if first is None else (first, [f"loss {name}" for name, step in steps.items() if step == first])


def _below(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Torch's deterministic algorithms; an operation without one raises `RuntimeError` with its name."""
    knobs: Any = torch.utils.deterministic
    before, filled = torch.are_deterministic_algorithms_enabled(), knobs.fill_uninitialized_memory
    torch.use_deterministic_algorithms(wanted or before)
    knobs.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        knobs.fill_uninitialized_memory = filled
