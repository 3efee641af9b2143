"""The DAGs at rest: dates, events, arguments, imports; and one stage as a task. Running them is for test_lurm_daily.py."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from airflow_process import ROOT, airflow_environment, python
from process_family import has_ended
from published import publish_day
from test_house import imports_of

from lurm.cli import _parser
from lurm.pipeline import DAILY, SPARK, STAGES, TRAIN
from lurm.store import Store

DAGS = sorted((ROOT / "dags").glob("*.py"))
HEAVY = ("torch", "pyspark", "pandas", "great_expectations", "numpy", "pyarrow", "deltalake", "scipy", "sklearn")


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory) -> str:
    """Released at the first of December by one model, then at the first of January by another."""
    uri = str(tmp_path_factory.mktemp("dags") / "warehouse")
    publish_day(Store(uri), "2021-12-01", ["a"], model_id="model-old")
    publish_day(Store(uri), "2022-01-01", ["a", "b"], model_id="model-new")
    return uri


@pytest.fixture(scope="module")
def environment(warehouse, tmp_path_factory) -> dict[str, str]:
    return airflow_environment(tmp_path_factory.mktemp("airflow"), warehouse, ("events.path=a folder/log", "seed=3"))


# ---- dates -----------------------------------------------------------------------------------------------------------------------------

EVENING = "datetime(2022, 1, 2, 23, 30, tzinfo=timezone(timedelta(hours=-2)))"  # 01:30 of the third in UTC
DATES = {
    "resolve_as_of('2022-01-05', '2022-01-06', MIDNIGHT)": "2022-01-05",
    "resolve_as_of('2022-01-05T00:00:00', None, None)": "2022-01-05",
    "resolve_as_of('2022-01-05T02:00:00+02:00', None, None)": "2022-01-05",
    "resolve_as_of(None, '2022-01-06', MIDNIGHT)": "2022-01-06",
    "resolve_as_of('', '', MIDNIGHT)": "2022-01-02",
    f"resolve_as_of(None, None, {EVENING})": "2022-01-03",
    "resolve_as_of(None, None, None)": "Expected a date for this run, it has no partition key, no parameter as_of and no data interval (runs "
    "that are triggered by an asset or without a logical date have none); trigger it with as_of, for example 2022-01-01.",
    "resolve_as_of('week 3', '2022-01-06', MIDNIGHT)": "Expected a partition key that is a date (YYYY-MM-DD), or a midnight in UTC, got 'week "
    "3'; trigger the run again with one.",
    "resolve_as_of(None, '2022-13-01', MIDNIGHT)": "Expected the parameter as_of that is a date (YYYY-MM-DD), or a midnight in UTC, got "
    "'2022-13-01'; trigger the run again with one.",
    "resolve_as_of(None, '2022-01-05T03:00:00', None)": "Expected the parameter as_of that is a date (YYYY-MM-DD), or a midnight in UTC, got "
    "'2022-01-05T03:00:00'; trigger the run again with one.",
    "resolve_as_of(None, '20220105', None)": "Expected the parameter as_of that is a date (YYYY-MM-DD), or a midnight in UTC, got '20220105'; "
    "trigger the run again with one.",
    # the default of the form is for manual runs; a scheduled run and a backfill have dates of their own
    "date_of(run('manual', {}), {'as_of': '2022-01-09'})": "2022-01-09",
    "date_of(run('scheduled', {}), {'as_of': '2022-01-09'})": "2022-01-02",
    "date_of(run('backfill', {}), {'as_of': '2022-01-09'})": "2022-01-02",
    "date_of(run('backfill', {'as_of': '2022-01-07'}), {'as_of': '2022-01-07'})": "2022-01-07",
    "date_of(run('scheduled', None), {'as_of': None})": "2022-01-02",
    "date_of(run('manual', {}, '2022-01-04'), {'as_of': '2022-01-09'})": "2022-01-04",
    # the end of a schedule
    "check_schedule('scheduled', '2022-02-02')": "The schedule of this deployment ends at 2022-02-01 (LURM_SCHEDULE_UNTIL): nothing to do at "
    "2022-02-02.",
    "check_schedule('scheduled', '2022-02-01')": None,
    "check_schedule('manual', '2022-02-02') or check_schedule('backfill', '2022-02-02')": None,
    # models
    "resolve_model('model-0', '2022-01-02')": "model-0",
    "resolve_model('released', '2022-01-02')": "model-new",
    "resolve_model('released', '2021-12-31')": "model-old",
    "resolve_model('released', '2021-11-30')": "Expected a release on or before 2021-11-30 in {warehouse} whose model could be used, found none; "
    "train one first, or name the id of a model.",
    # events
    "announcement({'released': False}, None, None, 'scheduled')": "A candidate was committed and not released: nobody is woken.",
    "announcement({'released': True, 'epoch': 2}, CURRENT, None, 'backfill')": "A backfill fills in history: nobody is woken, whatever date it "
    "released.",
    "announcement({'released': True, 'epoch': 1}, CURRENT, None, 'manual')": "Readers follow release 2 of 2022-01-01, not release 1.",
    "announcement({'released': True, 'epoch': 2}, CURRENT, dict(CURRENT), 'manual')": "Release 2 was announced before.",
    "announcement({'released': True, 'epoch': 2}, CURRENT, {**CURRENT, 'epoch': 1}, 'manual')['epoch']": 2,
    "current_release() == CURRENT": True,
}
ASKING = """
import json, types
from datetime import datetime, timedelta, timezone
from lurm_service import announcement, check_schedule, current_release, date_of, resolve_as_of, resolve_model
MIDNIGHT = datetime(2022, 1, 2, tzinfo=timezone.utc)
CURRENT = {"epoch": 2, "as_of": "2022-01-01", "table_version": 2, "model_id": "model-new"}
def run(kind, conf, key=None):
    return types.SimpleNamespace(run_type=kind, conf=conf, partition_key=key, data_interval_end=MIDNIGHT)
