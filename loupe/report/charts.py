"""Line charts as inline SVG. Colours and type come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 26
_POINTS = 240
_COLOURS = 8


@dataclass(frozen=True)
class Chart:
    """Curves of one quantity: `svg`, and the `labels` of its lines in the order of their colours."""

    title: str
    svg: Markup
    labels: Sequence[str]


def draw(
    title: str,
    lines: Mapping[str, Points],
    logarithmic: bool = False,
    unit: str = "steps",
    across: Sequence[float] | None = None,
) -> Iterator[Chart]:
    """The chart of `lines`, see `line_chart`; none where there is nothing to draw."""
    svg = line_chart(lines, logarithmic, unit, across)
    if svg:
        yield Chart(title, Markup(svg), list(lines))


def line_chart(
    lines: Mapping[str, Points],
    logarithmic: bool = False,
    unit: str = "steps",
    across: Sequence[float] | None = None,
) -> str:
    """An SVG of the `lines` {label: [(step, value)]}, classed "s0", "s1" ... in their order for the style sheet.

    `unit` is what the steps are called; they go `across`, from first to last, or between round numbers. On a
    logarithmic axis only positive values count. Returns "" where there is nothing to draw.
    """
    curves = {label: _thinned(_drawable(points, logarithmic)) for label, points in lines.items()}
    steps = [step for points in curves.values() for step, _ in points]
    values = [value for points in curves.values() for _, value in points]
    if len(steps) < 2:
        return ""
    across, up = across or _axis(min(steps), max(steps)), _axis(min(values), max(values))
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(", ".join(curves))}">']
    parts += [_grid_line(up, value, logarithmic) for value in up]
    parts += [_step_label(across, across[0], "start", ""), _step_label(across, across[-1], "end", f" {unit}")]
    for index, (label, points) in enumerate(curves.items()):
        if not points:
            continue
        path = "".join(f"L{_x(across, step):.1f} {_y(up, value):.1f}" for step, value in points)
        parts.append(f'<path class="s{index % _COLOURS}" d="M{path[1:]}"><title>{escape(label)}</title></path>')
    return "".join([*parts, "</svg>"])


def _drawable(points: Points, logarithmic: bool) -> Points:
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    return [(step, math.log10(value)) for step, value in finite if value > 0] if logarithmic else finite


def _thinned(points: Points) -> Points:
    """At most 240 points: means over equal runs."""
    run = math.ceil(len(points) / _POINTS) or 1
    pieces = [points[start : start + run] for start in range(0, len(points), run)]
    return [(sum(p[0] for p in piece) / len(piece), sum(p[1] for p in piece) / len(piece)) for piece in pieces]


def _axis(low: float, high: float) -> list[float]:
    """Round values from below `low` to above `high`, three to seven of them."""
    span = high - low or abs(high) or 1.0
    unit = 10.0 ** math.floor(math.log10(span / 3))
    step = next(unit * factor for factor in (1, 2, 5, 10) if span / (unit * factor) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * index for index in range(first, max(last, first + 1) + 1)]


def _x(axis: Sequence[float], step: float) -> float:
    return _LEFT + (step - axis[0]) / (axis[-1] - axis[0]) * (_WIDTH - _LEFT - _RIGHT)


def _y(axis: Sequence[float], value: float) -> float:
    return _HEIGHT - _BOTTOM - (value - axis[0]) / (axis[-1] - axis[0]) * (_HEIGHT - _TOP - _BOTTOM)


def _grid_line(axis: Sequence[float], value: float, logarithmic: bool) -> str:
    y = _y(axis, value)
    text = f"{10**value:.2g}" if logarithmic else f"{value:.6g}"
    line = f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'{line}<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>'


def _step_label(axis: Sequence[float], step: float, anchor: str, unit: str) -> str:
    text = f"{step / 1000:g}k" if step >= 1000 else f"{step:g}"
    return f'<text x="{_x(axis, step):.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{text}{unit}</text>'
