"""Bags of interests (equation 4): integer counts per user, period and interest, as CSR arrays, as Arrow, as scipy matrices.

`log1p` comes last and lives in the model; what is kept here are counts, so bags of disjoint periods add: months to years, and to any
window. `Lives` is how bags travel between storage and the model.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse

from lurm.manifest import Snapshot
from lurm.periods import month_number
from lurm.schema import MONTH, TIMESTAMP
from lurm.staging import read_files, walk_sorted
from lurm.store import Store

FACTS = ["user_id", "n_events", "n_active_months", "first_event_at", "last_event_at"]


@dataclass(frozen=True)
class Lives:
    """Sparse bags of a set of users at one scale, CSR over rows; a row is one non-empty (user, period).

    Shapes: B users, R rows, nnz non-zeros.
    """

    user_ids: np.ndarray  # (B,) text
    row_offsets: np.ndarray  # (B+1,) int64: rows of user b are row_offsets[b]:row_offsets[b+1]
    periods: np.ndarray  # (R,) int32: month number or year number, ascending within a user
    offsets: np.ndarray  # (R+1,) int64: non-zeros of row r are offsets[r]:offsets[r+1]
    interest_ids: np.ndarray  # (nnz,) int32, ascending within a row
    counts: np.ndarray  # (nnz,) int32, > 0

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    def take(self, users: np.ndarray) -> "Lives":
        """The lives of some users, by position, in the order given."""
        users = np.asarray(users, dtype=np.int64)
        rows, row_offsets = _ranges(self.row_offsets, users)
        cells, offsets = _ranges(self.offsets, rows)
        return Lives(self.user_ids[users], row_offsets, self.periods[rows], offsets, self.interest_ids[cells], self.counts[cells])


def concatenate(lives: Sequence[Lives]) -> Lives:
    """Lives of several disjoint sets of users, one after the other."""

    def stack(name: str) -> np.ndarray:
        return np.concatenate([getattr(life, name) for life in lives])

    def stack_offsets(name: str) -> np.ndarray:
        lengths = np.concatenate([np.diff(getattr(life, name)) for life in lives])
        return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    return Lives(stack("user_ids"), stack_offsets("row_offsets"), stack("periods"), stack_offsets("offsets"), stack("interest_ids"),
                 stack("counts"))


def add_counts(user_ids: np.ndarray, periods: np.ndarray, interest_ids: np.ndarray, counts: np.ndarray) -> Lives:
    """Sum counts of equal (user, period, interest) and sort them into Lives; the inputs are parallel arrays of one cell each.

    This is the definition of a bag: `add_counts` of two sets of events together equals the sum of their bags.
    """
    names, users = np.unique(np.asarray(user_ids, dtype=object), return_inverse=True)
    order = np.lexsort((interest_ids, periods, users))
    users, periods, interest_ids, counts = users[order], periods[order], interest_ids[order], counts[order]
    new_row = _changes(users, periods)
    new_cell = new_row | _changes(interest_ids)
    cells, rows = np.flatnonzero(new_cell), np.flatnonzero(new_row)
    totals = np.add.reduceat(counts.astype(np.int64), cells) if len(cells) else np.zeros(0, np.int64)
    return Lives(
        names,
        np.searchsorted(users[rows], np.arange(len(names) + 1)).astype(np.int64),
        periods[rows].astype(np.int32),
        np.append(np.searchsorted(cells, rows), len(cells)).astype(np.int64),
        interest_ids[cells].astype(np.int32),
        totals.astype(np.int32),
    )


def to_csr(lives: Lives, n_interests: int, window: tuple[int, int] | None = None) -> scipy.sparse.csr_matrix:
    """Counts summed over periods, (B, n_interests) int64; `window` keeps the periods in [start, end)."""
    row_users = np.repeat(np.arange(lives.n_users), np.diff(lives.row_offsets))
    keep_rows = np.ones(len(lives.periods), dtype=bool)
    if window is not None:
        keep_rows = (lives.periods >= window[0]) & (lives.periods < window[1])
    cell_rows = np.repeat(np.arange(len(lives.periods)), np.diff(lives.offsets))
    keep = keep_rows[cell_rows]
    matrix = scipy.sparse.coo_matrix(
        (lives.counts[keep].astype(np.int64), (row_users[cell_rows[keep]], lives.interest_ids[keep])), shape=(lives.n_users, n_interests)
    )
    return matrix.tocsr()  # adds up equal cells


def read_lives(
    store: Store, bags: Snapshot, batch_rows: int = 16_384, users: Sequence[str] | None = None
) -> Iterator[tuple[dict[str, Lives], pa.Table]]:
    """Stream the lives of all users (or of some) in a part of the `bags` table, ascending by user within a bucket, memory bounded.

    Files are sorted by user and one bucket holds all periods of its users, so the files of a bucket are walked side by side. Yields,
    for a few users at a time, their lives by scale (the same users in the same order in all) and their facts: a table of user_id,
    n_events, n_active_months, first_event_at, last_event_at in that order.
    """
    scales = bags.values("scale")
    for bucket in sorted(bags.values("bucket"), key=int):
        streams = read_periods(store, bags.where(bucket=bucket), batch_rows, users)
        labels = list(streams)
        for pieces in walk_sorted(list(streams.values()), "user_id"):
            by_scale: dict[str, list] = {scale: [] for scale in scales}
            for position, batch in pieces:
                scale, number = labels[position]
                by_scale[scale].append((number, batch))
            facts = facts_of([batch for _, batch in by_scale[scales[0]]])  # of the months, where there are both
            names = facts.column("user_id").to_numpy()
            yield {scale: lives_of(parts, names) for scale, parts in by_scale.items()}, facts


def read_periods(
    store: Store, bags: Snapshot, batch_rows: int = 16_384, users: Sequence[str] | None = None
) -> dict[tuple[str, int], Iterator[pa.RecordBatch]]:
    """The rows of each period in one bucket of `bags`, sorted by user, by (scale, number of the period); together `batch_rows` at a time."""
    by_period: dict[tuple[str, str], list] = {}
    for file in bags.files:
        by_period.setdefault((file.partition["scale"], file.partition["period"]), []).append(file)
    wanted = None if users is None else pc.field("user_id").isin(pa.array(users, pa.string()))
    streams = {}
    for (scale, period), files in sorted(by_period.items()):
        uris = [f"{bags.root}/{file.path}" for file in sorted(files, key=lambda file: file.first_key or "")]
        number = month_number(period) if scale == MONTH else int(period) - 1970
        streams[scale, number] = read_files(store, uris, batch_rows=max(64, batch_rows // len(by_period)), filters=wanted)
    return streams


def read_csr(store: Store, bags: Snapshot, n_interests: int) -> tuple[np.ndarray, scipy.sparse.csr_matrix]:
    """All users of a part of the `bags` table, (B,) text, and their counts summed over its periods, (B, n_interests) int64.

    For analyses that hold everything in memory; `bags` should be of one scale, or events are counted once in each.
    """
    users, matrices = [], []
    for by_scale, _ in read_lives(store, bags):
        for lives in by_scale.values():
            lives = lives.take(np.flatnonzero(np.diff(lives.row_offsets)))
            users.append(lives.user_ids)
            matrices.append(to_csr(lives, n_interests))
    if not users:
        return np.zeros(0, dtype=object), scipy.sparse.csr_matrix((0, n_interests), dtype=np.int64)
    return np.concatenate(users), scipy.sparse.vstack(matrices, format="csr")


def batches_of(lives: Lives, facts: pa.Table) -> pa.RecordBatch:
    """Rows of the `bags` table (user_id, interest_ids, counts, n_events, first_event_at, last_event_at) from lives of at most one row a user."""
    offsets = pa.array(lives.offsets[lives.row_offsets].astype(np.int32))
    lists = [pa.ListArray.from_arrays(offsets, pa.array(values)) for values in (lives.interest_ids, lives.counts)]
    columns = [facts.column("user_id"), *lists, *(facts.column(name) for name in ("n_events", "first_event_at", "last_event_at"))]
    names = ["user_id", "interest_ids", "counts", "n_events", "first_event_at", "last_event_at"]
    return pa.table(columns, names=names).combine_chunks().to_batches()[0]


def sum_periods(lives: Lives) -> Lives:
    """The sum of all periods of every user, as one row a user with period 0 (none for a user without rows)."""
    row_users = np.repeat(np.arange(lives.n_users), np.diff(lives.row_offsets))
    users, interest_ids, counts = add_cells(np.repeat(row_users, np.diff(lives.offsets)), lives.interest_ids, lives.counts)
    ends = np.searchsorted(users, np.arange(lives.n_users + 1))
    active = np.flatnonzero(np.diff(ends))
    return Lives(lives.user_ids, np.searchsorted(active, np.arange(lives.n_users + 1)).astype(np.int64), np.zeros(len(active), np.int32),
                 np.append(ends[active], len(users)).astype(np.int64), interest_ids, counts.astype(np.int32))


def add_cells(users: np.ndarray, interest_ids: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum counts > 0 of equal (user, interest), where users are numbers from 0: users and counts int64, interests int32, ascending, no pair twice."""
    if not len(users):
        return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64)
    interest_bits, count_bits = int(interest_ids.max()).bit_length(), int(counts.max()).bit_length()
    cells = users.astype(np.int64) << interest_bits | interest_ids
    if int(users.max()).bit_length() + interest_bits + count_bits < 64:  # the count travels in the number: no argsort, no gathering
        cells = cells << count_bits | counts
        cells.sort()
        counts, cells = cells & ((1 << count_bits) - 1), cells >> count_bits
    else:
        order = np.argsort(cells)
        cells, counts = cells[order], counts[order].astype(np.int64)
    starts = np.flatnonzero(_changes(cells))
    cells = cells[starts]
    return cells >> interest_bits, (cells & ((1 << interest_bits) - 1)).astype(np.int32), np.add.reduceat(counts, starts)


