"""Explanations: exact within a period, complete over time, and true to what happens when an interest is taken away."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_release import AS_OF, DIM, N_ANCHORS, N_INTERESTS

from lurm.bag_of_interests import Lives, add_counts
from lurm.periods import end_month
from lurm.report.explanation import explain, module_contributions, without_interest
from lurm.smen.batches import SparseBags
from lurm.smen.inference import embed
from lurm.smen.model import SMEN

END = end_month(AS_OF)


@pytest.fixture(scope="module")
def explained(small):
    """A user who has five interests in nine months, and his explanation."""
    life = small.lives.take(np.array([0]))
    return life, explain(small.smen, small.info, life, END)


def module_output(smen: SMEN, interests: list[int], counts: list[int]) -> np.ndarray:
    """r (M, H) of one bag, by the model itself."""
    dense = torch.zeros(1, 1, smen.n_interests)
    dense[0, 0, interests] = torch.tensor(counts, dtype=torch.float32)
    with torch.no_grad():
        return smen.bag_embedding(SparseBags.from_dense(dense))[0].numpy()


@settings(max_examples=25)
@given(st.dictionaries(st.integers(0, N_INTERESTS - 1), st.integers(1, 50), min_size=1, max_size=6))
def test_within_a_period_the_parts_are_the_whole(small, bag):
    """Sums of contributions are r; before the ReLU, taking an interest away takes away exactly its own vector."""
    interests, counts = list(bag), list(bag.values())
    parts = module_contributions(small.smen, interests, counts)
    assert parts.shape == (N_ANCHORS, len(bag), DIM)
    whole = module_output(small.smen, interests, counts)
    assert np.allclose(parts.sum(axis=1), whole, atol=1e-5)
    left = module_output(small.smen, interests[1:], counts[1:]) if len(bag) > 1 else np.zeros_like(whole)
    both = (whole > 0) & (left > 0)  # where the sum stays positive the ReLU is silent and the removal is exactly linear
    assert np.allclose((whole - left)[both], parts[:, 0][both], atol=1e-5)


def test_the_formula_by_hand():
    """One anchor: alpha is 1, so an interest contributes log(1 + c) We where the sum is positive."""
    smen = SMEN(2, 1, 2).eval()
    with torch.no_grad():
        smen.interest_embedding.weight.copy_(torch.tensor([[1.0, -1.0], [2.0, 0.25]]))
    parts = module_contributions(smen, [0, 1], [np.e - 1, np.e**2 - 1])
    # log1p gives 1 and 2: S = 1 * (1, -1) + 2 * (2, 0.25) = (5, -0.5); the second coordinate is negative, so nobody contributes to it.
    assert np.allclose(parts[0], [[1.0, 0.0], [4.0, 0.0]], atol=1e-12)


def test_contributions_add_up_to_the_length_above_silence(small, explained):
    life, found = explained
    vector = embed(small.smen, small.info, life, None, END)[0].reshape(N_ANCHORS, DIM)
    assert np.allclose(found.vector, vector, atol=1e-6) and np.allclose(found.norms, np.linalg.norm(vector, axis=1), atol=1e-6)
    empty = np.zeros(0, np.int32)
    nobody = Lives(life.user_ids, np.zeros(2, np.int64), empty, np.zeros(1, np.int64), empty, empty)
    silent = embed(small.smen, small.info, nobody, None, END)[0].reshape(N_ANCHORS, DIM)
    assert np.allclose(found.silence, (silent * vector).sum(axis=1) / found.norms, atol=1e-6)
    assert np.abs(found.gap).max() < 1e-5
    assert np.allclose(found.of_interests().sum(axis=1), found.norms - found.silence, atol=1e-5)
    assert np.allclose(found.of_periods().sum(axis=1), found.norms - found.silence, atol=1e-5)


def test_every_period_of_both_scales_is_told_with_its_events(explained):
    life, found = explained
    months = [name for scale, name in found.periods if scale == "month"]
    assert len(months) == len(life.periods) and found.periods[-1] == ("year", "2020")
    n_events = life.counts.sum()
    assert found.counts[: len(months)].sum() == n_events == found.counts[-1].sum()
    assert set(found.interests) == set(life.interest_ids)
    assert (found.contributions[:, found.counts == 0] == 0).all() and (found.within[:, found.counts == 0] == 0).all()


def test_within_a_period_adds_up_to_the_length_of_its_r(small, explained):
    life, found = explained
    for row in range(len(life.periods)):
        cells = slice(life.offsets[row], life.offsets[row + 1])
        r = module_output(small.smen, life.interest_ids[cells].tolist(), life.counts[cells].tolist())
        assert np.allclose(found.within[:, row].sum(axis=1), np.linalg.norm(r, axis=1), atol=1e-5)


def test_without_is_what_a_recomputation_gives(small, explained):
    life, found = explained
    for place, interest in enumerate(found.interests):
        kept = life.interest_ids != interest
        rows = np.repeat(np.arange(len(life.periods)), np.diff(life.offsets))[kept]
        rest = add_counts(np.zeros(len(rows), np.int64), life.periods[rows], life.interest_ids[kept], life.counts[kept])
        vector = embed(small.smen, small.info, rest, None, END)[0].reshape(N_ANCHORS, DIM)
        shorter = found.norms - (vector * found.vector).sum(axis=1) / found.norms
        assert np.allclose(found.without[:, place], shorter, atol=1e-5)


def test_of_a_faint_life_a_part_is_what_its_removal_takes_away():
    """Finite differences: inputs so small that the recurrence is linear around silence, each interest in a month of its own."""
    smen = SMEN(N_INTERESTS, N_ANCHORS, DIM, scales=("month",)).eval().requires_grad_(False)
    alpha = smen.anchor_weights(torch.arange(N_INTERESTS)).clone()
    smen.interest_embedding.weight.mul_(1e-2)
    smen.anchor_weights = lambda interest_ids: alpha[interest_ids]  # small vectors would make all anchors equal
    life = add_counts(np.zeros(3, np.int64), np.array([600, 601, 602]), np.array([2, 5, 7]), np.array([3, 1, 2]))
    found = explain(smen, {"grid_start": 600}, life, 603)
    assert np.abs(found.of_interests()).max() > 1e-3
    assert np.allclose(found.without, found.of_interests(), rtol=0.02, atol=2e-5)


def test_the_only_interest_can_be_taken_away():
    smen = SMEN(3, 2, 4).eval().requires_grad_(False)
    life = add_counts(np.zeros(2, np.int64), np.array([600, 601]), np.array([1, 1]), np.array([2, 1]))
    found = explain(smen, {"grid_start": 598}, life, 602)
    assert without_interest(life, 1).n_users == 1 and len(without_interest(life, 1).periods) == 0
    assert np.allclose(found.without[:, 0], found.norms - found.silence, atol=1e-5), "what is left is silence"
    assert np.allclose(found.of_interests()[:, 0], found.norms - found.silence, atol=1e-5)


@pytest.mark.parametrize("options", [{"scales": ("month",)}, {"scales": ("year",)}, {"shared_gru": False}])
@pytest.mark.parametrize("blocks", ["calendar", "rolling"])
def test_every_kind_of_model(options, blocks):
    smen = SMEN(N_INTERESTS, 2, 4, **options).eval().requires_grad_(False)
    info = {"grid_start": 590, "year_blocks": blocks}
    life = add_counts(np.zeros(4, np.int64), np.array([580, 592, 592, 610]), np.array([1, 1, 3, 5]), np.array([2, 1, 4, 1]))
    found = explain(smen, info, life, 611)
    assert np.abs(found.gap).max() < 1e-5 and len(set(found.periods)) == len(found.periods)
    assert np.allclose(found.vector, embed(smen, info, life, None, 611).reshape(2, 4), atol=1e-6)


def test_a_life_without_events_before_the_date_is_refused(small):
    life = small.lives.take(np.array([0]))
    with pytest.raises(ValueError, match="Expected the life of one user"):
        explain(small.smen, small.info, life, int(life.periods[0]))
    with pytest.raises(ValueError, match="got 2 users"):
        explain(small.smen, small.info, small.lives.take(np.array([0, 1])), END)


def test_the_memory_is_taken_apart_exactly(small):
    """A sum over years brought to one length: its parts add up to that length, and the recurrent anchors' parts are as they were."""
    smen = SMEN(N_INTERESTS, N_ANCHORS + 1, DIM, memory=True).eval()
    smen.load_state_dict(small.smen.state_dict(), strict=False)
    smen.memory.normal_(generator=torch.Generator().manual_seed(5))
    smen.memory_length.fill_(3.0)
    life = small.lives.take(np.array([0]))
    found, plain = explain(smen, small.info, life, END), explain(small.smen, small.info, life, END)
    assert np.allclose(found.contributions[:-1], plain.contributions, atol=1e-6) and np.abs(found.gap).max() < 1e-5
    assert found.norms[-1] == pytest.approx(3.0, abs=1e-5) and found.silence[-1] == 0
    months = [place for place, (scale, _) in enumerate(found.periods) if scale == "month"]
    assert (found.contributions[-1, months] == 0).all(), "it sums years"
    # By hand: each year adds log1p(count) Wm.
    adds = sum(np.log1p(counts)[:, None] * smen.memory[found.interests].numpy() for counts, (scale, _) in zip(found.counts, found.periods)
               if scale == "year")
    direction = adds.sum(axis=0) / np.linalg.norm(adds.sum(axis=0))
    assert np.allclose(found.vector[-1], 3 * direction, atol=1e-5)
    assert np.allclose(found.of_interests()[-1], 3 * adds @ direction / np.linalg.norm(adds.sum(axis=0)), atol=1e-5)


