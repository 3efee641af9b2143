"""Data that does not fit: the stages that grow with events, under a small budget of memory, on a log with a heavy user and a hot item.

    python benchmarks/large.py --events 100000000 --users 1000000 [--directory DIR] [--plans] [--stages ingest build-bags]

Spark's heap is 4 GB and every Python worker may use 1.5 GB of address space beyond what its libraries reserve (--heap, --worker-mb). One user has
a hundredth of all events, one item a tenth of them, the others follow a power law. Items get one of --interests interests at random, and the
model has random weights of full size: neither changes what the stages cost. Prints per stage seconds and memory, then what Spark's own status
store says: shuffle and spill bytes of every Spark stage, and with --plans the physical plan of every query.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from lurm.config import SmenSettings, load_config
from lurm.lineage import Context
from lurm.manifest import Manifest
from lurm.periods import month_number
from lurm.pipeline import BY_NAME
from lurm.runner import run_stage
from lurm.schema import ITEM_INTERESTS, TABLES, TIMESTAMP
from lurm.staging import stage_table
from lurm.store import Store
from spark_jobs.session import open_session

STAGES = ("ingest", "build-pairs", "build-bags", "update-states", "embed-users", "publish")
CHUNK, START = 1_000_000, "2020-01"
HEAVY_USER_SHARE, HOT_ITEM_SHARE = 0.01, 0.1
SPACE, MODEL = "space-planted", "model-planted"
MB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--interests", type=int, default=100_000)
    parser.add_argument("--months", type=int, default=24)
    parser.add_argument("--heap", default="4g", help="of Spark")
    parser.add_argument("--worker-mb", type=int, default=1_536, help="of a Python worker; 0 for no limit")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--plans", action="store_true", help="print the physical plan of every query")
    parser.add_argument("--directory", help="where log and warehouse go, and stay (default: a temporary folder)")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.FIELD=VALUE")
    options = parser.parse_args()
    folder = Path(options.directory or tempfile.mkdtemp(prefix="lurm-large-"))
    print(f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB; "
          f"{options.events:,} events, {options.users:,} users, {options.items:,} items, {options.interests:,} interests, {options.months} months; "
          f"heap {options.heap}, {options.worker_mb:,} MB a Python worker\n", flush=True)
    end = np.datetime64(START) + options.months
    write_log(folder / "log", options)
    write_catalogue(folder / "catalogue", options)
    buckets = max(8, options.users // 25_000)
    config = load_config(None, [
        f"events.path={folder}/log", f"items.path={folder}/catalogue", f"spark.master=local[{options.cores}]", f"spark.driver_memory={options.heap}",
        f"spark.user_buckets={buckets}", f"spark.item_buckets={max(8, options.items // 125_000)}", *options.overrides,
    ])
    if options.worker_mb:  # Spark divides it by the cores, and limits the address space, of which libraries reserve more than they use
        reserved = reserved_mb()
        print(f"a Python worker's libraries reserve {reserved:,} MB of address space, its limit is {reserved + options.worker_mb:,} MB\n", flush=True)
        config.spark.conf["spark.executor.pyspark.memory"] = f"{(reserved + options.worker_mb) * options.cores}m"
        config.spark.conf["spark.executor.cores"] = str(options.cores)
    spark, store = open_session(config), Store(str(folder / "warehouse"))
    plant(store, options)
    context = Context(store, config, f"{end}-01", MODEL, lambda: spark, force_reason="a benchmark: weights are random")
    seen: set[tuple[int, int]] = set()
    try:
        for name in options.stages:
            with Workers() as workers:
                report = run_stage(context, BY_NAME[name])
            print(f"\n{name}: {report['seconds']:.1f} s, {options.events / report['seconds']:,.0f} events/s, all processes {report['peak_mb']:,} MB, "
                  f"largest Python worker {workers.largest_mb:,.0f} MB resident")
            print_spark_stages(spark, seen)
            if options.plans:
                print_plans(spark)
        print_tables(store)
    finally:
        spark.stop()
        if not options.directory:
            shutil.rmtree(folder)


# ---- the world -------------------------------------------------------------------------------------------------------------------------


def write_log(folder: Path, options: argparse.Namespace) -> None:
    """Events in files of a million; one chunk in memory."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    first, last = (moment.astype("datetime64[us]").astype(np.int64) for moment in (np.datetime64(START), np.datetime64(START) + options.months))
    started = time.monotonic()
    for number in range(-(-options.events // CHUNK)):
        rng = np.random.default_rng((17, number))
        n = min(CHUNK, options.events - number * CHUNK)
        users = (options.users * rng.random(n) ** 1.5).astype(np.int64)
        users[rng.random(n) < HEAVY_USER_SHARE] = options.users  # the one after the last
        items = 1 + ((options.items - 1) * rng.random(n) ** 2).astype(np.int64)
        items[rng.random(n) < HOT_ITEM_SHARE] = 0
        times = (first + rng.integers(0, last - first, n)).astype("datetime64[us]")
        table = pa.table({"user_id": texts("u", users), "item_id": texts("i", items), "timestamp": pa.array(times).cast(TIMESTAMP)})
        pq.write_table(table, folder / f"part-{number:05d}.parquet", compression="zstd")
    print(f"wrote the log in {time.monotonic() - started:.0f} s", flush=True)


def write_catalogue(folder: Path, options: argparse.Namespace) -> None:
    if folder.exists():
        return
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, options.items, CHUNK)):
        items = np.arange(start, min(options.items, start + CHUNK))
        titles = [f"word{item % 5_003} word{item % 997} word{item % 101} article {item}" for item in items]
        pq.write_table(pa.table({"item_id": texts("i", items), "title": titles}), folder / f"part-{number:05d}.parquet", compression="zstd")


