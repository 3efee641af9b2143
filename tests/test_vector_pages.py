"""Vectors that are written as they lie in memory are read by everybody, and are what pyarrow would have written."""

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lurm.joining.embedding_units import list_column
from lurm.vector_pages import PAGE_BYTES, SHORTEST, parquet_pieces, read_batches, read_group, read_rows

PLAIN = {"compression": "none", "use_dictionary": False}


def table_of(vectors: np.ndarray) -> pa.Table:
    n = len(vectors)
    return pa.table({"user_id": [f"u{number:06d}" for number in range(n)], "embedding": list_column(vectors), "n_events": np.arange(n),
                     "tags": [["a"] * (number % 3) for number in range(n)]})


def random(n: int, width: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, width), dtype=np.float32)


def whole(rows: pa.Table, row_group_size: int = 1_000, **options) -> bytes:
    return b"".join(bytes(memoryview(piece)) for piece in parquet_pieces(rows, row_group_size, **(options or PLAIN)))


@given(st.integers(1, 60), st.integers(SHORTEST, 70), st.integers(1, 40), st.sampled_from([PLAIN, {"compression": "zstd"}]))
def test_pyarrow_reads_what_it_would_have_written(n, width, row_group_size, options):
    rows = table_of(random(n, width))
    file = pa.BufferReader(whole(rows, row_group_size, **options))
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, row_group_size=row_group_size, **options)
    read, expected = (pq.read_table(source, use_threads=False) for source in (file, pa.BufferReader(sink.getvalue())))
    assert read.equals(expected, check_metadata=True) and read.equals(rows)
    ours, theirs = pq.ParquetFile(file).metadata, pq.ParquetFile(pa.BufferReader(sink.getvalue())).metadata
    assert ours.schema.equals(theirs.schema) and ours.metadata == theirs.metadata and ours.num_row_groups == theirs.num_row_groups
    for group in range(ours.num_row_groups):
        for place, name in ((0, "user_id"), (2, "n_events")):
            mine, other = (metadata.row_group(group).column(place) for metadata in (ours, theirs))
            assert mine.path_in_schema == name and mine.statistics == other.statistics, "users are still found by statistics"
        assert ours.row_group(group).column(1).num_values == theirs.row_group(group).column(1).num_values


@pytest.mark.parametrize("width", [SHORTEST, 1_280, PAGE_BYTES // 4 + 3])
def test_every_engine_reads_them(tmp_path, width):
    vectors = random(2_500 if width < 2_000 else 3, width)
    path = tmp_path / "vectors.parquet"
    path.write_bytes(whole(table_of(vectors)))
    columns = {
        "pyarrow, a few rows": ds.dataset(path).to_table(filter=ds.field("n_events") >= 0).column("embedding"),
        "DuckDB": duckdb.sql(f"SELECT embedding FROM '{path}' ORDER BY user_id").to_arrow_table().column(0),
        "polars": polars.read_parquet(path).to_arrow().column("embedding"),
    }
    for engine, column in columns.items():
        found = column.combine_chunks().flatten().to_numpy().reshape(len(vectors), width)
        assert np.array_equal(found, vectors), engine
    assert duckdb.sql(f"SELECT sum(len(embedding)), sum(n_events) FROM '{path}'").fetchall()[0] == (vectors.size, sum(range(len(vectors))))
    if width == 1_280:
        some = pq.ParquetFile(path).read_row_group(1, columns=["embedding"]).column(0).combine_chunks()
        assert np.array_equal(some.flatten().to_numpy().reshape(-1, width), vectors[1_000:2_000])
        assert duckdb.sql(f"SELECT embedding[7] FROM '{path}' WHERE user_id = 'u002001'").fetchall()[0][0] == vectors[2_001, 6]


def test_numbers_come_back_bit_for_bit():
    odd = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38], np.float32)
    vectors = np.resize(odd, (7, 18)).astype(np.float32)
    column = pq.read_table(pa.BufferReader(whole(table_of(vectors))), use_threads=False).column("embedding").combine_chunks()
    assert column.flatten().to_numpy().tobytes() == vectors.tobytes()


def test_numbers_are_not_copied():
    vectors = random(50, 64)
    pieces = parquet_pieces(table_of(vectors), 20, **PLAIN)
    own = [piece for piece in pieces if isinstance(piece, np.ndarray)]
    assert sum(piece.nbytes for piece in own) == vectors.nbytes and all(np.shares_memory(piece, vectors) for piece in own)


@pytest.mark.parametrize("lists", [
    [[1.0] * 20, None], [[1.0] * 20, [1.0] * 19 + [None]], [[1.0] * 20, [1.0] * 21], [[1.0] * 21, [1.0] * 19], [[1.0] * 15] * 2, [[], []], [],
])
def test_other_lists_are_written_by_pyarrow(lists):
    rows = pa.table({"x": list(range(len(lists))), "embedding": pa.array(lists, pa.list_(pa.float32()))})
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, row_group_size=1_000, **PLAIN)
    assert whole(rows) == sink.getvalue().to_pybytes()


