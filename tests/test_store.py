"""The store: a commit happens once, replaces whole scopes, never mixes with another writer's, and believes no manifest blindly."""

import copy as copy_module
import dataclasses
import os
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from faults import FAULTS, FaultyObjects
from published import MODEL, publish_day, stage_day
from published import rows_of as embedding_rows

from lurm.errors import StoreError
from lurm.manifest import DataFile, Manifest
from lurm.schema import SEEN_ITEMS, USER_EMBEDDINGS
from lurm.staging import stage_table
from lurm.store import Store, live_files


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "warehouse"))


def seen(*names: str) -> pa.Table:
    rows = [{"item_id": name, "title": f"title of {name}", "item_hash": position, "n_events": 1, "n_users": 1} for position, name in enumerate(names)]
    return pa.Table.from_pylist(rows, SEEN_ITEMS.data_schema)


def manifest_of(store: Store, run_key: str, as_of: str, *names: str) -> Manifest:
    file = stage_table(store, SEEN_ITEMS, run_key, {"as_of": as_of}, seen(*names))
    manifest = Manifest(SEEN_ITEMS.name, run_key, (file,), ({"as_of": as_of},))
    store.write_manifest(manifest)
    return manifest


def items_in(store: Store, version: int | None = None, **conditions) -> list[str]:
    snapshot = store.snapshot(SEEN_ITEMS.name, version).where(**conditions)
    return sorted(name for uri in snapshot.uris() for name in pq.read_table(uri, partitioning=None).column("item_id").to_pylist())


def test_a_table_that_does_not_exist_is_empty(store, tmp_path):
    snapshot = store.snapshot(SEEN_ITEMS.name)
    assert (snapshot.version, snapshot.files, snapshot.rows(), store.last_run_key(SEEN_ITEMS.name)) == (-1, (), 0, None)
    assert not (tmp_path / "warehouse").exists(), "looking creates nothing"


def test_staged_files_are_seen_after_the_commit_only(store):
    manifest = manifest_of(store, "run1", "2022-01-01", "a", "b")
    assert items_in(store) == [] and not store.committed(SEEN_ITEMS.name, "run1", manifest.replaces)
    store.commit(manifest)
    assert items_in(store) == ["a", "b"] and store.committed(SEEN_ITEMS.name, "run1", manifest.replaces)
    assert store.last_run_key(SEEN_ITEMS.name) == "run1"
    other = Store(store.uri).snapshot(SEEN_ITEMS.name)
    assert (other.rows(), other.run_keys(), other.values("as_of")) == (2, {"run1"}, ["2022-01-01"])
    assert (other.files[0].first_key, other.files[0].last_key) == (None, None), "sorted by a number: there is no text range"


def test_a_repeated_commit_changes_nothing(store):
    manifest = manifest_of(store, "run1", "2022-01-01", "a")
    version = store.commit(manifest)
    assert store.commit(manifest) == version
    assert Store(store.uri).commit(Manifest.from_json(manifest.to_json())) == version, "also when the manifest was read back"
    assert items_in(store) == ["a"]


def test_a_commit_replaces_its_scope_and_nothing_else(store):
    store.commit(manifest_of(store, "run1", "2022-01-01", "a", "b"))
    store.commit(manifest_of(store, "run2", "2022-02-01", "c"))
    store.commit(manifest_of(store, "run3", "2022-01-01", "d"))
    assert items_in(store, as_of="2022-01-01") == ["d"] and items_in(store, as_of="2022-02-01") == ["c"]
    assert not store.committed(SEEN_ITEMS.name, "run1", ({"as_of": "2022-01-01"},)), "replaced since"
    assert store.committed(SEEN_ITEMS.name, "run2", ({"as_of": "2022-02-01"},))


def test_a_run_that_was_replaced_can_be_committed_again(store):
    first = manifest_of(store, "run1", "2022-01-01", "a")
    store.commit(first)
    store.commit(manifest_of(store, "run2", "2022-01-01", "b"))
    store.commit(first)
    assert items_in(store) == ["a"] and store.committed(SEEN_ITEMS.name, "run1", first.replaces)


