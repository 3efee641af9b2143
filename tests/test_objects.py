"""The object store: whole files or none, commits that come second are refused, and old versions that stay or go as they should."""

import os
import time
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake.exceptions import CommitFailedError, DeltaError
from faults import FAULTS, Crash, FaultyObjects

from lurm.errors import StoreError
from lurm.objects import FAILED, KEPT_FOR_EVER, Objects
from lurm.schema import TABLES, USER_EMBEDDINGS

SCHEMA = pa.schema([("a", pa.string())])
DAYS = 86_400


@pytest.fixture
def objects(tmp_path):
    return Objects(str(tmp_path / "warehouse"))


def test_files_are_written_listed_read_and_deleted(objects):
    folder = f"{objects.root}/folder"
    assert objects.list_files(folder, recursive=True) == [] and objects.sizes([folder]) == [None]
    objects.write_bytes(f"{folder}/b/two", b"22")
    objects.write_bytes(f"{folder}/one", pa.py_buffer(b"1"))
    assert [(entry.path, entry.size) for entry in objects.list_files(folder, recursive=True)] == [(f"{folder}/b/two", 2), (f"{folder}/one", 1)]
    assert [entry.path for entry in objects.list_files(folder)] == [f"{folder}/one"]
    assert abs(objects.list_files(folder)[0].modified - os.stat(f"{folder}/one").st_mtime) < 1e-3
    assert objects.sizes([f"{folder}/one", f"{folder}/none", folder]) == [1, None, 0]
    objects.write_bytes(f"{folder}/one", b"111")
    assert objects.read_bytes(f"{folder}/one") == b"111"
    objects.delete(f"{folder}/one")
    objects.delete(f"{folder}/one")
    assert objects.sizes([f"{folder}/one"]) == [None]
    with pytest.raises(FileNotFoundError):
        objects.read_bytes(f"{folder}/one")


def test_a_write_that_fails_leaves_nothing(objects):
    folder = Path(objects.root) / "there"
    folder.mkdir(parents=True)
    with pytest.raises(OSError):
        objects.write_bytes(str(folder), b"a folder is in the way")
    assert [path.name for path in Path(objects.root).iterdir()] == ["there"]


def commit(objects: Objects, uri: str, keep_log: bool = True, **metadata: str) -> int:
    delta = objects.open_table(uri)
    objects.commit(delta, [], SCHEMA, (), metadata, ("run", delta.version()), keep_log)
    return objects.open_table(uri).version()


def test_a_commit_lands_on_its_own_version_or_not_at_all(objects):
    uri = f"{objects.root}/table"
    assert objects.open_table(uri) is None and objects.open_table(uri, 3) is None
    objects.create_table(uri, SCHEMA)
    objects.create_table(uri, SCHEMA)
    first, second = objects.open_table(uri), objects.open_table(uri)
    assert first.version() == 0
    objects.commit(first, [], SCHEMA, (), {"writer": "first"})
    with pytest.raises(CommitFailedError):
        objects.commit(second, [], SCHEMA, (), {"writer": "second"})
    newest = objects.open_table(uri)
    assert newest.version() == 1 and newest.history(1)[0]["writer"] == "first"
    assert objects.open_table(uri, 0).version() == 0
    with pytest.raises(FAILED):
        objects.open_table(uri, 2)


def grow_old(uri: str) -> None:
    """As if all that was written so far had been written sixty days ago."""
    for file in Path(uri, "_delta_log").iterdir():
        os.utime(file, (time.time() - 60 * DAYS,) * 2)


@pytest.mark.parametrize("keep_log", [True, False])
def test_versions_older_than_a_month_stay_readable_where_the_log_is_kept(objects, keep_log):
    """Delta deletes old logs when it writes a checkpoint; kept is what we ask for, and what we ask for is needed."""
    uri = f"{objects.root}/table"
    objects.create_table(uri, SCHEMA)
    for _ in range(101):
        commit(objects, uri, keep_log)
    grow_old(uri)
    for _ in range(101):
        commit(objects, uri, keep_log)
    checkpoints = [file for file in Path(uri, "_delta_log").iterdir() if ".checkpoint" in file.name]
    assert len(checkpoints) == 2, "or opening would read every commit since the first"
    assert objects.open_table(uri).version() == 202
    if keep_log:
        assert objects.open_table(uri, 5).transaction_version("run") == 4 and objects.open_table(uri, 150).version() == 150
    else:
        with pytest.raises(DeltaError):  # an error, not an empty table
            objects.open_table(uri, 5)


def test_releases_can_name_versions_of_what_is_kept_only():
    assert KEPT_FOR_EVER == (USER_EMBEDDINGS.name,) and set(KEPT_FOR_EVER) <= set(TABLES)


def test_a_warehouse_is_somewhere():
    with pytest.raises(StoreError, match="got nothing"):
        Objects("")
    with pytest.raises(StoreError, match="Unrecognized filesystem"):
        Objects("ftp://host/x")


@pytest.mark.parametrize(("name", "there"), [("die_before", None), ("die_after", 1), ("fail_before", None), ("fail_after", 1), ("done_twice", 1)])
def test_a_faulty_store_fails_where_it_is_told_to(tmp_path, name, there):
    path, faulty = f"{tmp_path}/file", FaultyObjects(str(tmp_path), 1, FAULTS[name][0])
    assert faulty.sizes([path]) == [None]
    with nullcontext() if name == "done_twice" else pytest.raises((Crash, OSError)):
        faulty.write_bytes(path, b"x")
    assert faulty.sizes([path]) == [there] and faulty.trace == ["sizes", "write_bytes", "sizes"]


def test_an_old_answer_is_what_was_there_before(tmp_path):
    uri, stale = f"{tmp_path}/table", FAULTS["old_answer"][0]
    Objects(str(tmp_path)).create_table(uri, SCHEMA)
    assert FaultyObjects(str(tmp_path), 0, stale).open_table(uri) is None
    commit(Objects(str(tmp_path)), uri)
    assert FaultyObjects(str(tmp_path), 0, stale).open_table(uri).version() == 0
    assert FaultyObjects(str(tmp_path), 0, stale).open_table(uri, 1).version() == 1, "by its number there is only one"
    assert FaultyObjects(str(tmp_path), 0, stale).list_files(uri, recursive=True) == []
