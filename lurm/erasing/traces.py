"""Where persons are in a warehouse: which data files hold them, which rows stay, and a scan of every file, down to its bytes.

In: persons (`lurm.erasing.persons`) and a warehouse. Out: the files of each table that hold them; and `Scan`, what a look at everything found. Data
files are decoded, because compression and dictionaries hide bytes; logs, manifests and all other texts are read as text; the rest is searched
as bytes. Memory: one column of one file, or one text; other bytes in blocks.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lurm.erasing.persons import MIN_TEXT, Persons, texts_of
from lurm.errors import StoreError
from lurm.objects import Entry
from lurm.schema import BAGS, EVENTS, QUARANTINE, TABLES, USER_EMBEDDINGS, USER_STATES, Table
from lurm.store import Store

log = logging.getLogger("lurm")
USER = "user_id"
PERSONAL = (USER_EMBEDDINGS, USER_STATES, BAGS, QUARANTINE, EVENTS)  # tables whose rows are of persons; what is made from others goes first
BLOCK_BYTES = 8 << 20
EVERY = 500  # files between two lines of progress
ROW = "row"  # of the quarantine: a row as JSON


@dataclass(frozen=True)
class Holding:
    """The data files of one table that hold persons, by path below the table's folder, with how many rows; `users` are those found."""

    rows: dict[str, int] = field(default_factory=dict)
    users: set[str] = field(default_factory=set)  # ids, in memory only


@dataclass(frozen=True)
class Scan:
    """A look at every file of a warehouse. `traces` are paths, each with what was found in it, never with an id."""

    files: int
    bytes: int
    unread: tuple[str, ...]  # no text and no Parquet, where persons are known by their hashes only: bytes cannot be hashed word by word
    traces: tuple[tuple[str, str], ...]

    def report(self) -> dict:
        return {"files": self.files, "bytes": self.bytes, "unread": list(self.unread), "found": len(self.traces),
                "traces": [list(trace) for trace in self.traces]}


def holding(store: Store, table: Table, persons: Persons) -> Holding:
    """Which data files of a table hold persons: live ones, those of old versions, staged ones, all that are there."""
    root, rows, users = store.path("tables", table.name), {}, set()
    for number, entry in enumerate(data_files(store, table.name)):
        if number and number % EVERY == 0:
            log.info("erase: %d files of %s looked at", number, table.name)
        values = _column(store, entry.path, ROW if table is QUARANTINE else USER)
        mask = _mask(table, values, persons)
        if mask.any():
            rows[entry.path.removeprefix(f"{root}/")] = int(mask.sum())
            users |= set() if table is QUARANTINE else set(values.filter(pa.array(mask)).unique().to_pylist())
    return Holding(rows, users)


def others(table: Table, rows: pa.Table, persons: Persons) -> pa.Table:
    """The rows of a data file that are not of these persons, in their order."""
    return rows.filter(pa.array(~_mask(table, rows.column(ROW if table is QUARANTINE else USER), persons)))


def data_files(store: Store, name: str) -> list[Entry]:
    """Every Parquet file in a table's folder that is not part of its log."""
    entries = store.list_files("tables", name, recursive=True)
    return [entry for entry in entries if entry.path.endswith(".parquet") and "/_delta_log/" not in entry.path]


def scan(store: Store, persons: Persons) -> Scan:
    """Look for persons in every file of the warehouse."""
    entries = store.list_files(recursive=True)
    traces, unread, n_bytes = [], [], 0
    for number, entry in enumerate(entries):
        if number and number % EVERY == 0:
            log.info("scan: %d of %d files looked at", number, len(entries))
        path = entry.path.removeprefix(f"{store.root}/")
        shown, n_bytes = path, n_bytes + entry.size
        if persons.named_in_path(path):
            shown = f"{path.partition('/')[0]}/... (of {entry.size} bytes)"
            traces.append((shown, "its name"))
        try:
            found = _look(store, entry, path, persons)
        except (FileNotFoundError, StoreError):
            if store.sizes([entry.path])[0] is None:  # gone meanwhile: the log of the lease goes on, and cleans up after itself
                continue
            raise
        if found is None:
            unread.append(shown)
        elif found:
            traces.append((shown, found))
    return Scan(len(entries), n_bytes, tuple(unread), tuple(traces))


def holds_person(store: Store, entry: Entry, persons: Persons) -> bool:
    """Whether a Parquet file that is of no table holds one of them, in any column of text."""
    return bool(_in_columns(store, entry.path, "", persons))


def names_key(table: Table) -> bool:
    """Whether the smallest and largest key that a log and a manifest keep of a file are persons."""
    return bool(table.sorted_by) and table.sorted_by[0] == USER


def _mask(table: Table, values: pa.ChunkedArray, persons: Persons) -> np.ndarray:
    if table is not QUARANTINE:
        return persons.mask(values)
    return np.array([text is not None and persons.in_row(text) for text in values.to_pylist()], bool)