answers = {}
for question in QUESTIONS:
    try:
        answers[question] = eval(question)
    except Exception as error:
        answers[question] = str(error)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(environment) -> dict:
    """All questions in one process."""
    return python(f"QUESTIONS = {list(DATES)!r}\n{ASKING}", {**environment, "LURM_SCHEDULE_UNTIL": "2022-02-01"})


@pytest.mark.parametrize("question", DATES)
def test_dates_models_and_events(answers, question, warehouse):
    expected = DATES[question]
    told = answers[question]
    assert (told.removeprefix("lurm: ") if isinstance(told, str) else told) == (
        expected.replace("{warehouse}", warehouse) if isinstance(expected, str) else expected
    )


def test_a_model_that_was_rolled_back_is_not_taken_up_again(environment, tmp_path):
    from lurm.releases import rollback

    store = Store(str(tmp_path / "warehouse"))
    publish_day(store, "2021-12-01", ["a"], model_id="model-old")
    publish_day(store, "2022-01-01", ["a"], model_id="model-bad")
    rollback(store)
    question = "import json, lurm_service; print(json.dumps(lurm_service.resolve_model('released', '2022-01-02')))"
    assert python(question, {**environment, "LURM_WAREHOUSE": store.uri}) == "model-old"


# ---- what is imported ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", DAGS, ids=lambda file: file.name)
def test_dag_files_import_airflow_the_standard_library_and_the_list_of_stages(file):
    """The example of a consumer may read the table too, inside its task."""
    for module, inside in imports_of(file):
        if inside and module == "lurm" and file.name == "lurm_example_consumer.py":
            continue
        known = module.partition(".")[0] in {"airflow", "lurm_service", *sys.stdlib_module_names}
        assert known or module.startswith("lurm.pipeline"), f"{file.name} imports {module}"


def test_parsing_is_quick_and_loads_nothing_heavy(environment):
    code = f"""
import importlib, json, sys, time
import airflow.sdk  # Airflow has it in memory before it parses anything
seconds = {{}}
for name in {[file.stem for file in DAGS]!r}:
    started = time.perf_counter()
    importlib.import_module(name)
    seconds[name] = round(time.perf_counter() - started, 3)
print(json.dumps([seconds, sorted(set(sys.modules) & set({HEAVY!r}))]))
"""
    seconds, heavy = python(code, environment)
    print(f"seconds to parse: {seconds}")
    assert heavy == [] and set(seconds) == {file.stem for file in DAGS}


