"""SMEN formula by formula with the numbers worked out, and against a naive network that runs every step of the dense grid."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from lurm.bag_of_interests import Lives
from lurm.smen import SMEN, ProjectionHead, SparseBags
from lurm.smen.batches import month_bags, stored_year_bags, year_bags
from lurm.smen.model import anchor_entropy, initialise


def random_counts(n_users, n_steps, n_interests, seed, share=0.15):
    rng = np.random.default_rng(seed)
    return torch.as_tensor(rng.poisson(2, (n_users, n_steps, n_interests)) * (rng.random((n_users, n_steps, n_interests)) < share))


def naive(smen, gru, counts):
    """(B, M, H): eq. 5-6 densely, then the GRU's own formula from step 0, empty periods included."""
    keys = functional.relu(smen.interest_embedding.weight) @ smen.key_projection.weight.T
    alpha = torch.softmax(keys @ smen.anchors.T, dim=1)
    r = torch.relu(torch.einsum("btd,dm,dh->btmh", torch.log1p(counts.float()), alpha, smen.interest_embedding.weight))
    state = torch.zeros(len(counts), smen.n_anchors, smen.dim)
    for step in range(counts.shape[1]):
        i_r, i_z, i_n = functional.linear(r[:, step], gru.weight_ih_l0, gru.bias_ih_l0).chunk(3, 2)
        h_r, h_z, h_n = functional.linear(state, gru.weight_hh_l0, gru.bias_hh_l0).chunk(3, 2)
        update = torch.sigmoid(i_z + h_z)
        state = (1 - update) * torch.tanh(i_n + torch.sigmoid(i_r + h_r) * h_n) + update * state
    return state


