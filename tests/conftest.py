"""Shared by the tests that need Spark: one session, one tiny world, and one warehouse that every stage has run in."""

import os
from pathlib import Path

# One thread wherever threads would change the order of sums: two processes must be able to give the same bytes. Before numpy and torch are
# imported, which read it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
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
def world(tmp_path_factory) -> Path:
    """300 users, 600 items of 24 topics, 14 months, about 12,000 events; read only."""
    from lurm.synthetic import WorldSettings, write_world

    folder = tmp_path_factory.mktemp("world")
    write_world(folder, WorldSettings(n_users=300, n_items=600, n_topics=24, n_months=14, start="2020-01", events_per_user=40))
    return folder


@pytest.fixture(scope="session")
def finished(world, spark, tmp_path_factory):
    """The context of a warehouse in which every stage has run at AS_OF; read only. Reports of the stages are in `reports`."""
    context = make_context(tmp_path_factory.mktemp("finished"), AS_OF, lambda: spark, *source_overrides(world))
    reports = run(context, STAGE_NAMES)
    return context, reports
