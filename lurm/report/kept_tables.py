"""Small tables that are dear to compute and never change for a given key: kept as artifacts of the warehouse.

In: a kind, a key that names all inputs, and a function that computes the table. Out: the table. What is kept holds no user id. A
warehouse that cannot be written (a reader's right) and a file that is damaged cost time, never the result.
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lurm.errors import StoreError
from lurm.store import Store

log = logging.getLogger("lurm")
FILE = "table.parquet"


def kept_table(store: Store, kind: str, key: str, compute: Callable[[], pa.Table]) -> pa.Table:
    """The table artifacts/<kind>/<key>, computed and kept if it is not there."""
    table = _read(store, kind, key)
    if table is not None:
        return table
    table = compute()
    try:
        _write(store, kind, key, table)
    except StoreError as error:
        log.warning("%s of %s is computed, but could not be kept: %s", kind, key, error)
    return table


def _read(store: Store, kind: str, key: str) -> pa.Table | None:
    try:
        if not store.has_artifact(kind, key):
            return None
        data = store.read_bytes(store.path("artifacts", kind, key, FILE))
        if hashlib.sha256(data).hexdigest() == store.artifact_info(kind, key)["sha256"]:
            return pq.read_table(pa.BufferReader(data), partitioning=None, use_threads=False)
    except (StoreError, ValueError, KeyError) as error:
        log.warning("%s of %s cannot be read and is computed again: %s", kind, key, error)
        return None
    log.warning("%s of %s is not what was written and is computed again", kind, key)
    return None


def _write(store: Store, kind: str, key: str, table: pa.Table) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / FILE
        pq.write_table(table, data, compression="zstd")
        info = {"key": key, "rows": table.num_rows, "sha256": hashlib.sha256(data.read_bytes()).hexdigest()}
        (Path(folder) / "info.json").write_text(json.dumps({"info": info}))
        store.put_artifact(kind, key, Path(folder))
