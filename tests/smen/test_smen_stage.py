"""Who SMEN is trained on and who is held out: a matter of the user alone."""

import numpy as np
import pytest

from lurm.config import SmenSettings
from lurm.smen.stage import Split

USERS = np.array([f"user-{number}" for number in range(20_000)], dtype=object)


@pytest.mark.parametrize("n_users", [100, 20_000, 10**7])
def test_nobody_is_on_both_sides(n_users):
    split = Split(17, SmenSettings(held_out_share=0.1, max_users=10_000), n_users)
    assert not (split.is_held_out(USERS) & split.is_trained_on(USERS)).any()


def test_everybody_is_on_one_side_when_they_are_few():
    split = Split(17, SmenSettings(held_out_share=0.1, max_users=1_000_000), len(USERS))
    assert (split.is_held_out(USERS) ^ split.is_trained_on(USERS)).all()
    assert abs(split.is_held_out(USERS).mean() - 0.1) < 0.01


def test_of_many_users_about_max_users_are_trained_on():
    split = Split(17, SmenSettings(held_out_share=0.1, max_users=5_000), len(USERS))
    assert abs(split.is_trained_on(USERS).sum() - 4_500) < 250, "max_users counts held-out users too"
    assert abs(split.is_held_out(USERS).mean() - 0.1) < 0.01, "however many there are"


def test_nobody_changes_sides_when_others_come():
    few, many = (Split(17, SmenSettings(max_users=5_000), n) for n in (6_000, 20_000))
    assert np.array_equal(few.is_held_out(USERS), many.is_held_out(USERS))
    assert not (many.is_trained_on(USERS) & ~few.is_trained_on(USERS)).any(), "more users make the sample thinner, never another"
    assert np.array_equal(few.is_held_out(USERS[::-1]), few.is_held_out(USERS)[::-1])


def test_another_seed_is_another_split():
    one, two = (Split(seed, SmenSettings(held_out_share=0.5), 10).is_held_out(USERS) for seed in (17, 18))
    assert 0.4 < (one == two).mean() < 0.6