def test_an_empty_manifest_empties_its_scope(store):
    store.commit(manifest_of(store, "run1", "2022-01-01", "a"))
    store.commit(manifest_of(store, "run2", "2022-02-01", "b"))
    empty = Manifest(SEEN_ITEMS.name, "run3", (), ({"as_of": "2022-01-01"},))
    version = store.commit(empty)
    assert store.commit(empty) == version and items_in(store) == ["b"]


def test_a_pinned_snapshot_reads_the_same_after_replacement(store):
    version = store.commit(manifest_of(store, "run1", "2022-01-01", "a"))
    pinned = store.snapshot(SEEN_ITEMS.name)
    store.commit(manifest_of(store, "run2", "2022-01-01", "b"))
    assert [pq.read_table(uri, partitioning=None).column("item_id").to_pylist() for uri in pinned.uris()] == [["a"]]
    assert items_in(store, version) == ["a"] and items_in(store) == ["b"]


def test_a_handle_that_is_behind_does_not_double_rows(store, monkeypatch):
    store.commit(manifest_of(store, "run1", "2022-01-01", "a"))
    behind = DeltaTable(store.table_uri(SEEN_ITEMS.name))
    again = manifest_of(store, "run2", "2022-01-01", "b")
    store.commit(again)
    real, calls = Store.load, []

    def load(self, name, version=None):
        calls.append(name)
        return behind if len(calls) == 1 else real(self, name, version)

    monkeypatch.setattr(Store, "load", load)
    store.commit(again)
    store.commit(manifest_of(store, "run3", "2022-03-01", "c"))
    monkeypatch.undo()
    assert len(calls) > 1, "the first try was refused"
    assert items_in(store) == ["b", "c"] and len(store.snapshot(SEEN_ITEMS.name).files) == 2


def test_writers_of_different_scopes_all_get_in(store):
    store.commit(manifest_of(store, "run0", "2021-12-01", "z"))
    manifests = [manifest_of(store, f"run{month}", f"2022-{month:02d}-01", f"a{month}", f"b{month}") for month in range(1, 7)]
    start, failures = threading.Barrier(len(manifests)), []

    def write(manifest):
        start.wait()
        try:
            Store(store.uri).commit(manifest)
        except StoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(manifest,)) for manifest in manifests]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert failures == []
    assert items_in(store) == sorted(["z"] + [f"{letter}{month}" for letter in "ab" for month in range(1, 7)])
    assert store.snapshot(SEEN_ITEMS.name).version == 7, "one version for the table, one for each writer"


def test_writers_of_one_scope_never_mix(store):
    names = {f"run{writer}": [f"{writer}{letter}" for letter in "abc"] for writer in range(4)}
    manifests = []
    for run_key, items in names.items():  # two files each, so that a mixture could show
        files = tuple(stage_table(store, SEEN_ITEMS, run_key, {"as_of": "2022-01-01"}, seen(*part)) for part in (items[:2], items[2:]))
        manifests.append(Manifest(SEEN_ITEMS.name, run_key, files, ({"as_of": "2022-01-01"},)))
    start = threading.Barrier(len(manifests))
    threads = [threading.Thread(target=lambda m: (start.wait(), Store(store.uri).commit(m)), args=(manifest,)) for manifest in manifests]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    delta = DeltaTable(store.table_uri(SEEN_ITEMS.name))
    for version in range(1, delta.version() + 1):
        assert items_in(store, version) in names.values(), f"version {version}"
    assert delta.version() == len(names)


