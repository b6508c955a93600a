"""Lines on logarithmic axes, as SVG that any browser shows; no library needed for so little."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

__all__ = ["Line", "log_plot"]

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 30, 42
LEGEND = 24
# Told apart by people who do not see all colours, too (Okabe and Ito), and by their dashes in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("", "6 3", "2 2", "8 3 2 3", "12 3", "4 4", "1 3")


@dataclass(frozen=True, slots=True)
class Line:
    """Points of one line; those that are not positive have no place on logarithmic axes."""

    name: str
    points: Sequence[tuple[float, float]]

    def shown(self) -> list[tuple[float, float]]:
        """The points that have a place."""
        return [(x, y) for x, y in self.points if x > 0 and y > 0]


@dataclass(frozen=True, slots=True)
class _Axis:
    """From decade-like bounds to pixels."""

    low: float
    high: float
    start: float
    length: float

    def at(self, value: float) -> float:
        share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return self.start + share * self.length


def log_plot(panels: Sequence[tuple[str, Sequence[Line]]], *, x_title: str) -> str:
    """Panels side by side, ``(title, lines)`` each, with one legend below; the text of an SVG file."""
    width, height = WIDTH * max(len(panels), 1), HEIGHT + LEGEND
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, (title, lines) in enumerate(panels):
        parts.append(f'<g transform="translate({number * WIDTH} 0)">')
        parts += _panel(title, lines, x_title)
        parts.append("</g>")
    if panels:
        parts += _legend([line.name for line in panels[0][1]])
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(title: str, lines: Sequence[Line], x_title: str) -> Iterator[str]:
    yield f'<text x="{LEFT}" y="18" font-size="13" font-weight="bold">{escape(title)}</text>'
    points = [point for line in lines for point in line.shown()]
    if not points:
        yield f'<text x="{LEFT}" y="{HEIGHT / 2}">no data</text>'
        return
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low = 10 ** math.floor(math.log10(min(y for _, y in points)))
    y_high = 10 ** math.ceil(math.log10(max(y for _, y in points)))
    x_axis = _Axis(x_low, max(x_high, x_low * 2), LEFT, WIDTH - LEFT - RIGHT)
    y_axis = _Axis(y_low, max(y_high, y_low * 10), HEIGHT - BOTTOM, -(HEIGHT - TOP - BOTTOM))
    for value in sorted({x for x, _ in points}):
        at = x_axis.at(value)
        yield f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#eee"/>'
        yield f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{value:g}</text>'
    value = y_low
    while value <= y_axis.high * 1.001:
        at = y_axis.at(value)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 5}" y="{at + 4:.1f}" text-anchor="end">{_short(value)}</text>'
        value *= 10
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text x="{middle}" y="{HEIGHT - BOTTOM + 30}" text-anchor="middle">{escape(x_title)}</text>'
    for number, line in enumerate(lines):
        path = " ".join(f"{x_axis.at(x):.1f},{y_axis.at(y):.1f}" for x, y in line.shown())
        if path:
            yield f'<polyline points="{path}" fill="none" stroke-width="2" {_style(number)}/>'


def _legend(names: Sequence[str]) -> Iterator[str]:
    at, y = LEFT, HEIGHT + 8
    for number, name in enumerate(names):
        yield f'<line x1="{at}" x2="{at + 28}" y1="{y}" y2="{y}" stroke-width="2" {_style(number)}/>'
        yield f'<text x="{at + 34}" y="{y + 4}">{escape(name)}</text>'
        at += 60 + 7 * len(name)


def _style(number: int) -> str:
    return f'stroke="{COLOURS[number % len(COLOURS)]}" stroke-dasharray="{DASHES[number % len(DASHES)]}"'


def _short(value: float) -> str:
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:g}"
