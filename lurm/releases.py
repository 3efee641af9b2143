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
from deltalake.exceptions import CommitFailedError, DeltaError

from lurm.errors import MissingInputError, StoreError
from lurm.schema import RELEASES
from lurm.staging import stage_table
from lurm.store import COMMIT_ATTEMPTS, Store, add_action


def releases(store: Store) -> list[dict]:
    """Every move of the release pointer, oldest first."""
    return _rows(store, store.snapshot(RELEASES.name))


def move_release(store: Store, row: Mapping) -> dict:
    """Move the pointer to `row` (columns of RELEASES without epoch and released_at); returns the row as written.

    A move to where the pointer already is changes nothing, and a publish of what was the last move of its date changes nothing: a stage
    that runs again must not undo a rollback. Raises StoreError if other writers were always faster.
    """
    for _ in range(COMMIT_ATTEMPTS):
        delta = store.load(RELEASES.name) or store.create(RELEASES)
        history = _rows(store, store.snapshot(RELEASES.name, delta.version()))
        there = _already_there(history, row)
        if there:
            return there
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
        except (DeltaError, OSError) as error:
            raise StoreError(f"Could not move the release pointer ({error}); readers keep the release they have, run publish again.") from None
    raise StoreError("Expected to move the release pointer, other writers were always faster; run publish again.")


def released(store: Store, as_of: str | None = None) -> dict | None:
    """What readers get: the current release, or with `as_of` the newest released date that is not after it; None if there is none."""
    history = releases(store)
    if as_of is None:
        return next((row for row in reversed(history) if row["current"]), None)
    dates = [row["as_of"] for row in history if row["as_of"] <= as_of]
    return next((row for row in reversed(history) if row["as_of"] == max(dates)), None) if dates else None


def rollback(store: Store, epoch: int | None = None, reason: str = "rollback") -> dict:
    """Make readers follow an earlier release again: that of `epoch`, or the one before the present one; returns the move.

    No data is touched, so it takes as long as one commit. Raises MissingInputError when there is nothing to go back to.
    """
    history, now = releases(store), released(store)
    if now is None:
        raise MissingInputError(f"Expected a release to roll back in {store.uri}, it has none; run `lurm run`.")
    same = ("as_of", "model_id", "table_version")
    if epoch is None:
        earlier = [row for row in history if row["current"] and row["epoch"] < now["epoch"] and any(row[name] != now[name] for name in same)]
    else:
        earlier = [row for row in history if row["epoch"] == epoch]
    if not earlier:
        wanted = "a release before the present one" if epoch is None else f"epoch {epoch}"
        known = ", ".join(str(row["epoch"]) for row in history)
        raise MissingInputError(f"Expected {wanted} in {store.uri}, its epochs are {known}; choose one of them (`lurm releases` shows them).")
    target = {name: value for name, value in earlier[-1].items() if name not in ("epoch", "released_at")}
    return move_release(store, {**target, "current": True, "reason": reason})


def _already_there(history: list[dict], row: Mapping) -> dict | None:
    """The earlier move that makes this one needless."""
    if row["reason"] == "publish":  # a commit that had nothing to do reports the newest version, so the run says what is published
        last = next((old for old in reversed(history) if old["as_of"] == row["as_of"]), None)
        ignored = ("current", "table_version", "reason")
    else:
        last, ignored = (history[-1] if history else None), ()
    return last if last and all(last[name] == value for name, value in row.items() if name not in ignored) else None


def _rows(store: Store, snapshot) -> list[dict]:
    tables = [pq.read_table(uri, filesystem=store.filesystem, partitioning=None) for uri in snapshot.uris()]
    return sorted((row for table in tables for row in table.to_pylist()), key=lambda row: row["epoch"])
