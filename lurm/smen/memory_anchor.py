"""The memory anchor: the principal directions of whole lives, found once a model, without a gradient.

In: a trained SMEN and lives of users. Out: its `memory` Wm (D, H), `memory_length`, `activity_means` and `activity_weights`, filled in place.

A recurrence prefers what is recent; what somebody has always done fades in it. So one anchor keeps the whole life as the plain bag does, in the H
directions in which lives differ most:

    x_j = sum over years of log1p(count_j) * idf_j,   idf_j = ln((1 + n) / (1 + n_j)) + 1,   Wm_j = idf_j * V_j

V (D, H): right singular vectors of the users' x, each of length 1. A sum over years can go on from a kept state. The length makes the memory
differ between users as much as all recurrent anchors together do, so that neither drowns the other in a distance.

Where the model has activity traces (lurm.smen.activity_traces), the memory has so many directions fewer, and each trace a mean, taken off it, and a
weight that makes it differ between users as much as every other trace.
"""

import logging
from collections.abc import Iterable

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch

from lurm.bag_of_interests import Lives, concatenate
from lurm.schema import MONTH
from lurm.smen.activity_traces import trace_weights
from lurm.smen.batches import SparseBags, month_bags, year_bags
from lurm.smen.inference import embed
from lurm.smen.model import SMEN

log = logging.getLogger("lurm")
MOST_USERS = 200_000  # whose lives are looked at; their sums lie in memory, some hundred numbers each
MEASURED_USERS = 2_048


def fit_memory(smen: SMEN, chunks: Iterable[Lives], year_blocks: str, grid_start: int, seed: int) -> None:
    """Fill the memory of `smen` from the first MOST_USERS users of `chunks`; fewer users or interests than H directions leave zeros."""
    parts, measured, n_users, n_measured = [], [], 0, 0
    for lives in chunks:
        lives = lives.take(np.flatnonzero(np.diff(lives.row_offsets))[: MOST_USERS - n_users])
        parts.append(sums_of_lives(smen, lives, year_blocks, grid_start))
        n_users += lives.n_users
        if n_measured < MEASURED_USERS:
            measured.append(lives.take(np.arange(min(lives.n_users, MEASURED_USERS - n_measured))))
            n_measured += measured[-1].n_users
        if n_users >= MOST_USERS:
            break
    n_directions = smen.memory.shape[1]
    weights = directions_of_lives(scipy.sparse.vstack(parts, format="csr"), n_directions, seed)
    smen.memory.copy_(torch.from_numpy(weights))
    smen.memory_length.fill_(1.0)
    if smen.activity_scale:
        smen.activity_means.fill_(0.0)
        smen.activity_weights.fill_(1.0)
    sample = concatenate(measured)
    vectors = embed(smen, {"grid_start": grid_start, "year_blocks": year_blocks}, sample, None, int(sample.periods.max()) + 1,
                    device=smen.memory.device)  # fmt: skip
    spread = vectors.var(axis=0, dtype=np.float64)
    recurrent, memory, traces = np.split(spread, np.cumsum([smen.n_recurrent * smen.dim, n_directions]))
    smen.memory_length.fill_(float(np.sqrt(recurrent.sum() / memory.sum())) if memory.any() else 1.0)
    if smen.activity_scale:
        smen.activity_means.copy_(torch.from_numpy(vectors[:, -len(traces) :].mean(axis=0, dtype=np.float64)))
        beside = recurrent.sum() * (2 if memory.any() else 1)  # a memory has been brought to the spread of the recurrent anchors
        smen.activity_weights.copy_(torch.from_numpy(trace_weights(traces, beside)))
    log.info("memory: %d directions of %d lives", np.count_nonzero(weights.any(axis=0)), n_users)


def sums_of_lives(smen: SMEN, lives: Lives, year_blocks: str, grid_start: int) -> scipy.sparse.csr_matrix:
    """(users, D) float32: the sum over the periods of the memory's scale of log1p(count)."""
    ends = np.full(lives.n_users, int(lives.periods.max(initial=grid_start)) + 1)
    bags: SparseBags = month_bags(lives, grid_start, ends) if smen.memory_scale == MONTH else year_bags(lives, grid_start, ends, year_blocks)
    rows = np.repeat(bags.users.numpy(), np.diff(bags.offsets.numpy()))
    sums = scipy.sparse.coo_matrix((torch.log1p(bags.counts).numpy(), (rows, bags.interest_ids.numpy())), shape=(lives.n_users, smen.n_interests))
    return sums.tocsr()  # adds up what a user did in several periods


def directions_of_lives(sums: scipy.sparse.csr_matrix, dim: int, seed: int) -> np.ndarray:
    """Wm (D, dim) float32 of sums (users, D)."""
    n_users, n_interests = sums.shape
    idf = np.log((1 + n_users) / (1 + np.bincount(sums.indices, minlength=n_interests))) + 1
    rows = (sums @ scipy.sparse.diags(idf)).tocsr()
    lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    rows = scipy.sparse.diags(1 / np.maximum(lengths, 1e-12)) @ rows
    n_directions = min(dim, min(rows.shape) - 1)
    weights = np.zeros((n_interests, dim), np.float32)
    if n_directions >= 1:
        start = np.random.default_rng(seed).standard_normal(min(rows.shape))
        _, strengths, directions = scipy.sparse.linalg.svds(rows.astype(np.float64), k=n_directions, v0=start)
        order = np.argsort(-strengths, kind="stable")
        directions, real = directions[order].T, strengths[order] > 1e-9
        signs = np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(n_directions)])
        weights[:, :n_directions] = idf[:, None] * directions * signs * real
    return weights
