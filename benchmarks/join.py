"""The point-in-time join of 10^7 labels in random order: seconds, rows a second, and what memory it takes.

    python benchmarks/join.py [--labels 10000000] [--users 1000000] [--dates 3] [--anchors 2] [--dim 4] [--memory 512] [--directory DIR]

A warehouse is made by hand (random vectors, 16 files a date, cut by a hash of the user as embed-users cuts them), and a Parquet file of
labels whose users and times are in no order. `lurm.open_table(...).join(labels, output=...)` runs in a process of its own, whose peak
memory the kernel tells (VmHWM: resident, mapped files included), and so does a process that only imports the reader and opens the table;
the difference is what the join took. A thousand rows of the result are held against a look-up by hand. Vectors are narrow by default: at
10 x 128 numbers the result of 10^7 labels alone is 51 GB.
"""

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lurm import open_table
from lurm.joining.embedding_units import list_column
from lurm.manifest import Manifest
from lurm.releases import move_release
from lurm.schema import USER_EMBEDDINGS
from lurm.staging import stage_table
from lurm.store import Store

FILES, MODEL = 16, "model-bench"
CHILD = """
import json, sys, time
import lurm
table = lurm.open_table(sys.argv[1])
options, report = json.loads(sys.argv[2]), None
started = time.monotonic()
if options:
    report = str(table.join(options.pop("labels"), **options))
seconds = time.monotonic() - started
peak = next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"seconds": seconds, "peak_mb": peak, "report": report}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--dates", type=int, default=3, help="released dates, a month apart")
    parser.add_argument("--anchors", type=int, default=2)
    parser.add_argument("--dim", type=int, default=4)
    parser.add_argument("--memory", type=int, nargs="+", default=[512], help="megabytes the join may hold")
    parser.add_argument("--directory", help="where the warehouse goes (default: a temporary folder)")
    options = parser.parse_args()
    folder = Path(options.directory or tempfile.mkdtemp(prefix="lurm-bench-"))
    dates = [f"2022-{month + 1:02d}-01" for month in range(options.dates)]
    warehouse = make_warehouse(folder / "warehouse", dates, options)
    labels = make_labels(folder / "labels.parquet", options)
    print(f"{platform.machine()}, {psutil.cpu_count()} cores; {options.labels:,} labels in random order ({labels.stat().st_size / 1e6:,.0f} MB), "
          f"{options.users:,} users x {options.anchors} x {options.dim} at {len(dates)} dates\n")
    idle = child(warehouse, {})["peak_mb"]
    print(f"a reader that only opens the table: {idle:.0f} MB")
    print(f"{'memory_mb':>10}{'seconds':>9}{'labels/s':>12}{'peak MB':>9}{'of the join':>13}{'result MB':>11}")
    for memory in options.memory:
        output = folder / "training.parquet"
        answer = child(warehouse, {"labels": str(labels), "output": str(output), "memory_mb": memory, "scratch": str(folder)})
        size, seconds, peak = output.stat().st_size / 1e6, answer["seconds"], answer["peak_mb"]
        print(f"{memory:>10}{seconds:>9.1f}{options.labels / seconds:>12,.0f}{peak:>9,.0f}{peak - idle:>13,.0f}{size:>11,.0f}", flush=True)
        check(warehouse, output, dates)
    print(f"\n{answer['report']}")
    if not options.directory:
        shutil.rmtree(folder)


def make_warehouse(folder: Path, dates: list[str], options: argparse.Namespace) -> str:
    """Releases of random vectors; a user's bucket is a hash of the name, so every file spans all names."""
    if folder.exists():
        return str(folder)
    store, rng, width = Store(str(folder)), np.random.default_rng(0), options.anchors * options.dim
    buckets = np.random.default_rng(1).integers(0, FILES, options.users)
    moment = pa.scalar(datetime(2021, 1, 1, tzinfo=UTC), pa.timestamp("us", tz="UTC"))
    for as_of in dates:
        key, partition, files = hashlib.sha256(as_of.encode()).hexdigest()[:16], {"as_of": as_of, "model_id": MODEL}, []
        for bucket in range(FILES):
            numbers = np.flatnonzero(buckets == bucket)
            users = pa.array([name(number) for number in numbers])
            vectors = list_column(rng.standard_normal((len(users), width)).astype(np.float32))
            counts = pa.repeat(pa.scalar(3, pa.int64()), len(users))
            columns = [users, vectors, counts, counts.cast(pa.int32()), *[pa.repeat(moment, len(users))] * 2]
            files.append(stage_table(store, USER_EMBEDDINGS, key, partition, pa.table(columns, names=USER_EMBEDDINGS.data_schema.names)))
        manifest = Manifest(USER_EMBEDDINGS.name, key, tuple(files), (partition,))
        version = store.commit(manifest, {"published_at": f"{as_of} 06:00:00.000000"})
        move_release(store, {"as_of": as_of, "model_id": MODEL, "table_version": version, "n_users": options.users, "n_anchors": options.anchors,
                             "dim": options.dim, "run_key": key, "audit_digest": "", "current": True, "reason": "publish", "trained_as_of": dates[0]})
    return str(folder)


def name(number: int) -> str:
    return f"user-{number:09d}"


def make_labels(path: Path, options: argparse.Namespace) -> Path:
    """One in a hundred users is unknown; times reach from a fortnight before the first date to a month after the last."""
    if path.exists():
        return path
    rng = np.random.default_rng(2)
    schema = pa.schema([("user_id", pa.string()), ("time", pa.timestamp("us", tz="UTC")), ("label", pa.int8()), ("order", pa.int64())])
    first, days = np.datetime64("2021-12-18", "us").astype(np.int64), 14 + 31 * options.dates
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, options.labels, 1_000_000):
            n_rows = min(1_000_000, options.labels - start)
            numbers = rng.integers(0, int(options.users * 1.01), n_rows)
            users = pc.binary_join_element_wise("user", pc.utf8_lpad(pc.cast(pa.array(numbers), pa.string()), 9, "0"), "-")
            times = pa.array(first + rng.integers(0, days * 86_400_000_000, n_rows)).cast(pa.timestamp("us", tz="UTC"))
            writer.write_table(pa.table([users, times, pa.array(rng.integers(0, 2, n_rows), pa.int8()), pa.array(np.arange(start, start + n_rows))],
                                        schema=schema))
    return path


def child(warehouse: str, options: dict) -> dict:
    """Seconds, peak memory and report of a join in a process of its own; without options it only opens the table."""
    started = time.monotonic()
    answer = subprocess.run([sys.executable, "-c", CHILD, warehouse, json.dumps(options)], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SystemExit(f"the join failed after {time.monotonic() - started:.0f} s: {answer.stderr[-2_000:]}")
    return json.loads(answer.stdout)


def check(warehouse: str, output: Path, dates: list[str]) -> None:
    """A thousand rows by hand: the newest date that is not after the label, and the vector of the user at that date."""
    file = pq.ParquetFile(output)
    picked = np.random.default_rng(3).choice(file.num_row_groups, min(10, file.num_row_groups), replace=False)
    rows = [row for group in picked for row in file.read_row_group(int(group)).slice(0, 100).to_pylist()]
    for row in rows:
        day = max((date for date in dates if date <= row["time"].strftime("%Y-%m-%d")), default=None)
        if row["as_of"] is None:
            assert day is None or int(row["user_id"][5:]) >= len(open_table(warehouse)), row
        else:
            assert row["as_of"] == day and np.array_equal(open_table(warehouse, day).vectors([row["user_id"]])[0], np.float32(row["embedding"])), row


if __name__ == "__main__":
    main()
