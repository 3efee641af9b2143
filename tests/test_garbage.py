"""Vacuum: what nothing can need is deleted, what a release, a reader or a run can need never is, whenever it is killed."""

import json
import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest
from faults import FAULTS, Crash, FaultyObjects, Publication, Versions
from published import MODEL, day, rows_of, stage_day

from lurm import publication
from lurm.cli import main
from lurm.errors import AuditError, StoreError
from lurm.garbage import find_garbage, vacuum
from lurm.lease import holding_now, lease
from lurm.manifest import Manifest
from lurm.releases import releases, rollback
from lurm.schema import SEEN_ITEMS, USER_EMBEDDINGS, USER_STATES
from lurm.staging import stage_table
from lurm.store import Store

DAY = 86_400
JANUARY = Publication("2022-01-01", "january0", ("a", "b", "c"))
LATE = Publication("2022-01-01", "january1", ("b", "c", "d"))
FEBRUARY = Publication("2022-02-01", "february", ("a", "b", "c", "d"))


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "warehouse"))


@pytest.fixture
def versions():
    known = Versions()
    known.add(JANUARY, LATE, FEBRUARY)
    return known


def grow_old(store: Store, days: float = 30) -> None:
    """As if all that is there had been written so many days ago."""
    for file in Path(store.root).rglob("*"):
        if file.is_file():
            os.utime(file, (time.time() - days * DAY,) * 2)


def files_of(store: Store) -> set[str]:
    """All files but those of the lease."""
    return {str(file.relative_to(store.root)) for file in Path(store.root).rglob("*") if file.is_file() and "/lease/" not in str(file)}


def kinds(found: list) -> dict[str, int]:
    return {kind: sum(garbage.kind == kind for garbage in found) for kind in {garbage.kind for garbage in found}}


def items_manifest(store: Store, run_key: str, *names: str) -> Manifest:
    rows = [{"item_id": name, "title": name, "item_hash": number, "n_events": 1, "n_users": 1} for number, name in enumerate(names)]
    file = stage_table(store, SEEN_ITEMS, run_key, {"as_of": "2022-01-01"}, pa.Table.from_pylist(rows, SEEN_ITEMS.data_schema))
    manifest = Manifest(SEEN_ITEMS.name, run_key, (file,), ({"as_of": "2022-01-01"},))
    store.write_manifest(manifest)
    return manifest


def test_every_epoch_is_read_and_rolled_back_to_afterwards(store, versions):
    for one in (JANUARY, LATE, FEBRUARY):
        one.publish(store)
    rollback(store)
    stage_day(store, "2022-03-01", [rows_of(["x"])], key="aborted0")
    grow_old(store)
    before = {move["epoch"]: move["run_key"] for move in releases(store)}
    found = vacuum(store, keep_days=0)
    assert kinds(found) == {"user_embeddings": 1, "manifests": 1, "releases": 3}, "the staged file that nobody committed, and old pointers"
    versions.check(store)
    assert {move["epoch"]: move["run_key"] for move in releases(store)} == before
    for epoch, key in before.items():
        rollback(store, epoch)
        assert versions.seen(store.uri) == key
    for one in (JANUARY, LATE, FEBRUARY):  # what was done stays done
        assert store.staged(USER_EMBEDDINGS.name, one.key) is not None
    n_moves = len(releases(store))
    assert FEBRUARY.publish(store)["released"] and len(releases(store)) == n_moves and vacuum(store) == []


def test_what_was_committed_and_never_released_goes_when_it_is_replaced(store, versions):
    JANUARY.stage(store)
    publication.run(day(store, JANUARY.as_of, JANUARY.key, release=False))
    LATE.publish(store)
    grow_old(store)
    assert kinds(vacuum(store, keep_days=0)) == {"user_embeddings": 2, "manifests": 1 + 3}, "with its audit"
    assert versions.seen(store.uri) == "january1" and store.read_manifest(USER_EMBEDDINGS.name, "january0") is None


