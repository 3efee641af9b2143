"""From events that lie sorted by user to bags: no shuffle, one pass, memory of a batch and of one bag.

In: batches of `events` as ingest leaves them, user and item as dictionaries or as text, each of one part (a period and a bucket), and the
interests of items (`InterestTable`). Out: rows of `bags`. Equals `add_counts`, the definition of a bag, and the rows that `pack_counts` makes
of Spark's own grouping, to the bit. Small parts are counted together: a part of a few thousand events costs its calls, not its events.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lurm.bag_of_interests import add_cells
from lurm.manifest import Snapshot
from lurm.schema import BAGS, TIMESTAMP
from lurm.staging import read_files
from lurm.store import Store
from lurm.text_hash import bucket_numbers, hash_text

COLUMNS = ["user_id", "item_id", "timestamp", "weight"]
ASSIGNED = "assigned"  # events with an interest, weights applied; those without one are counted by part
ROWS_AT_ONCE = 131_072
ITEM_BYTES = 64  # of an InterestTable, an item: the id, its hash, its interest, its place; ids can be long


class NotSortedError(ValueError):
    """The events do not lie as ingest leaves them: somebody has to sort them first."""


@dataclass(frozen=True)
class InterestTable:
    """Interests of N items, found by the hash of the item. Exact: where hashes are equal, the ids are compared."""

    hashes: np.ndarray  # (N,) uint64, ascending
    item_ids: pa.Array  # (N,) text, in that order
    interest_ids: np.ndarray  # (N,) int32, likewise
    starts: np.ndarray  # (2^k + 1,) int32: hashes that begin with the bits s are starts[s]:starts[s+1]
    shift: np.uint64  # 64 - k

    @staticmethod
    def of(item_ids: pa.Array, interest_ids: np.ndarray) -> "InterestTable":
        hashes = hash_text(item_ids).view(np.uint64)
        order = np.argsort(hashes, kind="stable")
        bits = 1 + len(hashes).bit_length()  # twice as many beginnings as items, or more: few share one
        shift = np.uint64(64 - bits)
        starts = np.searchsorted(hashes[order] >> shift, np.arange(2**bits + 1, dtype=np.uint64)).astype(np.int32)
        return InterestTable(hashes[order], item_ids.take(pa.array(order)), interest_ids[order].astype(np.int32), starts, shift)

    def find(self, item_ids: pa.Array) -> np.ndarray:
        """(n,) int32: the interest of each item, -1 for one that has none."""
        if 0 < len(self.item_ids) <= len(item_ids) // 4:  # Arrow's own search has to look at every item of the table before it begins
            places = pc.fill_null(pc.index_in(item_ids, value_set=self.item_ids), -1).to_numpy()
            return np.where(places < 0, np.int32(-1), self.interest_ids[places])
        found, hashes = np.full(len(item_ids), -1, np.int32), hash_text(item_ids).view(np.uint64)
        slots = (hashes >> self.shift).astype(np.int64)
        places, stops, asked = self.starts[slots], self.starts[slots + 1], np.arange(len(item_ids))
        while len(asked := self._next_of_same_hash(hashes, places, stops, asked)):
            same = pc.equal(self.item_ids.take(pa.array(places[asked])), item_ids.take(pa.array(asked))).to_numpy(zero_copy_only=False)
            right, asked = (asked, asked[:0]) if same.all() else (asked[same], asked[~same])
            found[right] = self.interest_ids[places[right]]
            places[asked] += 1
        return found

    def _next_of_same_hash(self, hashes: np.ndarray, places: np.ndarray, stops: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Those of `asked` whose hash stands at their place or behind it, where places[...] goes to."""
        reached = [asked[:0]]
        while len(asked := asked[places[asked] < stops[asked]]):
            same = self.hashes[places[asked]] == hashes[asked]
            reached.append(asked[same])
            asked = asked[~same]
            places[asked] += 1
        return np.concatenate(reached)


_kept: dict[str, InterestTable] = {}  # the last one of this process: a worker counts many months
_keeping = threading.Lock()


def interest_table(store: Store, interests: Snapshot) -> InterestTable:
    """The interests of all items of a snapshot, read once by a process."""
    key = f"{interests.root} {interests.digest()}"
    with _keeping:
        if key not in _kept:
            _kept.clear()
            rows = pa.Table.from_batches(read_files(store, interests.uris(), ["item_id", "interest_id"]),
                                         pa.schema([("item_id", pa.string()), ("interest_id", pa.int32())])).combine_chunks()
            ids, numbers = (column.chunk(0) if column.num_chunks else pa.array([], column.type) for column in rows.columns)
            _kept[key] = InterestTable.of(ids, numbers.to_numpy())
        return _kept[key]


