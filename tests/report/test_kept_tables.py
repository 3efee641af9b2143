"""What is kept is computed once, and never trusted blindly."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lurm.errors import StoreError
from lurm.report.kept_tables import kept_table
from lurm.store import Store


def test_computed_once_and_again_when_it_is_damaged(tmp_path, caplog):
    store, calls = Store(str(tmp_path)), []

    def compute() -> pa.Table:
        calls.append(1)
        return pa.table({"x": [1, 2, 3]}).replace_schema_metadata({"n": "7"})

    first, second = (kept_table(store, "maps", "one", compute) for _ in range(2))
    assert len(calls) == 1 and first.equals(second) and second.schema.metadata[b"n"] == b"7"
    assert kept_table(store, "maps", "two", compute).equals(first) and len(calls) == 2, "another key is another table"
    path = store.path("artifacts", "maps", "one", "table.parquet")
    store.write_bytes(path, store.read_bytes(path)[:-9] + b"X" * 9)
    assert kept_table(store, "maps", "one", compute).equals(first) and len(calls) == 3
    other = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": [9]}), other)
    store.write_bytes(path, other.getvalue())
    assert kept_table(store, "maps", "one", compute).equals(first) and len(calls) == 4, "a whole file, but not the one that was written"
    assert "computed again" in caplog.text
    kept_table(store, "maps", "one", compute)
    assert len(calls) == 4


def test_a_warehouse_that_cannot_be_written_costs_time_only(tmp_path, caplog):
    class ReadOnly(Store):
        def write_bytes(self, path, data):
            raise StoreError("Could not write; check rights.")

    assert kept_table(ReadOnly(str(tmp_path)), "maps", "one", lambda: pa.table({"x": [1]})).num_rows == 1
    assert "could not be kept" in caplog.text
    with pytest.raises(ZeroDivisionError):
        kept_table(ReadOnly(str(tmp_path)), "maps", "one", lambda: 1 / 0)
