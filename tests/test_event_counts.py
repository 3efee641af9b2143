"""Bags counted in one pass are bags by definition, however the events are cut into batches."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lurm import event_counts
from lurm.event_counts import ASSIGNED, COLUMNS, InterestTable, NotSortedError, count_events, interest_table
from lurm.manifest import Manifest
from lurm.schema import BAGS, EVENTS, ITEM_INTERESTS
from lurm.staging import stage_table
from lurm.store import Store
from lurm.text_hash import bucket_numbers

EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
INTERESTS = {f"i{number}": number % 4 for number in range(8)}  # i8 and i9 have none
TABLE = InterestTable.of(pa.array(list(INTERESTS)), np.array(list(INTERESTS.values())))
# One event: user, second, item, weight.
event = st.tuples(st.sampled_from(["a", "b", "cc", "d"]), st.integers(0, 50), st.integers(0, 9), st.integers(1, 3))


def rows_of(cells) -> pa.Table:
    rows = [{"user_id": user, "item_id": f"i{item}", "timestamp": EPOCH + timedelta(seconds=second), "weight": weight, "month": "2020-01"}
            for user, second, item, weight in sorted(cells)]
    return pa.Table.from_pylist(rows, EVENTS.schema).select(COLUMNS)


def expected_bags(cells) -> list[dict]:
    """The definition, in plain Python."""
    bags = []
    for user in sorted({cell[0] for cell in cells}):
        known = [(INTERESTS[f"i{item}"], second, weight) for name, second, item, weight in cells if name == user and f"i{item}" in INTERESTS]
        counts = Counter()
        for interest, _, weight in known:
            counts[interest] += weight
        times = [EPOCH + timedelta(seconds=second) for _, second, _ in known]
        bags.append({"user_id": user, "interest_ids": sorted(counts), "counts": [counts[interest] for interest in sorted(counts)],
                     "n_events": sum(counts.values()), "first_event_at": min(times, default=None), "last_event_at": max(times, default=None)})
    return bags


def bags_of(batches, n_buckets=1) -> list[dict]:
    """Rows of one part."""
    found = list(count_events(((0, batch) for batch in batches), TABLE, Counter(), [0], n_buckets))
    assert all(batch.schema.equals(BAGS.data_schema) and parts.tolist() == [0] * batch.num_rows for parts, batch in found)
    return [row for _, batch in found for row in batch.to_pylist()]


@given(st.lists(st.lists(event, max_size=30), min_size=1, max_size=4), st.integers(1, 9), st.sampled_from([1, 7, 1_000]), st.integers(0, 3),
       st.booleans())  # fmt: skip
def test_one_pass_gives_the_bags_of_the_definition(parts, batch_rows, at_once, kinds, weights):
    """Of every part, whoever shares a pass with it, and however its events are cut into batches; as text, as dictionaries or mixed."""
    parts = [part if weights else [(*cell[:3], 1) for cell in part] for part in parts]
    batches, counted = [], Counter()
    for number, part in enumerate(parts):
        coded = [name for bit, name in enumerate(("user_id", "item_id")) if kinds >> bit & 1 and number != 1]
        rows = rows_of(part)
        rows = pa.table({name: rows.column(name).dictionary_encode() if name in coded else rows.column(name) for name in COLUMNS})
        batches += [(number, batch) for batch in rows.to_batches(max_chunksize=batch_rows)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_counts, "ROWS_AT_ONCE", at_once)
        found = list(count_events(batches, TABLE, counted, [0] * len(parts), 1))
    assert all(batch.schema.equals(BAGS.data_schema) for _, batch in found)
    rows = [(part, row) for numbers, batch in found for part, row in zip(numbers.tolist(), batch.to_pylist(), strict=True)]
    assert rows == [(number, row) for number, part in enumerate(parts) for row in expected_bags(part)], "users ascend, and come once each"
    assert counted[ASSIGNED] == sum(weight for part in parts for _, _, item, weight in part if item < 8)
    for number, part in enumerate(parts):
        assert counted[number] == sum(weight for _, _, item, weight in part if item >= 8)


def test_a_user_with_very_many_events_is_one_bag(monkeypatch):
    monkeypatch.setattr(event_counts, "ROWS_AT_ONCE", 1_000)
    n = 30_000
    cells = [("whale", 0, number % 8, 1) for number in range(n)]
    rows = bags_of(rows_of([("a", 0, 1, 1), *cells, ("z", 0, 1, 1)]).to_batches(max_chunksize=1_000))
    assert [(row["user_id"], row["counts"]) for row in rows] == [("a", [1]), ("whale", [n // 4] * 4), ("z", [1])]


@pytest.mark.parametrize("at_once", [1, 1_000])
def test_users_that_do_not_ascend_or_are_of_another_bucket_are_found_out(monkeypatch, at_once):
    monkeypatch.setattr(event_counts, "ROWS_AT_ONCE", at_once)
    rows = rows_of([("a", 0, 1, 1), ("b", 0, 1, 1), ("c", 0, 1, 1)])
    for wrong, size in (([1, 0, 2], 3), ([0, 2, 1], 1), ([2, 0, 1], 2), ([0, 1, 0], 3)):
        with pytest.raises(NotSortedError, match="ascend"):
            bags_of(rows.take(wrong).to_batches(max_chunksize=size))
    buckets = bucket_numbers(rows.column("user_id").combine_chunks(), 2)
    assert 0 < buckets.sum() < 3, "users of both buckets"
    with pytest.raises(NotSortedError, match="several buckets"):
        bags_of(rows.to_batches(), n_buckets=2)
    parts = [(part, rows.filter(pa.array(buckets == part)).combine_chunks().to_batches()[0]) for part in (0, 1)]
    found = list(count_events(parts, TABLE, Counter(), [0, 1], 2))
    assert sorted(row["user_id"] for _, batch in found for row in batch.to_pylist()) == ["a", "b", "c"], "each part its own bucket"


def test_a_count_that_does_not_fit_is_one_sentence():
    cells = [("a", second, 1, 2**30) for second in range(2)]
    with pytest.raises(OverflowError, match=r"Expected counts below 2\^31 .*, got 2147483648; use smaller"):
        bags_of(rows_of(cells).to_batches())


@given(st.lists(st.text(max_size=12), max_size=60, unique=True), st.lists(st.text(max_size=12), max_size=20), st.integers(0, 2**63 - 1),
       st.integers(1, 5))  # fmt: skip
def test_items_are_found_by_their_id_not_by_their_hash_alone(known, asked, kept_bits, times):
    """With a hash of few bits most items collide, and each still has its own interest; also where many are asked for at once."""
    def poor(texts, whole=event_counts.hash_text):
        return whole(texts) & kept_bits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_counts, "hash_text", poor)
        table = InterestTable.of(pa.array(known, pa.string()), np.arange(len(known)))
        found = table.find(pa.array([*known, *asked] * times, pa.string()))
    numbers = {item: number for number, item in enumerate(known)}
    assert found.dtype == np.int32 and found.tolist() == [numbers.get(item, -1) for item in [*known, *asked] * times]


def test_a_process_reads_the_interests_once(tmp_path, monkeypatch):
    store, scope = Store(str(tmp_path / "w")), {"space_id": "s", "batch": "one"}
    file = stage_table(store, ITEM_INTERESTS, "run1", scope, pa.table({"item_id": ["i1", "i2"], "interest_id": pa.array([5, 7], pa.int32())}))
    store.commit(Manifest(ITEM_INTERESTS.name, "run1", (file,), (scope,)))
    interests = store.snapshot(ITEM_INTERESTS.name)
    table = interest_table(store, interests)
    assert table.find(pa.array(["i2", "i3", "i1"])).tolist() == [7, -1, 5]
    monkeypatch.setattr(event_counts, "read_files", None)
    assert interest_table(store, interests) is table
    with pytest.raises(TypeError):
        interest_table(store, interests.where(batch="two"))
