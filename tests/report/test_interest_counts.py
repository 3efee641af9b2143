"""Counts of interests: against a plain count of the planted lives."""

from collections import Counter

import numpy as np
from small_release import AS_OF, N_INTERESTS, N_USERS, RARE

from lurm.periods import month_name
from lurm.report.interest_counts import InterestCounts, compared_months, count_interests, kept_counts


def plain_counts(lives) -> dict[str, Counter]:
    """By loops over users, months and cells."""
    found = {name: Counter() for name in ("users", "events", "recent", "earlier")}
    for user in range(lives.n_users):
        mine = set()
        for row in range(lives.row_offsets[user], lives.row_offsets[user + 1]):
            month = month_name(int(lives.periods[row]))
            for cell in range(lives.offsets[row], lives.offsets[row + 1]):
                interest, count = int(lives.interest_ids[cell]), int(lives.counts[cell])
                mine.add(interest)
                found["events"][interest] += count
                found["recent"][interest] += count * ("2020-06" <= month <= "2020-08")
                found["earlier"][interest] += count * ("2020-03" <= month <= "2020-05")
        found["users"].update(mine)
    return found


def test_equal_to_a_plain_count(small, released):
    counts = count_interests(small.store, released.month_bags()[0], N_INTERESTS, AS_OF)
    plain = plain_counts(small.lives)
    for name, expected in plain.items():
        assert getattr(counts, name).tolist() == [expected[interest] for interest in range(N_INTERESTS)], name
    assert counts.n_users == N_USERS == counts.users[0] and counts.users[RARE] == 2
    assert (counts.recent_months, counts.earlier_months) == (("2020-06", "2020-08"), ("2020-03", "2020-05"))


def test_kept_counts_are_the_same(small, released):
    bags, _ = released.month_bags()
    for _ in range(2):
        kept, counted = kept_counts(small.store, bags, N_INTERESTS, AS_OF), count_interests(small.store, bags, N_INTERESTS, AS_OF)
        for name in InterestCounts.__dataclass_fields__:
            assert np.array_equal(getattr(kept, name), getattr(counted, name)), name


def test_the_open_month_is_in_neither_quarter():
    assert compared_months("2020-10-01")[0] == compared_months("2020-10-17")[0], "September is closed in both"
    assert [month_name(number) for number in compared_months("2020-03-31")[1]] == ["2019-09", "2019-10", "2019-11"]


def test_growth_and_who_is_shown():
    numbers = np.array([19, 20, 0])
    counts = InterestCounts(numbers, numbers, np.array([7, 0, 0]), np.array([1, 3, 0]), 40, ("a", "b"), ("c", "d"))
    assert counts.growth().tolist() == [2.0, -2.0, 0.0], "log2 of 8/2, 1/4, 1/1"
    assert counts.shown(20).tolist() == [False, True, False]
