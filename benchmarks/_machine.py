"""What a machine can do at best, and what work asks of it: the floors that stand beside measured times."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from loupe.fields.radiance import Hits, RadianceField
from loupe.progress import peak_memory_mb

_LINE = 64  # bytes: less is not read from memory
_TRIES = 20


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call, the GPU's work included."""
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def products_per_second() -> float:
    """Floating-point operations a second in a product of large matrices."""
    a, b = (torch.rand(2048, 2048, device=device()) for _ in range(2))
    return 2 * 2048**3 / _least_seconds(lambda: a @ b)


def bytes_per_second() -> float:
    """Bytes read and written a second in a large copy."""
    source = torch.ones(1 << 26, device=device())
    target = torch.empty_like(source)
    return 2 * source.nbytes / _least_seconds(lambda: target.copy_(source))


def _least_seconds(function: Callable[[], object]) -> float:
    """The best of many calls: what the machine can do when nothing else asks for it."""
    return min(seconds(function) for _ in range(_TRIES))


def bytes_looked_up(field: RadianceField, hits: Hits) -> int:
    """What rendering reads of a field's table: a line of memory at each corner of every sample's cell for the density,
    and whole rows for the samples that count."""
    row = max(field.table.shape[1] * field.table.element_size(), _LINE)
    return 8 * (hits.asked * _LINE + len(hits.t) * row)


def peak() -> float:
    """The most memory so far, in GB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return peak_memory_mb() * (1 << 20) / 1e9
