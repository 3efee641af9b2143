"""Training on a planted world of two kinds of items, batches as a function of (seed, step), and the encoder on disk."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from two_processes import run_two

from lurm.config import EncoderSettings
from lurm.errors import InputError, MissingInputError, StoreError
from lurm.item_encoder import fitting
from lurm.item_encoder.fitting import fit_encoder, pair_batches
from lurm.item_encoder.inference import encode, load_encoder, save_encoder
from lurm.item_encoder.tokenizer import encode_titles, train_tokenizer, vocabulary_size

KINDS = [[f"{kind}{number}" for number in range(12)] for kind in ("garden", "kitchen", "garage", "office")]
SETTINGS = EncoderSettings(batch_size=32, dim=16, epochs=3, max_steps=60, evaluate_every=10, patience=10, checkpoint_every=10,
                           learning_rate=1e-2, device="cpu")  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


def made_up_pairs(n: int, seed: int) -> pa.Table:
    """Pairs of titles of one kind; the item's id is its title."""
    rng = np.random.default_rng(seed)

    def title(kind):
        return " ".join(rng.choice(KINDS[kind], size=3, replace=False))

    kinds = rng.integers(0, len(KINDS), n)
    left, right = [title(kind) for kind in kinds], [title(kind) for kind in kinds]
    return pa.table({"left_item_id": left, "left_title": left, "right_item_id": right, "right_title": right})


@pytest.fixture(scope="module")
def world():
    pairs, held_out = made_up_pairs(1_000, 0), made_up_pairs(200, 1)
    return pairs, held_out, train_tokenizer(pairs["left_title"].to_pylist(), SETTINGS)


def stream(pairs: pa.Table, rows: int = 130):
    return lambda epoch: iter(pairs.to_batches(rows))


def train(world, directory, key="k", **changes):
    pairs, held_out, tokenizer = world
    return fit_encoder(stream(pairs), held_out, tokenizer, replace(SETTINGS, **changes), seed=4, directory=directory, key=key)


def test_planted_kinds_are_found(world, tmp_path):
    """After training, a title of words never seen together is nearer to its own kind than to any other."""
    encoder, history, health = train(world, tmp_path)
    assert health["held_out_loss"] < health["held_out_loss_untrained"] - 0.3
    titles = [" ".join(kind[start : start + 3]) for kind in KINDS for start in (0, 6)]
    vectors = encode(encoder, world[2], titles, health["max_length"])
    cosine = vectors @ vectors.T - 2 * np.eye(len(titles))
    assert (cosine.argmax(axis=1) // 2).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(history.steps) == 60 and health["max_length"] == 3 and health["zero_share"] == 0
    assert health["vocabulary_size"] == 48 and 1 < health["effective_rank"] < 16 and 0 < health["held_out_accuracy"] < 1


@pytest.mark.parametrize("sparse_above", [20_000, 10])
def test_an_interrupted_training_ends_with_the_same_bytes(world, tmp_path, monkeypatch, sparse_above):
    monkeypatch.setattr(fitting, "SPARSE_ABOVE", sparse_above)
    whole, _, _ = train(world, tmp_path / "whole", max_steps=30)

    class PulledPlug(Exception):
        pass

    pairs, held_out, tokenizer = world
    real, seen = fitting.nt_xent, []

    def fails_in_step_17(*arguments, **options):
        if torch.is_grad_enabled():
            seen.append(1)
            if len(seen) == 17:
                raise PulledPlug
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "nt_xent", fails_in_step_17)
        with pytest.raises(PulledPlug):
            train(world, tmp_path / "parts", max_steps=30)
    resumed, history, _ = train(world, tmp_path / "parts", max_steps=30)
    assert history.resumed_at == 10
    for name, tensor in whole.state_dict().items():
        assert tensor.numpy().tobytes() == resumed.state_dict()[name].numpy().tobytes(), name


def batches_of(pairs, tokenizer, start_step=0, seed=4, **changes):
    settings = replace(SETTINGS, **changes)
    return list(pair_batches(stream(pairs), tokenizer, settings, seed=seed, max_length=35, start_step=start_step))