# ---- what is built ---------------------------------------------------------------------------------------------------------------------

SHAPE = """
import json
import lurm_daily, lurm_train, lurm_example_consumer
def told(dag):
    tasks = [{
        "id": task.task_id, "kind": type(task).__name__, "after": sorted(task.upstream_task_ids), "pool": task.pool, "owner": task.owner,
        "retries": task.retries, "backoff": bool(task.retry_exponential_backoff), "timeout": task.execution_timeout.total_seconds(),
        "arguments": list(getattr(task, "application_args", None) or getattr(task, "arguments", None) or []),
        "application": getattr(task, "application", None), "doc": task.doc_md, "outlets": [outlet.name for outlet in task.outlets],
    } for task in dag.topological_sort()]
    return {"tasks": tasks, "doc": dag.doc_md, "catchup": dag.catchup, "active": dag.max_active_runs, "tags": sorted(dag.tags),
            "timeout": dag.dagrun_timeout and dag.dagrun_timeout.total_seconds(), "timetable": type(dag.timetable).__name__,
            "params": {name: dag.params[name] for name in dag.params}}
print(json.dumps({module.dag.dag_id: told(module.dag) for module in (lurm_daily, lurm_train, lurm_example_consumer)}))
"""


@pytest.fixture(scope="module")
def dags(environment) -> dict:
    return python(SHAPE, environment)


def test_every_pool_is_made_where_airflow_is_set_up(dags):
    """A task of a pool that nobody made waits for ever."""
    used = {task["pool"] for dag in dags.values() for task in dag["tasks"]} - {"default_pool"}
    assert used == set(json.loads((ROOT / "docker" / "pools.json").read_text()))


@pytest.mark.parametrize("dag_id, schedule", [("lurm_daily", DAILY), ("lurm_train", TRAIN)])
def test_a_dag_is_the_stages_of_its_schedule_one_after_the_other(dags, dag_id, schedule):
    tasks = dags[dag_id]["tasks"]
    stages = [stage.name for stage in STAGES if schedule in stage.schedule]
    assert [task["id"] for task in tasks] == ["resolve", *stages, "announce"]
    assert all(set(task["after"]) == {before["id"]} for before, task in zip(tasks, tasks[1:], strict=False))
    engines = {stage.name: stage.engine for stage in STAGES}
    for task in tasks[1:-1]:
        assert task["kind"] == ("SparkSubmitOperator" if engines[task["id"]] == SPARK else "StageOperator"), task["id"]
        if engines[task["id"]] == SPARK:
            assert os.path.isfile(task["application"]) and task["pool"] == "lurm_spark"
    assert [task["id"] for task in tasks if task["outlets"]] == ["announce"]
    assert [task["id"] for task in tasks if task["pool"] == "lurm_training"] == [name for name in stages if name.startswith(("train-", "fit-"))]


@pytest.mark.parametrize("dag_id", ["lurm_daily", "lurm_train", "lurm_example_consumer"])
def test_hygiene(dags, dag_id):
    dag = dags[dag_id]
    assert dag["catchup"] is False and dag["active"] == 1 and dag["tags"] and len(dag["doc"]) > 300 and dag["doc"].startswith(f"# {dag_id}")
    for task in dag["tasks"]:
        assert task["owner"] not in ("", "airflow") and task["retries"] == 2 and task["backoff"] and task["timeout"] > 0, task["id"]
    if dag_id != "lurm_example_consumer":
        assert dag["timetable"] == "CronDataIntervalTimetable" and dag["timeout"] and dag["params"]["as_of"] is None
        assert all(task["doc"] for task in dag["tasks"])


