"""The harness: nothing is computed twice, nothing later is seen, folds are shared, and one failure stops nobody else."""

import logging
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from small_evaluation import PROBE, Broken, Count, Shares, Together, Words, settings, tables

from lurm.evaluation.dataset import _catalogue, make_dataset, micros
from lurm.evaluation.evaluation_settings import MethodSettings, TaskSettings, ViewSettings
from lurm.evaluation.harness import Harness, jobs_of
from lurm.evaluation.kept_scores import KeptScores
from lurm.evaluation.readings import make_measures
from lurm.evaluation.tasks import make_tasks


class Registry(dict):
    """Factories that remember what they made."""

    def __init__(self, **kinds):
        self.made = defaultdict(list)
        super().__init__({name: lambda budget, seed, name=name, kind=kind: self.make(name, kind, seed) for name, kind in kinds.items()})

    def make(self, name, kind, seed):
        self.made[name].append(kind(None, seed, name))
        return self.made[name][-1]

    def fits(self, name: str) -> int:
        return sum(method.fits for method in self.made[name])


def run(tmp_path, registry, chosen=None, events=None, **changes):
    asked = settings(**changes)
    log, items, users = tables()
    dataset = make_dataset(asked, events or log, _catalogue(items), users)
    tasks, _ = make_tasks(dataset, asked.tasks, PROBE.folds)
    harness = Harness(asked, dataset, tasks, make_measures(PROBE, tasks, dataset.n_events, dataset.users.tolist()), KeptScores(tmp_path), registry)
    jobs = jobs_of(asked, registry)
    return harness.run(jobs, [job.method for job in jobs] if chosen is None else chosen)


def same(one, other) -> bool:
    return one.figures.keys() == other.figures.keys() and all(
        np.array_equal(one.figures[key][metric], other.figures[key][metric], equal_nan=True) for key in one.figures for metric in one.figures[key])


def test_a_second_run_fits_nothing_and_gives_the_same(tmp_path):
    methods = (MethodSettings(("words", "shares"), views=("all", "last")),)
    changes = {"methods": methods, "views": (ViewSettings("all"), ViewSettings("last", last_events=3))}
    registry = Registry(words=Words, shares=Shares)
    first = run(tmp_path, registry, **changes)
    assert registry.fits("words") == registry.fits("shares") == 2 and [outcome.job.view for outcome in first] == ["all", "all", "last", "last"]
    assert first[0].details == {"n_interests": 6} and first[0].width > 6 and first[1].width == 0 and first[0].seconds > 0
    again = Registry(words=Words, shares=Shares)
    second = run(tmp_path, again, **changes)
    assert again.fits("words") == again.fits("shares") == 0 and not any(method.handed for method in again.made["shares"])
    assert all(same(*pair) for pair in zip(first, second, strict=True)) and [outcome.width for outcome in second] == [o.width for o in first]
    # A new task is read from the features that are there; a method that learns labels has to be fitted for it.
    third = Registry(words=Words, shares=Shares)
    run(tmp_path, third, **changes, tasks=(*settings().tasks, TaskSettings("activity", name="soon", window_days=3)))
    assert third.fits("words") == 0 and third.fits("shares") == 2 and {len(method.handed) for method in third.made["shares"]} == {3}


def test_a_run_that_was_killed_goes_on_where_it_stopped(tmp_path):
    class Killed(Shares):
        def scores(self, users, labels, train, test):
            if len(self.handed) == 4:
                raise KeyboardInterrupt
            return super().scores(users, labels, train, test)

    methods = (MethodSettings(("words", "shares")),)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Registry(words=Words, shares=Killed), methods=methods)
    registry = Registry(words=Words, shares=Shares)
    outcomes = run(tmp_path, registry, methods=methods)
    n_tasks = len({task for _, task in outcomes[0].figures})
    assert registry.fits("words") == 0 and len(registry.made["shares"][0].handed) == 3 * (n_tasks - 1), "the first task was finished"
    whole = run(tmp_path / "other", Registry(words=Words, shares=Shares), methods=methods)
    assert all(same(*pair) for pair in zip(whole, outcomes, strict=True))


