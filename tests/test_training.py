"""The training loop on tiny analytic methods: exact resume, groups, signals, failures."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from loupe.errors import InputError
from loupe.interrupt import REQUEUE, ending_with_parent
from loupe.method import Segment, Trainee
from loupe.training import fit, step_seed


class Fit:
    """Fits weights to y = x . (1, 2, 3); more weights come in the middle of segment "grow"."""

    pause = 0.0

    def __init__(self) -> None:
        self.weights = torch.zeros(3, requires_grad=True)
        self.seen = 0

    def segments(self) -> Sequence[Segment]:
        return [Segment("coarse", 5), Segment("nothing", 0), Segment("grow", 6), Segment("fine", 4)]

    def optimizers(self, segment: Segment) -> dict[str, torch.optim.Optimizer]:
        return {"weights": torch.optim.Adam([self.weights], lr=0.1)}

    def learning_rates(self, segment: Segment, step: int) -> Mapping[str, float]:
        return {"weights": 0.9**step}

    def batch(self, segment: Segment, step: int, generator: torch.Generator) -> Tensor:
        return torch.rand(16, 3, generator=generator)

    def losses(self, batch: Tensor, segment: Segment) -> dict[str, dict[str, Tensor]]:
        time.sleep(self.pause)
        noise = 0.01 * torch.randn(16)  # drawn without the generator, on purpose
        error = batch @ self.weights[:3] - batch @ torch.tensor([1.0, 2, 3]) + noise
        return {"weights": {"colour": error.square().mean(), "decay": 1e-3 * self.weights.square().sum()}}

    def after_step(self, segment: Segment, step: int) -> bool:
        self.seen += 1
        if segment.name == "grow" and step == 2:
            self.weights = torch.cat([self.weights.detach(), torch.rand(2)]).requires_grad_()
            return True
        return False

    def progress(self) -> Mapping[str, float]:
        return {"seen": self.seen}

    def state(self) -> dict[str, Tensor]:
        return {"weights": self.weights, "seen": torch.tensor(self.seen)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.weights = state["weights"].clone().requires_grad_()
        self.seen = int(state["seen"])


STEPS = 15


class Stop(Exception):
    """Raised by a report, in the place of a kill."""


def ignore(part: str, done: int, total: int, values: Mapping[str, float]) -> None:
    """A report that goes nowhere."""


def train(method: Trainee, resume: Path, report: Any = ignore, seed: int = 0, save_every: float = 300.0) -> Any:
    fit(method, seed=seed, resume=resume, configuration={}, report=report, save_every=save_every)
    return method


def into(trained: list[int]) -> Any:
    """A report that notes the steps that were trained now, and not before a resumption."""
    return lambda part, done, *_: trained.append(done) if part != "resumed" else None


def saved_steps(resume: Path) -> list[int]:
    """The steps of the checkpoints that lie there."""
    return sorted(int(path.name[:9]) for path in resume.glob("*.safetensors"))


def state_file(resume: Path) -> dict[str, Any]:
    return dict(json.loads((resume / "state.json").read_text()))


def in_child(work: Callable[[], object]) -> BaseProcess:
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    return child


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    return train(Fit(), tmp_path_factory.mktemp("straight")).weights.detach()


def test_same_seed_same_weights_and_another_seed_others(tmp_path: Path, straight: Tensor) -> None:
    torch.rand(3)  # The state of torch's own generator makes no difference.
    assert torch.equal(train(Fit(), tmp_path / "a").weights, straight)
    assert not torch.equal(train(Fit(), tmp_path / "b", seed=1).weights, straight)


class Draws(Fit):
    """Remembers the seed of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds: list[int] = []

    def batch(self, segment: Segment, step: int, generator: torch.Generator) -> Tensor:
        self.seeds.append(generator.initial_seed())
        return super().batch(segment, step, generator)


def test_every_step_draws_random_numbers_of_its_own(tmp_path: Path) -> None:
    first, second = train(Draws(), tmp_path / "a").seeds, train(Draws(), tmp_path / "b", seed=1).seeds
    assert len({*first, *second}) == 2 * STEPS