def test_a_batch_is_a_function_of_seed_and_step(world, monkeypatch):
    monkeypatch.setattr(fitting, "BUFFER_BATCHES", 4)  # 1000 pairs are eight buffers of 128: seven full, one of 104
    pairs, _, tokenizer = world
    all_batches = batches_of(pairs, tokenizer)
    assert len(all_batches) == 3 * 31  # 31 full batches an epoch; the rest of 8 pairs is less than half a batch
    for start in (0, 1, 5, 30, 31, 40, 92, 93):
        later = batches_of(pairs, tokenizer, start)
        assert len(later) == 93 - start
        for one, other in zip(all_batches[start:], later, strict=True):
            assert one.item_ids.tolist() == other.item_ids.tolist() and one.token_ids.tolist() == other.token_ids.tolist()
    assert all_batches[0].item_ids.tolist() != all_batches[31].item_ids.tolist()  # epochs are mixed differently
    assert all_batches[0].item_ids.tolist() != batches_of(pairs, tokenizer, seed=5)[0].item_ids.tolist()


def test_batches_hold_every_pair_once_with_its_own_title(world, monkeypatch):
    monkeypatch.setattr(fitting, "BUFFER_BATCHES", 4)
    pairs, _, tokenizer = world
    seen = []
    expected = {}
    for side in ("left", "right"):
        for item in pairs[f"{side}_title"].to_pylist():
            expected[fitting._stable_hash(item)] = encode_titles(tokenizer, [item])[0].tolist()
    for batch in batches_of(pairs, tokenizer, epochs=1, batch_size=50):
        ids, offsets, tokens = batch.item_ids.tolist(), batch.offsets.tolist(), batch.token_ids.tolist()
        assert len(ids) == 100 and len(offsets) == 101
        for row, item in enumerate(ids):
            assert tokens[offsets[row] : offsets[row + 1]] == expected[item]
        seen += list(zip(ids[:50], ids[50:], strict=True))
    hashes = [[fitting._stable_hash(item) for item in pairs[f"{side}_item_id"].to_pylist()] for side in ("left", "right")]
    assert sorted(seen) == sorted(zip(*hashes, strict=True))


def test_skipped_buffers_are_not_tokenised(world, monkeypatch):
    monkeypatch.setattr(fitting, "BUFFER_BATCHES", 4)
    pairs, _, tokenizer = world
    calls, real = [], fitting.encode_titles
    monkeypatch.setattr(fitting, "encode_titles", lambda *arguments: calls.append(1) or real(*arguments))
    assert len(batches_of(pairs, tokenizer, start_step=29, epochs=1)) == 2
    assert len(calls) == 1