def test_the_future_changes_labels_and_nothing_else(tmp_path):
    log, items, users = tables()
    asked = tuple(task for task in settings().tasks if task.kind == "attribute")
    later = pa.table({"user_id": [f"u{number:03d}" for number in range(150)] * 3, "item_id": ["i07"] * 450,
                      "timestamp": pa.array([micros("2021-01-01")] * 450).cast(pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC"))})
    perturbed = pa.concat_tables([log, later])
    before, after = Registry(words=Words, count=Count), Registry(words=Words, count=Count)
    one = run(tmp_path / "one", before, tasks=asked)
    other = run(tmp_path / "other", after, events=perturbed, tasks=asked)
    assert all(same(*pair) for pair in zip(one, other, strict=True)) and after.fits("words") == 1
    seen, then = before.made["words"][0].history, after.made["words"][0].history
    assert seen.events.equals(then.events) and seen.items.equals(then.items)
    features = [next(folder.glob("words/features-*")).read_bytes() for folder in (tmp_path / "one", tmp_path / "other")]
    files = [{name: np.load(path)[name] for name in ("data", "indices", "indptr")} for folder in ("one", "other")
             for path in (tmp_path / folder).glob("words/features-*")]
    assert len(features) == 2 and all(np.array_equal(files[0][name], files[1][name]) for name in files[0])
    # The same with tasks of the future: labels change, so figures do, but what was fitted serves both.
    third = Registry(words=Words, count=Count)
    moved = run(tmp_path / "one", third, events=perturbed, tasks=(TaskSettings("activity", window_days=10), *asked), chosen=["words"])
    assert third.fits("words") == 0 and not moved[0].error


def test_every_method_is_tested_on_the_same_users_of_the_same_folds(tmp_path):
    registry = Registry(words=Words, one=Shares, two=Shares)
    outcomes = run(tmp_path, registry, methods=(MethodSettings(("words", "one")), MethodSettings(("two",), seeds=(5,))))
    one, two = registry.made["one"][0], registry.made["two"][0]
    assert one.handed == two.handed and len(one.handed) == 3 * len({task for _, task in outcomes[0].figures})
    assert same(outcomes[1], outcomes[2])


def test_a_joint_method_is_trained_once_and_again_for_other_tasks(tmp_path):
    """Its scores of a task hang on the labels of all."""
    methods = (MethodSettings(("words", "together")),)
    registry = Registry(words=Words, together=Together)
    first = run(tmp_path, registry, methods=methods)
    assert [len(method.handed) for method in registry.made["together"]] == [1] and first[1].width == 0
    assert {probe for probe, _ in first[1].figures} == {"supervised"} and len(first[1].figures) == len(first[0].figures)
    again = Registry(words=Words, together=Together)
    assert all(same(*pair) for pair in zip(first, run(tmp_path, again, methods=methods), strict=True)) and again.fits("together") == 0
    fewer = Registry(words=Words, together=Together)
    run(tmp_path, fewer, methods=methods, tasks=settings().tasks[:1])
    assert [len(method.handed) for method in fewer.made["together"]] == [1], "trained on fewer tasks it is another model"


def test_one_failure_stops_nobody_else(tmp_path, caplog):
    caplog.set_level(logging.INFO, "lurm")
    registry = Registry(words=Words, broken=Broken, count=Count)
    outcomes = run(tmp_path, registry, methods=(MethodSettings(("words", "broken", "count")),))
    assert [bool(outcome.error) for outcome in outcomes] == [False, True, False]
    assert outcomes[1].error == "ValueError: no room | for <more> than this" and not outcomes[1].figures
    lines = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    assert lines[0].startswith("[1/3] words, all, seed 0: ") and "numbers, fitted in" in lines[0] and "mean AUC" in lines[0] and len(lines) == 3
    mended = Registry(words=Words, broken=Words, count=Count)
    assert not run(tmp_path, mended, methods=(MethodSettings(("words", "broken", "count")),))[1].error, "a failure is not kept"


def test_methods_that_were_not_asked_for_are_shown_if_they_are_kept(tmp_path):
    registry = Registry(words=Words, count=Count, shares=Shares)
    methods = (MethodSettings(("words", "count", "shares")),)
    assert [outcome.job.method for outcome in run(tmp_path, registry, ["words"], methods=methods)] == ["words"]
    run(tmp_path, registry, ["count"], methods=methods)
    assert [outcome.job.method for outcome in run(tmp_path, registry, [], methods=methods)] == ["words", "count"]
    assert registry.fits("words") == registry.fits("count") == 1 and registry.fits("shares") == 0


def test_a_probe_that_is_kept_is_shown_without_the_others(tmp_path):
    registry = Registry(words=Words)
    run(tmp_path, registry, methods=(MethodSettings(("words",), probes=("logistic",)),))
    (outcome,) = run(tmp_path, registry, [], methods=(MethodSettings(("words",), probes=("logistic", "logistic-dimension")),))
    assert {probe for probe, _ in outcome.figures} == {"logistic"}
    assert run(tmp_path, registry, [], methods=(MethodSettings(("words",), probes=("logistic-dimension",)),)) == []
    both = run(tmp_path, registry, methods=(MethodSettings(("words",), probes=("logistic", "logistic-dimension")),))
    assert {probe for probe, _ in both[0].figures} == {"logistic", "logistic-dimension"} and registry.fits("words") == 1


def test_other_code_is_told(tmp_path, caplog, monkeypatch):
    run(tmp_path, Registry(words=Words), methods=(MethodSettings(("words",)),))
    monkeypatch.setattr("lurm.evaluation.harness.code_of", lambda method: "other")
    run(tmp_path, Registry(words=Words), methods=(MethodSettings(("words",)),))
    assert [record.getMessage() for record in caplog.records].count(
        "words: what is kept was made by other code; --fresh words computes it again") == 1
