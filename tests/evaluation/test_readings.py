"""Readings of a task: figures, groups of users by history, fewer labels, and scores that are refused."""

from dataclasses import replace

import numpy as np
import pytest
from small_evaluation import PROBE, Shares, Together

from lurm.errors import InputError
from lurm.evaluation.evaluation_settings import ProbeSettings
from lurm.evaluation.feature_scales import scaled
from lurm.evaluation.readings import (
    Measures,
    _fewer,
    figures_of,
    learn_jointly,
    make_measures,
    read_features,
    read_labels_itself,
    read_scores,
    read_with_fewer_labels,
)
from lurm.evaluation.resampling import measure
from lurm.evaluation.tasks import Task


def planted(n: int = 150, classes: int = 2) -> tuple[np.ndarray, Task]:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n, 6))
    labels = np.argmax(features[:, :classes] + 0.7 * rng.standard_normal((n, classes)), axis=1)
    truth = labels[:, None] == np.arange(classes)
    return scaled(features), Task("t", "g", np.arange(n), labels, tuple("abc"[:classes]), truth, np.ones_like(truth))


def measures_of(settings: ProbeSettings, tasks: list[Task], n_events: np.ndarray) -> Measures:
    return make_measures(settings, tasks, n_events, [f"u{number}" for number in range(len(n_events))])


@pytest.mark.parametrize("probe", ["logistic", "mlp"])
@pytest.mark.parametrize("classes", [2, 3])
def test_planted_classes_are_read(probe, classes):
    rows, task = planted(classes=classes)
    measures = measures_of(replace(PROBE, mlp_repeats=1), [task], np.arange(150) + 4)
    arrays = read_features(rows, task, measures, probe)
    repeats = 1 if probe == "mlp" else 2
    assert arrays["scores"].shape == (repeats, 150, classes) and np.isfinite(arrays["scores"]).all() and arrays["seconds"] > 0
    shapes = {name: values.shape for name, values in figures_of(arrays).items()}
    assert shapes == dict.fromkeys(("auc", "accuracy", "average_precision", "auc_validation", "auc_test"), (repeats, 61))
    assert arrays["auc"][:, 0].min() > 0.75 and arrays["groups"].shape == (2,) and (arrays["groups"] > 0.7).all()


def test_groups_are_of_users_with_few_and_with_many_events():
    _, task = planted()
    n_events = np.repeat([20, 30, 40, 50, 900], 30)
    measures = measures_of(PROBE, [task], n_events)
    assert measures.group_names == ("20-30", "40-900") and measures.groups.sum(axis=1).tolist() == [60, 90]
    assert (measures.groups.sum(axis=0) == 1).all()
    assert measures_of(replace(PROBE, history_groups=1), [task], n_events).group_names == ("20-900",)
    assert measures_of(PROBE, [task], np.full(150, 7)).group_names == ("7-7",)


def test_fewer_labels_are_part_of_more_and_tell_less():
    rows, task = planted(n=300)
    measures = measures_of(replace(PROBE, label_shares=(0.1, 0.4)), [task], np.arange(300))
    fold = measures.folds["t"][0]
    few, more = (_fewer(fold, task.labels, share, 0) for share in (0.1, 0.4))
    assert set(few.train) < set(more.train) < set(fold.train) and len(few.train) == 20 and np.array_equal(few.test, fold.test)
    fit, judge = few.inner[0]
    assert set(fit) | set(judge) == set(few.train) and not set(fit) & set(judge) and set(task.labels[judge]) == {0, 1}
    found = read_with_fewer_labels(rows, task, measures, "logistic")
    assert 0.5 < found[0] < read_features(rows, task, measures, "logistic")["auc"][0, 0] + 0.02 and found[0] < found[1] + 0.05
    assert _fewer(fold, task.labels, 0.02, 0) is None
    assert np.isnan(read_with_fewer_labels(rows, task, measures_of(replace(PROBE, label_shares=(0.01,)), [task], np.arange(300)), "logistic")).all()


def test_supervised_methods_see_the_same_folds_once_and_are_held_to_their_shape():
    _, task = planted()
    measures = measures_of(PROBE, [task], np.arange(150))
    users = np.array([f"u{number}" for number in range(150)], object)
    method = Shares()
    arrays = read_labels_itself(method, users, task, measures)
    assert len(method.handed) == 3 and arrays["auc"][0, 0] == 0.5, "three folds of one repeat"
    assert [handed[1:] for handed in method.handed] == [(fold.train.tobytes(), fold.test.tobytes()) for fold in measures.folds["t"][:3]]
    method.scores = lambda *handed: np.full((2, 2), np.nan)
    with pytest.raises(InputError, match=r"Expected finite scores of the shape \(50, 2\) on t, got \(2, 2\)"):
        read_labels_itself(method, users, task, measures)


def test_joint_scores_are_of_equal_parts_measured_on_the_folds_of_all():
    rows, task = planted()
    other = replace(task, name="of some", rows=np.arange(20, 120), labels=task.labels[20:120], truth=task.truth[20:120],
                    candidates=task.candidates[20:120])  # fmt: skip
    measures = measures_of(PROBE, [task, other], np.arange(150))
    users = np.array([f"u{number}" for number in range(150)], object)
    method = Together()
    scores = learn_jointly(method, users, [task, other], PROBE)
    (handed, _, sizes), = method.handed
    assert list(handed) == users.tolist() and sizes.tolist() == [50, 50, 50] and [len(scores[name]) for name in ("t", "of some")] == [150, 100]
    right = np.stack([1 - task.labels, task.labels], axis=1).astype(float)
    assert read_scores(right, task, measures)["auc"].shape[0] == 1 and read_scores(right, task, measures)["auc"][0, 0] == 1.0
    method.scores_of_all = lambda *handed: [np.full((2, 2), np.nan)] * 2
    with pytest.raises(InputError, match=r"Expected finite scores of the shape \(150, 2\) on t, got \(2, 2\)"):
        learn_jointly(method, users, [task, other], PROBE)


def test_users_for_validation_and_for_test_are_told_apart():
    rows, task = planted()
    measures = measures_of(PROBE, [task], np.arange(150))
    assert 50 < measures.validation.sum() < 100, "half of the users, by hash"
    whole = read_features(rows, task, measures, "logistic")
    changed = np.where(measures.validation, 1 - task.labels, task.labels)
    truth = changed[:, None] == np.arange(2)
    figures = measure(replace(task, labels=changed, truth=truth), measures.folds["t"], whole["scores"], measures.weights * ~measures.validation)
    assert np.array_equal(figures["auc"].astype(np.float32), whole["auc_test"], equal_nan=True), "what users for validation do is not seen in it"
    assert not np.array_equal(whole["auc_test"], whole["auc_validation"])
    nobody = read_features(rows, task, measures_of(replace(PROBE, validation_share=0.0), [task], np.arange(150)), "logistic")
    assert "auc_validation" not in nobody and np.array_equal(nobody["auc_test"], nobody["auc"])