def test_processes_share_each_batch(world, monkeypatch):
    """Three processes: a batch of 32 pairs gives each of them 10, and nobody the last two."""
    pairs, _, tokenizer = world
    alone = batches_of(pairs, tokenizer, epochs=1)
    monkeypatch.setattr(fitting.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(fitting.dist, "get_world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(fitting.dist, "get_rank", lambda rank=rank: rank)
        shares.append(batches_of(pairs, tokenizer, epochs=1))
    for whole, *parts in zip(alone, *shares, strict=True):
        left, right = whole.item_ids.chunk(2)
        for rank, part in enumerate(parts):
            assert part.item_ids.tolist() == [*left[rank:30:3].tolist(), *right[rank:30:3].tolist()]


WORKER = """
import test_item_encoder_fitting as own
pairs, held_out = own.made_up_pairs(1_000, 0), own.made_up_pairs(200, 1)
tokenizer = own.train_tokenizer(pairs["left_title"].to_pylist(), own.SETTINGS)
own.fitting.SPARSE_ABOVE = {sparse_above}
encoder, history, _ = own.train((pairs, held_out, tokenizer), {folder!r}, max_steps=12)
weights, told = encoder.state_dict(), {{"losses": history.losses, "evaluations": history.evaluations}}
"""


@pytest.mark.parametrize("sparse_above", [0, 20_000])
def test_two_processes_learn_what_one_learns(world, tmp_path, monkeypatch, sparse_above):
    """Each has half of every batch, negatives come from both, gradients are averaged: the loss of one with the whole batch."""
    monkeypatch.setattr(fitting, "SPARSE_ABOVE", sparse_above)
    encoder, history, _ = train(world, tmp_path / "one", max_steps=12)
    weights, told = run_two(WORKER.format(folder=str(tmp_path / "two"), sparse_above=sparse_above), tmp_path, __file__)
    assert told["evaluations"] == pytest.approx(history.evaluations, abs=1e-4)
    for name, weight in encoder.state_dict().items():
        assert torch.allclose(weights[name], weight, atol=5e-5), name


def test_few_pairs_are_one_small_batch(world):
    pairs, _, tokenizer = world
    assert [len(batch.item_ids) for batch in batches_of(pairs.slice(0, 2), tokenizer, epochs=2)] == [4, 4]
    with pytest.raises(InputError, match="Expected at least two pairs of items"):
        batches_of(pairs.slice(0, 1), tokenizer)


def test_missing_titles_and_no_held_out_pairs(world, tmp_path):
    pairs, held_out, tokenizer = world
    without = pairs.slice(0, 100).set_column(1, "left_title", pa.array([None] * 100, pa.string()))
    encoder, history, health = fit_encoder(
        stream(without), held_out.slice(0, 0), tokenizer, replace(SETTINGS, max_steps=3), seed=1, directory=tmp_path, key="k"
    )
    assert history.evaluations == [] and health["held_out_loss"] is None
    assert all(torch.isfinite(parameter).all() for parameter in encoder.parameters())


def test_the_seed_decides_the_weights_and_leaves_the_callers_random_state(world, tmp_path):
    state = torch.random.get_rng_state()
    weights = [fitting._new_encoder(7, 4, seed).words.weight for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_saved_and_loaded_encoders_give_the_same_bytes(world, tmp_path):
    pairs, _, tokenizer = world
    encoder = fitting._new_encoder(vocabulary_size(tokenizer), 16, 1).eval()
    titles = [*pairs["left_title"].to_pylist()[:300], "", "unheard-of", None]
    before = encode(encoder, tokenizer, titles, 2, batch_size=64)
    save_encoder(tmp_path / "encoder", encoder, tokenizer, {"max_length": 2, "note": "kept"})
    loaded, again, info = load_encoder(tmp_path / "encoder")
    assert encode(loaded, again, titles, info["max_length"], batch_size=64).tobytes() == before.tobytes()
    assert info["note"] == "kept" and info["dim"] == 16 and info["vocabulary_size"] == 48
    assert before.shape == (303, 16) and before.dtype == np.float32
    assert not before[300:].any()
    np.testing.assert_allclose(np.linalg.norm(before[:300], axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(encode(encoder, tokenizer, titles, 2), before, atol=1e-6)
    assert encode(encoder, tokenizer, [], 2).shape == (0, 16)


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 97, 299])
def test_a_title_has_the_bytes_that_it_has_among_others(world, at_once):
    pairs, _, tokenizer = world
    encoder = fitting._new_encoder(vocabulary_size(tokenizer), 128, 1).eval()
    titles = pairs["left_title"].to_pylist()[:300]
    parts = [encode(encoder, tokenizer, titles[start : start + at_once], 2) for start in range(0, 300, at_once)]
    assert np.concatenate(parts).tobytes() == encode(encoder, tokenizer, titles, 2).tobytes()


def test_a_damaged_encoder_is_refused(world, tmp_path):
    tokenizer = world[2]
    with pytest.raises(MissingInputError):
        load_encoder(tmp_path / "nothing")
    encoder = fitting._new_encoder(vocabulary_size(tokenizer), 16, 1)
    save_encoder(tmp_path, encoder, tokenizer, {"max_length": 2})
    save_encoder(tmp_path, encoder, train_tokenizer(["other words"] * 48, SETTINGS), {"max_length": 3})
    (file,) = tmp_path.glob("tokenizer-*.json")  # the tokenizer of before is gone
    assert load_encoder(tmp_path)[2]["max_length"] == 3
    file.write_bytes(file.read_bytes().replace(b"other", b"Other"))
    with pytest.raises(StoreError, match="intact tokenizer in .* SHA-256 of tokenizer-"):
        load_encoder(tmp_path)
    file.unlink()
    with pytest.raises(StoreError, match="run train-encoder again"):
        load_encoder(tmp_path)
