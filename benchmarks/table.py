"""Writing and reading the table of user embeddings: gigabytes a second and core, what smaller numbers save and lose, and look-ups.

    python benchmarks/table.py --users 20000 [--table 1000000] [--anchors 10] [--dim 128] [--directory DIR]
    python benchmarks/table.py --users 20000 --warehouse demo/warehouse --labels demo/world-3f9e4077/users.parquet --label persona age_band

Random vectors of 10 anchors x 128 numbers, one thread. Rates are gigabytes of float32 vectors a second of processor time, the best of five.

1. Writing one file of `--users`: pyarrow from Python lists, from a pandas column of arrays, and from a list column over one flat array, with
   other options; `lurm.vector_pages`, which puts the numbers into pyarrow's file as they are; the checksum and the file alone; and
   `lurm.staging.stage_table`, which is pages, checksum and file.
2. The same vectors in smaller numbers: bytes a user, rates (of the float32 that they stand for), and the error. float32 that is rounded to
   float16 stays float32 for every reader; float16 is another type of column; int8 comes with a column of one scale an anchor (Parquet has no
   number shorter than 32 bits: int8 is small only as a dictionary).
3. 1,000 random users looked up in a released table of `--table` users: `open_table(...).vectors` beside pyarrow's dataset and DuckDB, wall
   clock, opening included; the median of five, the files in the system's cache. And a scan of all of it.
4. With `--warehouse` and `--labels`: what the smaller numbers of 2 cost a linear probe of these labels, AUC on users that it did not see, and the
   paired difference with its interval over users.
"""

import argparse
import hashlib
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from lurm import open_table
from lurm.exporting.quantization import FLOAT16, INT8, VectorError, quantize
from lurm.joining.embedding_units import list_column
from lurm.manifest import Manifest
from lurm.releases import move_release
from lurm.schema import TIMESTAMP, USER_EMBEDDINGS
from lurm.staging import stage_table
from lurm.store import Store
from lurm.vector_pages import parquet_pieces

