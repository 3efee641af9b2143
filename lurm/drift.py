"""How far a staged table is from the one that readers have: the same users, their vectors and their neighbours.

In: profile and sample of the staged table, the released version it is held against. Out: a few figures. Vectors of two models live in
different spaces, so there only what needs no common space is measured: who is there, and who is whose neighbour. The released table is
read once: its user column, and the vectors of the sampled users.
"""

from dataclasses import dataclass

import numpy as np

from lurm.embedding_table import EmbeddingTable, release_files
from lurm.profile import Profile, Sample, hash_of_users
from lurm.releases import followed, releases
from lurm.store import Store
from lurm.vectors import mean_shift, neighbour_overlap, same_row_cosines


@dataclass(frozen=True)
class Drift:
    """The staged table against a released one; None where too few users are in both, or where two models cannot be compared."""

    user_ratio: float  # users, over those of the release
    lost_users: float  # share of the release's users who are absent now
    compared_users: int
    same_user_cosine: float | None = None  # mean cosine of a user's two vectors
    mean_shift: float | None = None  # length of the mean difference, over the spread (root mean square distance from the mean) of the release
    norm_ratio: float | None = None
    neighbour_overlap: float | None = None  # share of the ten nearest users (by cosine, within the sample) that stay; scale-free


def baseline(store: Store, as_of: str, run_key: str) -> dict | None:
    """The release that a table of `as_of` is held against, None for the first one.

    It is what readers follow now, unless that is of a later date: then the newest date before or at `as_of`. So what was rolled back is
    no measure, and what this very run released before is none either.
    """
    return followed([row for row in releases(store) if row["run_key"] != run_key], as_of)


def compare(store: Store, release: dict, model_id: str, profile: Profile, sample: Sample, min_users: int) -> Drift:
    """Measure the drift from a release; raises StoreError when the released version cannot be read."""
    table, n_before, n_lost = EmbeddingTable(store, release, release_files(store, release)), 0, 0
    for batch in table.scan(["user_id"], batch_rows=65_536):
        n_before += batch.num_rows
        n_lost += int((~_contains(sample.hashes, hash_of_users(batch.column("user_id")))).sum())
    if n_before < min_users:
        return Drift(profile.rows / max(1, n_before), n_lost / max(1, n_before), 0)
    before, known = table.vectors(sample.users, absent="mask")
    before, now = before[known], sample.vectors[known]
    drift = Drift(profile.rows / n_before, n_lost / n_before, len(now))
    if len(now) < min_users:
        return drift
    overlap = float(neighbour_overlap(before, now).mean())
    if release["model_id"] != model_id:
        return Drift(drift.user_ratio, drift.lost_users, len(now), neighbour_overlap=overlap)
    return Drift(
        drift.user_ratio, drift.lost_users, len(now), float(same_row_cosines(before, now).mean()), mean_shift(before, now),
        float(np.linalg.norm(now, axis=1).mean() / max(np.linalg.norm(before, axis=1).mean(), 1e-30)), overlap,
    )


def _contains(ascending: np.ndarray, values: np.ndarray) -> np.ndarray:
    if not len(ascending):
        return np.zeros(len(values), bool)
    return ascending[np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)] == values
