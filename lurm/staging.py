"""Writing Parquet files that no reader sees yet, and streaming files back.

Executors stage files here; the driver commits their list (`lurm.store`). A file's name is its run and its content, so a task that is
tried twice writes the same name with the same bytes, and what a killed run left behind is never picked up by accident.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lurm.errors import StoreError
from lurm.manifest import DataFile
from lurm.schema import Table
from lurm.store import Store
from lurm.vector_pages import parquet_pieces, read_batches

FILE_BYTES = 128_000_000  # of Arrow memory; bounds what a writer holds
ROW_GROUP_BYTES = 16_000_000
UNIT_ROWS = 4_096  # files end at whole units of so many rows, unless rows_per_file or a change of key ends them

# What a staging task returns to the driver, one row a file.
STAGED = pa.schema([
    ("path", pa.string()), ("size", pa.int64()), ("rows", pa.int64()), ("sha256", pa.string()),
    ("partition", pa.string()), ("first_key", pa.string()), ("last_key", pa.string()),
])


def stage_table(store: Store, table: Table, run_key: str, partition: Mapping[str, str], rows: pa.Table) -> DataFile:
    """Write one Parquet file of `table` (its data columns, in any order) and describe it."""
    rows = rows.select(table.data_schema.names).cast(table.data_schema).combine_chunks()  # pages end where chunks do: bytes would differ
    floats = any(pa.types.is_list(kind) and pa.types.is_floating(kind.value_type) for kind in table.data_schema.types)
    row_bytes = max(1, rows.nbytes // max(1, rows.num_rows))
    pieces = parquet_pieces(
        rows,
        row_group_size=max(1_024, min(131_072, ROW_GROUP_BYTES // row_bytes)),
        compression="none" if floats else "zstd",  # float mantissas do not compress: it would cost time and save nothing
        use_dictionary=not floats,
    )
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += memoryview(piece).nbytes
    sha256 = digest.hexdigest()
    folders = [f"{column}={partition[column]}" for column in table.partition_by if column in partition]
    path = "/".join([*folders, f"{run_key}-{sha256[:16]}.parquet"])
    target = store.path("tables", table.name, *path.split("/"))
    if store.sizes([target]) != [size]:  # never touch a file that may be live already
        store.write_bytes(target, pieces)
    first_key, last_key = _key_range(table, rows)
    return DataFile(path, size, rows.num_rows, sha256, dict(partition), first_key, last_key)


class PartitionWriter:
    """Cuts a stream of rows, sorted by `keys`, into files: a new file at every change of a key and at `rows_per_file`.

    `keys` are the partition columns and, after them, columns that only split files (a bucket). `partition` holds values that are the
    same for all rows. Where a file ends depends on its rows alone, never on how the stream was cut into batches, because the names of
    files, and with them the ids of all that is trained on them, are digests of their bytes. Memory: one file's rows, at most FILE_BYTES.
    """

    def __init__(self, store: Store, table: Table, run_key: str, keys: Sequence[str], partition: Mapping[str, str], rows_per_file: int):
        self.store, self.table, self.run_key = store, table, run_key
        self.keys, self.partition, self.rows_per_file = list(keys), dict(partition), rows_per_file
        self._pending_key: tuple | None = None
        self._units: list[pa.Table] = []  # whole units of the file to be written
        self._pieces: list[pa.RecordBatch] = []  # of the unit that is being filled
        self._n_rows = self._n_bytes = 0

    def write(self, batches: Iterable[pa.RecordBatch]) -> Iterator[DataFile]:
        for batch in batches:
            starts = _run_starts(batch, self.keys)
            for start, stop in zip(starts, [*starts[1:], batch.num_rows], strict=True):
                key = tuple(str(batch.column(name)[start].as_py()) for name in self.keys)
                if key != self._pending_key:
                    yield from self._flush()
                    self._pending_key = key
                while start < stop:
                    room = min(self.rows_per_file - self._n_rows, UNIT_ROWS - self._n_rows % UNIT_ROWS, stop - start)
                    self._pieces.append(batch.slice(start, room))
                    self._n_rows += room
                    start += room
                    if self._n_rows % UNIT_ROWS == 0:
                        self._close_unit()
                    if self._n_rows == self.rows_per_file or self._n_bytes >= FILE_BYTES:
                        yield from self._flush()
        yield from self._flush()

    def _close_unit(self) -> None:
        """Bytes are counted for whole units only, copied into one piece: the size of a slice depends on where it was cut."""
        if self._pieces:
            unit = pa.Table.from_batches(self._pieces).combine_chunks()
            self._units.append(unit)
            self._n_bytes += unit.nbytes
            self._pieces = []

    def _flush(self) -> Iterator[DataFile]:
        self._close_unit()
        if not self._units:
            return
        rows = pa.concat_tables(self._units)
        self._units, self._n_rows, self._n_bytes = [], 0, 0
        named = dict(zip(self.keys, self._pending_key, strict=True))
        partition = {column: value for column, value in {**named, **self.partition}.items() if column in self.table.partition_by}
        yield stage_table(self.store, self.table, self.run_key, partition, rows)


def staged_rows(files: Iterable[DataFile]) -> Iterator[pa.RecordBatch]:
    """Describe staged files as rows of STAGED, the way they travel from an executor to the driver."""
    for file in files:
        row = {
            "path": file.path, "size": file.size, "rows": file.rows, "sha256": file.sha256, "partition": json.dumps(file.partition),
            "first_key": file.first_key, "last_key": file.last_key,
        }
        yield pa.RecordBatch.from_pylist([row], STAGED)


def read_files(store: Store, uris: Iterable[str], columns: Sequence[str] | None = None, batch_rows: int = 65_536,
               filters=None, schema: pa.Schema | None = None, dictionaries: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
    """Stream Parquet files in order, in batches of bounded size; `filters` is a pyarrow expression that also skips row groups.

    With `schema` a column of it that a file lacks is null: files written before the column was added are read like any other. Text columns
    named in `dictionaries` stay the dictionaries that they are in the file.
    """
    import pyarrow.dataset as ds

    form = ds.ParquetFileFormat(dictionary_columns=set(dictionaries))
    for uri in uris:
        try:
            if filters is None and not (schema and dictionaries):
                with store.filesystem.open_input_file(uri) as source:
                    if dictionaries:
                        read = _with_dictionaries(source, columns, batch_rows, dictionaries, not store.is_local)
                    else:
                        read = read_batches(source, columns, batch_rows, schema)
                    if read is not None:
                        yield from (batch for batch in read if batch.num_rows)
                        continue
            dataset = ds.dataset(uri, schema=schema, filesystem=store.filesystem, format=form, partitioning=None)
            yield from (batch for batch in dataset.to_batches(columns=list(columns) if columns else None, filter=filters,
                                                              batch_size=batch_rows, use_threads=False) if batch.num_rows)
        except (pa.ArrowInvalid, OSError) as error:
            raise StoreError(f"Expected a whole Parquet file at {uri}, could not read it ({error}); restore it or rebuild its table.") from None


def _with_dictionaries(source: pa.NativeFile, columns: Sequence[str] | None, batch_rows: int, dictionaries: Sequence[str], far: bool) -> Iterator:
    """The rows of a file in batches, decoded as they are asked for: a dataset reads ahead, which costs a fifth more and is never waited for.
    Columns of a far file come in one request; on a disk that is a copy, a sixth of what a small file costs."""
    file = pq.ParquetFile(source, read_dictionary=list(dictionaries), pre_buffer=far)
    return file.iter_batches(batch_rows, columns=list(columns) if columns else None, use_threads=False)


def walk_sorted(streams: Sequence[Iterator[pa.RecordBatch]], key: str) -> Iterator[list[tuple[int, pa.RecordBatch]]]:
    """Walk streams that are each sorted by a text column side by side.

    Yields lists of (stream, rows) that together hold every row of all streams up to some key: in each step, everything up to the
    smallest "last key" among the open batches is complete. Memory: one batch a stream.
    """
    heads: list[pa.RecordBatch | None] = [None] * len(streams)
    while True:
        for position, stream in enumerate(streams):
            if heads[position] is None:
                heads[position] = next(stream, None)
        alive = [head for head in heads if head is not None]
        if not alive:
            return
        complete = min(head.column(key)[head.num_rows - 1].as_py() for head in alive)
        pieces = []
        for position, head in enumerate(heads):
            if head is None:
                continue
            stop = _first_after(head.column(key), complete)
            if stop:
                pieces.append((position, head.slice(0, stop)))
            heads[position] = head.slice(stop) if stop < head.num_rows else None
        yield pieces


def _first_after(column: pa.Array, last: str) -> int:
    low, high = 0, len(column)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if column[middle].as_py() <= last else (low, middle)
    return low


def _run_starts(batch: pa.RecordBatch, keys: Sequence[str]) -> list[int]:
    """First row of every run of equal keys."""
    if batch.num_rows == 0:
        return []
    changed = np.zeros(batch.num_rows, dtype=bool)
    changed[0] = True
    for name in keys:
        column = batch.column(name)
        differs = pc.fill_null(pc.not_equal(column[1:], column[:-1]), True)
        changed[1:] |= differs.to_numpy(zero_copy_only=False)
    return np.flatnonzero(changed).tolist()


def _key_range(table: Table, rows: pa.Table) -> tuple[str | None, str | None]:
    if not table.sorted_by or not rows.num_rows or not pa.types.is_string(table.data_schema.field(table.sorted_by[0]).type):
        return None, None
    column = rows.column(table.sorted_by[0])
    return column[0].as_py(), column[-1].as_py()