AS_OF, MODEL, RUN_KEY = "2022-01-01", "model-random", "a" * 16
SCOPE = {"as_of": AS_OF, "model_id": MODEL}
BUCKETS, FILE_ROWS, LOOKED_UP, TRIES = 8, 25_000, 1_000, 5
LEAF, NARROW = "embedding.list.element", [name for name in USER_EMBEDDINGS.data_schema.names if name != "embedding"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20_000, help="of the file that is written and read")
    parser.add_argument("--table", type=int, default=100_000, help="users of the table that is looked up in; 10^6 x 1,280 numbers are 5.2 GB of disk")
    parser.add_argument("--anchors", type=int, default=10)
    parser.add_argument("--dim", type=int, default=128, help="numbers of an anchor")
    parser.add_argument("--warehouse", help="a release whose vectors are probed in smaller numbers; needs --labels")
    parser.add_argument("--labels", help="a file with a row a user")
    parser.add_argument("--user", default="user_id", help="its column of users")
    parser.add_argument("--label", nargs="+", default=[], help="its columns of labels, of at most 20 classes each")
    parser.add_argument("--directory", help="where files and table go (default: a temporary folder)")
    options = parser.parse_args()
    folder = Path(options.directory or tempfile.mkdtemp(prefix="lurm-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    pa.set_cpu_count(1)
    vectors = np.random.default_rng(0).standard_normal((options.users, options.anchors * options.dim), dtype=np.float32)
    print(f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB; "
          f"{options.users:,} users x {options.anchors} anchors x {options.dim}, {vectors.nbytes / 1e6:,.0f} MB\n")
    written(vectors, folder)
    smaller(vectors, options.anchors)
    looked_up(folder / "warehouse", options)
    if options.warehouse:
        probed(options)
    if not options.directory:
        shutil.rmtree(folder)


def written(vectors: np.ndarray, folder: Path) -> None:
    store, rows, few = Store(str(folder / "staged")), rows_of(0, list_column(vectors)), vectors[: max(1, len(vectors) // 10)]
    names = rows.column("user_id").slice(0, len(few))
    plain = {"compression": "none", "use_dictionary": False, "row_group_size": max(1_024, 16_000_000 // vectors.itemsize // vectors.shape[1])}
    file = to_parquet(rows, **plain)
    ways = {
        "pyarrow, Python lists": (few, lambda: to_parquet(pa.table({"user_id": names, "embedding": few.tolist()}))),
        "pyarrow, pandas": (few, lambda: to_parquet(_pandas(names, few))),
        "pyarrow, flat values": (vectors, lambda: to_parquet(pa.table({"user_id": rows.column("user_id"), "embedding": list_column(vectors)}))),
        "  plain, no compression": (vectors, lambda: to_parquet(rows, **plain)),
        "  and no statistics": (vectors, lambda: to_parquet(rows, **plain, write_statistics=NARROW)),
        "  and pages of 16 MB": (vectors, lambda: to_parquet(rows, **plain, write_statistics=NARROW, data_page_size=16 << 20)),
        "  byte stream split": (vectors, lambda: to_parquet(rows, **plain, write_statistics=NARROW, use_byte_stream_split=[LEAF])),
        "binary, a cell a vector": (vectors, lambda: to_parquet(_binary(rows, vectors), **plain)),
        "lurm.vector_pages": (vectors, lambda: parquet_pieces(rows, plain["row_group_size"], compression="none", use_dictionary=False)),
        "  and the checksum": (vectors, lambda: _hashed(parquet_pieces(rows, plain["row_group_size"], compression="none", use_dictionary=False))),
        "SHA-256 alone": (vectors, lambda: hashlib.sha256(file).hexdigest()),
        "file alone": (vectors, lambda: (folder / "alone.parquet").write_bytes(file)),
        "lurm.staging.stage_table": (vectors, lambda: _staged_anew(store, rows)),
        "a copy in memory": (vectors, lambda: vectors.copy()),
    }
    print(f"{'writing':<28}{'GB/s a core':>12}{'ratio':>8}")
    base = None
    for name, (given, way) in ways.items():
        rate = best(way, given.nbytes)
        base = rate if name == "pyarrow, flat values" else base
        print(f"{name:<28}{rate:>12.2f}{f'{rate / base:.2f}' if base else '':>8}", flush=True)
    print(f"\n{'reading':<28}{'GB/s a core':>12}")
    for name, way in (("the file, into numpy", lambda: numbers(_read(file), vectors.shape)),
                      ("the same, user_id alone", lambda: _read(file, ["user_id"]))):
        print(f"{name:<28}{best(way, vectors.nbytes):>12.2f}", flush=True)


def smaller(vectors: np.ndarray, n_anchors: int) -> None:
    half, codes = quantize(vectors, FLOAT16, n_anchors), quantize(vectors, INT8, n_anchors)
    rounded = list_column(half.vectors())
    scales = rows_of(0, list_column(codes.codes)).append_column("scales", list_column(codes.scales))
    plain, packed = {"compression": "none", "use_dictionary": False}, {"compression": "zstd", "compression_level": 1, "use_dictionary": False}
    split = {"use_byte_stream_split": [LEAF]}
    kinds = {
        "float32": (rows_of(0, list_column(vectors)), plain, vectors),
        "float32, zstd": (rows_of(0, list_column(vectors)), packed, vectors),
        "float32, split, zstd": (rows_of(0, list_column(vectors)), packed | split, vectors),
        "rounded, zstd": (rows_of(0, rounded), packed, half.vectors()),
        "rounded, split, zstd": (rows_of(0, rounded), packed | split, half.vectors()),
        "float16": (rows_of(0, list_column(half.codes)), plain, half.vectors()),
        "int8, one scale an anchor": (scales, plain, codes.vectors()),
        "int8, as a dictionary": (scales, plain | {"use_dictionary": [LEAF]}, codes.vectors()),
    }
    print(f"\n{'numbers':<28}{'bytes a user':>13}{'write GB/s':>12}{'read GB/s':>11}{'error mean':>12}{'error most':>12}{'cosine':>11}")
    for name, (rows, options, stands_for) in kinds.items():
        file, error = to_parquet(rows, **options, write_statistics=NARROW), VectorError()
        error.add(vectors, stands_for)
        told = error.figures()
        given, shape = vectors.nbytes, vectors.shape
        write, read = (best(way, given, 3) for way in (lambda rows=rows, options=options: to_parquet(rows, **options, write_statistics=NARROW),
                                                       lambda file=file, shape=shape: numbers(_read(file), shape)))
        print(f"{name:<28}{file.size / len(vectors):>13,.0f}{write:>12.2f}{read:>11.2f}{told['relative_l2_mean']:>12.1e}"
              f"{told['relative_l2_max']:>12.1e}{told['cosine_mean']:>11.7f}", flush=True)
    print("error: length of the difference over that of the vector, mean and largest.")


def looked_up(warehouse: Path, options: argparse.Namespace) -> None:
    import duckdb

    uri = publish(warehouse, options.table, options.anchors * options.dim, options.anchors)
    users = name_of(np.random.default_rng(2).choice(options.table, min(LOOKED_UP, options.table), replace=False))
    files = open_table(uri).files()
    wanted = pa.array(users)
    ways = {
        "lurm.open_table(...).vectors": lambda: open_table(uri).vectors(users),
        "pyarrow dataset, isin": lambda: ds.dataset(files).to_table(columns=["user_id", "embedding"], filter=ds.field("user_id").isin(wanted)),
        "DuckDB, semi join": lambda: duckdb.connect(config={"threads": 1}).sql(
            "SELECT user_id, embedding FROM read_parquet(?) WHERE user_id IN (SELECT unnest(?))", params=[files, users]).to_arrow_table(),
    }
    print(f"\n{f'{len(users):,} of {options.table:,} users':<32}{'seconds':>9}{'users/s':>11}")
    for name, way in ways.items():
        seconds = []
        for _ in range(TRIES):
            started = time.perf_counter()
            found = way()
            seconds.append(time.perf_counter() - started)
            assert len(found) == len(users), "everybody is found"
        middle = float(np.median(seconds))
        print(f"{name:<32}{middle:>9.3f}{len(users) / middle:>11,.0f}", flush=True)
    n_bytes = 4 * options.table * options.anchors * options.dim
    print(f"{'open_table(...).scan()':<32}{best(lambda: sum(batch.num_rows for batch in open_table(uri).scan()), n_bytes, 2):>9.2f} GB/s a core")


def probed(options: argparse.Namespace) -> None:
    from lurm.evaluation.paired_probe import probe_both, read_labels

    table = open_table(options.warehouse)
    print(f"\n{'label':<18}{'numbers':<10}{'users':>7}{'AUC float32':>13}{'AUC':>9}{'difference':>12}  95 % interval over users")
    for label in options.label:
        labels = read_labels(options.labels, options.user, label, None, table.as_of)
        vectors, known = table.vectors(labels.users, absent="mask")
        vectors = vectors[known]
        for dtype in (FLOAT16, INT8):
            told = probe_both(vectors, quantize(vectors, dtype, table.n_anchors).vectors(), labels.labels[known])
            change = told["difference"]
            print(f"{label:<18}{dtype:<10}{told['users']:>7,}{told['before']:>13.4f}{told['now']:>9.4f}{change['mean']:>+12.4f}  "
                  f"[{change['low']:+.4f}, {change['high']:+.4f}]", flush=True)


def best(work: Callable, n_bytes: int, tries: int = TRIES) -> float:
    """Gigabytes a second of processor time, of the best of some tries."""
    seconds = []
    for _ in range(tries):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return n_bytes / 1e9 / max(min(seconds), 1e-9)


def to_parquet(rows: pa.Table, **options) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, **options)
    return sink.getvalue()


def numbers(rows: pa.Table, shape: tuple[int, int]) -> np.ndarray:
    return np.concatenate([chunk.flatten().to_numpy() for chunk in rows.column("embedding").chunks]).reshape(shape)


def _read(file: pa.Buffer, columns: list[str] | None = None) -> pa.Table:
    return pq.read_table(pa.BufferReader(file), columns=columns, use_threads=False)


def _hashed(pieces: list) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _staged_anew(store: Store, rows: pa.Table) -> None:
    """A file that is there already is not written again, so the last one goes first."""
    shutil.rmtree(store.root, ignore_errors=True)
    stage_table(store, USER_EMBEDDINGS, RUN_KEY, SCOPE, rows)


def _pandas(names: pa.ChunkedArray, vectors: np.ndarray) -> pa.Table:
    import pandas

    return pa.Table.from_pandas(pandas.DataFrame({"user_id": names.to_pylist(), "embedding": list(vectors)}))


def _binary(rows: pa.Table, vectors: np.ndarray) -> pa.Table:
    """Not what the table promises: what Parquet could do if a vector were bytes."""
    cells = pa.Array.from_buffers(pa.binary(vectors.itemsize * vectors.shape[1]), len(vectors), [None, pa.py_buffer(vectors)])
    return pa.table({"user_id": rows.column("user_id"), "embedding": cells})


def name_of(users: np.ndarray) -> list[str]:
    return [f"u{number:09d}" for number in users]


def rows_of(users: int | np.ndarray, column: pa.Array) -> pa.Table:
    """Rows of the table with this column of vectors; `users` are their numbers, or the first of them."""
    users = np.arange(users, users + len(column)) if isinstance(users, int) else users
    ones, times = pa.array(np.ones(len(users), np.int64)), pa.repeat(pa.scalar(0, pa.int64()), len(users)).cast(TIMESTAMP)
    return pa.table([pa.array(name_of(users)), column, ones, ones.cast(pa.int32()), times, times], names=USER_EMBEDDINGS.data_schema.names)


def publish(folder: Path, n_users: int, width: int, n_anchors: int) -> str:
    """A release of random vectors in files as embed-users leaves them: cut by a hash of the user, ascending within a bucket."""
    store = Store(str(folder))
    if folder.exists():
        return str(folder)
    rng, files = np.random.default_rng(3), []
    bucket_of = np.random.default_rng(4).integers(0, BUCKETS, n_users)
    for bucket in range(BUCKETS):
        users = np.flatnonzero(bucket_of == bucket)
        for start in range(0, len(users), FILE_ROWS):
            part = users[start : start + FILE_ROWS]
            rows = rows_of(part, list_column(rng.standard_normal((len(part), width), dtype=np.float32)))
            files.append(stage_table(store, USER_EMBEDDINGS, RUN_KEY, SCOPE, rows))
    manifest = Manifest(USER_EMBEDDINGS.name, RUN_KEY, tuple(files), (SCOPE,))
    store.write_manifest(manifest)
    version = store.commit(manifest, {"published_at": "2022-01-01 00:00:00.000000"})
    move_release(store, {**SCOPE, "table_version": version, "n_users": n_users, "n_anchors": n_anchors, "dim": width // n_anchors, "run_key": RUN_KEY,
                         "audit_digest": "", "current": True, "reason": "publish", "trained_as_of": None})
    return str(folder)


if __name__ == "__main__":
    main()
