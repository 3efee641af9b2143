"""The user's files as a DataFrame of raw rows: by Spark itself where it can read them, by Arrow on the executors where it has no connector.

In: a checked Source and some of its files. Out: every column as the file has it, and the columns FILE and MODIFIED, where a row is from. Both
ways give the same rows: CSV and JSON lines are parsed by Spark's own parsers, line by line (only blanks inside a nested JSON value, which is kept
as text, are lost without a connector); Parquet types are those that Spark would have chosen. Without a connector one task reads one file, so a
log in files of about 100 MB is cut well.
"""

import json
import re
from collections.abc import Iterator
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from lurm.errors import InputError
from lurm.sources import Source, SourceFile

FILE, MODIFIED, BROKEN = "_lurm_file", "_lurm_modified", "_broken"
OF_HADOOP = ("", "file", "hdfs", "viewfs")  # file systems that every Spark can read
BLOCK_BYTES = 4 << 20
LINES = 8_192  # of text in a batch
_END_OF_LINE = re.compile(rb"\r\n|\n|\r")


def read_source(spark: SparkSession, source: Source, files: list[str]) -> DataFrame:
    """The raw rows of some files of a source, with FILE and MODIFIED; for JSON lines BROKEN holds a line that is no object."""
    if all(spark_reads(spark, path) for path in files):
        raw = _by_spark(spark, source, files)
        return raw.select("*", F.col("_metadata.file_path").alias(FILE), F.col("_metadata.file_modification_time").alias(MODIFIED))
    chosen = set(files)
    tasks = [(json.dumps([file.path, file.modified]),) for file in source.files if file.path in chosen]
    listing = spark.sparkContext.parallelize(tasks, len(tasks)).toDF("task string")
    return _parquet_by_arrow(listing, source) if source.format == "parquet" else _text_by_arrow(listing, source)


def spark_reads(spark: SparkSession, path: str) -> bool:
    """Whether Spark can open a path: a file system of its own, or one that the cluster names a connector for (spark.hadoop.fs.SCHEME.impl)."""
    scheme = path.partition("://")[0] if "://" in path else ""
    return scheme in OF_HADOOP or spark.conf.get(f"spark.hadoop.fs.{scheme}.impl", None) is not None


def _by_spark(spark: SparkSession, source: Source, files: list[str]) -> DataFrame:
    if source.format == "parquet":
        spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
        return spark.read.parquet(*files)
    if source.format == "csv":
        return spark.read.option("header", True).option("multiLine", False).options(**_csv_options(source)).csv(files)
    return spark.read.schema(_text_schema(source)).option("columnNameOfCorruptRecord", BROKEN).json(files)


def _parquet_by_arrow(listing: DataFrame, source: Source) -> DataFrame:
    columns = [pa.field(name, plain_type(kind)) for name, kind in source.columns.items()]
    schema = pa.schema([*columns, pa.field(FILE, pa.string()), pa.field(MODIFIED, pa.timestamp("us", "UTC"))])

    def read(batches):
        import pyarrow.dataset as ds

        for file in _tasks(batches):
            filesystem, path = _open(file.path)
            dataset = ds.dataset(path, filesystem=filesystem, format="parquet", partitioning=None)
            for batch in dataset.to_batches(columns=[field.name for field in columns], batch_size=65_536, use_threads=False):
                values = [_cast(batch.column(field.name), field.type) for field in columns]
                yield pa.RecordBatch.from_arrays([*values, *_provenance(file, batch.num_rows)], schema=schema)

    return listing.mapInArrow(_with_sentence(read, source.name), from_arrow_schema(schema))


def _text_by_arrow(listing: DataFrame, source: Source) -> DataFrame:
    schema = pa.schema([("line", pa.string()), (FILE, pa.string()), (MODIFIED, pa.timestamp("us", "UTC"))])
    has_header = source.format == "csv"

    def read(batches):
        for file in _tasks(batches):
            filesystem, path = _open(file.path)
            with filesystem.open_input_stream(path, compression="detect") as stream:
                for lines in batches_of_lines(iter(lambda opened=stream: opened.read(BLOCK_BYTES), b""), has_header):
                    yield pa.RecordBatch.from_arrays([pa.array(lines, pa.string()), *_provenance(file, len(lines))], schema=schema)

    frame = listing.mapInArrow(_with_sentence(read, source.name), from_arrow_schema(schema))
    if has_header:
        row = F.from_csv("line", _text_schema(source), _csv_options(source))
    else:
        row = F.from_json("line", _text_schema(source), {"columnNameOfCorruptRecord": BROKEN})
    return frame.select(row.alias("row"), FILE, MODIFIED).select("row.*", FILE, MODIFIED)


def batches_of_lines(blocks: Iterator[bytes], has_header: bool) -> Iterator[list[str]]:
    """Lines of a text in UTF-8, some thousand at a time, without blank ones and without the header; a broken character becomes U+FFFD."""
    pending, lines, first, header = b"", [], True, has_header
    for block in _with_end(blocks):
        if block is not None:
            pending += block
            if first:
                pending, first = pending.removeprefix(b"\xef\xbb\xbf"), False
            if pending.endswith(b"\r"):  # the other half of an end of line may be in the next block
                continue
            *whole, pending = _END_OF_LINE.split(pending)
        else:
            whole, pending = _END_OF_LINE.split(pending), b""
        for line in whole:
            if not line.strip():
                continue
            if header:
                header = False
                continue
            lines.append(line.decode("utf-8", errors="replace"))
            if len(lines) == LINES:
                yield lines
                lines = []
    if lines:
        yield lines


def _with_end(blocks: Iterator[bytes]) -> Iterator[bytes | None]:
    yield from blocks
    yield None


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The Arrow type of the column that Spark reads from a Parquet column of this type; nanoseconds become integers, as Spark is told to do."""
    types = pa.types
    if types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if types.is_timestamp(kind):
        return pa.int64() if kind.unit == "ns" else pa.timestamp("us", "UTC" if kind.tz else None)
    if types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind) or types.is_time(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_fixed_size_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    unsigned = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.uint64(): pa.decimal128(20, 0)}
    return unsigned.get(kind, pa.float32() if types.is_float16(kind) else kind)


def _open(path: str) -> tuple[pa.fs.FileSystem, str]:
    scheme, _, rest = path.partition("://")
    return pa.fs.FileSystem.from_uri(f"{scheme}://{quote(rest)}")  # names of files may hold what a URI may not


def _cast(values: pa.Array, kind: pa.DataType) -> pa.Array:
    return values if values.type == kind else values.cast(kind)


def _provenance(file: SourceFile, n_rows: int) -> list[pa.Array]:
    modified = pa.scalar(file.modified // 1_000_000 * 1_000, pa.int64()).cast(pa.timestamp("us", "UTC"))
    return [pa.repeat(file.path, n_rows), pa.repeat(modified, n_rows)]


def _tasks(batches) -> Iterator[SourceFile]:
    for batch in batches:
        for text in batch.column(0).to_pylist():
            path, modified = json.loads(text)
            yield SourceFile(path, 0, modified)


def _with_sentence(read, name: str):
    """`read`, whose failures say which input they are of."""

    def reading(batches):
        try:
            yield from read(batches)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"Expected readable files of {name}, could not read one ({str(error).splitlines()[0]}); export it again.") from None

    return reading


def _text_schema(source: Source) -> str:
    fields = ", ".join(f"`{name}` string" for name in source.columns)
    return fields if source.format == "csv" else f"{fields}, `{BROKEN}` string"


def _csv_options(source: Source) -> dict[str, str]:
    return {"sep": source.separator, "escape": '"'}
