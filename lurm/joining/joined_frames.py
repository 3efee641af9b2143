"""The same kind of frame out as came in: what the point-in-time join hands back.

Frames in memory (Arrow, pandas, polars) keep their rows in order and get three columns; streams and files come out as a stream or a Parquet
file, by release; a Spark frame becomes a Spark frame whose rows are joined on the executors.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lurm.errors import InputError
from lurm.joining.embedding_units import list_column
from lurm.joining.label_frames import BATCH_ROWS, PANDAS, POLARS, SPARK, STREAM, Labels, check_columns, kind_of, open_labels, time_micros
from lurm.joining.label_join import Join, JoinReport, check_models, joined
from lurm.joining.point_in_time import NONE
from lurm.whole_file import whole_file

ROW = "__lurm_row"  # place of a row in its frame
ROW_GROUP_BYTES = 32 * 2**20  # of Arrow memory, in a file that is written
CHUNK = 2**30  # numbers of one chunk of a column of lists, whose offsets are int32


def join_labels(join: Join, labels, report: JoinReport, output: str | None = None):
    """Labels of any kind, joined: the same kind, a RecordBatchReader for streams and files, and the report if `output` is written."""
    kind = kind_of(labels)
    if kind == SPARK:
        if output is not None:
            raise InputError(f"Expected no output= with a Spark frame, got {output!r}; write the frame that comes back with its own writer.")
        return _spark(join, labels)
    if output is not None:
        return _written(join, open_labels(labels, join.user, join.time), report, output)
    if kind == STREAM:
        found = open_labels(labels, join.user, join.time)
        return pa.RecordBatchReader.from_batches(join.schema(found.schema), joined(join, found, report))
    return _frame(join, labels, kind, report)


def _frame(join: Join, labels, kind: str, report: JoinReport):
    names = list(labels.schema.names if isinstance(labels, pa.Table | pa.RecordBatch) else labels.columns)
    join.check_names(names)
    keys = open_labels(labels, join.user, join.time, only_keys=True)
    found = _scatter(join, keys, len(labels), report)
    if kind == PANDAS:
        added = {name: column.to_pandas().to_numpy() for name, column in zip(join.names(), found.columns, strict=True)}
        whole = labels.assign(**added)
        return whole[found.known] if join.absent == "drop" else whole
    if kind == POLARS:
        whole = labels.hstack(type(labels)(pa.table(found.columns, names=join.names())))
        return whole.filter(found.known) if join.absent == "drop" else whole
    whole = pa.Table.from_batches([labels]) if isinstance(labels, pa.RecordBatch) else labels
    for name, column in zip(join.names(), found.columns, strict=True):
        whole = whole.append_column(name, column)
    return whole.filter(pa.array(found.known)) if join.absent == "drop" else whole


@dataclass
class _Found:
    columns: list[pa.ChunkedArray]
    known: np.ndarray


def _scatter(join: Join, keys: Labels, n_rows: int, report: JoinReport) -> _Found:
    """The added columns in the order of the frame. Memory: the vectors once, and what the join holds."""
    schema = pa.schema([*keys.schema, (ROW, pa.int64())])
    batches = joined(join if join.absent == "error" else replace(join, absent="drop"), Labels(schema, _numbered(keys, schema)), report)
    epochs = {row["epoch"] for row in report.releases}
    width = next((join.width(row) for row in join.timeline.releases if row["epoch"] in epochs), 0)  # the same for all of them
    matrix, known = np.zeros((n_rows, width), np.float32), np.zeros(n_rows, bool)
    codes, names = np.zeros(n_rows, np.int32), []
    embedding, as_of, model_id = join.names()
    for batch in batches:
        rows = batch.column(ROW).to_numpy()
        name = (batch.column(as_of)[0].as_py(), batch.column(model_id)[0].as_py())  # a batch is of one release
        if not names or names[-1] != name:
            names.append(name)
        matrix[rows] = batch.column(embedding).flatten().to_numpy().reshape(len(rows), width)
        known[rows], codes[rows] = True, len(names) - 1
    step = max(1, CHUNK // max(1, width))
    pieces = [list_column(matrix[start : start + step], known[start : start + step]) for start in range(0, n_rows, step)]
    texts = [_texts([name[place] for name in names], codes, known) for place in (0, 1)]
    return _Found([pa.chunked_array(pieces, pa.list_(pa.float32())), *texts], known)


def _texts(values: list[str], codes: np.ndarray, known: np.ndarray) -> pa.ChunkedArray:
    """The text of each row, null where nothing is known of it."""
    named, step = pa.array(values, pa.string()), 1_000_000
    pieces = [named.take(pa.array(codes[at : at + step], mask=~known[at : at + step])) for at in range(0, len(codes), step)]
    return pa.chunked_array(pieces, pa.string())


def _numbered(keys: Labels, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in keys.batches:
        yield pa.RecordBatch.from_arrays([*batch.columns, pa.array(np.arange(start, start + len(batch)))], schema=schema)
        start += len(batch)


def _written(join: Join, labels: Labels, report: JoinReport, output: str) -> JoinReport:
    """One Parquet file, whole or not at all."""
    schema = join.schema(labels.schema)
    rows = joined(join, labels, report)
    with whole_file(output) as temporary:
        with pq.ParquetWriter(temporary, schema, compression={name: "none" if name == join.names()[0] else "zstd" for name in schema.names},
                              use_dictionary=[name for name in schema.names if name != join.names()[0]]) as writer:
            for table in _gathered(rows, min(ROW_GROUP_BYTES, join.memory // 16)):
                writer.write_table(table)
    return report


def _gathered(batches: Iterator[pa.RecordBatch], n_bytes: int) -> Iterator[pa.Table]:
    """Batches put together until they are worth a row group."""
    pieces: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        pieces.append(batch)
        size += batch.nbytes
        if size >= n_bytes:
            yield pa.Table.from_batches(pieces)
            pieces, size = [], 0
    if pieces:
        yield pa.Table.from_batches(pieces)


def _spark(join: Join, labels):
    """A Spark frame, joined on the executors: labels of neighbouring users go to one task, so that a task reads its row groups and no others.

    Nothing of Spark is imported: types of columns are taken from a query, and the functions travel with the frame.
    """
    check_columns(labels.columns, join.user, join.time)
    join.check_names(labels.columns)
    candidates = [join.timeline.releases[place] for place in set(join.timeline.chosen.tolist()) if place != NONE]
    if len({(row["model_id"], row["n_anchors"], row["dim"]) for row in candidates}) > 1:
        _check_spark(join, labels)
    added = labels.sparkSession.sql(f"SELECT CAST(NULL AS ARRAY<FLOAT>) `{join.names()[0]}`, CAST(NULL AS STRING) `{join.names()[1]}`, "
                                    f"CAST(NULL AS STRING) `{join.names()[2]}`").schema

    def of_task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        first = next(batches, None)
        if first is not None:
            yield from joined(join, Labels(first.schema, _cut(first, batches)), JoinReport())

    schema = type(added)([*labels.schema.fields, *added.fields])
    return labels.repartitionByRange(labels[join.user]).mapInArrow(of_task, schema)


def _check_spark(join: Join, labels) -> None:
    """One pass over the times alone, to say before anything is joined which models the labels reach into."""
    def of_task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            micros, known = time_micros(batch.column(0), join.time)
            places, counts = np.unique(np.where(known, join.timeline.at(micros), NONE), return_counts=True)
            yield pa.RecordBatch.from_pydict({"place": places.astype(np.int64), "n": counts.astype(np.int64)})

    counted = labels.select(labels[join.time]).mapInArrow(of_task, "place long, n long").groupBy("place").sum("n").collect()
    rows = {row[0]: row[1] for row in counted}
    check_models([join.timeline.releases[place] for place in sorted(rows) if place != NONE], rows, join)


def _cut(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    batch: pa.RecordBatch | None = first
    while batch is not None:
        yield from (batch.slice(start, BATCH_ROWS) for start in range(0, len(batch), BATCH_ROWS))
        batch = next(rest, None)
