"""build-bags: integer counts per user, period and interest, by month and by calendar year.

In: events before as_of and the interests of items. Out: `bags`, partitioned by scale, period and bucket of the user. A month is counted
from events only if its events changed, or if some of them had no interest and there are new ones; a year is the sum of its months.
"""

import datetime as dt
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F

from lurm.bag_of_interests import batches_of, pack_counts, read_lives, sum_periods
from lurm.config import fingerprint
from lurm.errors import InputError
from lurm.event_counts import ASSIGNED, COLUMNS, ITEM_BYTES, ROWS_AT_ONCE, NotSortedError, count_events, interest_table
from lurm.lineage import Context
from lurm.manifest import Manifest, Snapshot
from lurm.periods import starts_before, until
from lurm.schema import BAGS, MONTH, TIMESTAMP, YEAR
from lurm.staging import read_files, stage_table
from lurm.store import Store
from lurm.text_hash import bucket_numbers
from spark_jobs.session import job_main, progress
from spark_jobs.tables import bucket_of, read_table, spark_for, stage_frame, stage_tasks

log = logging.getLogger("lurm")
NOT_SORTED = "not sorted"  # beside the months and ASSIGNED in what tasks count
SMALL_ROWS = 16_384  # of a part that shares a task: with more, what a task costs beside its events is not felt
TABLES = 4  # a worker's own table may be so many times what Spark broadcasts, which the JVM holds several times over
KEYS = ["scale", "period", "until", "bucket"]


def run(context: Context) -> dict:
    space_id = context.space_id()
    months = _build_months(context, space_id)
    years = _build_years(context, space_id)
    return {"months": months, "years": years}


def _build_months(context: Context, space_id: str) -> dict:
    store, events, interests = context.store, context.events(), context.interests()
    recipes = _recipes(context, space_id)
    changed = _changed(context, space_id, recipes, interests.digest())
    if not changed:
        return {"skipped": "nothing changed"}
    run_key = fingerprint("bags-months", [[month, recipes[month]] for month in changed], interests.digest())
    events = events.where(month=changed)
    files, totals = _count_sorted(context, space_id, events, interests, run_key) or _count_any(context, space_id, events, interests, run_key)
    unassigned = {month: totals[month] for month in changed}
    if not totals[ASSIGNED] and len(changed) == len(recipes):
        raise InputError(f"Expected events before {context.as_of} of items that have an interest, found none; check that the item ids of events "
                         "and items are the same.")
    # A month without a usable event is one file without rows, or nobody could tell that it has been counted.
    covered = {file.partition["period"] for file in files}
    for month in (month for month in changed if month not in covered):
        nothing = {"space_id": space_id, "scale": MONTH, "period": month, "until": until(month, context.as_of), "bucket": "0"}
        files.append(stage_table(store, BAGS, run_key, nothing, BAGS.data_schema.empty_table()))
    periods = {month: {"recipe": recipes[month], "unassigned": unassigned[month], "interests": interests.digest()} for month in changed}
    figures = {"periods": periods, "rows": sum(file.rows for file in files), "unassigned_events": sum(unassigned.values())}
    _commit(context, space_id, MONTH, changed, run_key, files, figures)
    return {"periods": len(changed), "rows": figures["rows"], "unassigned_events": figures["unassigned_events"]}


def _count_sorted(context: Context, space_id: str, events: Snapshot, interests: Snapshot, run_key: str) -> tuple[list, Counter] | None:
    """Count months whose files lie as ingest leaves them, sorted by user and cut by bucket: one pass over each bucket's files, no shuffle.

    None where they do not lie so, or where there are more items than each worker can know.
    """
    store, settings = context.store, context.config.spark
    parts = sorted_parts(events, context.as_of, settings.user_buckets)
    if parts is None or interests.rows() * ITEM_BYTES >= TABLES * settings.broadcast_mb * 2**20:
        return None
    tasks, totals = parcels(parts), Counter()
    sizes = [task["size"] for task in tasks]
    spark = spark_for(sizes, settings, context.spark)
    produce = month_counter(store, interests, context.as_of, settings.user_buckets)
    with progress(spark, "build-bags, months"):
        files = stage_tasks(spark, tasks, produce, store, BAGS, run_key, rows_per_file=settings.rows_per_file, keys=KEYS,
                            partition={"space_id": space_id}, totals=totals, sizes=sizes)
    if totals[NOT_SORTED]:
        log.info("build-bags: some of the log is not cut by bucket and sorted by user; all of it is sorted first")
        return None
    return files, totals