@pytest.mark.parametrize("dag_id", ["lurm_daily", "lurm_train"])
def test_the_command_line_understands_what_a_task_says(dags, dag_id, warehouse):
    """Every argument that a task passes parses; the date and the model are templates that the first task fills in."""
    for task in dags[dag_id]["tasks"][1:-1]:
        rendered = ["2022-01-02" if "as_of" in word else "model-0" if "'model'" in word else word for word in task["arguments"]]
        rendered = ["publish.release=false" if word.startswith("publish.release=") else word for word in rendered]
        assert not any("{{" in word for word in rendered), rendered
        options = _parser().parse_args([task["id"], *rendered])
        assert (options.warehouse, options.as_of) == (warehouse, "2022-01-02") and options.wait == 3600
        assert options.model == ("model-0" if dag_id == "lurm_daily" else None)
        assert options.overrides[:2] == ["events.path=a folder/log", "seed=3"]
        assert ("publish.release=false" in options.overrides) == (dag_id == "lurm_train")


def test_a_deployment_without_a_warehouse_says_so(environment):
    answer = subprocess.run([sys.executable, "-c", "import lurm_daily"], env={**environment, "LURM_WAREHOUSE": ""}, capture_output=True, text=True,
                            timeout=60, check=False)
    assert answer.stderr.strip().endswith("Expected the URI of the warehouse in LURM_WAREHOUSE, found nothing; set it for all processes of Airflow.")


def test_the_schedule_is_read_from_the_environment_and_is_in_utc(environment):
    code = """
import json
from lurm_daily import dag
print(json.dumps([dag.timetable.expression, str(dag.timetable.timezone), dag.start_date.isoformat()]))
"""
    told = python(code, {**environment, "LURM_DAILY_CRON": "0 3 * * *", "TZ": "Asia/Tokyo"})
    assert told == ["0 3 * * *", "UTC", "2000-01-01T00:00:00+00:00"]


# ---- one stage as a task ---------------------------------------------------------------------------------------------------------------


def test_a_stage_that_fails_ends_its_task_with_its_sentence(environment, warehouse):
    code = f"""
import json, lurm_service
task = lurm_service.StageOperator(task_id="publish", stage="publish", keep=("epoch",), arguments=["--warehouse", {warehouse!r}, "--as-of", "no date"])
try:
    task.execute({{}})
except Exception as error:
    print(json.dumps(str(error)))
"""
    assert python(code, environment).startswith("lurm publish ended with exit code 2: lurm: Expected --as-of as a date")


def test_killing_the_task_kills_the_stage(environment, tmp_path):
    """An interpreter that only starts a child and waits stands for a stage; the group goes with the task."""
    sleeper = tmp_path / "python"
    sleeper.write_text(f"#!/bin/sh\nsleep 300 & echo $! > {tmp_path}/child; wait\n")
    sleeper.chmod(0o755)
    code = """
import threading, lurm_service
task = lurm_service.StageOperator(task_id="t", stage="ingest", arguments=[])
def kill():
    import pathlib, time
    while not pathlib.Path(lurm_service.PYTHON).with_name("child").exists(): time.sleep(0.05)
    task.on_kill()
threading.Thread(target=kill).start()
try:
    task.execute({})
except Exception as error:
    import json; print(json.dumps(str(error)))
"""
    assert "ended with exit code -15" in python(code, {**environment, "LURM_PYTHON": str(sleeper)})
    child = int((tmp_path / "child").read_text())
    for _ in range(50):
        if has_ended(child):
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the stage's child outlived its task")


def test_only_ids_leave_a_task(environment, tmp_path):
    """What publish reports is cut down to the ids that the release needs; whatever it prints besides is log."""
    speaker = tmp_path / "python"
    report = {"released": True, "epoch": 3, "profile": {"rows": 9}}
    speaker.write_text(f"#!/bin/sh\necho 12:00 a line of log\necho '{json.dumps(report)}'\necho the end\n")
    speaker.chmod(0o755)
    code = """
import json, lurm_service
told = [lurm_service.StageOperator(task_id="t", stage="s", arguments=[], keep=keep).execute({}) for keep in ((), ("released", "epoch", "users"))]
print(json.dumps(told))
"""
    assert python(code, {**environment, "LURM_PYTHON": str(speaker)}) == [None, {"released": True, "epoch": 3}]
