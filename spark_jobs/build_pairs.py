"""build-pairs: positive pairs of items, sampled fairly over users, and the list of items that training may look at.

In: events before as_of and the catalogue. Out: `item_pairs` (shuffled by a seeded key) and `seen_items` with counts. No user gives more
than pairs.max_pairs_per_user pairs, and all together pairs.max_pairs.
"""

import logging

from pyspark import StorageLevel
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from lurm.errors import InputError
from lurm.item_encoder.pairs import PAIRS, sample_pairs
from lurm.lineage import Context
from lurm.manifest import Manifest
from lurm.sampling import hash_threshold
from lurm.schema import ITEM_PAIRS, SEEN_ITEMS
from spark_jobs.session import job_main, progress
from spark_jobs.tables import bucket_of, read_table, stage_frame

log = logging.getLogger("lurm")

EVENTS_A_PART = 1 << 17  # whose pairs are sampled by one task, some seconds of work


def run(context: Context) -> dict:
    store, settings, spark_settings = context.store, context.config.pairs, context.config.spark
    run_key, scope = context.pairs_key(), ({"as_of": context.as_of},)
    if store.committed(ITEM_PAIRS.name, run_key, scope) and store.committed(SEEN_ITEMS.name, run_key, scope):
        return {"skipped": "built already"}
    spark = context.spark()
    as_of = F.lit(context.as_of).cast("timestamp")
    events = read_table(spark, store, context.events()).where(F.col("timestamp") < as_of)
    items = read_table(spark, store, context.items()).select("item_id", "title", "item_hash")

    with progress(spark, "build-pairs"):
        by_item = events.groupBy("item_id", "user_id").agg(F.sum("weight").alias("n")).groupBy("item_id")
        seen = by_item.agg(F.sum("n").alias("n_events"), F.count("*").alias("n_users")).join(items, "item_id")
        seen = seen.withColumn("bucket", bucket_of("item_id", spark_settings.item_buckets))
        partition, rows_per_file = {"as_of": context.as_of}, spark_settings.rows_per_file
        seen_files = stage_frame(seen, store, SEEN_ITEMS, run_key, rows_per_file=rows_per_file, partition=partition, split_by=["bucket"])

        sorted_events = events.select("user_id", F.xxhash64("user_id").alias("user_hash"), "item_id", "timestamp")
        # Kept results are cut as they were asked for: Spark puts no small parts of them together by itself.
        n_parts = min(spark_settings.shuffle_partitions, 1 + context.events().rows() // EVENTS_A_PART)
        sorted_events = sorted_events.repartition(n_parts, "user_id").sortWithinPartitions("user_id", "timestamp", "item_id")
        seed = context.config.seed
        candidates = sorted_events.mapInArrow(lambda batches: sample_pairs(batches, settings, seed), from_arrow_schema(PAIRS))
        candidates = candidates.persist(StorageLevel.DISK_ONLY)
        n_candidates = candidates.count()
        # Keys are uniform over 64 bits, so the wanted share of all pairs is those below a threshold.
        share = min(1.0, settings.max_pairs / max(1, n_candidates))
        chosen = candidates.where(F.col("order_key") <= hash_threshold(share))
        titles = items.select("item_id", "title")
        for side in ("left", "right"):
            named = titles.withColumnsRenamed({"item_id": f"{side}_item_id", "title": f"{side}_title"})
            chosen = chosen.join(named, f"{side}_item_id")
        chosen = chosen.withColumn("part", F.pmod("order_key", F.lit(spark_settings.item_buckets)).cast("int"))
        pair_files = stage_frame(chosen, store, ITEM_PAIRS, run_key, rows_per_file=rows_per_file, partition=partition, split_by=["part"])
        candidates.unpersist()

    figures = {"seen_items": sum(file.rows for file in seen_files), "pairs": sum(file.rows for file in pair_files), "candidates": n_candidates}
    if not figures["pairs"]:
        raise InputError(
            f"Expected pairs of items less than {settings.beta_days:g} days apart before {context.as_of}, found none; check that the events' "
            "item ids are those of the catalogue, or raise pairs.beta_days."
        )
    for table, files in ((SEEN_ITEMS, seen_files), (ITEM_PAIRS, pair_files)):
        manifest = Manifest(table.name, run_key, tuple(files), scope, figures, {"events": context.events().version, "items": context.items().version})
        store.write_manifest(manifest)
        store.commit(manifest)
    return figures


if __name__ == "__main__":
    job_main("build-pairs")
