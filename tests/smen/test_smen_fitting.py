"""Training SMEN on a planted world: it learns to tell users apart, repeats itself, resumes exactly, and says when it collapsed."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from two_processes import run_two

from lurm.bag_of_interests import Lives
from lurm.config import SmenSettings
from lurm.contrastive import nt_xent
from lurm.errors import CollapseError, InputError
from lurm.smen.fitting import _optimizers, _prefetch, build, fit_smen, training_batches

SETTINGS = SmenSettings(
    n_anchors=3, dim=8, activity=False, batch_size=16, max_steps=12, evaluate_every=4, checkpoint_every=4, patience=50, shuffle_users=64,
    device="cpu", learning_rate=0.01,
)  # fmt: skip
N_INTERESTS, GRID = 12, 600


def world(n_users, seed=0, n_tastes=6, prefix="u"):
    """User u likes interests 2t and 2t+1 with t = u mod n_tastes: 3 events in each of up to 18 months."""
    rng = np.random.default_rng(seed)
    active = rng.random((n_users, 18)) < 0.7
    active[:, :2] = True
    users, months = np.nonzero(active)
    interest_ids = np.stack([2 * (users % n_tastes), 2 * (users % n_tastes) + 1], axis=1)
    counts = rng.integers(1, 4, interest_ids.shape)
    return Lives(
        np.array([f"{prefix}{user}" for user in range(n_users)], object), np.concatenate([[0], active.sum(1).cumsum()]),
        (months + GRID).astype(np.int32), np.arange(len(users) + 1) * 2, interest_ids.ravel().astype(np.int32),
        counts.ravel().astype(np.int32),
    )  # fmt: skip


TRAIN, HELD_OUT = world(80), world(24, seed=1, prefix="h")


def stream(epoch):
    yield TRAIN.take(np.arange(0, 50))
    yield TRAIN.take(np.arange(50, 80))


def train(folder, settings=SETTINGS, source=stream, held_out=HELD_OUT, centroids=None, seed=3):
    return fit_smen(source, held_out, n_interests=N_INTERESTS, centroids=centroids, settings=settings, grid_start=GRID, seed=seed,
                    directory=folder, key="k")


def same_weights(left, right):
    return all(torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True))


def test_training_lowers_the_held_out_loss_and_reports_health(tmp_path, caplog):
    caplog.set_level(logging.INFO, "lurm")
    _, _, history, health = train(tmp_path, replace(SETTINGS, max_steps=40, evaluate_every=10))
    assert history.evaluations[-1] < history.evaluations[0] - 0.2
    assert health["held_out_loss"] == pytest.approx(min(history.evaluations), abs=1e-5)
    assert health["effective_rank"] > 1.5 and health["held_out_users"] == 24 and health["one_month_users"] == 0
    assert 0 < health["usage_entropy"] <= np.log(2) + 1e-6 and 0 < health["interest_entropy"] <= np.log(2) + 1e-6
    assert "effective rank" in caplog.text


@pytest.mark.parametrize("dim", [8, 16])  # 16 takes the compiled passes
def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path, dim):
    settings = replace(SETTINGS, dim=dim)
    first, second, other = (train(tmp_path / name, settings, seed=seed)[0] for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert same_weights(first, second) and not same_weights(first, other)


@pytest.mark.parametrize("sparse", ["off", "on"])
def test_resumed_equals_uninterrupted(tmp_path, sparse):
    settings = replace(SETTINGS, sparse_gradients=sparse)
    whole = train(tmp_path / "whole", settings)

    def broken(epoch):
        if epoch == 1:  # 5 batches an epoch: dies after the checkpoint of step 4
            raise ConnectionError("the storage went away")
        return stream(epoch)

    with pytest.raises(ConnectionError):
        train(tmp_path / "parts", settings, broken)
    resumed = train(tmp_path / "parts", settings)
    assert resumed[2].resumed_at == 4 and resumed[2].losses == whole[2].losses
    assert same_weights(whole[0], resumed[0]) and same_weights(whole[1], resumed[1])
    assert isinstance(whole[0].interest_embedding.sparse, bool) and whole[0].interest_embedding.sparse == (sparse == "on")


def test_a_sparse_step_touches_the_rows_of_the_batch_alone():
    """The gradient of We, its moments and its change are of the interests that the batch holds, whatever D is."""
    settings = replace(SETTINGS, sparse_gradients="on", dim=16)
    smen, head = build(N_INTERESTS + 500, settings, seed=0)
    optimizers = _optimizers(torch.nn.ModuleDict({"smen": smen, "head": head}), settings)
    months, years = next(training_batches(stream, replace(settings, batch_size=2), GRID, seed=0))
    before, weight = smen.interest_embedding.weight.detach().clone(), smen.interest_embedding.weight
    nt_xent(*head(smen.recurrent(months, years)).chunk(2), settings.temperature).backward()
    for optimizer in optimizers:
        optimizer.step()
    there = torch.unique(months.interest_ids)
    assert weight.grad.is_sparse and torch.equal(torch.unique(weight.grad.coalesce().indices()), there) and len(there) < N_INTERESTS
    changed = (weight.detach() != before).any(dim=1).nonzero().squeeze(1)
    moments = optimizers[1].state[weight]["exp_avg_sq"].any(dim=1).nonzero().squeeze(1)
    assert torch.equal(changed, there) and torch.equal(moments, there)


def test_a_batch_is_a_function_of_seed_and_step():
    every = training_batches(stream, SETTINGS, GRID, seed=3)
    expected = [next(every) for _ in range(9)]
    late = training_batches(stream, SETTINGS, GRID, seed=3, start=7)
    for wanted in expected[7:]:
        got = next(late)
        assert all(torch.equal(a, b) for a, b in zip(vars(got[0]).values(), vars(wanted[0]).values(), strict=True))
    assert len(expected[0][0].n_steps) == 32  # left and right windows of 16 users


def test_the_last_incomplete_batch_is_dropped_unless_it_is_the_only_one():
    few = replace(SETTINGS, batch_size=64)
    batches = training_batches(stream, few, GRID, seed=0)
    assert [len(next(batches)[0].n_steps) for _ in range(3)] == [128] * 3  # 64 of 80 users, each epoch
    batches = training_batches(stream, replace(SETTINGS, batch_size=256), GRID, seed=0)
    assert [len(next(batches)[0].n_steps) for _ in range(2)] == [160] * 2


def test_every_user_of_an_epoch_is_used_once_and_the_order_changes():
    settings = replace(SETTINGS, batch_size=10, shuffle_users=20)
    named = replace_interests_by_user(TRAIN)
    batches = training_batches(lambda epoch: iter([named]), settings, GRID, seed=0)
    epochs = []
    for _ in range(2):
        order = []
        for _ in range(8):
            months = next(batches)[0]
            left = months.users < 10
            cells = np.repeat(left.numpy(), months.offsets.diff().numpy())
            order.append(frozenset(months.interest_ids.numpy()[cells].tolist()))
        assert frozenset().union(*order) == frozenset(range(80)) and sum(map(len, order)) == 80
        epochs.append(order)
    assert epochs[0] != epochs[1]


def replace_interests_by_user(lives):
    owners = np.repeat(np.arange(lives.n_users), np.diff(lives.row_offsets))
    return Lives(lives.user_ids, lives.row_offsets, lives.periods, np.arange(len(owners) + 1), owners.astype(np.int32),
                 np.ones(len(owners), np.int32))


def test_we_starts_at_the_centroids_only_when_asked_and_fitting():
    centroids = np.random.default_rng(0).normal(size=(N_INTERESTS, 8)).astype(np.float32)
    unit = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
    warm, _ = build(N_INTERESTS, SETTINGS, 0, centroids)
    assert np.allclose(warm.interest_embedding.weight.detach().numpy(), unit * np.sqrt(8), atol=1e-5)
    cold, _ = build(N_INTERESTS, SETTINGS, 0)
    for unused, settings in ((centroids[:, :4], SETTINGS), (centroids, replace(SETTINGS, start_from_centroids=False))):
        assert same_weights(build(N_INTERESTS, settings, 0, unused)[0], cold)


def test_users_who_are_all_alike_are_a_collapse(tmp_path):
    alike = HELD_OUT.take(np.zeros(8, dtype=np.int64))
    constant = Lives(alike.user_ids, alike.row_offsets, alike.periods, alike.offsets, alike.interest_ids, alike.counts)
    one_window = replace(SETTINGS, min_window_months=1_000)  # the whole life: no difference is left
    with pytest.raises(CollapseError, match="got the same one for every held-out user; check that the interests"):
        train(tmp_path, one_window, held_out=constant)


def test_a_low_effective_rank_is_a_collapse(tmp_path):
    with pytest.raises(CollapseError, match=r"effective rank 50.0 or more, got \d+\.\d\d; .*start_from_centroids"):
        train(tmp_path, replace(SETTINGS, min_effective_rank=50.0))


def test_a_handful_of_held_out_users_cannot_prove_a_collapse(tmp_path):
    _, _, _, health = train(tmp_path, held_out=world(2, prefix="h"))  # two users: rank 1 whatever they are
    assert health["effective_rank"] == pytest.approx(1) and health["held_out_users"] == 2


def test_too_few_users_are_told(tmp_path):
    lonely = world(1)
    with pytest.raises(InputError, match="at least two users with events in two different months"):
        train(tmp_path, source=lambda epoch: iter([lonely]))


def test_without_held_out_users_it_runs_to_the_end(tmp_path):
    _, _, history, health = train(tmp_path, held_out=world(1))
    assert history.best_step == 12 and history.evaluations == [] and health["held_out_users"] == 0


def test_prefetching_keeps_the_order_and_raises_where_the_batch_is_asked_for():
    assert list(_prefetch(iter(range(20)))) == list(range(20))
    endless = _prefetch(iter(int, 1))
    assert [next(endless) for _ in range(3)] == [0, 0, 0]
    endless.close()  # the thread ends with its consumer

    def fails():
        yield 1
        raise InputError("no more")

    batches = _prefetch(fails())
    assert next(batches) == 1
    with pytest.raises(InputError, match="no more"):
        next(batches)


WORKER = """
import test_smen_fitting as own
from dataclasses import replace
smen, head, history, _ = own.train({folder!r}, replace(own.SETTINGS, max_steps=4, sparse_gradients={sparse!r}))
weights, told = smen.state_dict() | head.state_dict(), {{"evaluations": history.evaluations}}
"""


@pytest.mark.parametrize("sparse", ["off", "on"])
def test_two_processes_learn_what_one_learns(tmp_path, sparse):
    """Each process has half of every batch, negatives come from both, gradients are averaged: the same as one with the whole batch."""
    smen, head, history, _ = train(tmp_path / "one", replace(SETTINGS, max_steps=4, sparse_gradients=sparse))
    weights, info = run_two(WORKER.format(folder=str(tmp_path / "two"), sparse=sparse), tmp_path, __file__)
    assert info["evaluations"] == pytest.approx(history.evaluations, abs=1e-4)
    for name, weight in (smen.state_dict() | head.state_dict()).items():
        assert torch.allclose(weights[name], weight, atol=2e-5, rtol=0.01 if name == "memory_length" else 1e-5), name  # a ratio of spreads
