"""Where a result comes from: the commit, the digests of what was read; and what must never be written down."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loupe.errors import InputError

_WHOLE = 64 << 20
_BLOCK = 1 << 20
_SECRET = re.compile(r"token|secret|passw|api_?key|access_?key|private_?key|credential", re.IGNORECASE)
_HIDDEN = "(hidden)"
_URL_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")


def commit() -> str | None:
    """The project's git commit, with "-dirty" behind it where tracked files differ; None outside git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def digest(path: Path) -> str:
    """The digest of a file, or of a folder: of all relative names in order, each with its content's digest.

    Of a file above 64 MiB the size and 64 blocks of 1 MiB, evenly spread from head to tail, stand for the content, and
    the digest says so by starting with "sampled-sha256:" instead of "sha256:". Raises `InputError` if there is nothing.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; run the step that makes it")
    files = [path] if not path.is_dir() else sorted(inner for inner in path.rglob("*") if inner.is_file())
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(path).as_posix()}\n{_content_digest(file)}\n".encode())
    sampled = any(file.stat().st_size > _WHOLE for file in files)
    return f"{'sampled-' if sampled else ''}sha256:{total.hexdigest()}"


def _content_digest(path: Path) -> str:
    size = path.stat().st_size
    with open(path, "rb") as file:
        if size <= _WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        content = hashlib.sha256(str(size).encode())
        for block in range(64):
            file.seek((size - _BLOCK) * block // 63)
            content.update(file.read(_BLOCK))
        return content.hexdigest()


def without_secrets(value: Any) -> Any:
    """The value with every secret in it replaced by "(hidden)", through nested mappings and lists.

    Secrets are: text under a key that names one (token, password ...), what the environment holds under such a name,
    and the login in a URL.
    """
    if isinstance(value, Mapping):
        return {
            k: _HIDDEN if isinstance(v, str) and _SECRET.search(str(k)) else without_secrets(v)
            for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(inner) for inner in value]
    if not isinstance(value, str):
        return value
    for name, secret in os.environ.items():
        if _SECRET.search(name) and len(secret) >= 6:
            value = value.replace(secret, _HIDDEN)
    return _URL_LOGIN.sub(f"{_HIDDEN}@", value)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined with dots.

    >>> flat({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    pairs: dict[str, Any] = {}
    for key, value in values.items():
        pairs |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return pairs
