"""Does lurm find what a synthetic world planted? Interests against topics, embeddings against planted attributes.

In: the interest of every item and the world's truth; user embeddings and the world's labels. Out: a few figures, each beside chance.
Used by the demo, by tests and by benchmarks on worlds of `lurm.synthetic`; real data has no truth of this kind.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lurm.errors import InputError
from lurm.evaluation.probe import auc, make_folds, one_scale, out_of_fold_scores

ATTRIBUTE_GRID = (1.0, 10.0, 100.0)


@dataclass(frozen=True)
class InterestRecovery:
    """How far interests are the planted topics; shares are of items, or of their weights."""

    purity: float  # share whose interest's most frequent topic is theirs
    chance: float  # purity of a single interest: the largest topic's share
    mutual_information: float  # of interest and topic, over the mean of their entropies: 0 nothing in common, 1 the same partition
    n_items: int
    n_interests: int  # that have an item
    n_topics: int


def purity(item_ids: Sequence[str], interest_ids: Sequence[int], truth: Mapping[str, int], weights: Sequence[float] | None = None) -> float:
    """Share of items (or of `weights`, such as their events) whose interest's most frequent topic is theirs."""
    return interest_recovery(item_ids, interest_ids, truth, weights).purity


def interest_recovery(
    item_ids: Sequence[str], interest_ids: Sequence[int], truth: Mapping[str, int], weights: Sequence[float] | None = None
) -> InterestRecovery:
    """Compare interests with topics.

    item_ids (n,) text, interest_ids (n,) int, weights (n,) float or None for 1 each; truth maps every item to its topic. Purity rises
    with the number of interests by itself (an interest per item has purity 1), so read it beside the mutual information.
    """
    missing = next((item for item in item_ids if item not in truth), None)
    if missing is not None:
        raise InputError(f"Expected a topic for every item, got none for {missing!r}; pass the truth of the world that the items are of.")
    if len(item_ids) == 0 or len(item_ids) != len(interest_ids):
        raise InputError(
            f"Expected one interest for each of at least one item, got {len(interest_ids)} for {len(item_ids)}; pass aligned arrays."
        )
    topics, topic = np.unique([truth[item] for item in item_ids], return_inverse=True)
    interests, interest = np.unique(np.asarray(interest_ids), return_inverse=True)
    table = np.zeros((len(interests), len(topics)))  # mass of items of the interest in the topic
    np.add.at(table, (interest, topic), 1.0 if weights is None else np.asarray(weights, dtype=np.float64))
    purity_found, chance = table.max(axis=1).sum() / table.sum(), table.sum(axis=0).max() / table.sum()
    table /= table.sum()
    entropies = _entropy(table.sum(axis=1)) + _entropy(table.sum(axis=0))
    shared = entropies - _entropy(table.ravel())
    return InterestRecovery(
        purity=float(purity_found),
        chance=float(chance),
        mutual_information=float(2 * shared / entropies) if entropies > 0 else 1.0,
        n_items=len(item_ids),
        n_interests=len(interests),
        n_topics=len(topics),
    )


def attribute_auc(
    user_ids: Sequence[str], embeddings: np.ndarray, labels: Mapping[str, object], seed: int, n_folds: int = 5
) -> dict[str, float]:
    """AUC of a planted attribute from frozen embeddings, by a logistic regression on one global scale, beside chance.

    user_ids (n,) text; embeddings (n, width) float; labels maps users to a class, users without one (or None) are left out. Two classes
    give the AUC of the larger name, more give the macro mean of one-vs-rest. The figure is the mean over seeded, stratified folds;
    `chance` is the same on the same folds with labels shuffled, so it should be near 0.5: far from it, something leaks.
    """
    began = time.perf_counter()
    kept = np.array([place for place, user in enumerate(user_ids) if labels.get(user) is not None], dtype=np.int64)
    named = np.array([str(labels[user_ids[place]]) for place in kept])
    folds = make_folds(named, n_folds, 1, seed, n_inner=1)
    rows = one_scale(np.asarray(embeddings)[kept])
    rng, shuffled = np.random.default_rng(seed), named.copy()
    for fold in folds:
        shuffled[fold.test] = rng.permutation(named[fold.test])  # within a part, so that the parts stay stratified
    found = {}
    for name, target in (("auc", named), ("chance", shuffled)):
        grid = ATTRIBUTE_GRID if name == "auc" else ATTRIBUTE_GRID[:1]
        scores = out_of_fold_scores(rows, target, folds, grid)
        found[name] = float(np.mean([auc(target[fold.test], score) for fold, score in zip(folds, scores, strict=True)]))
    return {**found, "n_users": len(kept), "n_classes": len(np.unique(named)), "seconds": time.perf_counter() - began}


def _entropy(shares: np.ndarray) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())
