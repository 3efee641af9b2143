"""How many users and events every interest has, and whether it grows.

In: the monthly bags before a date. Out: four numbers for each of D interests. Lives are streamed, a few users at a time; a user lies in
one bucket, so a user is counted once however many months hold the interest.
"""

import logging
import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lurm.bag_of_interests import read_lives
from lurm.config import fingerprint
from lurm.manifest import Snapshot
from lurm.periods import month_name, month_number
from lurm.report.kept_tables import kept_table
from lurm.schema import MONTH
from lurm.store import Store

log = logging.getLogger("lurm")
COMPARED_MONTHS = 3
SECONDS_BETWEEN_REPORTS = 5.0


@dataclass(frozen=True)
class InterestCounts:
    """Counts of D interests; all (D,) int64."""

    users: np.ndarray  # distinct users with an event of the interest
    events: np.ndarray  # weights applied
    recent: np.ndarray  # events of the last three closed months
    earlier: np.ndarray  # events of the three months before those
    n_users: int  # users with any interest
    recent_months: tuple[str, str]  # first and last, YYYY-MM
    earlier_months: tuple[str, str]

    def shown(self, min_users: int) -> np.ndarray:
        """(D,) bool: interests that so many users have; of the others nothing may be told but that they are there."""
        return self.users >= min_users

    def growth(self) -> np.ndarray:
        """(D,) float64: log2 of recent over earlier events, each plus one so that rare interests do not explode."""
        return np.log2((self.recent + 1.0) / (self.earlier + 1.0))


def compared_months(as_of: str) -> tuple[range, range]:
    """Numbers of the last three months closed before `as_of`, and of the three before them."""
    end = month_number(as_of)
    return range(end - COMPARED_MONTHS, end), range(end - 2 * COMPARED_MONTHS, end - COMPARED_MONTHS)


def count_interests(store: Store, bags: Snapshot, n_interests: int, as_of: str) -> InterestCounts:
    """Stream all lives and count; `bags` are those of the months before `as_of`. Memory: D and a few users."""
    recent_months, earlier_months = compared_months(as_of)
    users, events, recent, earlier = (np.zeros(n_interests, np.int64) for _ in range(4))
    n_users, told = 0, time.monotonic()
    for by_scale, _ in read_lives(store, bags):
        lives = by_scale[MONTH]
        rows = np.diff(lives.offsets)
        owners = np.repeat(np.repeat(np.arange(lives.n_users), np.diff(lives.row_offsets)), rows)
        months, interests = np.repeat(lives.periods, rows), lives.interest_ids.astype(np.int64)
        _add(users, np.unique(owners * n_interests + interests) % n_interests)
        _add(events, interests, lives.counts)
        for total, compared in ((recent, recent_months), (earlier, earlier_months)):
            chosen = (months >= compared.start) & (months < compared.stop)
            _add(total, interests[chosen], lives.counts[chosen])
        n_users += int((np.diff(lives.row_offsets) > 0).sum())
        if time.monotonic() - told >= SECONDS_BETWEEN_REPORTS:
            told = time.monotonic()
            log.info("counting interests: %s users so far", f"{n_users:,}")
    return InterestCounts(users, events, recent, earlier, n_users, _ends(recent_months), _ends(earlier_months))


def kept_counts(store: Store, bags: Snapshot, n_interests: int, as_of: str) -> InterestCounts:
    """`count_interests`, kept in the warehouse by the content of the bags."""
    key = "counts-" + fingerprint(bags.digest(), n_interests, as_of)

    def compute() -> pa.Table:
        counts = count_interests(store, bags, n_interests, as_of)
        columns = {name: getattr(counts, name) for name in ("users", "events", "recent", "earlier")}
        return pa.table(columns).replace_schema_metadata({"n_users": str(counts.n_users)})

    table = kept_table(store, "interest_counts", key, compute)
    recent_months, earlier_months = compared_months(as_of)
    columns = [table.column(name).to_numpy() for name in ("users", "events", "recent", "earlier")]
    return InterestCounts(*columns, int(table.schema.metadata[b"n_users"]), _ends(recent_months), _ends(earlier_months))


def _add(total: np.ndarray, interests: np.ndarray, amounts: np.ndarray | int = 1) -> None:
    """Add amounts to some cells; costs what is added and not what is there, for D is large and a batch is small."""
    cells, places = np.unique(interests, return_inverse=True)
    weights = None if isinstance(amounts, int) else amounts.astype(np.float64)
    total[cells] += np.bincount(places, weights=weights, minlength=len(cells)).astype(np.int64)


def _ends(months: range) -> tuple[str, str]:
    return month_name(months[0]), month_name(months[-1])
