"""The release pointer: a small table of moves, the last of which says what readers get.

Committing a version of `user_embeddings` changes nothing for readers; moving this pointer does. A move is one more row with the next
epoch, accepted only if nobody moved the pointer in between; rolling back is one more move, to an older version. All moves lie in one
file, which every move writes anew: whoever opens the table reads one small file, after ten years as on the first day.
"""

import random
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from lurm.errors import MissingInputError, StoreError
from lurm.manifest import Manifest
from lurm.retirement import end_of
from lurm.schema import RELEASES
from lurm.staging import stage_table
from lurm.store import COMMIT_ATTEMPTS, Store, actions_of

FORCED = "publish, forced: "  # and why: the reason of a release that the quality gate had blocked


def releases(store: Store) -> list[dict]:
    """Every move of the release pointer, oldest first."""
    return _rows(store, store.snapshot(RELEASES.name))


def move_release(store: Store, row: Mapping) -> dict:
    """Move the pointer to `row` (columns of RELEASES without epoch and released_at); returns the row as written.

    A move to where the pointer already is changes nothing, and a publish of what was the last move of its date changes nothing: a stage
    that runs again must not undo a rollback. Raises StoreError if other writers were always faster.
    """
    store.check_lease()
    for attempt in range(COMMIT_ATTEMPTS):
        delta = store.writable(RELEASES)
        before = store.snapshot(RELEASES.name, delta.version())
        history = _rows(store, before)
        there = _already_there(history, row)
        if there:
            return there
        moved = {**row, "epoch": len(history) + 1, "released_at": datetime.now(UTC)}
        if _publishes(row):  # asked again on top of the version it is committed to: a later date may have come in between
            now = _current(history)
            moved["current"] = row["current"] and (now is None or row["as_of"] >= now["as_of"])
        run_key = f"epoch{moved['epoch']:08d}"
        staged = stage_table(store, RELEASES, run_key, {}, pa.Table.from_pylist([*history, moved], RELEASES.schema))
        if store.commit_on(delta, RELEASES, actions_of(before.files, [staged], RELEASES, {}), {"run_key": run_key}) is not None:
            return moved
        time.sleep(random.uniform(0.02, 0.05) * (attempt + 1))
    raise StoreError("Expected to move the release pointer, other writers were always faster; run publish again.")


def correct_users(store: Store, users: Mapping[str, int]) -> int:
    """Set n_users of the moves of some runs (by run key), because rows of theirs were erased; returns how many moves changed.

    Nothing else of a move changes, and no move is added. Raises StoreError if other writers were always faster.
    """
    for attempt in range(COMMIT_ATTEMPTS):
        delta = store.load(RELEASES.name)
        before = store.snapshot(RELEASES.name, delta.version()) if delta is not None else None
        history = _rows(store, before) if before is not None else []
        wrong = [row for row in history if users.get(row["run_key"], row["n_users"]) != row["n_users"]]
        if not wrong:
            return 0
        rows = [{**row, "n_users": users.get(row["run_key"], row["n_users"])} for row in history]
        run_key = f"epoch{len(history):08d}"
        staged = stage_table(store, RELEASES, run_key, {}, pa.Table.from_pylist(rows, RELEASES.schema))
        store.check_lease()
        if store.commit_on(delta, RELEASES, actions_of(before.files, [staged], RELEASES, {}), {"run_key": run_key}) is not None:
            return len(wrong)
        time.sleep(random.uniform(0.02, 0.05) * (attempt + 1))
    raise StoreError("Expected to correct the releases' numbers of users, other writers were always faster; run again.")


