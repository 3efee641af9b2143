"""Killed anywhere, run again: the same tables, byte for byte, and no reader ever sees half a table.

Once for real, with SIGKILL to the process, its JVM and its Python workers in the middle of every stage; once at every single write of
the driver, before it and after it in turn (`make test-long`: before and after each), where a real kill would hit only by luck.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from process_family import family, send
from small_pipeline import (
    AS_OF,
    PINNED_STAGES,
    SMALL,
    STAGE_NAMES,
    contents,
    copy_chain,
    instant,
    make_context,
    published,
    rows_of,
    run,
    source_overrides,
    write_events,
)

from lurm import open_table
from lurm.errors import MissingInputError
from lurm.pipeline import BY_NAME, SPARK
from lurm.store import Store

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
SESSION_SECONDS = 5.0  # what starting Spark adds to the first stage that needs it


class Killable:
    """`lurm run --until STAGE` in a process of its own, whose log is followed."""

    def __init__(self, warehouse: Path, world: Path, stage: str):
        # Checkpoints after a few steps, so that a killed training has something to go on from.
        overrides = [*SMALL, *source_overrides(world), "encoder.checkpoint_every=4", "smen.checkpoint_every=2"]
        command = [sys.executable, "-m", "lurm.cli", "run", "--warehouse", str(warehouse), "--as-of", AS_OF, "--until", stage]
        command += [part for override in overrides for part in ("--set", override)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr), daemon=True)
        self.reader.start()

    def wait_for(self, pattern: str, seconds: float = 240.0) -> None:
        end = time.monotonic() + seconds
        while not any(re.search(pattern, line) for line in self.lines):
            assert self.process.poll() is None and time.monotonic() < end, "".join(self.lines)[-3_000:]
            time.sleep(0.02)

    def kill(self) -> bool:
        """SIGKILL to everything it started; the workers' daemon has left the process group, so all descendants are named one by one."""
        if self.process.poll() is not None:
            return False
        started = family(self.process.pid)
        os.killpg(self.process.pid, signal.SIGKILL)
        send(started, signal.SIGKILL)
        self.process.wait()
        return True


def read_all_or_nothing(store: Store, complete: dict[str, int]) -> str | None:
    """The date a reader gets now, None before the first release; a date must be whole."""
    try:
        table = open_table(store.uri)
    except MissingInputError:
        return None
    users, vectors = published(store, table.as_of)
    assert len(set(users.tolist())) == len(users) == table.n_users == complete[table.as_of]
    assert np.isfinite(vectors).all()
    return table.as_of


@pytest.mark.long
def test_kill_9_in_every_stage(finished, world, tmp_path):
    done, reports = finished
    store, rng = Store(str(tmp_path / "warehouse")), np.random.default_rng(11)
    complete = {AS_OF: reports["embed-users"]["users"]}
    killed = []
    for stage in STAGE_NAMES:
        attempt = Killable(tmp_path / "warehouse", world, stage)
        try:
            attempt.wait_for(f" {stage}: start")
            expected = reports[stage]["seconds"] + (SESSION_SECONDS if BY_NAME[stage].engine == SPARK else 0.0)
            time.sleep(expected * rng.uniform(0.2, 0.9))
        finally:
            if attempt.kill():
                killed.append(stage)
        seen = read_all_or_nothing(store, complete)
        assert seen is None or stage == "publish"
    assert len(killed) >= 8, f"the kills came too late: {killed}"

    last = Killable(tmp_path / "warehouse", world, "publish")
    try:
        last.wait_for("publish: done")
        assert last.process.wait(60) == 0
    finally:
        last.kill()
    assert read_all_or_nothing(store, complete) == AS_OF
    assert contents(store) == contents(done.store)
    (users, vectors), (same_users, same_vectors) = published(store, AS_OF), published(done.store, AS_OF)
    assert users.tolist() == same_users.tolist() and vectors.tobytes() == same_vectors.tobytes()


class Killed(BaseException):
    """Not an Exception, so that nothing between here and the test can catch it: as little as a kill could be caught."""


