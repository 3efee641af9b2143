"""Bags of interests: counts add, months sum to years, and every way of building a bag gives the same bag."""

import dataclasses
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lurm.bag_of_interests import Lives, add_cells, add_counts, batches_of, concatenate, pack_counts, read_csr, read_lives, sum_periods, to_csr
from lurm.manifest import Manifest, Snapshot
from lurm.periods import month_name
from lurm.schema import BAGS, TIMESTAMP
from lurm.staging import stage_table
from lurm.store import Store

D = 6
START = 600  # 2020-01
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# One event: user, month (2020-01 on), interest, weight.
event = st.tuples(st.sampled_from("abcde"), st.integers(START, START + 30), st.integers(0, D - 1), st.integers(1, 3))
events = st.lists(event, max_size=60)


def lives_of(cells) -> Lives:
    users, periods, interests, counts = (list(column) for column in zip(*cells)) if cells else ([], [], [], [])
    return add_counts(np.array(users, dtype=object), np.array(periods, np.int32), np.array(interests, np.int32), np.array(counts, np.int64))


def as_dict(lives: Lives) -> dict[tuple, int]:
    """The bag as {(user, period, interest): count}; also checks the order inside."""
    cells = {}
    for position, user in enumerate(lives.user_ids):
        rows = range(lives.row_offsets[position], lives.row_offsets[position + 1])
        assert list(lives.periods[list(rows)]) == sorted(set(lives.periods[list(rows)]))
        for row in rows:
            inside = slice(lives.offsets[row], lives.offsets[row + 1])
            ids = lives.interest_ids[inside].tolist()
            assert ids == sorted(set(ids)) and ids, "ascending, no empty row"
            cells |= {(str(user), int(lives.periods[row]), interest): int(count) for interest, count in zip(ids, lives.counts[inside])}
    assert len(cells) == len(lives.counts)
    return cells


def counted(cells) -> dict[tuple, int]:
    """The definition, in plain Python."""
    totals: dict[tuple, int] = {}
    for user, period, interest, count in cells:
        totals[user, period, interest] = totals.get((user, period, interest), 0) + count
    return totals


def test_a_bag_by_hand():
    lives = lives_of([("u2", 601, 4, 1), ("u1", 600, 2, 1), ("u1", 600, 2, 3), ("u1", 600, 0, 1), ("u1", 602, 5, 2)])
    assert lives.user_ids.tolist() == ["u1", "u2"] and lives.n_users == 2
    assert lives.row_offsets.tolist() == [0, 2, 3] and lives.periods.tolist() == [600, 602, 601]
    assert lives.offsets.tolist() == [0, 2, 3, 4] and lives.interest_ids.tolist() == [0, 2, 5, 4] and lives.counts.tolist() == [1, 4, 2, 1]
    types = [getattr(lives, name).dtype for name in ("row_offsets", "periods", "offsets", "interest_ids", "counts")]
    assert types == [np.int64, np.int32, np.int64, np.int32, np.int32]


@given(events, events)
def test_the_bag_of_both_is_the_sum_of_the_bags(left, right):
    assert as_dict(lives_of(left + right)) == counted([*left, *right])
    parts = [(*key, count) for part in (left, right) for key, count in as_dict(lives_of(part)).items()]
    assert as_dict(lives_of(parts)) == as_dict(lives_of(left + right))


@given(events, st.randoms())
def test_the_order_of_events_says_nothing(cells, random):
    shuffled = random.sample(cells, len(cells))
    one, two = lives_of(cells), lives_of(shuffled)
    assert all(np.array_equal(getattr(one, field.name), getattr(two, field.name)) for field in dataclasses.fields(Lives))


@given(events)
def test_summing_periods(cells):
    lives = lives_of(cells)
    assert as_dict(sum_periods(lives)) == counted([(user, 0, interest, count) for user, _, interest, count in cells])
    assert sum_periods(lives).user_ids.tolist() == lives.user_ids.tolist()


def test_a_year_is_the_logarithm_of_the_sum_never_a_sum_of_logarithms():
    lives = lives_of([("u", 600, 1, 2), ("u", 605, 1, 3), ("u", 611, 4, 1)])
    year = sum_periods(lives)
    assert np.log1p(to_csr(year, D).toarray()[0]).tolist() == pytest.approx([0, np.log(6), 0, 0, np.log(2), 0])
    months = np.log1p(np.stack([to_csr(lives, D, (first, first + 1)).toarray()[0] for first in range(600, 612)])).sum(0)
    assert months[1] == pytest.approx(np.log(3) + np.log(4)) and months[1] != pytest.approx(np.log(6))


