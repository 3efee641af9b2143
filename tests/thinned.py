"""Walks over every place where something can go wrong: `make test` goes to every third place, `make test-long` to all of them.

A walk names its `turn`, a number of its own (of its fault, of its case), so that walks which differ in it stop at other places and what one leaves
out another has.
"""

import pytest

WALKS = [pytest.param(3, id="every third"), pytest.param(1, id="every", marks=pytest.mark.long)]  # for parametrize("step", WALKS)


def stops(places: list[int], step: int, turn: int) -> list[int]:
    """Every `step`-th place, the first of them by `turn`."""
    return places[turn % min(step, len(places)) :: step]