@pytest.mark.parametrize("scales", [("month", "year"), ("month",), ("year",)])
def test_activity_is_taken_apart_exactly(scales):
    """What a period adds to the traces is shared among its interests by their events; all parts together are the anchor's length."""
    smen = SMEN(N_INTERESTS, 3, 16, scales=scales, memory=True, activity=True).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(5)
    smen.memory.normal_(generator=generator)
    smen.activity_weights.uniform_(0.5, 1.5, generator=generator)
    smen.activity_means.uniform_(0.5, 1.5, generator=generator)
    info = {"grid_start": 590, "year_blocks": "calendar"}
    life = add_counts(np.zeros(4, np.int64), np.array([592, 592, 600, 610]), np.array([1, 3, 3, 5]), np.array([2, 1, 4, 1]))
    found = explain(smen, info, life, 611)
    assert np.abs(found.gap).max() < 1e-5
    silence = -(smen.activity_means * smen.activity_weights).numpy() @ found.vector[-1, -10:] / found.norms[-1]
    assert found.silence[-1] == pytest.approx(float(silence), rel=1e-5), "the traces of nobody are the mean's distance below it"
    if scales != ("month", "year"):
        return
    # By hand, of May 2019's two interests with 2 and 1 events, 18 months before the end: 2 / 3 and 1 / 3 of what the month adds.
    month = found.periods.index(("month", "2019-05"))
    halves = np.array([0.5 ** (18 / half_life) for half_life in (1, 3, 6, 12, np.inf)])
    added = np.concatenate([np.log(4) * halves, halves]) * smen.activity_weights.numpy() @ (found.vector[-1, -10:] / found.norms[-1])
    np.testing.assert_allclose(found.contributions[-1, month, [0, 1]], added * np.array([2, 1]) / 3, rtol=1e-4)
