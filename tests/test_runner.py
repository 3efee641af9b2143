"""Running stages: figures, a record beside the tables, and Spark started late, once, and always stopped."""

import dataclasses
import json
import logging
import sys
import types

import pytest
from published import day, rows_of, stage_day

from lurm import runner
from lurm.config import load_config
from lurm.errors import MissingInputError
from lurm.pipeline import PYTHON, STAGES, Stage
from lurm.runner import run_stages, stages_to_run
from lurm.store import Store

AS_OF = "2022-01-01"


@pytest.fixture
def context(tmp_path):
    store = Store(str(tmp_path / "warehouse"))
    stage_day(store, AS_OF, [rows_of(["a", "b"])])
    return day(store, AS_OF)


def records(context) -> list[dict]:
    folder = f"{context.store.root}/runs"
    infos = context.store.filesystem.get_file_info(runner_selector(folder))
    return [json.loads(context.store.read_bytes(info.path)) for info in infos]


def runner_selector(folder):
    import pyarrow.fs

    return pyarrow.fs.FileSelector(folder, allow_not_found=True)


def test_a_run_reports_and_is_recorded(context, caplog):
    caplog.set_level(logging.INFO, "lurm")
    reports = run_stages(context, ["publish"])
    assert reports["publish"]["users"] == 2 and reports["publish"]["seconds"] >= 0 and reports["publish"]["peak_mb"] >= 0
    (record,) = records(context)
    assert record["as_of"] == AS_OF and record["stages"]["publish"]["users"] == 2 and record["settings"]["seed"] == 17 and record["code_version"]
    lines = [line.getMessage() for line in caplog.records if line.name == "lurm"]
    assert lines[0].startswith("publish: start, as_of 2022-01-01") and lines[-1].startswith("publish: done in ")


def test_a_stage_that_fails_leaves_the_records_of_those_before(context, monkeypatch):
    class Session:
        stopped = 0

        def stop(self):
            Session.stopped += 1

    opened = []
    monkeypatch.setitem(sys.modules, "spark_jobs.session", types.SimpleNamespace(
        open_session=lambda config: opened.append(config) or Session(), active_session=lambda: None
    ))
    uses_spark = types.SimpleNamespace(run=lambda context: {"same": context.spark() is context.spark()})

    def fail(context):
        raise MissingInputError("Expected more, got less, bring more.")

    for name, module in (("uses-spark", uses_spark), ("fails", types.SimpleNamespace(run=fail))):
        monkeypatch.setitem(sys.modules, f"fake_{name}", module)
        monkeypatch.setitem(runner.BY_NAME, name, Stage(name, f"fake_{name}", PYTHON, (), (), (), ""))
    with pytest.raises(MissingInputError, match="bring more"):
        run_stages(context, ["uses-spark", "uses-spark", "fails", "publish"])
    assert len(opened) == 1 and Session.stopped == 1, "one session for all stages, stopped also after an error"
    (record,) = records(context)
    assert record["stages"]["uses-spark"]["same"] is True and set(record["stages"]) == {"uses-spark"}


def test_spark_is_not_started_for_stages_that_do_not_need_it(context, monkeypatch):
    monkeypatch.setitem(sys.modules, "spark_jobs.session", None)  # importing it would raise
    assert run_stages(context, ["publish"])["publish"]["released"]


def test_a_pinned_model_runs_the_stages_that_do_not_train():
    assert stages_to_run(None) == [stage.name for stage in STAGES]
    pinned = stages_to_run("model-1")
    assert {"ingest", "encode-items", "assign-interests", "build-bags", "embed-users", "publish"} <= set(pinned)
    assert {"build-pairs", "train-item-encoder", "fit-interests", "train-smen"}.isdisjoint(pinned)


@pytest.mark.parametrize(("stage", "override", "module"), [
    ("train-smen", "smen.processes=2", "spark_jobs.train_smen"), ("train-item-encoder", "encoder.processes=2", "spark_jobs.train_item_encoder"),
    ("train-smen", "encoder.processes=2", "lurm.smen.stage"), ("train-smen", "smen.processes=1", "lurm.smen.stage"),
    ("fit-interests", "interests.processes=2", "spark_jobs.fit_interests"), ("fit-interests", "smen.processes=2", "lurm.interests"),
])
def test_a_training_of_several_processes_is_started_by_its_spark_job(context, monkeypatch, stage, override, module):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    several = dataclasses.replace(context, config=load_config(None, [override]))
    started = []
    own = {"train-smen": "lurm.smen.stage", "train-item-encoder": "lurm.item_encoder.stage", "fit-interests": "lurm.interests"}
    for name in ("spark_jobs.train_smen", "spark_jobs.train_item_encoder", "spark_jobs.fit_interests", *own.values()):
        fake = types.SimpleNamespace(run=lambda context, name=name: started.append(name) or {})
        monkeypatch.setitem(sys.modules, name, fake)
    run_stages(several, [stage])
    assert started == [module]
    monkeypatch.setenv("WORLD_SIZE", "2")  # one of the processes of torchrun: it trains, and starts nobody
    run_stages(several, [stage])
    assert started[1:] == [own[stage]]
