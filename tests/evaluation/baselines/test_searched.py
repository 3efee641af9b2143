"""A search over settings: what wins on the history's own task is fitted on all of it, and what was tried is told."""

import numpy as np

from lurm.evaluation.baselines.behaviours import behaviours_of
from lurm.evaluation.baselines.learning import LEARNING_RATE
from lurm.evaluation.baselines.method import Budget, Method
from lurm.evaluation.baselines.registry import LEARNING_RATES, make_method
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


def test_a_registered_search_reaches_the_training(tiny):
    assert LEARNING_RATES[0] == LEARNING_RATE, "a search that tells nothing changes nothing"
    method = make_method("sumn-searched", Budget(steps=2, batch_size=6, max_behaviours=8), 0)
    method.fit(tiny.history)
    assert len(method.details["search"]) == len(LEARNING_RATES) and method.chosen.learning_rate == method.details["learning_rate"]
    fixed = make_method("sumn", Budget(steps=2, batch_size=6, max_behaviours=8), 0)
    fixed.learning_rate = method.details["learning_rate"]
    fixed.fit(tiny.history)
    assert np.array_equal(fixed.embed(tiny.users), method.embed(tiny.users))
    other = make_method("sumn", Budget(steps=2, batch_size=6, max_behaviours=8), 0)
    other.learning_rate = 10 * fixed.learning_rate
    other.fit(tiny.history)
    assert not np.array_equal(other.embed(tiny.users), fixed.embed(tiny.users))
