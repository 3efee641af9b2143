"""Purity, mutual information and attribute AUC: numbers worked out by hand, perfect and useless answers, and errors."""

import numpy as np
import pytest

from lurm.errors import InputError
from lurm.evaluation.recovery import attribute_auc, interest_recovery, purity

ITEMS = list("pqrstu")
TRUTH = dict(zip(ITEMS, [7, 7, 9, 9, 9, 7], strict=True))
INTERESTS = [0, 0, 0, 5, 5, 5]  # interest 0 holds 7, 7, 9 and interest 5 holds 9, 9, 7


def test_recovery_by_hand():
    found = interest_recovery(ITEMS, INTERESTS, TRUTH)
    assert found.purity == pytest.approx(4 / 6) and purity(ITEMS, INTERESTS, TRUTH) == found.purity
    assert found.chance == pytest.approx(3 / 6)
    # Both entropies are ln 2; what is shared is ln 2 minus the entropy of (1/3, 2/3) = 0.6931 - 0.6365.
    assert found.mutual_information == pytest.approx((np.log(2) - (np.log(3) / 3 + 2 / 3 * np.log(1.5))) / np.log(2))
    assert (found.n_items, found.n_interests, found.n_topics) == (6, 2, 2)


def test_weights_count_items_several_times():
    weights = [3, 1, 1, 1, 1, 1]
    repeated = interest_recovery([*ITEMS, "p", "p"], [*INTERESTS, 0, 0], TRUTH)
    found = interest_recovery(ITEMS, INTERESTS, TRUTH, weights)
    assert found.purity == pytest.approx(6 / 8) == repeated.purity  # 4 of p and q in interest 0, 2 of s and t in interest 5
    assert found.chance == pytest.approx(5 / 8) and found.mutual_information == pytest.approx(repeated.mutual_information)


def test_perfect_and_useless_interests():
    rng = np.random.default_rng(0)
    topics = rng.integers(0, 5, 4_000)
    items = [f"i{n}" for n in range(4_000)]
    truth = dict(zip(items, topics.tolist(), strict=True))
    perfect = interest_recovery(items, 10 - topics, truth)
    assert perfect.purity == 1 and perfect.mutual_information == pytest.approx(1)
    useless = interest_recovery(items, rng.integers(0, 5, 4_000), truth)
    assert useless.purity < useless.chance + 0.03 and useless.mutual_information < 0.01
    alone = interest_recovery(items, np.zeros(4_000, int), truth)
    assert alone.purity == alone.chance and alone.mutual_information == pytest.approx(0, abs=1e-12)
    one_each = interest_recovery(items, np.arange(4_000), truth)
    assert one_each.purity == pytest.approx(1) and one_each.mutual_information < 0.5


def test_recovery_errors():
    with pytest.raises(InputError, match="a topic for every item, got none for 'x'"):
        purity(["p", "x"], [0, 0], TRUTH)
    with pytest.raises(InputError, match="one interest for each of at least one item, got 1 for 2"):
        purity(["p", "q"], [0], TRUTH)
    with pytest.raises(InputError, match="got 0 for 0"):
        purity([], [], TRUTH)


def planted(n_classes: int) -> tuple[list[str], np.ndarray, dict[str, object]]:
    rng = np.random.default_rng(n_classes)
    classes = np.arange(300) % n_classes
    embeddings = rng.normal(size=(300, 1_280)).astype(np.float32)
    embeddings[:, :n_classes] += 14 * np.eye(n_classes)[classes]
    users = [f"u{n}" for n in range(300)]
    return users, embeddings, {user: f"class {c}" for user, c in zip(users, classes.tolist(), strict=True)}


@pytest.mark.parametrize("n_classes", [2, 4])
def test_planted_attribute_is_found_and_chance_is_not(n_classes):
    users, embeddings, labels = planted(n_classes)
    found = attribute_auc(users, embeddings, labels, seed=5)
    assert found["auc"] > 0.9 and 0.4 < found["chance"] < 0.6
    assert found["n_users"] == 300 and found["n_classes"] == n_classes and found["seconds"] < 20
    again = attribute_auc(users, embeddings, labels, seed=5)
    assert {**again, "seconds": 0} == {**found, "seconds": 0}


def test_users_without_a_label_are_left_out():
    users, embeddings, labels = planted(2)
    partial = {**{user: label for user, label in labels.items() if user != "u7"}, "u8": None}
    found = attribute_auc(users, embeddings, partial, seed=5)
    without = [place for place in range(300) if place not in (7, 8)]
    assert found["n_users"] == 298
    assert found["auc"] == attribute_auc([users[place] for place in without], embeddings[without], labels, seed=5)["auc"]


def test_noise_has_no_attribute():
    users, embeddings, labels = planted(2)
    noise = np.random.default_rng(1).normal(size=embeddings.shape)
    assert 0.38 < attribute_auc(users, noise, labels, seed=5)["auc"] < 0.62
