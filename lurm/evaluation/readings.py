"""What a probe, or a method that learns labels itself, gets on one task: scores out of fold, their figures, and the seconds it took.

In: rows of features (n, d) of all evaluated users, or a fitted `SupervisedMethod`; a task and its folds, the same for every method. Out:
arrays by name, ready to be kept: `scores` (repeats, n, C), `seconds`, the figures of `resampling.measure` under their metric's name, and
`groups` (g,), the AUC of users with few to many events.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lurm.errors import InputError
from lurm.evaluation.baselines.method import JointMethod, Question, SupervisedMethod
from lurm.evaluation.evaluation_settings import ProbeSettings
from lurm.evaluation.linear_probe import linear_scores
from lurm.evaluation.mlp_probe import mlp_scores
from lurm.evaluation.probe import Fold, make_folds
from lurm.evaluation.resampling import AUC, AUC_TEST, AUC_VALIDATION, METRICS, draw_users, measure, spread
from lurm.evaluation.tasks import Task
from lurm.sampling import hash_of_text

VALIDATION_SEED = 29  # of its own: who is for validation has nothing to do with folds and samples


@dataclass(frozen=True)
class Measures:
    """What is the same for all methods of a data set."""

    settings: ProbeSettings
    folds: dict[str, list[Fold]]  # by task, all repeats
    weights: np.ndarray  # (1 + resamples, users) float64
    groups: np.ndarray  # (g, users) float64: 1 for the users of a group by number of events
    group_names: tuple[str, ...]
    validation: np.ndarray  # (users,) bool: by whom recipes may be chosen

    def folds_of(self, task: Task, n_repeats: int) -> list[Fold]:
        return [fold for fold in self.folds[task.name] if fold.repeat < n_repeats]

    def repeats_of(self, kind: str) -> int:
        """Of a probe's name, or `supervised`."""
        most = self.settings.repeats
        if kind == "supervised":
            return min(most, self.settings.supervised_repeats)
        return min(most, self.settings.mlp_repeats) if kind.startswith("mlp") else most


def make_measures(settings: ProbeSettings, tasks: Sequence[Task], n_events: np.ndarray, users: Sequence[str]) -> Measures:
    """Folds of every task, resamples of the users (n_events,), groups of about equal size by number of events, and who is for validation."""
    folds = {task.name: make_folds(task.labels, settings.folds, settings.repeats, settings.seed, n_inner=1) for task in tasks}
    shares = np.linspace(0, 1, settings.history_groups + 1)[1:-1]  # empty for one group
    edges = np.unique(np.quantile(n_events, shares, method="higher")) if len(shares) else np.zeros(0)
    number = np.searchsorted(edges, n_events, side="right")
    groups = number == np.unique(number)[:, None]
    names = tuple(f"{n_events[group].min()}-{n_events[group].max()}" for group in groups)
    weights = draw_users(len(n_events), settings.resamples, settings.seed)
    validation = hash_of_text(users, VALIDATION_SEED) < settings.validation_share
    return Measures(settings, folds, weights, groups.astype(np.float64), names, validation)


def read_features(rows: np.ndarray, task: Task, measures: Measures, probe: str) -> dict[str, np.ndarray]:
    """A probe on features that are scaled already, rows (users, d)."""
    began = time.perf_counter()
    folds = measures.folds_of(task, measures.repeats_of(probe))
    return _figures(task, folds, _probe(rows[task.rows], task, folds, measures.settings, probe), measures, began)


def read_labels_itself(method: SupervisedMethod, users: np.ndarray, task: Task, measures: Measures) -> dict[str, np.ndarray]:
    """A fitted method that trains on the labels of each fold; raises InputError for scores of another shape or not finite."""
    began = time.perf_counter()
    folds = measures.folds_of(task, measures.repeats_of("supervised"))
    parts = []
    for fold in folds:
        part = np.asarray(method.scores(users[task.rows].tolist(), task.labels, fold.train, fold.test), np.float64)
        _check_scores(part, (len(fold.test), len(task.classes)), task)
        parts.append(part)
    return _figures(task, folds, parts, measures, began)


