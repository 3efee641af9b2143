"""Seeded choices by hash: shares, spread, and the same answer on every machine."""

import numpy as np

from lurm.sampling import hash64_of_text, hash_of_text, hash_threshold, mix


def test_a_threshold_is_passed_by_its_share_of_all_signed_hashes():
    assert hash_threshold(1.0) == 2**63 - 1 and hash_threshold(2.0) == 2**63 - 1
    assert hash_threshold(0.0) == -(2**63) and hash_threshold(-1.0) == -(2**63)
    assert hash_threshold(0.5) == 0
    hashes = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 100_000)
    assert abs((hashes <= hash_threshold(0.3)).mean() - 0.3) < 0.01


def test_mix_is_splitmix64():
    # The first outputs of the published generator with seed 1234567: its state grows by the golden ratio, then is mixed.
    first = mix(np.array([1234567], dtype=np.uint64))
    second = mix(np.array([(1234567 + 0x9E3779B97F4A7C15) % 2**64], dtype=np.uint64))
    assert [int(first[0]), int(second[0])] == [6457827717110365317, 3203168211198807973]


def test_mix_spreads_counters():
    mixed = mix(np.arange(50_000, dtype=np.uint64))
    assert len(np.unique(mixed)) == 50_000
    shares = np.bincount((mixed % np.uint64(10)).astype(int)) / 50_000
    assert np.abs(shares - 0.1).max() < 0.01


def test_a_text_has_one_number_for_a_seed():
    users = np.array(["u1", "u2", "ü3", "u1"], dtype=object)
    numbers = hash_of_text(users, 17)
    assert numbers[0] == numbers[3] and len(set(numbers)) == 3
    assert hash_of_text(users[::-1], 17).tolist() == numbers[::-1].tolist(), "the place in the array says nothing"
    assert not np.any(hash_of_text(users, 18) == numbers), "another seed is another draw"
    assert hash_of_text(np.array([], dtype=object), 17).shape == (0,)


def test_texts_are_spread_evenly():
    numbers = hash_of_text(np.array([f"user-{number}" for number in range(20_000)], dtype=object), 3)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert np.abs(np.histogram(numbers, 10, (0, 1))[0] / 20_000 - 0.1).max() < 0.01


def test_a_hash_of_64_bits_tells_texts_and_seeds_apart():
    texts = [f"user{number}" for number in range(10_000)]
    hashes = hash64_of_text(texts, 0)
    assert hashes.dtype == np.uint64 and len(np.unique(hashes)) == 10_000 and np.array_equal(hashes / 2.0**64, hash_of_text(np.array(texts), 0))
    assert not np.intersect1d(hashes, hash64_of_text(texts, 1)).size and hash64_of_text([], 0).shape == (0,)
