"""Bags from events: build-bags in Spark beside DuckDB's group-by of the same Parquet, in even and in skewed worlds.

    python benchmarks/bags_from_events.py --events 1000000 10000000 [--worlds even user interest] [--memory-gb 4] [--plan] [--directory DIR]

A table of events (24 months, 20,000 items, 300 events a user) and the interests of its items are written by hand and then counted by

  spark, group-by      the join and the group-by of build-bags alone, its rows thrown away
  duckdb, group-by     the same of the same files, its rows summed up
  lurm, counting       the months of build-bags alone, its rows thrown away
  lurm build-bags      the whole stage: months and years as sorted, checksummed files by period and bucket, committed
  duckdb, to files     months and years as lists, sorted by user, one file per period and bucket: what the stage does, in SQL

each program in a process of its own with as many threads and as much memory (Spark's heap, DuckDB's memory_limit; both may spill). Spark's
start, and a first small query of both, are in no figure; counts of less than a second are medians of five. A log of 64 MiB or less
(spark.in_process_mb) lurm counts without Spark, in threads of the process that would send it there. Files of events lie as ingest leaves
them, sorted by user and cut by bucket; with `--any-files` each holds all buckets, as if spark.user_buckets had been changed since, and Spark
has to group. `user` is a world in which one user has a tenth of the events (10^6 at most), `interest` one in which half of the events are of
one interest. Memory is the largest proportional set size of everything a program started.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from lurm.config import load_config
from lurm.lineage import Context
from lurm.manifest import Manifest
from lurm.memory import PeakMemory
from lurm.periods import month_name, month_number
from lurm.schema import BAGS, EVENTS, ITEM_INTERESTS, TIMESTAMP
from lurm.staging import stage_table
from lurm.store import Store
from lurm.text_hash import bucket_numbers

WORLDS = ("even", "user", "interest")
AS_OF, FIRST_MONTH, N_MONTHS, N_ITEMS, EVENTS_PER_USER, FILE_ROWS = "2022-01-01", month_number("2020-01"), 24, 20_000, 300, 1_000_000
SETTLED = 3.0  # seconds: after a query the JVM goes on compiling and collecting for a while, which is not the next program's work
SPACE, MODEL = "space-planted", "model-planted"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000], help="sizes of the log; 10^8 takes some GB of disk and ten minutes")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS), help="the skewed ones are made of the first size only")
    parser.add_argument("--interests", type=int, default=2_000)
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(), help="of each program")
    parser.add_argument("--memory-gb", type=float, default=4.0, help="of each program")
    parser.add_argument("--any-files", action="store_true", help="files that are not cut by bucket: the stage's other way")
    parser.add_argument("--plan", action="store_true", help="print what stages Spark ran, and what each of them shuffled")
    parser.add_argument("--directory", help="where worlds and warehouses go (default: a temporary folder)")
    options = parser.parse_args()
    folder = Path(options.directory or tempfile.mkdtemp(prefix="lurm-bench-"))
    print(f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB; "
          f"{options.threads} threads and {options.memory_gb:g} GB each, {options.interests:,} interests, {N_MONTHS} months\n")
    print(f"{'world':<10}{'events':>13}  {'program':<20}{'seconds':>9}{'events/s':>12}{'lurm/duckdb':>13}{'MB':>8}{'shuffled MB':>13}"
          f"{'spilled MB':>12}{'seconds grow':>14}", flush=True)
    before: dict = {}
    for n_events in options.events:
        for world in options.worlds if n_events == options.events[0] else options.worlds[:1]:
            rows, plan = one_world(folder / f"{world}-{n_events}", world, n_events, options)
            for name, told in rows.items():
                peer = rows["duckdb, to files" if name == "lurm build-bags" else "duckdb, group-by"]
                ratio = f"{peer['seconds'] / told['seconds']:.2f}" if not name.startswith("duckdb") else ""
                shuffled, spilled = (f"{told[what] / 1e6:,.0f}" if what in told else "" for what in ("shuffled", "spilled"))
                smaller, seconds = before.get((world, name), (0, 0.0))
                grown = f"{told['seconds'] / seconds:.1f}x / {n_events / smaller:.0f}x" if smaller else ""
                before[world, name] = n_events, told["seconds"]
                print(f"{world:<10}{n_events:>13,}  {name:<20}{told['seconds']:>9.1f}{n_events / told['seconds']:>12,.0f}{ratio:>13}"
                      f"{told['MB']:>8,.0f}{shuffled:>13}{spilled:>12}{grown:>14}", flush=True)
            if options.plan:
                print(f"\n{plan}\n")
    print("\nlurm/duckdb: rows a second of lurm over those of DuckDB doing the same; above 1 lurm is quicker. Bags of both held the same counts.")
    if not options.directory:
        shutil.rmtree(folder)


def one_world(folder: Path, world: str, n_events: int, options: argparse.Namespace) -> tuple[dict[str, dict], str]:
    """Figures of every program, and the stages that Spark ran; at the end it is checked that the bags of both hold the same."""
    shutil.rmtree(folder, ignore_errors=True)
    write_events(folder, world, n_events, options.interests, 1 if options.any_files else load_config(None, []).spark.user_buckets)
    given = (str(folder), options.threads, options.memory_gb)
    spark, duckdb = apart(count_in_spark, *given), apart(count_in_duckdb, *given)
    assert spark.pop("content") == duckdb.pop("content"), "the same bags: rows, cells and events of months and years"
    plan = spark.pop("plan")
    shutil.rmtree(folder)
    order = ("spark, group-by", "lurm, counting", "duckdb, group-by", "lurm build-bags", "duckdb, to files")
    told = {**spark, **duckdb}
    return {name: told[name] for name in order if name in told}, plan


def write_events(folder: Path, world: str, n_events: int, n_interests: int, n_buckets: int) -> None:
    """`events` and `item_interests` as ingest and assign-interests leave them, and a model in name only, so that a stage finds its chain."""
    store, rng = Store(str(folder)), np.random.default_rng(0)
    for kind, name in (("models", MODEL), ("spaces", SPACE)):
        info = {"encoder_id": "encoder-planted", "space_id": SPACE, "model_id": MODEL, "n_interests": n_interests, "as_of": "2000-01-01"}
        store.write_bytes(store.path("artifacts", kind, name, "info.json"), json.dumps({"info": info}).encode())
    interests = rng.integers(0, n_interests, N_ITEMS).astype(np.int32)
    interests[:100] = 0  # the items of the interest that half of the events of a skewed world are of
    commit(store, ITEM_INTERESTS, {"space_id": SPACE, "batch": "one"}, [pa.table([named("i", np.arange(N_ITEMS), 6), pa.array(interests)],
                                                                               names=["item_id", "interest_id"])])
    n_users = max(1, n_events // EVENTS_PER_USER)
    for number in range(N_MONTHS):
        n_rows, parts = n_events * (number + 1) // N_MONTHS - n_events * number // N_MONTHS, []
        for start in range(0, n_rows, FILE_ROWS):
            parts.append(events_of(rng, world, min(FILE_ROWS, n_rows - start), n_events, n_users, FIRST_MONTH + number))
        if n_buckets > 1:
            parts = cut_by_bucket(pa.concat_tables(parts), n_buckets)
        commit(store, EVENTS, {"month": month_name(FIRST_MONTH + number)}, parts)


def events_of(rng: np.random.Generator, world: str, n_rows: int, n_events: int, n_users: int, month: int) -> pa.Table:
    users, items = rng.integers(0, n_users, n_rows), rng.integers(0, N_ITEMS, n_rows)
    if world == "user":
        users[rng.random(n_rows) < min(0.1, 1_000_000 / n_events)] = 0
    if world == "interest":
        items[rng.random(n_rows) < 0.5] %= 100
    first, last = (np.datetime64(month_name(number), "us").astype(np.int64) for number in (month, month + 1))
    times = rng.integers(first, last, n_rows)
    order = np.lexsort((times, users))
    columns = [named("u", users[order], 9), named("i", items[order], 6), pa.array(times[order]).cast(TIMESTAMP), pa.array(np.ones(n_rows, np.int32))]
    return pa.table(columns, schema=EVENTS.data_schema)


def cut_by_bucket(rows: pa.Table, n_buckets: int) -> list[pa.Table]:
    """The events of a month in files of one bucket each, ascending by user, time and item."""
    buckets, parts = bucket_numbers(rows.column("user_id").combine_chunks(), n_buckets), []
    for bucket in range(n_buckets):
        part = rows.filter(pa.array(buckets == bucket)).sort_by([(name, "ascending") for name in EVENTS.sorted_by])
        parts += [part.slice(start, FILE_ROWS) for start in range(0, part.num_rows, FILE_ROWS)]
    return parts


def named(letter: str, numbers: np.ndarray, width: int) -> pa.Array:
    return pc.binary_join_element_wise(letter, pc.utf8_lpad(pc.cast(pa.array(numbers), pa.string()), width, "0"), "")


def commit(store: Store, table, partition: dict, parts: list[pa.Table]) -> None:
    run_key = f"bench{'-'.join(partition.values())}".replace("-", "")[:16]
    files = tuple(stage_table(store, table, run_key, partition, part) for part in parts)
    store.commit(Manifest(table.name, run_key, files, (partition,)))


def apart(function: Callable, *arguments) -> dict:
    """Run in a fresh process; returns what the function returns."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(send, function, arguments))
    child.start()
    send.close()
    answer = receive.recv()
    child.join()
    return answer


