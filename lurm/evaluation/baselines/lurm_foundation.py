"""What all variants of LURM share: item embeddings, interests and bags of one history, made by the product's own functions in memory.

In: a `History`, a budget, a seed. Out: item vectors (lurm.item_encoder), centroids and the interest of every item (lurm.kmeans), and the users'
monthly bags (lurm.bag_of_interests). Spark only brings these functions their rows; here the rows are in memory. Each piece is made once per
history and settings, so every ablation stands on the same encoder and, at one D, on the same interests.

Sizes: the product's settings, with training bounded by the budget: the encoder takes up to 3 x `Budget.steps` steps of up to 1,024 pairs.
"""

import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from lurm.bag_of_interests import Lives, add_counts
from lurm.config import EncoderSettings, InterestsSettings, PairsSettings
from lurm.errors import InputError
from lurm.evaluation.baselines.behaviours import Behaviours, behaviours_of
from lurm.evaluation.baselines.fitted import fitted
from lurm.evaluation.baselines.method import Budget, History
from lurm.interests import derive_n_interests
from lurm.item_encoder.fitting import fit_encoder
from lurm.item_encoder.inference import encode
from lurm.item_encoder.pairs import sample_pairs
from lurm.item_encoder.tokenizer import length_at_percentile, train_tokenizer
from lurm.kmeans import assign, fit_kmeans
from lurm.sampling import hash64_of_text

log = logging.getLogger("lurm")
HELD_OUT_PAIRS = 0.02
SOFT_NEAREST, SOFT_TEMPERATURE = 4, 0.1  # soft assignment: softmax of cosine / temperature over the nearest interests
SOFT_UNIT = 1_000  # soft counts are whole thousandths, because bags are whole numbers


@dataclass(frozen=True)
class Interests:
    """One interest space: (D, 128) unit centroids and what each item belongs to."""

    centroids: np.ndarray
    of_item: np.ndarray  # (I,) int64, -1 for items without a known word
    details: dict


def item_vectors(history: History, budget: Budget, seed: int) -> tuple[np.ndarray, dict]:
    """(I, 128) float32 of unit norm (zeros without a known word), and what the encoder's training cost."""
    key = ("item vectors", budget.steps, budget.batch_size, seed)
    return fitted(history, key, lambda: _item_vectors(behaviours_of(history), budget, seed))


def interests(history: History, budget: Budget, seed: int, n_interests: int | None = None) -> Interests:
    """The interests of a history; D as the product derives it unless given, at most half of the distinct vectors."""
    chosen = _chosen_number(history, budget, seed, n_interests)
    return fitted(history, ("interests", budget.steps, budget.batch_size, seed, chosen), lambda: _interests(history, budget, seed, chosen))


def lives(history: History, budget: Budget, seed: int, n_interests: int | None = None, soft: bool = False) -> Lives:
    """Monthly bags of all users in the order of `Behaviours.users`; soft ones count thousandths of an event."""
    key = ("lives", budget.steps, budget.batch_size, seed, _chosen_number(history, budget, seed, n_interests), soft)
    return fitted(history, key, lambda: _lives(history, budget, seed, n_interests, soft))


