"""The probe: one scale, an exact rotation, folds that are stratified, and scores of unseen rows only."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from lurm.errors import InputError
from lurm.evaluation.probe import auc, make_folds, one_scale, out_of_fold_scores


def planted(n: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, width))
    return features, (features[:, 0] + 0.5 * rng.normal(size=n) > 0).astype(int)


def test_one_scale_by_hand():
    # Mean (1, 2): centred rows (-1, 0), (1, 0), (0, -2), (0, 2) with squared lengths 1, 1, 4, 4, mean 2.5.
    rows = one_scale(np.array([[0.0, 2.0], [2.0, 2.0], [1.0, 0.0], [1.0, 4.0]]))
    assert np.allclose(rows, np.array([[-1, 0], [1, 0], [0, -2], [0, 2]]) / np.sqrt(2.5))
    assert np.array_equal(one_scale(np.ones((3, 2))), np.zeros((3, 2)))


def test_wide_features_are_rotated_not_changed():
    features, labels = planted(60, 300)
    rows, direct = one_scale(features), features - features.mean(axis=0)
    direct /= np.sqrt((direct**2).sum() / 60)
    assert rows.shape[1] <= 60
    assert np.allclose(rows @ rows.T, direct @ direct.T)
    scores = out_of_fold_scores(rows, labels, folds := make_folds(labels, 3, 1, seed=0), grid=(10.0,))
    exact = LogisticRegression(C=10.0, max_iter=1_000, tol=1e-9)
    expected = [exact.fit(direct[fold.train], labels[fold.train]).decision_function(direct[fold.test]) for fold in folds]
    assert np.allclose(np.concatenate(scores), np.concatenate(expected), atol=1e-2)
    assert np.allclose(one_scale(sparse.csr_matrix(features)) @ one_scale(sparse.csr_matrix(features)).T, direct @ direct.T)


def test_scale_of_the_features_does_not_matter():
    features, labels = planted(120, 6)
    folds = make_folds(labels, 4, 1, seed=0)
    one, thousand = (out_of_fold_scores(one_scale(features * factor), labels, folds) for factor in (1.0, 1_000.0))
    assert np.allclose(np.concatenate(one), np.concatenate(thousand))
    assert auc(labels[folds[0].test], one[0]) > 0.85


def test_folds_are_stratified_seeded_and_inside_each_other():
    labels = np.array(["yes"] * 20 + ["no"] * 80)
    folds = make_folds(labels, 5, 2, seed=3)
    assert [fold.repeat for fold in folds] == [0] * 5 + [1] * 5
    for repeat in (0, 1):
        tested = np.concatenate([fold.test for fold in folds if fold.repeat == repeat])
        assert sorted(tested.tolist()) == list(range(100))
    for fold in folds:
        assert (labels[fold.test] == "yes").sum() == 4 and not set(fold.train) & set(fold.test)
        assert all(set(fit) | set(judge) <= set(fold.train) and not set(fit) & set(judge) for fit, judge in fold.inner)
    again = make_folds(labels, 5, 2, seed=3)
    assert all(np.array_equal(one.test, two.test) for one, two in zip(folds, again, strict=True))
    assert any(not np.array_equal(one.test, two.test) for one, two in zip(folds, make_folds(labels, 5, 2, seed=9), strict=True))


def test_labels_of_test_rows_are_never_seen():
    features, labels = planted(90, 8)
    folds = make_folds(labels, 3, 1, seed=0)
    upside_down = labels.copy()
    upside_down[folds[0].test] = 1 - labels[folds[0].test]
    rows = one_scale(features)
    assert np.array_equal(out_of_fold_scores(rows, labels, folds[:1])[0], out_of_fold_scores(rows, upside_down, folds[:1])[0])


def test_auc_by_hand():
    assert auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])) == 0.75  # of four pairs only (0.4, 0.35) ranks wrong
    classes = np.array([0, 1, 2])
    assert auc(classes, np.eye(3)) == 1.0


@pytest.mark.parametrize("labels", [["a"] * 30, ["a"] * 30 + ["b"] * 5])
def test_too_few_of_a_class_is_said(labels):
    with pytest.raises(InputError, match="at least two classes with 10 users each, got a: 30"):
        make_folds(np.array(labels), 5, 1, seed=0)
