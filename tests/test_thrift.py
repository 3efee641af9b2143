"""Trees come back as they were, and footers that pyarrow has written come back byte for byte."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lurm.thrift import BINARY, DOUBLE, FALSE, I32, I64, LIST, MAP, STRUCT, TRUE, read_struct, unsigned, write_struct

plain = st.one_of(
    st.tuples(st.just(I64), st.integers(-(2**63), 2**63 - 1)), st.tuples(st.just(I32), st.integers(-(2**31), 2**31 - 1)),
    st.tuples(st.just(BINARY), st.binary(max_size=300)), st.tuples(st.just(DOUBLE), st.binary(min_size=8, max_size=8)),
    st.booleans().map(lambda value: (TRUE if value else FALSE, value)),
    st.lists(st.integers(-5, 5), max_size=20).map(lambda members: (LIST, (I32, members))),
    st.lists(st.booleans(), max_size=20).map(lambda members: (LIST, (TRUE, [TRUE if member else FALSE for member in members]))),
)
structs = st.dictionaries(st.integers(1, 300), st.recursive(plain, lambda inner: st.one_of(
    st.dictionaries(st.integers(1, 40), inner, max_size=4).map(lambda fields: (STRUCT, fields)),
    st.lists(st.dictionaries(st.integers(1, 40), inner, max_size=3), max_size=17).map(lambda members: (LIST, (STRUCT, members))),
), max_leaves=12), max_size=6)


@given(structs, st.binary(max_size=3))
def test_a_tree_comes_back(fields, before):
    data = write_struct(fields)
    assert read_struct(before + data + b"more", len(before)) == (fields, len(before) + len(data))


def test_by_hand():
    """Field 1, an i32 of 1 (zigzag: 2); field 17, too far for four bits, text of one letter; the end."""
    assert write_struct({1: (I32, 1), 17: (BINARY, b"a")}) == bytes([0x15, 2, 0x08, 34, 1, ord("a"), 0])
    assert unsigned(300) == bytes([0xAC, 0x02]) and unsigned(0) == b"\0"


@pytest.mark.parametrize("options", [{}, {"compression": "zstd", "write_page_index": True, "store_decimal_as_integer": True, "sorting_columns": []}])
def test_a_footer_of_pyarrow_comes_back_byte_for_byte(options):
    rows = pa.table({
        "text": [f"t{number}" for number in range(50)], "lists": [[number, None] for number in range(50)], "flag": [True, None] * 25,
        "numbers": np.arange(50.0), "times": pa.array(range(50), pa.timestamp("us", tz="UTC")), "nested": [{"a": [1.5]}] * 50,
    }).replace_schema_metadata({"who": "x" * 500})
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, row_group_size=3, **options)
    data = sink.getvalue().to_pybytes()
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
    assert write_struct(read_struct(footer)[0]) == footer


def test_a_type_that_parquet_does_not_use_is_told():
    with pytest.raises(ValueError, match="Expected a type of Parquet's metadata, got 11 at byte 1"):
        read_struct(bytes([1 << 4 | MAP, 0, 0]))