def learn_jointly(method: JointMethod, users: np.ndarray, tasks: Sequence[Task], settings: ProbeSettings) -> dict[str, np.ndarray]:
    """Task → (n, C) scores of a fitted method that trains on the labels of all tasks together, and never on those of a part it scores.

    As many parts as there are folds, of the same size, by hash; raises InputError for scores of another shape or not finite.
    """
    parts = np.argsort(np.argsort(hash_of_text(users.tolist(), settings.seed), kind="stable")) % settings.folds
    questions = [Question(task.rows, task.labels, len(task.classes)) for task in tasks]
    found = dict(zip((task.name for task in tasks), method.scores_of_all(users.tolist(), questions, parts), strict=True))
    for task in tasks:
        _check_scores(found[task.name], (len(task.rows), len(task.classes)), task)
    return found


def read_scores(scores: np.ndarray, task: Task, measures: Measures) -> dict[str, np.ndarray]:
    """Scores (n, C) of all of a task's users, measured on the folds of everybody's first repeats."""
    began = time.perf_counter()
    folds = measures.folds_of(task, measures.repeats_of("supervised"))
    return _figures(task, folds, [scores[fold.test] for fold in folds], measures, began)


def read_with_fewer_labels(rows: np.ndarray, task: Task, measures: Measures, probe: str) -> np.ndarray:
    """(shares,) AUC of the probe where it learns from a share of the training users; NaN where a share lacks a class.

    A smaller share is part of a larger one, and all methods learn from the same users. The first repeat alone.
    """
    found = []
    for share in measures.settings.label_shares:
        folds = [_fewer(fold, task.labels, share, measures.settings.seed) for fold in measures.folds_of(task, 1)]
        if any(fold is None for fold in folds):
            found.append(np.nan)
            continue
        parts = _probe(rows[task.rows], task, folds, measures.settings, probe)
        found.append(measure(task, folds, spread(task, folds, parts), measures.weights[:1])[AUC][0, 0])
    return np.array(found)


def figures_of(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The metrics among kept arrays."""
    return {metric: arrays[metric] for metric in METRICS if metric in arrays}


def _check_scores(scores: np.ndarray, shape: tuple[int, int], task: Task) -> None:
    if scores.shape != shape or not np.isfinite(scores).all():
        raise InputError(f"Expected finite scores of the shape {shape} on {task.name}, got {scores.shape}; mend the method's scores.")


def _figures(task: Task, folds: list[Fold], parts: Sequence[np.ndarray], measures: Measures, began: float) -> dict[str, np.ndarray]:
    scores = spread(task, folds, parts)
    groups = measure(task, folds, scores, measures.groups)[AUC].mean(axis=0)
    figures = measure(task, folds, scores, measures.weights)
    for metric, part in ((AUC_VALIDATION, measures.validation), (AUC_TEST, ~measures.validation)):
        if part[task.rows].any():
            figures[metric] = measure(task, folds, scores, measures.weights * part)[AUC]
    kept = {metric: values.astype(np.float32) for metric, values in figures.items()}
    return {"scores": scores, "groups": groups, **kept, "seconds": np.array(time.perf_counter() - began)}


def _probe(rows: np.ndarray, task: Task, folds: list[Fold], settings: ProbeSettings, probe: str) -> list[np.ndarray]:
    if probe.startswith("mlp"):  # of a ranking it learns the first new interest, as supervised methods do
        return mlp_scores(rows, task.labels, folds, settings.seed)
    return linear_scores(rows, task.truth, task.candidates, folds, settings.grid, task.scored)


def _fewer(fold: Fold, labels: np.ndarray, share: float, seed: int) -> Fold | None:
    """The fold with a share of its training users; a fifth of these chooses C. None where a class would have fewer than four."""
    order = np.random.default_rng(seed).permutation(fold.train)[: max(1, round(share * len(fold.train)))]
    kept = np.sort(order)
    if np.bincount(labels[kept], minlength=labels.max() + 1).min() < 4:
        return None
    classes = [kept[labels[kept] == one] for one in range(labels.max() + 1)]
    judge = np.sort(np.concatenate([one[: max(1, len(one) // 5)] for one in classes]))
    return Fold(fold.repeat, kept, fold.test, [(np.setdiff1d(kept, judge), judge)])
