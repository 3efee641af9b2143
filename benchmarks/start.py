"""Cold starts: seconds and memory of `import lurm`, the command line, a first look-up, and Spark, each in fresh processes.

    python benchmarks/start.py [--runs 5] [--users 200] [--without-spark]

Every figure is the median of `--runs` processes, after one that is not counted: seconds from the start of the process to its end, the largest
resident memory of the process, and the seconds above those of a Python that does nothing. The warehouse is made by hand. Spark starts without the
archive of its classes, and with it where `python -m spark_jobs.class_archive` has made one. The last three lines are build-bags, which finds a new
month of a few events: sent to Spark (spark.in_process_mb=0) in a process of its own, where Spark starts for it; as the second of two such stages in
one process, where it runs already; and in the process itself, as so small a stage is done by default. All without Python's start.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from lurm.config import load_config
from lurm.joining.embedding_units import list_column
from lurm.manifest import Manifest
from lurm.releases import move_release
from lurm.schema import EVENTS, ITEM_INTERESTS, TIMESTAMP, USER_EMBEDDINGS
from lurm.staging import stage_table
from lurm.store import Store
from lurm.text_hash import bucket_numbers
from spark_jobs.class_archive import ARCHIVE

AS_OF, MODEL, SPACE, WIDTH = "2020-03-01", "model-planted", "space-planted", 1_280
# What a process does that looks at the clock itself; it prints seconds as JSON. {0} is the warehouse.
SPARK_START = """
from lurm.config import load_config
from spark_jobs import class_archive
from spark_jobs.session import open_session
((title, keep),) = {2}
class_archive.ARCHIVE = class_archive.ARCHIVE if keep else class_archive.ARCHIVE / "none"
session = open_session(load_config(None, {1}))
session.range(1).count()
print(json.dumps({{title: time.perf_counter() - started}}))
"""
STAGES = """
import shutil
from lurm.config import load_config
from lurm.lineage import Context
from lurm.runner import SparkOnDemand
from lurm.store import Store
from spark_jobs.build_bags import run
spark, found = SparkOnDemand(load_config(None, {1})), {{}}
for name, folder, in_process_mb in {2}:
    config = load_config(None, [*{1}, f"spark.in_process_mb={{in_process_mb}}"])
    started = time.perf_counter()
    run(Context(Store(folder), config, "2020-03-01", "model-planted", spark))
    found[name] = time.perf_counter() - started
