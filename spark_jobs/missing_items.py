"""What the stages of the catalogue have in common: items that have no result yet go through a function, and what comes out is staged.

In: a table with a row for each item, the results that are there, a function over Arrow batches. Out: files of the results' table, cut by bucket of
the item and sorted as the table is. A catalogue of `spark.in_process_mb` or less is done in threads of this process, without Spark; more of it
by Spark's workers. Both give the same rows in the same files.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql.pandas.types import from_arrow_schema

from lurm.config import SparkSettings
from lurm.lineage import Context
from lurm.manifest import DataFile, Snapshot
from lurm.schema import Table
from lurm.staging import PartitionWriter, read_files
from lurm.store import Store
from lurm.text_hash import bucket_numbers
from spark_jobs.session import gpu_profile, progress, torch_beside
from spark_jobs.tables import bucket_of, in_threads, read_table, spark_for, stage_frame

Transform = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
BATCH_ROWS = 65_536  # as many as Spark hands to a worker at once


def stage_missing(
    context: Context, what: str, rows: Snapshot, columns: Sequence[str], done: Snapshot, transform: Transform, table: Table, run_key: str,
    partition: dict[str, str], times: int = 1, by_torch: bool = False,
) -> list[DataFile]:  # fmt: skip
    """Stage transform(batches of `columns`) of the rows whose item_id is not among those of `done`; `transform` gives rows of `table`'s data.

    times: how many bytes a byte of `rows` becomes, because this process would hold all of them; by_torch: whether torch is what computes.
    """
    settings = context.config.spark
    spark = spark_for([times * file.size for file in rows.files], settings, context.spark)
    with progress(spark, what), torch_beside(spark) if by_torch else nullcontext():
        if spark is None:
            return _stage_here(context.store, rows, columns, done, transform, table, run_key, partition, settings)
        missing = read_table(spark, context.store, rows).select(*columns)
        if done.files:
            missing = missing.join(read_table(spark, context.store, done).select("item_id"), "item_id", "left_anti")
        made = missing.mapInArrow(transform, from_arrow_schema(table.data_schema), profile=gpu_profile(settings))
        made = made.withColumn("bucket", bucket_of("item_id", settings.item_buckets))
        return stage_frame(made, context.store, table, run_key, rows_per_file=settings.rows_per_file, partition=partition, split_by=["bucket"])


def _stage_here(
    store: Store, rows: Snapshot, columns: Sequence[str], done: Snapshot, transform: Transform, table: Table, run_key: str,
    partition: dict[str, str], settings: SparkSettings,
) -> list[DataFile]:  # fmt: skip
    known = pa.chunked_array([batch.column("item_id") for batch in read_files(store, done.uris(), ["item_id"])], pa.string())

    def made_of(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        batch = batch.filter(pc.invert(pc.is_in(batch.column("item_id"), known)))
        return list(transform(iter([batch]))) if batch.num_rows else []

    pieces = [piece for made in in_threads(made_of, read_files(store, rows.uris(), list(columns), BATCH_ROWS)) for piece in made]
    made = pa.Table.from_batches(pieces, table.data_schema).combine_chunks()
    if not made.num_rows:
        return []
    made = made.append_column("bucket", pa.array(bucket_numbers(made.column("item_id").chunk(0), settings.item_buckets), pa.int32()))
    made = made.sort_by([(name, "ascending") for name in ("bucket", *table.sorted_by)])
    files = PartitionWriter(store, table, run_key, ["bucket"], partition, settings.rows_per_file).write(made.to_batches())
    return sorted(files, key=lambda file: file.path)
