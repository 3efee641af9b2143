"""Airflow as `make airflow` starts it: a real one, through its REST API, on SQLite and on PostgreSQL; and that it leaves nothing behind."""

import os
import pwd
import re
import runpy
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from process_family import family, has_ended, listening
from small_pipeline import SMALL, content, source_overrides
from test_house import ROOT

from lurm import open_table
from lurm.cli import main
from lurm.releases import releases
from lurm.store import Store

STANDALONE = runpy.run_path(str(ROOT / "docker" / "standalone.py"))
LATER = "2021-03-01"
FILLED = "2021-02-18"  # by a backfill of the day before it


class Airflow:
    """A running `docker/standalone.py`, and its REST API."""

    def __init__(self, home: Path, store: Store, settings: tuple[str, ...], *more: str):
        self.output = home.with_suffix(".out")
        told = {"LURM_SETTINGS": shlex.join(settings), "LURM_SCHEDULE_UNTIL": LATER, "OMP_NUM_THREADS": "1"}
        told["SPARK_SUBMIT_OPTS"] = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "LURM_"))}
        self.environment = {**clean, **told}
        command = [sys.executable, ROOT / "docker" / "standalone.py", "--home", home, "--warehouse", store.uri, *more]
        with self.output.open("w") as file:
            self.process = subprocess.Popen(command, env=self.environment, stdout=file, stderr=file)
        self.home, self.store = home, store
        self.family: list[psutil.Process] = []

    def wait_until_up(self) -> None:
        wait(lambda: "Ctrl-C" in self.output.read_text() or self.process.poll() is not None, 300, "Airflow to start")
        told = self.output.read_text()
        assert self.process.poll() is None, told + (self.home / "airflow.log").read_text()[-4_000:]
        self.url, self.password = re.search(r"url +(\S+)", told)[1], re.search(r"password +(\S+)", told)[1]
        self.token = STANDALONE["ask"](f"{self.url}/auth/token", {"username": "admin", "password": self.password})["access_token"]

    def ask(self, path: str, body: dict | None = None) -> dict:
        return STANDALONE["ask"](f"{self.url}/api/v2/{path}", body, self.token)

    def trigger(self, conf: dict, logical_date: str | None = None) -> dict:
        """A manual run of lurm_daily, and how it ended."""
        started = self.ask("dags/lurm_daily/dagRuns", {"logical_date": logical_date, "conf": conf})
        return self.ended("lurm_daily", started["dag_run_id"])

    def ended(self, dag_id: str, run_id: str) -> dict:
        path = f"dags/{dag_id}/dagRuns/{run_id}"
        wait(lambda: self.ask(path)["state"] in ("success", "failed"), 1_200, f"{run_id} to end")
        tasks = {task["task_id"]: task["state"] for task in self.ask(f"{path}/taskInstances")["task_instances"]}
        return {"state": self.ask(path)["state"], "tasks": tasks}

    def woken(self) -> tuple[str, dict]:
        """The run of the consumer that a release has woken, and how it ended. Before, Airflow's list of asset events is an error 500."""
        runs = "dags/lurm_example_consumer/dagRuns"
        wait(lambda: self.ask(runs)["total_entries"], 120, "the consumer to be woken")
        run_id = self.ask(runs)["dag_runs"][0]["dag_run_id"]
        return run_id, self.ended("lurm_example_consumer", run_id)

    def stop(self) -> None:
        self.family = family(self.process.pid)
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=90)


def wait(condition, seconds: float, what: str) -> None:
    patience = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < patience, f"waited {seconds:.0f} s for {what}"
        time.sleep(1)


@pytest.fixture(scope="module")
def warehouse(finished, tmp_path_factory) -> Store:
    """A copy of the finished warehouse, which Airflow goes on with."""
    folder = tmp_path_factory.mktemp("standalone") / "warehouse"
    shutil.copytree(finished[0].store.uri, folder)
    return Store(str(folder))


