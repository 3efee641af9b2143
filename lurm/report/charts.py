"""Small charts as SVG: lines, bars, histograms. Drawn here and not by a script, so that they print and need nothing to be seen.

In: numbers. Out: Html. Colours are those of the page's style sheet, so charts follow light and dark.
"""

import math
from collections.abc import Sequence

from lurm.report.page import Html, figure, tag

WIDTH, HEIGHT = 320.0, 132.0
LEFT, RIGHT, TOP, BOTTOM = 36.0, 8.0, 8.0, 20.0


def line_chart(lines: Sequence[tuple[str, Sequence[float], Sequence[float]]], label: str, mark: float | None = None) -> Html:
    """Lines of (style class, x, y); `mark` draws an upright line at an x. `label` says in words what is seen, for those who cannot."""
    points = [(x, y) for _, xs, ys in lines for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]
    if not points:
        return tag("p", "No figures were kept.", class_="quiet")
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    low_y, high_y = _padded(min(y for _, y in points), max(y for _, y in points))

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - low_x) / max(high_x - low_x, 1e-12)
        up = (y - low_y) / (high_y - low_y)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [_grid(at, low_x, [low_y + (high_y - low_y) * share for share in (0.1, 0.5, 0.9)], high_x)]
    if mark is not None:
        x, _ = at(mark, low_y)
        parts.append(tag("line", class_="mark", x1=_n(x), x2=_n(x), y1=_n(TOP), y2=_n(HEIGHT - BOTTOM)))
    for style, xs, ys in lines:
        places = [at(x, y) for x, y in _thinned(xs, ys) if math.isfinite(y)]
        parts.append(tag("polyline", class_=f"line {style}", points=" ".join(f"{_n(x)},{_n(y)}" for x, y in places)))
    parts += [_text(LEFT, HEIGHT - 5, figure(low_x), "start"), _text(WIDTH - RIGHT, HEIGHT - 5, figure(high_x), "end")]
    return _picture(parts, label)


def histogram(counts: Sequence[int], end: float, label: str, style: str = "") -> Html:
    """Bars of counts over [0, end]."""
    highest, n_bars = max(max(counts, default=0), 1), max(1, len(counts))
    width, height = WIDTH, 64.0
    step = width / n_bars
    bars = [
        tag("rect", x=_n(place * step + 0.5), width=_n(max(step - 1, 0.5)), y=_n(height - 14 - (height - 18) * count / highest),
            height=_n((height - 18) * count / highest))
        for place, count in enumerate(counts) if count
    ]
    base = tag("line", class_="axis", x1="0", x2=_n(width), y1=_n(height - 14), y2=_n(height - 14))
    texts = [_text(0, height - 2, "0", "start"), _text(width, height - 2, figure(end, 2), "end")]
    return _picture([tag("g", *bars, class_=f"bars {style}"), base, *texts], label, height)


def columns(values: Sequence[float], names: Sequence[str], label: str, height: float = 76.0) -> Html:
    """Upright bars around zero, one a name; first and last are written out, all are told on hover."""
    low, high = min(0.0, *values), max(0.0, *values)
    span, room, step = max(high - low, 1e-12), height - 18, WIDTH / max(1, len(values))
    zero = 4 + room * high / span
    bars = []
    for place, (value, name) in enumerate(zip(values, names, strict=True)):
        size = room * abs(value) / span
        bars.append(tag("rect", tag("title", f"{name}: {value:+.3f}"), class_="up" if value >= 0 else "down", x=_n(place * step + 0.5),
                        width=_n(max(step - 1, 0.8)), y=_n(zero - size if value >= 0 else zero), height=_n(max(size, 0.6))))
    base = tag("line", class_="axis", x1="0", x2=_n(WIDTH), y1=_n(zero), y2=_n(zero))
    texts = [_text(0, height - 1, names[0], "start")] + ([_text(WIDTH, height - 1, names[-1], "end")] if len(names) > 1 else [])
    return _picture([tag("g", *bars, class_="bars"), base, *texts], label, height)


def meter(share: float, style: str = "", negative: bool = False) -> Html:
    """One flat bar, `share` of the full width in [0, 1]."""
    share = min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0
    bar = tag("rect", class_="down" if negative else "up", width=_n(max(100 * share, 0.6 if share else 0)), height="6", rx="1.5")
    return tag("svg", tag("rect", class_="track", width="100", height="6", rx="1.5"), bar, class_=f"meter {style}".strip(), viewBox="0 0 100 6",
               preserveAspectRatio="none", aria_hidden="true")


def _grid(at, low_x: float, values: Sequence[float], high_x: float) -> Html:
    parts = []
    for value in values:
        (left, y), (right, _) = at(low_x, value), at(high_x, value)
        parts += [tag("line", class_="grid", x1=_n(left), x2=_n(right), y1=_n(y), y2=_n(y)), _text(LEFT - 5, y + 3.5, figure(value, 3), "end")]
    return tag("g", *parts)


def _picture(parts: Sequence[Html], label: str, height: float = HEIGHT) -> Html:
    return tag("svg", *parts, viewBox=f"0 0 {_n(WIDTH)} {_n(height)}", role="img", aria_label=label, class_="chart")


def _text(x: float, y: float, words: str, anchor: str) -> Html:
    return tag("text", words, x=_n(x), y=_n(y), text_anchor=anchor)


def _padded(low: float, high: float) -> tuple[float, float]:
    room = max((high - low) * 0.06, abs(high) * 1e-3, 1e-9)
    return low - room, high + room


def _thinned(xs: Sequence[float], ys: Sequence[float], most: int = 300) -> list[tuple[float, float]]:
    """Means of neighbours, where there are more points than the chart has room for."""
    step = -(-len(xs) // most)
    chunks = [(xs[start : start + step], ys[start : start + step]) for start in range(0, len(xs), max(1, step))]
    return [(sum(x) / len(x), sum(y) / len(y)) for x, y in chunks]


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
