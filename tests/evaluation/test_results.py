"""Rows of results: a planted difference lies in its interval, the same method differs by nothing, and seeds and tasks are averaged."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_evaluation import PROBE, settings

from lurm.evaluation.baselines.method import Budget
from lurm.evaluation.evaluation_settings import MethodSettings
from lurm.evaluation.feature_scales import scaled
from lurm.evaluation.harness import Job, Outcome
from lurm.evaluation.readings import figures_of, make_measures, read_features
from lurm.evaluation.results import RESULTS, RUNS, contrast_rows, result_rows, run_rows, write_rows
from lurm.evaluation.tasks import Task

N = 400


def planted() -> tuple[list[Task], dict[str, np.ndarray]]:
    """Two tasks, and features that tell them with less and with more noise."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((N, 2))
    tasks = []
    for place, name in enumerate(("one", "two")):
        labels = (hidden[:, place] + 0.5 * rng.standard_normal(N) > 0).astype(np.int64)
        truth = np.stack([labels == 0, labels == 1], axis=1)
        tasks.append(Task(name, "g", np.arange(N), labels, ("no", "yes"), truth, np.ones_like(truth)))
    good = hidden + 0.3 * rng.standard_normal(hidden.shape)
    return tasks, {"words": good, "same": good.copy(), "worse": good + 1.5 * rng.standard_normal(good.shape)}


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    tasks, features = planted()
    measures = make_measures(PROBE, tasks, np.arange(N), [f"u{number}" for number in range(N)])
    outcomes = []
    for name, seed in (("words", 0), ("same", 0), ("worse", 0), ("worse", 1)):
        shift = 0.1 * np.random.default_rng(seed).standard_normal((N, 2)) if name == "worse" else 0
        outcome = Outcome(Job(name, "all", seed, ("logistic",), Budget(), seed == 0), 2, 1.0, 2.0)
        for task in tasks:
            arrays = read_features(scaled(features[name] + shift), task, measures, "logistic")
            outcome.figures["logistic", task.name], outcome.groups["logistic", task.name] = figures_of(arrays), arrays["groups"]
            outcome.shares[task.name] = np.array([0.7])
        outcomes.append(outcome)
    chosen = settings(methods=(MethodSettings(("words", "same", "worse", "absent")),), probe=PROBE,
                      contrasts=("noise: words - worse", "gone: words - absent"))
    return [*result_rows(chosen, tasks, outcomes, measures), *contrast_rows(chosen, tasks, outcomes, measures)]


def one(rows: list[dict], **wanted) -> dict:
    found = [row for row in rows if all(row[name] == value for name, value in {"part": "", "metric": "auc", "seed": None, **wanted}.items())]
    assert len(found) == 1
    return found[0]


def test_the_same_method_differs_by_exactly_nothing(rows):
    for row in rows:
        if row["method"] in ("same", "words") and not row["part"]:  # words is the baseline
            assert (row["difference"], row["diff_low"], row["diff_high"]) == (0, 0, 0) and row["low"] < row["value"] < row["high"]


def test_a_planted_difference_lies_in_its_interval_and_that_is_narrower_than_the_figures(rows):
    whole = one(rows, method="worse", task="mean")
    # The truth: what noise of 1.5 costs, from a sample that the interval has not seen.
    rng = np.random.default_rng(9)
    hidden = rng.standard_normal((40_000, 2))
    yes = hidden[:, 0] + 0.5 * rng.standard_normal(40_000) > 0
    good = hidden[:, 0] + 0.3 * rng.standard_normal(40_000)
    def area(scores):
        ranks = scores.argsort().argsort()
        return (ranks[yes].sum() - yes.sum() * (yes.sum() - 1) / 2) / (yes.sum() * (~yes).sum())
    truth = area(good + 1.5 * rng.standard_normal(40_000)) - area(good)
    assert whole["diff_low"] < truth < whole["diff_high"] < 0 and whole["diff_low"] < whole["difference"] < whole["diff_high"]
    assert whole["difference"] == pytest.approx(whole["value"] - one(rows, method="words", task="mean")["value"])


def test_means_are_over_tasks_groups_and_seeds(rows):
    for method in ("words", "worse"):
        tasks = [one(rows, method=method, task=name)["value"] for name in ("one", "two")]
        assert one(rows, method=method, task="mean")["value"] == pytest.approx(np.mean(tasks)) == one(rows, method=method, task="mean of g")["value"]
    seeds = [one(rows, method="worse", task="one", seed=seed)["value"] for seed in (0, 1)]
    assert seeds[0] != seeds[1] and one(rows, method="worse", task="one")["value"] == pytest.approx(np.mean(seeds))
    assert {row["metric"] for row in rows} == {"auc", "accuracy", "average_precision", "auc_validation", "auc_test"}


def test_a_contrast_is_the_difference_turned_around(rows):
    assert {row["part"] for row in rows if "contrast" in row["part"]} == {"contrast noise: words - worse"}, "absent has not run"
    for task in ("mean", "one"):
        turned, plain = one(rows, method="words", task=task, part="contrast noise: words - worse"), one(rows, method="worse", task=task)
        assert turned["baseline"] == "worse"
        for side, other in (("difference", "difference"), ("diff_low", "diff_high"), ("diff_high", "diff_low")):
            assert turned[side] == pytest.approx(-plain[other], abs=1e-6)


def test_parts_of_users_and_of_labels(rows):
    parts = {row["part"]: row for row in rows if row["method"] == "words" and row["part"].startswith(("events", "labels"))}
    assert list(parts) == ["events 0-199", "events 200-399", "labels 50 %", "labels 100 %"]
    assert parts["labels 50 %"]["value"] == pytest.approx(0.7) and parts["events 0-199"]["n_users"] == 200


def test_rows_fit_their_schemas(rows, tmp_path):
    write_rows(tmp_path / "r.parquet", rows, RESULTS)
    read = pq.read_table(tmp_path / "r.parquet")
    assert read.schema.equals(RESULTS) and read.num_rows == len(rows) and not list(tmp_path.glob("*.part"))
    job = Job("lurm-bag-d6", "all", 0, ("logistic",), Budget(), True)
    runs = run_rows(settings(), [Outcome(job, 6, details={"n_interests": 6}), Outcome(job, error="no")], n_items=48)
    write_rows(tmp_path / "runs.parquet", runs, RUNS)
    assert pq.read_table(tmp_path / "runs.parquet")["items_per_interest"].to_pylist() == [8.0, None] and '"steps": 300' in runs[0]["budget"]
