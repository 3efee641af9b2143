"""Shared by the tests of what is looked at: one tiny release with a real model behind it."""

import pytest
from small_release import SmallRelease, plant_release

from lurm.report.chain import Released, open_release


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> SmallRelease:
    """The planted release; read only, but for what reports keep in it."""
    return plant_release(tmp_path_factory.mktemp("small") / "warehouse")


@pytest.fixture(scope="session")
def released(small) -> Released:
    return open_release(small.store.uri)