@pytest.fixture(scope="module")
def story(warehouse, world, tmp_path_factory):
    """What a new user does, in this order: look, trigger a later date, forget the date, fill in an earlier day, stop."""
    airflow = Airflow(tmp_path_factory.mktemp("airflow") / "home", warehouse, (*SMALL, *source_overrides(world)))
    told = {}
    try:
        airflow.wait_until_up()
        told["dags"] = {dag["dag_id"]: dag for dag in airflow.ask("dags")["dags"]}
        told["import errors"] = airflow.ask("importErrors")["import_errors"]
        told["pools"] = {pool["name"]: pool["slots"] for pool in airflow.ask("pools")["pools"]}
        told["listening"] = {address for address, _ in listening(airflow.process.pid)}
        told["later"] = airflow.trigger({"as_of": LATER}, datetime.now(UTC).isoformat())  # as the form of the web page does
        woken, told["consumer"] = airflow.woken()
        told["read"] = airflow.ask(f"dags/lurm_example_consumer/dagRuns/{woken}/taskInstances/read_table/xcomEntries/return_value")["value"]
        told["no date"] = airflow.trigger({})
        told["backfill"] = backfill(airflow, "2021-02-17")
        time.sleep(10)  # the scheduler looks for woken consumers every few seconds
        told["events"] = airflow.ask("assets/events")["asset_events"]
        scheduled = airflow.ask("dags/lurm_daily/dagRuns?run_type=scheduled")["dag_runs"]
        told["scheduled"] = [airflow.ended("lurm_daily", entry["dag_run_id"]) for entry in scheduled]
        told["consumer runs"] = airflow.ask("dags/lurm_example_consumer/dagRuns")["total_entries"]
    finally:
        airflow.stop()
    told["left"] = [process for process in airflow.family if process.is_running() and not has_ended(process.pid)]
    return told


