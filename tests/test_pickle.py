"""Nothing that the project reads is unpickled: a pickle may run any program."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("loupe", "steps", "workflow") for path in (ROOT / folder).rglob("*.py"))
PICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
# Readers that can unpickle: the option that decides, its safe value, and whether it must be given.
READERS = {"torch.load": ("weights_only", True, True), "np.load": ("allow_pickle", False, False)}
LONG_NAMES = {"numpy": "np"}


def unpickling(source: str) -> Iterator[str]:
    """Each place in a program that may unpickle: its line, and what stands there."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found = [alias.name for alias in names if alias.name.split(".")[0] in PICKLERS]
            case ast.ImportFrom(module=str(module), names=names):
                # A reader under a bare name would be overlooked below.
                full = [f"{LONG_NAMES.get(module, module)}.{alias.name}" for alias in names]
                found = [name for name in full if name.split(".")[0] in PICKLERS or name in READERS]
            case ast.Call():
                found = [ast.unparse(node)] if is_unsafe(node) else []
            case ast.Attribute(attr="read_pickle" | "to_pickle"):
                found = [ast.unparse(node)]
            case _:
                found = []
        yield from (f"line {node.lineno}: {name}" for name in found)


def is_unsafe(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    head, _, rest = name.partition(".")
    option, safe, needed = READERS.get(f"{LONG_NAMES.get(head, head)}.{rest}", ("", False, False))
    given = [keyword.value for keyword in call.keywords if keyword.arg == option]
    unknown = any(keyword.arg is None for keyword in call.keywords)  # **options
    is_safe = all(isinstance(value, ast.Constant) and value.value is safe for value in given)
    return bool(option) and (unknown or not is_safe or (needed and not given))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled(path: Path) -> None:
    assert list(unpickling(path.read_text(encoding="utf8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import os, joblib.memory as memory",
        "from dill import loads",
        "from torch import load",
        "from numpy import load as read",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "torch.load(path, **options)",
        "np.load(path, allow_pickle=True)",
        "numpy.load(path, allow_pickle=1)",
        "def read():\n    return table.read_pickle(path)",
    ],
)
def test_what_would_be_found(line: str) -> None:
    assert len(list(unpickling(line))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "np.load(path, allow_pickle=False)",
        "from torch import nn",
    ],
)
def test_what_is_allowed(line: str) -> None:
    assert list(unpickling(line)) == []
