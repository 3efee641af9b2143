"""Both DAGs for real, once: `dag.test()` trains at a date, then brings the table to a later one, on a small world."""

import subprocess
from datetime import UTC, datetime

import numpy as np
import pytest
from airflow_process import TELL, airflow_environment, python
from small_pipeline import SMALL, published, source_overrides

from lurm import open_table
from lurm.pipeline import DAILY, STAGES, TRAIN
from lurm.releases import releases
from lurm.store import Store

TRAINED, DAY = "2021-02-01", "2021-02-16"


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    """The store, and what Airflow says of a training at TRAINED, of the day DAY, and of a consumer."""
    folder = tmp_path_factory.mktemp("dag_test")
    environment = airflow_environment(folder / "home", str(folder / "warehouse"), (*SMALL, *source_overrides(world)))
    subprocess.run(["airflow", "db", "migrate"], env=environment, check=True, capture_output=True, timeout=180)
    # Manual runs at a logical date: its data interval ends at the midnight before, and is used where no parameter is given.
    evening = datetime.fromisoformat(DAY).replace(hour=18, tzinfo=UTC)
    train = python(f"import lurm_train\nrun = lurm_train.dag.test(run_conf={{'as_of': {TRAINED!r}}})\n{TELL}", environment, 900)
    daily = python(f"import datetime, lurm_daily\nrun = lurm_daily.dag.test(logical_date={evening!r})\n{TELL}", environment, 600)
    reader = python(f"import lurm_example_consumer\nrun = lurm_example_consumer.dag.test()\n{TELL}", environment, 120)
    return Store(str(folder / "warehouse")), {"lurm_train": train, "lurm_daily": daily, "consumer": reader}


@pytest.mark.parametrize("dag_id, schedule", [("lurm_train", TRAIN), ("lurm_daily", DAILY)])
def test_every_task_succeeds(runs, dag_id, schedule):
    told = runs[1][dag_id]
    assert told["state"] == "success"
    assert told["tasks"] == dict.fromkeys(["resolve", *(stage.name for stage in STAGES if schedule in stage.schedule), "announce"], "success")


def test_the_table_is_released_twice_by_one_model(runs):
    store, _ = runs
    moves = releases(store)
    assert [(move["as_of"], move["current"]) for move in moves] == [(TRAINED, True), (DAY, True)]
    assert moves[0]["model_id"] == moves[1]["model_id"]
    users, vectors = published(store, DAY)
    assert len(users) == len(set(users)) > 250 and np.isfinite(vectors).all() and (np.abs(vectors).sum(axis=1) > 0).all()


def test_each_release_is_announced_once_with_its_ids(runs):
    store, told = runs
    expected = [{name: move[name] for name in ("epoch", "as_of", "table_version", "model_id")} for move in releases(store)]
    assert told["lurm_train"]["events"] == expected[:1]
    assert told["lurm_daily"]["events"] == expected


def test_xcom_carries_ids_only(runs):
    for told in runs[1].values():
        for task_id, _, value in told["xcoms"]:
            assert task_id in ("resolve", "publish", "read_table") and len(str(value)) < 400, value
    model_id = releases(runs[0])[0]["model_id"]
    assert [value for task_id, key, value in runs[1]["lurm_daily"]["xcoms"] if (task_id, key) == ("resolve", "return_value")] in (
        [{"as_of": DAY, "model": model_id}], [f'{{"as_of": "{DAY}", "model": "{model_id}"}}'],
    )


def test_the_consumer_reads_what_readers_follow(runs):
    told = runs[1]["consumer"]
    table = open_table(runs[0].uri)
    assert told["state"] == "success" and (table.as_of, table.epoch) == (DAY, 2)
    assert f"'epoch': {table.epoch}" in str(told["xcoms"]).replace('"', "'") and str(table.n_users) in str(told["xcoms"])