@pytest.mark.parametrize("moments", [1, pytest.param(2, marks=pytest.mark.long)])
def test_killed_at_every_write_of_a_daily_run(finished, world, spark, tmp_path, monkeypatch, moments):
    """The daily run of AS_OF, over the release of an earlier date; events of the day bring late ones and rows for the quarantine."""
    events = pq.read_table(world / "events")
    times = np.array(events["timestamp"].cast(pa.int64()))
    cut = int(instant("2021-01-10").timestamp() * 1e6)
    early = (times < cut) & (np.random.default_rng(1).random(len(times)) < 0.97)

    items = pq.read_table(world / "items")

    def start(name: str):
        folder = tmp_path / name
        (folder / "events").mkdir(parents=True)
        (folder / "items").mkdir()
        pq.write_table(items.slice(50), folder / "items" / "1.parquet")
        pq.write_table(events.filter(pa.array(early)), folder / "events" / "1.parquet")
        overrides = *source_overrides(folder), "gate.min_users=10"
        context = make_context(folder / "warehouse", "2021-01-10", lambda: spark, *overrides, model_id=finished[0].trained_model_id())
        copy_chain(finished[0], context.store)
        run(context, PINNED_STAGES)
        pq.write_table(items.slice(0, 50), folder / "items" / "2.parquet")
        pq.write_table(events.filter(pa.array(~early)), folder / "events" / "2.parquet")
        write_events(folder / "events" / "3.parquet", [("", "i1", "2021-01-01T00:00:00"), ("new", "", "2021-01-01T00:00:00"),
                                                       ("new", events["item_id"][0].as_py(), "2021-01-01T00:00:00")])
        return make_context(folder / "warehouse", AS_OF, lambda: spark, *overrides, model_id=finished[0].trained_model_id())

    calm = start("calm")
    run(calm, PINNED_STAGES)
    complete = {as_of: len(published(calm.store, as_of)[0]) for as_of in ("2021-01-10", AS_OF)}
    context = start("killed")

    survived: dict[tuple, list[str]] = {}  # each write, and when it is still to be killed
    write_bytes, commit = Store.write_bytes, Store.commit

    def dying(operation, what_of):
        def once(self, *arguments, **more):
            what = (operation.__name__, re.sub(r"epoch.*", "", what_of(*arguments)))  # the name of a release's file carries the time
            left = survived.setdefault(what, ["before", "after"] if moments == 2 else ["before" if len(survived) % 2 else "after"])
            if "before" in left:
                left.remove("before")
                raise Killed(what, "before")
            result = operation(self, *arguments, **more)
            if "after" in left:
                left.remove("after")
                raise Killed(what, "after")
            return result

        return once

    monkeypatch.setattr("spark_jobs.tables.usable_cores", lambda: 1)  # two threads could die at once, and one death is what a run sees
    monkeypatch.setattr(Store, "write_bytes", dying(write_bytes, lambda path, data: path.removeprefix(context.store.root)))
    monkeypatch.setattr(Store, "commit", dying(commit, lambda manifest, *rest: f"{manifest.table} {manifest.run_key}"))
    seen = []
    while True:
        try:
            run(context, PINNED_STAGES)
            break
        except Killed:
            seen.append(read_all_or_nothing(context.store, complete))
    monkeypatch.undo()
    assert len(seen) == moments * len(survived) and len(survived) >= 17 and not any(survived.values())
    assert seen == sorted(seen) and seen[0] == "2021-01-10", "first the old release, whole; then the new one, whole"
    assert read_all_or_nothing(context.store, complete) == AS_OF
    ours, theirs = contents(context.store), contents(calm.store)
    for other, mine in ((ours, context.store), (theirs, calm.store)):  # its rows name the files' folders
        other["quarantine"] = sorted((row["reason"], row["row"]) for row in rows_of(mine, "quarantine"))
    assert ours == theirs
    assert published(context.store, AS_OF)[1].tobytes() == published(calm.store, AS_OF)[1].tobytes()