def keep_to(threads: int) -> None:
    """This process, and what it starts, on so many cores: what lurm counts in its own threads has no other setting."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _run(send, function: Callable, arguments: tuple) -> None:
    send.send(function(*arguments))


def measured(work: Callable, again: bool = False) -> dict:
    """Seconds and memory of a program. One that takes less than a second, and may run `again`, is timed as the median of five more runs,
    without the sampler of memory, whose first look at a JVM takes a part of so short a time."""
    with PeakMemory() as peak:
        seconds = timed(work)
    if again and seconds < 1:
        seconds = statistics.median(timed(work) for _ in range(5))
    return {"seconds": seconds, "MB": peak.megabytes}


def timed(work: Callable) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def count_in_spark(folder: str, threads: int, memory_gb: float) -> dict:
    from pyspark.sql import functions as F

    from spark_jobs.build_bags import month_counter, parcels, run, sorted_parts
    from spark_jobs.session import open_session
    from spark_jobs.tables import read_table, spark_for, stage_tasks

    keep_to(threads)
    config = load_config(None, [f"spark.master=local[{threads}]", f"spark.driver_memory={round(memory_gb * 1024)}m"])
    spark = open_session(config)
    context = Context(Store(folder), config, AS_OF, MODEL, lambda: spark)

    def group(months: list[str]) -> None:
        interests = F.broadcast(read_table(spark, context.store, context.interests()).select("item_id", "interest_id"))
        rows = read_table(spark, context.store, context.events().where(month=months)).where(F.col("timestamp") < F.lit(AS_OF).cast("timestamp"))
        counts = rows.join(interests, "item_id", "left").groupBy("user_id", "month", "interest_id").agg(
            F.sum("weight").cast("int"), F.min("timestamp"), F.max("timestamp"))
        counts.write.format("noop").mode("overwrite").save()

    parts = sorted_parts(context.events(), AS_OF, config.spark.user_buckets)
    tasks = parcels(parts) if parts is not None else None
    count = month_counter(context.store, context.interests(), AS_OF, config.spark.user_buckets)

    def throw_away(task: dict, counted):
        for _ in count(task, counted):
            yield from ()

    def count_months(tasks: list[dict], sent: bool = False) -> None:
        sizes = [task["size"] for task in tasks]
        session = spark if sent else spark_for(sizes, config.spark, lambda: spark)
        stage_tasks(session, tasks, throw_away, context.store, BAGS, "none", rows_per_file=1, sizes=sizes)

    months = context.events().values("month")
    group(months[:1])
    if tasks:
        count_months(tasks[: 4 * threads], sent=True)  # where Spark's workers do the work, they are there already
    told, plan, seen = {}, [], stages(spark)
    ways = {"spark, group-by": lambda: group(months), "lurm, counting": lambda: count_months(tasks), "lurm build-bags": lambda: run(context)}
    for name, work in ways.items():
        if name == "lurm, counting" and tasks is None:
            continue
        time.sleep(SETTLED)
        told[name] = measured(work, again=name == "lurm, counting")
        now = stages(spark)
        new = [now[number] for number in sorted(now.keys() - seen.keys())]
        told[name] |= {what: sum(stage[what] for stage in new) for what in ("shuffled", "spilled")}
        plan += [f"  {name}: {stage['tasks']} tasks, {stage['shuffled'] / 1e6:,.0f} MB shuffled: {stage['what']}" for stage in new]
        seen = now
    told |= {"plan": "\n".join(plan), "content": content(context)}
    spark.stop()
    return told


def stages(spark) -> dict[int, dict]:
    """What every stage of this session did, from Spark's own status store: tasks, bytes written to the shuffle and spilled to disk."""
    store = spark.sparkContext._jsc.sc().statusStore()
    defaults = [getattr(store, f"stageList$default${number}")() for number in (2, 3, 4, 5)]
    found = store.stageList(None, *defaults)
    return {
        stage.stageId(): {"what": stage.name().split(" at ")[0], "tasks": stage.numCompleteTasks(), "shuffled": stage.shuffleWriteBytes(),
                          "spilled": stage.diskBytesSpilled()}
        for stage in (found.apply(number) for number in range(found.size())) if stage.numCompleteTasks()
    }


