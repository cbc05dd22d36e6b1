"""Checkpoints: whatever happens to a save or to a file, a sound checkpoint is found again, or a clear line is said."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import resource
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from loupe.checkpoint import Checkpoints, clear
from loupe.errors import InputError

FOUR = {"dtype": "F32", "shape": [4]}
CONFIGURATION = {"joint": {"lr": 0.1, "steps": 10}, "seed": 0}


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"weights": torch.full((50, 20), value), "mask": torch.tensor([True, False]), "step": torch.tensor(3.0)}


def save(folder: Path, step: int) -> None:
    with Checkpoints(folder, CONFIGURATION) as checkpoints:
        checkpoints.save(step, tensors(step), {"step": step})


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint, whose tensors are compared as well."""
    with Checkpoints(folder, CONFIGURATION) as checkpoints:
        found = checkpoints.newest()
    assert found is not None
    step = int(found.facts["step"])
    for name, tensor in tensors(step).items():
        torch.testing.assert_close(found.tensors[name], tensor, rtol=0, atol=0)
    return step


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; its exit code, negative for a signal."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def test_round_trip_keeps_types_views_and_facts(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    kept = {"half": torch.ones(3, dtype=torch.bfloat16), "view": whole[:, 1], "same": whole, "empty": torch.zeros(0, 3)}
    with Checkpoints(tmp_path, CONFIGURATION) as checkpoints:
        assert checkpoints.newest() is None
        checkpoints.save(7, kept, {"history": [[1, {"loss": 0.5}]]})
        found = checkpoints.newest()
    assert found is not None
    assert found.facts == {"history": [[1, {"loss": 0.5}]]}
    assert found.tensors.keys() == kept.keys()
    for name, tensor in kept.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        save(tmp_path, step)
    assert [int(path.name[:9]) for path in files(tmp_path)] == [10, 100]


def test_killed_at_any_byte_of_a_save_the_checkpoint_before_is_found(tmp_path: Path) -> None:
    save(tmp_path, 1)
    size = files(tmp_path)[0].stat().st_size

    def dies_after(count: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # The system then kills whoever writes beyond the limit.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with Checkpoints(tmp_path, CONFIGURATION) as checkpoints:
            resource.setrlimit(resource.RLIMIT_FSIZE, (count, resource.RLIM_INFINITY))
            checkpoints.save(2, tensors(2), {"step": 2})

    for count in [0, 1, 7, 8, 9, 100, *range(200, size, size // 12), size - 1]:
        assert in_child(lambda count=count: dies_after(count)) == -signal.SIGXFSZ
        assert newest_step(tmp_path) == 1
    assert in_child(lambda: dies_after(2 * size)) == 0
    assert newest_step(tmp_path) == 2


@pytest.mark.parametrize("moment", ["replace", "unlink"])
def test_killed_between_the_writing_and_the_tidying(tmp_path: Path, moment: str) -> None:
    for step in (1, 2):
        save(tmp_path, step)

    def dies() -> None:
        os.replace = Path.unlink = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        if moment == "unlink":
            os.replace = os.rename
        save(tmp_path, 3)

    assert in_child(dies) == -signal.SIGKILL
    assert newest_step(tmp_path) == (3 if moment == "unlink" else 2)
    save(tmp_path, 4)
    assert len(files(tmp_path)) == 2
    assert not list(tmp_path.glob("*.part"))


def test_a_full_disk_is_said_and_costs_nothing(tmp_path: Path) -> None:
    save(tmp_path, 1)
    size = files(tmp_path)[0].stat().st_size

    def finds_no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, resource.RLIM_INFINITY))
        with Checkpoints(tmp_path, CONFIGURATION) as checkpoints:
            try:
                checkpoints.save(2, tensors(2), {"step": 2})
            except InputError as error:
                os._exit(3 if "step 2 cannot be saved" in str(error) else 4)

    assert in_child(finds_no_room) == 3
    assert newest_step(tmp_path) == 1
    assert not list(tmp_path.glob("*.part"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    damage(files(tmp_path)[1])
    with caplog.at_level(logging.WARNING):
        assert newest_step(tmp_path) == 1
    assert "000000002-" in caplog.text
    assert "damaged" in caplog.text


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 1 << 60),
        {"a": FOUR | {"data_offsets": [0, 16]}, "b": FOUR | {"data_offsets": [8, 24]}},
        {"a": FOUR | {"shape": [1 << 40], "data_offsets": [0, 24]}},
        {"a": FOUR | {"shape": [6], "data_offsets": [0, 24]}},
    ],
    ids=["oversized header", "overlap", "wrong shape", "no facts"],
)
def test_a_forged_file_is_passed_over(tmp_path: Path, header: bytes | dict[str, object]) -> None:
    save(tmp_path, 1)
    encoded = b"" if isinstance(header, bytes) else json.dumps(header).encode()
    raw = (header if isinstance(header, bytes) else struct.pack("<Q", len(encoded)) + encoded) + bytes(24)
    (tmp_path / f"000000002-{hashlib.sha256(raw).hexdigest()}.safetensors").write_bytes(raw)
    assert newest_step(tmp_path) == 1


def test_another_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    save(tmp_path, 1)
    changed = {"joint": {"lr": 0.2, "steps": 10, "clip": 1}, "seed": 0}
    with (
        Checkpoints(tmp_path, changed) as checkpoints,
        pytest.raises(InputError, match=r"joint\.clip \(none\) -> 1, joint\.lr 0\.1 -> 0\.2; .*delete the folder"),
    ):
        checkpoints.newest()
    assert newest_step(tmp_path) == 1


def test_a_second_process_is_refused_and_a_dead_one_forgotten(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, CONFIGURATION), pytest.raises(InputError, match=f"in use by process {os.getpid()} on "):
        Checkpoints(tmp_path, CONFIGURATION).__enter__()

    def dies_holding_it() -> None:
        Checkpoints(tmp_path, CONFIGURATION).__enter__()
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(dies_holding_it) == -signal.SIGKILL
    save(tmp_path, 1)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"resume: cannot be written \(Not a directory\)"):
        Checkpoints(tmp_path / "file" / "resume", {}).__enter__()


def test_state_and_clearing(tmp_path: Path) -> None:
    folder = tmp_path / "resume"
    with Checkpoints(folder, {}) as checkpoints:
        checkpoints.note("requeue", done=3)
    assert json.loads((folder / "state.json").read_text()) == {"state": "requeue", "done": 3}
    clear(folder)
    assert not folder.exists()
    clear(folder)
