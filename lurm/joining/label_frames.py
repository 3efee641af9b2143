"""Labels as other teams have them: what kind of frame it is, its rows as Arrow batches, and its users and times in one form.

In: an Arrow table, reader or dataset, anything with an Arrow stream, a pandas or polars frame, or the path of Parquet or CSV files. Out: a
schema and batches of at most BATCH_ROWS rows; users as text, times as microseconds since 1970 in UTC. None of these libraries but Arrow is
imported here: a frame brings its own.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from os import PathLike, fspath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from lurm.errors import InputError
from lurm.sources import find_source

BATCH_ROWS = 65_536
CSV_BLOCK = 4_000_000  # bytes; the types of the other columns are told from the first block
TABLE, PANDAS, POLARS, STREAM, SPARK = "table", "pandas", "polars", "stream", "spark"
ZONE = r"(?i)[t ].*(z|[+-]\d{2}:?\d{2}|[+-]\d{2})$"


@dataclass(frozen=True)
class Labels:
    """Rows of labels; `batches` can be walked once."""

    schema: pa.Schema
    batches: Iterable[pa.RecordBatch]


def kind_of(labels) -> str:
    """Which kind of frame this is. Raises InputError for what is none."""
    library, name = type(labels).__module__.partition(".")[0], type(labels).__name__
    if name == "DataFrame" and library in (PANDAS, POLARS):
        return library
    if name == "DataFrame" and library == "pyspark":
        return SPARK
    if isinstance(labels, pa.Table | pa.RecordBatch):
        return TABLE
    streams = isinstance(labels, str | PathLike | pa.RecordBatchReader) or _is_of_dataset(labels, "Dataset", "Scanner")
    if streams or hasattr(labels, "__arrow_c_stream__"):
        return STREAM
    lazy = "; collect() it first" if name == "LazyFrame" else ""
    raise InputError("Expected labels as an Arrow table, reader or dataset, a pandas, polars or Spark frame, or the path of Parquet or CSV files, "
                     f"got {library}.{name}{lazy or '; give one of these'}.")


def open_labels(labels, user: str, time: str, only_keys: bool = False) -> Labels:
    """The rows of any kind but Spark's; with `only_keys` just the two columns. Raises InputError if a column is not there."""
    kind = kind_of(labels)
    if isinstance(labels, str | PathLike):
        return _of_files(fspath(labels), user, time)
    has_schema = isinstance(labels, pa.Table | pa.RecordBatch | pa.RecordBatchReader) or _is_of_dataset(labels, "Dataset")
    names = list(labels.schema.names if has_schema else
                 labels.columns if kind in (PANDAS, POLARS) else ())
    if names:
        check_columns(names, user, time)
    keys = list(dict.fromkeys([user, time]))
    if kind == PANDAS:
        table = _of_pandas(labels[keys] if only_keys else labels)
    elif kind == POLARS:
        table = (labels.select(keys) if only_keys else labels).to_arrow()
    elif kind == TABLE:
        table = pa.Table.from_batches([labels]) if isinstance(labels, pa.RecordBatch) else labels
        table = table.select(keys) if only_keys else table
    else:
        return _of_stream(labels, user, time)
    return Labels(table.schema, table.to_batches(max_chunksize=BATCH_ROWS))


def check_columns(names: list[str], user: str, time: str) -> None:
    """Raise InputError where a column of the join is not among those of the labels, or there twice."""
    for setting, column in (("user", user), ("time", time)):
        if names.count(column) != 1:
            found = "found it twice" if names.count(column) else f"found: {', '.join(map(str, names[:20])) or 'none'}"
            raise InputError(f"Expected a column {column!r} in the labels, {found}; name the right one with {setting}= (--{setting}).")


