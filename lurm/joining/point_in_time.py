"""Which release an instant gets: the moves of the release pointer as a step function of time, with two clocks.

In: the rows of `releases`, oldest first. Out: the release that a reader opens, or for many instants at once (microseconds since 1970) the
release each of them gets. Event time asks what a vector has seen: events before the midnight (UTC) of its as_of. Publication time asks
when a reader could have had it: not before `released_at`. Nothing here reads a table.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from itertools import takewhile

import numpy as np

from lurm.errors import ConfigError

EVENT, PUBLICATION = "event", "publication"
CLOCKS = (EVENT, PUBLICATION)
NONE = -1  # no release


@dataclass(frozen=True)
class Timeline:
    """From `starts[i]` (int64 microseconds since 1970, ascending) on, an instant gets `releases[chosen[i]]`; NONE and before: nothing."""

    releases: tuple[dict, ...]
    starts: np.ndarray
    chosen: np.ndarray

    def at(self, micros: np.ndarray) -> np.ndarray:
        """(n,) int32 places in `releases` for (n,) int64 instants, NONE where there is no release."""
        places = np.searchsorted(self.starts, micros, side="right") - 1
        return np.where(places < 0, NONE, self.chosen[places] if len(self.chosen) else NONE).astype(np.int32)


def instant(value: str | date | datetime) -> datetime:
    """A moment with its zone, from ISO text, a date (its midnight) or a datetime; without a zone it is UTC. Raises ConfigError."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        moment = moment if isinstance(moment, datetime) else datetime.combine(moment, time())
    except (ValueError, TypeError):
        raise ConfigError(f"Expected a moment such as 2022-01-01T06:00:00+00:00, got {value!r}; write it so.") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def visible(history: Sequence[dict], at: datetime | None) -> list[dict]:
    """The moves that had been made at a moment (all of them without one).

    Epochs say the order, clocks of publishers may differ: a move is visible only when all moves before it are.
    """
    return list(history) if at is None else list(takewhile(lambda row: row["released_at"] <= at, history))


def opened(history: Sequence[dict], as_of: str | None = None, model: str | None = None) -> dict | None:
    """The release that a reader gets; None if there is none.

    Without a date: what the pointer names. With `model`: the newest date of that model which no rollback took back. With `as_of`: the
    newest date not after it, as its last move left it, also if a rollback took it back later: who names a date has chosen it.
    """
    rows = [row for row in history if model is None or row["model_id"] == model]
    if as_of is not None:
        return max((row for row in rows if row["as_of"] <= as_of), key=_order, default=None)
    if model is None:
        return next((row for row in reversed(rows) if row["current"]), None)
    taken_back = withdrawals(history)
    return max((row for row in rows if row["epoch"] not in taken_back), key=_order, default=None)


def withdrawals(history: Sequence[dict]) -> dict[int, dict]:
    """Epoch of every move that a later one took back -> that later move: the pointer went back to a date before that of the first."""
    found: dict[int, dict] = {}
    pointer = None
    for place, row in enumerate(history):
        if not row["current"]:
            continue
        if pointer is not None and row["as_of"] < pointer["as_of"]:
            for earlier in history[:place]:
                if earlier["as_of"] > row["as_of"]:
                    found.setdefault(earlier["epoch"], row)
        pointer = row
    return found


def timeline(history: Sequence[dict], newest: dict, clock: str = EVENT, allow_future_model: bool = False, model: str | None = None) -> Timeline:
    """What each instant gets among the releases that are not newer than `newest` (by as_of), of one model if it is named.

    EVENT: the newest release with as_of <= instant that no rollback took back. PUBLICATION: the same by the moves that had been made at the
    instant, so that a release counts from `released_at` until a rollback. Releases of a model trained on events at or after the instant
    are passed over unless `allow_future_model`; one that does not know its training date is older than such models.
    """
    rows = tuple(row for row in history if row["as_of"] <= newest["as_of"] and model in (None, row["model_id"]))
    taken_back = withdrawals(history)
    visible_from = _visible_from(history)
    begins: list[tuple[int, int]] = []
    ends: dict[int, int] = {}
    for place, row in enumerate(rows):
        back = taken_back.get(row["epoch"])
        chosen_by_hand = row["epoch"] == newest["epoch"]
        if clock == EVENT and back is not None and not chosen_by_hand:
            continue
        begin = midnight(row["as_of"])
        if not allow_future_model and row["trained_as_of"]:
            begin = max(begin, midnight(row["trained_as_of"]))
        if clock == PUBLICATION:
            begin = max(begin, visible_from[row["epoch"]])
            if back is not None:
                ends[place] = visible_from[back["epoch"]]
        begins.append((begin, place))
    return _sweep(rows, sorted(begins), ends)


def midnight(as_of: str) -> int:
    """Microseconds since 1970 of a date's midnight in UTC."""
    return int(np.datetime64(as_of, "us").astype(np.int64))


def _sweep(rows: tuple[dict, ...], begins: list[tuple[int, int]], ends: dict[int, int]) -> Timeline:
    """Walk through time with a heap of what can be had, the newest on top."""
    ranks = {place: rank for rank, place in enumerate(sorted(range(len(rows)), key=lambda place: _order(rows[place]), reverse=True))}
    starts, chosen, heap, entered = [], [], [], 0
    for now in sorted({moment for moment, _ in begins} | set(ends.values())):
        while entered < len(begins) and begins[entered][0] <= now:
            heapq.heappush(heap, (ranks[begins[entered][1]], begins[entered][1]))
            entered += 1
        while heap and ends.get(heap[0][1], now + 1) <= now:
            heapq.heappop(heap)
        best = heap[0][1] if heap else NONE
        if not chosen or chosen[-1] != best:
            starts.append(now)
            chosen.append(best)
    return Timeline(rows, np.asarray(starts, np.int64), np.asarray(chosen, np.int32))


def _visible_from(history: Sequence[dict]) -> dict[int, int]:
    """Epoch -> microseconds since 1970 from which a move and all before it are visible."""
    found, latest = {}, None
    for row in history:
        latest = row["released_at"] if latest is None else max(latest, row["released_at"])
        since = latest.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        found[row["epoch"]] = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return found


def _order(row: dict) -> tuple[str, int]:
    return row["as_of"], row["epoch"]
