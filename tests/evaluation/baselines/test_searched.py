"""A search over settings: what wins on the history's own task is fitted on all of it, and what was tried is told."""

import math

import numpy as np
import pytest

from lurm.evaluation.baselines.behaviours import behaviours_of
from lurm.evaluation.baselines.method import Budget, Method
from lurm.evaluation.baselines.registry import CANDIDATES, METHODS, make_method
from lurm.evaluation.baselines.searched import Searched


class Knowing:
    """Tells the planted preference by `strength`, among noise; remembers which dates it was fitted at."""

    def __init__(self, kinds: dict[str, int], seen: list, strength: float = 0.0):
        self.name, self.details, self.kinds, self.seen, self.strength = "knowing", {"width": 4}, kinds, seen, strength

    def fit(self, history) -> None:
        self.seen.append((self.strength, history.as_of, len(behaviours_of(history).items)))

    def embed(self, users) -> np.ndarray:
        noise = np.random.default_rng(0).normal(size=(len(users), 4)).astype(np.float32)
        return noise + np.float32(self.strength) * np.array([[self.kinds.get(user, 0)] for user in users], np.float32).reshape(-1, 1)


def test_the_best_on_the_past_is_fitted_on_everything(tiny):
    kinds, seen = dict(zip(tiny.users, tiny.labels)), []
    method = Searched("x", lambda **settings: Knowing(kinds, seen, **settings), {"strength": (0.0, 10.0, 0.1)}, seed=1)
    method.fit(tiny.history)
    dates = [(strength, as_of) for strength, as_of, _ in seen]
    assert dates == [(0.0, "2020-10-01"), (10.0, "2020-10-01"), (0.1, "2020-10-01"), (10.0, "2021-01-01")]
    assert seen[-1][2] > seen[0][2], "the past is a part of it"
    assert method.details["strength"] == 10.0 and method.details["width"] == 4
    assert set(method.details["search"]) == {"strength=0.0", "strength=10.0", "strength=0.1"}
    assert method.details["search"]["strength=10.0"] == max(method.details["search"].values())
    assert isinstance(method, Method) and np.array_equal(method.embed(tiny.users), method.chosen.embed(tiny.users))


@pytest.mark.parametrize("name, setting", [("sumn", "learning_rate"), ("userbert-ml", "learning_rate"), ("tfidf", "ngrams"), ("word2vec", "window")])
def test_a_registered_search_reaches_the_method(tiny, name, setting):
    if name == "word2vec":
        pytest.importorskip("gensim")
    budget = Budget(steps=2, batch_size=6, max_behaviours=8)
    method = make_method(f"{name}-searched", budget, 0)
    method.fit(tiny.history)
    assert len(method.details["search"]) == math.prod(len(values) for values in CANDIDATES[name].values()) > 1
    chosen = {setting: method.details[setting] for setting in CANDIDATES[name]}
    for settings, same in ((chosen, True), ({**chosen, setting: 2 * chosen[setting]}, False)):
        fixed = METHODS[name](budget, 0, **settings)
        fixed.fit(tiny.history)
        assert np.array_equal(dense(fixed.embed(tiny.users)), dense(method.embed(tiny.users))) == same


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_search_begins_with_what_the_method_is_without_it(name):
    """So a search that tells nothing changes nothing."""
    if name in ("word2vec", "doc2vec-dbow"):
        pytest.importorskip("gensim")
    plain, first = METHODS[name](Budget(), 0), METHODS[name](Budget(), 0, **{setting: values[0] for setting, values in CANDIDATES[name].items()})
    assert vars(plain) == vars(first)


def dense(rows) -> np.ndarray:
    return rows if isinstance(rows, np.ndarray) else rows.toarray()
