"""What is no table: exports go whole, records keep everything but the ids, what nobody can look into goes or is named."""

import json
from pathlib import Path

import pytest
from erasable import ANNA, ERIKA, MAX, places_of, write_export
from published import publish_day

from lurm import open_table
from lurm.erasing.file_erasure import delete_exports, delete_half_written, delete_work, exports_of, hide_in_texts
from lurm.erasing.persons import Persons
from lurm.exporting.export import export, export_folder
from lurm.lease import lease
from lurm.store import Store

PERSONS = Persons(frozenset([ERIKA]))


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "warehouse"))


@pytest.fixture
def held(store):
    with lease(store, "test") as held:
        yield held


def test_exports_that_hold_her_or_do_not_say_whom_they_hold(store, held):
    write_export(store, "with", [ERIKA, MAX])
    write_export(store, "without", [ANNA, MAX])
    write_export(store, "broken", [ANNA])
    Path(store.path("exports", "broken", "ids.parquet")).write_bytes(b"PAR1 cut")
    write_export(store, "silent", [ANNA])
    Path(store.path("exports", "silent", "export.json")).write_text("[1")
    write_export(store, "begun.part", [ANNA])
    Path(store.path("exports", "begun.part", "export.json")).unlink()
    assert exports_of(store, PERSONS) == ["begun.part", "broken", "silent", "with"]
    assert delete_exports(store, PERSONS, held) == ["begun.part", "broken", "silent", "with"]
    left = {Path(entry.path).relative_to(store.path("exports")).parts[0] for entry in store.list_files("exports", recursive=True)}
    assert left == {"without"} and exports_of(store, PERSONS) == delete_exports(store, PERSONS, held) == []


@pytest.mark.parametrize("file_format", ["npy", "parquet", "faiss"])
def test_what_lurm_export_writes_is_understood(store, held, file_format):
    publish_day(store, "2022-01-01", [ANNA, ERIKA, MAX])
    publish_day(store, "2022-02-01", [ANNA, MAX])
    for as_of in ("2022-01-01", "2022-02-01"):
        table = open_table(store.uri, as_of)
        export(store, table, export_folder(store, table, file_format, "float32"), file_format)
    [name] = delete_exports(store, PERSONS, held)
    assert name.startswith("2022-01-01-") and places_of(store.path("exports"), ERIKA) == set()
    assert [entry.path.split("/")[-2][:10] for entry in store.list_files("exports", recursive=True)][0] == "2022-02-01"


def test_who_is_in_an_export_goes_last(store, held, monkeypatch):
    """Or a kill in between would leave vectors in which nobody is looked for."""
    write_export(store, "with", [ERIKA])
    order, delete = [], store.delete
    monkeypatch.setattr(store, "delete", lambda path: (order.append(Path(path).name), delete(path)))
    delete_exports(store, PERSONS, held)
    assert order == ["vectors.npy", "export.json", "ids.parquet"]


def test_records_keep_everything_but_the_ids(store, held):
    record = {"error": f"no {ERIKA}.", "n": 7, "dates": [{"as_of": "2022-01-01"}], "who": [ERIKA, MAX]}
    store.write_bytes(store.path("runs", "one.json"), json.dumps(record).encode())
    store.write_bytes(store.path("runs", "two.json"), json.dumps({"error": MAX}).encode())
    store.write_bytes(store.path("audits", "k", "index.html"), f"<b>{ERIKA}</b>".encode())
    store.write_bytes(store.path("reports", "page.html"), f"<b>{ERIKA}</b>".encode())
    store.write_bytes(store.path("reports", f"{ERIKA}.html"), b"<b>hers</b>")
    store.write_bytes(store.path("reports", "binary.png"), b"\xff\xd8")
    before = store.list_files("runs")[1]
    assert hide_in_texts(store, PERSONS, held) == ["runs/one.json", "audits/k/index.html", "a file in reports", "reports/page.html"]
    assert json.loads(store.read_bytes(store.path("runs", "one.json"))) == {**record, "error": "no (erased).", "who": ["(erased)", MAX]}
    assert store.read_bytes(store.path("audits", "k", "index.html")) == b"<b>(erased)</b>"
    assert [Path(entry.path).name for entry in store.list_files("reports")] == ["binary.png"]
    assert store.list_files("runs")[1] == before and hide_in_texts(store, PERSONS, held) == []


def test_half_written_files_and_checkpoints_go_unread(store, held):
    for parts in (("tables", "events", "x.parquet.1f.tmp"), ("tables", "bags", "_delta_log", "0.json#1"), ("manifests", "bags", "k.json.2e.tmp")):
        store.write_bytes(store.path(*parts), b"?")
    others = (("tables", "lease", "_delta_log", "9.json#1"), ("tables", "releases", "x.tmp"), ("tables", "events", "x.parquet"), ("runs", "r.tmp"))
    for parts in others:
        store.write_bytes(store.path(*parts), b"?")
    assert delete_half_written(store, held) == 3 and store.exists("tables", "lease", "_delta_log", "9.json#1")
    assert delete_half_written(store, held) == 0
    (store.workspace("model") / "checkpoint").write_bytes(b"?")
    assert delete_work(store, held) == 1 and delete_work(store, held) == 0
    store.is_local = False
    assert delete_work(store, held) == 0, "elsewhere it lies on the machine that trained"