def test_two_writers_of_the_same_run_commit_it_once(store):
    manifest = manifest_of(store, "run1", "2022-01-01", "a", "b")
    start = threading.Barrier(4)
    threads = [threading.Thread(target=lambda: (start.wait(), Store(store.uri).commit(manifest))) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert items_in(store) == ["a", "b"] and store.snapshot(SEEN_ITEMS.name).version == 1


def test_a_writer_that_is_never_first_gives_up_in_one_sentence(store, monkeypatch):
    store.commit(manifest_of(store, "run1", "2022-01-01", "a"))
    behind = DeltaTable(store.table_uri(SEEN_ITEMS.name))
    store.commit(manifest_of(store, "run2", "2022-01-01", "b"))
    monkeypatch.setattr(Store, "load", lambda self, name, version=None: behind)
    monkeypatch.setattr("lurm.store.time.sleep", lambda seconds: None)
    with pytest.raises(StoreError, match="within 20 attempts, other writers were always faster; run again"):
        store.commit(manifest_of(store, "run3", "2022-01-01", "c"))
    monkeypatch.undo()
    assert items_in(store) == ["b"]


def test_a_missing_file_is_refused(store):
    manifest = manifest_of(store, "run1", "2022-01-01", "a")
    os.remove(f"{store.root}/tables/seen_items/{manifest.files[0].path}")
    with pytest.raises(StoreError, match="found no file; run the stage again"):
        store.commit(manifest)
    assert store.staged(SEEN_ITEMS.name, "run1") is None and store.snapshot(SEEN_ITEMS.name).version == -1


def test_a_file_of_another_size_is_refused(store):
    manifest = manifest_of(store, "run1", "2022-01-01", "a")
    with open(f"{store.root}/tables/seen_items/{manifest.files[0].path}", "ab") as file:
        file.write(b"x")
    with pytest.raises(StoreError, match=f"with {manifest.files[0].size} bytes, found {manifest.files[0].size + 1} bytes"):
        store.commit(manifest)
    assert store.staged(SEEN_ITEMS.name, "run1") is None


@pytest.mark.parametrize("path", ["../outside.parquet", "as_of=2022-01-01/../../../outside.parquet", "/etc/passwd", "a//b.parquet", "./a.parquet"])
def test_a_manifest_cannot_point_outside(store, tmp_path, path):
    (tmp_path / "outside.parquet").write_bytes(b"1234")
    manifest = manifest_of(store, "run1", "2022-01-01", "a")
    evil = dataclasses.replace(manifest, files=(dataclasses.replace(manifest.files[0], path=path, size=4),))
    with pytest.raises(StoreError, match="Expected a path inside the warehouse"):
        store.commit(evil)
    with pytest.raises(StoreError, match="Expected a path inside the warehouse"):
        store.path("manifests", *path.split("/"))


def test_manifests_come_back_as_they_were(store):
    staged = manifest_of(store, "run1", "2022-01-01", "ä", "b")
    manifest = dataclasses.replace(staged, figures={"users": 2, "health": {"x": 0.5}}, inputs={"events": 3})
    store.write_manifest(manifest)
    assert store.read_manifest(SEEN_ITEMS.name, "run1") == manifest == store.staged(SEEN_ITEMS.name, "run1")
    assert store.read_manifest(SEEN_ITEMS.name, "none") is None and manifest.rows() == 2


def test_equal_content_has_equal_digests_in_any_warehouse(tmp_path):
    digests = []
    for name, run_key in (("one", "run1"), ("two", "other")):
        store = Store(str(tmp_path / name))
        store.commit(manifest_of(store, run_key, "2022-01-01", "a", "b"))
        digests.append(store.snapshot(SEEN_ITEMS.name).digest())
    assert digests[0] == digests[1]
    store.commit(manifest_of(store, "more", "2022-02-01", "a", "b"))
    assert store.snapshot(SEEN_ITEMS.name).digest() != digests[0], "another partition is other content"
    assert store.snapshot(SEEN_ITEMS.name).where(as_of="2022-01-01").digest() == digests[0]
    store.commit(manifest_of(store, "changed", "2022-01-01", "a", "c"))
    assert store.snapshot(SEEN_ITEMS.name).where(as_of="2022-01-01").digest() != digests[0]


def test_where_takes_values_collections_and_functions(store):
    for month in ("2022-01-01", "2022-02-01", "2022-03-01"):
        store.commit(manifest_of(store, f"run{month[5:7]}", month, month[5:7]))
    assert items_in(store, as_of="2022-02-01") == ["02"]
    assert items_in(store, as_of={"2022-01-01", "2022-03-01"}) == ["01", "03"]
    assert items_in(store, as_of=lambda as_of: as_of > "2022-01-15") == ["02", "03"]
    assert items_in(store, as_of=()) == []


def test_published_at_is_a_partition_value_in_utc(store, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    manifest = stage_day(store, "2022-01-01", [embedding_rows(["u1"])])
    version = store.commit(manifest, {"published_at": "2022-01-02 03:04:05.000006"}, {"audit_digest": "x"})
    snapshot = store.snapshot(USER_EMBEDDINGS.name)
    assert snapshot.files[0].partition == {"as_of": "2022-01-01", "model_id": MODEL, "published_at": "2022-01-02 03:04:05.000006"}
    assert store.commit(manifest, {"published_at": "2022-05-05 00:00:00.000000"}) == version, "a repeat does not change the instant"
    table = DeltaTable(store.table_uri(USER_EMBEDDINGS.name)).to_pyarrow_table()
    assert str(table.column("published_at")[0].as_py()) == "2022-01-02 03:04:05.000006+00:00" and table.num_rows == 1
    assert DeltaTable(store.table_uri(USER_EMBEDDINGS.name)).history(1)[0]["audit_digest"] == "x"


def test_partition_values_with_odd_characters_survive(store):
    file = stage_table(store, SEEN_ITEMS, "run1", {"as_of": "50% ä=b"}, seen("a"))
    store.commit(Manifest(SEEN_ITEMS.name, "run1", (file,), ({"as_of": "50% ä=b"},)))
    assert items_in(store, as_of="50% ä=b") == ["a"]
    assert store.committed(SEEN_ITEMS.name, "run1", ({"as_of": "50% ä=b"},)) is False, "no manifest was written"


def test_a_table_that_cannot_be_read_is_one_sentence(store, tmp_path):
    store.commit(manifest_of(store, "run1", "2022-01-01", "a"))
    log = tmp_path / "warehouse" / "tables" / "seen_items" / "_delta_log"
    for file in log.glob("*.json"):
        file.write_text("{broken")
    with pytest.raises(StoreError, match="Expected a readable table at .*seen_items"):
        store.snapshot(SEEN_ITEMS.name)
    with pytest.raises(StoreError, match="Expected a readable table"):
        publish_day(store, "2022-01-01", ["u1"])  # another table of the same warehouse still works ...
        store.snapshot(SEEN_ITEMS.name)  # ... and this one says what it is


def test_a_version_that_never_was_is_one_sentence(store):
    store.commit(manifest_of(store, "run1", "2022-01-01", "a"))
    with pytest.raises(StoreError, match="Expected a readable table"):
        store.snapshot(SEEN_ITEMS.name, 99)


@pytest.mark.parametrize(("uri", "part"), [("", "got nothing"), ("ftp://host/x", "Unrecognized filesystem type"), ("s3:", "")])
def test_a_warehouse_uri_that_is_none(uri, part):
    if uri == "s3:":  # no scheme separator: a folder of that name, and nothing is touched
        assert Store(uri).root.endswith("/s3:")
        return
    with pytest.raises(StoreError, match=part):
        Store(uri)


def test_a_warehouse_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    store = Store(str(tmp_path / "file" / "warehouse"))
    with pytest.raises(StoreError, match="check space and rights"):
        manifest_of(store, "run1", "2022-01-01", "a")
    with pytest.raises(StoreError, match="check space and rights"):
        store.workspace("model")
    with pytest.raises(StoreError, match="check that the warehouse exists and can be written"):
        store.create(SEEN_ITEMS)


def test_a_store_travels_as_its_uri(store):
    copy = copy_module.copy(store)  # goes through the same __getstate__ and __setstate__ as sending it to an executor
    assert copy == store and hash(copy) == hash(store) and copy.root == store.root
    assert Store(store.uri + "/") == store and Store(store.uri + "2") != store


def test_a_folder_may_be_named_relative_to_home_or_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Store("w").root == f"{tmp_path}/w" and Store("~/w").root == f"{tmp_path}/home/w"


def test_artifacts(store, tmp_path):
    work = store.workspace("space-1")
    np.save(work / "centroids.npy", np.eye(2))
    assert not store.has_artifact("spaces", "space-1") and store.list_artifacts("spaces") == []
    with pytest.raises(StoreError, match="Expected spaces/space-1 .* run the stage that trains it"):
        store.get_artifact("spaces", "space-1")
    (work / "info.json").write_text('{"info": {"space_id": "space-1", "n": 2}}')
    store.put_artifact("spaces", "space-1", work)
    assert store.list_artifacts("spaces") == ["space-1"] and store.artifact_info("spaces", "space-1") == {"space_id": "space-1", "n": 2}
    assert np.load(store.get_artifact("spaces", "space-1") / "centroids.npy").tolist() == [[1, 0], [0, 1]]
    (tmp_path / "warehouse" / "artifacts" / "spaces" / "half").mkdir()
    (tmp_path / "warehouse" / "artifacts" / "spaces" / "half" / "centroids.npy").write_bytes(b"")
    assert store.list_artifacts("spaces") == ["space-1"], "without info.json it is not finished"


def test_file_names_carry_run_and_content():
    file = DataFile("as_of=2022-01-01/run1-0123abcd.parquet", 1, 1, "", {})
    assert (file.run_key, file.digest) == ("run1", "0123abcd")


def test_live_files_know_the_range_of_text_keys(store):
    publish_day(store, "2022-01-01", ["u1", "u2", "u3", "u4"], n_files=2)
    files = live_files(store.load(USER_EMBEDDINGS.name), USER_EMBEDDINGS)
    assert sorted((file.first_key, file.last_key, file.rows) for file in files) == [("u1", "u2", 2), ("u3", "u4", 2)]


@pytest.mark.parametrize("fault", ["fail_after", "done_twice"])
def test_a_commit_whose_answer_was_lost_is_found_and_not_done_again(store, fault):
    """A lost answer looks like a failure, and the client's own second try like a lost race."""
    store.commit(manifest_of(store, "run1", "2022-01-01", "a"))
    faulty = FaultyObjects(store.uri, 2, FAULTS[fault][0])
    assert Store(store.uri, faulty).commit(manifest_of(store, "run2", "2022-01-01", "b")) == 2
    assert faulty.trace == ["sizes", "open_table", "commit", "read_bytes"], "found by a look at the version it would have made"
    assert items_in(store) == ["b"] and store.snapshot(SEEN_ITEMS.name).version == 2


def test_another_writer_behind_a_lost_answer_is_not_undone(store, monkeypatch):
    """Ours landed, its answer was lost, and before we look somebody replaces it: the commit is done, and is not made again over theirs."""
    store.commit(manifest_of(store, "run0", "2022-01-01", "z"))
    ours, theirs = manifest_of(store, "run1", "2022-01-01", "a"), manifest_of(store, "run2", "2022-01-01", "b")

    def overtaken(name, operation, stale):
        operation()
        Store(store.uri).commit(theirs)
        raise OSError("no answer")

    faulty = FaultyObjects(store.uri, 2, overtaken)
    assert Store(store.uri, faulty).commit(ours) == 2 and faulty.trace[2] == "commit"
    assert items_in(store) == ["b"] and store.snapshot(SEEN_ITEMS.name).version == 3


def test_a_commit_that_did_not_land_says_why_in_one_line(store):
    store.commit(manifest_of(store, "run0", "2022-01-01", "z"))

    def no_space(name, operation, stale):
        raise OSError("Generic LocalFileSystem error\n          \x1b[31m↳\x1b[0m Unable to copy\n           \x1b[31m↳\x1b[0m No space left\n")

    with pytest.raises(StoreError) as error:
        Store(store.uri, FaultyObjects(store.uri, 2, no_space)).commit(manifest_of(store, "run1", "2022-01-01", "a"))
    assert str(error.value) == (
        "Could not commit to seen_items (Generic LocalFileSystem error: Unable to copy: No space left); readers keep what they have, check space and "
        "rights, then run again."
    )
    assert items_in(store) == ["z"]


def test_what_cannot_be_read_written_or_listed_is_one_sentence(store, tmp_path):
    for operation in (lambda bad: bad.read_bytes(f"{bad.root}/x"), lambda bad: bad.write_bytes(f"{bad.root}/x", b""), lambda bad: bad.exists("x"),
                      lambda bad: bad.list_files("x"), lambda bad: bad.delete(f"{bad.root}/x"), lambda bad: bad.load("events")):
        with pytest.raises(StoreError, match=r"^[^\n]*the disk said no[^\n]*\.$"):
            operation(Store(store.uri, FaultyObjects(store.uri, 0, FAULTS["fail_before"][0])))


def test_a_released_version_whose_log_is_gone_is_no_empty_table(store):
    publish_day(store, "2022-01-01", ["u1"])
    publish_day(store, "2022-02-01", ["u1"])
    log = store.path("tables", USER_EMBEDDINGS.name, "_delta_log")
    for number in (0, 1):
        os.remove(f"{log}/{number:020}.json")
    with pytest.raises(StoreError, match="Expected a readable table at .*user_embeddings"):
        store.snapshot(USER_EMBEDDINGS.name, 1)
