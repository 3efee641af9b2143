"""Charts of an evaluation as SVG: differences with their intervals, one under the other, and curves of several methods with a key.

In: numbers and names. Out: Html; like `charts`, drawn here and not by a script.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lurm.report.map_data import colour_of
from lurm.report.page import Html, figure, tag

WIDTH, NAMES, FIGURES, ROW = 640.0, 170.0, 130.0, 20.0
FARTHEST = 12.0  # what lies farther from 0 is drawn at the edge, so that it does not squeeze the others; its figures are written out
HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 260.0, 44.0, 12.0, 10.0, 38.0


@dataclass(frozen=True)
class Estimate:
    """One line of a forest plot; in the unit of the axis."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """One method; its points in the order of x."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


def forest(rows: Sequence[Estimate], label: str) -> Html:
    """Estimates with their intervals around a line at 0; colours say whether an interval lies above or below 0."""
    rows = [row for row in rows if all(math.isfinite(value) for value in (row.value, row.low, row.high))]
    if not rows:
        return tag("p", "Nothing to compare.", class_="quiet")
    low, high = max(-FARTHEST, min(0.0, *(row.low for row in rows))), min(FARTHEST, max(0.0, *(row.high for row in rows)))
    room = max((high - low) * 0.04, 1e-9)
    low, high, height = low - room, high + room, ROW * len(rows) + 26

    def at(value: float) -> float:
        value = min(high, max(low, value))
        return NAMES + (value - low) / (high - low) * (WIDTH - NAMES - FIGURES)

    parts = []
    for tick in ticks(low, high, 6):
        parts += [tag("line", class_="grid" if tick else "axis", x1=_n(at(tick)), x2=_n(at(tick)), y1="4", y2=_n(height - 20)),
                  _text(at(tick), height - 6, f"{tick:+g}" if tick else "0", "middle")]
    for place, row in enumerate(rows):
        y, side = ROW * place + 14, "good" if row.low > 0 else "bad" if row.high < 0 else "none"
        told = f"{row.value:+.1f} [{row.low:+.1f}, {row.high:+.1f}]"
        parts.append(tag(
            "g", tag("title", f"{row.name}: {told}"), _text(NAMES - 8, y + 3.5, row.name if len(row.name) <= 30 else row.name[:29] + "…", "end"),
            tag("line", x1=_n(at(row.low)), x2=_n(at(row.high)), y1=_n(y), y2=_n(y), stroke="currentColor", stroke_width="2"),
            tag("circle", cx=_n(at(row.value)), cy=_n(y), r="3.4", fill="currentColor"), _text(WIDTH - FIGURES + 10, y + 3.5, told, "start"),
            class_=side, color=f"var(--{'faint' if side == 'none' else side})",
        ))
    return tag("svg", *parts, viewBox=f"0 0 {_n(WIDTH)} {_n(height)}", role="img", aria_label=label, class_="chart")


def curves(lines: Sequence[Curve], label: str, x_name: str, logarithmic: bool = True) -> Html:
    """Lines with a point for each figure; `label` says in words what is seen. x is drawn by its logarithm unless told otherwise."""
    scale = math.log if logarithmic else float
    points = [(scale(x), y) for line in lines for x, y in zip(line.xs, line.ys, strict=True) if math.isfinite(y)]
    if not points:
        return tag("p", "Nothing to draw: no method has figures of this kind.", class_="quiet")
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    low_y, high_y = min(y for _, y in points), max(y for _, y in points)
    room = max((high_y - low_y) * 0.06, 0.2)
    low_y, high_y = low_y - room, high_y + room

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = (scale(x) - low_x) / max(high_x - low_x, 1e-12), (y - low_y) / (high_y - low_y)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in ticks(low_y, high_y, 5):
        _, y = at(math.exp(low_x) if logarithmic else low_x, tick)
        parts += [tag("line", class_="grid", x1=_n(LEFT), x2=_n(WIDTH - RIGHT), y1=_n(y), y2=_n(y)), _text(LEFT - 6, y + 3.5, f"{tick:g}", "end")]
    shown: list[float] = []
    for x in sorted({x for line in lines for x in line.xs}):
        place, _ = at(x, low_y)
        if not shown or place - shown[-1] > 34:
            shown.append(place)
            parts.append(_text(place, HEIGHT - BOTTOM + 15, figure(x), "middle"))
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 6, x_name, "end"))
    for place, line in enumerate(lines):
        colour = colour_of(place)
        places = [at(x, y) for x, y in zip(line.xs, line.ys, strict=True) if math.isfinite(y)]
        parts.append(tag("polyline", class_="line", style=f"stroke:{colour}", points=" ".join(f"{_n(x)},{_n(y)}" for x, y in places)))
        parts += [tag("circle", tag("title", f"{line.name}: {y:.1f} at {figure(x)}"), cx=_n(at(x, y)[0]), cy=_n(at(x, y)[1]), r="3", fill=colour)
                  for x, y in zip(line.xs, line.ys, strict=True) if math.isfinite(y)]
    picture = tag("svg", *parts, viewBox=f"0 0 {_n(WIDTH)} {_n(HEIGHT)}", role="img", aria_label=label, class_="chart")
    key = [tag("span", tag("span", class_="dot", style=f"--dot:{colour_of(place)}"), f" {line.name}") for place, line in enumerate(lines)]
    return tag("div", picture, tag("p", *_spaced(key), class_="quiet"))


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers within [low, high], at most about `most`."""
    step = 10 ** math.floor(math.log10(max(high - low, 1e-12)))
    for share in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0):
        if (high - low) / (step * share) <= most:
            step *= share
            break
    return [round(place * step, 10) for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _spaced(parts: Sequence[Html]) -> list[object]:
    return [piece for part in parts for piece in (part, "  ")]


def _text(x: float, y: float, words: str, anchor: str) -> Html:
    return tag("text", words, x=_n(x), y=_n(y), text_anchor=anchor)


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
