"""Traces: which files hold a person, and a scan that finds each kind of trace, once planted, and nobody else's."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from erasable import ERIKA, MAX, USERS, build, commit, events_of
from published import publish_day, rows_of

from lurm.erasing.persons import Persons, keyed_hash
from lurm.erasing.traces import PERSONAL, holding, names_key, others, scan
from lurm.errors import StoreError
from lurm.schema import EVENTS, ITEMS, QUARANTINE, TABLES, USER_EMBEDDINGS
from lurm.store import Store

KEY = b"a key of a test, long enough"


def by_ids(*users: str) -> Persons:
    return Persons(frozenset(users))


def by_hashes(*users: str) -> Persons:
    return Persons(hashes=frozenset(keyed_hash(KEY, user) for user in users), key=KEY)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return build(tmp_path_factory.mktemp("traces") / "warehouse")


def test_the_personal_tables_are_all_that_have_users():
    assert {table.name for table in PERSONAL} == {name for name, table in TABLES.items() if "user_id" in table.schema.names} | {"quarantine"}
    assert names_key(EVENTS) and not names_key(ITEMS) and not names_key(QUARANTINE)


@pytest.mark.parametrize("make", [by_ids, by_hashes])
def test_files_that_hold_a_person_live_old_and_staged(store, make):
    found = holding(store, USER_EMBEDDINGS, make(ERIKA))
    assert sum(found.rows.values()) == 6 and found.users == {ERIKA}
    assert {path.rpartition("/")[2].partition("-")[0] for path in found.rows} == {"january0", "february", "february2", "march000", "candidate",
                                                                                     "staged00"}
    assert sum(holding(store, QUARANTINE, make(ERIKA)).rows.values()) == 2, "a row that was cut included"
    assert holding(store, EVENTS, make("nobody-here")).rows == {}


def test_others_keep_their_rows_and_their_order():
    rows = rows_of(sorted(USERS))
    assert others(USER_EMBEDDINGS, rows, by_ids(ERIKA, MAX)).column("user_id").to_pylist() == sorted(set(USERS) - {ERIKA, MAX})
    texts = pa.table({"source_file": ["l"] * 3, "row": [json.dumps({"u": ERIKA}), None, "{}"]})
    assert others(QUARANTINE, texts, by_ids(ERIKA)).column("row").to_pylist() == [None, "{}"]


def test_a_broken_file_is_a_sentence(tmp_path):
    store = Store(str(tmp_path))
    store.write_bytes(store.path("tables", EVENTS.name, "month=2022-01", "a-b.parquet"), b"PAR1 not whole")
    with pytest.raises(StoreError, match="in it nobody can be looked for"):
        holding(store, EVENTS, by_ids(ERIKA))
    store.write_bytes(store.path("tables", EVENTS.name, "month=2022-01", "a-b.parquet"), b"PAR1 not whole " + ERIKA.encode())
    assert scan(store, by_ids(ERIKA)).traces == (("tables/events/month=2022-01/a-b.parquet", "its bytes"),)


def plant_column(store: Store, rows: pa.Table) -> None:
    pq.write_table(rows, Path(store.path("tables", "items", "planted.parquet")))


PLANTED = {
    "a text": lambda store: store.write_bytes(store.path("runs", "r.json"), json.dumps({"error": f"lost {ERIKA}"}).encode()),
    "a page": lambda store: store.write_bytes(store.path("page.html"), f"<td>{ERIKA}</td>".encode()),
    "bytes": lambda store: store.write_bytes(store.path("weights.bin"), b"\xff\x00" * 9_000_000 + ERIKA.encode() + b"\xff"),
    "across blocks": lambda store: store.write_bytes(store.path("weights.bin"), b"\xff" * ((8 << 20) - 5) + ERIKA.encode() + b"\xff"),
    "a name": lambda store: store.write_bytes(store.path("reports", f"{ERIKA}.bin"), b"\xff"),
    "a manifest": lambda store: store.write_bytes(store.path("manifests", "bags", "x.json"), json.dumps({"files": [{"last_key": ERIKA}]}).encode()),
    "a log": lambda store: store.write_bytes(store.path("tables", "bags", "_delta_log", "x.json"), (json.dumps(
        {"add": {"path": "p", "stats": json.dumps({"minValues": {"user_id": ERIKA}})}}) + "\n{}").encode()),
    "a column": lambda store: plant_column(store, pa.table({"title": ["x", ERIKA]})),
    "a list": lambda store: plant_column(store, pa.table({"names": [["x"], [ERIKA]]})),
    "a dictionary": lambda store: plant_column(store, pa.table({"title": pa.array(["x", ERIKA]).dictionary_encode()})),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_scan_finds_each_kind_of_trace(tmp_path, kind):
    store = Store(str(tmp_path / "warehouse"))
    publish_day(store, "2022-01-01", ["somebody-else-1"])
    store.write_bytes(store.path("tables", "items", "keep"), b"")
    clean = scan(store, by_ids(ERIKA))
    assert clean.traces == () and clean.files == len(store.list_files(recursive=True)) and clean.bytes > 0
    PLANTED[kind](store)
    [(path, what)] = scan(store, by_ids(ERIKA)).traces
    assert ERIKA not in path and what
    assert scan(store, by_ids(ERIKA + "2", ERIKA[:-1])).traces == () or kind in ("bytes", "across blocks"), "in bytes a part of an id is found too"
    by_hash = scan(store, by_hashes(ERIKA))
    assert by_hash.traces or by_hash.unread == ("weights.bin",), "what cannot be searched for a hash is said"


def test_short_ids_count_where_users_stand_and_nowhere_else(tmp_path):
    """Users and items may both be numbers."""
    store = Store(str(tmp_path))
    commit(store, EVENTS, "e" * 16, {"month": "2022-01"}, events_of(["17", "18"]))
    items = pa.table({"item_id": ["17"], "title": ["17"], "categories": [["17"]], "item_hash": [17]})
    commit(store, ITEMS, "i" * 16, {"bucket": "17"}, items)
    places = {path.partition("/")[0] + " " + what for path, what in scan(store, by_ids("17")).traces}
    assert places == {"tables column user_id", "tables keys of files", "manifests keys of files"}
    assert scan(store, by_ids("16")).traces == () and scan(store, by_hashes("17")).traces == scan(store, by_ids("17")).traces


def test_figures_of_a_scan_are_plain(store):
    report = scan(store, by_ids(ERIKA)).report()
    assert report["found"] == len(report["traces"]) > 20 and ERIKA not in json.dumps(report) and report["unread"] == []
    assert np.prod([len(trace) == 2 for trace in report["traces"]]) == 1
