"""The hash is the one that the specification gives; that it is Spark's too, tests/spark_jobs/test_tables.py says."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from lurm.text_hash import bucket_numbers, hash_text

PRIMES = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
WHOLE = 2**64 - 1


def rotated(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & WHOLE


def mixed(lane: int, word: int) -> int:
    return rotated((lane + word * PRIMES[1]) & WHOLE, 31) * PRIMES[0] & WHOLE


def xxhash64(data: bytes, seed: int) -> int:
    """The specification, in plain Python."""
    def word(place: int, size: int = 8) -> int:
        return int.from_bytes(data[place : place + size], "little")

    place = 0
    if len(data) >= 32:
        lanes = [(seed + PRIMES[0] + PRIMES[1]) & WHOLE, (seed + PRIMES[1]) & WHOLE, seed, (seed - PRIMES[0]) & WHOLE]
        for place in range(0, len(data) - 31, 32):
            lanes = [mixed(lane, word(place + 8 * number)) for number, lane in enumerate(lanes)]
        place += 32
        value = sum(rotated(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True)) & WHOLE
        for lane in lanes:
            value = ((value ^ mixed(0, lane)) * PRIMES[0] + PRIMES[3]) & WHOLE
    else:
        value = (seed + PRIMES[4]) & WHOLE
    value = (value + len(data)) & WHOLE
    while place + 8 <= len(data):
        value = (rotated(value ^ mixed(0, word(place)), 27) * PRIMES[0] + PRIMES[3]) & WHOLE
        place += 8
    if place + 4 <= len(data):
        value = (rotated(value ^ word(place, 4) * PRIMES[0] & WHOLE, 23) * PRIMES[1] + PRIMES[2]) & WHOLE
        place += 4
    for byte in data[place:]:
        value = rotated(value ^ byte * PRIMES[4] & WHOLE, 11) * PRIMES[0] & WHOLE
    value = (value ^ value >> 33) * PRIMES[1] & WHOLE
    value = (value ^ value >> 29) * PRIMES[2] & WHOLE
    return value ^ value >> 32


def test_the_plain_one_gives_the_published_value():
    assert xxhash64(b"", 0) == 0xEF46DB3751D8E999 and xxhash64(b"a", 0) == 0xD24EC4F1A98C6E5B


@given(st.lists(st.text(max_size=80), max_size=20), st.integers(0, 3))
def test_numpy_hashes_like_the_specification(texts, skipped):
    array = pa.array(["first", "of", "all", *texts], pa.string())[skipped:]  # a slice begins in the middle of its buffers
    assert hash_text(array).view(np.uint64).tolist() == [xxhash64(text.as_py().encode(), 42) for text in array]


def test_long_texts_are_hashed_in_pieces(monkeypatch):
    texts = pa.array([f"{number}" + "x" * 50 for number in range(300)])
    whole = hash_text(texts)
    monkeypatch.setattr("lurm.text_hash.PIECE_BYTES", 120)
    assert np.array_equal(hash_text(texts), whole)


def test_buckets_count_from_zero_also_for_negative_hashes():
    texts = pa.array([f"u{number}" for number in range(2_000)])
    assert (hash_text(texts) < 0).any()
    assert sorted(set(bucket_numbers(texts, 5).tolist())) == [0, 1, 2, 3, 4] and np.bincount(bucket_numbers(texts, 5)).min() > 300
