"""What a staged table looks like: one pass over exactly the files of its manifest, never over a listing.

In: a manifest of `user_embeddings`. Out: a profile (a few numbers) and a sample of users by hash, which is the same users in every
version. Memory: the bytes of READERS files and one batch of each, the sample, and 8 bytes a user.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lurm.manifest import DataFile, Manifest
from lurm.sampling import hash64_of_text
from lurm.schema import USER_EMBEDDINGS
from lurm.store import Store

BATCH_ROWS = 4_096
READERS = 4  # files that are read side by side: while one waits for the store, another is looked at
NORMS = 200_000  # vectors, by hash, whose norms the quantiles are of
RANKED = 512  # vectors whose effective rank is measured, as in training
SEED = 0  # of the hash of a user
COUNTS = ("rows", "null_users", "null_embeddings", "wrong_length", "not_finite", "zero_vectors", "future_facts", "wrong_facts")
FACTS = ("n_events", "n_active_months", "first_event_at", "last_event_at")


@dataclass(frozen=True)
class Profile:
    """One pass over the staged user embeddings."""

    rows: int
    manifest_rows: int
    damaged_files: int  # files whose bytes are not those of the manifest
    files_of_another_schema: int
    null_users: int
    null_embeddings: int
    wrong_length: int
    not_finite: int  # vectors with a NaN, an infinity or a hole
    zero_vectors: int
    duplicate_users: int  # rows beyond the first of their user; two users share a hash once in 370,000 tables of 10^7 users
    future_facts: int  # users whose last event is not before as_of
    wrong_facts: int  # users without an event or a month, or with a first event after the last
    norm_mean: float
    norm_max: float
    norm_p1: float
    norm_p50: float
    norm_p99: float
    anchor_norms: tuple[float, ...]  # mean norm of every anchor


@dataclass(frozen=True)
class Sample:
    """Users of a table: the hashes of all, and names and vectors of those with the smallest hashes."""

    users: np.ndarray  # (k,) text, ascending
    vectors: np.ndarray  # (k, n_anchors * dim) float32, finite
    hashes: np.ndarray  # (n,) uint64 of all users, ascending


@dataclass(frozen=True)
class _Part:
    """What one batch adds; every field is summed or strung together."""

    counts: dict[str, int]
    anchor_sums: np.ndarray  # (n_anchors,) of the norms of finite vectors
    norm_sum: float
    norm_max: float
    n_finite: int
    hashes: np.ndarray
    norms: np.ndarray  # of a sample
    users: np.ndarray  # of a smaller sample, with their vectors
    vectors: np.ndarray


def profile_embeddings(store: Store, manifest: Manifest, n_sampled: int = 2_000) -> tuple[Profile, Sample]:
    """Read every file of the manifest once, READERS in memory at a time; about `n_sampled` users come back with their vectors."""
    n_anchors, dim = int(manifest.figures["n_anchors"]), int(manifest.figures["dim"])
    share, norm_share = n_sampled / max(1, manifest.rows()), NORMS / max(1, manifest.rows())

    def parts_of(file: DataFile) -> str | list[_Part]:
        data = store.read_bytes(store.path("tables", manifest.table, *file.path.split("/")))
        if hashlib.sha256(data).hexdigest() != file.sha256:
            return "damaged_files"
        if (batches := _batches(data)) is None:
            return "files_of_another_schema"
        as_of = datetime.fromisoformat(file.partition["as_of"]).replace(tzinfo=UTC)
        return [_part(batch, as_of, n_anchors, dim, share, norm_share) for batch in batches]

    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(parts_of, manifest.files))
    files = {wrong: found.count(wrong) for wrong in ("damaged_files", "files_of_another_schema")}
    parts = [part for of_file in found if not isinstance(of_file, str) for part in of_file]
    counts = {name: sum(part.counts[name] for part in parts) for name in COUNTS}
    n_finite = max(1, sum(part.n_finite for part in parts))
    everybody = np.sort(np.concatenate([np.zeros(0, np.uint64), *(part.hashes for part in parts)]))
    norms = np.concatenate([np.zeros(0), *(part.norms for part in parts)])
    low, middle, high = np.quantile(norms, [0.01, 0.5, 0.99]).tolist() if len(norms) else (0.0, 0.0, 0.0)
    profile = Profile(
        manifest_rows=manifest.rows(), **files, **counts, duplicate_users=int((everybody[1:] == everybody[:-1]).sum()),
        norm_mean=sum(part.norm_sum for part in parts) / n_finite, norm_max=max((part.norm_max for part in parts), default=0.0),
        norm_p1=low, norm_p50=middle, norm_p99=high,
        anchor_norms=tuple((sum((part.anchor_sums for part in parts), np.zeros(n_anchors)) / n_finite).tolist()),
    )
    users = np.concatenate([np.zeros(0, object), *(part.users for part in parts)])
    vectors = np.concatenate([np.zeros((0, n_anchors * dim), np.float32), *(part.vectors for part in parts)])
    order = np.argsort(users, kind="stable")
    return profile, Sample(users[order], vectors[order], everybody)


def hash_of_users(users: pa.Array) -> np.ndarray:
    """(n,) uint64; the same user has the same hash in every version."""
    return hash64_of_text(users.to_pylist(), SEED)


def _batches(data: bytes) -> Iterator[pa.RecordBatch] | None:
    """Batches of one file, None if it is no file of this table."""
    wanted = USER_EMBEDDINGS.data_schema
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        found = {field.name: field.type for field in file.schema_arrow}
    except pa.ArrowInvalid:
        return None
    if any(found.get(field.name) != field.type for field in wanted):
        return None
    return file.iter_batches(BATCH_ROWS, columns=wanted.names, use_threads=False)


def _part(batch: pa.RecordBatch, as_of: datetime, n_anchors: int, dim: int, share: float, norm_share: float) -> _Part:
    names, embedding = batch.column("user_id"), batch.column("embedding")
    known = names.is_valid().to_numpy(zero_copy_only=False)
    hashes = np.zeros(batch.num_rows, np.uint64)
    hashes[known] = hash_of_users(names.drop_null())

    fits = (np.diff(embedding.offsets.to_numpy()) == n_anchors * dim) & embedding.is_valid().to_numpy(zero_copy_only=False)
    whole = (embedding if fits.all() else embedding.filter(pa.array(fits))).flatten()
    if whole.null_count:  # a hole in a vector counts like a NaN
        whole = whole.fill_null(np.nan)
    vectors = whole.to_numpy(zero_copy_only=False).reshape(-1, n_anchors * dim)
    anchors = vectors.reshape(-1, n_anchors, dim)
    squares = np.einsum("nad,nad->na", anchors, anchors).astype(np.float64)  # in float32: a number above 10^19 counts as infinite
    norms = np.sqrt(squares.sum(axis=1))
    finite = np.isfinite(norms)

    place, sampled_norms = hashes[fits] / 2.0**64, norms[finite]
    chosen = finite & known[fits] & (place < share)
    facts = {name: batch.column(name) for name in FACTS}
    wrong = pc.and_kleene(pc.greater_equal(facts["n_events"], 1), pc.greater_equal(facts["n_active_months"], 1))
    wrong = pc.invert(pc.fill_null(pc.and_kleene(wrong, pc.less_equal(facts["first_event_at"], facts["last_event_at"])), False))
    future = pc.fill_null(pc.greater_equal(facts["last_event_at"], pa.scalar(as_of, facts["last_event_at"].type)), False)
    counts = {
        "rows": batch.num_rows, "null_users": names.null_count, "null_embeddings": embedding.null_count,
        "wrong_length": int((~fits).sum()) - embedding.null_count, "not_finite": int((~finite).sum()), "zero_vectors": int((norms == 0).sum()),
        "future_facts": pc.sum(future).as_py() or 0, "wrong_facts": pc.sum(wrong).as_py() or 0,
    }
    return _Part(
        counts, np.sqrt(squares[finite]).sum(axis=0), float(sampled_norms.sum()), float(sampled_norms.max(initial=0)), int(finite.sum()),
        hashes[known], norms[finite & (place < norm_share)], np.asarray(names.to_pylist(), object)[fits][chosen], vectors[chosen],
    )
