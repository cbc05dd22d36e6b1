"""Checkpoints: whatever happens to a save or to a file, a sound checkpoint is found again, or a clear line is said."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import multiprocessing
import os
import resource
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from loupe import checkpoint
from loupe.checkpoint import Checkpoints, clear
from loupe.errors import InputError

FOUR = {"dtype": "F32", "shape": [4]}
TWO = {"dtype": "F32", "shape": [2]}
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


def leftovers(folder: Path) -> list[str]:
    """What lies there beside the checkpoints and the two small files that belong there."""
    expected = {"lock", "state.json", *(path.name for path in files(folder))}
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name not in expected)


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
    assert leftovers(tmp_path) == []


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
    assert leftovers(tmp_path) == []


def test_what_a_killed_save_left_behind_goes_with_the_next_one(tmp_path: Path) -> None:
    """The library writes to a temporary file of its own, under a new name every time."""

    def dies() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        with Checkpoints(tmp_path, CONFIGURATION) as checkpoints:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
            checkpoints.save(2, tensors(2), {"step": 2})

    assert in_child(dies) == -signal.SIGXFSZ
    assert leftovers(tmp_path) != []
    save(tmp_path, 3)
    assert leftovers(tmp_path) == []


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The file system becomes read-only for whoever opens anything in it; what is open already stays so."""
    for options in (["--bind", str(folder)], ["-o", "remount,bind,ro"]):
        subprocess.run(["mount", *options, str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Not a byte is left on the file system."""
    with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(1024))
    yield
    (folder / "filler").unlink()


@pytest.mark.parametrize(("trouble", "reason"), [(read_only, "Read-only file system"), (full, "the disk is full")])
def test_a_file_system_that_refuses_in_mid_life_is_said_and_costs_nothing(
    small_disk: Path, trouble: Callable[[Path], AbstractContextManager[None]], reason: str
) -> None:
    folder = small_disk / "resume"
    with Checkpoints(folder, CONFIGURATION) as checkpoints:
        checkpoints.save(1, tensors(1), {"step": 1})
        checkpoints.note("running", done=1)
        with trouble(small_disk):
            refused(lambda: checkpoints.save(2, tensors(2), {"step": 2}), f"{folder}: step 2 cannot be saved ({reason}")
            refused(lambda: checkpoints.note("requeue"), f"{folder}: state.json cannot be written ({reason})")
            refused(lambda: save(small_disk / "other", 1), f"{small_disk / 'other'}: cannot be written ({reason})")
        assert json.loads((folder / "state.json").read_text()) == {"state": "running", "done": 1}
        checkpoints.note("complete")
    assert newest_step(folder) == 1
    assert leftovers(folder) == []


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EROFS])
def test_a_save_that_fails_half_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As a quota does; and as a network's file system does that becomes read-only and cannot be tidied up, either."""
    save(tmp_path, 1)

    def half(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(bytes(1000))
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", half)
        if number == errno.EROFS:
            for name in ("unlink", "rmdir"):
                patch.setattr(os, name, Mock(side_effect=OSError(number, os.strerror(number))))
        reason = "the disk quota is used up" if number == errno.EDQUOT else "Read-only file system"
        refused(lambda: save(tmp_path, 2), f"{tmp_path}: step 2 cannot be saved ({reason}); ")
        assert (leftovers(tmp_path) == []) == (number == errno.EDQUOT)
    assert newest_step(tmp_path) == 1
    save(tmp_path, 2)
    assert leftovers(tmp_path) == []


def refused(work: Callable[[], object], message: str) -> None:
    """One line that begins like this and says that nothing is lost."""
    with pytest.raises(InputError) as caught:
        work()
    assert str(caught.value).startswith(message), caught.value
    assert str(caught.value).endswith("earlier checkpoints are kept")
    assert "\n" not in str(caught.value)


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


def forge(folder: Path, header: bytes | Mapping[str, object]) -> None:
    """A file under the right digest: 24 zeros behind the header, whose facts are those that `newest_step` expects."""
    if not isinstance(header, bytes):
        facts = json.dumps({"step": 2, "configuration": {"joint.lr": 0.1, "joint.steps": 10, "seed": 0}})
        encoded = json.dumps({"__metadata__": {"facts": facts}, **header}).encode()
        header = struct.pack("<Q", len(encoded)) + encoded
    raw = header + bytes(24)
    (folder / f"000000002-{hashlib.sha256(raw).hexdigest()}.safetensors").write_bytes(raw)


def test_a_well_formed_file_is_taken(tmp_path: Path) -> None:
    """So those below are refused for what is wrong with them and for nothing else."""
    save(tmp_path, 1)
    forge(tmp_path, {"a": FOUR | {"data_offsets": [0, 16]}, "b": TWO | {"data_offsets": [16, 24]}})
    with Checkpoints(tmp_path, CONFIGURATION) as checkpoints:
        found = checkpoints.newest()
    assert found is not None
    assert found.facts == {"step": 2}
    assert {name: tensor.tolist() for name, tensor in found.tensors.items()} == {"a": [0] * 4, "b": [0] * 2}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (struct.pack("<Q", 1 << 60), "too large"),
        ({"a": FOUR | {"data_offsets": [0, 16]}, "b": FOUR | {"data_offsets": [8, 24]}}, "offset"),
        ({"a": FOUR | {"data_offsets": [0, 16]}, "b": TWO | {"data_offsets": [8, 16]}}, "offset"),
        ({"a": FOUR | {"shape": [1 << 40], "data_offsets": [0, 24]}}, "shape"),
        ({"a": FOUR | {"shape": [1 << 62, 1 << 62], "data_offsets": [0, 24]}}, "overflow"),
        ({"a": {"dtype": "X9", "shape": [6], "data_offsets": [0, 24]}}, "unknown variant"),
        ({"__metadata__": {}, "a": FOUR | {"shape": [6], "data_offsets": [0, 24]}}, "no facts"),
    ],
    ids=["oversized header", "overlap", "overlap and gap", "wrong shape", "huge shape", "unknown type", "no facts"],
)
def test_a_forged_file_is_passed_over(
    tmp_path: Path, header: bytes | dict[str, object], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1)
    forge(tmp_path, header)
    assert newest_step(tmp_path) == 1
    assert reason in caplog.text.lower()


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