def texts(letter: str, numbers: np.ndarray) -> pa.Array:
    return pa.array(np.char.add(letter, np.char.zfill(numbers.astype("U9"), 9)))


def plant(store: Store, options: argparse.Namespace) -> None:
    """A space, a model of random weights, and an interest for every item, as the stages before would have left them."""
    from lurm.smen.fitting import build
    from lurm.smen.inference import save_model

    if store.has_artifact("models", MODEL):
        return
    settings = SmenSettings()
    chain = {"encoder_id": "encoder-planted", "space_id": SPACE, "as_of": "2000-01-01", "n_interests": options.interests}
    store.write_bytes(store.path("artifacts", "spaces", SPACE, "info.json"), json.dumps({"info": chain}).encode())
    smen, _ = build(options.interests, settings, seed=17)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), smen, {**chain, "model_id": MODEL, "grid_start": month_number(START), "year_blocks": settings.year_blocks})
        store.put_artifact("models", MODEL, Path(folder))
    rng, files, partition = np.random.default_rng(17), [], {"space_id": SPACE, "batch": "planted"}
    for start in range(0, options.items, CHUNK):
        items = np.arange(start, min(options.items, start + CHUNK))
        rows = pa.table({"item_id": texts("i", items), "interest_id": pa.array(rng.integers(0, options.interests, len(items)), pa.int32())})
        files.append(stage_table(store, ITEM_INTERESTS, "planted0", partition, rows))
    store.commit(Manifest(ITEM_INTERESTS.name, "planted0", tuple(files), (partition,)))


# ---- what is measured ------------------------------------------------------------------------------------------------------------------


def reserved_mb() -> int:
    """Address space of a Python process that has imported what the workers import."""
    code = ("import torch, pyarrow.dataset, pyarrow.parquet, pandas, pyspark.sql, lurm.smen.streams, lurm.staging; torch.ones(9) @ torch.ones(9);"
            "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmSize')))")
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) // 1_024


class Workers:
    """The largest resident set of any Python worker while a block runs."""

    def __enter__(self) -> "Workers":
        self.largest_mb, self._ended = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                try:
                    if "pyspark.daemon" in process.cmdline():
                        self.largest_mb = max(self.largest_mb, process.memory_info().rss / MB)
                except psutil.Error:
                    continue


def print_spark_stages(spark, seen: set[tuple[int, int]]) -> None:
    """The Spark stages since the last call, from the status store that the web page and the REST interface read too."""
    store = spark.sparkContext._jsc.sc().statusStore()
    method = next(method for method in store.getClass().getMethods() if method.getName() == "stageList")
    defaults = [getattr(store, f"stageList$default${place}")() for place in range(2, method.getParameterCount() + 1)]
    stages = store.stageList(None, *defaults)
    rows = [stages.apply(place) for place in range(stages.size())]
    rows = sorted((row for row in rows if (row.stageId(), row.attemptId()) not in seen and row.status().toString() == "COMPLETE"),
                  key=lambda row: row.stageId())
    seen |= {(row.stageId(), row.attemptId()) for row in rows}
    print(f"{'spark stage':>11}{'tasks':>7}{'task s':>9}{'read MB':>10}{'shuffle in MB':>15}{'out MB':>9}{'spilled: memory MB':>20}{'disk MB':>9}")
    sums = np.zeros(7)
    for row in rows:
        figures = [row.numTasks(), row.executorRunTime() / 1e3, row.inputBytes() / MB, row.shuffleReadBytes() / MB, row.shuffleWriteBytes() / MB,
                   row.memoryBytesSpilled() / MB, row.diskBytesSpilled() / MB]
        sums += figures
        print_row(row.stageId(), figures)
    print_row("all", sums)


def print_row(name, figures) -> None:
    tasks, seconds, read, shuffle_in, shuffle_out, memory, disk = figures
    print(f"{name:>11}{tasks:>7.0f}{seconds:>9.1f}{read:>10,.0f}{shuffle_in:>15,.0f}{shuffle_out:>9,.0f}{memory:>20,.0f}{disk:>9,.0f}", flush=True)


def print_plans(spark) -> None:
    """Physical plans of the queries since the session began, each once."""
    executions = spark._jsparkSession.sharedState().statusStore().executionsList()
    for place in range(executions.size()):
        execution = executions.apply(place)
        if execution.executionId() not in _printed:
            _printed.add(execution.executionId())
            tree = execution.physicalPlanDescription().split("\n\n\n")[0]
            print(f"\nquery {execution.executionId()}\n{tree}")


_printed: set[int] = set()


def print_tables(store: Store) -> None:
    print(f"\n{'table':<18}{'files':>8}{'rows':>14}{'MB':>10}{'bytes/row':>11}")
    for name in TABLES:
        files = store.snapshot(name).files
        files = files or (store.read_manifest(name, _staged(store, name)).files if _staged(store, name) else ())
        rows, size = sum(file.rows for file in files), sum(file.size for file in files)
        if rows:
            print(f"{name:<18}{len(files):>8,}{rows:>14,}{size / MB:>10,.0f}{size / rows:>11,.1f}")


def _staged(store: Store, name: str) -> str | None:
    """The run key of a manifest of a table that has no commit yet."""
    return next((Path(entry.path).stem for entry in store.list_files("manifests", name)), None)


if __name__ == "__main__":
    main()
