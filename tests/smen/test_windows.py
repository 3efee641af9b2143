"""Windows of a life: always inside the active span, never silent, as long as promised, half of the pairs disjoint."""

import time
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as some

from lurm.bag_of_interests import Lives
from lurm.config import SmenSettings
from lurm.smen.windows import draw_windows, trainable_users, windows_of

SETTINGS = SmenSettings()


def lives_of(active_months):
    """One event of interest (month modulo 5) in every month named."""
    rows = np.array([len(months) for months in active_months])
    periods = np.concatenate([sorted(months) for months in active_months]).astype(np.int32)
    cells = np.arange(len(periods) + 1)
    offsets = np.concatenate([[0], np.cumsum(rows)])
    return Lives(np.array([f"u{i}" for i in range(len(rows))], object), offsets, periods, cells, (periods % 5).astype(np.int32),
                 np.ones(len(periods), np.int32))


life = some.sets(some.integers(600, 660), min_size=2, max_size=20)


@examples(max_examples=60, deadline=None)
@given(some.lists(life, min_size=1, max_size=5), some.integers(0, 2**32), some.sampled_from([0.0, 0.5, 1.0]))
def test_every_window_is_inside_the_span_long_enough_and_not_silent(active_months, seed, share):
    settings = replace(SETTINGS, disjoint_share=share)
    pair = draw_windows(lives_of(active_months), np.random.default_rng(seed), settings)
    for side in pair:
        for user, start, end in zip(side.users, side.starts, side.ends, strict=True):
            months = active_months[user]
            span = max(months) + 1 - min(months)
            assert min(months) <= start < end <= max(months) + 1
            assert end - start >= min(span, max(3, -(-span // 5)))
            assert any(start <= month < end for month in months)
    if share == 1.0:
        for left_end, right_start, months in zip(pair[0].ends, pair[1].starts, active_months, strict=True):
            span = max(months) + 1 - min(months)
            assert left_end <= right_start or span < 2 * max(3, -(-span // 5))


def test_half_of_the_pairs_are_disjoint_and_lengths_cover_the_whole_range():
    lives = lives_of([range(600, 640)] * 4_000)  # 40 months: at least 8 a window
    left, right = draw_windows(lives, np.random.default_rng(0), SETTINGS)
    disjoint = (left.ends <= right.starts) | (right.ends <= left.starts)
    assert 0.47 < disjoint.mean() < 0.57  # half by draw, and a few of the free pairs by chance
    left, _ = draw_windows(lives, np.random.default_rng(0), replace(SETTINGS, disjoint_share=0.0))
    lengths = np.bincount(left.ends - left.starts, minlength=41)
    assert lengths[:8].sum() == 0 and (lengths[8:] > 4_000 / 33 * 0.6).all()  # uniform over 8 .. 40


def test_long_silences_still_give_active_windows():
    lives = lives_of([[600, 1_000]] * 50)  # 399 silent months between two active ones
    left, right = draw_windows(lives, np.random.default_rng(3), SETTINGS)
    for side in (left, right):
        assert (((side.starts <= 600) & (side.ends > 600)) | ((side.starts <= 1_000) & (side.ends > 1_000))).all()


def test_users_with_one_active_month_are_not_trained_on():
    assert trainable_users(lives_of([[600], [600, 601], [700], [610, 650]])).tolist() == [1, 3]


def test_a_windows_own_end_is_its_reference_date_and_its_bags_hold_its_months_only():
    lives = lives_of([range(606, 636)] * 20)
    rng = np.random.default_rng(5)
    left, _ = draw_windows(lives, np.random.default_rng(5), SETTINGS)
    (months, years), _ = windows_of(lives, rng, SETTINGS, grid_start=600)
    assert months.n_steps.tolist() == (left.ends - 600).tolist()
    assert years.n_steps.tolist() == ((left.ends - 1) // 12 - 50 + 1).tolist()
    for user in range(20):
        steps = months.steps[months.users == user]
        assert steps.tolist() == list(range(left.starts[user] - 600, left.ends[user] - 600))
        events = months.counts.new_zeros(20).index_add(0, months.users[np.repeat(np.arange(len(months.users)), months.offsets.diff())],
                                                       months.counts)[user]
        assert events == left.ends[user] - left.starts[user]
    assert years.counts.sum() == months.counts.sum()


def test_scales_that_are_not_used_are_not_built_and_the_seed_decides():
    lives = lives_of([range(600, 620)] * 3)
    (months, years), _ = windows_of(lives, np.random.default_rng(0), replace(SETTINGS, scales="year"), 600)
    assert months is None and years is not None
    (again, _), _ = windows_of(lives, np.random.default_rng(0), replace(SETTINGS, scales="month"), 600)
    (other, _), _ = windows_of(lives, np.random.default_rng(1), SETTINGS, 600)
    (first, _), _ = windows_of(lives, np.random.default_rng(0), SETTINGS, 600)
    assert again.steps.tolist() == first.steps.tolist() != other.steps.tolist()


def test_it_is_fast_enough_to_feed_training():
    lives = lives_of([range(600, 648)] * 2_000)
    start = time.process_time()
    windows_of(lives, np.random.default_rng(0), SETTINGS, 600)
    assert 2_000 / (time.process_time() - start) > 5_000  # users a second on one core; about 100,000 when measured