@pytest.mark.parametrize("steps", range(1, STEPS))
def test_killed_at_any_step_and_resumed_ends_with_the_same_weights(
    tmp_path: Path, straight: Tensor, steps: int
) -> None:
    def kill(part: str, done: int, total: int, values: Mapping[str, float]) -> None:
        if done == steps:
            raise Stop

    # Saved after every step: the report of step n comes before its checkpoint, so step n is done a second time.
    with pytest.raises(Stop):
        train(Fit(), tmp_path, kill, save_every=0)
    trained: list[int] = []
    assert torch.equal(train(Fit(), tmp_path, into(trained)).weights, straight)
    assert trained == list(range(steps, STEPS + 1))


def test_a_resumed_run_reports_the_whole_curve(tmp_path: Path) -> None:
    whole: list[tuple[int, dict[str, float]]] = []
    pieces: list[tuple[int, dict[str, float]]] = []

    def record(into: list[tuple[int, dict[str, float]]], until: int) -> Any:
        def report(part: str, done: int, total: int, values: Mapping[str, float]) -> None:
            assert total == STEPS
            if done == until:
                raise Stop
            into.append((done, {key: value for key, value in values.items() if key != "seconds"}))

        return report

    train(Fit(), tmp_path / "a", record(whole, -1))
    with pytest.raises(Stop):
        train(Fit(), tmp_path / "b", record([], 8), save_every=0)
    train(Fit(), tmp_path / "b", record(pieces, -1))
    assert pieces == whole
    assert [done for done, _ in whole] == list(range(1, STEPS + 1))
    assert set(whole[0][1]) == {"loss.colour", "loss.decay", "lr.weights", "seen"}
    assert whole[2][1]["lr.weights"] == pytest.approx(0.1 * 0.9**2)


def test_a_complete_run_is_not_trained_again(tmp_path: Path, straight: Tensor) -> None:
    train(Fit(), tmp_path)
    assert state_file(tmp_path) == {"state": "complete", "done": STEPS, "total": STEPS}
    again = train(Fit(), tmp_path, lambda part, *_: part == "resumed" or pytest.fail("trained again"))
    assert torch.equal(again.weights, straight)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_saves_at_the_end_of_the_step_and_asks_to_be_started_again(
    tmp_path: Path, straight: Tensor, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fit, "pause", 0.05)
    started = tmp_path / "started"

    def work() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
        train(Fit(), tmp_path / "resume", lambda *_: started.touch())

    child = in_child(work)
    wait_for(started.exists)
    assert child.pid is not None
    os.kill(child.pid, number)
    child.join(60)
    assert child.exitcode == REQUEUE
    state = state_file(tmp_path / "resume")
    assert (state["state"], state["reason"]) == ("requeue", number.name)
    assert 0 < state["done"] < STEPS
    assert saved_steps(tmp_path / "resume")[-1] == state["done"]
    monkeypatch.setattr(Fit, "pause", 0.0)
    trained: list[int] = []
    assert torch.equal(train(Fit(), tmp_path / "resume", into(trained)).weights, straight)
    assert trained == list(range(state["done"] + 1, STEPS + 1))


class Signalled(Fit):
    """Gets a signal amid step 8, and looks at its checkpoints right before, right after, and at the step's end."""

    def __init__(self, resume: Path, number: signal.Signals) -> None:
        super().__init__()
        self.resume, self.number = resume, number
        self.found: list[dict[str, bytes]] = []

    def look(self) -> None:
        self.found.append({path.name: path.read_bytes() for path in self.resume.iterdir()})

    def losses(self, batch: Tensor, segment: Segment) -> dict[str, dict[str, Tensor]]:
        if self.seen == 7:
            self.look()
            signal.raise_signal(self.number)
            self.look()
        return super().losses(batch, segment)

    def after_step(self, segment: Segment, step: int) -> bool:
        replaced = super().after_step(segment, step)
        if self.seen == 8:
            self.look()
        return replaced


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_sets_a_flag_and_the_end_of_the_step_saves(
    tmp_path: Path, straight: Tensor, number: signal.Signals
) -> None:
    method = Signalled(tmp_path, number)
    with pytest.raises(SystemExit) as caught:
        train(method, tmp_path)
    assert caught.value.code == REQUEUE == 75
    before, after, at_the_end = method.found
    assert before == after == at_the_end
    assert json.loads(before["state.json"])["state"] == "running"
    assert saved_steps(tmp_path) == [5, 8]  # that of the first segment's end, and the one asked for
    assert state_file(tmp_path) == {"state": "requeue", "done": 8, "total": STEPS, "reason": number.name}
    trained: list[int] = []
    assert torch.equal(train(Fit(), tmp_path, into(trained)).weights, straight)
    assert trained == list(range(9, STEPS + 1))


