"""Look-alikes over a large release: the streamed search of lurm.similarity beside faiss's exact index, and what an export costs.

    python benchmarks/similar.py [--users 1000000] [--anchors 2] [--dim 64] [--queries 1 100 1000] [--directory DIR]

A table of random vectors is committed and released by hand, without a run and without the gate. Each way is measured in a process of its
own, so that peak memory (resident set size) is that of this way: the streamed search reads the table; faiss must first have it in memory.
The neighbours of both are compared. Then every format and type is exported once.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from lurm import open_table
from lurm.exporting.export import export
from lurm.exporting.export_files import FORMATS
from lurm.exporting.quantization import DTYPES
from lurm.manifest import Manifest
from lurm.releases import move_release
from lurm.schema import TIMESTAMP, USER_EMBEDDINGS
from lurm.similarity import similar
from lurm.staging import stage_table
from lurm.store import Store
from lurm.vector_stream import stream_vectors
from lurm.vectors import unit_rows

AS_OF, MODEL, RUN_KEY = "2022-01-01", "model-random", "a" * 16
FILE_ROWS = 50_000
N_CENTRES = 1_000  # users lie around so many directions, or nobody would be near anybody


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--anchors", type=int, default=2)
    parser.add_argument("--dim", type=int, default=64, help="numbers of an anchor")
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 100, 1_000], help="users whose neighbours are sought")
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--directory", help="where the table and the exports go (default: a temporary folder)")
    options = parser.parse_args()
    folder = Path(options.directory or tempfile.mkdtemp(prefix="lurm-bench-"))
    print(f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB; "
          f"{options.users:,} users x {options.anchors} anchors x {options.dim}, {options.users * options.anchors * options.dim * 4 / 1e6:,.0f} MB")
    uri = str(folder / "warehouse")
    if not Path(uri).exists():
        apart(publish, uri, options.users, options.anchors, options.dim)
    print(f"\n{'search':<20}{'users':>8}{'prepare s':>12}{'search s':>10}{'MB':>8}  same neighbours")
    for n_queries in options.queries:
        streamed, told = apart(search_streamed, uri, n_queries, options.k)
        print(f"{'streamed':<20}{n_queries:>8}{told['prepare']:>12.1f}{told['search']:>10.1f}{told['MB']:>8.0f}", flush=True)
        indexed, told = apart(search_faiss, uri, n_queries, options.k)
        same = np.mean([len(set(left) & set(right)) / options.k for left, right in zip(streamed, indexed, strict=True)])
        print(f"{'faiss IndexFlatIP':<20}{n_queries:>8}{told['prepare']:>12.1f}{told['search']:>10.1f}{told['MB']:>8.0f}  {same:.5f}", flush=True)
    print(f"\n{'export':<20}{'seconds':>8}{'users/s':>12}{'MB':>8}{'disk MB':>10}  error")
    for file_format in FORMATS:
        for dtype in DTYPES:
            record, told = apart(write_export, uri, str(folder / "export"), file_format, dtype)
            error = {name: round(value, 6) for name, value in record["error"].items()}
            print(f"{f'{file_format} {dtype}':<20}{told['search']:>8.1f}{options.users / told['search']:>12,.0f}{told['MB']:>8.0f}"
                  f"{record['disk'] / 1e6:>10.0f}  {json.dumps(error)}", flush=True)
    if not options.directory:
        shutil.rmtree(folder)


def apart(function: Callable, *arguments):
    """Run in a fresh process; returns (what the function returns, its seconds and peak megabytes)."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(send, function, arguments))
    child.start()
    answer = receive.recv()
    child.join()
    return answer


def _run(send, function: Callable, arguments: tuple) -> None:
    result, seconds = function(*arguments)
    send.send((result, {**seconds, "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def publish(uri: str, n_users: int, n_anchors: int, dim: int) -> tuple[None, dict]:
    store, random = Store(uri), np.random.default_rng(1)
    centres = random.standard_normal((N_CENTRES, n_anchors * dim)).astype(np.float32)
    at, scope, files = pa.scalar(0, pa.int64()).cast(TIMESTAMP), {"as_of": AS_OF, "model_id": MODEL}, []
    for start in range(0, n_users, FILE_ROWS):
        n_rows = min(FILE_ROWS, n_users - start)
        vectors = centres[random.integers(N_CENTRES, size=n_rows)] + random.standard_normal((n_rows, n_anchors * dim)).astype(np.float32)
        offsets = pa.array(np.arange(0, vectors.size + 1, n_anchors * dim, dtype=np.int32))
        ones, times = pa.array(np.ones(n_rows, np.int64)), pa.repeat(at, n_rows)
        columns = [pa.array([f"u{number:09d}" for number in range(start, start + n_rows)]),
                   pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1))), ones, ones.cast(pa.int32()), times, times]
        rows = pa.table(columns, schema=USER_EMBEDDINGS.data_schema)
        files.append(stage_table(store, USER_EMBEDDINGS, RUN_KEY, scope, rows))
    manifest = Manifest(USER_EMBEDDINGS.name, RUN_KEY, tuple(files), (scope,))
    store.write_manifest(manifest)
    version = store.commit(manifest, {"published_at": "2022-01-01 00:00:00.000000"})
    move_release(store, {
        **scope, "table_version": version, "n_users": n_users, "n_anchors": n_anchors, "dim": dim, "run_key": RUN_KEY,
        "audit_digest": "", "current": True, "reason": "publish", "trained_as_of": None,
    })
    return None, {}


def queries_of(n_users: int, n_queries: int) -> list[str]:
    return [f"u{number:09d}" for number in np.random.default_rng(2).choice(n_users, n_queries, replace=False)]


def search_streamed(uri: str, n_queries: int, k: int) -> tuple[list, dict]:
    started = time.perf_counter()
    table = open_table(uri)
    opened = time.perf_counter()
    ids, _ = similar(table, queries_of(table.n_users, n_queries), k)
    return ids.tolist(), {"prepare": opened - started, "search": time.perf_counter() - opened}


def search_faiss(uri: str, n_queries: int, k: int) -> tuple[list, dict]:
    import faiss

    started = time.perf_counter()
    table = open_table(uri)
    index, users = faiss.IndexFlatIP(table.n_anchors * table.dim), []
    for ids, vectors in stream_vectors(table):
        index.add(unit_rows(vectors))
        users += ids.to_pylist()
    ready = time.perf_counter()
    wanted = queries_of(table.n_users, n_queries)
    _, rows = index.search(unit_rows(table.vectors(wanted)), k + 1)
    found = [[users[row] for row in line if users[row] != user][:k] for user, line in zip(wanted, rows, strict=True)]
    return found, {"prepare": ready - started, "search": time.perf_counter() - ready}


def write_export(uri: str, folder: str, file_format: str, dtype: str) -> tuple[dict, dict]:
    started = time.perf_counter()
    record = export(Store(uri), open_table(uri), Path(folder), file_format, dtype)
    seconds = time.perf_counter() - started
    disk = sum(file.stat().st_size for file in Path(folder).iterdir())
    shutil.rmtree(folder)
    return record | {"disk": disk}, {"search": seconds}


if __name__ == "__main__":
    main()
