"""Taking persons out of what is no table: half-written files, checkpoints, exports, records of runs, audits and reports.

In: a warehouse and persons, with the lease held. Out: what was deleted or changed. An export that holds a person goes as a whole, because
rows cannot be taken out of an index and one command makes it again; so does one that does not say who is in it. Records keep everything but
the ids. Files that lurm did not write are left as they are: the scan that follows names them.
"""

import json
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import pyarrow as pa

from lurm.erasing.persons import Persons, texts_of
from lurm.erasing.traces import holds_person
from lurm.lease import Lease
from lurm.objects import LEASE, Entry
from lurm.schema import RELEASES
from lurm.store import Store

EXPORTS, RECORD = "exports", "export.json"
HALF_WRITTEN = re.compile(r"(\.tmp|#\d+)$")
OTHERS_WRITE = (f"tables/{LEASE}/", f"tables/{RELEASES.name}/")  # while an erasure goes on: the lease itself, and a rollback
HIDDEN_IN, DELETED_IN = ("runs", "audits"), ("reports",)


def delete_half_written(store: Store, held: Lease) -> int:
    """What a killed process left in tables and manifests, without asking what is in it; returns how many files."""
    entries = [entry for folder in ("tables", "manifests") for entry in store.list_files(folder, recursive=True)]
    return _delete(store, [entry for entry in entries if HALF_WRITTEN.search(entry.path) and not _below(store, entry).startswith(OTHERS_WRITE)], held)


def delete_work(store: Store, held: Lease) -> int:
    """Checkpoints of unfinished trainings: those on the events as they were are not gone on with; returns how many files."""
    return _delete(store, store.list_files("work", recursive=True) if store.is_local else [], held)


def delete_exports(store: Store, persons: Persons, held: Lease) -> list[str]:
    """Delete the exports that hold a person; returns their names."""
    names = exports_of(store, persons)
    for name in names:  # who is in it goes last, or a kill would leave vectors that nobody is looked for in
        entries = store.list_files(EXPORTS, name, recursive=True)
        _delete(store, sorted(entries, key=lambda entry: entry.path.endswith((".parquet", RECORD))), held)
    return names


def exports_of(store: Store, persons: Persons) -> list[str]:
    """Names of the exports in a warehouse that hold one of some persons, or do not say whom they hold."""
    by_name: dict[str, dict[str, Entry]] = {}
    for entry in store.list_files(EXPORTS, recursive=True):
        name, _, path = entry.path.removeprefix(f"{store.path(EXPORTS)}/").partition("/")
        by_name.setdefault(name, {})[path] = entry
    found = []
    for name, files in sorted(by_name.items()):
        ids = files.get(str(_told(store, files.get(RECORD)).get("ids_file")))
        if ids is None or _holds(store, ids, persons):
            found.append(name)
    return found


def hide_in_texts(store: Store, persons: Persons, held: Lease) -> list[str]:
    """Put "(erased)" in the place of ids in records of runs and audits, delete reports that name one; returns the paths of both."""
    changed = []
    for folder in (*HIDDEN_IN, *DELETED_IN):
        for entry in store.list_files(folder, recursive=True):
            data, path = store.read_bytes(entry.path), _below(store, entry)
            by_name = folder in DELETED_IN and persons.named_in_path(path)
            if not by_name and not any(persons.named_in(text) for text in texts_of(data) or ()):
                continue
            held.check()
            if folder in DELETED_IN:
                store.delete(entry.path)
            else:
                store.write_bytes(entry.path, _hidden(data, persons))
            changed.append(f"a file in {folder}" if by_name else path)
    return changed


def _hidden(data: bytes, persons: Persons) -> bytes:
    try:
        return json.dumps(persons.hide_tree(json.loads(data)), indent=1).encode()
    except ValueError:
        return persons.hide(data.decode()).encode()


def _holds(store: Store, ids: Entry, persons: Persons) -> bool:
    try:
        return holds_person(store, ids, persons)
    except (pa.ArrowInvalid, OSError):  # nobody can say that it does not
        return True


def _told(store: Store, record: Entry | None) -> dict:
    """What an export says of itself; nothing where it says nothing that can be read."""
    try:
        told = json.loads(store.read_bytes(record.path)) if record else {}
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _delete(store: Store, entries: Sequence[Entry], held: Lease) -> int:
    for entry in entries:
        held.check()
        store.delete(entry.path)
    return len(entries)


def _below(store: Store, entry: Entry) -> str:
    return str(PurePosixPath(entry.path).relative_to(store.root))