def count_events(
    batches: Iterable[tuple[int, pa.RecordBatch]], interests: InterestTable, counted: Counter, buckets: Sequence[int], n_buckets: int
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Rows of `bags`, and for each of them (int64) the part it is of.

    `batches` are events (COLUMNS) and the number of their part, ascending; in a part users ascend, and all are of its bucket, buckets[part]
    of `n_buckets`. Events without an interest are in no bag; a user who has no others is an empty bag. How many there were is added to
    `counted`: with an interest as ASSIGNED, without one by the number of their part. Raises NotSortedError where users do not ascend or are of
    another bucket.
    """
    of_part = np.asarray(buckets, np.int64)
    last: _Bags | None = None  # of the last user seen: the next batch may go on with him
    for parts, lengths, batch in _together(batches):
        bags = _bags_of(batch, parts, lengths, interests, counted)
        _check(bags, last, of_part, n_buckets)
        if last is not None:
            if bags.starts_with(last):
                bags = bags.with_more_of_first(last)
            else:
                yield last.parts, last.rows()
        last = bags.part(len(bags.user_ids) - 1, len(bags.user_ids))
        if len(bags.user_ids) > 1:
            rest = bags.part(0, len(bags.user_ids) - 1)
            yield rest.parts, rest.rows()
    if last is not None:
        yield last.parts, last.rows()


def _together(batches: Iterable[tuple[int, pa.RecordBatch]]) -> Iterator[tuple[np.ndarray, np.ndarray, pa.RecordBatch]]:
    """Small batches as one of at most ROWS_AT_ONCE rows: the parts that it holds, how many rows each of them has, and the rows."""
    waiting: list[tuple[int, pa.RecordBatch]] = []
    n_rows = 0
    for part, batch in batches:
        if waiting and n_rows + batch.num_rows > ROWS_AT_ONCE:
            yield _joined(waiting)
            waiting, n_rows = [], 0
        if batch.num_rows:
            waiting.append((part, batch))
            n_rows += batch.num_rows
    if waiting:
        yield _joined(waiting)


def _joined(waiting: list[tuple[int, pa.RecordBatch]]) -> tuple[np.ndarray, np.ndarray, pa.RecordBatch]:
    numbers, sizes = np.array([part for part, _ in waiting]), np.array([batch.num_rows for _, batch in waiting])
    if len(waiting) == 1:
        return numbers, sizes, waiting[0][1]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(numbers)) + 1])
    # Users meet in one dictionary, so that equal ones have equal numbers; items are looked up by their text, each once anyway.
    columns = [(_dictionary(batch.column("user_id")), _text(batch.column("item_id")), batch.column("timestamp"), batch.column("weight"))
               for _, batch in waiting]
    whole = pa.Table.from_batches([pa.RecordBatch.from_arrays(list(some), names=COLUMNS) for some in columns])
    return numbers[starts], np.add.reduceat(sizes, starts), whole.unify_dictionaries().combine_chunks().to_batches()[0]


@dataclass(frozen=True)
class _Bags:
    """B bags, one after the other, with C cells."""

    parts: np.ndarray  # (B,) int64, ascending
    user_ids: pa.Array  # (B,) text
    offsets: np.ndarray  # (B+1,) int64
    interest_ids: np.ndarray  # (C,) int32, ascending within a bag
    counts: np.ndarray  # (C,) int64
    first: np.ndarray  # (B,) int64, microseconds; of an empty bag the largest number
    last: np.ndarray  # (B,) int64; of an empty bag the smallest

    def part(self, start: int, stop: int) -> "_Bags":
        cells = slice(self.offsets[start], self.offsets[stop])
        offsets = self.offsets[start : stop + 1] - self.offsets[start]
        return _Bags(self.parts[start:stop], self.user_ids[start:stop], offsets, self.interest_ids[cells], self.counts[cells],
                     self.first[start:stop], self.last[start:stop])

    def starts_with(self, one: "_Bags") -> bool:
        """Whether the first bag is of the same part and user as `one`'s first."""
        return self.parts[0] == one.parts[0] and self.user_ids[0].equals(one.user_ids[0])

    def with_more_of_first(self, more: "_Bags") -> "_Bags":
        """The first user's bag with another bag of his added to it."""
        end = self.offsets[1]
        both, counts = np.concatenate([more.interest_ids, self.interest_ids[:end]]), np.concatenate([more.counts, self.counts[:end]])
        _, interest_ids, counts = add_cells(np.zeros(len(both), np.int64), both, counts)
        offsets = self.offsets + (len(interest_ids) - end)
        offsets[0] = 0
        first, last = self.first.copy(), self.last.copy()
        first[0], last[0] = min(first[0], more.first[0]), max(last[0], more.last[0])
        interest_ids, counts = np.concatenate([interest_ids, self.interest_ids[end:]]), np.concatenate([counts, self.counts[end:]])
        return _Bags(self.parts, self.user_ids, offsets, interest_ids, counts, first, last)

    def rows(self) -> pa.RecordBatch:
        lengths = np.diff(self.offsets)
        before = np.concatenate([[0], np.cumsum(self.counts)])
        offsets, empty = pa.array(self.offsets.astype(np.int32)), lengths == 0
        columns = [
            self.user_ids, pa.ListArray.from_arrays(offsets, pa.array(self.interest_ids)),
            pa.ListArray.from_arrays(offsets, pa.array(_narrow(self.counts))), pa.array(before[self.offsets[1:]] - before[self.offsets[:-1]]),
            pa.array(self.first, mask=empty).cast(TIMESTAMP), pa.array(self.last, mask=empty).cast(TIMESTAMP),
        ]
        return pa.RecordBatch.from_arrays(columns, names=BAGS.data_schema.names)


def _bags_of(batch: pa.RecordBatch, parts: np.ndarray, lengths: np.ndarray, interests: InterestTable, counted: Counter) -> _Bags:
    users, items = _dictionary(batch.column("user_id")), batch.column("item_id")
    times, weights = batch.column("timestamp").cast(pa.int64()).to_numpy(), batch.column("weight").to_numpy()
    codes, part_starts = users.indices.to_numpy(), np.cumsum(lengths) - lengths
    other = codes[1:] != codes[:-1]
    other[part_starts[1:] - 1] = True
    starts = np.concatenate([[0], np.flatnonzero(other) + 1])
    coded = pa.types.is_dictionary(items.type)
    of_item = interests.find(items.dictionary)[items.indices.to_numpy()] if coded else interests.find(items)
    known = of_item >= 0
    user_of = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(codes))))
    ends = np.iinfo(np.int64)
    if not known.all():
        first = np.minimum.reduceat(np.where(known, times, ends.max), starts)
        last = np.maximum.reduceat(np.where(known, times, ends.min), starts)
        without = np.add.reduceat(np.where(known, 0, weights), part_starts, dtype=np.int64)
        counted.update(dict(zip(parts.tolist(), without.tolist(), strict=True)))
        of_item, user_of, of_weight = of_item[known], user_of[known], weights[known]
    else:
        first, last, of_weight = np.minimum.reduceat(times, starts), np.maximum.reduceat(times, starts), weights
    counted[ASSIGNED] += int(of_weight.sum(dtype=np.int64))
    users_of_cells, interest_ids, counts = add_cells(user_of, of_item, of_weight)
    offsets = np.searchsorted(users_of_cells, np.arange(len(starts) + 1))
    of_start = parts[np.searchsorted(part_starts, starts, side="right") - 1]
    return _Bags(of_start, users.dictionary.take(users.indices.take(pa.array(starts))), offsets, interest_ids, counts, first, last)


def _check(bags: _Bags, before: _Bags | None, of_part: np.ndarray, n_buckets: int) -> None:
    ascend = pc.less(bags.user_ids[:-1], bags.user_ids[1:]).to_numpy(zero_copy_only=False)
    follows = before is None or before.parts[0] != bags.parts[0] or before.user_ids[0].as_py() <= bags.user_ids[0].as_py()
    if not follows or not (ascend | (np.diff(bags.parts) > 0)).all():
        raise NotSortedError("users do not ascend")
    if (bucket_numbers(bags.user_ids, n_buckets) != of_part[bags.parts]).any():
        raise NotSortedError("users of several buckets")


def _dictionary(column: pa.Array) -> pa.DictionaryArray:
    return column if pa.types.is_dictionary(column.type) else column.dictionary_encode()


def _text(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _narrow(counts: np.ndarray) -> np.ndarray:
    if len(counts) and counts.max() > np.iinfo(np.int32).max:
        raise OverflowError(f"Expected counts below 2^31 of one user, month and interest, got {counts.max()}; use smaller events.type_weights.")
    return counts.astype(np.int32)