def shake(smen, seed=5):
    """Give every weight, the biases too, a value that is not special."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in smen.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return smen


def test_one_anchor_has_weight_one_so_the_bag_is_relu_of_log1p_times_we():
    smen = SMEN(2, n_anchors=1, dim=2, scales=("month",))
    with torch.no_grad():
        smen.interest_embedding.weight.copy_(torch.tensor([[1.0, -2.0], [0.5, 1.0]]))
    bags = SparseBags.from_dense(torch.tensor([[[1, 3]]]))
    assert torch.equal(smen.anchor_weights(torch.tensor([0, 1])), torch.ones(2, 1))
    first = math.log(2) * 1 + math.log(4) * 0.5  # 1.386; the second number is -2 ln 2 + ln 4 = 0
    assert torch.allclose(smen.bag_embedding(bags), torch.tensor([[[first, 0.0]]]), atol=1e-6)


def test_the_softmax_runs_over_the_anchors():
    """We_0 = (ln 3, -1): key = Wb ReLU(We) = (ln 3, 0); anchors (1, 0) and (0, 1) give logits (ln 3, 0), so alpha = (3/4, 1/4)."""
    smen = SMEN(2, n_anchors=2, dim=2, scales=("month",))
    with torch.no_grad():
        smen.interest_embedding.weight.copy_(torch.tensor([[math.log(3), -1.0], [0.0, 0.0]]))
        smen.key_projection.weight.copy_(torch.eye(2))
        smen.anchors.copy_(torch.eye(2))
    assert torch.allclose(smen.anchor_weights(torch.tensor([0, 1])), torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
    r = smen.bag_embedding(SparseBags.from_dense(torch.tensor([[[1, 0]]])))
    expected = math.log(2) * math.log(3)
    assert torch.allclose(r, torch.tensor([[[0.75 * expected, 0.0], [0.25 * expected, 0.0]]]))


def test_empty_periods_have_no_row_and_would_give_exactly_zero():
    smen = SMEN(3, n_anchors=2, dim=4, scales=("month",))
    bags = SparseBags.from_dense(torch.tensor([[[0, 0, 0], [1, 0, 2], [0, 0, 0]]]))
    assert bags.steps.tolist() == [1] and bags.n_steps.tolist() == [3] and bags.counts.tolist() == [1, 2]
    assert smen.bag_embedding(SparseBags.from_dense(torch.zeros(1, 2, 3))).shape == (0, 2, 4)
    silent_row = SparseBags(bags.interest_ids, bags.counts * 0, bags.offsets, bags.users, bags.steps, bags.n_steps)
    assert torch.equal(smen.bag_embedding(silent_row), torch.zeros(1, 2, 4))  # log1p(0) = 0 and eq. 5 has no bias


@pytest.mark.parametrize("share", [0.15, 0.02])
@pytest.mark.parametrize("scale", ["month", "year"])
def test_values_and_gradients_equal_the_naive_loop(share, scale):
    """Users with leading, inner and trailing silence, one without any event, rows of many lengths."""
    smen = shake(SMEN(40, n_anchors=3, dim=6, scales=(scale,)))
    counts = random_counts(7, 9, 40, seed=1, share=share)
    counts[0] = 0
    counts[1, :5] = 0
    counts[2, 6:] = 0
    bags = SparseBags.from_dense(counts)
    weights = torch.randn(7, 3, 6, generator=torch.Generator().manual_seed(2))
    out = smen(bags, None) if scale == "month" else smen(None, bags)
    expected = naive(smen, smen.gru, counts)
    assert torch.allclose(out, expected, atol=1e-5)
    names, parameters = zip(*smen.named_parameters(), strict=True)
    gradients, wanted_gradients = (torch.autograd.grad((result * weights).sum(), parameters) for result in (out, expected))
    for name, got, wanted in zip(names, gradients, wanted_gradients, strict=True):
        assert torch.allclose(got, wanted, atol=1e-4), name
    with torch.no_grad():  # the path without gradients is another one
        assert torch.allclose(smen(bags, bags), out, atol=1e-6)


@pytest.mark.parametrize("shared", [True, False])
def test_the_gate_mixes_months_and_years(shared):
    smen = shake(SMEN(10, n_anchors=2, dim=4, shared_gru=shared))
    months, years = random_counts(3, 8, 10, 3), random_counts(3, 2, 10, 4, share=0.5)
    of_months, of_years = naive(smen, smen.gru, months), naive(smen, smen.gru if shared else smen.year_gru, years)
    share = torch.sigmoid(torch.cat([of_months, of_years], 2) @ smen.gate.weight.T + smen.gate.bias)
    expected = share * of_months + (1 - share) * of_years
    assert torch.allclose(smen(SparseBags.from_dense(months), SparseBags.from_dense(years)), expected, atol=1e-5)
    assert hasattr(smen, "year_gru") is not shared


def test_the_gate_by_hand():
    """H = 1, gate weights 0 and bias ln 3: s = 3/4, so the result is 3/4 months + 1/4 years."""
    smen = SMEN(1, n_anchors=1, dim=1)
    with torch.no_grad():
        smen.gate.weight.zero_()
        smen.gate.bias.fill_(math.log(3))
    months, years = SparseBags.from_dense(torch.tensor([[[1], [0]]])), SparseBags.from_dense(torch.tensor([[[5]]]))
    alone = [SMEN(1, 1, 1, (scale,)) for scale in ("month", "year")]
    for one in alone:
        assert not hasattr(one, "gate")
        one.load_state_dict({name: weight for name, weight in smen.state_dict().items() if "gate" not in name})
    expected = 0.75 * alone[0](months, None) + 0.25 * alone[1](None, years)
    assert torch.allclose(smen(months, years), expected, atol=1e-6)


def test_the_projection_head_by_hand():
    """M = H = 2; r^1 = (1, 2), r^2 = (3, -1). W1_1 = I; W1_2 swaps: v = ReLU(1, 2, -1, 3) = (1, 2, 0, 3).

    W3 = [[0, 1], [-1, 0]] from the left: mix(v) = (0, 3, -1, -2); v + mix(v) = (1, 5, -1, 1), ReLU (1, 5, 0, 1); W2 adds up: 7.
    """
    head = ProjectionHead(2, 2)
    with torch.no_grad():
        head.per_anchor.copy_(torch.tensor([[[1.0, 0], [0, 1]], [[0, 1], [1, 0]]]))
        head.mix.copy_(torch.tensor([[0.0, 1], [-1, 0]]))
        head.output.weight.copy_(torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]))
    assert head(torch.tensor([[[1.0, 2], [3, -1]]])).tolist() == [[7, 1, 5, 0]]
    assert len(list(head.parameters())) == 3  # no biases
    assert torch.equal(head(torch.zeros(1, 2, 2)), torch.zeros(1, 4))


def test_a_user_does_not_depend_on_the_batch_or_its_order():
    smen = shake(SMEN(60, n_anchors=3, dim=8, scales=("month",)))
    counts = random_counts(6, 12, 60, 6)
    together = smen(SparseBags.from_dense(counts), None)
    for user in range(6):
        assert torch.allclose(smen(SparseBags.from_dense(counts[user : user + 1]), None)[0], together[user], atol=1e-6)
    order = [3, 0, 5, 1, 4, 2]
    assert torch.allclose(smen(SparseBags.from_dense(counts[order]), None), together[order], atol=1e-6)


def lives():
    """User a: months 601 (interest 2 once), 603 (0 twice, 2 once), 612 (2 four times). User b: month 590 (1 once), 595 (1 twice)."""
    return Lives(
        np.array(["a", "b"], dtype=object), np.array([0, 3, 5]), np.array([601, 603, 612, 590, 595], np.int32),
        np.array([0, 1, 3, 4, 5, 6]), np.array([2, 0, 2, 2, 1, 1], np.int32), np.array([1, 2, 1, 4, 1, 2], np.int32),
    )


def dense(bags, n_interests=3):
    table = {}
    for row, (user, step) in enumerate(zip(bags.users.tolist(), bags.steps.tolist(), strict=True)):
        cells = slice(bags.offsets[row], bags.offsets[row + 1])
        table[user, step] = dict(zip(bags.interest_ids[cells].tolist(), bags.counts[cells].tolist(), strict=True))
    return table


def test_months_on_the_grid_and_late_history_lands_in_step_zero():
    bags = month_bags(lives(), 600, np.array([614, 600]))
    assert dense(bags) == {(0, 1): {2: 1}, (0, 3): {0: 2, 2: 1}, (0, 12): {2: 4}, (1, 0): {1: 3}}
    assert bags.n_steps.tolist() == [14, 1]  # a grid has at least one step
    assert dense(month_bags(lives(), 600, np.array([612, 591]))) == {(0, 1): {2: 1}, (0, 3): {0: 2, 2: 1}, (1, 0): {1: 1}}


def test_calendar_years_add_up_counts_before_the_logarithm():
    """600 is January 2020: months 601 and 603 are 2020, 612 is January 2021; 590 and 595 are 2019, the year of the grid's start."""
    bags = year_bags(lives(), 590, np.array([614, 614]))
    assert dense(bags) == {(0, 1): {0: 2, 2: 2}, (0, 2): {2: 4}, (1, 0): {1: 3}} and bags.n_steps.tolist() == [3, 3]
    smen = SMEN(3, n_anchors=1, dim=2, scales=("year",))
    r = smen.bag_embedding(bags)[2, 0]
    assert torch.allclose(r, torch.relu(math.log(4) * smen.interest_embedding.weight[1]))  # log1p(1 + 2), not log1p(1) + log1p(2)