def test_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    train(Fit(), tmp_path)
    assert signal.getsignal(signal.SIGUSR1) is before


def leave_alone(work: Callable[[], object], started: Path, hang_ups: signal.Handlers) -> None:
    """Kills the process that started this work, which watches it."""

    def watched() -> None:
        with ending_with_parent():
            work()

    def parent() -> None:
        signal.signal(signal.SIGHUP, hang_ups)
        in_child(watched)
        wait_for(started.exists)
        os.kill(os.getpid(), signal.SIGKILL)

    in_child(parent).join(60)


def test_a_run_whose_parent_is_gone_saves_and_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC dies of a signal without handing it on."""
    monkeypatch.setattr(Fit, "pause", 0.3)
    resume, started = tmp_path / "resume", tmp_path / "started"
    leave_alone(lambda: train(Fit(), resume, lambda *_: started.touch()), started, signal.SIG_DFL)
    wait_for(lambda: state_file(resume)["state"] != "running")
    state = state_file(resume)
    assert (state["state"], state["reason"]) == ("requeue", "SIGTERM")
    assert 0 < state["done"] < STEPS


def test_under_nohup_the_parent_may_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fit, "pause", 0.2)
    resume, started = tmp_path / "resume", tmp_path / "started"
    leave_alone(lambda: train(Fit(), resume, lambda *_: started.touch()), started, signal.SIG_IGN)
    wait_for(lambda: state_file(resume)["state"] != "running")
    assert state_file(resume)["state"] == "complete"


def test_a_run_that_was_told_to_stop_is_not_cut_short(tmp_path: Path) -> None:
    """SLURM tells every process of a job, and `workflow/stage.py` tells the step once more."""
    end = tmp_path / "end"

    def work() -> None:
        try:
            train(Fit(), tmp_path / "resume", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            end.touch()

    child = in_child(work)
    child.join(60)
    assert (child.exitcode, end.exists()) == (REQUEUE, True)


class Explodes(Fit):
    """Its loss is `value` at the second step of "grow"; with None it is zero, and only its gradient is NaN."""

    def __init__(self, value: float | None) -> None:
        super().__init__()
        self.value = value

    def losses(self, batch: Tensor, segment: Segment) -> dict[str, dict[str, Tensor]]:
        losses = super().losses(batch, segment)
        if self.seen == 6:
            self.last = batch, torch.rand(4)  # what it drew with the generator, and what without
            zero = (self.weights[0] * 0).abs()
            losses["weights"]["edge"] = zero.sqrt() if self.value is None else zero + self.value
        return losses


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, value: float
) -> None:
    exploding = Explodes(value)
    with pytest.raises(
        InputError, match=r"segment grow, step 1, seed 0: loss edge not finite; .*resume.* lower learning"
    ):
        train(exploding, tmp_path / "resume")
    assert exploding.seen == 6, "on a CPU it stops before `after_step` sees the wreck"
    expected = {"state": "failed", "segment": "grow", "step": 1, "seed": 0, "terms": ["loss edge"]}
    assert state_file(tmp_path / "resume") == expected
    trained: list[int] = []
    train(Fit(), tmp_path / "resume", into(trained))
    assert trained == list(range(6, STEPS + 1))


def test_the_batch_of_a_failure_can_be_made_again_from_what_is_noted(tmp_path: Path) -> None:
    exploding = Explodes(math.inf)
    with pytest.raises(InputError, match="not finite"):
        train(exploding, tmp_path, seed=3)
    noted, method = state_file(tmp_path), Fit()
    segments = [segment for segment in method.segments() if segment.steps]
    index = [segment.name for segment in segments].index(noted["segment"])
    seed = step_seed(noted["seed"], index, noted["step"])
    batch = method.batch(segments[index], noted["step"], torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    Fit.losses(method, batch, segments[index])
    assert torch.equal(exploding.last[0], batch)
    assert torch.equal(exploding.last[1], torch.rand(4))


def test_a_gradient_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="segment grow, step 1, seed 0: the parameters of weights not finite"):
        train(Explodes(None), tmp_path, save_every=0)
    assert torch.isfinite(train(Fit(), tmp_path).weights).all()


class Duel:
    """Two groups, each with a term that depends on both groups' parameters, as a generator's and a critic's do."""

    def __init__(self) -> None:
        self.left = torch.tensor([1.0, 2.0], requires_grad=True)
        self.right = torch.tensor([3.0, 4.0], requires_grad=True)
        self.unused = torch.tensor([5.0], requires_grad=True)

    def segments(self) -> Sequence[Segment]:
        return [Segment("duel", 1)]

    def optimizers(self, segment: Segment) -> dict[str, torch.optim.Optimizer]:
        clipped = {"params": [self.right], "lr": 0.1, "max_norm": 0.5}
        return {"left": torch.optim.SGD([self.left, self.unused], lr=0.1), "right": torch.optim.SGD([clipped])}

    def learning_rates(self, segment: Segment, step: int) -> Mapping[str, float]:
        return {"left": 1.0, "right": 0.5}

    def batch(self, segment: Segment, step: int, generator: torch.Generator) -> None:
        return None

    def losses(self, batch: None, segment: Segment) -> dict[str, dict[str, Tensor]]:
        product = self.left * self.right
        return {"left": {"a": product.sum(), "b": self.left.sum()}, "right": {"a": -product.sum()}}

    def after_step(self, segment: Segment, step: int) -> bool:
        return False

    def progress(self) -> Mapping[str, float]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        raise AssertionError


