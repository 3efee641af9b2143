"""ingest: the log and the catalogue become clean, typed tables.

In: Parquet, CSV, JSON lines or Delta, with columns mapped by the configuration. Out: `events` by month, `items`, and `quarantine` with
every row that could not be used and why. Files that an earlier run has read are not read again: the months that new files touch (late
events land in their own month) are replaced as a whole, so running twice changes nothing. Rows of persons on the suppression list are
counted, and kept nowhere.
"""

import logging

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lurm.config import fingerprint
from lurm.erasing.persons import Persons
from lurm.erasing.suppression import suppressed
from lurm.errors import ConfigError, InputError
from lurm.lineage import Context
from lurm.manifest import Manifest
from lurm.schema import EVENTS, ITEMS, QUARANTINE
from lurm.sources import Source, find_source, require_columns
from spark_jobs.session import job_main, progress
from spark_jobs.source_files import BROKEN, FILE, MODIFIED, read_source
from spark_jobs.tables import bucket_of, read_table, spark_schema, stage_frame

log = logging.getLogger("lurm")
ROW_CHARACTERS = 4_096
CONTROL = r"[\p{Cntrl}\s]+"
SUPPRESSED = "of a suppressed person"  # a reason that is counted, and whose rows are not kept


def run(context: Context) -> dict:
    """Ingest events and items; returns rows read, kept and quarantined by reason."""
    events, items = find_events(context), find_items(context)  # both are checked before either is read
    return {"events": ingest_events(context, events), "items": ingest_items(context, items)}


def find_events(context: Context) -> Source:
    """The files of the log, with the columns that the configuration names."""
    settings = context.config.events
    source = find_source("events", settings.path, settings.format, settings.csv_separator)
    require_columns(source, user_column=settings.user_column, item_column=settings.item_column, time_column=settings.time_column)
    if settings.type_column:
        require_columns(source, type_column=settings.type_column)
    for kind, weight in settings.type_weights.items():
        if weight < 0:
            raise ConfigError(f"Expected weights of 0 or more in events.type_weights, got {kind} = {weight}; counts cannot be negative.")
    return source


def find_items(context: Context) -> Source:
    """The files of the catalogue, with the columns that the configuration names."""
    settings = context.config.items
    source = find_source("items", settings.path, settings.format, settings.csv_separator)
    require_columns(source, item_column=settings.item_column, title_column=settings.title_column)
    if settings.categories_column:
        require_columns(source, categories_column=settings.categories_column)
    return source


def ingest_events(context: Context, source: Source | None = None) -> dict:
    source = source or find_events(context)
    settings, store, spark_settings = context.config.events, context.store, context.config.spark
    recipe = fingerprint("ingest-events", settings, spark_settings.user_buckets)
    listing = [[file.path, file.size, file.modified] for file in source.files]
    run_key = fingerprint(recipe, listing)
    if store.last_run_key(EVENTS.name) == run_key:
        return {"skipped": "nothing new"}

    last = store.last_run_key(EVENTS.name)
    previous = store.read_manifest(EVENTS.name, last) if last else None
    known = previous.inputs["sources"] if previous and previous.inputs["recipe"] == recipe else []
    only_added = bool(known) and all(entry in listing for entry in known)
    files = [file.path for file in source.files if not only_added or [file.path, file.size, file.modified] not in known]

    spark = context.spark()
    with progress(spark, "ingest events"):
        rows = mark_suppressed(clean_events(read_source(spark, source, files), source, settings), suppressed(store))
        left_out = F.sum((F.col("weight") == 0).cast("int")).alias("left_out")
        counts = rows.groupBy("reason", "month").agg(F.count("*").alias("rows"), left_out).collect()
        figures = _figures(counts, source, may_be_empty=only_added)
        months = sorted({row.month for row in counts if row.reason is None})
        fresh = rows.where("reason is null and weight > 0")
        frame = fresh.select(*spark_schema(EVENTS.schema).fieldNames())
        if only_added:
            frame = frame.unionByName(read_table(spark, store, store.snapshot(EVENTS.name).where(month=months)))
        if settings.deduplicate:
            frame = frame.dropDuplicates(["user_id", "item_id", "timestamp", "weight"])
        frame = frame.withColumn("bucket", bucket_of("user_id", spark_settings.user_buckets))
        staged = stage_frame(frame, store, EVENTS, run_key, rows_per_file=spark_settings.rows_per_file, split_by=["bucket"])
        if settings.deduplicate:
            before = figures["kept"] + (store.snapshot(EVENTS.name).where(month=months).rows() if only_added else 0)
            figures["duplicates_dropped"] = before - sum(file.rows for file in staged)
        replaces = tuple({"month": month} for month in months) if only_added else ({},)
        manifest = Manifest(EVENTS.name, run_key, tuple(staged), replaces, figures, {"recipe": recipe, "sources": listing})
        quarantine(context, rows, "events", run_key, figures, added=only_added)
    store.write_manifest(manifest)
    store.commit(manifest)
    return figures


