"""A threshold curve as an SVG picture for a page that has the colours: classes, and no colour of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import floor
from typing import Final

WIDTH: Final = 760
HEIGHT: Final = 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 92, 16, 46
_STEPS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
_APART: Final = 15
"""Pixels between two labels at the ends of lines."""


def draw(shifts: Sequence[int], series: Mapping[str, Sequence[float]]) -> str:
    """Lines over shifts (bits, ascending, two or more), each from 0 to 1; the scale begins below the lowest value.

    Hovering over a shift shows its values. Classes: `line` and `name` with `s1`, `s2`, ... in the order of the series.
    """
    step = next((one for one in _STEPS if (1 - _lowest(series)) / one <= 6), _STEPS[-1])
    bottom = max(0.0, floor(round(_lowest(series) / step, 6)) * step)
    if bottom == 1.0:
        bottom = 1 - step

    def across(bits: float) -> float:
        return _LEFT + (bits - shifts[0]) / (shifts[-1] - shifts[0]) * (WIDTH - _LEFT - _RIGHT)

    def down(value: float) -> float:
        return _TOP + (1 - value) / (1 - bottom) * (HEIGHT - _TOP - _BOTTOM)

    ticks = [bottom + step * number for number in range(round((1 - bottom) / step) + 1)]
    label = f"{', '.join(series)} over the shift of thresholds"
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">',
        *(_rule(down(tick), f"{tick:.3f}".rstrip("0").rstrip(".")) for tick in ticks),
        *(_mark(across(bits), signed(bits)) for bits in shifts if bits % 5 == 0),
        f'<text class="tick" x="{(_LEFT + WIDTH - _RIGHT) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">'
        "bits added to every linking threshold</text>",
        *_here(across, shifts),
        *_lines(across, down, shifts, series),
        *_hovers(across, shifts, series),
        "</svg>",
    ]
    return "\n".join(parts)


def signed(bits: int) -> str:
    """A shift as people write it."""
    return f"{bits:+d}".replace("-", "−") if bits else "0"


def _lowest(series: Mapping[str, Sequence[float]]) -> float:
    return min(min(values) for values in series.values())


def _rule(y: float, label: str) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    )


def _mark(x: float, label: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">{label}</text>'


def _here(across: Callable[[float], float], shifts: Sequence[int]) -> list[str]:
    """The rules as they are."""
    if not shifts[0] <= 0 <= shifts[-1]:
        return []
    x = across(0)
    return [
        f'<line class="here" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>',
        f'<text class="tick" x="{x + 5:.1f}" y="{HEIGHT - _BOTTOM - 8}">the rules as they are</text>',
    ]


def _lines(
    across: Callable[[float], float],
    down: Callable[[float], float],
    shifts: Sequence[int],
    series: Mapping[str, Sequence[float]],
) -> list[str]:
    """Each series with its name where it ends, names kept from lying on one another."""
    found = []
    ends = sorted(series, key=lambda name: down(series[name][-1]))
    places = spread([down(series[name][-1]) for name in ends], _APART)
    for number, (name, values) in enumerate(series.items(), 1):
        points = " ".join(f"{across(bits):.1f},{down(value):.1f}" for bits, value in zip(shifts, values, strict=True))
        found.append(f'<polyline class="line s{number}" points="{points}"/>')
        y = places[ends.index(name)]
        found.append(f'<text class="name s{number}" x="{WIDTH - _RIGHT + 8}" y="{y + 4:.1f}">{name}</text>')
    return found


def spread(places: Sequence[float], apart: float) -> list[float]:
    """Ascending places moved down as far as it takes to lie `apart` from one another."""
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + apart) if found else place)
    return found


def _hovers(
    across: Callable[[float], float], shifts: Sequence[int], series: Mapping[str, Sequence[float]]
) -> list[str]:
    width = min(across(later) - across(bits) for bits, later in pairwise(shifts))
    found = []
    for place, bits in enumerate(shifts):
        x = across(bits)
        said = ", ".join(f"{name} {values[place]:.4f}" for name, values in series.items())
        found.append(
            f'<g class="at"><line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
            f'<rect x="{x - width / 2:.1f}" y="{_TOP}" width="{width:.1f}" height="{HEIGHT - _TOP - _BOTTOM}">'
            f"<title>{signed(bits)} bits: {said}</title></rect></g>"
        )
    return found
