"""The contract: versions stand in the tables, newer major ones are refused, and what an old lurm wrote is read and written on."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from faults import FaultyObjects, die_after, fail_after, fail_before
from published import publish_day, vector

from lurm import contract, open_table
from lurm.contract import PROMISED, PROPERTY, check_version, is_older, marks, parse_version
from lurm.errors import StoreError
from lurm.releases import releases, rollback
from lurm.schema import RELEASES, SCHEMA_VERSION, TABLES, USER_EMBEDDINGS
from lurm.store import Store

OLD = Path(__file__).parent / "data" / "old_warehouse"
# What the old warehouse must give, written down: u1 at both of its dates.
U1 = {
    "2021-12-01": [0.3418635129928589, 0.36982518434524536, -0.3604311943054199, 0.5422585010528564, -0.6077767014503479, -0.6161227226257324],
    "2022-01-01": [-1.4945580959320068, 0.06866534799337387, 1.9797158241271973, -0.6829743981361389, 0.6600964069366455, 1.0726169347763062],
}


@pytest.fixture
def old(tmp_path) -> Store:
    """A copy of the old warehouse, to write to."""
    shutil.copytree(OLD, tmp_path / "old")
    return Store(str(tmp_path / "old"))


def properties(store: Store, name: str) -> dict[str, str]:
    return store.load(name).metadata().configuration


def mark(store: Store, name: str, version: str, *fields: pa.Field) -> None:
    """Make a table say that a lurm of this version wrote it."""
    schema = TABLES[name].schema
    for field in fields:
        schema = schema.append(field)
    store.objects.describe(store.load(name), schema, {PROPERTY: version})


def test_versions():
    assert parse_version("1") == parse_version("1.0") == (1, 0) and parse_version("2.13") == (2, 13)
    assert set(PROMISED) == {"user_embeddings", "releases"} and marks("bags") == {} and marks("releases") == {PROPERTY: SCHEMA_VERSION}
    assert not is_older("bags", {}) and not is_older("releases", {PROPERTY: SCHEMA_VERSION})
    check_version("here", {}), check_version("here", {PROPERTY: "1.99"})
    for version in ("2.0", "17", "new"):
        with pytest.raises(StoreError, match=f"Expected a table of schema version 1.x at here, it is of version {version}, .*; upgrade lurm"):
            check_version("here", {PROPERTY: version})


def test_an_older_table_is_known_by_its_number(monkeypatch):
    monkeypatch.setattr(contract, "SCHEMA_VERSION", "1.10")
    assert is_older("releases", {}) and is_older("releases", {PROPERTY: "1.9"}) and not is_older("releases", {PROPERTY: "1.10"})
    assert not is_older("releases", {PROPERTY: "1.11"}), "numbers, not text"


def test_what_is_promised_is_described():
    for name in PROMISED:
        table = TABLES[name]
        assert list(table.columns) == table.schema.names, "every column has a text, in the order of the table"
        for column in table.columns.values():
            assert column.meaning and not column.meaning.endswith(".") and parse_version(column.since) <= parse_version(SCHEMA_VERSION)


def test_a_new_table_says_its_version(tmp_path):
    store = Store(str(tmp_path / "w"))
    publish_day(store, "2022-01-01", ["a"])
    for name in PROMISED:
        assert properties(store, name)[PROPERTY] == SCHEMA_VERSION
    assert properties(store, "user_embeddings")["delta.enableExpiredLogCleanup"] == "false"


@pytest.mark.parametrize("name", PROMISED)
def test_a_newer_major_version_is_refused_by_readers_and_writers(tmp_path, name):
    store = Store(str(tmp_path / "w"))
    publish_day(store, "2022-01-01", ["a"])
    pinned = open_table(store.uri)
    mark(store, name, "2.0")
    version = 1 if name == "releases" else 2
    with pytest.raises(StoreError, match=f"Expected a table of schema version 1.x at .*/{name}, it is of version 2.0") as error:
        open_table(store.uri) if name == "releases" else store.snapshot(name, version)
    assert name == "releases" or open_table(store.uri).version == 1, "the version that the release pins was there before the mark"
    assert str(error.value).count(". ") == 0 and "\n" not in str(error.value), "one sentence"
    with pytest.raises(StoreError, match="it is of version 2.0"):
        publish_day(store, "2022-02-01", ["a", "b"])
    assert np.array_equal(pinned.vectors(["a"])[0], vector("a", "2022-01-01")), "what was open stays open"
    assert store.objects.open_table(store.table_uri(name)).version() == 2, "nothing was committed"


def test_a_newer_minor_version_changes_nothing_for_readers(tmp_path):
    store = Store(str(tmp_path / "w"))
    publish_day(store, "2022-01-01", ["a", "b"])
    mark(store, "user_embeddings", "1.99", pa.field("mood", pa.float32()))
    mark(store, "releases", "1.99", pa.field("weather", pa.string()))
    publish_day(store, "2022-02-01", ["a", "b"])
    for as_of in ("2022-01-01", "2022-02-01"):
        assert np.array_equal(open_table(store.uri, as_of).vectors(["b"])[0], vector("b", as_of))
    assert properties(store, "releases")[PROPERTY] == "1.99", "an older writer does not take the mark back"


# ---- what an old lurm wrote ------------------------------------------------------------------------------------------------------


def test_the_old_table_reads():
    before = {file: file.read_bytes() for file in OLD.rglob("*") if file.is_file()}
    now = open_table(str(OLD))
    assert (now.as_of, now.n_users, now.n_anchors, now.dim, now.epoch, now.version, now.trained_as_of) == ("2022-01-01", 5, 2, 3, 2, 2, None)
    assert now.vectors(["u1"])[0].tolist() == U1["2022-01-01"]
    first = open_table(str(OLD), as_of="2021-12-31")
    assert first.as_of == "2021-12-01" and first.vectors(["u1"])[0].tolist() == U1["2021-12-01"]
    assert [user for batch in first.scan(["user_id"]) for user in batch.column(0).to_pylist()] == ["a b", "u1", "u2", "ä"]
    vectors, known = first.vectors(["u3", "ä"], absent="mask")
    assert known.tolist() == [False, True] and np.isfinite(vectors).all()
    rows = [row for batch in now.scan() for row in batch.to_pylist()]
    assert len(rows) == 5 and {row["n_events"] for row in rows} == {3} and {row["n_active_months"] for row in rows} == {2}
    assert {file: file.read_bytes() for file in OLD.rglob("*") if file.is_file()} == before, "reading writes nothing"


def test_a_column_that_came_later_is_null_in_the_old_table(monkeypatch):
    newer = replace(USER_EMBEDDINGS, schema=USER_EMBEDDINGS.schema.insert(6, pa.field("mood", pa.float32())))
    monkeypatch.setattr("lurm.embedding_table.USER_EMBEDDINGS", newer)
    table = open_table(str(OLD))
    rows = [row for batch in table.scan() for row in batch.to_pylist()]
    assert len(rows) == 5 and {row["mood"] for row in rows} == {None} and {row["n_events"] for row in rows} == {3}
    assert [batch.schema.names for batch in table.scan(["mood", "user_id"])][0] == ["mood", "user_id"]


@pytest.mark.parametrize("table", [USER_EMBEDDINGS, RELEASES], ids=lambda table: table.name)
def test_columns_of_the_old_table_are_still_there(table):
    """The promise itself: a minor version only adds, so all that was there has its name, its type and its place."""
    was = pa.schema(Store(str(OLD)).load(table.name).schema().to_arrow())
    now = table.schema.names
    assert [name for name in now if table.columns[name].since == "1.0"] == was.names == now[: len(was)]
    for field in was:
        kind, new = field.type, table.schema.field(field.name).type
        assert (kind == new) or (pa.types.is_list(new) and kind.value_type == new.value_type), field.name
    assert tuple(Store(str(OLD)).load(table.name).metadata().partition_columns) == table.partition_by


def test_the_old_table_is_written_on(old):
    publish_day(old, "2022-02-01", ["u1", "new"])
    assert open_table(old.uri).n_users == 2 and open_table(old.uri, "2022-01-31").vectors(["u1"])[0].tolist() == U1["2022-01-01"]
    rollback(old)
    assert [row["epoch"] for row in releases(old)] == [1, 2, 3, 4] and open_table(old.uri).vectors(["u1"])[0].tolist() == U1["2022-01-01"]


def test_a_new_minor_version_is_marked_before_the_first_commit(old, monkeypatch):
    monkeypatch.setattr(contract, "SCHEMA_VERSION", "1.7")
    publish_day(old, "2022-02-01", ["u1"])
    publish_day(old, "2022-03-01", ["u1"])
    for name in PROMISED:
        assert properties(old, name)[PROPERTY] == "1.7"
    assert properties(old, "user_embeddings")["delta.enableExpiredLogCleanup"] == "false", "other properties stay"
    assert old.load("user_embeddings").version() == 5, "two commits of data, and one mark"
    assert old.load("user_embeddings", 2).metadata().configuration.get(PROPERTY) is None, "a pinned version stays what it was"
    assert open_table(old.uri, "2022-01-31").vectors(["u1"])[0].tolist() == U1["2022-01-01"]


def test_the_mark_brings_the_columns_that_are_missing(old):
    mark(old, "user_embeddings", "1.7", pa.field("mood", pa.float32()))
    assert old.load("user_embeddings").schema().to_arrow().names[-1] == "mood"
    assert open_table(old.uri).vectors(["u1"])[0].tolist() == U1["2022-01-01"]


@pytest.mark.parametrize(("fault", "marked"), [(fail_before, False), (fail_after, True), (die_after, True)])
def test_a_mark_that_fails_is_seen_for_what_it_did(old, monkeypatch, fault, marked):
    monkeypatch.setattr(contract, "SCHEMA_VERSION", "1.7")
    counting = FaultyObjects(old.uri)
    assert Store(old.uri, counting).load(RELEASES.name) is not None
    store = Store(old.uri, FaultyObjects(old.uri, at=len(counting.trace), fault=fault))
    if fault is fail_after:
        assert store.writable(RELEASES).metadata().configuration[PROPERTY] == "1.7"
    else:
        with pytest.raises(BaseException) as error:
            store.writable(RELEASES)
        assert fault is die_after or "Could not bring releases in" in str(error.value)
    assert store.objects.trace[:2] == ["open_table", "describe"] and (PROPERTY in properties(old, RELEASES.name)) == marked
    assert old.writable(RELEASES).metadata().configuration[PROPERTY] == "1.7", "the next one does it, or finds it done"


def test_the_old_table_joins():
    """Point in time: u1 and u3 on days before, between and after the two releases."""
    days = [datetime(*day, tzinfo=UTC) for day in ((2021, 11, 30), (2021, 12, 31), (2022, 1, 1), (2022, 5, 1))]
    labels = pa.table({"user_id": ["u1", "u1", "u1", "u3"], "time": days, "bought": [0, 1, 0, 1]})
    rows = open_table(str(OLD)).join(labels).to_pylist()
    assert [row["as_of"] for row in rows] == [None, "2021-12-01", "2022-01-01", "2022-01-01"] and [row["bought"] for row in rows] == [0, 1, 0, 1]
    assert rows[0]["embedding"] is None and [rows[1]["embedding"], rows[2]["embedding"]] == list(U1.values())