@given(events, st.integers(START - 1, START + 31), st.integers(0, 32))
def test_windows_add_up(cells, start, length):
    lives = lives_of(cells)
    inside = [cell for cell in cells if start <= cell[1] < start + length]
    matrix = to_csr(lives, D, (start, start + length))
    assert matrix.shape == (lives.n_users, D) and matrix.sum() == sum(count for *_, count in inside)
    dense = np.zeros((lives.n_users, D))
    for user, _, interest, count in inside:
        dense[lives.user_ids.tolist().index(user), interest] += count
    assert np.array_equal(matrix.toarray(), dense)
    around = to_csr(lives, D, (0, start)) + matrix + to_csr(lives, D, (start + length, 10_000))
    assert np.array_equal(around.toarray(), to_csr(lives, D).toarray())


@given(events, st.data())
def test_take_and_concatenate(cells, data):
    lives = lives_of(cells)
    chosen = data.draw(st.permutations(range(lives.n_users)))[: data.draw(st.integers(0, 5))]
    taken = lives.take(np.array(chosen, dtype=np.int64))
    assert taken.user_ids.tolist() == [lives.user_ids[position] for position in chosen]
    assert as_dict(taken) == {key: count for key, count in as_dict(lives).items() if key[0] in taken.user_ids}
    rest = lives.take(np.array([position for position in range(lives.n_users) if position not in chosen], dtype=np.int64))
    both = concatenate([taken, rest])
    assert as_dict(both) == as_dict(lives) and both.n_users == lives.n_users
    assert both.offsets[-1] == len(both.counts) and both.row_offsets[-1] == len(both.periods)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 3)), max_size=50), st.integers(0, 61))
def test_cells_add_up_also_where_they_do_not_fit_into_one_number(cells, shift):
    """Users, interests and counts of few bits are sorted as one number, the others by argsort."""
    users, interests, counts = (np.array([cell[place] for cell in cells], np.int64) for place in range(3))
    users, interests, counts = users << shift // 2, interests << min(shift // 2, 28), counts << shift // 3
    expected = counted([(user, 0, interest, count) for user, interest, count in zip(users.tolist(), interests.tolist(), counts.tolist())])
    found = add_cells(users, interests.astype(np.int32), counts)
    assert [array.dtype for array in found] == [np.int64, np.int32, np.int64]
    assert list(zip(*(array.tolist() for array in found))) == [(user, interest, count) for (user, _, interest), count in sorted(expected.items())]


CELLS = pa.schema([
    ("period", pa.string()), ("user_id", pa.string()), ("interest_id", pa.int32()), ("count", pa.int64()),
    ("first_event_at", TIMESTAMP), ("last_event_at", TIMESTAMP),
])


def cell_rows(cells) -> pa.Table:
    """What Spark's grouping gives: one row a cell, with the first and last event of the cell; interest -1 stands for null."""
    rows = []
    for (user, period, interest), count in sorted(counted(cells).items(), key=lambda pair: (pair[0][1], pair[0][0], pair[0][2])):
        at = EPOCH + timedelta(days=31 * period + interest)
        rows.append({"period": month_name(period), "user_id": user, "interest_id": None if interest < 0 else interest, "count": count,
                     "first_event_at": at, "last_event_at": at + timedelta(hours=count)})
    return pa.Table.from_pylist(rows, CELLS)


unsure = st.tuples(st.sampled_from("abc"), st.integers(START, START + 3), st.integers(-1, D - 1), st.integers(1, 3))


@given(st.lists(unsure, max_size=60), st.integers(1, 9))
def test_packing_does_not_depend_on_the_cut_and_equals_the_definition(cells, batch_rows):
    batches = cell_rows(cells).to_batches(max_chunksize=batch_rows)
    packed = [row for batch in pack_counts(batches, ["period"]) for row in batch.to_pylist()]
    known = [cell for cell in cells if cell[2] >= 0]
    expected = counted(known)
    assert {(row["user_id"], row["period"], interest): count for row in packed for interest, count in zip(row["interest_ids"], row["counts"])} == {
        (user, month_name(period), interest): count for (user, period, interest), count in expected.items()
    }
    assert len(packed) == len({(user, period) for user, period, _, _ in cells}), "one row a user and period, also across batches"
    for row in packed:
        if not row["interest_ids"]:
            assert (row["counts"], row["n_events"], row["first_event_at"], row["last_event_at"]) == ([], 0, None, None)
            continue
        assert row["n_events"] == sum(row["counts"]) and row["interest_ids"] == sorted(row["interest_ids"])
        ids = row["interest_ids"]
        base = row["first_event_at"] - timedelta(days=ids[0])
        assert row["last_event_at"] == max(base + timedelta(days=interest, hours=count) for interest, count in zip(ids, row["counts"]))


