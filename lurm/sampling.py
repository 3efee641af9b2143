"""Seeded choices by hash: the same rows are chosen however they are cut into batches, files or tasks."""

import hashlib
from collections.abc import Iterable

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15


def hash_threshold(share: float) -> int:
    """The value that a share of all signed 64-bit hashes do not exceed."""
    return -(2**63) + min(2**64 - 1, int(min(1.0, max(0.0, share)) * 2**64))


def mix(values: np.ndarray) -> np.ndarray:
    """Splitmix64: turns counters (uint64) into numbers that look random (Steele, Lea and Flood, OOPSLA 2014)."""
    values = values + np.uint64(GOLDEN)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash64_of_text(texts: Iterable[str], seed: int) -> np.ndarray:
    """64 bits that look random for every text, the same on every machine; (n,) uint64."""
    salt = str(seed).encode()
    digests = b"".join(hashlib.blake2b(str(text).encode(), digest_size=8, key=salt).digest() for text in texts)
    return np.frombuffer(digests, dtype="<u8")


def hash_of_text(texts: Iterable[str], seed: int) -> np.ndarray:
    """A number in [0, 1) for every text, uniform and the same on every machine; (n,) float64."""
    return hash64_of_text(texts, seed) / 2.0**64