def last_months(months: Lives, first: int, whom: np.ndarray | None = None) -> Lives:
    """The same users (or some) with the periods from month number `first` on."""
    months = months if whom is None else months.take(whom)
    rows = np.flatnonzero(months.periods >= first)
    owners = np.repeat(np.arange(months.n_users), np.diff(months.row_offsets))[rows]
    lengths = np.diff(months.offsets)[rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    cells = np.repeat(months.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
    row_offsets = np.searchsorted(owners, np.arange(months.n_users + 1)).astype(np.int64)
    return Lives(months.user_ids, row_offsets, months.periods[rows], offsets, months.interest_ids[cells], months.counts[cells])


def soft_shares(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) numbers of the nearest interests and (n, k) shares in whole thousandths that add up to 1,000."""
    k = min(SOFT_NEAREST, len(centroids))
    ids, shares = np.empty((len(vectors), k), np.int64), np.empty((len(vectors), k), np.int64)
    for start in range(0, len(vectors), 8_192):
        rows = slice(start, start + 8_192)
        cosine = vectors[rows] @ centroids.T
        near = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        weight = np.exp((np.take_along_axis(cosine, near, axis=1) - cosine.max(axis=1, keepdims=True)) / SOFT_TEMPERATURE)
        part = np.floor(SOFT_UNIT * weight / weight.sum(axis=1, keepdims=True)).astype(np.int64)
        part[:, 0] += SOFT_UNIT - part.sum(axis=1)
        ids[rows], shares[rows] = near, part
    return ids, shares


def _item_vectors(behaviours: Behaviours, budget: Budget, seed: int) -> tuple[np.ndarray, dict]:
    began = time.monotonic()
    events = pa.table({
        "user_id": pa.array(behaviours.users[behaviours.owners], pa.string()),
        "user_hash": pa.array(hash64_of_text(behaviours.users, 0).view(np.int64)[behaviours.owners]),
        "item_id": pa.array(behaviours.item_ids[behaviours.items], pa.string()),
        "timestamp": pa.array(behaviours.micros).cast(pa.timestamp("us")),
    })  # fmt: skip
    pairs = pa.Table.from_batches(sample_pairs(events.to_batches(), PairsSettings(), seed)).sort_by("order_key").combine_chunks()
    if pairs.num_rows < 2:
        raise InputError(f"Expected two items of one user less than five days apart, got {pairs.num_rows} such pairs; give a longer history.")
    pairs = pairs.slice(0, PairsSettings().max_pairs)
    title_of = dict(zip(behaviours.item_ids, behaviours.titles))
    columns = {}
    for side in ("left", "right"):
        ids = pairs.column(f"{side}_item_id")
        columns |= {f"{side}_item_id": ids, f"{side}_title": pa.array([title_of[name] for name in ids.to_pylist()], pa.string())}
    table = pa.table(columns)
    n_held_out = max(2, min(20_000, int(HELD_OUT_PAIRS * table.num_rows))) if table.num_rows >= 8 else 0
    settings = EncoderSettings(
        batch_size=max(2, min(1_024, 16 * budget.batch_size, (table.num_rows - n_held_out) // 4)), max_steps=3 * budget.steps, epochs=20,
        checkpoint_every=1_000_000, evaluate_every=max(1, min(100, budget.steps // 3)), patience=3,
    )  # fmt: skip
    tokenizer = train_tokenizer(behaviours.titles, settings)
    max_length = length_at_percentile(tokenizer, behaviours.titles, settings.length_percentile)
    training = table.slice(n_held_out)
    with tempfile.TemporaryDirectory() as folder:
        encoder, history, health = fit_encoder(
            lambda epoch: training.to_batches(), table.slice(0, n_held_out), tokenizer, settings, seed=seed, directory=Path(folder),
            key="evaluation", max_length=max_length, progress=lambda step, loss: log.debug("item encoder: step %d, loss %.3f", step, loss),
        )  # fmt: skip
    vectors = encode(encoder.cpu(), tokenizer, behaviours.titles, max_length)
    cost = {"encoder_steps": len(history.losses), "encoder_best_step": history.best_step, "encoder_seconds": round(time.monotonic() - began, 1)}
    return vectors, cost | {"encoder_rank": health.get("effective_rank")}


def _chosen_number(history: History, budget: Budget, seed: int, wanted: int | None) -> int:
    """D, from what is wanted and what there is: two settings that come to the same D share one interest space."""

    def count() -> tuple[int, int]:
        vectors, _ = item_vectors(history, budget, seed)
        behaviours = behaviours_of(history)
        known = np.any(vectors != 0, axis=1)
        direction = np.random.default_rng(0).normal(size=vectors.shape[1])  # equal vectors have equal products, others almost never
        n_distinct = np.unique(np.round(vectors[known] @ direction, 6)).size
        n_pairs = np.unique(behaviours.owners * len(vectors) + behaviours.items).size
        return n_distinct, derive_n_interests(int(known.sum()), n_pairs, InterestsSettings())

    n_distinct, derived = fitted(history, ("number of interests", budget.steps, budget.batch_size, seed), count)
    return max(1, min(derived if wanted is None else wanted, n_distinct // 2))


def _interests(history: History, budget: Budget, seed: int, n_interests: int) -> Interests:
    vectors, cost = item_vectors(history, budget, seed)
    known = np.flatnonzero(np.any(vectors != 0, axis=1))
    directed = np.ascontiguousarray(vectors[known])
    began = time.monotonic()
    result = fit_kmeans(directed, n_interests, seed=seed, n_iterations=InterestsSettings().n_iterations, device="cpu")
    of_item = np.full(len(vectors), -1, np.int64)
    of_item[known] = assign(directed, result.centroids, device="cpu")[0]
    details = {"n_interests": n_interests, "items_per_interest": round(len(known) / n_interests, 2)}
    return Interests(result.centroids, of_item, cost | details | {"kmeans_seconds": round(time.monotonic() - began, 1)})


def _lives(history: History, budget: Budget, seed: int, n_interests: int | None, soft: bool) -> Lives:
    behaviours, space = behaviours_of(history), interests(history, budget, seed, n_interests)
    owners, months, items = behaviours.owners, behaviours.months, behaviours.items
    known = space.of_item[items] >= 0
    owners, months, items = owners[known], months[known], items[known]
    if soft:
        vectors, _ = item_vectors(history, budget, seed)
        used = np.unique(items)
        ids, shares = soft_shares(vectors[used], space.centroids)
        rows = np.searchsorted(used, items)
        width = ids.shape[1]
        ids, counts = ids[rows].ravel(), shares[rows].ravel()
        owners, months = np.repeat(owners, width), np.repeat(months, width)
        owners, months, ids, counts = (column[counts > 0] for column in (owners, months, ids, counts))
    else:
        ids, counts = space.of_item[items], np.ones(len(items), np.int64)
    found = add_counts(behaviours.users[owners], months, ids, counts)
    # Users whose events have no interest are users too: everybody has a place.
    places = np.searchsorted(behaviours.users, found.user_ids)
    rows = np.zeros(len(behaviours.users), np.int64)
    rows[places] = np.diff(found.row_offsets)
    row_offsets = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    return Lives(behaviours.users, row_offsets, found.periods, found.offsets, found.interest_ids, found.counts)
