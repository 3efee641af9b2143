"""Between Spark and the store: reading a pinned snapshot as a DataFrame, and staging a DataFrame as files of a table."""

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pyspark import RDD
from pyspark.errors import PythonException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from lurm import errors
from lurm.config import SparkSettings
from lurm.manifest import DataFile, Snapshot
from lurm.rough_products import usable_cores
from lurm.schema import Table
from lurm.staging import STAGED, PartitionWriter, read_files, staged_rows
from lurm.store import Store

CHUNK_BYTES = 64 << 20  # of files that one task reads, where Spark does not cut them itself
TASKS_A_CORE = (2, 8)  # of work that could be cut further: the more, the less anybody waits for the last one,
TASK_BYTES = 16 << 20  # but while a task reads less than this, its start (some 50 ms) costs more than the waiting
EVENTS_A_BAG, STATES_AN_EVENT = 4, 16  # bytes that take equally long, in round numbers: bags are folded by a GRU, states are there to be read
Task, Done = TypeVar("Task"), TypeVar("Done")
COUNTED = "counted"  # in place of a path: a row of figures, not of a file


def read_table(spark: SparkSession, store: Store, snapshot: Snapshot) -> DataFrame:
    """A pinned snapshot, with its partition columns.

    In a local warehouse Spark reads the files itself; anywhere else the executors read them with Arrow's file systems, so that no
    connector has to be installed on the cluster.
    """
    table = snapshot.table
    schema = spark_schema(table.schema)
    if not snapshot.files:
        return spark.createDataFrame([], schema)
    if store.is_local:
        columns = [field for field in schema.fields if field.name not in table.partition_by or field.name in snapshot.files[0].path]
        frame = spark.read.option("basePath", snapshot.root).schema(StructType(columns)).parquet(*snapshot.uris())
        return frame.select(*[field.name for field in columns])
    files = [(uri, dict(file.partition)) for uri, file in zip(snapshot.uris(), snapshot.files, strict=True)]
    tasks = [(json.dumps(chunk),) for chunk in _chunks(files, [file.size for file in snapshot.files], 2 * spark.sparkContext.defaultParallelism)]
    arrow_schema = table.schema

    def read(batches):
        import pyarrow as pa

        for batch in batches:
            for uri, values in (file for text in batch.column(0).to_pylist() for file in json.loads(text)):
                for piece in read_files(store, [uri]):
                    arrays = [
                        piece.column(field.name) if field.name in piece.schema.names
                        else pa.array([values.get(field.name)] * piece.num_rows, pa.string()).cast(field.type)
                        for field in arrow_schema
                    ]
                    yield pa.RecordBatch.from_arrays(arrays, schema=arrow_schema)

    return spark.sparkContext.parallelize(tasks, len(tasks)).toDF("files string").mapInArrow(read, schema)


