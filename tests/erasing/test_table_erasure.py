"""One table without some persons: what is live changes in one commit, what is old stays readable, what is staged goes."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from erasable import ANNA, ERIKA, MAX, bag_partition, bags_of, commit, events_of, places_of
from published import rows_of, stage_day

from lurm.erasing.persons import Persons
from lurm.erasing.table_erasure import empty_table, erase_from_table
from lurm.erasing.traces import data_files, holding
from lurm.errors import StoreError
from lurm.lease import lease
from lurm.schema import BAGS, EVENTS, SEEN_ITEMS, USER_EMBEDDINGS, USER_STATES
from lurm.store import Store

PERSONS = Persons(frozenset([ERIKA]))
MONTH = bag_partition("month", "2022-01", "2022-02-01")


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "warehouse"))


def erase_here(store: Store, table, persons: Persons = PERSONS) -> dict:
    with lease(store, "test") as held:
        return erase_from_table(store, table, holding(store, table, persons), persons, "e1", held)


def test_live_files_change_places_in_one_commit(store):
    for number, month in enumerate(("2022-01", "2022-02", "2022-03")):
        commit(store, EVENTS, f"{number}" * 16, {"month": month}, events_of([ERIKA, MAX] if number < 2 else [ANNA]))
    before = store.snapshot(EVENTS.name)
    figures = erase_here(store, EVENTS)
    after = store.snapshot(EVENTS.name)
    assert (figures["version_before"], figures["version_after"], after.version) == (3, 4, 4)
    assert (figures["rows_removed"], figures["files_written_again"], figures["files_deleted"]) == (2, 2, 2)
    assert after.rows() == 3 and after.run_keys() == before.run_keys() and after.values("month") == before.values("month")
    assert {file.path for file in before.files} & {file.path for file in after.files} == {before.where(month="2022-03").files[0].path}
    assert store.load(EVENTS.name).history(1)[0]["erasure"] == "e1" and store.last_run_key(EVENTS.name) == "2" * 16
    assert figures["bytes_before"] > 0 and figures["bytes_after"] == sum(file.size for file in after.files if file.partition["month"] != "2022-03")
    assert len(data_files(store, EVENTS.name)) == 3


def test_old_versions_alone_need_no_commit(store):
    commit(store, BAGS, "a" * 16, MONTH, bags_of([ERIKA, MAX]))
    commit(store, BAGS, "b" * 16, MONTH, bags_of([ANNA, MAX]))
    figures = erase_here(store, BAGS)
    assert figures["version_before"] == figures["version_after"] == 2 and figures["log_files_changed"] == 2
    assert store.snapshot(BAGS.name, 1).rows() == 1 and store.snapshot(BAGS.name, 2).rows() == 2


def test_what_was_staged_goes_as_a_whole(store):
    commit(store, USER_EMBEDDINGS, "a" * 16, {"as_of": "2022-01-01", "model_id": "m"}, rows_of([MAX]))
    stage_day(store, "2022-02-01", [rows_of([ANNA]), rows_of([ERIKA])], "staged00")
    stage_day(store, "2022-02-01", [rows_of([ANNA, MAX])], "staged01")
    store.write_bytes(store.path("tables", USER_EMBEDDINGS.name, "orphan-0.parquet"), pa_bytes(rows_of([ERIKA])))
    figures = erase_here(store, USER_EMBEDDINGS)
    assert figures["files_deleted"] == 3 and figures["files_written_again"] == 0 and figures["version_after"] == 1
    assert store.staged(USER_EMBEDDINGS.name, "staged00") is None and store.staged(USER_EMBEDDINGS.name, "staged01") is not None
    assert store.snapshot(USER_EMBEDDINGS.name).rows() == 1 and len(data_files(store, USER_EMBEDDINGS.name)) == 2


def pa_bytes(rows: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    return sink.getvalue()


def test_a_staged_run_without_a_table(store):
    stage_day(store, "2022-02-01", [rows_of([ERIKA])], "staged00")
    assert erase_here(store, USER_EMBEDDINGS)["files_deleted"] == 1 and data_files(store, USER_EMBEDDINGS.name) == []
    assert erase_here(store, USER_STATES) == {}, "a table that is not there"


def test_emptying_a_table(store):
    seen = pa.table({"item_id": ["a"], "title": ["x"], "item_hash": [1], "n_events": [2], "n_users": [1]})
    for key in ("p", "r"):
        commit(store, SEEN_ITEMS, key * 16, {"as_of": "2022-02-01"}, seen)
    with lease(store, "test") as held:
        figures = empty_table(store, SEEN_ITEMS, "e1", held)
        assert (figures["rows_removed"], figures["files_deleted"], figures["version_after"]) == (1, 2, 3), "what was replaced goes too"
        assert empty_table(store, SEEN_ITEMS, "e1", held) == {}
    assert store.snapshot(SEEN_ITEMS.name).files == () and not store.committed(SEEN_ITEMS.name, "r" * 16, ({"as_of": "2022-02-01"},))


@pytest.mark.parametrize("seed", range(8))
def test_any_history_reads_as_before_without_them(tmp_path, seed):
    """Months replaced at random, checkpoints in between, two erasures: every version has the rows it had, but for the persons."""
    draw, store, users = np.random.default_rng(seed), Store(str(tmp_path)), [ANNA, ERIKA, MAX, "x-0000001", "y-0000001"]

    def rows_at(version: int) -> list[str]:
        snapshot = store.snapshot(BAGS.name, version)
        return sorted(str([row, file.partition["period"]]) for file, uri in zip(snapshot.files, snapshot.uris(), strict=True)
                      for row in pq.read_table(uri, partitioning=None).to_pylist())

    def write(number: int) -> None:
        month = draw.choice(["2022-01", "2022-02", "2022-03"])
        chosen = [user for user in users if draw.random() < 0.5]
        commit(store, BAGS, f"{number:016d}", bag_partition("month", month, "2022-04-01"), bags_of(chosen, int(draw.integers(1, 9))))
        if draw.random() < 0.3:
            store.load(BAGS.name).create_checkpoint()

    for number in range(8):
        write(number)
    before = {version: rows_at(version) for version in range(store.snapshot(BAGS.name).version + 1)}
    for gone in (ERIKA, ANNA):
        erase_here(store, BAGS, Persons(frozenset([gone])))
        before = {version: [row for row in rows if gone not in row] for version, rows in before.items()}
        assert {version: rows_at(version) for version in before} == before and places_of(tmp_path, gone) == set()
        newest = store.snapshot(BAGS.name).version
        assert rows_at(newest) == before[max(before)]
        store.load(BAGS.name).create_checkpoint()
        assert rows_at(newest) == before[max(before)], "and from a new checkpoint"
        users.remove(gone)
        write(100 + newest)
        before |= {version: rows_at(version) for version in range(max(before) + 1, store.snapshot(BAGS.name).version + 1)}


def test_another_writer_is_a_sentence(store, monkeypatch):
    commit(store, EVENTS, "a" * 16, {"month": "2022-01"}, events_of([ERIKA, MAX]))
    monkeypatch.setattr(store, "commit_on", lambda *arguments: None)
    found = holding(store, EVENTS, PERSONS)

    class Held:
        def check(self) -> None: ...

    with pytest.raises(StoreError, match="another one was faster; run the same command again"):
        erase_from_table(store, EVENTS, found, PERSONS, "e1", Held())
    monkeypatch.undo()
    assert erase_here(store, EVENTS)["rows_removed"] == 1
