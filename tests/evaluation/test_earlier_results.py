"""A table that grew over two runs: what only the earlier one has is shown, and results that do not fit are refused."""

from contextlib import nullcontext
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_evaluation import FILES, PROBE, Count, Shares, Words, settings, write_tables

from lurm.errors import InputError
from lurm.evaluation.evaluation import evaluate
from lurm.evaluation.evaluation_settings import MethodSettings
from lurm.evaluation.results import RESULTS

METHODS = {"words": Words, "count": Count, "shares": Shares}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("data"))


def run(data, directory, *names: str, earlier=None, **changes):
    attributes = tuple(task for task in settings().tasks if task.kind == "attribute")
    contrasts = ("both: words - count",) if "count" in names else ()
    asked = replace(settings(data=FILES, methods=(MethodSettings(names),), tasks=attributes, contrasts=contrasts), **changes)
    registry = {name: lambda budget, seed, name=name: METHODS[name](budget, seed, name) for name in names}
    return evaluate(asked, str(data), str(directory), registry=registry, earlier=str(earlier) if earlier else None)


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    return folder, run(data, folder, "words", "count")


def whole(rows: list[dict]) -> dict[str, dict]:
    return {row["method"]: row for row in rows if (row["task"], row["metric"], row["seed"], row["part"]) == ("mean", "auc", None, "")}


def test_methods_that_this_run_lacks_are_shown_and_those_it_has_are_its_own(data, first, tmp_path):
    folder, before = first
    found = run(data, tmp_path, "words", "shares", earlier=folder)
    assert set(whole(found.rows)) == {"words", "count", "shares"} and whole(found.rows)["count"] == whole(before.rows)["count"]
    assert len([row for row in found.rows if row["method"] == "words" and row["task"] == "mean" and not row["part"]]) == \
        len([row for row in before.rows if row["method"] == "words" and row["task"] == "mean" and not row["part"]]), "not twice"
    assert {run["method"] for run in found.runs} == {"words", "count", "shares"} and len(found.runs) == 3
    assert found.facts[-1] == "of an earlier run, and not run again: count" and "| count |" in found.markdown
    assert [row["part"] for row in found.rows if row["part"].startswith("contrast") and row["task"] == "mean" and row["metric"] == "auc"] == \
        ["contrast both: words - count"]
    third = run(data, tmp_path / "third", "words", "count", "shares", earlier=tmp_path)  # what was written has all three
    assert third.facts[-1] == "the earlier run has no method that this one lacks" and len(third.runs) == 3
    assert pq.read_table(tmp_path / "results.parquet").num_rows == len(found.rows)


def test_results_that_do_not_fit_are_refused(data, first, tmp_path):
    folder, _ = first
    with pytest.raises(InputError, match=r"Expected results.parquet of an evaluation in .*nowhere, got .*; --earlier takes the --directory"):
        run(data, tmp_path, "words", earlier=tmp_path / "nowhere")
    with pytest.raises(InputError, match=f"Expected results of other in .*, got those of {settings().name}; mend --earlier"):
        run(data, tmp_path, "words", earlier=folder, name="other")
    with pytest.raises(InputError, match=r"to have the tasks of this run .* got another set \(first: age\)"):
        run(data, tmp_path, "words", earlier=folder, tasks=tuple(task for task in settings().tasks if task.column == "kind"))
    with pytest.raises(InputError, match=r"Expected words at \d+\.\d in .* too \(view all, probe logistic, \w+.*\), got \d+\.\d: other users, folds"):
        run(data, tmp_path, "words", earlier=folder, probe=replace(PROBE, seed=99))
    rows = pq.read_table(folder / "results.parquet").to_pylist()
    for change, said in (({"n_users": 7}, r"users of .* in .* too \(view all\), got 7: other data"), ({"value": 0.4}, r"got 40\.0: other users")):
        changed = [{**row, **change} if row["task"] == "age" and row["metric"] == "auc" else row for row in rows]
        with pytest.raises(InputError, match=said):
            run(data, tmp_path / "more", "words", earlier=written(tmp_path, changed, folder))


def test_rounding_may_move_a_task_but_not_the_mean(data, first, tmp_path):
    folder, _ = first
    rows = pq.read_table(folder / "results.parquet").to_pylist()
    for task, fits in (("age", True), ("mean", False)):
        moved = [{**row, "value": row["value"] + 0.01} if row["task"] == task and row["metric"] == "auc" else row for row in rows]
        with nullcontext() if fits else pytest.raises(InputError, match=r"\(view all, probe logistic, mean\), got"):
            found = run(data, tmp_path / "more", "words", earlier=written(tmp_path, moved, folder))
    assert "| count |" in found.markdown


def written(directory, rows: list[dict], runs_of):
    pq.write_table(pa.Table.from_pylist(rows, RESULTS), directory / "results.parquet")
    pq.write_table(pq.read_table(runs_of / "runs.parquet"), directory / "runs.parquet")
    return directory


def test_files_of_other_columns_are_refused(data, tmp_path):
    for name in ("results", "runs"):
        (tmp_path / f"{name}.parquet").unlink(missing_ok=True)
        pq.write_table(pa.table({"method": ["words"]}), tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match=r"Expected the columns dataset, view, .* got method; run that evaluation again"):
        run(data, tmp_path / "more", "words", earlier=tmp_path)