def ingest_items(context: Context, source: Source | None = None) -> dict:
    source = source or find_items(context)
    settings, store, spark_settings = context.config.items, context.store, context.config.spark
    listing = [[file.path, file.size, file.modified] for file in source.files]
    run_key = fingerprint("ingest-items", settings, spark_settings.item_buckets, listing)
    if store.last_run_key(ITEMS.name) == run_key:
        return {"skipped": "nothing new"}
    spark = context.spark()
    with progress(spark, "ingest items"):
        rows = clean_items(read_source(spark, source, [file.path for file in source.files]), source, settings)
        usable = rows.where("reason is null")
        figures = _figures(rows.groupBy("reason").agg(F.count("*").alias("rows"), F.sum("cut").alias("left_out")).collect(), source)
        figures["titles_cut"] = figures.pop("left_out")
        # One row an item: of several the first title in alphabetical order, so that the choice does not depend on the order of the files.
        frame = usable.groupBy("item_id").agg(F.min(F.struct("title", "categories")).alias("first")).select("item_id", "first.*")
        frame = frame.withColumn("item_hash", F.xxhash64("item_id")).withColumn("bucket", bucket_of("item_id", spark_settings.item_buckets))
        staged = stage_frame(frame, store, ITEMS, run_key, rows_per_file=spark_settings.rows_per_file)
        figures["duplicates"] = figures["kept"] - sum(file.rows for file in staged)
        figures["kept"] = sum(file.rows for file in staged)
        quarantine(context, rows, "items", run_key, figures, added=False)
    manifest = Manifest(ITEMS.name, run_key, tuple(staged), ({},), figures, {"sources": listing})
    store.write_manifest(manifest)
    store.commit(manifest)
    return figures


def clean_events(raw: DataFrame, source: Source, settings) -> DataFrame:
    """Columns of `events` plus reason (null for a usable row), source_file and row (JSON)."""
    kind = F.lit(None).cast("string") if not settings.type_column else F.col(f"`{settings.type_column}`").cast("string")
    weight = F.lit(1)
    for name, value in settings.type_weights.items():
        weight = F.when(kind == name, F.lit(value)).otherwise(weight)
    frame = raw.select(
        _identifier(settings.user_column).alias("user_id"),
        _identifier(settings.item_column).alias("item_id"),
        timestamp_of(settings.time_column, source.columns[settings.time_column], settings.time_format).alias("timestamp"),
        weight.cast("int").alias("weight"),
        *_provenance(raw),
        _broken(raw).alias("broken"),
    )
    reason = (
        F.when(F.col("broken"), "not a JSON object")
        .when(F.col("user_id").isNull(), "user_id is null")
        .when(F.col("item_id").isNull(), "item_id is null")
        .when(F.col("timestamp").isNull(), "timestamp is null or unreadable")
        .when(F.col("timestamp") < F.lit("1970-01-01").cast("timestamp"), "timestamp before 1970")
        # Nothing asks the clock: an event cannot be younger than the file that reports it (a day of grace for time zones).
        .when(F.col("timestamp") > F.col("modified") + F.expr("interval 1 day"), "timestamp in the future of its file")
    )
    return frame.withColumn("reason", reason).withColumn("month", F.date_format("timestamp", "yyyy-MM")).drop("broken", "modified")