def test_adding_up_leaves_the_lives_as_they_were():
    """Interests out of order once two months are one row: sorting them must not happen in the caller's arrays."""
    before, after = lives(), lives()
    month_bags(after, 605, np.array([614, 614]))
    year_bags(after, 590, np.array([614, 614]))
    assert all(np.array_equal(a, b) for a, b in zip(vars(before).values(), vars(after).values(), strict=True))


def test_rolling_years_count_back_from_the_end():
    """End 614: blocks [602, 614), [590, 602). Grid from 595: 19 months are two blocks; 590 and 595 fall into the first."""
    bags = year_bags(lives(), 595, np.array([614, 614]), "rolling")
    assert dense(bags) == {(0, 0): {2: 1}, (0, 1): {0: 2, 2: 5}, (1, 0): {1: 3}} and bags.n_steps.tolist() == [2, 2]


def test_stored_years_equal_years_summed_from_months():
    years = Lives(
        np.array(["a", "b"], dtype=object), np.array([0, 2, 3]), np.array([50, 51, 49], np.int32), np.array([0, 2, 3, 4]),
        np.array([0, 2, 2, 1], np.int32), np.array([2, 2, 4, 3], np.int32),
    )
    for end in (614, 612):
        stored, summed = stored_year_bags(years, 590, end), year_bags(lives(), 590, np.array([end, end]))
        assert dense(stored) == dense(summed) and torch.equal(stored.n_steps, summed.n_steps)


