"""What the map of interests shows, in the few bytes that 10^5 points may take, and nothing of interests that few users have.

In: places, counts, anchors and names of D interests. Out: plain data for `map.js`. Numbers travel as base64 of little-endian arrays, names
and titles as text. An interest with fewer than `min_users` users is a place in the plane and nothing else: no name, no title, no count.
Points are ordered by users, so that a small one is drawn over a large one and the first ones are those to draw where there is time for some
only. Equals stand in a random order that is always the same: by id they would lie together, and some of them would be one corner of the map.
"""

import base64

import numpy as np

from lurm.report.interest_counts import InterestCounts
from lurm.report.interest_names import InterestNames

# Ten calm colours that can be told apart on paper white and on ink; further anchors go around the circle of hues.
COLOURS = ("#4C78A8", "#E0862F", "#54A24B", "#C9504F", "#8B6FB8", "#3FA7A3", "#B88A1E", "#D873A6", "#8A6D5C", "#7A8793")
FULL_TITLES = 20_000  # with more interests than this, one short title each: a page must still open on a phone
SHORT_TITLE = 56
PLACES = 65_535


def colour_of(anchor: int) -> str:
    """The colour of an anchor, the same wherever it is shown."""
    return COLOURS[anchor] if anchor < len(COLOURS) else f"hsl({anchor * 137 % 360}, 42%, 52%)"


def map_data(layout: np.ndarray, counts: InterestCounts, alpha: np.ndarray, names: InterestNames, min_users: int) -> dict:
    """Plain data of the map; layout (D, 2), alpha (D, M). `min_users` must be at least 1."""
    if min_users < 1:
        raise ValueError(f"Expected min_users of at least 1, got {min_users}.")
    shown = counts.shown(min_users)
    order = np.lexsort((np.random.default_rng(0).permutation(len(shown)), -counts.users * shown))  # those that are not shown come last
    n_shown = int(shown.sum())
    mine = order[:n_shown]
    full = n_shown <= FULL_TITLES
    low, high = layout.min(axis=0), layout.max(axis=0)
    places = np.round((layout - low) / np.maximum(high - low, 1e-9).max() * PLACES)
    return {
        "n": len(order), "n_shown": n_shown, "min_users": min_users, "n_anchors": alpha.shape[1],
        "colours": [colour_of(anchor) for anchor in range(alpha.shape[1])],
        "recent": list(counts.recent_months), "earlier": list(counts.earlier_months),
        "ids": _packed(order, "<u4"), "x": _packed(places[order, 0], "<u2"), "y": _packed(places[order, 1], "<u2"),
        "users": _packed(counts.users[mine], "<u4"), "events": _packed(np.minimum(counts.events[mine], 2**32 - 1), "<u4"),
        "anchor": _packed(alpha[mine].argmax(axis=1), "<u2"), "share": _packed(np.round(alpha[mine].max(axis=1) * 255), "u1"),
        "growth": _packed(np.round(np.clip(counts.growth()[mine], -16, 16) * 256), "<i2"),
        "names": [names.name(interest) for interest in mine],
        "titles": [names.titles[interest] if full else [_short(title) for title in names.titles[interest][:1]] for interest in mine],
    }


def _short(title: str) -> str:
    return title if len(title) <= SHORT_TITLE else title[: SHORT_TITLE - 1].rstrip() + "…"


def _packed(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode()
