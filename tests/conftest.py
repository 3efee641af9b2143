"""Shared by the tests that need Spark: one session, one tiny world, and one warehouse that every stage has run in."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

# One thread wherever threads would change the order of sums: two processes must be able to give the same bytes. Before numpy and torch are
# imported, which read it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SPARK_SUBMIT_OPTS", "-XX:TieredStopAtLevel=1")  # a JVM of a small world is over before a better compiler pays

import pytest  # noqa: E402
from filelock import FileLock  # noqa: E402
from small_pipeline import AS_OF, SMALL, STAGE_NAMES, make_context, run, source_overrides  # noqa: E402


@pytest.fixture(scope="session")
def spark():
    """The Spark session of all tests; nobody stops it but this."""
    from lurm.config import load_config
    from spark_jobs.session import open_session

    session = open_session(load_config(None, SMALL))
    yield session
    session.stop()


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """`once(name, make)` calls make(folder), where folder is new, in one of the processes that run tests side by side; all get the folder and
    what it returned, as JSON has it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, make: Callable[[Path], object]) -> tuple[Path, object]:
        folder, told = shared / f"shared-{name}", shared / f"shared-{name}.json"
        with FileLock(f"{folder}.lock"):
            if not told.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
                folder.mkdir()
                told.write_text(json.dumps(make(folder)))
        return folder, json.loads(told.read_text())

    return made


@pytest.fixture(scope="session")
def world(once) -> Path:
    """300 users, 600 items of 24 topics, 14 months, about 12,000 events; read only."""
    from lurm.synthetic import WorldSettings, write_world

    settings = WorldSettings(n_users=300, n_items=600, n_topics=24, n_months=14, start="2020-01", events_per_user=40)
    return once("world", lambda folder: asdict(write_world(folder, settings)))[0]


@pytest.fixture(scope="session")
def finished(world, spark, once):
    """The context of a warehouse in which every stage has run at AS_OF; read only. Reports of the stages are in `reports`."""

    def context(folder: Path):
        return make_context(folder, AS_OF, lambda: spark, *source_overrides(world))

    folder, reports = once("finished", lambda folder: run(context(folder), STAGE_NAMES))
    return context(folder), reports
