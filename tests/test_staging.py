"""Staging: names say run and content, streams are cut into files at every key, and sorted streams are walked side by side."""

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lurm.errors import StoreError
from lurm.schema import EVENTS, SEEN_ITEMS, TIMESTAMP
from lurm.staging import PartitionWriter, read_files, stage_table, staged_rows, walk_sorted
from lurm.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "warehouse"))


def events(*rows: tuple[str, str]) -> pa.Table:
    """Events of (user, month), one an hour."""
    schema = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", TIMESTAMP), ("weight", pa.int32()), ("month", pa.string())])
    columns = [[user for user, _ in rows], ["i"] * len(rows), list(range(len(rows))), [1] * len(rows), [month for _, month in rows]]
    return pa.table(columns, schema=schema)


def test_equal_rows_are_the_same_file(store):
    rows = events(("a", "2022-01"), ("b", "2022-01"))
    one = stage_table(store, EVENTS, "run1", {"month": "2022-01"}, rows)
    two = stage_table(store, EVENTS, "run1", {"month": "2022-01"}, rows.select(rows.column_names[::-1]))
    assert one == two and one.path.startswith("month=2022-01/run1-") and one.path.endswith(f"{one.sha256[:16]}.parquet")
    assert (one.rows, one.first_key, one.last_key) == (2, "a", "b")
    assert stage_table(store, EVENTS, "run2", {"month": "2022-01"}, rows).digest == one.digest
    written = pq.read_table(store.path("tables", "events", *one.path.split("/")), partitioning=None)
    assert written.column_names == EVENTS.data_schema.names, "partition columns are not in the file"


def test_a_half_written_file_is_written_again(store):
    file = stage_table(store, EVENTS, "run1", {"month": "2022-01"}, events(("a", "2022-01")))
    path = store.path("tables", "events", *file.path.split("/"))
    with open(path, "wb") as stream:
        stream.write(b"PAR1")
    stage_table(store, EVENTS, "run1", {"month": "2022-01"}, events(("a", "2022-01")))
    assert pq.read_table(path, partitioning=None).num_rows == 1


def test_a_missing_column_is_a_defect(store):
    with pytest.raises(KeyError):
        stage_table(store, SEEN_ITEMS, "run1", {"as_of": "2022-01-01"}, events(("a", "2022-01")))


@given(
    cells=st.lists(st.tuples(st.sampled_from(["2022-01", "2022-02", "2022-03"]), st.integers(0, 3), st.text("abc", max_size=2)), max_size=40),
    batch_rows=st.integers(1, 7), rows_per_file=st.integers(1, 9),
)
def test_a_stream_is_cut_at_every_key_and_nothing_is_lost(tmp_path_factory, cells, batch_rows, rows_per_file):
    store = Store(str(tmp_path_factory.mktemp("w")))
    cells = sorted(cells)
    table = events(*[(user, month) for month, _, user in cells]).append_column("bucket", pa.array([bucket for _, bucket, _ in cells], pa.int32()))
    writer = PartitionWriter(store, EVENTS, "run1", ["month", "bucket"], {}, rows_per_file)
    files = list(writer.write(table.to_batches(max_chunksize=batch_rows)))
    read = []
    for file in files:
        rows = pq.read_table(store.path("tables", "events", *file.path.split("/")), partitioning=None)
        assert file.rows == rows.num_rows and set(file.partition) == {"month"}
        read += [(file.partition["month"], user) for user in rows.column("user_id").to_pylist()]
    assert read == [(month, user) for month, _, user in cells]
    assert len(files) >= len({(month, bucket) for month, bucket, _ in cells})
    assert max((file.rows for file in files), default=0) <= rows_per_file
    whole = PartitionWriter(store, EVENTS, "run1", ["month", "bucket"], {}, rows_per_file).write(table.combine_chunks().to_batches())
    assert list(whole) == files, "the same files with the same bytes, however the stream was cut"


def test_staged_files_travel_as_rows(store):
    file = stage_table(store, EVENTS, "run1", {"month": "2022-01"}, events(("a", "2022-01")))
    row = pa.Table.from_batches(staged_rows([file])).to_pylist()[0]
    assert (row["path"], row["size"], row["sha256"], row["partition"]) == (file.path, file.size, file.sha256, '{"month": "2022-01"}')


def test_read_files_keeps_order_bounds_batches_and_filters(store):
    users = [f"{month}-{number}" for month in ("2022-02", "2022-01") for number in range(5)]
    parts = [events(*[(user, user[:7]) for user in part]) for part in (users[:5], users[5:])]
    files = [stage_table(store, EVENTS, "run1", {"month": part.column("month")[0].as_py()}, part) for part in parts]
    uris = [store.path("tables", "events", *file.path.split("/")) for file in files]
    batches = list(read_files(store, uris, ["user_id"], batch_rows=2))
    assert max(batch.num_rows for batch in batches) <= 2
    assert [user for batch in batches for user in batch.column(0).to_pylist()] == users
    found = list(read_files(store, uris, ["user_id"], filters=ds.field("user_id") == "2022-01-3"))
    assert [batch.to_pylist() for batch in found] == [[{"user_id": "2022-01-3"}]], "empty batches are left out"


def test_a_damaged_file_is_one_sentence(store):
    file = stage_table(store, EVENTS, "run1", {"month": "2022-01"}, events(("a", "2022-01")))
    path = store.path("tables", "events", *file.path.split("/"))
    with open(path, "r+b") as stream:
        stream.truncate(50)
    with pytest.raises(StoreError, match="Expected a whole Parquet file at .*; restore it or rebuild its table"):
        list(read_files(store, [path]))
    with pytest.raises(StoreError, match="Expected a whole Parquet file at"):
        list(read_files(store, [path + "-gone"]))


@given(st.lists(st.lists(st.text("abcd", min_size=1, max_size=3), max_size=12), max_size=5), st.integers(1, 4))
def test_walking_sorted_streams_gives_every_row_once_and_whole_keys(lists, batch_rows):
    """Keys are unique within a stream, as users are within a file."""
    lists = [sorted(set(names)) for names in lists]
    streams = [iter(pa.table({"user_id": pa.array(names, pa.string())}).to_batches(max_chunksize=batch_rows)) for names in lists]
    streams = [(batch for batch in stream if batch.num_rows) for stream in streams]
    seen, last = [[] for _ in lists], ""
    for pieces in walk_sorted(streams, "user_id"):
        names = [(position, name) for position, batch in pieces for name in batch.column("user_id").to_pylist()]
        assert names and min(name for _, name in names) > last, "a key never comes back in a later step"
        last = max(name for _, name in names)
        for position, name in names:
            seen[position].append(name)
    assert seen == lists


def test_walking_holds_one_batch_a_stream():
    taken = []

    def stream(number):
        for start in range(0, 100, 10):
            taken.append(number)
            yield pa.record_batch({"user_id": [f"{value:03d}" for value in range(start, start + 10)]})

    walk = walk_sorted([stream(0), stream(1)], "user_id")
    next(walk)
    assert taken == [0, 1]
    assert sum(batch.num_rows for pieces in walk for _, batch in pieces) == 180 and np.bincount(taken).tolist() == [10, 10]
