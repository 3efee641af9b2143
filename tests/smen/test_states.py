"""A life cut at any month and taken up again is the whole life, to the bit."""

import numpy as np
import pytest
import torch
from test_smen_inference import random_lives

from lurm.bag_of_interests import Lives, add_counts
from lurm.periods import month_name
from lurm.schema import MONTH, YEAR
from lurm.smen import SMEN, inference, recurrence, states
from lurm.smen.inference import embed
from lurm.smen.states import advance, can_keep_states, finish, fold, open_month, silence

GRID = 600  # 2020-01
INFO = {"grid_start": GRID, "year_blocks": "calendar", "scales": ["month", "year"]}


def model(scales=(MONTH, YEAR), shared=True, memory="") -> SMEN:
    smen = SMEN(25, n_anchors=10, dim=16, scales=scales, shared_gru=shared, memory=bool(memory), activity=memory == "active")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in smen.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
        if memory:
            smen.memory.normal_(generator=generator)
            smen.memory_length.fill_(2.5)
        if smen.activity_scale:
            smen.activity_weights.uniform_(0.5, 1.5, generator=generator)
            smen.activity_means.uniform_(0.5, 1.5, generator=generator)
    return smen.eval().requires_grad_(False)


def years_of(months: Lives) -> Lives:
    users = np.repeat(np.arange(months.n_users), np.diff(months.row_offsets))
    cells = np.diff(months.offsets)
    years = add_counts(np.repeat(users, cells), np.repeat(months.periods // 12, cells), months.interest_ids, months.counts)
    present = years.user_ids.astype(np.int64)
    offsets = np.zeros(months.n_users + 1, np.int64)
    offsets[present + 1] = np.diff(years.row_offsets)
    return Lives(months.user_ids, offsets.cumsum(), years.periods, years.offsets, years.interest_ids, years.counts)


def between(lives: Lives, start: int, stop: int) -> Lives:
    """The rows of periods in [start, stop)."""
    rows = np.flatnonzero((lives.periods >= start) & (lives.periods < stop))
    owners = np.repeat(np.arange(lives.n_users), np.diff(lives.row_offsets))[rows]
    cells = np.concatenate([np.arange(lives.offsets[row], lives.offsets[row + 1]) for row in rows] or [np.zeros(0, np.int64)])
    offsets = np.concatenate([[0], np.diff(lives.offsets)[rows].cumsum()]).astype(np.int64)
    return Lives(lives.user_ids, np.searchsorted(owners, np.arange(lives.n_users + 1)), lives.periods[rows], offsets,
                 lives.interest_ids[cells], lives.counts[cells])


def whole_and_cut(smen: SMEN, months: Lives, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings at month number `end`, from whole lives and from states at the open month."""
    info, alpha = INFO | {"scales": list(smen.scales)}, smen.anchor_weights(torch.arange(25))
    cut, year = end - 1, (end - 1) // 12
    closed_years = years_of(between(months, 0, year * 12))
    open_years = years_of(between(months, 0 if year == GRID // 12 else year * 12, end))
    kept = fold(smen, info, between(months, 0, cut), closed_years, f"{month_name(cut)}-01", alpha)
    cut_off = finish(smen, kept, {MONTH: between(months, cut, end), YEAR: open_years}, alpha)
    return embed(smen, info, months, years_of(between(months, 0, end)), end), cut_off


@pytest.mark.parametrize("end", [602, 611, 612, 613, 624, 636, 641])  # in the first year, at the ends of years and after them
@pytest.mark.parametrize(("scales", "shared"), [((MONTH, YEAR), True), ((MONTH, YEAR), False), ((MONTH,), True), ((YEAR,), True)])
@pytest.mark.parametrize("memory", ["", "of interests", "active"])
def test_a_life_cut_at_the_open_month_is_the_whole_life(end, scales, shared, memory):
    whole, cut_off = whole_and_cut(model(scales, shared, memory), random_lives(40), end)
    assert np.array_equal(whole, cut_off) and np.isfinite(whole).all()


@pytest.mark.parametrize("n_users", [1, 2, 7])
def test_few_users_are_rounded_like_many(n_users):
    smen, lives = model(), random_lives(40)
    whole, _ = whole_and_cut(smen, lives, 636)
    chosen = np.arange(3, 3 + n_users)
    _, few = whole_and_cut(smen, lives.take(chosen), 636)
    assert np.array_equal(few, whole[chosen])


@pytest.mark.parametrize(("n_anchors", "dim"), [(3, 32), (2, 16), (4, 24)])
def test_how_many_others_there_are_changes_nothing(n_anchors, dim):
    """Numbers of users that leave one over in a piece, few rows in a product, or numbers that fill no vector of the processor."""
    smen, lives = SMEN(25, n_anchors=n_anchors, dim=dim, memory=True, activity=True).eval().requires_grad_(False), random_lives(260)
    smen.memory.normal_(generator=torch.Generator().manual_seed(3))
    everybody, _ = whole_and_cut(smen, lives, 636)
    for n_users in (1, 2, 3, 10, 127, 257):
        whole, cut_off = whole_and_cut(smen, lives.take(np.arange(n_users)), 636)
        assert np.array_equal(whole, everybody[:n_users]) and np.array_equal(cut_off, everybody[:n_users]), n_users


@pytest.mark.parametrize("at_once", [1, 3, 39])
@pytest.mark.parametrize("n_anchors", [1, 2, 10])
def test_pieces_of_few_rows_are_rounded_like_many(at_once, n_anchors, monkeypatch):
    """One user with one anchor is one row of a product."""
    smen = SMEN(25, n_anchors=n_anchors, dim=16).eval().requires_grad_(False)
    with torch.no_grad():
        for weight in smen.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    whole, together = whole_and_cut(smen, random_lives(40), 636)
    monkeypatch.setattr(states, "USERS_AT_A_TIME", at_once)
    monkeypatch.setattr(recurrence, "ROWS_AT_A_TIME", at_once)
    monkeypatch.setitem(inference.PERIODS_PER_BATCH, "cpu", 1)
    again, in_pieces = whole_and_cut(smen, random_lives(40), 636)
    assert np.array_equal(whole, together) and np.array_equal(whole, in_pieces) and np.array_equal(whole, again)


@pytest.mark.parametrize("memory", ["", "active"])
def test_advancing_month_by_month_is_folding(memory):
    smen, lives = model(memory=memory), random_lives(40)
    alpha = smen.anchor_weights(torch.arange(25))
    kept = fold(smen, INFO, between(lives, 0, 605), years_of(between(lives, 0, 600)), f"{month_name(605)}-01", alpha)
    for number in range(605, 640):
        kept[MONTH] = advance(smen, MONTH, kept[MONTH], between(lives, number, number + 1), alpha)
        if (number + 1) % 12 == 0:  # the first year of the grid takes what came before it
            start = 0 if number // 12 == GRID // 12 else number - 11
            kept[YEAR] = advance(smen, YEAR, kept[YEAR], years_of(between(lives, start, number + 1)), alpha)
    folded = fold(smen, INFO, between(lives, 0, 640), years_of(between(lives, 0, 636)), f"{month_name(640)}-01", alpha)
    assert np.array_equal(kept[MONTH], folded[MONTH]) and np.array_equal(kept[YEAR], folded[YEAR])


def test_silence_is_the_state_of_a_user_without_events():
    smen, lives = model(), random_lives(2)
    nobody, alpha = between(lives, 0, 0), smen.anchor_weights(torch.arange(25))
    kept = fold(smen, INFO, nobody, nobody, "2022-03-01", alpha)
    for scale, row in silence(smen, INFO, "2022-03-01").items():
        assert np.array_equal(kept[scale], np.tile(row, (2, 1))) and np.abs(row).max() > 0


@pytest.mark.parametrize(("as_of", "month"), [("2022-01-01", "2021-12"), ("2022-01-02", "2022-01"), ("2022-02-01", "2022-01")])
def test_the_open_month(as_of, month):
    assert open_month(as_of) == month


def test_who_can_keep_states():
    assert can_keep_states(INFO, "2020-02-02") and not can_keep_states(INFO, "2020-02-01") and not can_keep_states(INFO, "2019-05-01")
    assert not can_keep_states(INFO | {"year_blocks": "rolling"}, "2021-01-01")
    assert can_keep_states(INFO | {"year_blocks": "rolling", "scales": ["month"]}, "2021-01-01")