def _chunks(parts: Sequence, sizes: Sequence[int], at_least: int) -> list[list]:
    """Parts of work in their order, cut by the bytes that they read: small ones share a task, for each task costs a start.

    So many chunks as are asked for, or the next multiple of that, of nearly one size; where parts are large or few there are fewer.
    """
    total = max(1, sum(sizes))
    n_chunks = -(-total // (CHUNK_BYTES * at_least)) * at_least
    chunks: dict[int, list] = {}
    before = 0
    for part, size in zip(parts, sizes, strict=True):
        middle = before + size / 2
        chunks.setdefault(min(n_chunks - 1, int(middle * n_chunks / total)), []).append(part)
        before += size
    return list(chunks.values())


def stage_frame(
    frame: DataFrame, store: Store, table: Table, run_key: str, *, rows_per_file: int, partition: Mapping[str, str] | None = None,
    split_by: Sequence[str] = (), transform: Callable | None = None, order: Sequence[str] | None = None, totals: Counter | None = None,
) -> list[DataFile]:
    """Write the rows of a frame as files of a table that no reader sees yet, and return their description.

    Rows are brought together by the table's partition columns and `split_by` (columns that only cut files, such as a bucket of the
    user), sorted, and written by Python workers. The result does not depend on how Spark cut the work. `transform(batches, counted)` turns
    the sorted Arrow batches into rows of the table on their way to the writer; the frame then has other columns, sorted by `order`. What it
    adds to its Counter is summed into `totals`: once for each file that counts, also where a lost worker's task was run again.
    """
    fixed = dict(partition or {})
    keys = [column for column in table.partition_by if column in frame.columns and column not in fixed] + list(split_by)
    if transform is None:
        frame = frame.select(*dict.fromkeys([*table.data_schema.names, *keys]))
    order = [*keys, *(order or table.sorted_by), *(name for name in ("weight",) if name in frame.columns)]
    frame = (frame.repartition(*keys) if keys else frame.coalesce(1)).sortWithinPartitions(*order)

    def write(batches):
        counted = Counter()
        batches = transform(batches, counted) if transform else batches
        yield from staged_rows(PartitionWriter(store, table, run_key, keys, fixed, rows_per_file).write(batches))
        if counted:
            yield from staged_rows([DataFile(COUNTED, 0, 0, "", dict(counted))])

    rows = _collect(frame.mapInArrow(write, from_arrow_schema(STAGED)))
    files = (DataFile(row.path, row.size, row.rows, row.sha256, json.loads(row.partition), row.first_key, row.last_key) for row in rows)
    return _staged(files, totals)


def stage_tasks(
    spark: SparkSession | None, tasks: Sequence[Mapping], produce: Callable, store: Store, table: Table, run_key: str, *,
    rows_per_file: int, keys: Sequence[str] = (), partition: Mapping[str, str] | None = None, resources=None,
    totals: Counter | None = None, sizes: Sequence[int] | None = None,
) -> list[DataFile]:
    """Run `produce(task, counted)`, which yields Arrow batches of `table`, once per task on the executors.

    For work whose input lies in one bucket's files already, so that nothing has to be shuffled: a task is plain data. The
    `keys` that a task names itself hold for all of its rows, the others are columns of the batches. What a task adds to its Counter `counted`
    is summed over all tasks into `totals`. With `sizes`, the bytes that each task reads, small tasks share a start. Without a session (see
    `spark_for`) this process does the work itself, on as many threads as it has cores. Returns the description of the staged files.
    """
    if not tasks:
        return []
    fixed = dict(partition or {})

    def work(chunks):
        for task in (task for chunk in chunks for task in chunk):
            counted = Counter()
            named = {key: task[key] for key in keys if key in task}
            writer = PartitionWriter(store, table, run_key, [key for key in keys if key not in task], {**named, **fixed}, rows_per_file)
            yield from writer.write(produce(task, counted))
            yield DataFile(COUNTED, 0, 0, "", dict(counted))

    if spark is None:
        return _staged((file for files in in_threads(lambda task: list(work([[task]])), tasks) for file in files), totals)
    context = spark.sparkContext
    fewest, most = (number * context.defaultParallelism for number in TASKS_A_CORE)
    chunks = _chunks(tasks, sizes, max(fewest, min(most, -(-sum(sizes) // (TASK_BYTES * fewest)) * fewest))) if sizes else [[task] for task in tasks]
    done = context.parallelize(chunks, len(chunks)).mapPartitions(work)  # not a DataFrame, whose tasks take twice as long to start
    return _staged(_collect(done.withResources(resources) if resources else done), totals)


def spark_for(sizes: Sequence[int], settings: SparkSettings, open_session: Callable[[], SparkSession]) -> SparkSession | None:
    """The session, or None for tasks that read so little (`spark.in_process_mb`) that they are done before Spark has sent them to its workers;
    where no session runs yet, none has to start. Who asks for a GPU for every worker gets workers."""
    return open_session() if settings.gpus_per_worker or sum(sizes) > settings.in_process_mb * 2**20 else None


def cost_of(bags: Snapshot, states: Snapshot | None = None) -> int:
    """Bytes of events that take as long to count as SMEN takes for these bags and kept states: what `spark_for` asks of its tasks."""
    return EVENTS_A_BAG * sum(file.size for file in bags.files) + sum(file.size for file in (states.files if states else ())) // STATES_AN_EVENT


def in_threads(work: Callable[[Task], Done], tasks: Iterable[Task]) -> list[Done]:
    """work(task) of every task, in their order, in threads of this process, as many as it has cores; after one that failed no other begins."""
    failed = threading.Event()

    def one(task: Task) -> Done | None:
        try:
            return None if failed.is_set() else work(task)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(one, tasks))  # raises what the first of them raised


def _staged(files: Iterable[DataFile], totals: Counter | None) -> list[DataFile]:
    """The files by name, each once however often its task ran; what was counted beside them is added to `totals`."""
    once: dict[str, DataFile] = {}
    for file in files:
        if file.path != COUNTED:
            once[file.path] = file
        elif totals is not None:
            totals.update(file.partition)
    return [once[path] for path in sorted(once)]


def _collect(job: DataFrame | RDD) -> list:
    """What the tasks of a job say of their files: a row for each, which is small."""
    try:
        return job.collect()
    except PythonException as error:
        raise _of_worker(error) from None


def _of_worker(error: PythonException) -> Exception:
    """What a Python worker raised, if it was meant for the user: its one sentence instead of two stack traces."""
    raised = re.findall(r"^lurm\.errors\.(\w+): (.*)$", str(error), flags=re.MULTILINE)
    kind = getattr(errors, raised[-1][0], None) if raised else None
    return kind(raised[-1][1]) if kind else error


def spark_schema(schema) -> StructType:
    return from_arrow_schema(schema)


def bucket_of(column: str, n_buckets: int) -> Column:
    """Bucket of a key: a hash, so a bucket is a random sample."""
    return F.pmod(F.xxhash64(F.col(column)), F.lit(n_buckets)).cast("int")
