"""Run records: seen while they run, closed however they end, without secrets, and cheap to look back at."""

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest

from lurm import runs
from lurm.config import load_config
from lurm.errors import MissingInputError, StoreError
from lurm.runs import (
    DIED,
    DONE,
    FAILED,
    INTERRUPTED,
    RUNNING,
    commit,
    cost,
    last_runs,
    median_seconds,
    new_record,
    read_run,
    recorded,
    rows_of,
    run_ids,
    settings_to_show,
    skipped,
    status_of,
    versions,
)
from lurm.store import Store

SLEEPER = """
import sys, time
from lurm.config import load_config
from lurm.runs import new_record, recorded
from lurm.store import Store

store = Store(sys.argv[1])
with recorded(store, new_record(store, "run", load_config(), "0.0")):
    print("on", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "warehouse"))


def begin(store: Store, **more) -> dict:
    return {**new_record(store, "run", load_config(), "0.0", "2022-01-01", "model-1"), **more}


def now() -> datetime:
    return datetime.now(UTC)


def test_a_run_is_seen_from_its_start_to_its_end(store):
    with recorded(store, begin(store)) as recorder:
        seen = read_run(store, recorder.run_id)
        assert seen["status"] == RUNNING and seen["stages"] == {} and seen["heartbeat_at"] and status_of(seen, now()) == RUNNING
        recorder.stage_done("ingest", {"seconds": 1.0})
        recorder.stage_done("publish", {"seconds": 2.0})
        assert list(read_run(store, recorder.run_id)["stages"]) == ["ingest", "publish"]
    seen = read_run(store, recorder.run_id)
    assert seen["status"] == DONE and seen["ended_at"] >= seen["started_at"] and seen["error"] == ""
    assert (seen["as_of"], seen["model_id"], seen["command"], seen["code_version"]) == ("2022-01-01", "model-1", "run", "0.0")
    assert seen["settings"]["smen"]["max_steps"] == 600 and seen["pid"] == os.getpid()


@pytest.mark.parametrize(("raised", "status", "sentence"), [
    (StoreError("Expected s3://key:secret@bucket, got nothing; mend it."), FAILED, "Expected s3://***@bucket, got nothing; mend it."),
    (ZeroDivisionError("by nothing"), FAILED, "ZeroDivisionError: by nothing"), (KeyboardInterrupt(), INTERRUPTED, ""),
])
def test_a_run_that_fails_says_how_and_the_error_passes(store, raised, status, sentence):
    with pytest.raises(type(raised)), recorded(store, begin(store)) as recorder:
        raise raised
    seen = read_run(store, recorder.run_id)
    assert (seen["status"], seen["error"]) == (status, sentence) and seen["ended_at"]


def test_the_first_error_is_told_where_the_record_cannot_be_closed(store, caplog):
    with pytest.raises(MissingInputError), recorded(store, begin(store)) as recorder:
        os.remove(store.path("runs", f"{recorder.run_id}.json"))
        os.rmdir(store.path("runs"))
        (open(store.path("runs"), "w")).close()  # a file where the folder was
        raise MissingInputError("Expected this.")
    assert "could not be written" in caplog.text


def test_a_heartbeat_is_written_while_nothing_else_is(store, monkeypatch):
    monkeypatch.setattr(runs, "HEARTBEAT_SECONDS", 0.01)
    written, seen = [], threading.Event()
    write = Store.write_bytes

    def count(self, path, data):
        write(self, path, data)
        written.append(path)
        if len(written) > 3:
            seen.set()

    monkeypatch.setattr(Store, "write_bytes", count)
    with recorded(store, begin(store)) as recorder:
        assert seen.wait(20)
        assert read_run(store, recorder.run_id)["status"] == RUNNING
    assert read_run(store, recorder.run_id)["status"] == DONE, "no beat after the end says running again"


def test_a_killed_run_is_shown_as_died(store):
    process = subprocess.Popen([sys.executable, "-c", SLEEPER, store.uri], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "on\n"
    (record,) = last_runs(store, 5)
    assert status_of(record, now()) == RUNNING and record["pid"] == process.pid
    process.send_signal(signal.SIGKILL)
    process.wait()
    (record,) = last_runs(store, 5)
    assert record["status"] == RUNNING and status_of(record, now()) == DIED


def test_a_run_elsewhere_has_died_when_it_is_silent_for_too_long():
    at = datetime(2022, 1, 1, tzinfo=UTC)
    there = {"status": RUNNING, "host": "elsewhere", "pid": 2**22 + 1, "heartbeat_at": at.isoformat()}
    assert status_of(there, at + timedelta(minutes=4)) == RUNNING and status_of(there, at + timedelta(minutes=6)) == DIED
    assert status_of({**there, "status": FAILED}, at + timedelta(days=9)) == FAILED


def test_the_newest_runs_are_found_without_reading_the_others(store, monkeypatch):
    for number in range(30):
        record = begin(store, run_id=f"20220101T0000{number:02d}-aaaaaa")
        store.write_bytes(store.path("runs", f"{record['run_id']}.json"), json.dumps(record).encode())
    read = []
    read_bytes = Store.read_bytes
    monkeypatch.setattr(Store, "read_bytes", lambda self, path: read.append(path) or read_bytes(self, path))
    assert [record["run_id"][13:15] for record in last_runs(store, 3)] == ["27", "28", "29"] and len(read) == 3
    assert last_runs(store, 0) == [] and len(run_ids(store)) == 30


def test_ids_sort_by_time_and_never_meet(store):
    first = [begin(store)["run_id"] for _ in range(50)]
    assert len(set(first)) == 50 and all(len(run_id) == 25 and run_id[8] == "T" for run_id in first)


@pytest.mark.parametrize("run_id", ["20220101T000000-nobody", "", "../tables/x", "a/b"])
def test_a_run_that_is_not_there(store, run_id):
    with pytest.raises(MissingInputError, match="its last runs are: none; `lurm runs` shows them"):
        read_run(store, run_id)


def test_a_record_that_is_no_json(store):
    store.write_bytes(store.path("runs", "20220101T000000-broken.json"), b"{")
    with pytest.raises(StoreError, match="Expected JSON in runs/20220101T000000-broken.json"):
        last_runs(store, 1)


def test_no_credential_is_kept():
    config = load_config(None, ["spark.conf=fs.s3a.secret.key:S3CR3T,fs.s3a.access.key:AKIA1,spark.executor.memory:4g,my.options:-Dpassword=hunter2",
                                "events.path=s3://ann:hunter2@bucket/log", "encoder.tokenizer=subwords"])
    shown = json.dumps(settings_to_show(config))
    assert not any(word in shown for word in ("S3CR3T", "AKIA1", "hunter2", "ann:"))
    assert settings_to_show(config)["spark"]["conf"]["spark.executor.memory"] == "4g"
    assert settings_to_show(config)["encoder"]["tokenizer"] == "subwords" and "@bucket/log" in shown


def test_versions_are_those_of_the_tables_that_exist(store):
    from published import publish_day

    assert versions(store) == {}
    publish_day(store, "2022-01-01", ["a"])
    assert versions(store, ("user_embeddings", "releases", "the log")) == {"user_embeddings": 1, "releases": 1}


def test_the_commit_is_named_by_the_image_or_by_git(monkeypatch):
    commit.cache_clear()
    monkeypatch.setenv("LURM_COMMIT", "cafe0123")
    assert commit() == "cafe0123"
    commit.cache_clear()
    monkeypatch.delenv("LURM_COMMIT")
    by_git = commit()
    assert by_git is None or len(by_git.removesuffix("-dirty")) == 12
    commit.cache_clear()


def test_rows_of_what_stages_report():
    assert rows_of({"events": {"read": 9, "kept": 7}, "items": {"kept": 3}}) == 10
    assert rows_of({"events": {"skipped": "nothing new"}, "items": {"kept": 3}}) == 3
    assert rows_of({"users": 5, "n_anchors": 3}) == 5 and rows_of({"skipped": "x"}) is None


def test_a_stage_is_skipped_when_all_of_its_parts_are():
    assert skipped({"skipped": "x", "seconds": 1}) and skipped({"months": {"skipped": "x"}, "years": {"skipped": "x"}})
    assert not skipped({"months": {"skipped": "x"}, "years": {"periods": 1, "rows": 4}}) and not skipped({"users": 3, "seconds": 1.0})


def test_what_a_million_users_cost_by_hand():
    stages = {"build-bags": {"seconds": 10.0}, "embed-users": {"seconds": 26.0, "users": 2_000}, "publish": {"seconds": 0.0, "users": 1_000}}
    spent = cost(stages, cores=4, price_per_core_hour=0.5)
    assert spent["core_hours"] == 0.04, "36 s on 4 cores are 144 core-seconds"
    assert spent["core_hours_per_million_users"] == 40.0 and spent["price_per_million_users"] == 20.0 and spent["users"] == 1_000
    assert "price_per_million_users" not in cost(stages, 4, 0.0)
    nobody = cost({"ingest": {"seconds": 9.0}}, 1, 1.0)
    assert nobody["core_hours_per_million_users"] is None and nobody["core_hours"] == 0.0025


def test_the_median_is_of_the_runs_that_had_something_to_do():
    records = [{"stages": {"ingest": {"seconds": seconds}}} for seconds in (1.0, 9.0, 5.0)]
    records.append({"stages": {"ingest": {"seconds": 0.01, "skipped": "nothing new"}, "publish": {"seconds": 2.0}}})
    assert median_seconds(records) == {"ingest": 5.0, "publish": 2.0} and median_seconds([]) == {}
