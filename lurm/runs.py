"""The record of a run, kept beside the tables: what ran, on what, with what, how it went and what it cost.

In: what the runner tells while it runs. Out: `runs/<run id>.json` in the warehouse, written whole at the start, after each stage and at
the end, with a heartbeat in between, so that a run that was killed is seen to have died. Ids begin with the time, so that the newest
records are the last names. A record holds no credentials: what looks like one is hidden before it is written.
"""

import json
import logging
import os
import socket
import statistics
import subprocess
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from lurm.config import Config, to_dict
from lurm.errors import LurmError, MissingInputError, StoreError
from lurm.logs import HIDDEN, hide_secrets, is_secret
from lurm.schema import TABLES
from lurm.store import Store

log = logging.getLogger("lurm")
RUNNING, DONE, FAILED, INTERRUPTED, DIED = "running", "done", "failed", "interrupted", "died"
HEARTBEAT_SECONDS = 60.0
SILENT_SECONDS = 5 * HEARTBEAT_SECONDS  # a run that has said nothing for so long has died
ROWS = ("rows", "kept", "users", "encoded", "assigned", "pairs")  # what a stage may call what it wrote


class Recorder:
    """The record of the run that is going on; `write` stores it as it is now."""

    def __init__(self, store: Store, record: dict):
        self.store, self.record = store, record
        self._lock, self._ended = threading.Lock(), threading.Event()

    @property
    def run_id(self) -> str:
        return self.record["run_id"]

    def write(self, **news) -> None:
        """Take up news and store the whole record; others see the old one or the new one."""
        with self._lock:
            self.record.update(news, heartbeat_at=_stamp(datetime.now(UTC)))
            text = json.dumps(self.record, indent=1, default=str)
            self.store.write_bytes(self.store.path("runs", f"{self.run_id}.json"), text.encode())

    def stage_done(self, name: str, figures: dict) -> None:
        self.write(stages={**self.record["stages"], name: figures})

    def beat(self) -> None:
        """Write the record every minute until the run ends; runs in a thread of its own."""
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                self.write()
            except StoreError as error:  # the run itself will meet the trouble, if it stays
                log.warning("the run record could not be written: %s", error)

    def start_beating(self) -> None:
        self._thread = threading.Thread(target=self.beat, name="heartbeat", daemon=True)
        self._thread.start()

    def stop_beating(self) -> None:
        self._ended.set()
        self._thread.join(timeout=30)  # no beat may come after the last word


@contextmanager
def recorded(store: Store, record: dict) -> Iterator[Recorder]:
    """Record what happens in this block: written before it begins, kept alive, closed with how it ended; errors pass through."""
    recorder = Recorder(store, record)
    recorder.write(status=RUNNING)
    recorder.start_beating()
    try:
        yield recorder
    except BaseException as error:
        recorder.stop_beating()
        status = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
        sentence = hide_secrets(str(error)) if isinstance(error, LurmError) else f"{type(error).__name__}: {hide_secrets(str(error))}"[:2_000]
        try:
            recorder.write(status=status, ended_at=_stamp(datetime.now(UTC)), error="" if status == INTERRUPTED else sentence)
        except StoreError as second:  # the first error is the one to tell
            log.warning("the run record could not be written: %s", second)
        raise
    recorder.stop_beating()
    news = {} if recorder.record["status"] != RUNNING else {"status": DONE}
    recorder.write(**news, ended_at=_stamp(datetime.now(UTC)))


def new_record(store: Store, command: str, config: Config, code_version: str, as_of: str | None = None, model_id: str | None = None,
               parent: str | None = None) -> dict:
    """A record as it is before anything has run. `parent` is the backfill that this run is a part of."""
    now = datetime.now(UTC)
    return {
        "run_id": f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1_000:03d}-{uuid.uuid4().hex[:6]}", "command": command, "parent": parent,
        "status": RUNNING, "as_of": as_of, "model_id": model_id, "started_at": _stamp(now), "ended_at": None, "error": "",
        "code_version": code_version, "commit": commit(), "host": socket.gethostname(), "pid": os.getpid(),
        "warehouse": hide_secrets(store.uri), "settings": settings_to_show(config), "stages": {},
    }


