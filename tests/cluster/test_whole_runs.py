"""Whole runs of real size on a standalone master and two workers that share one folder, beside the same run on one machine: the same tables.

The demo's world, and the public purchase data where LURM_DATA names a folder that holds it (docs/results.md says which). In every stage that Spark
runs a worker is killed in the middle of a task. Seconds of both runs are printed (pytest -s): on one machine they say nothing of speed, for two
workers have no more cores than a local run, and start again after each kill.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_run import check_equal, run_on
from small_pipeline import STAGE_NAMES
from spark_cluster import ROOT, SparkCluster

from lurm.evaluation.demo import WORLD
from lurm.pipeline import BY_NAME, SPARK
from lurm.runs import last_runs
from lurm.store import Store
from lurm.synthetic import write_world

pytestmark = [pytest.mark.slow, pytest.mark.long]
SPARK_STAGES = [name for name in STAGE_NAMES if BY_NAME[name].engine == SPARK]
SECONDS_IN = 1.0  # of tasks, before the first try to kill


def demo(folder: Path) -> tuple[str, list[str]]:
    """as_of and sources of the demo's world."""
    world = write_world(folder / "world", WORLD)
    return world.end, [f"events.path={world.events_path}", f"items.path={world.items_path}"]


def amazon_purchases(folder: Path) -> tuple[str, list[str]]:
    data = Path(os.environ.get("LURM_DATA", "")) / "amazon_purchases"
    if not os.environ.get("LURM_DATA") or not data.is_dir():
        pytest.skip("LURM_DATA names no folder with amazon_purchases")
    return "2022-01-01", [f"events.path={data}/events.parquet", f"items.path={data}/items.parquet"]


@pytest.mark.parametrize("source", [demo, amazon_purchases], ids=lambda source: source.__name__)
def test_a_whole_run_on_a_cluster_is_that_of_one_machine(source, tmp_path):
    config, (as_of, overrides) = source.__name__, source(tmp_path)
    command = [sys.executable, "-m", "lurm.cli", "run", "--config", config, "--warehouse", str(tmp_path / "local"), "--as-of", as_of]
    command += [part for override in ("spark.master=local[2]", *overrides) for part in ("--set", override)]
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=3_600, check=False)
    assert ended.returncode == 0, ended.stderr[-3_000:]
    cluster = SparkCluster(tmp_path / "cluster", drivers_paths=[tmp_path / "driver"])
    try:
        reports, killed, _ = run_on(cluster, tmp_path / "driver", {
            "warehouse": str(tmp_path / "warehouse"), "as_of": as_of, "config": config, "overrides": overrides, "stages": STAGE_NAMES,
            "killed_in": dict.fromkeys(SPARK_STAGES, SECONDS_IN),
        })
        opened = cluster.opened_of_the_driver()
    finally:
        cluster.close()
    local = Store(str(tmp_path / "local"))
    [record] = last_runs(local, 1)
    print(f"\n{config}, as_of {as_of}\n{'stage':<20}{'one machine, s':>16}{'two workers, s':>16}  worker killed")
    for name in STAGE_NAMES:
        print(f"{name:<20}{record['stages'][name]['seconds']:>16.1f}{reports[name]['seconds']:>16.1f}  {'yes' if name in killed else ''}")
    check_equal(Store(str(tmp_path / "warehouse")), local, as_of)
    assert killed == SPARK_STAGES and opened == []
