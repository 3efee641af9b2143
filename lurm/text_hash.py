"""xxHash64 of text in numpy: the same numbers as Spark's `xxhash64`, so that a worker knows the bucket of a user without asking Spark.

In: an Arrow array of text. Out: (n,) int64. Collet 2012, https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md; Spark's seed is 42.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SEED = 42
PRIMES = [np.uint64(prime) for prime in (11400714785074694791, 14029467366897019727, 1609587929392839161, 9650029242287828579, 2870177450012600261)]
PIECE_BYTES = 1 << 17  # of text that is gathered at once: stays in the second cache


def bucket_numbers(texts: pa.Array, n_buckets: int) -> np.ndarray:
    """The bucket of every text, (n,) int64 in [0, n_buckets): that of `spark_jobs.tables.bucket_of`."""
    return hash_text(texts) % n_buckets


def hash_text(texts: pa.Array) -> np.ndarray:
    """xxHash64 of every text in UTF-8, (n,) int64; a null is the seed, as in Spark."""
    texts = pc.fill_null(texts, "") if texts.null_count else texts
    hashes = np.empty(len(texts), np.uint64)
    if not len(texts):
        return hashes.view(np.int64)
    _, places, data = texts.buffers()
    offsets = np.frombuffer(places, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    data = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
    lengths = np.diff(offsets)
    if (lengths == lengths[0]).all() and lengths[0]:  # one behind the other as they are: nothing to gather
        return _hash_bytes(data[offsets[0] : offsets[-1]].reshape(len(texts), -1)).view(np.int64)
    order = np.argsort(lengths, kind="stable")
    ends = np.flatnonzero(np.diff(lengths[order], append=-1))
    start = 0
    for end in ends + 1:  # texts of one length together
        length = int(lengths[order[start]])
        step = max(1, PIECE_BYTES // max(1, length))
        for first in range(start, end, step):
            chosen = order[first : min(first + step, end)]
            hashes[chosen] = _hash_bytes(data[offsets[chosen, None] + np.arange(length)] if length else np.zeros((len(chosen), 0), np.uint8))
        start = end
    return hashes.view(np.int64)


def _hash_bytes(rows: np.ndarray) -> np.ndarray:
    """(n, length) uint8 -> (n,) uint64."""
    one, two, three, four, five = PRIMES
    n, length = rows.shape
    seed, done = np.uint64(SEED), 0
    with np.errstate(over="ignore"):
        if length >= 32:
            lanes = [np.full(n, value, np.uint64) for value in (seed + one + two, seed + two, seed, seed - one)]
            while done + 32 <= length:
                words = np.ascontiguousarray(rows[:, done : done + 32]).view("<u8")
                lanes = [_round(lane, words[:, number]) for number, lane in enumerate(lanes)]
                done += 32
            hashes = _rotated(lanes[0], 1) + _rotated(lanes[1], 7) + _rotated(lanes[2], 12) + _rotated(lanes[3], 18)
            for lane in lanes:
                hashes = (hashes ^ _round(np.zeros(n, np.uint64), lane)) * one + four
        else:
            hashes = np.full(n, seed + five, np.uint64)
        hashes += np.uint64(length)
        while done + 8 <= length:
            word = np.ascontiguousarray(rows[:, done : done + 8]).view("<u8")[:, 0]
            hashes = _rotated(hashes ^ _round(np.zeros(n, np.uint64), word), 27) * one + four
            done += 8
        if done + 4 <= length:
            word = np.ascontiguousarray(rows[:, done : done + 4]).view("<u4")[:, 0].astype(np.uint64)
            hashes = _rotated(hashes ^ word * one, 23) * two + three
            done += 4
        for place in range(done, length):
            hashes = _rotated(hashes ^ rows[:, place].astype(np.uint64) * five, 11) * one
        for shift, prime in ((33, two), (29, three)):
            hashes = (hashes ^ (hashes >> np.uint64(shift))) * prime
        return hashes ^ (hashes >> np.uint64(32))


def _round(lane: np.ndarray, word: np.ndarray) -> np.ndarray:
    return _rotated(lane + word * PRIMES[1], 31) * PRIMES[0]


def _rotated(values: np.ndarray, bits: int) -> np.ndarray:
    return (values << np.uint64(bits)) | (values >> np.uint64(64 - bits))