def user_texts(column: pa.Array, name: str) -> pa.Array:
    """User ids as text, the way the table has them: whole numbers lose nothing, empty text is no user (null). Raises InputError."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return user_texts(column.dictionary_decode(), name)
    try:
        if pa.types.is_floating(kind):  # what pandas makes of whole numbers with a gap
            column = pc.cast(pc.if_else(pc.is_nan(column), None, column), pa.int64())
        elif not (pa.types.is_integer(kind) or pa.types.is_null(kind) or _is_text(kind) or pa.types.is_binary(kind)):
            raise InputError(f"Expected user ids in column {name!r}, got {kind}; cast them to text as the events have them.")
        texts = pc.cast(column, pa.string())
    except pa.ArrowInvalid as error:
        raise InputError(f"Expected user ids in column {name!r}, got {kind} ({_first_line(error)}); cast them to text as the events have "
                         "them.") from None
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def time_micros(column: pa.Array, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(n,) int64 microseconds since 1970 in UTC and (n,) bool whether there is a time at all.

    Timestamps with a zone are instants, those without are taken as UTC; a date is its midnight; text is ISO 8601. Parts of a microsecond
    are cut off, towards the past. Raises InputError for anything else, with the first value that cannot be read.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return time_micros(column.dictionary_decode(), name)
    if _is_text(kind):
        moments = _parsed(pc.utf8_trim_whitespace(pc.cast(column, pa.string())), name)
    elif pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_null(kind):
        moments = column
    else:
        raise InputError(f"Expected times in column {name!r} as timestamps, dates or ISO text, got {kind}; cast them first.")
    known = pc.is_valid(moments).to_numpy(zero_copy_only=False)
    try:
        numbers = _micros(moments)
    except pa.ArrowInvalid as error:
        raise InputError(f"Expected times in column {name!r} between the years 1 and 9999, got {kind} ({_first_line(error)}); mend them.") from None
    return pc.fill_null(numbers, 0).to_numpy(zero_copy_only=False), known


def _micros(moments: pa.Array) -> pa.Array:
    kind = moments.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        nanos = moments.view(pa.int64())
        return pa.array(np.floor_divide(pc.fill_null(nanos, 0).to_numpy(), 1_000), mask=~pc.is_valid(moments).to_numpy(zero_copy_only=False))
    zone = kind.tz if pa.types.is_timestamp(kind) else None
    return pc.cast(pc.cast(moments, pa.timestamp("us", zone)), pa.int64())


def _parsed(texts: pa.Array, name: str) -> pa.Array:
    """ISO text as instants; empty text is no time."""
    texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    zoned = pc.fill_null(pc.match_substring_regex(texts, ZONE), False)
    nothing = pa.scalar(None, pa.string())
    try:
        with_zone = pc.cast(pc.if_else(zoned, texts, nothing), pa.timestamp("ns", "UTC")).cast(pa.timestamp("ns"))
        return pc.coalesce(with_zone, pc.cast(pc.if_else(zoned, nothing, texts), pa.timestamp("ns")))
    except pa.ArrowInvalid:
        for text in texts.drop_null().to_pylist():
            try:
                zone = "UTC" if pc.match_substring_regex(pa.scalar(text), ZONE).as_py() else None
                pc.cast(pa.scalar(text), pa.timestamp("ns", zone))
            except pa.ArrowInvalid:
                raise InputError(f"Expected times in column {name!r} as ISO text from 1678 to 2261, got {text!r}; write "
                                 "2022-01-31T12:00:00Z.") from None
        raise


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:160]


def _of_pandas(frame) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"Expected columns of one type each in the labels, got a mixture ({_first_line(error)}); cast them first.") from None


def _of_stream(labels, user: str, time: str) -> Labels:
    if _is_of_dataset(labels, "Dataset"):
        labels = labels.scanner(batch_size=BATCH_ROWS, batch_readahead=2, fragment_readahead=1)
    if _is_of_dataset(labels, "Scanner"):
        labels = labels.to_reader()
    reader = labels if isinstance(labels, pa.RecordBatchReader) else pa.RecordBatchReader.from_stream(labels)
    check_columns(reader.schema.names, user, time)
    return Labels(reader.schema, _cut(reader))


def _of_files(path: str, user: str, time: str) -> Labels:
    source = find_source("labels", path, "auto")
    if source.format == "jsonl":
        raise InputError(f"Expected labels as Parquet or CSV, {path!r} holds JSON; convert it first.")
    check_columns(list(source.columns), user, time)
    uris = [file.path for file in source.files]
    filesystem, _ = pa.fs.FileSystem.from_uri(uris[0])
    paths = [pa.fs.FileSystem.from_uri(uri)[1] for uri in uris]
    if source.format == "parquet":
        schema = pa.schema(source.columns.items())
        return Labels(schema, _parquet_batches(filesystem, paths, schema))
    files = _csv_batches(filesystem, paths, source.separator, user, time)
    first = next(files, None)
    if first is None:
        return Labels(pa.schema(source.columns.items()), [])
    return Labels(first.schema, _cut(chain([first], files)))


def _parquet_batches(filesystem, paths: list[str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Batch by batch, without reading ahead: a dataset would hold several row groups, which may be as large as their writer liked."""
    for path in paths:
        try:
            with filesystem.open_input_file(path) as source:
                file = pq.ParquetFile(source, pre_buffer=False, buffer_size=2**20)
                columns = None if file.schema_arrow.names == schema.names else schema.names  # names with dots are paths when they are named
                for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
                    yield batch.select(schema.names).cast(schema)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"Expected a whole Parquet file of labels, could not read {path} ({_first_line(error)}); export it again.") from None


def _csv_batches(filesystem, paths: list[str], separator: str, user: str, time: str) -> Iterator[pa.RecordBatch]:
    """Users and times stay the text they are (0012 is not 12); other columns get the types of the first block of the first file."""
    types = {user: pa.string(), time: pa.string()}
    for path in paths:
        try:
            with filesystem.open_input_stream(path, compression="detect") as stream:
                reader = pa.csv.open_csv(
                    stream, read_options=pa.csv.ReadOptions(block_size=CSV_BLOCK, use_threads=False),
                    parse_options=pa.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
                    convert_options=pa.csv.ConvertOptions(column_types=types),
                )
                types = {field.name: field.type for field in reader.schema}
                yield from reader
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"Expected labels as CSV with one type a column, could not read {path} ({_first_line(error)}); mend the file, or "
                             "give it as Parquet.") from None


def _cut(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)


def _is_of_dataset(labels: object, *names: str) -> bool:
    """Whether labels are of these classes of pyarrow.dataset, which is not loaded to find out: it brings pandas along, a sixth of a second."""
    module = sys.modules.get("pyarrow.dataset")
    return module is not None and isinstance(labels, tuple(getattr(module, name) for name in names))