def mark_suppressed(rows: DataFrame, persons: Persons) -> DataFrame:
    """Rows of `clean_events` with the reason SUPPRESSED where the user is one of the persons, or an unusable row names one of them."""
    if not len(persons):
        return rows

    @F.arrow_udf("boolean")
    def names_one(users, texts):
        import numpy as np
        import pyarrow as pa

        named = [text is not None and persons.in_row(text) for text in texts.to_pylist()]
        return pa.array(persons.mask(users) | np.array(named, bool))

    unusable = F.when(F.col("reason").isNotNull(), F.col("row"))
    return rows.withColumn("reason", F.when(names_one("user_id", unusable), SUPPRESSED).otherwise(F.col("reason")))


def clean_items(raw: DataFrame, source: Source, settings) -> DataFrame:
    """item_id, title, categories plus reason (null for a usable row), cut (1 where the title was cut), source_file and row (JSON)."""
    title = F.trim(F.regexp_replace(F.col(f"`{settings.title_column}`").cast("string"), CONTROL, " "))
    frame = raw.select(
        _identifier(settings.item_column).alias("item_id"),
        F.substring(title, 1, settings.max_title_characters).alias("title"),
        (F.length(title) > settings.max_title_characters).cast("int").alias("cut"),
        _categories(source, settings.categories_column).alias("categories"),
        *_provenance(raw),
        _broken(raw).alias("broken"),
    )
    reason = (
        F.when(F.col("broken"), "not a JSON object")
        .when(F.col("item_id").isNull(), "item_id is null")
        .when(F.col("title").isNull() | (F.col("title") == ""), "title is missing")
    )
    return frame.withColumn("reason", reason).drop("broken", "modified")


