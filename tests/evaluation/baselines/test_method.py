"""What the interface promises beyond types: nothing can be changed after the fact."""

import dataclasses

import pytest

from lurm.evaluation.baselines.method import Budget, Method, SupervisedMethod
from lurm.evaluation.baselines.popularity import Popularity


def test_history_and_budget_cannot_be_changed(tiny):
    for thing in (tiny.history, Budget()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            thing.seed = 1


def test_the_two_kinds_of_methods_can_be_told_apart():
    popularity = Popularity("popularity", Budget(), 0)
    assert isinstance(popularity, SupervisedMethod) and not isinstance(popularity, Method)