def content(context: Context) -> list[int]:
    """Rows, cells and events of all bags, by scale: read back from the files."""
    import pyarrow.dataset as ds

    found = []
    for scale in ("month", "year"):
        uris = context.store.snapshot("bags").where(scale=scale).uris()
        totals = np.zeros(3, np.int64)
        for batch in ds.dataset(uris, format="parquet", partitioning=None).to_batches(columns=["interest_ids", "n_events"]):
            totals += [batch.num_rows, len(batch.column(0).flatten()), pc.sum(batch.column(1)).as_py() or 0]
        found += totals.tolist()
    return found


def count_in_duckdb(folder: str, threads: int, memory_gb: float) -> dict:
    import duckdb

    keep_to(threads)
    buckets = load_config(None, []).spark.user_buckets
    spill = Path(folder) / "duckdb"
    spill.mkdir(exist_ok=True)  # DuckDB makes one folder, not two
    connection = duckdb.connect(config={"threads": threads, "memory_limit": f"{memory_gb}GB", "temp_directory": str(spill / "spill"),
                                        "preserve_insertion_order": False})
    events, interests = (f"read_parquet('{folder}/tables/{name}/**/*.parquet', hive_partitioning=true, hive_types_autocast=false)"
                         for name in ("events", "item_interests"))
    cells = f"""SELECT user_id, month, interest_id, sum(weight)::INTEGER AS count, min(timestamp) AS first, max(timestamp) AS last
                FROM {events} LEFT JOIN (SELECT item_id, interest_id FROM {interests}) USING (item_id)
                WHERE timestamp < TIMESTAMPTZ '{AS_OF} 00:00:00+00' {{condition}} GROUP BY ALL"""
    group = f"SELECT count(*), sum(count), min(first), max(last), sum(interest_id) FROM ({cells})"
    bag = """SELECT user_id, list(interest_id ORDER BY interest_id) AS interest_ids, list(count ORDER BY interest_id) AS counts,
             sum(count)::BIGINT AS n_events, min(first) AS first_event_at, max(last) AS last_event_at, period, bucket"""
    out = "(FORMAT parquet, COMPRESSION zstd, PARTITION_BY (period, bucket), OVERWRITE)"
    months = f"""COPY ({bag} FROM (SELECT *, month AS period, hash(user_id) % {buckets} AS bucket FROM ({cells.format(condition="")}))
                 GROUP BY user_id, period, bucket ORDER BY period, bucket, user_id) TO '{spill}/months' {out}"""
    years = f"""COPY ({bag} FROM (SELECT user_id, period[:4] AS period, bucket, interest_id, sum(count)::INTEGER AS count,
                  min(first_event_at) AS first, max(last_event_at) AS last
                  FROM (SELECT *, unnest(interest_ids) AS interest_id, unnest(counts) AS count
                  FROM read_parquet('{spill}/months/**/*.parquet', hive_partitioning=true, hive_types_autocast=false)) GROUP BY ALL)
                GROUP BY user_id, period, bucket ORDER BY period, bucket, user_id) TO '{spill}/years' {out}"""

    def to_files() -> None:
        connection.execute(months)
        connection.execute(years)

    connection.execute(group.format(condition=f"AND month = '{month_name(FIRST_MONTH)}'")).fetchall()
    told = {"duckdb, group-by": measured(lambda: connection.execute(group.format(condition="")).fetchall(), again=True)}
    told |= {"duckdb, to files": measured(to_files)}
    sums = "SELECT count(*), sum(len(interest_ids)), sum(n_events) FROM read_parquet('{}/{}/**/*.parquet')"
    told["content"] = [int(number) for scale in ("months", "years") for number in connection.execute(sums.format(spill, scale)).fetchone()]
    return told


if __name__ == "__main__":
    main()