def backfill(airflow: Airflow, day: str) -> dict[str, dict]:
    """`airflow backfill create` from the shell; how each of its runs ended."""
    environment = STANDALONE["airflow_environment"](airflow.home, int(airflow.url.rpartition(":")[2]), None)
    command = ["backfill", "create", "--dag-id", "lurm_daily", "--from-date", day, "--to-date", day, "--max-active-runs", "1"]
    answer = subprocess.run([STANDALONE["BIN"] / "airflow", *command], env={**environment, **airflow.environment, "AIRFLOW_HOME": str(airflow.home),
                            "LURM_WAREHOUSE": airflow.store.uri}, capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    runs = airflow.ask("dags/lurm_daily/dagRuns?run_type=backfill")["dag_runs"]
    return {entry["data_interval_end"][:10]: airflow.ended("lurm_daily", entry["dag_run_id"]) for entry in runs}


@pytest.mark.slow
def test_a_new_user_sees_the_dags(story):
    assert set(story["dags"]) == {"lurm_daily", "lurm_train", "lurm_example_consumer"} and story["import errors"] == []
    assert not any(dag["is_paused"] or dag["has_import_errors"] for dag in story["dags"].values())
    assert story["pools"]["lurm_spark"] == story["pools"]["lurm_training"] == 1
    assert story["listening"] == {"127.0.0.1"}


@pytest.mark.slow
def test_a_trigger_is_green_and_the_table_is_there(story, warehouse):
    assert story["later"]["state"] == "success" and set(story["later"]["tasks"].values()) == {"success"}
    table = open_table(warehouse.uri)
    assert (table.as_of, table.epoch) == (LATER, 2) and len(list(table.scan(["user_id"]))) > 0


@pytest.mark.slow
def test_the_release_wakes_the_consumer_once(story, warehouse):
    """The dates of the backfill do not."""
    row = releases(warehouse)[1]
    assert [event["extra"] for event in story["events"]] == [{name: row[name] for name in ("epoch", "as_of", "table_version", "model_id")}]
    assert story["consumer"]["state"] == "success" and story["consumer runs"] == 1
    assert f"{row['n_users']}" in str(story["read"]) and LATER in str(story["read"])


@pytest.mark.slow
def test_a_run_without_a_date_is_refused(story):
    assert story["no date"]["state"] == "failed" and story["no date"]["tasks"]["resolve"] == "failed"


@pytest.mark.slow
def test_a_schedule_that_has_ended_does_nothing(story):
    """Airflow makes the run of last night as soon as it starts; nothing is caught up before it."""
    assert len(story["scheduled"]) == 1
    assert story["scheduled"][0]["state"] == "success" and set(story["scheduled"][0]["tasks"].values()) == {"skipped"}


@pytest.mark.slow
def test_a_backfill_gives_the_bytes_of_lurm_backfill(story, warehouse, finished, world, spark, tmp_path):
    assert set(story["backfill"]) == {FILLED}
    assert story["backfill"][FILLED]["state"] == "success" and story["backfill"][FILLED]["tasks"]["announce"] == "skipped"
    by_hand = Store(str(tmp_path / "by_hand"))
    shutil.copytree(finished[0].store.uri, by_hand.uri)
    settings = [part for override in (*SMALL, *source_overrides(world)) for part in ("--set", override)]
    given = ["--from", FILLED, "--to", FILLED, "--model", finished[0].trained_model_id()]
    assert main(["backfill", "--warehouse", by_hand.uri, *given, *settings, "--quiet"]) == 0

    def filled(store: Store) -> list[str]:
        return [line for line in content(store, "user_embeddings") if FILLED in line]

    assert filled(warehouse) == filled(by_hand) != []


@pytest.mark.slow
def test_nothing_outlives_it(story):
    assert story["left"] == []


# ---- PostgreSQL ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres():
    """A PostgreSQL of its own, run by a user who is not root; its SQLAlchemy URL."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not binaries or os.geteuid() != 0:
        if os.environ.get("CI") == "true":
            pytest.fail("Expected root and PostgreSQL's server programs under /usr/lib/postgresql, found none; apt-get install postgresql.")
        pytest.skip("needs root and Debian's postgresql: apt-get install postgresql")
    programs, user = binaries[-1].parent, pwd.getpwnam("postgres")
    folder, password, port = Path(tempfile.mkdtemp(prefix="lurm-postgres-")), secrets.token_urlsafe(12), free_port()
    (folder / "password").write_text(password)
    for path in (folder, folder / "password"):
        os.chown(path, user.pw_uid, user.pw_gid)

    def call(*command: str) -> None:
        subprocess.run(command, user=user.pw_uid, group=user.pw_gid, extra_groups=[], cwd=folder, check=True, timeout=60, stdout=subprocess.DEVNULL)

    data = str(folder / "data")
    call(f"{programs}/initdb", "--pgdata", data, "--username", "airflow", "--pwfile", str(folder / "password"), "--auth", "scram-sha-256")
    call(f"{programs}/pg_ctl", "--pgdata", data, "--wait", "--log", f"{folder}/log", "--options", f"-p {port} -h 127.0.0.1 -k {folder}", "start")
    try:
        yield f"postgresql+psycopg2://airflow:{password}@127.0.0.1:{port}/postgres"
    finally:
        call(f"{programs}/pg_ctl", "--pgdata", data, "--wait", "--mode", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_the_same_with_postgresql(story, postgres, warehouse, world, tmp_path):
    """The date of the first trigger again: every stage finds its work done, and the consumer of this new Airflow hears of the release."""
    airflow = Airflow(tmp_path / "home", warehouse, (*SMALL, *source_overrides(world)), "--database", postgres)
    before = len(releases(warehouse))
    try:
        airflow.wait_until_up()
        told = airflow.trigger({"as_of": LATER})
        assert told["state"] == "success" and set(told["tasks"].values()) == {"success"}
        assert not (airflow.home / "airflow.db").exists()  # nothing went to SQLite
        assert airflow.woken()[1]["state"] == "success"
        assert [event["extra"]["as_of"] for event in airflow.ask("assets/events")["asset_events"]] == [LATER]
    finally:
        airflow.stop()
    assert len(releases(warehouse)) == before


# ---- the parts -------------------------------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_not_taken_twice():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert STANDALONE["free_port"](port) not in (0, port)
    wanted = free_port()
    assert STANDALONE["free_port"](wanted) == wanted


def test_a_second_one_in_the_same_home_is_refused(tmp_path):
    with STANDALONE["only_one"](tmp_path):
        with pytest.raises(SystemExit, match=r"Expected no Airflow in .*, one is running there; end it, or choose another --home\."):
            with STANDALONE["only_one"](tmp_path):
                pass
    with STANDALONE["only_one"](tmp_path):
        pass


def test_stopping_ends_what_the_components_started(tmp_path):
    """A component that ignores TERM, and a child of it in a session of its own, as a stage is."""
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "child = subprocess.Popen(['sleep', '300'], start_new_session=True); print(child.pid, flush=True); time.sleep(300)"
    )
    script = (
        f"import runpy, subprocess, sys; stop = runpy.run_path({str(ROOT / 'docker' / 'standalone.py')!r})['stop']; "
        f"top = subprocess.Popen([sys.executable, '-c', {code!r}], stdout=subprocess.PIPE, text=True, start_new_session=True); "
        "print(top.pid, top.stdout.readline(), flush=True); stop([top], 1)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    pids = [int(word) for word in answer.stdout.split()]
    assert len(pids) == 2
    for pid in pids:
        assert has_ended(pid)


def test_the_password_is_kept_and_nobody_else_can_read_it(tmp_path):
    path = STANDALONE["_write"](tmp_path / "passwords", {"admin": "x"})
    assert path.stat().st_mode & 0o077 == 0


def test_no_address_but_loopback_is_asked_for(tmp_path):
    told = STANDALONE["airflow_environment"](tmp_path, 4711, None)
    assert told["AIRFLOW__API__HOST"] == "127.0.0.1" and told["AIRFLOW__API__PORT"] == "4711"
    assert told["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:4711/execution/"
    assert "--skip-serve-logs" in STANDALONE["COMPONENTS"]["scheduler"] and "--skip-serve-logs" in STANDALONE["COMPONENTS"]["triggerer"]


TWO_WRITERS = """
import threading
from sqlalchemy import text
from airflow.settings import Session, engine

with engine.begin() as connection:
    connection.execute(text("create table counts (n integer)"))
scheduler, backfill = engine.connect(), Session()
with backfill.begin_nested():
    backfill.execute(text("select count(*) from counts")).all()
    written = threading.Event()
    other = threading.Thread(target=lambda: (scheduler.execute(text("insert into counts values (1)")), written.set(), scheduler.commit()))
    other.start()
    written.wait(5)  # it waits for the backfill, or has written: in neither case may the backfill fail
    backfill.execute(text("insert into counts values (2)"))
backfill.commit()
other.join(30)
with engine.connect() as connection:
    print(sorted(connection.execute(text("select n from counts")).scalars()))
"""


@pytest.mark.parametrize("known", [True, False])
def test_a_savepoint_waits_for_another_writer(tmp_path, known):
    """Without the settings of SQLite it fails at once, as `airflow backfill create` did beside a busy scheduler."""
    told = STANDALONE["airflow_environment"](tmp_path, 4711, None)
    assert Path(told["PYTHONPATH"].split(os.pathsep)[0], "airflow_local_settings.py").exists()
    other = STANDALONE["airflow_environment"](tmp_path, 4711, "postgresql+psycopg2://somebody@127.0.0.1/airflow")
    assert other.get("PYTHONPATH") == os.environ.get("PYTHONPATH")
    answer = subprocess.run([sys.executable, "-c", TWO_WRITERS], env=told if known else {**told, "PYTHONPATH": ""}, capture_output=True, text=True,
                            timeout=240, check=False)
    if known:
        assert answer.returncode == 0 and answer.stdout.strip().endswith("[1, 2]"), answer.stderr
    else:
        assert "database is locked" in answer.stderr
