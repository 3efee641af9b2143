"""Embedding users with a frozen model: saved and loaded, batch by batch, in any order, the numbers stay the same."""

import numpy as np
import pytest
import torch

from lurm.bag_of_interests import Lives
from lurm.errors import StoreError
from lurm.smen import SMEN, inference
from lurm.smen.batches import month_bags, year_bags
from lurm.smen.inference import embed, load_model, save_model

END = 636
INFO = {"grid_start": 600, "year_blocks": "calendar", "model_id": "m", "space_id": "s"}


def random_lives(n_users, seed=0):
    """Users with 0 to 30 active months between 598 (two months before the grid) and 640 (four months after the end)."""
    rng = np.random.default_rng(seed)
    periods = [np.sort(rng.choice(np.arange(598, 641), rng.integers(0, 31), replace=False)) for _ in range(n_users)]
    rows = np.array([len(months) for months in periods])
    cells = rng.integers(1, 6, rows.sum())
    ids = np.concatenate([np.sort(rng.choice(25, cell, replace=False)) for cell in cells])
    return Lives(np.array([f"u{i}" for i in range(n_users)], object), np.concatenate([[0], rows.cumsum()]),
                 np.concatenate(periods).astype(np.int32), np.concatenate([[0], cells.cumsum()]), ids.astype(np.int32),
                 rng.integers(1, 5, len(ids)).astype(np.int32))


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "memory"])
def smen(request):
    model = SMEN(25, n_anchors=3, dim=8, memory=request.param)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    if request.param:
        model.memory.normal_(generator=generator)
    return model


def test_embedding_is_the_model_on_the_users_bags(smen):
    lives = random_lives(17)
    ends = np.full(17, END)
    with torch.no_grad():
        expected = smen(month_bags(lives, 600, ends), year_bags(lives, 600, ends)).flatten(1).numpy()
    got = embed(smen, INFO, lives, None, END)
    assert got.shape == (17, 24) and got.dtype == np.float32
    assert np.abs(got - expected).max() < 1e-5


@pytest.mark.parametrize("batch_size", [1, 5, 1_000])
def test_batch_size_and_order_of_users_change_nothing(smen, batch_size):
    lives = random_lives(23)
    expected = embed(smen, INFO, lives, None, END)
    order = np.random.default_rng(0).permutation(23)
    assert np.abs(embed(smen, INFO, lives.take(order), None, END, batch_size) - expected[order]).max() < 1e-5


def test_long_lives_are_cut_into_smaller_batches(smen, monkeypatch):
    lives = random_lives(23)
    expected = embed(smen, INFO, lives, None, END)
    monkeypatch.setitem(inference.PERIODS_PER_BATCH, "cpu", 1)  # 1 x 1280 / 24 = 53 user-periods
    assert len(inference.batches_of_users(lives, END, 1_000, 53)) > 5
    assert np.abs(embed(smen, INFO, lives, None, END) - expected).max() < 1e-5


def test_events_at_or_after_the_end_change_nothing(smen):
    lives = random_lives(23)
    keep = lives.periods < END
    assert not keep.all()
    cells = np.repeat(keep, np.diff(lives.offsets))
    owners = np.repeat(np.arange(23), np.diff(lives.row_offsets))[keep]
    cut = Lives(lives.user_ids, np.searchsorted(owners, np.arange(24)), lives.periods[keep],
                np.concatenate([[0], np.diff(lives.offsets)[keep].cumsum()]), lives.interest_ids[cells], lives.counts[cells])
    assert np.array_equal(embed(smen, INFO, lives, None, END), embed(smen, INFO, cut, None, END))


def test_stored_years_are_used_for_calendar_blocks_and_ignored_for_rolling_ones(smen):
    lives = random_lives(9)
    empty = Lives(lives.user_ids, np.zeros(10, np.int64), np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.int32),
                  np.zeros(0, np.int32))
    summed = embed(smen, INFO, lives, None, END)
    assert np.abs(embed(smen, INFO, lives, empty, END) - summed).max() > 1e-3  # silence where the years were: other vectors
    rolling = INFO | {"year_blocks": "rolling"}
    assert np.array_equal(embed(smen, rolling, lives, empty, END), embed(smen, rolling, lives, None, END))
    assert np.abs(embed(smen, rolling, lives, None, 640) - embed(smen, INFO, lives, None, 640)).max() > 1e-4


@pytest.mark.parametrize("scales", [("month",), ("year",), ("month", "year")])
def test_saved_and_loaded_gives_the_same_bytes(tmp_path, scales):
    model, lives = SMEN(25, 3, 8, scales, shared_gru=False), random_lives(11)
    save_model(tmp_path, model, INFO)
    loaded, info = load_model(tmp_path)
    assert info["model_id"] == "m" and info["grid_start"] == 600 and tuple(info["scales"]) == scales
    assert not any(weight.requires_grad for weight in loaded.parameters())
    assert np.array_equal(embed(model, INFO, lives, None, END), embed(loaded, info, lives, None, END))


def test_a_damaged_model_is_refused(tmp_path):
    save_model(tmp_path, SMEN(5, 2, 4), INFO)
    (data,) = tmp_path.glob("*.safetensors")
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(StoreError, match="the SHA-256 of tensors-.* differs; delete the folder and run its stage again"):
        load_model(tmp_path)


def test_users_without_events_are_all_alike_and_finite(smen):
    lives = random_lives(3)
    nothing = np.zeros(0, np.int32)
    silent = Lives(lives.user_ids, np.zeros(4, np.int64), nothing, np.zeros(1, np.int64), nothing, nothing)
    vectors = embed(smen, INFO, silent, None, END)
    assert np.isfinite(vectors).all() and np.array_equal(vectors[0], vectors[1])
    nobody = silent.take(np.zeros(0, np.int64))
    assert embed(smen, INFO, nobody, None, END).shape == (0, 24)