def month_counter(store: Store, interests: Snapshot, as_of: str, n_buckets: int) -> Callable:
    """What a worker does with one of `parcels`: its rows of `bags`. Events without an interest are counted by month, all others together."""

    def produce(task: dict, counted: Counter):
        parts, kinds = task["parts"], Counter()
        named = {key: pa.array([part[key] for part in parts]) for key in KEYS if key not in task}
        # Of few events nearly every item is another one: a dictionary of them would cost more than it saves.
        coded = ["user_id", "item_id"] if len(parts) == 1 else ["user_id"]
        events = ((number, batch) for number, part in enumerate(parts) for batch in _events_of(store, part, as_of, coded))
        buckets = [int(part["bucket"]) for part in parts]
        try:
            for numbers, bags in count_events(events, interest_table(store, interests), kinds, buckets, n_buckets):
                columns = [*bags.columns, *(values.take(pa.array(numbers)) for values in named.values())]
                yield pa.RecordBatch.from_arrays(columns, names=[*bags.schema.names, *named])
        except NotSortedError:
            counted[NOT_SORTED] += 1
        counted[ASSIGNED] += kinds[ASSIGNED]
        for number, part in enumerate(parts):
            counted[part["period"]] += kinds[number]

    return produce


def _events_of(store: Store, part: dict, as_of: str, coded: list[str]) -> Iterator[pa.RecordBatch]:
    end = dt.datetime.fromisoformat(as_of).replace(tzinfo=dt.UTC)
    before = pc.field("timestamp") < pa.scalar(end, TIMESTAMP) if part["until"] == as_of else None
    return read_files(store, part["files"], COLUMNS, batch_rows=ROWS_AT_ONCE, filters=before, dictionaries=coded)


def sorted_parts(events: Snapshot, as_of: str, n_buckets: int) -> list[dict] | None:
    """The files of each month and bucket, by the smallest and largest user of every file; None where a file holds several buckets for certain."""
    files = sorted((file for file in events.files if file.rows), key=lambda file: (file.partition["month"], file.first_key or "", file.path))
    ends = [pa.array([getattr(file, name) for file in files], pa.string()) for name in ("first_key", "last_key")]
    first, last = (bucket_numbers(keys, n_buckets) for keys in ends)
    if any(keys.null_count for keys in ends) or (first != last).any():
        return None
    parts: dict[tuple[str, int], dict] = {}
    for file, bucket in zip(files, first.tolist(), strict=True):
        month = file.partition["month"]
        nothing = {"period": month, "until": until(month, as_of), "bucket": str(bucket), "files": [], "size": 0, "rows": 0}
        part = parts.setdefault((month, bucket), nothing)
        part["files"].append(f"{events.root}/{file.path}")
        part["size"] += file.size
        part["rows"] += file.rows
    return [parts[key] for key in sorted(parts)]


def parcels(parts: Sequence[dict]) -> list[dict]:
    """Tasks of one part, or of several small ones with no more than ROWS_AT_ONCE events. A task of one part names its keys itself: as columns
    they would count among the bytes at which a large file is cut."""
    together: list[list[dict]] = []
    for part in parts:
        room = ROWS_AT_ONCE - sum(one["rows"] for one in together[-1]) if together else 0
        if part["rows"] <= min(room, SMALL_ROWS) and together[-1][-1]["rows"] <= SMALL_ROWS:
            together[-1].append(part)
        else:
            together.append([part])
    return [
        {"scale": MONTH, "parts": some, "size": sum(part["size"] for part in some)}
        | ({key: some[0][key] for key in KEYS if key != "scale"} if len(some) == 1 else {})
        for some in together
    ]


def _count_any(context: Context, space_id: str, events: Snapshot, interests: Snapshot, run_key: str) -> tuple[list, Counter]:
    """Count months of any files and any number of items: Spark joins, groups and sorts, and may spill."""
    store, settings = context.store, context.config.spark
    spark, totals = context.spark(), Counter()
    # Sent to every worker while small; item ids can be long, so the estimate is rows, not bytes of the compressed files.
    assigned = read_table(spark, store, interests).select("item_id", "interest_id")
    if interests.rows() * ITEM_BYTES < settings.broadcast_mb * 2**20:
        assigned = F.broadcast(assigned)
    with progress(spark, "build-bags, months"):
        rows = read_table(spark, store, events).where(F.col("timestamp") < F.lit(context.as_of).cast("timestamp"))
        counts = rows.join(assigned, "item_id", "left").groupBy("user_id", "month", "interest_id").agg(
            F.sum("weight").cast("int").alias("count"), F.min("timestamp").alias("first_event_at"), F.max("timestamp").alias("last_event_at")
        )
        period_end = F.date_format(F.add_months(F.to_date(F.concat("month", F.lit("-01"))), 1), "yyyy-MM-dd")
        frame = counts.select(
            "user_id", "interest_id", "count", "first_event_at", "last_event_at",
            F.lit(MONTH).alias("scale"), F.col("month").alias("period"), F.least(period_end, F.lit(context.as_of)).alias("until"),
            bucket_of("user_id", settings.user_buckets).alias("bucket"),
        )
        files = stage_frame(
            frame, store, BAGS, run_key, rows_per_file=settings.rows_per_file, partition={"space_id": space_id},
            transform=lambda batches, counted: pack_counts(_count(batches, counted), KEYS), order=["user_id", "interest_id"], totals=totals,
        )
    return files, totals