def _look(store: Store, entry: Entry, path: str, persons: Persons) -> str | None:
    """What of a file names one of them; empty for nothing, None where this cannot be seen."""
    if path.endswith(".parquet") and "/_delta_log/" not in path:
        try:
            return _in_columns(store, entry.path, path, persons)
        except pa.ArrowInvalid:  # not whole
            return _in_bytes(store, entry.path, persons)
    if path.endswith(".parquet"):
        return _in_checkpoint(store, entry.path, path, persons)
    if entry.size > BLOCK_BYTES and not path.endswith((".json", ".html")):
        return _in_bytes(store, entry.path, persons)
    data = store.read_bytes(entry.path)
    texts = texts_of(data)
    if texts is None:
        return _in_bytes(store, entry.path, persons)
    if any(persons.named_in(text) for text in texts):
        return "its text"
    return "keys of files" if _is_of_persons(path) and any(text in persons for text in _keys(data)) else ""


def _in_columns(store: Store, uri: str, path: str, persons: Persons) -> str:
    """Decode every column of text; in a table of lurm a short id counts in the column of users alone, elsewhere in any."""
    name = path.split("/")[1] if path.startswith("tables/") else ""
    with store.filesystem.open_input_file(uri) as source:
        file = pq.ParquetFile(source)
        for column in file.schema_arrow:
            if not _is_text(column.type):
                continue
            for group in range(file.num_row_groups):
                values = file.read_row_group(group, columns=[column.name]).column(column.name)
                if _holds(values, column.name, name, persons):
                    return f"column {column.name}"
    return ""


def _holds(values: pa.ChunkedArray, column: str, table: str, persons: Persons) -> bool:
    if (table, column) == (QUARANTINE.name, ROW):
        return _mask(QUARANTINE, values, persons).any()
    flat = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    while pa.types.is_list(flat.type) or pa.types.is_large_list(flat.type):
        flat = flat.flatten()
    if column == USER or not table:
        return bool(persons.mask(flat.cast(pa.string())).any())
    return any(len(value) >= MIN_TEXT and value in persons for value in flat.cast(pa.string()).unique().to_pylist() if value)


def _in_checkpoint(store: Store, uri: str, path: str, persons: Persons) -> str:
    with store.filesystem.open_input_file(uri) as source:
        rows = pq.read_table(source, partitioning=None, use_threads=False).to_pylist()
    stats = [action["stats"] for row in rows for kind in ("add", "remove") if (action := row.get(kind)) and action.get("stats")]
    by_name = _is_of_persons(path) and any(key in persons for text in stats for key in keys_of_stats(text))
    return "keys of files" if by_name or any(persons.named_in(text) for text in stats) else ""


def _in_bytes(store: Store, uri: str, persons: Persons) -> str | None:
    if not persons.ids:
        return None
    wanted = [user.encode() for user in persons.ids if len(user) >= MIN_TEXT]
    overlap = max(map(len, wanted), default=1) - 1
    with store.filesystem.open_input_stream(uri) as source:
        tail = b""
        while block := source.read(BLOCK_BYTES):
            block = tail + block
            if any(user in block for user in wanted):
                return "its bytes"
            tail = block[-overlap:] if overlap else b""
    return ""


def keys_of_stats(text: str) -> list[str]:
    """The smallest and largest key in the statistics that a log keeps of a file."""
    stats = json.loads(text)
    return [value for bound in ("minValues", "maxValues") if USER in (stats.get(bound) or {}) for value in [stats[bound][USER]]]


def _keys(data: bytes) -> Iterator[str]:
    """Keys of files in a manifest or a commit."""
    try:
        trees = [json.loads(data)]
    except ValueError:
        trees = [json.loads(line) for line in data.splitlines() if line]
    for tree in trees:
        for file in tree.get("files", ()) if isinstance(tree, dict) else ():
            yield from (file.get("first_key"), file.get("last_key"))
        for kind in ("add", "remove"):
            action = tree.get(kind) if isinstance(tree, dict) else None
            if action and action.get("stats"):
                yield from keys_of_stats(action["stats"])


def _is_of_persons(path: str) -> bool:
    parts = path.split("/")
    return len(parts) > 2 and parts[0] in ("tables", "manifests") and parts[1] in TABLES and names_key(TABLES[parts[1]])


def _is_text(kind: pa.DataType) -> bool:
    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _column(store: Store, uri: str, name: str) -> pa.ChunkedArray:
    try:
        with store.filesystem.open_input_file(uri) as source:
            return pq.ParquetFile(source).read(columns=[name], use_threads=False).column(name)
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise StoreError(f"Expected a whole Parquet file with {name} at {uri}, could not read it ({error}); restore it, or delete it: in it nobody "
                         "can be looked for.") from None
