"""A frozen method whose settings are chosen by a small search before it is fitted, without any label: the effort that LURM's recipe got.

In: how the method is made, and candidates of its settings. Out: the method with the candidates that win on a task made of the history itself
(`own_task`): each is trained on the history up to three months before the cut, with the whole budget, and its vectors tell what users act on in
these months; the winner is then trained on the whole history. What each candidate got stands in `details`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import sparse

from lurm.evaluation.baselines.behaviours import behaviours_of
from lurm.evaluation.baselines.method import History, Method
from lurm.evaluation.baselines.own_task import search


class Searched:
    """Frozen; `make` takes the settings that are searched, by name, and gives the method."""

    def __init__(self, name: str, make: Callable[..., Method], candidates: Mapping[str, tuple], seed: int):
        self.name, self.make, self.candidates, self.seed = name, make, candidates, seed
        self.chosen = make()
        self.details: dict = {}

    def fit(self, history: History) -> None:
        first = {name: values[0] for name, values in self.candidates.items()}
        settings, judged = search(history, first, self.candidates, self._represent, self.seed)
        self.chosen = self.make(**settings)
        self.chosen.fit(history)
        self.details = {**self.chosen.details, **settings, "search": judged}

    def embed(self, users: Sequence[str]) -> np.ndarray | sparse.csr_matrix:
        return self.chosen.embed(users)

    def _represent(self, past: History, settings: dict) -> np.ndarray | sparse.csr_matrix:
        method = self.make(**settings)
        method.fit(past)
        return method.embed(behaviours_of(past).users)