def settings_to_show(config: Config) -> dict:
    """All settings as plain data, without what looks like a credential."""

    def shown(value):
        if isinstance(value, dict):  # names in a mapping are the user's, such as those of Spark's properties: they may name a secret
            return {name: HIDDEN if is_secret(name) and isinstance(item, str) else shown(item) for name, item in value.items()}
        return hide_secrets(value) if isinstance(value, str) else value

    sections = to_dict(config).items()
    return {name: {field: shown(value) for field, value in part.items()} if isinstance(part, dict) else part for name, part in sections}


@cache
def commit() -> str | None:
    """The commit this code was taken from: LURM_COMMIT where it is set (in an image), else git's word; None where neither knows."""
    named, root = os.environ.get("LURM_COMMIT"), Path(__file__).parents[1]
    if named or not (root / ".git").exists():
        return named
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def versions(store: Store, names: Iterable[str] = tuple(TABLES)) -> dict[str, int]:
    """Versions of the tables that exist."""
    loaded = {name: store.load(name) for name in names if name in TABLES}
    return {name: delta.version() for name, delta in loaded.items() if delta is not None}


# ---- what it cost --------------------------------------------------------------------------------------------------------------------------


def rows_of(figures: dict) -> int | None:
    """Rows that a stage wrote, from its own figures; None where it wrote none."""
    name = next((name for name in ROWS if isinstance(figures.get(name), int)), None)
    if name:
        return figures[name]
    inner = [rows for value in figures.values() if isinstance(value, dict) and (rows := rows_of(value)) is not None]
    return sum(inner) if inner else None


def cost(stages: dict[str, dict], cores: int, price_per_core_hour: float) -> dict:
    """Core-hours of a run and of a million users; in money too where the configuration has a price."""
    hours = sum(figures["seconds"] for figures in stages.values()) * cores / 3_600
    users = next((figures["users"] for name in ("publish", "embed-users") if (figures := stages.get(name, {})).get("users")), None)
    result = {"cores": cores, "core_hours": round(hours, 6), "users": users}
    result["core_hours_per_million_users"] = round(hours / users * 1e6, 4) if users else None
    if price_per_core_hour and users:
        result["price_per_million_users"] = round(hours / users * 1e6 * price_per_core_hour, 4)
    return result


def median_seconds(records: Sequence[dict]) -> dict[str, float]:
    """Per stage the median of the seconds it took where it had something to do."""
    seconds: dict[str, list[float]] = {}
    for record in records:
        for name, figures in record.get("stages", {}).items():
            if not skipped(figures) and "seconds" in figures:
                seconds.setdefault(name, []).append(figures["seconds"])
    return {name: round(statistics.median(values), 2) for name, values in seconds.items()}


def skipped(figures: dict) -> bool:
    """Whether a stage found nothing to do, in all of its parts."""
    parts = [value for value in figures.values() if isinstance(value, dict) and ("skipped" in value or rows_of(value) is not None)]
    return "skipped" in figures or bool(parts) and all("skipped" in part for part in parts)


# ---- looking back --------------------------------------------------------------------------------------------------------------------------


def run_ids(store: Store) -> list[str]:
    """Ids of all runs, oldest first; names are listed, no record is read."""
    names = [os.path.basename(entry.path) for entry in store.list_files("runs")]
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def last_runs(store: Store, n: int) -> list[dict]:
    """The newest n records, oldest of them first; no other record is read."""
    return [_read(store, run_id) for run_id in run_ids(store)[-n:]] if n > 0 else []


def read_run(store: Store, run_id: str) -> dict:
    if not run_id or "/" in run_id or not store.exists("runs", f"{run_id}.json"):
        last = ", ".join(run_ids(store)[-3:]) or "none"
        raise MissingInputError(f"Expected run {run_id!r} in {hide_secrets(store.uri)}, its last runs are: {last}; `lurm runs` shows them.")
    return _read(store, run_id)


def status_of(record: dict, now: datetime) -> str:
    """The status of a record, or `died` where it says running and nobody is there any more."""
    status = record.get("status", DONE)
    if status != RUNNING:
        return status
    silent = now - datetime.fromisoformat(record["heartbeat_at"]) > timedelta(seconds=SILENT_SECONDS)
    here = record["host"] == socket.gethostname()
    return DIED if silent or here and not _exists(record["pid"]) else RUNNING


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process
        return True
    return True


def _read(store: Store, run_id: str) -> dict:
    try:
        return json.loads(store.read_bytes(store.path("runs", f"{run_id}.json")))
    except ValueError as error:
        raise StoreError(f"Expected JSON in runs/{run_id}.json, could not read it ({error}); remove the file.") from None


def _stamp(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
