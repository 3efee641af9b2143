"""Who does the work of small stages is nobody's business: this process and Spark's workers write the same files."""

import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_pipeline import PINNED_STAGES, content, copy_chain, ingest_catalogue, make_context, no_spark, rows_of, run, source_overrides, write_items

from lurm.errors import StoreError
from lurm.manifest import Manifest
from lurm.schema import ITEM_INTERESTS
from lurm.store import Store
from lurm.text_hash import bucket_numbers
from spark_jobs.missing_items import stage_missing

MADE_HERE = ("item_embeddings", "item_interests", "bags", "user_states", "user_embeddings")


def test_workers_and_this_process_write_the_same_files(finished, world, spark, tmp_path):
    """Item embeddings, interests, bags, states and user embeddings of a whole small log, to the byte."""
    source, rows_per_file, stores = finished[0], 50, []
    for mb, after_ingest in ((0, lambda: spark), (64, no_spark)):
        context = make_context(tmp_path / f"of_{mb}", source.as_of, lambda: spark, *source_overrides(world), f"spark.in_process_mb={mb}",
                               f"spark.rows_per_file={rows_per_file}", model_id=source.trained_model_id())
        copy_chain(source, context.store)
        run(context, PINNED_STAGES[: PINNED_STAGES.index("encode-items")])
        run(dataclasses.replace(context, spark=after_ingest), PINNED_STAGES[PINNED_STAGES.index("encode-items") :])
        stores.append(context.store)
    for name in MADE_HERE:
        files = content(stores[0], name)
        assert files == content(stores[1], name) and files
        assert max(file.rows for file in stores[1].snapshot(name).files) <= rows_per_file


@pytest.fixture
def catalogue(tmp_path, spark):
    """A context whose catalogue is a0 .. a99."""
    write_items(tmp_path / "catalogue" / "a.parquet", {f"a{number}": f"thing {number}" for number in range(100)})
    context = make_context(tmp_path / "warehouse", "2020-01-01", lambda: spark, f"items.path={tmp_path / 'catalogue'}", "items.categories_column=")
    ingest_catalogue(context)
    return dataclasses.replace(context, spark=no_spark)


def of_titles(batches):
    """Of "thing 7" the interest 7, of those that are divisible by 10 nothing."""
    for batch in batches:
        numbers = [int(title.split()[1]) for title in batch.column("title").to_pylist()]
        made = pa.RecordBatch.from_arrays([batch.column("item_id"), pa.array(numbers, pa.int32())], schema=ITEM_INTERESTS.data_schema)
        yield made.filter(pa.array([number % 10 > 0 for number in numbers]))


def staged(context, transform=of_titles):
    partition, done = {"space_id": "space-1", "batch": "b1"}, context.store.snapshot(ITEM_INTERESTS.name)
    return stage_missing(context, "test", context.items(), ["item_id", "title"], done, transform, ITEM_INTERESTS, "b1", partition)


def rows_in(store: Store, files) -> list[dict]:
    tables = [pq.read_table(store.path("tables", ITEM_INTERESTS.name, *file.path.split("/")), partitioning=None) for file in files]
    return [row for table in tables for row in table.to_pylist()]


def test_files_hold_a_bucket_each_in_the_order_of_the_table(catalogue):
    files = staged(catalogue)
    rows = rows_in(catalogue.store, files)
    assert {row["item_id"]: row["interest_id"] for row in rows} == {f"a{number}": number for number in range(100) if number % 10}
    n_buckets = catalogue.config.spark.item_buckets
    for file in files:
        ids = [row["item_id"] for row in rows_in(catalogue.store, [file])]
        assert ids == sorted(ids) and len(set(bucket_numbers(pa.array(ids), n_buckets))) == 1
    assert [file.path for file in files] == sorted(file.path for file in files) and len(files) == n_buckets


def test_only_what_is_missing_is_looked_at(catalogue, tmp_path, spark):
    files = staged(catalogue)
    catalogue.store.commit(Manifest(ITEM_INTERESTS.name, "b1", tuple(files), ({"space_id": "space-1", "batch": "b1"},)))
    seen = []

    def watched(batches):
        for batch in batches:
            seen.extend(batch.column("item_id").to_pylist())
            yield from of_titles([batch])

    write_items(tmp_path / "catalogue" / "b.parquet", {"b1": "thing 1", "b2": "thing 20"})
    ingest_catalogue(dataclasses.replace(catalogue, spark=lambda: spark))
    rows = rows_in(catalogue.store, staged(catalogue, transform=watched))
    assert sorted(seen) == [*(f"a{number}" for number in range(0, 100, 10)), "b1", "b2"]
    assert [(row["item_id"], row["interest_id"]) for row in rows] == [("b1", 1)]
    assert len(rows_of(catalogue.store, ITEM_INTERESTS.name)) == 90, "nobody sees what is not committed"


def test_nothing_that_is_made_is_no_file(catalogue):
    assert staged(catalogue, transform=lambda batches: iter(())) == []


def test_an_error_of_the_function_is_the_stages(catalogue):
    def failing(batches):
        raise StoreError("Expected a thing, got none.")
        yield

    with pytest.raises(StoreError, match="Expected a thing"):
        staged(catalogue, transform=failing)