def pack_counts(batches: Iterable[pa.RecordBatch], keys: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Rows of one cell each, sorted by `keys`, user_id and interest_id, become rows of one bag each.

    In: keys, user_id, interest_id (null for events without an interest), count, first_event_at, last_event_at. Out: keys and the data
    columns of `bags`. Events without an interest are in no bag; a user who has no others is an empty bag, so that he can be counted. A
    user whose cells straddle two batches is carried over; memory is one batch and one bag.
    """
    carried: pa.Table | None = None
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        rows = pa.concat_tables([carried, rows]) if carried is not None else rows
        if not rows.num_rows:
            continue
        rows = rows.combine_chunks()
        starts = _bag_starts(rows, keys)
        carried = rows.slice(int(starts[-1]))
        if len(starts) > 1:
            yield _pack(rows.slice(0, int(starts[-1])), starts[:-1], keys)
    if carried is not None and carried.num_rows:
        yield _pack(carried.combine_chunks(), np.zeros(1, np.int64), keys)


def _bag_starts(rows: pa.Table, keys: Sequence[str]) -> np.ndarray:
    changed = np.zeros(rows.num_rows, dtype=bool)
    changed[0] = True
    for name in (*keys, "user_id"):
        column = rows.column(name)
        changed[1:] |= pc.not_equal(column.slice(1), column.slice(0, rows.num_rows - 1)).to_numpy()
    return np.flatnonzero(changed)


def _pack(rows: pa.Table, starts: np.ndarray, keys: Sequence[str]) -> pa.RecordBatch:
    rows = rows.combine_chunks()
    known = pc.is_valid(rows.column("interest_id")).to_numpy()
    lengths = np.add.reduceat(known.astype(np.int64), starts)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    interest_ids, counts = rows.column("interest_id").fill_null(0).to_numpy(), rows.column("count").to_numpy()
    first, last = (rows.column(name).cast(pa.int64()).to_numpy() for name in ("first_event_at", "last_event_at"))
    ends = np.iinfo(np.int64)
    first = np.minimum.reduceat(np.where(known, first, ends.max), starts)
    last = np.maximum.reduceat(np.where(known, last, ends.min), starts)
    heads = rows.select([*keys, "user_id"]).take(pa.array(starts))
    columns = {name: heads.column(name) for name in heads.column_names}
    columns["interest_ids"] = pa.ListArray.from_arrays(offsets, pa.array(interest_ids[known].astype(np.int32)))
    columns["counts"] = pa.ListArray.from_arrays(offsets, pa.array(counts[known].astype(np.int32)))
    columns["n_events"] = pa.array(np.add.reduceat(np.where(known, counts, 0).astype(np.int64), starts))
    columns["first_event_at"] = pa.array(first, mask=lengths == 0).cast(TIMESTAMP)
    columns["last_event_at"] = pa.array(last, mask=lengths == 0).cast(TIMESTAMP)
    return pa.table(columns).combine_chunks().to_batches()[0]


def lives_of(pieces: Sequence[tuple[int, pa.RecordBatch]], user_ids: np.ndarray | None = None) -> Lives:
    """Lives from rows of `bags`, each piece with the number of its period.

    Empty bags are no rows of a life, but their users are there. With `user_ids`, ascending, the result has exactly these users; the
    pieces may hold others, who are left out.
    """
    if not pieces:
        nobody = np.zeros(0, dtype=object) if user_ids is None else user_ids
        empty = np.zeros(0, np.int32)
        return Lives(nobody, np.zeros(len(nobody) + 1, np.int64), empty, np.zeros(1, np.int64), empty, empty)
    table = pa.Table.from_batches([batch.select(["user_id", "interest_ids", "counts"]) for _, batch in pieces]).combine_chunks()
    numbers = np.concatenate([np.full(batch.num_rows, number, dtype=np.int32) for number, batch in pieces])
    column = table.column("user_id").to_numpy()
    names, users = np.unique(column, return_inverse=True) if user_ids is None else (user_ids, np.searchsorted(user_ids, column))
    offsets, interest_ids, counts = _cells(table)
    kept = np.diff(offsets) > 0
    if user_ids is not None:
        kept &= names[np.minimum(users, len(names) - 1)] == column if len(names) else False
    order = np.lexsort((numbers, users))
    order = order[kept[order]]
    cells, row_cells = _ranges(offsets, order)
    row_offsets = np.searchsorted(users[order], np.arange(len(names) + 1)).astype(np.int64)
    return Lives(names, row_offsets, numbers[order], row_cells, interest_ids[cells], counts[cells])


def facts_of(batches: Sequence[pa.RecordBatch]) -> pa.Table:
    """user_id, n_events, n_active_months, first_event_at, last_event_at of all users in some monthly rows of `bags`, ascending."""
    table = pa.Table.from_batches([batch.select(["user_id", "n_events", "first_event_at", "last_event_at"]) for batch in batches])
    active = pc.greater(table.column("n_events"), 0).cast(pa.int32())
    return add_facts(table.append_column("n_active_months", active))


def add_facts(facts: pa.Table) -> pa.Table:
    """Facts of the same users over disjoint months, summed: one row a user, users ascending."""
    grouped = facts.group_by("user_id", use_threads=False).aggregate([
        ("n_events", "sum"), ("n_active_months", "sum"), ("first_event_at", "min"), ("last_event_at", "max"),
    ])
    grouped = grouped.select(["user_id", "n_events_sum", "n_active_months_sum", "first_event_at_min", "last_event_at_max"]).rename_columns(FACTS)
    return grouped.sort_by("user_id").combine_chunks()


def _cells(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids, counts = (table.column(name).combine_chunks() for name in ("interest_ids", "counts"))
    ids, counts = (column.chunk(0) if isinstance(column, pa.ChunkedArray) else column for column in (ids, counts))
    offsets = ids.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], ids.flatten().to_numpy(), counts.flatten().to_numpy()


def _ranges(offsets: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions covered by some CSR rows, one after the other, and the offsets of the result."""
    lengths = offsets[chosen + 1] - offsets[chosen]
    new_offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    positions = np.repeat(offsets[chosen] - new_offsets[:-1], lengths) + np.arange(new_offsets[-1])
    return positions, new_offsets


def _changes(*columns: np.ndarray) -> np.ndarray:
    changed = np.zeros(len(columns[0]), dtype=bool)
    changed[:1] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return changed
