"""The paired probe: its AUC is scikit-learn's, its interval covers what is planted, and labels are read as they were meant."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from lurm.errors import InputError
from lurm.evaluation.paired_probe import probe_both, read_labels, weighted_auc


def test_the_weighted_auc_is_that_of_the_rows_repeated():
    rng = np.random.default_rng(3)
    positive, scores = rng.random(60) < 0.4, rng.integers(0, 8, 60) / 4  # many ties
    weights = np.concatenate([np.ones((1, 60)), rng.integers(0, 3, (5, 60))])
    found = weighted_auc(positive, scores, weights)
    for row, value in zip(weights.astype(int), found, strict=True):
        assert value == pytest.approx(roc_auc_score(np.repeat(positive, row), np.repeat(scores, row)))
    assert weighted_auc(np.array([True, False]), np.array([0.2, 0.2]), np.ones((1, 2))) == [0.5]
    assert np.isnan(weighted_auc(np.array([True, True]), np.array([0.1, 0.2]), np.ones((1, 2)))).all()


def world(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 8) whose first number decides the label, and the labels."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, 8))
    return features, np.where(features[:, 0] + 0.5 * rng.standard_normal(n) > 0, "yes", "no").astype(object)


def test_the_same_features_differ_by_nothing_and_worse_ones_by_what_they_lost():
    features, labels = world()
    same = probe_both(features, features @ np.linalg.qr(np.random.default_rng(1).standard_normal((8, 8)))[0], labels)
    assert same["before"] > 0.9 and abs(same["difference"]["mean"]) < 1e-3 and same["difference"]["low"] <= 1e-3, "turned is the same"
    noise = np.random.default_rng(2).standard_normal(features.shape)
    worse = probe_both(features, np.c_[features[:, :1] + noise[:, :1], noise[:, 1:]], labels)
    assert worse["difference"]["high"] < 0 and worse["difference"]["low"] < worse["difference"]["mean"] < worse["difference"]["high"]
    assert worse["difference"]["mean"] == pytest.approx(worse["now"] - worse["before"]) and worse["users"] == 600 and worse["classes"] == 2
    assert probe_both(features, np.random.default_rng(4).standard_normal(features.shape), labels)["now"] == pytest.approx(0.5, abs=0.1)


def test_the_same_seed_the_same_interval_and_several_classes():
    features, _ = world()
    labels = np.digitize(features[:, 0], [-0.5, 0.5]).astype(str).astype(object)
    result = probe_both(features, features[:, ::-1], labels, seed=7, n_resampled=50)
    assert result == probe_both(features, features[:, ::-1], labels, seed=7, n_resampled=50) and result["classes"] == 3 and result["before"] > 0.85


@pytest.mark.parametrize(("labels", "sentence"), [
    (["a"] * 50, "Expected at least two classes"), ([str(number) for number in range(50)], "at most 20 classes, got 50 .* bin its values first"),
])
def test_labels_that_cannot_be_probed(labels, sentence):
    features = np.random.default_rng(0).standard_normal((50, 3))
    with pytest.raises(InputError, match=sentence):
        probe_both(features, features, np.asarray(labels, object))


def test_labels_of_a_file(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("who,bought,at\n007,1,2022-01-01\n8,0,2021-12-31T23:59:59\n9,0,2022-03-01\n9,1,2022-02-01T00:00:00Z\n,1,2022-02-01\n10,,2022-02-01\n"
                    "11,1,\n")
    labels = read_labels(str(file), "who", "bought", "at", "2022-01-01")
    assert labels.users.tolist() == ["007", "9"] and labels.labels.tolist() == ["1", "1"], "the earliest label at or after the date"
    assert (labels.rows, labels.rows_too_early, labels.rows_without, labels.rows_again) == (7, 1, 3, 1)
    timeless = read_labels(str(file), "who", "bought", None, "2022-01-01")
    assert timeless.users.tolist() == ["007", "11", "8", "9"] and timeless.labels.tolist() == ["1", "1", "0", "0"], "without a time the first"
    with pytest.raises(InputError, match="Expected a column 'sold' in .*labels.csv, found: who, bought, at"):
        read_labels(str(file), "who", "sold", None, "2022-01-01")


def test_of_many_labels_those_of_the_smallest_hashes_are_kept(tmp_path):
    """Whatever the order of the file and however often what is kept is cut back."""
    users = [f"u{number}" for number in range(500)]
    found = []
    for seed in (1, 2):
        shuffled = np.random.default_rng(seed).permutation(users).tolist()
        file = tmp_path / f"{seed}.parquet"
        pq.write_table(pa.table({"user_id": shuffled, "label": [user[-1] for user in shuffled]}), file)
        found.append(read_labels(str(file), "user_id", "label", None, "2022-01-01", most=40))
    assert len(found[0].users) == 40 and found[0].users.tolist() == found[1].users.tolist()
    assert all(user[-1] == label for user, label in zip(found[0].users, found[0].labels, strict=True))
