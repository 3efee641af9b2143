"""Interests: the clusters of item embeddings that bags count.

In: item embeddings and the items seen before as_of. Out: an interest space (centroids and their health) as an artifact. Only seen items
are sampled, by a hash of their id, so the fit does not depend on later items or on the order of files. Several processes may run this stage
together, and one that was killed goes on from the last iteration: the bytes are those of one process that nobody disturbed. LURM paper,
section 2.1.2.
"""

import hashlib
import logging
import shutil
import time

import numpy as np
import pyarrow.dataset as ds

from lurm.config import InterestsSettings, fingerprint, to_dict
from lurm.errors import InputError
from lurm.interest_space import save_centroids
from lurm.lineage import Context
from lurm.sampling import hash_threshold
from lurm.staging import read_files

log = logging.getLogger("lurm")
SMALL_CATALOGUE = 256


def run(context: Context) -> dict:
    """fit-interests: sample, cluster, keep the space."""
    store, settings = context.store, context.config.interests
    space_id = context.space_id()
    if store.has_artifact("spaces", space_id):
        return {"skipped": "fitted already", "space_id": space_id}
    started = time.monotonic()
    n_seen, n_user_items = _count_seen(context)
    n_interests = settings.n_interests or derive_n_interests(n_seen, n_user_items, settings)
    vectors, held_out = sample_embeddings(context, settings.max_sample, n_seen)
    if n_interests > len(vectors):
        raise InputError(f"Expected at least as many seen items with known words as interests, got {len(vectors)} items for D = {n_interests}; "
                         "lower interests.n_interests, or leave it 0 to derive it.")
    from lurm.cells import reach_for
    from lurm.kmeans import TWO_LEVEL, assign, choose_backend, cluster_health, fit_kmeans
    from lurm.standing import read_standing, write_standing
    from lurm.training import process_group

    backend = choose_backend(settings.backend, settings.device, n_interests)
    with process_group() as writes:
        workspace = store.workspace(space_id)
        key = fingerprint(space_id, n_interests, backend, hashlib.sha256(vectors).hexdigest())
        result = fit_kmeans(
            vectors, n_interests, seed=context.config.seed, n_iterations=settings.n_iterations, backend=backend, device=settings.device,
            progress=lambda iteration, objective: log.info("fit-interests: iteration %d, mean cosine %.4f", iteration, objective),
            begin=read_standing(workspace / "standing", key), keep=lambda standing: write_standing(workspace / "standing", key, standing),
        )
        # How items are assigned belongs to the space: an item must get the same interest whenever, and in whatever company, it comes.
        n_probes, n_cells = reach_for(held_out, result.centroids) if backend == TWO_LEVEL else (None, None)
        _, cosine = assign(held_out, result.centroids, backend=backend, device=settings.device, n_probes=n_probes)
        figures = {
            "n_interests": n_interests, "n_sample": len(vectors), "n_seen_items": n_seen,
            "objective": [round(float(v), 6) for v in result.objective], "held_out_cosine": float(cosine.mean()),
            "n_refilled": int(result.n_refilled), "backend": result.backend, "n_probes": n_probes, "n_cells": n_cells,
            "health": cluster_health(result.sizes), "seconds": round(time.monotonic() - started, 1),
        }
        info = {
            "space_id": space_id, "encoder_id": context.encoder_id(), "as_of": context.as_of, "dim": int(vectors.shape[1]),
            "seed": context.config.seed, "settings": to_dict(settings), **figures,
        }
        if writes:
            finished = workspace / "finished"
            shutil.rmtree(finished, ignore_errors=True)
            finished.mkdir()
            save_centroids(finished, result.centroids, info)
            store.put_artifact("spaces", space_id, finished)
            shutil.rmtree(workspace)
    return {"space_id": space_id, "n_interests": n_interests, "held_out_cosine": figures["held_out_cosine"], "health": figures["health"]}


def derive_n_interests(n_items: int, n_user_items: int, settings: InterestsSettings) -> int:
    """D from the catalogue and the users.

    About `items_per_interest` items an interest, but no fewer than 256 interests as long as each has 20 items, and never so many that an
    interest would have fewer than `pairs_per_interest` distinct (user, item) pairs to learn from.
    """
    by_items = max(n_items // settings.items_per_interest, min(SMALL_CATALOGUE, n_items // 20))
    return max(2, min(by_items, n_user_items // settings.pairs_per_interest, settings.max_interests))


def sample_embeddings(context: Context, max_sample: int, n_seen: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `max_sample` embeddings of seen items, and up to 20,000 others to test on; (n, dim) float32, unit norm.

    Files are sorted by the items' hash, so a share of all items is a prefix of every file and the rest is not read.
    """
    share = min(1.0, (max_sample + 20_000) / max(1, n_seen))
    below = ds.field("item_hash") <= hash_threshold(share)
    seen = _concatenated(read_files(context.store, context.pairs("seen_items").uris(), ["item_hash"], filters=below), "item_hash")
    seen = np.unique(seen)
    hashes, vectors = [], []
    for batch in read_files(context.store, context.embeddings().uris(), ["item_hash", "embedding"], filters=below):
        batch_hashes = batch.column("item_hash").to_numpy()
        matrix = batch.column("embedding").flatten().to_numpy().reshape(batch.num_rows, -1)
        keep = np.isin(batch_hashes, seen) & np.any(matrix != 0, axis=1)
        hashes.append(batch_hashes[keep])
        vectors.append(matrix[keep])
    if not vectors or not sum(map(len, vectors)):
        raise InputError("Expected embeddings of items with events, found none; check that items and events share their item ids.")
    order = np.argsort(np.concatenate(hashes), kind="stable")  # the same sample in the same order, however the files lie
    matrix = np.concatenate(vectors)[order]
    n_held_out = min(20_000, len(matrix) // 10)
    sample = matrix[: len(matrix) - n_held_out][:max_sample]
    return np.ascontiguousarray(sample), np.ascontiguousarray(matrix[len(matrix) - n_held_out :] if n_held_out else sample)


def _count_seen(context: Context) -> tuple[int, int]:
    n_items = n_user_items = 0
    for batch in read_files(context.store, context.pairs("seen_items").uris(), ["n_users"]):
        n_items += batch.num_rows
        n_user_items += int(batch.column("n_users").to_numpy().sum())
    return n_items, n_user_items


def _concatenated(batches, column: str) -> np.ndarray:
    pieces = [batch.column(column).to_numpy() for batch in batches]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int64)