def test_anchors_differ_from_the_start_even_when_centroids_share_a_direction():
    generator = torch.Generator().manual_seed(0)
    centroids = functional.normalize(torch.randn(500, 128, generator=generator) + 3, dim=1)
    smen = SMEN(500)
    initialise(smen, generator, centroids)
    usage, interest = anchor_entropy(smen)
    assert usage > 0.85 * math.log(10)  # all anchors are used ...
    assert interest < 0.95 * math.log(10)  # ... and by different interests
    with torch.no_grad():
        smen.anchors.mul_(1e-3)
    assert anchor_entropy(smen)[1] == pytest.approx(math.log(10), abs=1e-4)


def test_anchor_entropy_by_hand():
    smen = SMEN(2, n_anchors=2, dim=2, scales=("month",))
    with torch.no_grad():
        smen.interest_embedding.weight.copy_(torch.eye(2) * 100)
        smen.key_projection.weight.copy_(torch.eye(2))
        smen.anchors.copy_(torch.eye(2))
    assert anchor_entropy(smen) == pytest.approx((math.log(2), 0))  # each interest owns one anchor
    assert anchor_entropy(smen, torch.tensor([1.0, 0.0])) == pytest.approx((0, 0))


def test_initial_weights_come_from_the_generator_alone():
    first, second, other = (SMEN(20, 2, 4) for _ in range(3))
    for smen, seed in ((first, 1), (second, 1), (other, 2)):
        torch.rand(seed)  # the global generator plays no part
        initialise(smen, torch.Generator().manual_seed(seed))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.anchors, other.anchors)


@pytest.mark.parametrize("n_rows", [0, 1, 700])
def test_without_a_gradient_bags_are_the_same_in_any_place(n_rows):
    """The path of inference on a CPU against that of training, rows of 0 to 40 interests in any order."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 40, n_rows)
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    interests = torch.from_numpy(rng.integers(0, 50, int(offsets[-1])))
    rows = torch.arange(n_rows)
    bags = SparseBags(interests, torch.from_numpy(rng.integers(1, 9, len(interests)).astype(np.float32)), offsets, rows, rows * 0, rows * 0 + 1)
    smen, places = SMEN(50, 3, 16), torch.from_numpy(rng.permutation(n_rows))
    alpha = smen.anchor_weights(torch.arange(50)).detach()
    learning = smen.bag_embedding(bags, alpha, places).detach()
    with torch.no_grad():
        frozen = smen.bag_embedding(bags, alpha, places)
        plain = smen.bag_embedding(bags, alpha)
    assert frozen.shape == (n_rows, 3, 16) and torch.equal(plain, frozen[places])
    assert torch.allclose(frozen, learning, atol=1e-5) and (n_rows == 0 or frozen.abs().max() > 0.1)


def test_in_bfloat16_values_and_gradients_are_near():
    """What training in bfloat16 does: products in bfloat16, the recurrence in float32."""
    smen = shake(SMEN(40, n_anchors=3, dim=16))
    months, years = (SparseBags.from_dense(random_counts(7, n_steps, 40, seed=1)) for n_steps in (9, 2))
    exact = smen(months, years)
    with torch.autocast("cpu", torch.bfloat16):
        rough = smen(months, years)
    assert rough.dtype == torch.float32 and 0 < (rough - exact).abs().max() < 0.2
    rough.sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in smen.parameters())