def test_what_is_young_stays(store):
    """Staged and not committed, or replaced, an hour ago: a run may go on from there, a reader may have pinned it."""
    store.commit(items_manifest(store, "replaced", "a"))
    grow_old(store)
    store.commit(items_manifest(store, "newest", "b"))  # which takes out a file that was written long ago
    stage_day(store, "2022-03-01", [rows_of(["x"])], key="running0")
    work = store.workspace("model-1")
    (work / "step.safetensors").write_bytes(b"1")
    (Path(store.root) / "tables" / "half.parquet.0123.tmp").write_bytes(b"1")
    assert vacuum(store) == []
    grow_old(store, days=6)
    assert vacuum(store) == []
    grow_old(store, days=8)
    found = vacuum(store)
    assert kinds(found) == {"seen_items": 1, "user_embeddings": 1, "manifests": 2, "work": 1, "half-written files": 1}
    assert store.staged(USER_EMBEDDINGS.name, "running0") is None and store.committed(SEEN_ITEMS.name, "newest", ({"as_of": "2022-01-01"},))
    assert find_garbage(store, 0, time.time() + 1) == []


def test_a_blocked_candidate_stays_for_a_week_with_its_audit(store):
    stage_day(store, "2022-01-01", [rows_of(["a", "a"])], key="blocked0")
    with pytest.raises(AuditError):
        publication.run(day(store, "2022-01-01", "blocked0"))
    assert vacuum(store) == [] and store.exists("audits", "blocked0", "index.html")
    grow_old(store)
    vacuum(store)
    assert not store.exists("audits", "blocked0", "index.html") and store.staged(USER_EMBEDDINGS.name, "blocked0") is None


def test_a_run_that_committed_nothing_is_still_done(store):
    empty = Manifest(SEEN_ITEMS.name, "empty", (), ({"as_of": "2022-01-01"},))
    store.write_manifest(empty)
    store.commit(empty)
    store.write_manifest(Manifest(SEEN_ITEMS.name, "never", (), ({"as_of": "2022-02-01"},)))
    grow_old(store)
    assert [Path(garbage.path).name for garbage in vacuum(store)] == ["never.json"]
    assert store.committed(SEEN_ITEMS.name, "empty", empty.replaces)


def test_of_a_cache_what_is_replaced_goes_at_once(store):
    def states(run_key: str, user: str) -> Manifest:
        row = {"user_id": user, "month_state": [1.0], "year_state": [1.0], "n_events": 1, "n_active_months": 1}
        row |= dict.fromkeys(("first_event_at", "last_event_at"))
        partition = {"model_id": MODEL, "until": "2022-01-01", "bucket": "0"}
        file = stage_table(store, USER_STATES, run_key, partition, pa.Table.from_pylist([row], USER_STATES.data_schema))
        return Manifest(USER_STATES.name, run_key, (file,), (partition,))

    store.commit(states("old", "a"))
    store.commit(states("new", "b"))
    states("running", "c")
    assert [Path(garbage.path).name.partition("-")[0] for garbage in vacuum(store)] == ["old"], "but not what a run has just staged"
    assert store.snapshot(USER_STATES.name).run_keys() == {"new"}


def test_artifacts_are_kept_and_halves_of_them_are_not(store, tmp_path):
    (tmp_path / "made").mkdir()
    for name in ("info.json", "weights.safetensors"):
        (tmp_path / "made" / name).write_text("{}")
    store.put_artifact("models", "model-1", tmp_path / "made")
    store.write_bytes(store.path("artifacts", "models", "model-2", "weights.safetensors"), b"no info.json: it was killed")
    assert vacuum(store) == []
    grow_old(store)
    assert kinds(vacuum(store)) == {"artifacts": 1} and store.list_artifacts("models") == ["model-1"]
    assert store.exists("artifacts", "models", "model-1", "weights.safetensors")


def test_a_dry_run_deletes_nothing_and_asks_for_nothing(store):
    JANUARY.publish(store)
    stage_day(store, "2022-03-01", [rows_of(["x"])], key="aborted0")
    grow_old(store)
    before = files_of(store)
    with lease(Store(store.uri), "a run"):
        planned = vacuum(store, dry_run=True)
    assert planned and files_of(store) == before
    assert vacuum(store) == planned
    assert before - files_of(store) == {garbage.path.removeprefix(f"{store.root}/") for garbage in planned}
    assert vacuum(Store(store.uri + "-none"), dry_run=True) == [] and not Path(store.uri + "-none").exists()


