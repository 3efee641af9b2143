"""The stages as plain data: in an order that works, each with a runner that exists, told apart by name."""

import ast
from pathlib import Path

import pytest

from lurm.pipeline import BY_NAME, DAILY, PYTHON, SPARK, STAGES, TRAIN
from lurm.schema import TABLES

ROOT = Path(__file__).parents[1]
OUTSIDE = {"the log", "the catalogue"}


def test_names_are_told_apart():
    assert len(BY_NAME) == len(STAGES) and list(BY_NAME) == [stage.name for stage in STAGES]


def test_what_a_stage_reads_an_earlier_one_wrote():
    there = set(OUTSIDE)
    for stage in STAGES:
        assert set(stage.reads) <= there, stage.name
        there |= set(stage.writes)
    assert {"user_embeddings", "releases"} <= there


def test_every_table_has_one_writer():
    written = [name for stage in STAGES for name in stage.writes]
    assert len(written) == len(set(written)) and set(TABLES) <= set(written)
    assert all(name in TABLES or name.startswith(("artifacts/", "staged ")) or name == "audits" for name in written)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_runner_is_a_module_with_run(stage):
    """Read, not imported: a Spark job's module needs pyspark."""
    source = (ROOT / f"{stage.runner.replace('.', '/')}.py").read_text(encoding="utf-8")
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    assert [argument.arg for argument in functions["run"].args.args] == ["context"]
    assert stage.engine == (SPARK if stage.runner.startswith("spark_jobs.") else PYTHON)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage.engine == SPARK], ids=lambda stage: stage.name)
def test_a_spark_job_can_be_submitted_under_its_own_name(stage):
    source = (ROOT / f"{stage.runner.replace('.', '/')}.py").read_text(encoding="utf-8")
    assert f'job_main("{stage.name}")' in source


def test_a_daily_run_trains_nothing():
    daily = [stage.name for stage in STAGES if DAILY in stage.schedule]
    assert daily == ["ingest", "audit-inputs", "encode-items", "assign-interests", "build-bags", "update-states", "embed-users", "publish"]
    assert all(TRAIN in stage.schedule for stage in STAGES)
    trained = {name for stage in STAGES if DAILY not in stage.schedule for name in stage.writes}
    assert {name for name in trained if name.startswith("artifacts/")} == {"artifacts/encoders", "artifacts/spaces", "artifacts/models"}
