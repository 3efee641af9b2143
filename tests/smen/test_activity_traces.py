"""Activity traces: by hand, what fades and what lasts, and a model's weights for them."""

import numpy as np
import pytest
import torch
from test_smen_inference import random_lives

from lurm.periods import HALF_LIVES
from lurm.schema import MONTH, YEAR
from lurm.smen import SMEN
from lurm.smen.activity_traces import ACTIVITY_SHARE, N_TRACES, fading, of_rows, trace_weights, traces_after, traces_of
from lurm.smen.batches import SparseBags, month_bags, one_step, year_bags
from lurm.smen.inference import embed, load_model, save_model
from lurm.smen.memory_anchor import fit_memory

GRID, END = 600, 641
K = len(HALF_LIVES)


def test_three_months_by_hand():
    """Months 0 (3 events of two interests), 1 (silent) and 2 (1 event): with a half-life of a month a quarter of the first is left."""
    counts = torch.zeros(2, 3, 4)
    counts[0, 0, 1], counts[0, 0, 3], counts[0, 2, 2] = 2, 1, 1
    events, active = traces_of(SparseBags.from_dense(counts), MONTH).view(2, 2, K)[0]
    assert HALF_LIVES[0] == 1 and HALF_LIVES[-1] == float("inf")
    assert float(events[0]) == pytest.approx(np.log(4) / 4 + np.log(2), rel=1e-6) and float(active[0]) == 1.25
    assert float(events[-1]) == pytest.approx(np.log(4) + np.log(2), rel=1e-6) and float(active[-1]) == 2
    assert not traces_of(SparseBags.from_dense(counts), MONTH)[1].any(), "who has done nothing has no traces"


def test_what_happened_long_ago_fades_and_what_is_counted_for_ever_stays():
    counts = torch.zeros(1, 37, 2)
    counts[0, 0, 0] = 5
    events, active = traces_of(SparseBags.from_dense(counts), MONTH).view(2, K)
    left = torch.tensor([2.0 ** (-36 / half_life) for half_life in HALF_LIVES])
    torch.testing.assert_close(events, np.log(6) * left, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(active, left, rtol=1e-5, atol=1e-12)


def test_a_year_fades_like_twelve_months():
    torch.testing.assert_close(fading(YEAR), fading(MONTH) ** 12)


@pytest.mark.parametrize("scale", [MONTH, YEAR])
def test_lives_of_any_length_beside_each_other_are_those_alone(scale):
    lives = random_lives(30)
    ends = np.arange(30) % 20 + 622
    bags_of = {MONTH: month_bags, YEAR: year_bags}[scale]
    together = traces_of(bags_of(lives, GRID, ends), scale)
    alone = [traces_of(bags_of(lives.take(np.array([user])), GRID, ends[user : user + 1]), scale) for user in range(30)]
    assert torch.equal(together, torch.cat(alone)) and together.shape == (30, N_TRACES) and together.dtype == torch.float32


def test_one_period_more():
    counts = torch.poisson(torch.full((9, 6, 5), 0.3), generator=torch.Generator().manual_seed(0))
    before, whole = (traces_of(SparseBags.from_dense(counts[:, :n]), MONTH) for n in (5, 6))
    last = SparseBags.from_dense(counts[:, 5:])
    assert torch.equal(traces_after(before, last, MONTH), whole)


def test_many_events_are_counted_exactly():
    """In float32 a running sum would lose single events beyond 2^24."""
    counts = torch.tensor([2.0**24, 1.0, 1.0, 3.0])
    bags = SparseBags(torch.arange(4), counts, torch.tensor([0, 2, 3, 4]), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), torch.tensor([2, 2]))
    torch.testing.assert_close(of_rows(bags)[:, 0], torch.log1p(torch.tensor([2.0**24 + 1, 1, 3])))
    assert (of_rows(bags)[:, 1] == 1).all()


def test_weights_by_hand():
    """Of a spread of 100 a fifth is shared by ten: each trace comes to a variance of 2, and one that never differs to nothing."""
    weights = trace_weights(np.array([2.0, 8.0, 0.0, *[2.0] * (N_TRACES - 3)]), 100.0)
    assert ACTIVITY_SHARE == 0.2 and weights[:3].tolist() == [1.0, 0.5, 0.0]


def test_all_traces_differ_between_users_alike_and_have_their_share():
    smen, lives = SMEN(25, n_anchors=4, dim=16, memory=True, activity=True).eval().requires_grad_(False), random_lives(60)
    fit_memory(smen, iter([lives]), "calendar", GRID, seed=0)
    active = lives.take(np.flatnonzero(np.diff(lives.row_offsets)))
    spread = embed(smen, {"grid_start": GRID, "year_blocks": "calendar"}, active, None, END).var(axis=0)
    recurrent, memory, traces = np.split(spread, [48, 64 - N_TRACES])
    assert memory.sum() == pytest.approx(recurrent.sum(), rel=1e-3)
    np.testing.assert_allclose(traces, traces.mean(), rtol=1e-3)
    vectors = embed(smen, {"grid_start": GRID, "year_blocks": "calendar"}, active, None, END)
    np.testing.assert_allclose(vectors[:, -N_TRACES:].mean(axis=0), 0, atol=1e-5)
    assert traces.sum() == pytest.approx(ACTIVITY_SHARE * (recurrent.sum() + memory.sum()), rel=1e-3)


def test_everybody_alike_gives_no_weights_that_are_not_finite():
    smen = SMEN(25, n_anchors=4, dim=16, memory=True, activity=True).eval().requires_grad_(False)
    fit_memory(smen, iter([random_lives(60).take(np.full(4, 7))]), "calendar", GRID, seed=0)
    assert torch.isfinite(smen.activity_weights).all() and torch.isfinite(smen.memory_length)


def test_a_saved_model_has_its_traces(tmp_path):
    smen, lives = SMEN(25, n_anchors=4, dim=16, memory=True, activity=True).eval().requires_grad_(False), random_lives(12)
    smen.memory.normal_(generator=torch.Generator().manual_seed(0))
    smen.activity_weights.copy_(torch.arange(N_TRACES) + 1.0)
    smen.activity_means.copy_(torch.arange(N_TRACES) / 10.0)
    info = {"grid_start": GRID, "year_blocks": "calendar"}
    save_model(tmp_path, smen, info)
    loaded, facts = load_model(tmp_path)
    assert facts["activity"] and np.array_equal(embed(smen, info, lives, None, END), embed(loaded, info, lives, None, END))
    bags = month_bags(lives, GRID, np.full(12, END))
    by_hand = (traces_of(bags, MONTH) - torch.arange(N_TRACES) / 10) * (torch.arange(N_TRACES) + 1)
    np.testing.assert_allclose(embed(loaded, info, lives, None, END)[:, -N_TRACES:], by_hand, rtol=1e-6)


@pytest.mark.parametrize(("memory", "dim"), [(False, 128), (True, N_TRACES)])
def test_activity_needs_a_memory_with_room(memory, dim):
    with pytest.raises(ValueError, match=f"Expected a memory of more than {N_TRACES} numbers for activity"):
        SMEN(25, n_anchors=4, dim=dim, memory=memory, activity=True)


def test_one_step_of_nobody():
    nobody = one_step(random_lives(3).take(np.zeros(0, np.int64)))
    assert traces_after(torch.zeros(0, N_TRACES), nobody, MONTH).shape == (0, N_TRACES)