def test_a_slice_of_a_column_is_itself_only():
    rows = table_of(random(40, 32)).slice(7, 20).combine_chunks()
    column = pa.chunked_array([rows.column("embedding").chunk(0).slice(3, 10)])
    rows = rows.slice(3, 10).combine_chunks().set_column(1, "embedding", column)
    assert pq.read_table(pa.BufferReader(whole(rows)), use_threads=False).equals(rows)


@given(st.integers(1, 700), st.sampled_from([SHORTEST, 1_280, PAGE_BYTES // 12]), st.integers(1, 400), st.data())
def test_single_vectors_are_found_by_their_place(n, width, row_group_size, data):
    n = n if width < 2_000 else n % 9 + 1
    vectors = random(n, width)
    source = pa.BufferReader(whole(table_of(vectors), row_group_size))
    metadata = pq.ParquetFile(source).metadata
    group = data.draw(st.integers(0, metadata.num_row_groups - 1))
    rows = np.array(data.draw(st.lists(st.integers(0, metadata.row_group(group).num_rows - 1), min_size=1, max_size=20)))
    found = read_rows(source, metadata.row_group(group), "embedding", rows)
    assert found.dtype == np.float32 and np.array_equal(found, vectors[group * row_group_size + rows])
    whole_group = read_group(source, metadata.row_group(group), "embedding")
    assert np.array_equal(whole_group, vectors[group * row_group_size : (group + 1) * row_group_size])


@pytest.mark.parametrize("columns", [None, ["embedding"], ["n_events", "embedding", "user_id"]])
@pytest.mark.parametrize("ours", [True, False])
def test_batches_are_those_of_pyarrow_whoever_wrote_the_file(columns, ours):
    rows = table_of(random(500, 32))
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, row_group_size=150, **PLAIN)
    source = pa.BufferReader(whole(rows, 150) if ours else sink.getvalue())
    batches = list(read_batches(source, columns, 100))
    expected = pq.read_table(source, columns=columns, use_threads=False).select(columns or rows.column_names)
    assert pa.Table.from_batches(batches).equals(expected, check_metadata=False) and max(batch.num_rows for batch in batches) <= 100
    assert [field.type for field in batches[0].schema] == [field.type for field in expected.schema]


def test_columns_that_are_no_vectors_or_of_another_schema_are_left_to_pyarrow():
    source = pa.BufferReader(whole(table_of(random(5, 32))))
    assert read_batches(source, ["user_id"], 10) is None
    assert read_batches(source, None, 10, pa.schema([("embedding", pa.list_(pa.float32())), ("brought_later", pa.int32())])) is None
    assert read_batches(source, ["n_events", "embedding"], 10, pa.schema([("n_events", pa.int32()), ("embedding", pa.list_(pa.float32()))])) is None


@pytest.mark.parametrize("options", [PLAIN, {"compression": "zstd"}, {**PLAIN, "write_statistics": False}, {**PLAIN, "data_page_version": "2.0"}])
def test_files_of_pyarrow_are_not_taken_for_ours(options):
    sink = pa.BufferOutputStream()
    pq.write_table(table_of(random(500, 64)), sink, **options)
    source = pa.BufferReader(sink.getvalue())
    assert read_rows(source, pq.ParquetFile(source).metadata.row_group(0), "embedding", np.array([3])) is None


def test_lists_of_several_lengths_are_not_taken_for_vectors():
    lists = pa.array([[1.0] * 32, [1.0] * 16, [1.0] * 24], pa.list_(pa.float32()))
    source = pa.BufferReader(whole(pa.table({"embedding": lists})))
    assert read_rows(source, pq.ParquetFile(source).metadata.row_group(0), "embedding", np.array([1])) is None


@pytest.mark.parametrize("batch_rows", [1, 7, 205, 1_000])
def test_batches_that_begin_in_the_middle_of_a_page(batch_rows):
    """A page holds 204 vectors of 1,280 numbers; each batch is one read of its own numbers."""
    vectors = random(500, 1_280)
    source = pa.BufferReader(whole(table_of(vectors), 450))
    read = [batch.column("embedding").flatten().to_numpy() for batch in read_batches(source, ["embedding"], batch_rows)]
    assert max(map(len, read)) <= batch_rows * 1_280
    assert np.array_equal(np.concatenate(read).reshape(500, 1_280), vectors)


def test_a_page_of_somebody_else_is_left_to_pyarrow():
    """Of the same length, but what stands before the numbers of the second page is not ours."""
    vectors = random(300, 1_280)
    data = bytearray(whole(table_of(vectors)))
    second = data.index(vectors[204].tobytes())
    data[second - 1] ^= 1  # the last byte of its levels
    group = pq.ParquetFile(pa.BufferReader(bytes(data))).metadata.row_group(0)
    assert read_group(pa.BufferReader(bytes(data)), group, "embedding") is None
    assert read_group(pa.BufferReader(whole(table_of(vectors))), group, "embedding") is not None