def _count(batches: Iterable[pa.RecordBatch], counted: Counter) -> Iterator[pa.RecordBatch]:
    """The same rows; events without an interest are counted by month on their way, all others together."""
    for batch in batches:
        assigned, events = pc.is_valid(batch.column("interest_id")), batch.column("count")
        counted[ASSIGNED] += pc.sum(events.filter(assigned)).as_py() or 0
        without = pa.table({"period": batch.column("period"), "count": events}).filter(pc.invert(assigned))
        for month in without.group_by("period").aggregate([("count", "sum")]).to_pylist():
            counted[month["period"]] += month["count_sum"]
        yield batch


def stale_months(context: Context) -> list[str]:
    """Months before as_of whose bags are not those of their events and interests as they are now: what this stage would count again."""
    space_id = context.space_id()
    return _changed(context, space_id, _recipes(context, space_id), context.interests().digest())


def _recipes(context: Context, space_id: str) -> dict[str, str]:
    events, n_buckets = context.events(), context.config.spark.user_buckets
    return {
        month: fingerprint("bags", space_id, n_buckets, until(month, context.as_of), events.where(month=month).digest())
        for month in events.values("month")
    }


def _build_years(context: Context, space_id: str) -> dict:
    store, settings = context.store, context.config.spark
    months = context.bags(with_years=False).where(scale=MONTH)
    by_year = {year: months.where(period=lambda period, year=year: period[:4] == year) for year in {m[:4] for m in months.values("period")}}
    recipes = {year: fingerprint("year", until(year, context.as_of), part.digest()) for year, part in by_year.items()}
    changed = _changed(context, space_id, recipes, "")
    if not changed:
        return {"skipped": "nothing changed"}
    run_key = fingerprint("bags-years", space_id, [[year, recipes[year]] for year in changed])
    tasks = [
        {"scale": YEAR, "period": year, "until": until(year, context.as_of), "bucket": bucket}
        for year in changed for bucket in by_year[year].values("bucket")
    ]
    sizes = [sum(file.size for file in by_year[task["period"]].where(bucket=task["bucket"]).files) for task in tasks]

    def produce(task: dict, counted):
        part: Snapshot = by_year[task["period"]].where(bucket=task["bucket"])
        for lives, facts in read_lives(store, part):
            yield batches_of(sum_periods(lives[MONTH]), facts)

    spark = spark_for(sizes, settings, context.spark)
    with progress(spark, "build-bags, years"):
        files = stage_tasks(spark, tasks, produce, store, BAGS, run_key, rows_per_file=settings.rows_per_file, keys=KEYS,
                            partition={"space_id": space_id}, sizes=sizes)
    figures = {"periods": {year: {"recipe": recipes[year], "unassigned": 0, "interests": ""} for year in changed},
               "rows": sum(file.rows for file in files)}
    _commit(context, space_id, YEAR, changed, run_key, files, figures)
    return {"periods": len(changed), "rows": figures["rows"]}


def _changed(context: Context, space_id: str, recipes: dict[str, str], interests: str) -> list[str]:
    """Periods whose live partition was not built from exactly these inputs. The table and each manifest are read once, not per period."""
    live, by_period, manifests = context.store.snapshot(BAGS.name).where(space_id=space_id), {}, {}
    for file in live.files:
        if file.partition["until"] == until(file.partition["period"], context.as_of):
            by_period.setdefault(file.partition["period"], set()).add(file.run_key)

    def is_fresh(period: str) -> bool:
        run_keys = by_period.get(period, set())
        if len(run_keys) != 1:
            return False
        run_key = next(iter(run_keys))
        if run_key not in manifests:
            manifests[run_key] = context.store.read_manifest(BAGS.name, run_key)
        facts = manifests[run_key].figures["periods"].get(period) if manifests[run_key] else None
        if facts is None or facts["recipe"] != recipes[period]:
            return False
        return facts["unassigned"] == 0 or facts["interests"] == interests

    return sorted(period for period in recipes if not is_fresh(period))


def _commit(context: Context, space_id: str, scale: str, periods: list[str], run_key: str, files: list, figures: dict) -> None:
    """Replace the periods, and with them what an earlier as_of counted of the same period while it was open."""
    existing = context.store.snapshot(BAGS.name).where(space_id=space_id, scale=scale)
    replaces = []
    for period in periods:
        end = until(period, context.as_of)
        earlier = {value for value in existing.where(period=period).values("until") if value <= end}
        replaces += [{"space_id": space_id, "scale": scale, "period": period, "until": value} for value in sorted(earlier | {end})]
    assert all(starts_before(period, context.as_of) for period in periods)
    manifest = Manifest(BAGS.name, run_key, tuple(files), tuple(replaces), figures)
    context.store.write_manifest(manifest)
    context.store.commit(manifest)


if __name__ == "__main__":
    job_main("build-bags")