def staged_bags(store: Store, cells, n_buckets: int, rows_per_file: int) -> Snapshot:
    """Stage months and years of some cells by hand, as build-bags lays them out, and pin them."""
    files = []
    for scale, name in (("month", month_name), ("year", lambda number: f"{1970 + number:04d}")):
        scaled = [(user, period if scale == "month" else period // 12, interest, count) for user, period, interest, count in cells]
        for bucket in range(n_buckets):
            for period in sorted({cell[1] for cell in scaled}):
                lives = lives_of([cell for cell in scaled if ord(cell[0][-1]) % n_buckets == bucket and cell[1] == period])
                if not lives.n_users:
                    continue
                at = [EPOCH + timedelta(days=30 * period)] * lives.n_users
                totals = np.add.reduceat(lives.counts, lives.offsets[:-1])
                times = pa.array(at, TIMESTAMP)
                columns = [lives.user_ids.astype(str), totals.astype(np.int64), times, times]
                facts = pa.table(columns, names=["user_id", "n_events", "first_event_at", "last_event_at"])
                rows = pa.Table.from_batches([batches_of(lives, facts)])
                partition = {"space_id": "space-1", "scale": scale, "period": name(period), "until": "2099-01-01", "bucket": str(bucket)}
                for start in range(0, rows.num_rows, rows_per_file):
                    files.append(stage_table(store, BAGS, "run1", partition, rows.slice(start, rows_per_file)))
    store.commit(Manifest(BAGS.name, "run1", tuple(files), ({"space_id": "space-1"},)))
    return store.snapshot(BAGS.name)


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(cells=st.lists(event, min_size=1, max_size=50), n_buckets=st.integers(1, 3), rows_per_file=st.integers(1, 3), batch_rows=st.integers(1, 200))
def test_reading_lives_equals_the_definition(tmp_path_factory, cells, n_buckets, rows_per_file, batch_rows):
    store = Store(str(tmp_path_factory.mktemp("w")))
    found: dict[str, dict] = {"month": {}, "year": {}}
    facts = []
    for lives, table in read_lives(store, staged_bags(store, cells, n_buckets, rows_per_file), batch_rows):
        assert lives["month"].user_ids.tolist() == lives["year"].user_ids.tolist() == table.column("user_id").to_pylist()
        for scale, part in lives.items():
            assert not set(as_dict(part)) & set(found[scale]), "a user comes once, with all periods"
            found[scale] |= as_dict(part)
        facts += table.to_pylist()
    assert found["month"] == counted(cells)
    assert found["year"] == counted([(user, period // 12, interest, count) for user, period, interest, count in cells])
    assert [row["user_id"] for row in facts] == sorted({cell[0] for cell in cells}, key=lambda user: (ord(user) % n_buckets, user))
    for row in facts:
        mine = [cell for cell in cells if cell[0] == row["user_id"]]
        months = {period for _, period, _, _ in mine}
        assert row["n_events"] == sum(count for *_, count in mine) and row["n_active_months"] == len(months)
        assert row["first_event_at"] == EPOCH + timedelta(days=30 * min(months)) and row["last_event_at"] == EPOCH + timedelta(days=30 * max(months))


def test_reading_lives_holds_few_users_at_a_time(tmp_path):
    store = Store(str(tmp_path / "w"))
    cells = [(f"{number:05d}", START + month, 1, 1) for number in range(400) for month in range(2)]
    sizes = [table.num_rows for _, table in read_lives(store, staged_bags(store, cells, 1, 1_000), batch_rows=64)]
    assert sum(sizes) == 400 and max(sizes) <= 128


def test_all_users_as_one_sparse_matrix(tmp_path):
    cells = [("a", START, 2, 3), ("b", START + 1, 0, 1), ("a", START + 2, 2, 4), ("c", START, 5, 2)]
    bags = staged_bags(Store(str(tmp_path / "w")), cells, 2, 10)
    users, matrix = read_csr(Store(str(tmp_path / "w")), bags.where(scale="month"), 6)
    rows = dict(zip(users.tolist(), matrix.toarray().tolist(), strict=True))
    assert rows == {"a": [0, 0, 7, 0, 0, 0], "b": [1, 0, 0, 0, 0, 0], "c": [0, 0, 0, 0, 0, 2]}
    nobody, empty = read_csr(Store(str(tmp_path / "w")), bags.where(scale="decade"), 6)
    assert len(nobody) == 0 and empty.shape == (0, 6)
