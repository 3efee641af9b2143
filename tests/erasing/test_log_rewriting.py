"""The past written anew: every version reads as before but for the replaced file, whatever file of the log holds it, at every moment in between."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from erasable import ANNA, ERIKA, MAX, USERS, bag_partition, bags_of, commit, events_of
from published import publish_day

from lurm.erasing.log_rewriting import files_in_log, log_files, manifests, rewrite_log, rewrite_manifests, stage_others
from lurm.erasing.persons import Persons
from lurm.schema import BAGS, EVENTS, QUARANTINE, USER_EMBEDDINGS
from lurm.store import Store

PERSONS = Persons(frozenset([ERIKA]))
MONTH = bag_partition("month", "2022-01", "2022-02-01")


@pytest.fixture
def store(tmp_path) -> Store:
    """Bags of one month, replaced twice, with a checkpoint in the middle: versions 1 and 3 hold her, 2 does not."""
    store = Store(str(tmp_path / "warehouse"))
    commit(store, BAGS, "a" * 16, MONTH, bags_of([ERIKA, MAX], 1))
    commit(store, BAGS, "b" * 16, MONTH, bags_of([ANNA, MAX], 2))
    store.load(BAGS.name).create_checkpoint()
    commit(store, BAGS, "c" * 16, MONTH, bags_of([ANNA, ERIKA], 3))
    return store


def users_at(store: Store, version: int) -> list[str]:
    snapshot = store.snapshot(BAGS.name, version)
    return sorted(user for uri in snapshot.uris() for user in pq.read_table(uri, partitioning=None).column("user_id").to_pylist())


def replaced_in(store: Store, table=BAGS, keep_empty: bool = False) -> dict:
    found = [path for path in files_in_log(store, table.name) if ERIKA in str(pq.read_table(store.path("tables", table.name, *path.split("/")),
                                                                                           partitioning=None).to_pylist())]
    return {path: stage_others(store, table, path, PERSONS, keep_empty) for path in found}


def test_every_version_reads_as_before_without_her(store):
    assert [users_at(store, version) for version in (1, 2, 3)] == [[ERIKA, MAX], [ANNA, MAX], [ANNA, ERIKA]]
    assert len(files_in_log(store, BAGS.name)) == 3 and len(log_files(store, BAGS.name)) == 5
    replaced = replaced_in(store)
    assert {new.path.rpartition("/")[2][:16] for new in replaced.values()} == {"a" * 16, "c" * 16}, "under the run that the old ones are from"
    assert rewrite_log(store, BAGS, replaced, PERSONS) == 4, "three commits, one of which removes an old file, and the checkpoint"
    assert [users_at(store, version) for version in (1, 2, 3)] == [[MAX], [ANNA, MAX], [ANNA]]
    for version in (1, 2, 3):
        [file] = store.snapshot(BAGS.name, version).files
        assert store.sizes([store.path("tables", BAGS.name, *file.path.split("/"))]) == [file.size] and file.partition == MONTH
    assert store.snapshot(BAGS.name, 1).files[0].first_key == MAX
    assert rewrite_log(store, BAGS, replaced, PERSONS) == 0, "again is nothing to do"
    assert store.last_run_key(BAGS.name) == "c" * 16 and store.load(BAGS.name).transaction_version("b" * 16) == 0


def test_in_between_each_version_holds_the_old_file_or_the_new_one(store, monkeypatch):
    replaced, seen, write = replaced_in(store), [], store.write_bytes

    def watched(path, data):
        write(path, data)
        seen.append([users_at(store, version) for version in (1, 2, 3)])

    monkeypatch.setattr(store, "write_bytes", watched)
    rewrite_log(store, BAGS, replaced, PERSONS)
    assert len(seen) >= 4
    for first, second, third in seen:
        assert first in ([ERIKA, MAX], [MAX]) and second == [ANNA, MAX] and third in ([ANNA, ERIKA], [ANNA])


def test_names_of_files_that_are_long_gone(tmp_path):
    """A file that vacuum deleted still has its smallest and largest user in the log and in its manifest."""
    store = Store(str(tmp_path))
    commit(store, EVENTS, "a" * 16, {"month": "2022-01"}, events_of([ERIKA, MAX]))
    before = [file.partition for file in store.snapshot(EVENTS.name).files]
    assert rewrite_log(store, EVENTS, {}, PERSONS) == 1 and rewrite_manifests(store, EVENTS, {}, PERSONS) == 1
    [file] = store.snapshot(EVENTS.name).files
    assert (file.rows, file.first_key, file.last_key, [file.partition]) == (2, None, None, before)
    assert ERIKA not in "".join(store.read_bytes(entry.path).decode() for entry in log_files(store, EVENTS.name))
    assert store.read_manifest(EVENTS.name, "a" * 16).files[0].last_key is None


def test_a_file_without_a_row_left_leaves_or_stays_empty(tmp_path):
    for keep_empty in (False, True):
        store = Store(str(tmp_path / str(keep_empty)))
        commit(store, BAGS, "a" * 16, MONTH, bags_of([ERIKA]), {"rows": 1, "periods": {}})
        replaced = replaced_in(store, keep_empty=keep_empty)
        rewrite_log(store, BAGS, replaced, PERSONS)
        rewrite_manifests(store, BAGS, replaced, PERSONS)
        files = store.snapshot(BAGS.name).files
        assert [file.rows for file in files] == ([0] if keep_empty else [])
        manifest = store.read_manifest(BAGS.name, "a" * 16)
        assert [file.path for file in manifest.files] == [file.path for file in files] and manifest.figures == {"rows": 0, "periods": {}}
        assert store.committed(BAGS.name, "a" * 16, (MONTH,)), "the run is still the one that is there"


def test_folders_whose_names_are_encoded(tmp_path):
    store = Store(str(tmp_path))
    rows = pa.table({"source_file": ["log"] * 2, "row": [json.dumps({"user_id": ERIKA}), "{}"]})
    commit(store, QUARANTINE, "q" * 16, {"source": "events", "reason": "item_id is null"}, rows)
    replaced = replaced_in(store, QUARANTINE)
    rewrite_log(store, QUARANTINE, replaced, PERSONS)
    [file] = store.snapshot(QUARANTINE.name).files
    assert file.rows == 1 and file.partition["reason"] == "item_id is null" and store.sizes(store.snapshot(QUARANTINE.name).uris()) == [file.size]


def test_a_file_of_an_older_schema(tmp_path):
    store = Store(str(tmp_path))
    commit(store, EVENTS, "a" * 16, {"month": "2022-01"}, events_of([ERIKA, MAX]))
    [path] = files_in_log(store, EVENTS.name)
    target = store.path("tables", EVENTS.name, *path.split("/"))
    pq.write_table(pq.read_table(target, partitioning=None).drop_columns(["weight"]), target)
    new = stage_others(store, EVENTS, path, PERSONS, keep_empty=False)
    rows = pq.read_table(store.path("tables", EVENTS.name, *new.path.split("/")), partitioning=None)
    assert rows.column_names == EVENTS.data_schema.names and rows.to_pylist()[0]["weight"] is None and rows.num_rows == 1


def test_what_names_nobody_is_left_alone(tmp_path):
    store = Store(str(tmp_path))
    publish_day(store, "2022-01-01", list(USERS[:2]))
    store.load(USER_EMBEDDINGS.name).create_checkpoint()
    before = {entry.path: store.read_bytes(entry.path) for entry in log_files(store, USER_EMBEDDINGS.name)}
    assert rewrite_log(store, USER_EMBEDDINGS, {}, PERSONS) == rewrite_manifests(store, USER_EMBEDDINGS, {}, PERSONS) == 0
    assert {entry.path: store.read_bytes(entry.path) for entry in log_files(store, USER_EMBEDDINGS.name)} == before
    assert [run_key for run_key, _ in manifests(store, USER_EMBEDDINGS.name)] == list(store.snapshot(USER_EMBEDDINGS.name).run_keys())