def test_each_group_follows_its_own_loss_alone(tmp_path: Path) -> None:
    told: list[Mapping[str, float]] = []
    duel = train(Duel(), tmp_path, lambda part, done, total, values: told.append(values))
    # d left = right + 1; d right = -left with length sqrt(5), clipped to 0.5, at half the rate.
    torch.testing.assert_close(duel.left.detach(), torch.tensor([1.0 - 0.1 * 4, 2.0 - 0.1 * 5]))
    step = 0.05 * 0.5 / math.sqrt(5)
    torch.testing.assert_close(duel.right.detach(), torch.tensor([3.0 + step, 4.0 + 2 * step]))
    assert duel.unused.item() == 5
    assert {"loss.left.a": 11.0, "loss.left.b": 3.0, "loss.right.a": -11.0}.items() <= told[0].items()


def test_another_seed_does_not_resume(tmp_path: Path) -> None:
    train(Fit(), tmp_path)
    with pytest.raises(InputError, match="seed 0 -> 1"):
        train(Fit(), tmp_path, seed=1)


def test_more_than_one_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="WORLD_SIZE"):
        train(Fit(), tmp_path)


class Undetermined(Fit):
    """Uses an operation that has no deterministic form."""

    def losses(self, batch: Tensor, segment: Segment) -> dict[str, dict[str, Tensor]]:
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))
        return super().losses(batch, segment)


def test_an_operation_without_a_deterministic_form_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"):
        train(Undetermined(), tmp_path)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_number_of_threads_is_kept(tmp_path: Path) -> None:
    def stop(part: str, done: int, total: int, values: Mapping[str, float]) -> None:
        if done == 3:
            raise Stop

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(Stop):
            train(Fit(), tmp_path, stop, save_every=0)
        torch.set_num_threads(1)
        train(Fit(), tmp_path)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
