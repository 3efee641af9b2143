"""Parquet files with columns of vectors, without taking the vectors number by number.

In: rows, some of whose columns are lists of float32 of one length. Out: the pieces of a Parquet file, the numbers among them as they lie in memory.
pyarrow writes everything else, and the vectors as empty lists; these are then replaced, in the file and in its footer. Where every list has
the same length and nothing is null, the levels that say where lists begin are the same few bytes for every row, and plainly encoded float32 are
the numbers themselves, so a page is a header, a pattern and a piece of memory: what is left is to copy it once, into the file. Readers see
what pyarrow would have written (https://parquet.apache.org/docs/file-format/). Lists of another kind are for pyarrow alone.

`read_rows` and `read_group` read vectors out of such files without pyarrow's decoder: where each lies follows from its row and the length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lurm.thrift import I32, I64, LIST, STRUCT, read_struct, unsigned, write_struct

PAGE_BYTES = 1 << 20  # of numbers: pyarrow's own
SHORTEST = 16  # numbers of a vector; shorter ones have another pattern of levels, and little to gain
MAGIC = b"PAR1"
PLAIN, RLE, DATA_PAGE, NO_CODEC = 0, 3, 0, 0
# Field numbers of Parquet's metadata: FileMetaData, RowGroup, ColumnChunk, ColumnMetaData.
ROW_GROUPS, COLUMNS, TOTAL_BYTES, GROUP_ROWS, GROUP_OFFSET, GROUP_COMPRESSED = 4, 1, 2, 3, 5, 6
META_DATA, CHUNK_OFFSET = 3, 2
ENCODINGS, PATH, CODEC, N_VALUES, UNCOMPRESSED, COMPRESSED, DATA_OFFSET, DICTIONARY_OFFSET = 2, 3, 4, 5, 6, 7, 9, 11
TOLD_OF_EMPTY = (DICTIONARY_OFFSET, 12, 13, 16)  # and statistics, counts of pages, sizes: of the empty lists, so they go


def parquet_pieces(rows: pa.Table, row_group_size: int, **options) -> list:
    """A Parquet file of `rows`, each column one chunk, as pieces to be written one after the other; `options` are pyarrow's."""
    vectors = {name: matrix for name in rows.column_names if (matrix := _matrix(rows.column(name))) is not None}
    empty = {name: pa.ListArray.from_arrays(pa.array(np.zeros(rows.num_rows + 1, np.int32)), pa.array([], pa.float32())) for name in vectors}
    others = rows
    for name, column in empty.items():
        others = others.set_column(rows.column_names.index(name), rows.schema.field(name), column)
    sink = pa.BufferOutputStream()
    pq.write_table(others, sink, row_group_size=row_group_size, **options)
    file = sink.getvalue()
    return _grafted(file, vectors) if vectors and rows.num_rows else [file]


def _matrix(column: pa.ChunkedArray) -> np.ndarray | None:
    """The numbers of a column, (rows, width) float32 without a copy; None where they are no vectors of one length."""
    if not pa.types.is_list(column.type) or column.type.value_type != pa.float32() or column.num_chunks != 1 or column.null_count:
        return None
    array, values = column.chunk(0), column.chunk(0).flatten()
    width = len(values) // max(1, len(array))
    offsets = array.offsets.to_numpy()
    if width < SHORTEST or values.null_count or not np.array_equal(np.diff(offsets), np.full(len(array), width)):
        return None
    return values.to_numpy().reshape(len(array), width)


