"""Look-alikes: who is nearest to whom, by the cosine of whole vectors or of one anchor. Exact, in one pass over a release.

In: an open table and some of its users. Out: for each of them the k nearest other users and their cosines. The table streams by in batches,
and a batch is multiplied with all asked vectors at once, so a hundred users cost little more than one and memory does not grow with the
table: one batch, a tile of products, and k candidates a user.

Products in float32 pick candidates; the cosines that are sorted by and reported are computed pair by pair in float64. So they do not depend
on batches or threads, equal directions have equal cosines, and users with equal cosines come in the order of their ids.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lurm.embedding_table import EmbeddingTable
from lurm.errors import InputError
from lurm.vector_stream import BATCH_ROWS, stream_vectors
from lurm.vectors import unit_rows

TILE_QUERIES = 256  # asked users in one product: a tile of products is 8 MB
MARGIN = 1e-5  # more than float32 rounds a cosine of some thousand numbers
DECIMALS = 12  # of a cosine: what is left of float64's rounding must not break ties


def similar(table: EmbeddingTable, users: Sequence[str], k: int, anchor: int | None = None, zero: str = "error",
            batch_rows: int = BATCH_ROWS) -> tuple[np.ndarray, np.ndarray]:
    """The k users nearest to each of `users`, nearest first: ids (n, k) of str, and cosines (n, k) float64 from -1 to 1.

    `anchor` (from 0) compares that anchor alone. A user is no neighbour of his own; a zero vector (or anchor) has no direction and is
    nobody's neighbour. Where fewer than k users are left, ids are None and cosines NaN. Raises UnknownUserError for users whom the table
    does not hold, and InputError for k < 1, an anchor that is not there, and asked users with a zero vector; with zero="mask" such a user
    has None and NaN all over instead.
    """
    if k < 1:
        raise InputError(f"Expected to look for at least 1 neighbour, got {k}; ask for 1 or more.")
    if zero not in ("error", "mask"):
        raise ValueError(f"Expected zero to be 'error' or 'mask', got {zero!r}.")
    ids, asked = table.to_numpy(users, None if anchor is None else [anchor])
    names, first, positions = np.unique(ids, return_index=True, return_inverse=True)
    queries = unit_rows(asked.reshape(len(ids), asked.shape[1] * asked.shape[2])[first].astype(np.float64))
    directed = queries.any(axis=1)
    if zero == "error" and not directed.all():
        raise InputError(_without_direction(names[~directed].tolist(), anchor))
    found = [_Nearest(name, query, k) for name, query in zip(names[directed], queries[directed], strict=True)]
    tiles = [found[start : start + TILE_QUERIES] for start in range(0, len(found), TILE_QUERIES)]
    for ids, vectors in stream_vectors(table, anchor, batch_rows, "similar") if tiles else ():
        norms = np.linalg.norm(vectors, axis=1)
        for tile in tiles:
            products = np.stack([nearest.query for nearest in tile]).astype(np.float32) @ vectors.T
            cosines = np.where(norms > 0, products / np.maximum(norms, 1e-30), -np.inf)
            for nearest, row in zip(tile, cosines, strict=True):
                nearest.look_at(row, ids, vectors)
    neighbours, cosines = np.full((len(names), k), None, dtype=object), np.full((len(names), k), np.nan)
    for row, nearest in zip(np.flatnonzero(directed), found, strict=True):
        for column, (distance, name) in enumerate(nearest.best):
            neighbours[row, column], cosines[row, column] = name, -distance
    return neighbours[positions], cosines[positions]


class _Nearest:
    """The k nearest users of one user among those seen so far."""

    def __init__(self, name: str, query: np.ndarray, k: int):
        self.name, self.query, self.k = name, query, k  # query: (width,) float64 of length 1
        self.best: list[tuple[float, str]] = []  # (-cosine, user id), ascending

    def look_at(self, cosines: np.ndarray, ids: pa.Array, vectors: np.ndarray) -> None:
        """Take in a batch: `cosines` (n,) float32 are rough, -inf where a row has no direction; `vectors` (n, width) are the rows."""
        floor = -self.best[-1][0] if len(self.best) == self.k else -2.0
        places = np.flatnonzero(cosines >= floor - MARGIN)
        if len(places) > self.k + 1:  # one more, because the user himself may be among them
            floor = np.partition(cosines[places], -self.k - 1)[-self.k - 1]
            places = places[cosines[places] >= floor - MARGIN]
        if len(places):
            rows = vectors[places].astype(np.float64)
            exact = (rows * self.query).sum(axis=1) / np.sqrt(np.square(rows).sum(axis=1))
            pairs = zip(-np.round(np.clip(exact, -1, 1), DECIMALS), ids.take(pa.array(places)).to_pylist(), strict=True)
            self.best = sorted([*self.best, *(pair for pair in pairs if pair[1] != self.name)])[: self.k]


def _without_direction(users: list[str], anchor: int | None) -> str:
    what = "vector" if anchor is None else f"anchor {anchor}"
    shown = ", ".join(users[:10]) + (f" and {len(users) - 10} more" if len(users) > 10 else "")
    remedy = "leave them out" if anchor is None else "leave them out or ask for another anchor"
    return f"Expected users whose {what} has a direction, it is zero for {len(users)}: {shown}; such users have no neighbours, {remedy}."