def test_it_runs_alone(store):
    JANUARY.publish(store)
    grow_old(store)
    with lease(Store(store.uri), "run of 2022-02-01"):
        with pytest.raises(StoreError, match="Expected to be the only run in .*run of 2022-02-01"):
            vacuum(store)
    vacuum(store)
    assert holding_now(store) is None


def test_a_log_that_cannot_be_read_stops_it_before_anything_is_deleted(store):
    JANUARY.publish(store)
    stage_day(store, "2022-03-01", [rows_of(["x"])], key="aborted0")
    store.commit(items_manifest(store, "one", "a"))
    grow_old(store)
    log = Path(store.root, "tables", SEEN_ITEMS.name, "_delta_log")
    kept = {file: file.read_bytes() for file in log.glob("*.json")}
    for file in kept:
        file.rename(file.with_suffix(".moved"))
    before = files_of(store)
    with pytest.raises(StoreError, match="Expected a readable log of seen_items"):
        vacuum(store, keep_days=0)
    for file in kept:
        file.with_suffix(".moved").rename(file)
    gone = Path(store.root, "tables", USER_EMBEDDINGS.name, "_delta_log", f"{releases(store)[-1]['table_version']:020}.json")
    whole = gone.read_bytes()
    gone.write_text(json.dumps({"broken": 1})[:-1])
    with pytest.raises(StoreError):
        vacuum(store, keep_days=0)
    gone.write_bytes(whole)
    assert {name.replace(".moved", ".json") for name in before} == files_of(store)


@pytest.mark.parametrize("fault", ["die_before", "die_after", "fail_before", "fail_after", "done_twice"])
def test_killed_at_any_deletion_everything_needed_is_there(tmp_path, versions, fault):
    start = Store(str(tmp_path / "start"))
    for one in (JANUARY, LATE, FEBRUARY):
        one.publish(start)
    stage_day(start, "2022-03-01", [rows_of(["x"]), rows_of(["y"])], key="aborted0")
    grow_old(start)

    def copy(name: str, *faults) -> Store:
        shutil.copytree(start.root, tmp_path / name)
        return Store(str(tmp_path / name), FaultyObjects(str(tmp_path / name), *faults))

    calm = copy("calm")
    vacuum(calm, keep_days=0)
    deletions = [number for number, operation in enumerate(calm.objects.trace) if operation == "delete"]
    assert len(deletions) == 5, "two staged files, their manifest, two old pointers"
    for number in deletions:
        store = copy(f"at{number}", number, FAULTS[fault][0])
        try:
            vacuum(store, keep_days=0)
            assert fault == "done_twice"
        except Crash:
            assert fault.startswith("die")
        except StoreError as error:
            assert fault.startswith("fail") and "Could not delete" in str(error) and str(error).endswith("run again.")
        versions.check(Store(store.uri))
        assert versions.seen(store.uri) == "february" and versions.seen(store.uri, "2022-01-01") == "january1"
        vacuum(Store(store.uri), keep_days=0)
        assert files_of(store) == files_of(calm)


def test_the_command_says_what_it_does(store, capsys):
    JANUARY.publish(store)
    stage_day(store, "2022-03-01", [rows_of(["x"])], key="aborted0")
    grow_old(store)
    size = sum(garbage.size for garbage in find_garbage(store, 7, time.time()))
    for extra, first in ((["--dry-run"], "would be deleted"), ([], "deleted")):
        assert main(["vacuum", "--warehouse", store.uri, *extra]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == [*first.split(), "files", "bytes"] and lines[-1].split() == ["all", "2", f"{size:,}"]
        assert [line.split()[:2] for line in lines[1:-1]] == [["user_embeddings", "1"], ["manifests", "1"]]
    assert main(["vacuum", "--warehouse", store.uri]) == 0 and capsys.readouterr().out.splitlines()[-1].split() == ["all", "0", "0"]
    assert main(["vacuum", "--warehouse", store.uri, "--keep-days", "-1"]) == 2
    assert "Expected --keep-days to be a number of at least 0, got -1" in capsys.readouterr().err