def _grafted(file: pa.Buffer, vectors: dict[str, np.ndarray]) -> list:
    data = memoryview(file)
    footer_length = int.from_bytes(data[-8:-4], "little")
    footer, _ = read_struct(bytes(data[-8 - footer_length : -8]))
    pieces, place, start = [MAGIC], len(MAGIC), 0
    for group in footer[ROW_GROUPS][1][1]:
        n_rows, at = group[GROUP_ROWS][1], place
        for chunk in group[COLUMNS][1][1]:
            told = chunk[META_DATA][1]
            matrix = vectors.get(told[PATH][1][1][0].decode())
            if matrix is None:
                first = told.get(DICTIONARY_OFFSET, told[DATA_OFFSET])[1]
                written = [data[first : first + told[COMPRESSED][1]]]
                for offset in (DATA_OFFSET, DICTIONARY_OFFSET):
                    if offset in told:
                        told[offset] = (I64, told[offset][1] - first + place)
            else:
                written = pages_of(matrix[start : start + n_rows])
                size = sum(memoryview(piece).nbytes for piece in written)
                for field in TOLD_OF_EMPTY:
                    told.pop(field, None)
                told |= {ENCODINGS: (LIST, (I32, [PLAIN, RLE])), CODEC: (I32, NO_CODEC), N_VALUES: (I64, n_rows * matrix.shape[1]),
                         UNCOMPRESSED: (I64, size), COMPRESSED: (I64, size), DATA_OFFSET: (I64, place)}
            pieces += written
            place += told[COMPRESSED][1]
            if chunk[CHUNK_OFFSET][1]:
                chunk[CHUNK_OFFSET] = (I64, told[DATA_OFFSET][1])
        sizes = [[chunk[META_DATA][1][field][1] for chunk in group[COLUMNS][1][1]] for field in (UNCOMPRESSED, COMPRESSED)]
        group |= {TOTAL_BYTES: (I64, sum(sizes[0])), GROUP_OFFSET: (I64, at), GROUP_COMPRESSED: (I64, sum(sizes[1]))}
        start += n_rows
    written = write_struct(footer)
    return [*pieces, written, len(written).to_bytes(4, "little"), MAGIC]


def pages_of(matrix: np.ndarray) -> list:
    """Data pages of vectors (n, width): headers and levels as bytes, numbers as they are."""
    pieces: list = []
    rows_of_page = _rows_of_page(matrix.shape[1])
    for start in range(0, len(matrix), rows_of_page):
        page = matrix[start : start + rows_of_page]
        pieces += [_before_numbers(*page.shape), page.reshape(-1).view(np.uint8)]
    return pieces


@dataclass(frozen=True)
class _Layout:
    """Where the vectors of a column lie in one row group: pages of `head` bytes and their vectors, the last one perhaps shorter."""

    start: int
    size: int
    n_rows: int
    width: int
    first: bytes  # what the first page begins with

    def places(self, rows: np.ndarray) -> np.ndarray:
        """First byte of the vectors of some rows, counted from `start`."""
        rows_of_page = _rows_of_page(self.width)
        pages, last = rows // rows_of_page, (self.n_rows - 1) // rows_of_page
        heads = np.where(pages < last, len(self.first), len(_before_numbers(self.n_rows - last * rows_of_page, self.width)))
        return pages * (len(self.first) + 4 * self.width * rows_of_page) + heads + 4 * self.width * (rows % rows_of_page)


def _layout(group: pq.RowGroupMetaData, column: str) -> _Layout | None:
    """None where the column chunk is not as long as `pages_of` would have made it; then somebody else has written it."""
    told = next(chunk for chunk in map(group.column, range(group.num_columns)) if chunk.path_in_schema.split(".")[0] == column)
    n_rows, width = group.num_rows, told.num_values // max(1, group.num_rows)
    if width < SHORTEST or told.physical_type != "FLOAT" or told.compression != "UNCOMPRESSED" or told.num_values != n_rows * width:
        return None
    if told.num_values >= 2**31:  # more than the offsets of a list can count
        return None
    layout = _Layout(told.data_page_offset, told.total_compressed_size, n_rows, width, _before_numbers(min(n_rows, _rows_of_page(width)), width))
    return layout if layout.places(np.array([n_rows - 1]))[0] + 4 * width == layout.size else None


def read_rows(source: pa.NativeFile, group: pq.RowGroupMetaData, column: str, rows: np.ndarray) -> np.ndarray | None:
    """Vectors of some rows of a row group, (n, width) float32, of which nothing else is read; None if `pages_of` has not written them."""
    layout = _layout(group, column)
    if layout is None or source.read_at(len(layout.first), layout.start) != layout.first:
        return None
    places = (layout.start + layout.places(rows)).tolist()
    return np.stack([np.frombuffer(source.read_at(4 * layout.width, place), "<f4") for place in places])


def read_group(source: pa.NativeFile, group: pq.RowGroupMetaData, column: str) -> np.ndarray | None:
    """All vectors of a row group, (n, width) float32; None if `pages_of` has not written them."""
    layout = _layout(group, column)
    return None if layout is None else _span(source, layout, 0, layout.n_rows)


