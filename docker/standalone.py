"""Airflow without containers: one machine, loopback only, the DAGs of this repository, the warehouse of the demo. `make airflow` runs it.

In: a folder to live in (database, logs, password; `.airflow` by default) and a warehouse. Out: a running Airflow, its address, user and
password on standard output; it ends with Ctrl-C, and nothing that it started outlives it.

It starts the four processes that `airflow standalone` starts, because that one has two log servers that listen on every interface.
"""

import argparse
import fcntl
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent  # not resolved: a virtual environment's python is a link
COMPONENTS = {
    "api-server": ["api-server", "--host", "127.0.0.1"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
POOLS = Path(__file__).with_name("pools.json")


def main(arguments: Sequence[str] | None = None) -> int | str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", default=".airflow", metavar="DIR", help="database, logs and password (default: .airflow)")
    parser.add_argument("--demo", default="demo", metavar="DIR", help="folder of the demo; it is run first (default: demo)")
    parser.add_argument("--warehouse", metavar="URI", help="another warehouse than the demo's; settings come from the environment (LURM_*)")
    parser.add_argument("--database", metavar="URL", help="SQLAlchemy URL of Airflow's own database (default: SQLite in the home)")
    parser.add_argument("--port", type=int, default=0, help="port of the web server (default: a free one, 8080 if it is)")
    options = parser.parse_args(arguments)
    home = Path(options.home).resolve()
    home.mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        service = service_environment(options.warehouse) if options.warehouse else demo_environment(Path(options.demo))
        environment = airflow_environment(home, options.port or free_port(8080), options.database) | service
        with only_one(home) as lock, (home / "airflow.log").open("a") as log:
            password = prepare(home, environment, log)
            with running(environment, log, lock) as components:
                url = environment["AIRFLOW__API__BASE_URL"]
                wait_until_ready(url, password, components, home / "airflow.log")
                print(f"url        {url}\nuser       admin\npassword   {password}\nwarehouse  {environment['LURM_WAREHOUSE']}\n"
                      f"log        {home / 'airflow.log'}\nCtrl-C ends it.", flush=True)
                while all(process.poll() is None for process in components.values()):
                    time.sleep(1)
                return f"{_ended(components)} ended; see {home / 'airflow.log'}."
    except KeyboardInterrupt:
        print("airflow: stopped.", flush=True)
        return 0


# ---- what the DAGs are told ------------------------------------------------------------------------------------------------------------


def demo_environment(folder: Path) -> dict[str, str]:
    """The demo is brought up to date (seconds if it is there); a manual run is offered the day after the current release."""
    subprocess.run([BIN / "lurm", "demo", "--directory", folder], check=True, stdout=subprocess.DEVNULL)
    from lurm import open_table
    from lurm.config import fingerprint
    from lurm.evaluation.demo import WORLD

    world, warehouse = folder.resolve() / f"world-{fingerprint(WORLD)[:8]}", folder.resolve() / "warehouse"
    tomorrow = date.fromisoformat(open_table(str(warehouse)).as_of) + timedelta(days=1)
    return {
        "LURM_WAREHOUSE": str(warehouse), "LURM_CONFIG": "demo", "LURM_DEFAULT_AS_OF": tomorrow.isoformat(),
        "LURM_SCHEDULE_UNTIL": tomorrow.isoformat(),  # the world of the demo is over
        "LURM_SETTINGS": shlex.join([f"events.path={world}/events", f"items.path={world}/items"]),
    }


def service_environment(warehouse: str) -> dict[str, str]:
    return {"LURM_WAREHOUSE": warehouse}


# ---- what Airflow is told --------------------------------------------------------------------------------------------------------------


def airflow_environment(home: Path, port: int, database: str | None) -> dict[str, str]:
    """Environment of all processes. The execution API has to be told the port too, or tasks fail without a log."""
    from spark_jobs.class_archive import java_options

    url = f"http://127.0.0.1:{port}"
    told = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(64),  # sessions end with this Airflow
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW_CONN_SPARK_DEFAULT": os.environ.get("AIRFLOW_CONN_SPARK_DEFAULT", '{"conn_type": "spark", "host": "local[2]"}'),
        "LURM_JOBS": str(ROOT / "spark_jobs"),
        "LURM_PYTHON": sys.executable,
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",  # spark-submit
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_SUBMIT_OPTS": f"{os.environ.get('SPARK_SUBMIT_OPTS', '')} {java_options()}".strip(),
        "PYTHONUNBUFFERED": "1",
    }
    # SQLite lets one write at a time; on a busy machine five seconds, its usual patience, are too few.
    told["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = database or f"sqlite:///{home}/airflow.db?timeout=60"
    if told["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("sqlite"):
        told["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).with_name("sqlite")), os.environ.get("PYTHONPATH"))))
    return {**os.environ, **told}


def free_port(wanted: int = 0) -> int:
    """`wanted` if nobody has it, else any free port of the loopback."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise SystemExit("airflow: Expected a free port on 127.0.0.1, found none; end a program that listens there.")


def prepare(home: Path, environment: dict[str, str], log) -> str:
    """Database, pools and password; returns the password. All of it may be there already."""
    for command in (["db", "migrate"], ["pools", "import", str(POOLS)]):
        if subprocess.run([BIN / "airflow", *command], env=environment, stdout=log, stderr=log, check=False).returncode:
            raise SystemExit(f"airflow: `airflow {' '.join(command)}` failed; see {log.name}.")
    passwords = home / "simple_auth_manager_passwords.json.generated"
    if not passwords.exists():
        _write(passwords, {"admin": secrets.token_urlsafe(12)})
    return json.loads(passwords.read_text())["admin"]


def _write(path: Path, value: dict) -> Path:
    """JSON that nobody else can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(value, file)
    return path


# ---- processes -------------------------------------------------------------------------------------------------------------------------


@contextmanager
def only_one(home: Path) -> Iterator[int]:
    """A lock that lives as long as any process of this Airflow: they inherit it."""
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(f"airflow: Expected no Airflow in {home}, one is running there; end it, or choose another --home.") from None
        yield lock.fileno()


@contextmanager
def running(environment: dict[str, str], log, lock: int) -> Iterator[dict[str, subprocess.Popen]]:
    """The components of Airflow, stopped at the end with everything that they started."""
    components: dict[str, subprocess.Popen] = {}
    try:
        for name, command in COMPONENTS.items():
            components[name] = subprocess.Popen([BIN / "airflow", *command], env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                                start_new_session=True, pass_fds=(lock,))
        yield components
    finally:
        stop(components.values())


def stop(components, seconds: float = 15) -> None:
    """TERM to the components, and after a while KILL to what is left of them and of all that they started, by id."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave half of them running
    everybody: set[psutil.Process] = set()
    for top in components:
        everybody |= _family(top.pid)
        top.terminate()
    patience = time.monotonic() + seconds  # a scheduler waits for its tasks; they can be repeated
    while time.monotonic() < patience and any(process.is_running() for process in everybody):
        for top in components:
            top.poll()  # reaps it
        for process in tuple(everybody):
            everybody |= _family(process.pid) if process.is_running() else set()
        time.sleep(0.2)
    for process in everybody:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
    for top in components:
        top.wait()


def _family(pid: int) -> set[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return {process, *process.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def wait_until_ready(url: str, password: str, components: dict[str, subprocess.Popen], log: Path, seconds: float = 180) -> None:
    """Until every component is healthy and the DAGs are listed."""
    patience = time.monotonic() + seconds
    while time.monotonic() < patience:
        if any(process.poll() is not None for process in components.values()):
            raise SystemExit(f"airflow: {_ended(components)} ended while starting; see {log}.")
        try:
            health = ask(f"{url}/api/v2/monitor/health")
            token = ask(f"{url}/auth/token", {"username": "admin", "password": password})["access_token"]
            dags = ask(f"{url}/api/v2/dags", token=token)["total_entries"]
            if dags and all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor")):
                return
        except (OSError, KeyError, urllib.error.URLError):
            pass  # it is not there yet
        time.sleep(1)
    raise SystemExit(f"airflow: Expected Airflow to be ready within {seconds:.0f} s, it is not; see {log}.")


def ask(url: str, body: dict | None = None, token: str | None = None) -> dict:
    """One request to the REST API; POST if there is a body."""
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def _ended(components: dict[str, subprocess.Popen]) -> str:
    return ", ".join(name for name, process in components.items() if process.poll() is not None)


def _interrupt(number, frame) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
