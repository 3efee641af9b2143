"""The past of a table, written anew: its Delta log and its manifests after some of its files were replaced.

In: which files took the place of which (`Replaced`), and persons whose ids may stand in the log as smallest or largest key of a file. Out: the
same log, commit for commit and version for version, with the new files where the old ones were. So a version that a release names goes on
being that version, without the persons, and a rollback still finds what it goes back to.

Delta says that commits do not change, and nothing else in lurm changes one. A reader who reads the whole log sees each commit as it was or as
it is; one who goes on from a version he holds gets what changed from the commit of the erasure. Files are written from the newest to the
oldest and each one whole: what removes an old file removes the new one too before anything adds it, so that in between no version holds both.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from lurm.erasing.persons import Persons
from lurm.erasing.traces import keys_of_stats, names_key, others
from lurm.manifest import DataFile, Manifest
from lurm.objects import Entry
from lurm.schema import Table
from lurm.staging import stage_table
from lurm.store import Store

log = logging.getLogger("lurm")
Replaced = Mapping[str, DataFile | None]  # path of an old file: what takes its place, None if no row is left
COUNTS = ("users", "rows")  # figures of a manifest that are the rows of its files
LAST = "_last_checkpoint"


def stage_others(store: Store, table: Table, path: str, persons: Persons, keep_empty: bool) -> DataFile | None:
    """Write a data file again without some persons, under the run that it is from; None where no row is left and `keep_empty` is false."""
    data = store.read_bytes(store.path("tables", table.name, *path.split("/")))
    rows = pq.read_table(pa.BufferReader(data), partitioning=None, use_threads=False)
    rows = others(table, rows, persons)
    if not rows.num_rows and not keep_empty:
        return None
    for column in table.data_schema:  # files written before a column was added lack it
        if column.name not in rows.column_names:
            rows = rows.append_column(column, pa.nulls(rows.num_rows, column.type))
    folders, _, name = path.rpartition("/")
    partition = dict(piece.split("=", 1) for piece in folders.split("/")) if folders else {}
    return stage_table(store, table, name.partition("-")[0], partition, rows)


def files_in_log(store: Store, name: str) -> set[str]:
    """Paths of all files that any version of a table has had, as far as its log goes back."""
    known = set()
    for entry in log_files(store, name):
        known |= {unquote(action["add"]["path"]) for action in _actions(store, entry) if action.get("add")}
    return known


def log_files(store: Store, name: str) -> list[Entry]:
    """Commits and checkpoints of a table, the newest first."""
    entries = store.list_files("tables", name, "_delta_log", recursive=True)
    whole = [entry for entry in entries if entry.path.endswith((".json", ".parquet"))]
    return sorted(whole, key=lambda entry: entry.path.rpartition("/")[2], reverse=True)


def rewrite_log(store: Store, table: Table, replaced: Replaced, persons: Persons) -> int:
    """Put the new files in the place of the old ones in every version; returns how many files of the log were written anew."""
    n_written = 0
    for entry in log_files(store, table.name):
        actions = _actions(store, entry)
        edited = list(_edited(actions, table, replaced, persons))
        if edited == actions:
            continue
        store.check_lease()
        if entry.path.endswith(".json"):
            store.write_bytes(entry.path, "\n".join(json.dumps(action, separators=(",", ":")) for action in edited).encode())
        else:
            _write_checkpoint(store, table, entry, edited)
        n_written += 1
    return n_written


def rewrite_manifests(store: Store, table: Table, replaced: Replaced, persons: Persons) -> int:
    """The same in the manifests of a table, whose figures follow; returns how many were written anew."""
    n_written = 0
    for run_key, manifest in manifests(store, table.name):
        files, lost = [], 0
        for file in manifest.files:
            new = _in_manifest(file, table, replaced, persons)
            lost += file.rows - (new.rows if new else 0)
            files += [new] if new else []
        if tuple(files) == manifest.files:
            continue
        figures = {name: value - lost if name in COUNTS and isinstance(value, int) else value for name, value in manifest.figures.items()}
        store.check_lease()
        text = replace(manifest, files=tuple(files), figures=figures).to_json()
        store.write_bytes(store.path("manifests", table.name, f"{run_key}.json"), text.encode())
        n_written += 1
    return n_written


def manifests(store: Store, name: str) -> Iterator[tuple[str, Manifest]]:
    """Run keys and manifests of a table."""
    for entry in store.list_files("manifests", name):
        if entry.path.endswith(".json"):
            yield entry.path.rpartition("/")[2].removesuffix(".json"), Manifest.from_json(store.read_bytes(entry.path).decode())


def _in_manifest(file: DataFile, table: Table, replaced: Replaced, persons: Persons) -> DataFile | None:
    if file.path in replaced:
        new = replaced[file.path]
        return replace(new, partition=file.partition) if new else None
    if names_key(table) and (file.first_key in persons or file.last_key in persons):  # a file that is long gone
        return replace(file, first_key=None, last_key=None)
    return file


def _edited(actions: list[dict], table: Table, replaced: Replaced, persons: Persons) -> Iterator[dict]:
    here = {kind: {unquote(action[kind]["path"]) for action in actions if action.get(kind)} for kind in ("add", "remove")}
    for action in actions:
        kind = next((kind for kind in ("add", "remove") if action.get(kind)), None)
        path = unquote(action[kind]["path"]) if kind else ""
        new = replaced.get(path)
        if kind == "add" and path in replaced:
            if new is not None and new.path not in here["add"]:
                yield {**action, "add": _placed(action["add"], new, table)}
        elif kind:
            yield {**action, kind: _without_names(action[kind], table, persons)}
            if kind == "remove" and new is not None and new.path not in here["add"] | here["remove"]:
                yield {**action, "remove": _placed(action["remove"], new, table)}
        else:
            yield action


def _placed(action: dict, new: DataFile, table: Table) -> dict:
    """An action about the new file; the folder stays as it is written there, values of partitions in it may be encoded."""
    folder, slash, _ = action["path"].rpartition("/")
    stats = {"numRecords": new.rows}
    if new.first_key is not None:
        stats |= {"minValues": {table.sorted_by[0]: new.first_key}, "maxValues": {table.sorted_by[0]: new.last_key}}
    told = {"stats": json.dumps(stats)} if action.get("stats") else {}
    return {**action, "path": f"{folder}{slash}{new.path.rpartition('/')[2]}", "size": new.size, **told}


def _without_names(action: dict, table: Table, persons: Persons) -> dict:
    """An action about a file that stays, or is long gone, without statistics that name a person."""
    text = action.get("stats")
    if not text or not names_key(table) or not any(key in persons for key in keys_of_stats(text)):
        return action
    return {**action, "stats": json.dumps({"numRecords": json.loads(text).get("numRecords", 0)})}


def _actions(store: Store, entry: Entry) -> list[dict]:
    data = store.read_bytes(entry.path)
    if entry.path.endswith(".json"):
        return [json.loads(line) for line in data.splitlines() if line.strip()]
    return pq.read_table(pa.BufferReader(data), partitioning=None, use_threads=False).to_pylist()


def _write_checkpoint(store: Store, table: Table, entry: Entry, actions: list[dict]) -> None:
    """One checkpoint, and what the pointer to the newest one says of its size."""
    schema = pq.read_schema(pa.BufferReader(store.read_bytes(entry.path)))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(actions, schema=schema), sink, compression="zstd")
    data = sink.getvalue()
    store.write_bytes(entry.path, data)
    version, last = entry.path.rpartition("/")[2].partition(".")[0], store.path("tables", table.name, "_delta_log", LAST)
    if store.sizes([last])[0] is not None and (told := json.loads(store.read_bytes(last))).get("version") == int(version):
        told = {**told, "size": len(actions), "sizeInBytes": data.size, "numOfAddFiles": sum(bool(action.get("add")) for action in actions)}
        store.write_bytes(last, json.dumps(told).encode())