def _span(source: pa.NativeFile, layout: _Layout, start: int, stop: int) -> np.ndarray | None:
    """Vectors of rows start:stop, (n, width) float32, with one read; None where a page does not begin as `pages_of` lets it begin."""
    rows_of_page, width = _rows_of_page(layout.width), layout.width
    first, last = layout.places(np.array([start, stop - 1])).tolist()
    first = first if start else 0  # with the head of the first page
    data = source.read_at(last + 4 * width - first, layout.start + first)
    matrix, row = np.empty((stop - start, width), "<f4"), start
    while row < stop:
        end, place = min((row // rows_of_page + 1) * rows_of_page, stop), int(layout.places(np.array([row]))[0]) - first
        if row % rows_of_page == 0 and (row > start or not start):  # its head is in what was read
            head = _before_numbers(min(rows_of_page, layout.n_rows - row), width)
            if data[place - len(head) : place] != head:
                return None
        part = matrix[row - start : end - start]
        part.reshape(-1)[:] = np.frombuffer(data, "<f4", part.size, place)
        row = end
    return matrix


def read_batches(source: pa.NativeFile, columns: Sequence[str] | None, batch_rows: int, schema: pa.Schema | None = None) -> Iterator | None:
    """The rows of a file with vectors in batches, which are all that is in memory; None where there are no vectors, or columns are not those of
    `schema`."""
    file = pq.ParquetFile(source)
    known = file.schema_arrow
    names = list(columns or (schema or known).names)
    if any(name not in known.names or (schema is not None and schema.field(name).type != known.field(name).type) for name in names):
        return None
    kinds = [known.field(name).type for name in names]
    vectors = [name for name, kind in zip(names, kinds, strict=True) if pa.types.is_list(kind) and kind.value_type == pa.float32()]
    return _batches(file, source, names, vectors, batch_rows) if vectors else None


def _batches(file: pq.ParquetFile, source: pa.NativeFile, names: list[str], vectors: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    wanted = pa.schema([file.schema_arrow.field(name) for name in names])
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        layouts = {name: layout for name in vectors if (layout := _layout(group, name)) is not None}
        decoded = file.read_row_group(number, columns=[name for name in names if name not in layouts], use_threads=False)
        for start in range(0, group.num_rows, batch_rows):
            stop = min(start + batch_rows, group.num_rows)
            matrices = {name: _span(source, layout, start, stop) for name, layout in layouts.items()}
            if others := [name for name, matrix in matrices.items() if matrix is None]:  # somebody else's pages, of the same length
                layouts = {name: layout for name, layout in layouts.items() if name not in others}
                read = file.read_row_group(number, columns=others, use_threads=False)
                for name in others:
                    decoded = decoded.append_column(wanted.field(name), read.column(name))
            columns = [_list_array(matrices[name], wanted.field(name).type) if name in layouts else decoded.column(name).slice(start, stop - start)
                       for name in names]
            yield from pa.Table.from_arrays(columns, schema=wanted).combine_chunks().to_batches()


def _list_array(matrix: np.ndarray, kind: pa.DataType) -> pa.ListArray:
    offsets = pa.array(np.arange(len(matrix) + 1, dtype=np.int32) * np.int32(matrix.shape[1]))
    return pa.ListArray.from_arrays(offsets, pa.array(matrix.reshape(-1)), type=kind)


def _rows_of_page(width: int) -> int:
    return max(1, PAGE_BYTES // (4 * width))


@lru_cache(maxsize=64)
def _before_numbers(n_rows: int, width: int) -> bytes:
    """Header and levels of a page. The first number of a vector begins a list (0), the others go on with it (1), and all are there (3)."""
    begins = bytes([0b11, 0b11111110]) + unsigned(width - 8 << 1) + b"\x01"  # eight as bits, then a run
    levels = b"".join(len(part).to_bytes(4, "little") + part for part in (begins * n_rows, unsigned(n_rows * width << 1) + b"\x03"))
    size = len(levels) + 4 * n_rows * width
    numbers = {1: (I32, n_rows * width), 2: (I32, PLAIN), 3: (I32, RLE), 4: (I32, RLE)}
    return write_struct({1: (I32, DATA_PAGE), 2: (I32, size), 3: (I32, size), 5: (STRUCT, numbers)}) + levels

