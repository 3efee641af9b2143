"""Positive pairs for SMEN: two windows of one user's life.

In: monthly Lives of users, a random generator. Out: for each user two continuous windows on month boundaries, as bags on the grid.

A window lies inside the active span, from the user's first to the last active month, S months with both ends. Its length is a uniform
integer from max(min_window_months, ceil(min_window_share x S)) to S, its start is uniform among those that let it hold at least one
active month, and its end is its own reference date. A pair is disjoint with probability `disjoint_share` where the span has room for
two shortest windows: a cut is drawn uniformly among those that leave the room on both sides, and one window is drawn in each part
(the first active month lies in the one, the last in the other). The two windows of other pairs are drawn independently and mostly overlap.
"""

from dataclasses import dataclass

import numpy as np

from lurm.bag_of_interests import Lives
from lurm.config import SmenSettings
from lurm.schema import MONTH, YEAR
from lurm.smen.batches import SparseBags, month_bags, select_rows, year_bags

Bags = tuple[SparseBags | None, SparseBags | None]  # months, years
TRIES = 8


@dataclass(frozen=True)
class Windows:
    """W windows: months [starts, ends) of users[w], a position in the Lives they were drawn from; all (W,) int64."""

    users: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def take(self, chosen: np.ndarray | slice) -> "Windows":
        return Windows(self.users[chosen], self.starts[chosen], self.ends[chosen])


def trainable_users(lives: Lives) -> np.ndarray:
    """Positions of the users with at least two active months; the others have no pair of windows that differ."""
    return np.flatnonzero(np.diff(lives.row_offsets) >= 2)


def windows_of(lives: Lives, rng: np.random.Generator, settings: SmenSettings, grid_start: int) -> tuple[Bags, Bags]:
    """A pair of windows for every user, as the bags of the left ones and of the right ones, in the users' order."""
    left, right = draw_windows(lives, rng, settings)
    return bags_of_windows(lives, left, settings, grid_start), bags_of_windows(lives, right, settings, grid_start)


def draw_windows(lives: Lives, rng: np.random.Generator, settings: SmenSettings) -> tuple[Windows, Windows]:
    """Two windows for every user; every user needs at least one active month."""
    users = np.arange(len(lives.user_ids))
    begin = lives.periods[lives.row_offsets[:-1]].astype(np.int64)
    end = lives.periods[lives.row_offsets[1:] - 1].astype(np.int64) + 1
    span = end - begin
    shortest = np.maximum(settings.min_window_months, np.ceil(settings.min_window_share * span - 1e-9).astype(np.int64))
    shortest = np.minimum(shortest, span)
    disjoint = (span >= 2 * shortest) & (rng.random(len(users)) < settings.disjoint_share)
    cut = begin + shortest + rng.integers(0, np.where(disjoint, span - 2 * shortest, 0) + 1)
    left = _draw(lives, users, begin, np.where(disjoint, cut, end), shortest, rng)
    right = _draw(lives, users, np.where(disjoint, cut, begin), end, shortest, rng)
    return left, right


def bags_of_windows(lives: Lives, windows: Windows, settings: SmenSettings, grid_start: int) -> Bags:
    """Bags of each window, in order; a scale that the settings leave out is None."""
    starts, stops = _rows(lives, windows.users, windows.starts), _rows(lives, windows.users, windows.ends)
    cut = select_rows(lives, windows.users, starts, stops)
    scales = settings.scales.split("+")
    months = month_bags(cut, grid_start, windows.ends) if MONTH in scales else None
    years = year_bags(cut, grid_start, windows.ends, settings.year_blocks) if YEAR in scales else None
    return months, years


def _draw(
    lives: Lives, users: np.ndarray, begin: np.ndarray, end: np.ndarray, shortest: np.ndarray, rng: np.random.Generator
) -> Windows:
    """One window of at least `shortest` months inside [begin, end) of each user, with an active month in it."""
    length = rng.integers(shortest, end - begin + 1)
    start = rng.integers(begin, end - length + 1)
    for _ in range(TRIES):
        silent = _rows(lives, users, start) == _rows(lives, users, start + length)
        if not silent.any():
            return Windows(users, start, start + length)
        start = np.where(silent, rng.integers(begin, end - length + 1), start)
    # Long silences remain: put the window around an active month of the part, drawn uniformly.
    silent = _rows(lives, users, start) == _rows(lives, users, start + length)
    active = lives.periods[rng.integers(_rows(lives, users, begin), _rows(lives, users, end))]
    around = rng.integers(np.maximum(begin, active - length + 1), np.minimum(active, end - length) + 1)
    start = np.where(silent, around, start)
    return Windows(users, start, start + length)


def _rows(lives: Lives, users: np.ndarray, months: np.ndarray) -> np.ndarray:
    """First row of each user at or after a month (or the user's end): one binary search over (user, month) for all."""
    width = int(max(lives.periods.max(initial=0), months.max(initial=0))) + 2
    owners = np.repeat(np.arange(len(lives.user_ids)), np.diff(lives.row_offsets))
    return np.searchsorted(owners * width + lives.periods, users * width + months)