def timestamp_of(column: str, kind, time_format: str) -> Column:
    """A UTC timestamp from whatever the log has, null where it cannot be read."""
    import pyarrow as pa

    value = F.col(f"`{column}`")
    scales = {"s": 1, "ms": 1_000, "us": 1_000_000}
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        if pa.types.is_timestamp(kind) and kind.unit == "ns":  # Spark has no nanoseconds; the session reads them as integers
            return F.timestamp_micros(F.expr(f"`{column}` div 1000"))  # in integers: a float has steps of 256 ns
        return value.cast("timestamp")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or time_format in scales:
        if time_format not in (*scales, "auto"):
            raise ConfigError(f"Expected events.time_format s, ms or us for the numbers in {column!r}, got {time_format!r}; mend it.")
        micros = value.try_cast("double") * (1_000_000 // scales.get(time_format, 1))
        return F.timestamp_micros(F.when(F.abs(micros) < 9e17, micros).cast("long"))
    if time_format != "auto":
        return F.try_to_timestamp(value.cast("string"), F.lit(time_format))
    # CSV and JSON lines have no types: nine digits and more are seconds there too, fewer are a year or a day.
    seconds = F.when(value.cast("string").rlike(r"^\s*-?\d{9,}(\.\d*)?\s*$"), value.try_cast("double"))
    return F.coalesce(F.timestamp_micros(F.when(F.abs(seconds) < 9e11, seconds * 1_000_000).cast("long")), F.try_to_timestamp(value.cast("string")))


def quarantine(context: Context, rows: DataFrame, source: str, run_key: str, figures: dict, added: bool) -> None:
    """Keep the unusable rows with their reason; new files add to what is there, a full reading replaces it."""
    store, key = context.store, f"{run_key[:8]}{source}"
    reasons = sorted(figures["quarantined"])
    scopes = tuple({"source": source, "reason": reason} for reason in reasons) if added else ({"source": source},)
    if not reasons and (added or not store.snapshot(QUARANTINE.name).where(source=source).files):
        return
    bad = rows.where(F.col("reason") != SUPPRESSED).select("source_file", F.substring("row", 1, ROW_CHARACTERS).alias("row"), "reason")
    frame = bad.withColumn("source", F.lit(source))
    if added:
        # Without the rows that a killed run has left there of the very files that are read now.
        earlier = read_table(context.spark(), store, store.snapshot(QUARANTINE.name).where(source=source, reason=reasons))
        frame = frame.unionByName(earlier.join(bad.select("source_file").distinct(), "source_file", "left_anti").select(*frame.columns))
    staged = stage_frame(frame, store, QUARANTINE, key, rows_per_file=context.config.spark.rows_per_file) if reasons else []
    manifest = Manifest(QUARANTINE.name, key, tuple(staged), scopes, figures)
    store.write_manifest(manifest)
    store.commit(manifest)


def _figures(counts, source: Source, may_be_empty: bool = False) -> dict:
    kept = sum(row.rows - (row.left_out or 0 if source.name == "events" else 0) for row in counts if row.reason is None)
    bad: dict[str, int] = {}
    for row in counts:
        if row.reason is not None:
            bad[row.reason] = bad.get(row.reason, 0) + row.rows
    read, n_suppressed = sum(row.rows for row in counts), bad.pop(SUPPRESSED, 0)
    if not kept and not may_be_empty:
        unusable = {**bad, **({SUPPRESSED: n_suppressed} if n_suppressed else {})}
        why = ", ".join(f"{count} x {reason}" for reason, count in sorted(unusable.items(), key=lambda item: -item[1])) or "no rows at all"
        raise InputError(f"Expected usable rows in {source.name} ({source.files[0].path}), found {why}; check the column settings and "
                         f"{source.name}.time_format." if source.name == "events" else
                         f"Expected usable rows in {source.name} ({source.files[0].path}), found {why}; check the column settings.")
    left_out = sum(row.left_out or 0 for row in counts if row.reason is None)
    if bad:
        log.warning("ingest %s: %d rows quarantined: %s", source.name, sum(bad.values()), ", ".join(f"{n} x {r}" for r, n in sorted(bad.items())))
    return {"read": read, "kept": kept, "left_out": left_out, "quarantined": bad, **({"suppressed": n_suppressed} if n_suppressed else {})}


def _identifier(column: str) -> Column:
    text = F.trim(F.col(f"`{column}`").cast("string"))
    return F.when(text != "", text)


def _provenance(raw: DataFrame) -> list[Column]:
    named = [F.col(f"`{name}`") for name in raw.columns if name not in (FILE, MODIFIED)]
    return [
        F.col(FILE).alias("source_file"),
        F.col(MODIFIED).alias("modified"),
        F.to_json(F.struct(*named)).alias("row"),
    ]


def _broken(raw: DataFrame) -> Column:
    return F.col(BROKEN).isNotNull() if BROKEN in raw.columns else F.lit(False)


def _categories(source: Source, column: str) -> Column:
    import pyarrow as pa

    if not column:
        return F.array().cast("array<string>")
    value = F.col(f"`{column}`")
    if pa.types.is_list(source.columns[column]) or pa.types.is_large_list(source.columns[column]):
        return F.coalesce(value.cast("array<string>"), F.array().cast("array<string>"))
    single = F.when(value.isNotNull(), F.array(value.cast("string"))).otherwise(F.array().cast("array<string>"))
    if source.format != "jsonl":
        return single
    # JSON lines are read as text, a list among them as the JSON it was written in.
    return F.coalesce(F.when(value.startswith("["), F.from_json(value, "array<string>")), single)


if __name__ == "__main__":
    job_main("ingest")
