"""Data of the map: what goes in comes out, and of rare interests nothing does."""

import base64
import json

import numpy as np
import pytest

from lurm.report.interest_counts import InterestCounts
from lurm.report.interest_names import InterestNames
from lurm.report.map_data import FULL_TITLES, colour_of, map_data


def unpacked(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def counts_of(users: np.ndarray) -> InterestCounts:
    return InterestCounts(users, users * 3, users + 7, np.full(len(users), 1), 100, ("2021-10", "2021-12"), ("2021-07", "2021-09"))


def test_values_come_back_in_the_order_of_users():
    users, layout = np.array([25, 3, 90, 20]), np.array([[-1, 0], [1, 1], [0.5, -1], [0, 0]], np.float32)
    alpha = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.6, 0.4]], np.float32)
    names = InterestNames([["a"], ["secret"], ["c", "d"], []], [["A"], ["Secret title"], [], ["D1", "D2"]])
    data = map_data(layout, counts_of(users), alpha, names, 20)
    assert unpacked(data["ids"], "<u4").tolist() == [2, 0, 3, 1] and (data["n"], data["n_shown"]) == (4, 3)
    assert unpacked(data["users"], "<u4").tolist() == [90, 25, 20] and unpacked(data["events"], "<u4").tolist() == [270, 75, 60]
    assert unpacked(data["anchor"], "<u2").tolist() == [1, 0, 0]
    assert (unpacked(data["share"], "u1") / 255).tolist() == pytest.approx([0.8, 0.9, 0.6], abs=0.003)
    assert (unpacked(data["growth"], "<i2") / 256).tolist() == pytest.approx(np.log2([98 / 2, 33 / 2, 28 / 2]), abs=0.003)
    x, y = (unpacked(data[name], "<u2") / 65_535 * 2 for name in "xy")
    assert np.allclose(np.column_stack([x, y]), layout[[2, 0, 3, 1]] + 1, atol=1e-4), "one scale for both directions"
    assert data["names"] == ["c · d", "a", "interest 3"] and data["titles"] == [[], ["A"], ["D1", "D2"]]
    assert "ecret" not in json.dumps(data)


def test_nothing_is_told_of_an_interest_below_k_however_it_is_looked_at():
    users = np.array([19, 19])
    names = InterestNames([["hush"], ["hush"]], [["Hush"], ["Hush"]])
    data = map_data(np.zeros((2, 2)), counts_of(users), np.ones((2, 1)), names, 20)
    told = {name for name, value in data.items() if isinstance(value, str) and value}
    assert told == {"ids", "x", "y"} and data["names"] == data["titles"] == [] and data["n_shown"] == 0
    with pytest.raises(ValueError, match="at least 1"):
        map_data(np.zeros((2, 2)), counts_of(users), np.ones((2, 1)), names, 0)


def test_many_interests_have_one_short_title_each():
    n = FULL_TITLES + 1
    names = InterestNames([["w"]] * n, [["x" * 80, "y"]] * n)
    data = map_data(np.random.default_rng(0).random((n, 2)), counts_of(np.full(n, 50)), np.ones((n, 1)), names, 20)
    assert data["titles"][0] == ["x" * 55 + "…"]
    assert len(json.dumps(data, separators=(",", ":"))) < 120 * n


def test_the_first_of_many_equals_are_spread_over_the_map_and_the_same_each_time():
    n = 2_000
    users, layout = np.repeat([50, 3], n // 2), np.column_stack([np.arange(n), np.zeros(n)])
    names = InterestNames([["w"]] * n, [["x"]] * n)
    once, again = (map_data(layout, counts_of(users), np.ones((n, 1)), names, 20) for _ in range(2))
    assert once == again
    ids = unpacked(once["ids"], "<u4")
    for group, first in ((ids[: n // 2], 0), (ids[n // 2 :], n // 2)):
        assert sorted(group) == list(range(first, first + n // 2))
        quarters = np.bincount((group[:200] - first) // (n // 8), minlength=4)
        assert quarters.min() > 25, "two hundred of a thousand come from every quarter of the line"


def test_anchors_have_colours_of_their_own():
    assert len({colour_of(anchor) for anchor in range(24)}) == 24
