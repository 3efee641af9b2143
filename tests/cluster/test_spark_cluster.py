"""The whole pipeline on a standalone master and two workers: the tables of a local run, also when a worker is killed in the middle of a stage.

Real processes on loopback (tests/cluster/spark_cluster.py): each worker has its own scratch, working directory and Python, lurm comes with
--py-files, and only the folder of inputs and warehouse is shared. Every stage is deterministic, so the tables are compared bit for bit.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from small_pipeline import AS_OF, SMALL, STAGE_NAMES, contents, published, source_overrides
from spark_cluster import ROOT, SparkCluster

from lurm.pipeline import BY_NAME, SPARK
from lurm.store import Store
from lurm.training import load_tensors

pytestmark = [pytest.mark.slow, pytest.mark.long]
SPARK_STAGES = [name for name in STAGE_NAMES if BY_NAME[name].engine == SPARK]
SECONDS_IN = dict(zip(SPARK_STAGES, (0.5, 0.8, 0.3, 0.3, 0.4, 0.2, 0.2), strict=True))  # after its first task a stage still has some to do
# LURM_KILL_IN_EVERY_STAGE=1 kills in all of them, which takes twice as long.
KILLED_IN = SPARK_STAGES if os.environ.get("LURM_KILL_IN_EVERY_STAGE") else ["ingest", "build-bags", "embed-users"]


@pytest.fixture
def cluster(tmp_path):
    running = SparkCluster(tmp_path / "cluster", drivers_paths=[tmp_path / "driver"])
    yield running
    running.close()


class Driver:
    """The driver's process; lines of its stdout are read one by one, its stderr is kept."""

    def __init__(self, cluster: SparkCluster, folder: Path, warehouse: str, overrides, stages, watched):
        own = folder / "driver"
        own.mkdir()
        conf = {"spark.submit.pyFiles": str(cluster.package), "spark.executor.memory": "700m", "spark.local.dir": str(own / "scratch"),
                "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.enabled": "false"}
        order = {"warehouse": warehouse, "as_of": AS_OF, "overrides": [*SMALL, f"spark.master={cluster.url}", "spark.driver_memory=1g", *overrides],
                 "conf": conf, "stages": stages, "watched": watched}
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYSPARK", "SPARK"))}
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(own), "SPARK_LOCAL_IP": "127.0.0.1"}
        self.process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("driving_process.py")), json.dumps(order)], cwd=own,
                                        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.errors: list[str] = []
        threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True).start()

    def line(self) -> list[str]:
        text = self.process.stdout.readline()
        assert text, "".join(self.errors)[-4_000:]
        return text.rstrip("\n").split(" ", 2)

    def go_on(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def run_on(cluster: SparkCluster, folder: Path, warehouse: str, overrides, killed_in) -> tuple[dict[str, dict], list[str], str]:
    """Run all stages; in some of them a worker is killed, and a new one started before the next stage. Returns the reports, the stages in which a
    worker was killed before they had ended, and what the driver logged."""
    driver = Driver(cluster, folder, warehouse, overrides, STAGE_NAMES, {name: SECONDS_IN[name] for name in killed_in})
    reports, killed = {}, []
    try:
        while (line := driver.line())[0] != "end":
            if line[0] == "tasks" and line[1] not in reports:
                number = len(killed) % cluster.n_workers
                cluster.kill_worker(number)
                killed.append(line[1])
            elif line[0] == "done":
                reports[line[1]] = json.loads(line[2])
                if line[1] in killed_in:
                    if killed and killed[-1] == line[1]:
                        cluster.start_worker((len(killed) - 1) % cluster.n_workers)
                    driver.go_on()
        assert driver.process.wait(60) == 0
    finally:
        driver.close()
        print({name: report["seconds"] for name, report in reports.items()}, killed)  # pytest shows it where the test fails, or with -s
    return reports, killed, "".join(driver.errors)


def check_equal(store: Store, local: Store) -> None:
    here, there = contents(local), contents(store)
    assert {name: there[name] == here[name] for name in here} == dict.fromkeys(here, True)
    for mine, theirs in zip(published(local, AS_OF), published(store, AS_OF), strict=True):
        assert np.array_equal(mine, theirs)


def test_the_tables_of_a_local_run_though_workers_are_killed(cluster, finished, world, tmp_path):
    context, expected = finished
    warehouse = tmp_path / "warehouse"
    reports, killed, logged = run_on(cluster, tmp_path, str(warehouse), source_overrides(world), KILLED_IN)
    check_equal(Store(str(warehouse)), context.store)
    for name in SPARK_STAGES:
        figures = {key: value for key, value in expected[name].items() if key not in ("seconds", "peak_mb")}
        assert {key: reports[name][key] for key in figures} == json.loads(json.dumps(figures)), "counted once, though tasks ran twice"
    assert set(killed) <= set(KILLED_IN) and 2 * len(killed) > len(KILLED_IN), "a stage may end before its kill comes, not most of them"
    assert len(re.findall(r"Lost executor", logged)) >= len(killed)
    assert cluster.opened_of_the_driver() == []


def test_training_processes_on_executors(cluster, finished, tmp_path):
    """TorchDistributor starts them where lurm is only what --py-files brought; they train what one process trains."""
    context, expected = finished
    warehouse = tmp_path / "warehouse"
    shutil.copytree(context.store.root, warehouse, ignore=shutil.ignore_patterns("models", "lease", "runs", "work"))
    overrides = [f"smen.processes={cluster.n_workers}"]
    driver = Driver(cluster, tmp_path, str(warehouse), overrides, ["train-smen"], {})
    try:
        while (line := driver.line())[0] != "done":  # what the processes print comes out here too
            assert line[0] != "end"
        report = json.loads(line[2])
    finally:
        driver.close()
    assert report["model_id"] == context.trained_model_id() and report["steps"] == expected["train-smen"]["steps"]
    alone, together = (load_tensors(store.get_artifact("models", report["model_id"]))[0] for store in (context.store, Store(str(warehouse))))
    for name, tensor in alone.items():
        np.testing.assert_allclose(together[name].numpy(), tensor.numpy(), atol=2e-4, err_msg=name)
    assert cluster.opened_of_the_driver() == []


def test_processes_of_a_fit_on_executors(cluster, finished, tmp_path):
    """The same for k-means, to the same bytes: each has read the sample itself, what it found came from the other machines."""
    context, expected = finished
    warehouse = tmp_path / "warehouse"
    shutil.copytree(context.store.root, warehouse, ignore=shutil.ignore_patterns("spaces", "lease", "runs", "work"))
    driver = Driver(cluster, tmp_path, str(warehouse), [f"interests.processes={cluster.n_workers}"], ["fit-interests"], {})
    try:
        while (line := driver.line())[0] != "done":
            assert line[0] != "end"
        report = json.loads(line[2])
    finally:
        driver.close()
    assert report["space_id"] == expected["fit-interests"]["space_id"]
    alone, together = (store.get_artifact("spaces", report["space_id"]) for store in (context.store, Store(str(warehouse))))
    assert (alone / "centroids.npy").read_bytes() == (together / "centroids.npy").read_bytes()
    assert cluster.opened_of_the_driver() == []