def release_row(manifest: Manifest, table_version: int, audit_digest: str, now: Mapping | None, forced: str | None = None) -> dict:
    """The row that `move_release` takes for a table of user embeddings that is committed; `now` is the present release."""
    figures, as_of = manifest.figures, manifest.replaces[0]["as_of"]
    return {
        "as_of": as_of, "model_id": figures["model_id"], "table_version": table_version, "n_users": manifest.rows(),
        "n_anchors": figures["n_anchors"], "dim": figures["dim"], "run_key": manifest.run_key, "audit_digest": audit_digest,
        # A date older than what readers follow now is history being filled in: it can be read by its date, and wakes nobody.
        "current": now is None or as_of >= now["as_of"],
        "reason": FORCED + forced if forced else "publish", "trained_as_of": figures.get("trained_as_of") or None,
    }


def released(store: Store, as_of: str | None = None) -> dict | None:
    """What readers get: the current release, or with `as_of` the newest released date that is not after it; None if there is none."""
    history = releases(store)
    return _current(history) if as_of is None else _newest(history, as_of)


def followed(history: list[dict], as_of: str) -> dict | None:
    """What a table of `as_of` goes on from, among all moves: the release that readers follow, if it is not after the date (so what was
    rolled back is not taken up again), else the newest release not after it; None if there is none."""
    now = _current(history)
    return now if now is not None and now["as_of"] <= as_of else _newest(history, as_of)


def followed_model(store: Store, as_of: str) -> str:
    """The model that `released` means for a date: that of `followed`. Raises MissingInputError if there is none."""
    row = followed(releases(store), as_of)
    if row is None:
        raise MissingInputError(f"Expected a release on or before {as_of} in {store.uri} whose model could be used, found none; train one "
                                "first, or name the id of a model.")
    return row["model_id"]


def rollback(store: Store, epoch: int | None = None, reason: str = "rollback") -> dict:
    """Make readers follow an earlier release again: that of `epoch`, or the one before the present one; returns the move.

    No data is touched, so it takes as long as one commit. Raises MissingInputError when there is nothing to go back to, or when the tables
    of that release's model were taken out after its announced end.
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
    end = end_of(store, target["model_id"])
    if end is not None and end.taken_out_at is not None:
        raise MissingInputError(f"Expected a release that is still there, epoch {earlier[-1]['epoch']} is of {end.model_id}, which ended after "
                                f"{end.after} and was taken out of the warehouse; choose another with --to EPOCH.")
    return move_release(store, {**target, "current": True, "reason": reason})


def coordinates(store: Store, model_id: str) -> str:
    """The model in whose space the vectors of a model are: its own id, or that of the model it was aligned to. Vectors of two models can be
    compared, and used by one consumer's model, if and as far as this is the same."""
    if not store.has_artifact("alignments", model_id):
        return model_id
    return store.artifact_info("alignments", model_id)["aligned_to"]


def _current(history: list[dict]) -> dict | None:
    return next((row for row in reversed(history) if row["current"]), None)


def _newest(history: list[dict], as_of: str) -> dict | None:
    dates = [row["as_of"] for row in history if row["as_of"] <= as_of]
    return next((row for row in reversed(history) if row["as_of"] == max(dates)), None) if dates else None


def _publishes(row: Mapping) -> bool:
    return row["reason"] == "publish" or row["reason"].startswith(FORCED)


def _already_there(history: list[dict], row: Mapping) -> dict | None:
    """The earlier move that makes this one needless."""
    if _publishes(row):  # a commit that had nothing to do reports the newest version, so the run says what is published
        last = next((old for old in reversed(history) if old["as_of"] == row["as_of"]), None)
        ignored = ("current", "table_version", "reason", "trained_as_of")
    else:
        last, ignored = (history[-1] if history else None), ()
    return last if last and all(last[name] == value for name, value in row.items() if name not in ignored) else None


def _rows(store: Store, snapshot) -> list[dict]:
    tables = [pq.read_table(pa.BufferReader(store.read_bytes(uri)), partitioning=None, use_threads=False) for uri in snapshot.uris()]
    blank = dict.fromkeys(RELEASES.schema.names)  # releases written before a column was added lack it
    return sorted(({**blank, **row} for table in tables for row in table.to_pylist()), key=lambda row: row["epoch"])
