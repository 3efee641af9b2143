"""The whole pipeline on a standalone master and two workers: the tables of a local run, though workers are killed in the middle of stages.

Real processes on loopback (tests/cluster/spark_cluster.py): each worker has its own scratch, working directory and Python, lurm comes with
--py-files, and the inputs and the warehouse lie on an object store, which is all that driver and workers share. Every stage is deterministic, so
the tables are compared bit for bit. tests/cluster/test_whole_runs.py does the same with real sizes and a shared folder.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from cluster_run import check_equal, run_on
from object_store import BUCKET, KEY_ID, SECRET, ObjectStore, upload
from small_pipeline import AS_OF, SMALL, STAGE_NAMES
from spark_cluster import SparkCluster

from lurm.pipeline import BY_NAME, SPARK
from lurm.store import Store
from lurm.training import load_tensors

pytestmark = pytest.mark.slow
SPARK_STAGES = [name for name in STAGE_NAMES if BY_NAME[name].engine == SPARK]
A_SHUFFLE_AND_A_WALK = ("build-pairs", "update-states")  # Spark's own shuffle, and plain tasks of ours; `make test-long`: every stage
SECONDS_IN = dict(zip(SPARK_STAGES, (0.5, 0.8, 0.1, 0.1, 0.4, 0.1, 0.1), strict=True))  # of tasks, so that some work is there to be lost


@pytest.fixture(scope="module")
def apart(tmp_path_factory) -> Path:
    """A folder in which workers, server and drivers have theirs."""
    return tmp_path_factory.mktemp("apart")


@pytest.fixture(scope="module")
def server(apart):
    running = ObjectStore(apart)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running
    running.close()


@pytest.fixture(scope="module")
def cluster(apart, server):
    running = SparkCluster(apart / "cluster", drivers_paths=[apart / "drivers"], environment=server.environment)
    yield running
    running.close()


@pytest.mark.parametrize("stages", [A_SHUFFLE_AND_A_WALK, pytest.param(SPARK_STAGES, marks=pytest.mark.long)], ids=["two stages", "every stage"])
def test_the_tables_of_a_local_run_though_a_worker_is_killed(cluster, finished, world, apart, stages):
    context, expected = finished
    upload(world, f"s3://{BUCKET}/inputs")
    overrides = [*SMALL, f"events.path=s3://{BUCKET}/inputs/events", f"items.path=s3://{BUCKET}/inputs/items"]
    store, killed_in = Store(f"s3://{BUCKET}/killed-{len(stages)}"), {name: SECONDS_IN[name] for name in stages}
    reports, killed, printed = run_on(cluster, apart / "drivers" / f"killed-{len(stages)}", {
        "warehouse": store.uri, "as_of": AS_OF, "overrides": overrides, "stages": STAGE_NAMES, "killed_in": killed_in,
    })
    check_equal(store, context.store, AS_OF)
    for name in SPARK_STAGES:
        figures = {key: value for key, value in expected[name].items() if key not in ("seconds", "peak_mb")}
        assert {key: reports[name][key] for key in figures} == json.loads(json.dumps(figures)), "counted once, though tasks ran twice"
    assert killed == list(stages)
    assert len(re.findall(r"Lost executor", printed)) >= len(killed)
    assert cluster.opened_of_the_driver() == []
    logs = [file.read_bytes() for file in (apart / "cluster").rglob("*") if file.is_file() and file.name.startswith(("log", "std"))]
    assert len(logs) > 2 and not [secret for secret in (KEY_ID, SECRET) for log in [printed.encode(), *logs] if secret.encode() in log]


def test_several_processes_on_executors(cluster, finished, apart):
    """TorchDistributor starts them where lurm is only what --py-files brought: they find the interests that one process finds, to the byte, and
    train what one process trains. Each has read the sample itself, what it found came from the other machine."""
    context, expected = finished
    warehouse = apart / "warehouse"
    shutil.copytree(context.store.root, warehouse, ignore=shutil.ignore_patterns("spaces", "models", "lease", "runs", "work"))
    overrides = [*SMALL, f"interests.processes={cluster.n_workers}", f"smen.processes={cluster.n_workers}"]
    reports, _, _ = run_on(cluster, apart / "drivers" / "several", {
        "warehouse": str(warehouse), "as_of": AS_OF, "overrides": overrides, "stages": ["fit-interests", "train-smen"], "killed_in": {},
    })
    assert reports["fit-interests"]["space_id"] == expected["fit-interests"]["space_id"]
    assert reports["train-smen"]["model_id"] == context.trained_model_id() and reports["train-smen"]["steps"] == expected["train-smen"]["steps"]
    alone, together = context.store, Store(str(warehouse))
    centroids = [(store.get_artifact("spaces", context.space_id()) / "centroids.npy").read_bytes() for store in (alone, together)]
    assert centroids[0] == centroids[1]
    weights, others = (load_tensors(store.get_artifact("models", context.trained_model_id()))[0] for store in (alone, together))
    for name, tensor in weights.items():
        np.testing.assert_allclose(others[name].numpy(), tensor.numpy(), atol=2e-4, err_msg=name)
    assert cluster.opened_of_the_driver() == []
