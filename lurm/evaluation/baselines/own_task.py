"""A task that a history can ask of itself, so that settings can be chosen without any label of the evaluation.

In: a history, candidates of settings, a function from (history, settings) to a representation of its users. Out: the candidate whose
representation of the time before the last `MONTHS` months best tells which categories (or items, where there are no categories) a user acts
on in these months. Everything lies before the cut; the users of every fold's test part are never those that were trained on.
"""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow.compute as pc
from scipy import sparse
from sklearn.metrics import roc_auc_score

from lurm.evaluation.baselines.behaviours import behaviours_of, places_of
from lurm.evaluation.baselines.method import History
from lurm.evaluation.probe import one_scale

MONTHS = 3
MOST_TASKS, MOST_USERS = 10, 1_500
FEWEST_POSITIVE = 0.05
RIDGE = 1e-2

Represent = Callable[[History, dict], np.ndarray | sparse.csr_matrix]


def search(
    history: History, settings: Mapping[str, object], candidates: Mapping[str, tuple], represent: Represent, seed: int
) -> tuple[dict, dict[str, float]]:
    """(the chosen settings, mean AUC of each candidate); `candidates` names values of some settings, all others stay."""
    names = [name for name in settings if name in candidates]
    if not names:
        return dict(settings), {}
    past, users, labels = own_task(history)
    if not labels.shape[1]:
        return dict(settings), {}
    judged, best = {}, (-1.0, dict(settings))
    places = places_of(behaviours_of(past), users)
    for values in itertools.product(*(candidates[name] for name in names)):
        tried = {**settings, **dict(zip(names, values))}
        score = mean_auc(one_scale(represent(past, tried)[places]), labels, seed)
        judged[", ".join(f"{name}={value}" for name, value in zip(names, values))] = score
        if score > best[0]:
            best = (score, tried)
    return best[1], judged


def own_task(history: History, months: int = MONTHS) -> tuple[History, np.ndarray, np.ndarray]:
    """(history up to `months` before the cut, (n,) users active before and after, (n, tasks) bool of what they do after).

    Tasks are the categories (items without categories: the items themselves) whose share of acting users is nearest to one half, at most
    ten; users are at most 1,500.
    """
    early = f"{np.datetime64(history.as_of[:7], 'M') - months}-{min(int(history.as_of[8:]), 28):02d}"
    moment = np.datetime64(early, "us").astype(np.int64)
    micros = history.events["timestamp"].cast("int64")
    past = History(history.events.filter(pc.less(micros, int(moment))), history.items, early, history.seed)
    whole = behaviours_of(history)
    late = whole.micros >= moment
    n_early, n_late = (np.bincount(whole.owners[side], minlength=len(whole.users)) for side in (~late, late))
    chosen = np.flatnonzero((n_early > 0) & (n_late > 0))
    chosen = chosen[:: max(1, len(chosen) // MOST_USERS)][:MOST_USERS]
    names, tags = item_tags(whole.categories, whole.item_ids)
    counts = sparse.csr_matrix((late.astype(np.float32), (whole.owners, whole.items)), shape=(len(whole.users), len(whole.item_ids)))
    done = (counts @ tags)[chosen] > 0
    share = np.asarray(done.mean(axis=0)).ravel()
    usable = np.flatnonzero((share >= FEWEST_POSITIVE) & (share <= 1 - FEWEST_POSITIVE))
    usable = usable[np.argsort(np.abs(share[usable] - 0.5), kind="stable")[:MOST_TASKS]]
    return past, whole.users[chosen], np.asarray(done[:, usable].todense())


def item_tags(categories: list[list[str]], item_ids: np.ndarray) -> tuple[list[str], sparse.csr_matrix]:
    """(names, (I, names) 0/1 float32): the categories of every item, or the item itself where no item has a category."""
    if not any(categories):
        return list(item_ids), sparse.identity(len(item_ids), dtype=np.float32, format="csr")
    names = sorted({name for row in categories for name in row})
    number = {name: place for place, name in enumerate(names)}
    lengths = np.array([len(set(row)) for row in categories])
    columns = np.array([number[name] for row in categories for name in sorted(set(row))], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return names, sparse.csr_matrix((np.ones(len(columns), np.float32), columns, offsets), shape=(len(categories), len(names)))


def mean_auc(rows: np.ndarray, labels: np.ndarray, seed: int, n_folds: int = 3) -> float:
    """Mean AUC of a ridge regression on rows (n, d) over tasks, labels (n, tasks) bool, out of fold."""
    part = np.random.default_rng(seed).integers(0, n_folds, len(rows))
    found = []
    for fold in range(n_folds):
        train, test = part != fold, part == fold
        gram = rows[train].T @ rows[train]
        weights = np.linalg.solve(
            gram + RIDGE * len(rows) * np.eye(rows.shape[1]) / rows.shape[1], rows[train].T @ (labels[train] - labels[train].mean(axis=0))
        )
        scores = rows[test] @ weights
        found += [
            roc_auc_score(labels[test, task], scores[:, task])
            for task in range(labels.shape[1])
            if 0 < labels[test, task].sum() < test.sum()
        ]
    return float(np.mean(found)) if found else 0.5
