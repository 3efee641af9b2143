"""A table read by Spark is the table that was staged, locally and through Arrow's file systems; staging shows nothing to anybody."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import functions as F
from small_pipeline import instant, rows_of

from lurm.config import SparkSettings
from lurm.errors import StoreError
from lurm.joining.embedding_units import list_column
from lurm.manifest import DataFile, Manifest, Snapshot
from lurm.schema import BAGS, EVENTS, ITEM_EMBEDDINGS, ITEM_INTERESTS, USER_STATES
from lurm.staging import stage_table
from lurm.store import Store
from lurm.text_hash import bucket_numbers, hash_text
from spark_jobs.tables import bucket_of, cost_of, read_table, spark_for, spark_schema, stage_frame, stage_tasks

ROWS = [
    ("u2", "i1", instant("2020-02-01"), 1, "2020-02"), ("u1", "i2", instant("2020-01-03"), 2, "2020-01"),
    ("u1", "i1", instant("2020-01-02"), 1, "2020-01"),
]
NAMES = EVENTS.schema.names


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "warehouse"))


@pytest.fixture
def staged(spark, store):
    return stage_frame(spark.createDataFrame(ROWS, spark_schema(EVENTS.schema)), store, EVENTS, "run1", rows_per_file=1_000)


def as_tuples(frame) -> list[tuple]:
    frame = frame.withColumn("timestamp", F.unix_timestamp("timestamp"))
    return sorted(tuple(row[name] for name in NAMES) for row in frame.select(*NAMES).collect())


def test_staged_files_are_sorted_described_and_seen_by_nobody(store, staged):
    assert store.snapshot("events").version == -1
    assert [(file.partition, file.rows, file.first_key, file.last_key) for file in staged] == [
        ({"month": "2020-01"}, 2, "u1", "u1"), ({"month": "2020-02"}, 1, "u2", "u2"),
    ]
    store.commit(Manifest("events", "run1", tuple(staged), ({},)))
    assert [row["item_id"] for row in rows_of(store, "events", month="2020-01")] == ["i1", "i2"], "by user, then time"


def test_a_table_comes_back_with_its_partitions_whoever_reads_the_files(spark, store, staged):
    store.commit(Manifest("events", "run1", tuple(staged), ({},)))
    expected = sorted((*row[:2], int(row[2].timestamp()), *row[3:]) for row in ROWS)
    assert as_tuples(read_table(spark, store, store.snapshot("events"))) == expected
    remote = Store(store.uri)
    remote.is_local = False  # as for an object store: executors read with Arrow, Spark needs no connector
    assert as_tuples(read_table(spark, remote, remote.snapshot("events"))) == expected


def test_spark_reads_vectors_that_were_written_as_they_lie_in_memory(spark, store):
    """`lurm.vector_pages` writes these pages; tests/test_vector_pages.py holds other engines to them."""
    vectors, scope = np.random.default_rng(0).standard_normal((700, 1_280), dtype=np.float32), {"encoder_id": "e", "batch": "b"}
    columns = [[f"i{number:03d}" for number in range(700)], np.arange(700), list_column(vectors)]
    file = stage_table(store, ITEM_EMBEDDINGS, "run1", scope, pa.table(columns, names=ITEM_EMBEDDINGS.data_schema.names))
    store.commit(Manifest(ITEM_EMBEDDINGS.name, "run1", (file,), (scope,)))
    frame = read_table(spark, store, store.snapshot(ITEM_EMBEDDINGS.name))
    found = np.array([row.embedding for row in frame.orderBy("item_id").collect()], np.float32)
    assert np.array_equal(found, vectors)
    assert frame.where("item_id = 'i123'").selectExpr("size(embedding)", "embedding[5]").first()[:] == (1_280, vectors[123, 5])


def test_a_pinned_snapshot_stays_what_it_was(spark, store, staged):
    store.commit(Manifest("events", "run1", tuple(staged), ({},)))
    pinned = store.snapshot("events")
    store.commit(Manifest("events", "run2", tuple(staged[:1]), ({},)))
    assert read_table(spark, store, pinned).count() == 3
    assert read_table(spark, store, store.snapshot("events")).count() == 2


def test_a_table_that_is_not_there_has_columns_and_no_rows(spark, store):
    frame = read_table(spark, store, store.snapshot("bags"))
    assert frame.columns == BAGS.schema.names and frame.count() == 0


@pytest.mark.parametrize("sent", [True, False])
def test_tasks_run_once_each(spark, store, sent):
    spark = spark if sent else None
    moment = instant("2020-01-01")

    def produce(task, counted):
        counted["tasks"] += 1
        rows = [{"user_id": task["user"], "item_id": "i", "timestamp": moment, "weight": 1, "month": task["month"]}]
        yield pa.RecordBatch.from_pylist(rows, EVENTS.schema)

    tasks = [{"user": f"u{number}", "month": f"2020-0{number}"} for number in range(1, 4)]
    totals = Counter(tasks=4)
    files = stage_tasks(spark, tasks, produce, store, EVENTS, "run1", rows_per_file=10, keys=["month"], totals=totals)
    assert totals == {"tasks": 7}, "what the tasks counted is added"
    assert [(file.partition["month"], file.first_key) for file in files] == [(task["month"], task["user"]) for task in tasks]
    assert stage_tasks(spark, [], produce, store, EVENTS, "run1", rows_per_file=10) == []


@pytest.mark.parametrize("n_threads", [1, 3])
def test_after_a_failure_nothing_more_begins(store, monkeypatch, n_threads):
    monkeypatch.setattr("spark_jobs.tables.usable_cores", lambda: n_threads)
    begun = []

    def produce(task, counted):
        begun.append(task["batch"])
        raise StoreError(f"batch {task['batch']}")
        yield

    with pytest.raises(StoreError, match=r"batch \d"):
        stage_tasks(None, [{"batch": str(number)} for number in range(50)], produce, store, ITEM_INTERESTS, "run1", rows_per_file=10, keys=["batch"])
    assert 1 <= len(begun) <= n_threads


def test_little_to_read_is_no_work_for_spark():
    settings, never = SparkSettings(in_process_mb=2), SparkSettings(in_process_mb=0)
    assert spark_for([2**20] * 2, settings, lambda: pytest.fail("no session is needed")) is None
    assert spark_for([2**21, 1], settings, lambda: "a session") == spark_for([1], never, lambda: "a session") == "a session"
    assert spark_for([1], SparkSettings(gpus_per_worker=1), lambda: "a session") == "a session", "only workers have a GPU each"


def test_bags_cost_more_than_events_and_kept_states_less():
    files = [DataFile("a", 2**20, 1, "", {}), DataFile("b", 2**20, 1, "", {})]
    bags, states = (Snapshot(table, 1, tuple(files), "") for table in (BAGS, USER_STATES))
    assert cost_of(bags) == cost_of(bags, Snapshot(USER_STATES, 1, (), "")) == 8 * 2**20
    assert cost_of(bags, states) == cost_of(bags) + 2**17


def test_a_bucket_depends_on_the_key_only(spark):
    frame = spark.range(2_000).select(F.concat(F.lit("u"), F.col("id")).alias("user_id"))
    counts = {row.bucket: row["count"] for row in frame.groupBy(bucket_of("user_id", 4).alias("bucket")).count().collect()}
    assert sorted(counts) == [0, 1, 2, 3] and min(counts.values()) > 400, "a random sample each"


def test_a_worker_knows_the_bucket_without_spark(spark):
    """`lurm.text_hash` must be Spark's hash, or events would be looked for in the wrong bucket's files."""
    texts = ["", "Spark", "é日本🎈", *("x" * length + str(length) for length in range(70))]
    frame = spark.createDataFrame([(text,) for text in texts], "user_id string")
    rows = frame.select("user_id", F.xxhash64("user_id").alias("hash"), bucket_of("user_id", 7).alias("bucket")).collect()
    array = pa.array([row.user_id for row in rows])
    assert hash_text(array).tolist() == [row.hash for row in rows]
    assert bucket_numbers(array, 7).tolist() == [row.bucket for row in rows]


def test_small_tasks_share_a_start(spark, store):
    """What a task names itself holds for all of its rows, and files do not depend on who shares a start with whom."""
    def produce(task, counted):
        counted["tasks"] += 1
        yield pa.RecordBatch.from_pylist([{"item_id": f"i{task['batch']}", "interest_id": 1}], ITEM_INTERESTS.data_schema)

    tasks = [{"batch": str(number)} for number in range(50)]
    totals = Counter()
    alone, together = (
        stage_tasks(spark, tasks, produce, store, ITEM_INTERESTS, "run1", rows_per_file=10, keys=["batch"], partition={"space_id": "s"},
                    totals=totals, sizes=sizes) for sizes in (None, [1] * 50)
    )
    assert alone == together and len(alone) == 50 and totals == {"tasks": 100}
    assert {file.partition["batch"]: file.first_key for file in alone} == {str(number): f"i{number}" for number in range(50)}


@pytest.mark.parametrize(("megabytes", "n_starts"), [(0.001, 4), (1.7, 8), (16, 16)])
def test_the_less_there_is_to_read_the_fewer_starts(spark, store, megabytes, n_starts):
    def produce(task, counted):
        from pyspark import TaskContext

        counted[str(TaskContext.get().partitionId())] += 1
        yield from ()

    totals, tasks = Counter(), [{"batch": str(number)} for number in range(50)]
    stage_tasks(spark, tasks, produce, store, ITEM_INTERESTS, "run1", rows_per_file=10, keys=["batch"], partition={"space_id": "s"}, totals=totals,
                sizes=[int(megabytes * 2**20)] * 50)
    assert sum(totals.values()) == 50 and len(totals) == n_starts and spark.sparkContext.defaultParallelism == 2


def test_what_a_worker_cannot_write_is_one_sentence(tmp_path, spark):
    """The error is raised on an executor, and must reach the user without two stack traces around it."""
    store = Store(str(tmp_path / "w"))
    blocked = tmp_path / "w" / "tables" / "item_interests" / "space_id=s"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a folder should be")
    said = pytest.raises(StoreError, match=r"^Could not write .*space_id=s.*; check space and rights, then run again\.$")
    frame = spark.createDataFrame([("i1", 3)], "item_id string, interest_id int")
    with said:
        stage_frame(frame, store, ITEM_INTERESTS, "key", rows_per_file=10, partition={"space_id": "s", "batch": "b"})
    rows = pa.table({"item_id": ["i1"], "interest_id": pa.array([3], pa.int32())})
    for session in (spark, None):
        with said:
            stage_tasks(session, [{"batch": "b"}], lambda task, counted: rows.to_batches(), store, ITEM_INTERESTS, "key", rows_per_file=10,
                        keys=["batch"], partition={"space_id": "s"})
