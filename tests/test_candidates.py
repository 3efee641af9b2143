"""Candidates: what is committed and was never released is seen by who asks for it, and by nobody else until it is released."""

import json

import numpy as np
import pytest
from published import MODEL, day, publish_day, rows_of, stage_day, vector

from lurm import open_table, publication
from lurm.candidates import candidates, find_candidate, open_candidate, release_candidate
from lurm.cli import main
from lurm.errors import AuditError, MissingInputError
from lurm.releases import releases, rollback
from lurm.store import Store

NEW = "model-new"


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "warehouse"))


def propose(store: Store, as_of: str, users: list[str], key: str, model_id: str = NEW) -> dict:
    """Commit a table without releasing it."""
    stage_day(store, as_of, [rows_of(users, as_of)], key, model_id)
    return publication.run(day(store, as_of, key, release=False))


def test_a_candidate_is_listed_read_and_seen_by_nobody_else(store):
    assert candidates(store) == []
    publish_day(store, "2022-01-01", ["a", "b"])
    propose(store, "2022-01-01", ["a", "b", "c"], "1" * 16)
    (row,) = candidates(store)
    assert {name: row[name] for name in ("as_of", "model_id", "n_users", "table_version", "epoch", "current", "run_key", "aligned_to")} == {
        "as_of": "2022-01-01", "model_id": NEW, "n_users": 3, "table_version": 2, "epoch": 0, "current": False, "run_key": "1" * 16,
        "aligned_to": None,
    }
    assert row["committed_at"] >= releases(store)[0]["released_at"]
    table = open_candidate(store.uri)
    assert (table.model_id, table.n_users, table.epoch) == (NEW, 3, 0) and np.array_equal(table.vectors(["c"])[0], vector("c", "2022-01-01"))
    assert open_table(store.uri).model_id == MODEL and len(releases(store)) == 1
    with pytest.raises(MissingInputError):
        open_table(store.uri, model=NEW)


def test_what_was_ever_released_is_no_candidate(store):
    publish_day(store, "2022-01-01", ["a"])
    publish_day(store, "2022-01-01", ["a", "b"], model_id=NEW)
    rollback(store)
    assert candidates(store) == [] and open_table(store.uri).model_id == MODEL


def test_a_candidate_made_again_takes_the_place_of_the_first(store):
    propose(store, "2022-01-01", ["a"], "1" * 16)
    propose(store, "2022-01-01", ["a", "b"], "2" * 16)
    assert [row["run_key"] for row in candidates(store)] == ["2" * 16] and open_candidate(store.uri).n_users == 2


def test_the_right_one_is_found_or_it_is_said_which_there_are(store):
    with pytest.raises(MissingInputError, match="Expected a candidate in .*, found: none; name one of them, or make one with publish.release=false"):
        find_candidate(store)
    for as_of, model_id, key in (("2022-01-01", NEW, "1"), ("2022-01-02", NEW, "2"), ("2022-01-02", "model-other", "3")):
        propose(store, as_of, ["a"], key * 16, model_id)
    assert find_candidate(store, NEW)["as_of"] == "2022-01-02" and find_candidate(store, as_of="2022-01-01")["model_id"] == NEW
    with pytest.raises(MissingInputError, match="found: model-new at 2022-01-02, model-other at 2022-01-02"):
        find_candidate(store)
    with pytest.raises(MissingInputError, match="Expected a candidate of model-other at 2022-01-01 .*model-new at 2022-01-01"):
        find_candidate(store, "model-other", "2022-01-01")


def test_releasing_a_candidate_is_what_publish_would_have_done(store):
    publish_day(store, "2022-01-01", ["a", "b"])
    propose(store, "2022-01-01", ["a", "b", "c"], "1" * 16)
    version = store.snapshot("user_embeddings").version
    move = release_candidate(store)
    assert move["epoch"] == 2 and move["current"] and move["reason"] == "publish" and move["audit_digest"] and candidates(store) == []
    assert open_table(store.uri).n_users == 3 and store.snapshot("user_embeddings").version == version, "no data is touched"
    assert publication.run(day(store, "2022-01-01", "1" * 16))["epoch"] == 2, "publishing it again is no other release"
    assert rollback(store)["model_id"] == MODEL and open_table(store.uri).n_users == 2


def test_a_candidate_of_an_older_date_becomes_history(store):
    publish_day(store, "2022-02-01", ["a"])
    propose(store, "2022-01-01", ["a", "b"], "1" * 16)
    assert release_candidate(store)["current"] is False
    assert open_table(store.uri).as_of == "2022-02-01" and open_table(store.uri, "2022-01-15").n_users == 2


def test_a_candidate_that_the_gate_blocked_since_stays_one(store):
    propose(store, "2022-01-01", ["a"], "1" * 16)
    path = store.path("audits", "1" * 16, "report.json")
    report = json.loads(store.read_bytes(path))
    finding = {"name": "lost_users", "severity": "block", "value": 0.5, "lowest": 0, "highest": 0.2, "meaning": "", "contract": False}
    store.write_bytes(path, json.dumps({**report, "findings": [finding]}).encode())
    with pytest.raises(AuditError, match=r"the gate has blocked it since \(lost_users\); publish it again with `lurm publish`"):
        release_candidate(store)
    store.write_bytes(path, json.dumps({**report, "findings": [finding], "forced": "a shop was sold"}).encode())
    assert release_candidate(store)["reason"] == "publish, forced: a shop was sold"
    propose(store, "2022-01-02", ["a"], "2" * 16)
    store.delete(store.path("audits", "2" * 16, "report.json"))
    with pytest.raises(AuditError, match="nobody has kept its audit"):
        release_candidate(store)


def test_the_commands(store, capsys):
    publish_day(store, "2022-01-01", ["a", "b"])
    propose(store, "2022-01-01", ["a", "b", "c"], "1" * 16)
    assert main(["releases", "--warehouse", store.uri]) == 0
    moved, waiting = capsys.readouterr().out.splitlines()
    assert moved.startswith("release 1") and waiting.startswith(f"candidate         2022-01-01  {NEW}  3 users  table version 2  committed 20")
    assert main(["release", "--warehouse", store.uri, "--candidate", NEW, "--as-of", "2022-01-01"]) == 0
    assert capsys.readouterr().out.startswith("release 2") and open_table(store.uri).model_id == NEW
    assert main(["release", "--warehouse", store.uri]) == 2
    assert capsys.readouterr().err.startswith("lurm: Expected a candidate in")
