"""The release pointer: a small table of moves, the last of which says what readers get.

Committing a version of `user_embeddings` changes nothing for readers; moving this pointer does. A move is one appended row with the
next epoch, accepted only if nobody moved the pointer in between; rolling back is one more move, to an older version.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, Schema
from deltalake.exceptions import CommitFailedError

from lurm.errors import StoreError
from lurm.schema import RELEASES
from lurm.staging import stage_table
from lurm.store import COMMIT_ATTEMPTS, Store, add_action


def releases(store: Store) -> list[dict]:
    """Every move of the release pointer, oldest first."""
    return _rows(store, store.snapshot(RELEASES.name))


def move_release(store: Store, row: Mapping) -> dict:
    """Move the pointer to `row` (columns of RELEASES without epoch and released_at); returns the row as written.

    A move to where the pointer already is changes nothing. Raises StoreError if other writers were always faster.
    """
    for _ in range(COMMIT_ATTEMPTS):
        delta = store.load(RELEASES.name) or store.create(RELEASES)
        history = _rows(store, store.snapshot(RELEASES.name, delta.version()))
        same_date = [old for old in history if old["as_of"] == row["as_of"]]
        if same_date and all(same_date[-1].get(name) == value for name, value in row.items() if name != "current"):
            return same_date[-1]
        moved = {**row, "epoch": len(history) + 1, "released_at": datetime.now(UTC)}
        run_key = f"epoch{moved['epoch']:08d}"
        staged = stage_table(store, RELEASES, run_key, {}, pa.Table.from_pylist([moved], RELEASES.schema))
        properties = CommitProperties(custom_metadata={"run_key": run_key}, max_commit_retries=0)
        try:
            action = add_action(staged, RELEASES, {}, int(time.time() * 1000))
            delta.create_write_transaction([action], "append", Schema.from_arrow(RELEASES.schema), commit_properties=properties)
            return moved
        except CommitFailedError:
            continue
    raise StoreError("Expected to move the release pointer, other writers were always faster; run publish again.")


def released(store: Store, as_of: str | None = None) -> dict | None:
    """What readers get: the current release, or with `as_of` the newest released date that is not after it; None if there is none."""
    history = releases(store)
    if as_of is None:
        return next((row for row in reversed(history) if row["current"]), None)
    dates = [row["as_of"] for row in history if row["as_of"] <= as_of]
    return next((row for row in reversed(history) if row["as_of"] == max(dates)), None) if dates else None


def _rows(store: Store, snapshot) -> list[dict]:
    tables = [pq.read_table(uri, filesystem=store.filesystem, partitioning=None) for uri in snapshot.uris()]
    return sorted((row for table in tables for row in table.to_pylist()), key=lambda row: row["epoch"])
