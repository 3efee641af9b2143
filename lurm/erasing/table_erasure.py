"""Taking persons out of one table: its files, its newest version, its past, its manifests.

In: a table, and which of its files hold persons (`traces.holding`). Out: figures of what was done. Every file that a version names is written
again without the persons, under the run that it is from; live ones change places in one commit; manifests and log follow (`log_rewriting`);
then the old files are deleted, at once. Files that no version names are of runs that staged and did not commit: they go with the whole run.
Every step can be repeated after a kill: what was done is not found again.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lurm.erasing.log_rewriting import Replaced, files_in_log, manifests, rewrite_log, rewrite_manifests, stage_others
from lurm.erasing.persons import Persons
from lurm.erasing.traces import Holding, data_files
from lurm.errors import StoreError
from lurm.lease import Lease
from lurm.manifest import DataFile
from lurm.schema import BAGS, EVENTS, Table
from lurm.store import Store, actions_of

log = logging.getLogger("lurm")
EVERY = 100  # files between two lines of progress


def erase_from_table(store: Store, table: Table, found: Holding, persons: Persons, erasure: str, held: Lease) -> dict[str, int]:
    """Remove persons from all versions of a table and from what was staged for it; returns figures, empty for a table that is not there.

    The lease is held. Raises StoreError if it is lost, or if another writer was faster; then the same call finishes the work.
    """
    before, root = store.snapshot(table.name), store.path("tables", table.name)
    if before.version < 0 and not found.rows:
        return {}
    live, known = {file.path: file for file in before.files}, files_in_log(store, table.name)
    sizes = {entry.path: entry.size for entry in data_files(store, table.name)}
    replaced: dict[str, DataFile | None] = {}
    for number, path in enumerate(sorted(known & set(found.rows)), start=1):
        held.check()
        # A file of bags without rows says that a month was counted and is empty; no other table needs such files.
        replaced[path] = stage_others(store, table, path, persons, keep_empty=table is BAGS)
        if number % EVERY == 0:
            log.info("erase: %d of %d files of %s written again", number, len(known & set(found.rows)), table.name)
    version = _exchange(store, table, live, replaced, erasure) if live.keys() & replaced.keys() else before.version
    staged = _drop_uncommitted(store, table, set(found.rows) - known, known, held)
    n_manifests = rewrite_manifests(store, table, replaced, persons)
    n_log_files = rewrite_log(store, table, replaced, persons)
    gone = [f"{root}/{path}" for path in (*replaced, *staged)]
    for path in gone:
        held.check()
        store.delete(path)
    return {
        "rows_removed": sum(found.rows.values()), "files_written_again": sum(new is not None for new in replaced.values()),
        "files_deleted": len(gone), "bytes_before": sum(sizes.get(path, 0) for path in gone),
        "bytes_after": sum(new.size for new in replaced.values() if new), "manifests_changed": n_manifests, "log_files_changed": n_log_files,
        "version_before": before.version, "version_after": version,
    }


def empty_table(store: Store, table: Table, erasure: str, held: Lease) -> dict[str, int]:
    """Drop all rows of a table that a training makes anew from the events that are left, with all its files; returns figures."""
    before, entries = store.snapshot(table.name), data_files(store, table.name)
    if not entries:
        return {}
    version = _commit(store, table, before.files, (), {"erasure": erasure}) if before.files else before.version
    for entry in entries:
        held.check()
        store.delete(entry.path)
    return {"rows_removed": before.rows(), "files_deleted": len(entries), "bytes_before": sum(entry.size for entry in entries), "bytes_after": 0,
            "version_before": before.version, "version_after": version}


def _exchange(store: Store, table: Table, live: Mapping[str, DataFile], replaced: Replaced, erasure: str) -> int:
    """New files in the place of live ones, in one transaction; returns the version."""
    paths = sorted(live.keys() & replaced.keys())
    # The partition is the one that the log has: it may hold more than the folder says, such as the time of publication.
    added = [replace(new, partition=live[path].partition) for path in paths if (new := replaced[path]) is not None and new.path not in live]
    metadata = {"erasure": erasure}
    if table is EVENTS:  # ingest tells by the newest commit which files of the log it has read
        metadata["run_key"] = store.last_run_key(table.name) or ""
    return _commit(store, table, [live[path] for path in paths], added, metadata)


def _commit(store: Store, table: Table, removed: Sequence[DataFile], added: Sequence[DataFile], metadata: dict[str, str]) -> int:
    store.check_lease()
    version = store.commit_on(store.load(table.name), table, actions_of(removed, added, table, {}), metadata)
    if version is None:
        raise StoreError(f"Expected to be the only writer of {table.name}, another one was faster; run the same command again.")
    return version


def _drop_uncommitted(store: Store, table: Table, paths: set[str], known: set[str], held: Lease) -> list[str]:
    """Of runs whose staged files hold persons: their manifests are deleted, the paths of their files returned."""
    gone = set(paths)
    for run_key, manifest in list(manifests(store, table.name)) if paths else ():
        staged = {file.path for file in manifest.files}
        if staged & paths:
            gone |= staged - known
            held.check()
            store.delete(store.path("manifests", table.name, f"{run_key}.json"))
    return sorted(gone)