print(json.dumps(found))
spark.close()
"""
# Starts a program and waits for it. The kernel counts what the starting process held as memory of the started one, so it must be a small one.
LAUNCH = """
import os, sys, time
nowhere = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
started = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=nowhere)
_, status, used = os.wait4(child, 0)
seconds = time.perf_counter() - started
print('{"seconds": %f, "MB": %f, "code": %d}' % (seconds, used.ru_maxrss / 1024, os.waitstatus_to_exitcode(status)))
"""
CLOCK = "import json, time\nstarted = time.perf_counter()\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--users", type=int, default=200, help="of the table that is read")
    parser.add_argument("--without-spark", action="store_true")
    parser.add_argument("--directory", help="where the warehouse goes (default: a temporary folder)")
    options = parser.parse_args()
    folder = Path(options.directory or tempfile.mkdtemp(prefix="lurm-bench-"))
    warehouse = str(folder / "warehouse")
    shutil.rmtree(warehouse, ignore_errors=True)
    plant(Store(warehouse), options.users)
    print(f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores, Python {platform.python_version()}; median of "
          f"{options.runs} processes\n\n{'':<36}{'seconds':>9}{'above Python':>14}{'MB':>8}")
    looking_up = f"import lurm; lurm.open_table({warehouse!r}).vectors({[name(0), name(1)]})"
    read_to = str(folder / "read.parquet")
    module = [sys.executable, "-m", "lurm.cli"]
    ways = {
        "python, nothing": [sys.executable, "-c", "pass"],
        "import lurm": [sys.executable, "-c", "import lurm"],
        "import numpy, pyarrow, deltalake": [sys.executable, "-c", "import numpy, pyarrow.parquet, deltalake"],
        "import torch": [sys.executable, "-c", "import torch"],
        "lurm --help": [*module, "--help"],
        "lurm status": [*module, "status", "--warehouse", warehouse],
        "lurm read, two users": [*module, "read", "--warehouse", warehouse, "--users", f"{name(0)},{name(1)}", "--output", read_to],
        "open_table(...).vectors, two users": [sys.executable, "-c", looking_up],
    }
    base = None
    for title, command in ways.items():
        seconds, megabytes = (np.median(figures) for figures in zip(*[process(command) for _ in range(options.runs + 1)][1:], strict=True))
        base = seconds if base is None else base
        print(f"{title:<36}{seconds:>9.2f}{seconds - base:>14.2f}{megabytes:>8,.0f}", flush=True)
    if not options.without_spark:
        spark_starts(warehouse, options.runs)
    if not options.directory:
        shutil.rmtree(folder)


def spark_starts(warehouse: str, n_runs: int) -> None:
    settings, found, one, again = ["spark.driver_memory=1500m"], {}, f"{warehouse}-one", f"{warehouse}-again"
    sent = [("a stage, Spark starts for it", one, 0), ("the same, Spark runs already", again, 0)]
    starts = [("Spark's start and a first job", False)] + [("the same with its classes' archive", True)] * ARCHIVE.is_file()
    for script, stages in (*((SPARK_START, [start]) for start in starts), (STAGES, sent), (STAGES, [("the same, without Spark", one, 64)])):
        for _ in range(n_runs):
            for copy in (one, again):
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(warehouse, copy)
            answer = subprocess.run([sys.executable, "-c", CLOCK + script.format(one, settings, stages)], capture_output=True, text=True, check=False)
            if answer.returncode:
                raise SystemExit(f"Spark did not start: {answer.stderr[-2_000:]}")
            for title, seconds in json.loads(answer.stdout.splitlines()[-1]).items():
                found.setdefault(title, []).append(seconds)
    for title, seconds in found.items():
        print(f"{title:<36}{np.median(seconds):>9.2f}", flush=True)


def process(command: list[str]) -> tuple[float, float]:
    """Seconds and the largest resident megabytes of a process."""
    answer = subprocess.run([sys.executable, "-S", "-c", LAUNCH, *command], capture_output=True, text=True, check=False)
    told = json.loads(answer.stdout)
    if told["code"]:
        raise SystemExit(f"{' '.join(command)} ended with {told['code']}: {answer.stderr[-2_000:]}")
    return told["seconds"], told["MB"]


def name(number: int) -> str:
    return f"u{number:06d}"


def plant(store: Store, n_users: int) -> None:
    """A release, and what build-bags reads: a month of events, the interests of two items, a model in name only."""
    rng, at = np.random.default_rng(0), pa.scalar(0, pa.int64()).cast(TIMESTAMP)
    names, ones, times = pa.array([name(number) for number in range(n_users)]), pa.array(np.ones(n_users, np.int64)), pa.repeat(at, n_users)
    vectors = list_column(rng.standard_normal((n_users, WIDTH), dtype=np.float32))
    scope = {"as_of": AS_OF, "model_id": MODEL}
    rows = pa.table([names, vectors, ones, ones.cast(pa.int32()), times, times], names=USER_EMBEDDINGS.data_schema.names)
    version = _commit(store, USER_EMBEDDINGS, scope, rows, constants={"published_at": "2020-03-01 00:00:00.000000"})
    move_release(store, {**scope, "table_version": version, "n_users": n_users, "n_anchors": 10, "dim": WIDTH // 10, "run_key": "planted",
                         "audit_digest": "", "current": True, "reason": "publish", "trained_as_of": None})
    for kind, artifact_id in (("models", MODEL), ("spaces", SPACE)):
        info = {"encoder_id": "encoder-planted", "space_id": SPACE, "model_id": MODEL, "n_interests": 2, "as_of": "2000-01-01"}
        store.write_bytes(store.path("artifacts", kind, artifact_id, "info.json"), json.dumps({"info": info}).encode())
    interests = pa.table({"item_id": ["a", "b"], "interest_id": pa.array([0, 1], pa.int32())})
    _commit(store, ITEM_INTERESTS, {"space_id": SPACE, "batch": "one"}, interests)
    moments = pa.array(np.full(n_users, np.datetime64("2020-02-03", "us"))).cast(TIMESTAMP)
    events = pa.table({"user_id": names, "item_id": pa.repeat(pa.scalar("a"), n_users), "timestamp": moments, "weight": ones.cast(pa.int32())})
    n_buckets = load_config().spark.user_buckets
    buckets = bucket_numbers(names, n_buckets)  # files as ingest leaves them
    _commit(store, EVENTS, {"month": "2020-02"}, *(events.filter(pa.array(buckets == bucket)) for bucket in range(n_buckets)))


def _commit(store: Store, table, scope: dict, *rows: pa.Table, constants: dict | None = None) -> int:
    manifest = Manifest(table.name, "planted", tuple(stage_table(store, table, "planted", scope, part) for part in rows if len(part)), (scope,))
    store.write_manifest(manifest)
    return store.commit(manifest, constants) if constants else store.commit(manifest)


if __name__ == "__main__":
    main()
