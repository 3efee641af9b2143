"""Why a user's vector is what it is: the part of every interest and every period in each anchor.

In: a trained model and one user's monthly life. Out: `Explanation`, numbers that add up to what they explain. Two steps (LURM eq. 5-7):

1. Within a period everything is exact. The sum S = sum_j log1p(c_j) alpha_ij We_j is linear in its interests, and r = ReLU(S) keeps those
   of the H coordinates that are positive: r = sum_j mask * log1p(c_j) alpha_ij We_j, where the mask is that of the whole sum. So interest j
   contributes the vector v_j = mask * log1p(c_j) alpha_ij We_j, and all v_j of a period add up to r (`module_contributions`).
2. Over time the GRU and the gate are not linear. What is explained is the length of the anchor's part of the vector, |r~|, measured along
   its own direction, above what silence would give; it is spread over the inputs r of all months and years by integrated gradients
   (Sundararajan, Taly and Yan, 2017) on the straight way from no events to the user's. These add up to the whole difference, up to
   the error of the quadrature, which is told (`gap`). The gradient of a period is then applied to the v_j of step 1.

The memory, where the model has one, is a sum over its periods brought to one length: its parts are exact, each being what the interest adds to the
sum, along its direction and by the factor that brings the whole sum to that length. So are those of its activity traces, sums over periods too:
what a period adds is shared among its interests by their events.

`without` answers another question by computing the vector again: how much shorter the anchor's part would be, along its own direction,
had the user never touched the interest. Interests help and replace each other, so these numbers need not add up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lurm.bag_of_interests import Lives, concatenate
from lurm.periods import month_name
from lurm.schema import MONTH
from lurm.smen.activity_traces import N_TRACES, fading, of_rows
from lurm.smen.batches import CALENDAR, SparseBags, month_bags, year_bags
from lurm.smen.inference import embed
from lurm.smen.model import SMEN
from lurm.smen.recurrence import last_states

N_NODES = 32  # of the Gauss-Legendre quadrature


@dataclass(frozen=True)
class Explanation:
    """M anchors, P non-empty periods (months, then years or what the model calls so), J interests of the user."""

    interests: np.ndarray  # (J,) int64, ascending
    periods: list[tuple[str, str]]  # (scale, name): ("month", "2021-03"), ("year", "2021")
    counts: np.ndarray  # (P, J) int64: events; a year repeats those of its months
    vector: np.ndarray  # (M, H) float32: the user's embedding, computed from the bags
    norms: np.ndarray  # (M,) lengths of the anchors' parts
    silence: np.ndarray  # (M,) what a user without events would have along the same directions
    contributions: np.ndarray  # (M, P, J): sum over P and J = norms - silence + gap
    within: np.ndarray  # (M, P, J): step 1 alone, along the direction of the period's own r; sum over J = |r| of the period
    without: np.ndarray  # (M, J): how much shorter along its direction without the interest; NaN where it was not computed

    @property
    def gap(self) -> np.ndarray:
        """(M,) what the contributions add up to, less what they explain: the error of the quadrature."""
        return self.contributions.sum(axis=(1, 2)) - (self.norms - self.silence)

    def of_interests(self) -> np.ndarray:
        """(M, J): contributions over all periods."""
        return self.contributions.sum(axis=1)

    def of_periods(self) -> np.ndarray:
        """(M, P): contributions over all interests."""
        return self.contributions.sum(axis=2)

    def strongest(self, anchor: int, n: int) -> list[int]:
        """Positions of the n interests that contribute most, by size; of either sign."""
        sizes = np.abs(self.of_interests()[anchor])
        return [int(place) for place in np.argsort(-sizes, kind="stable")[:n] if sizes[place] > 0]


def explain(smen: SMEN, info: dict, life: Lives, end_month: int, n_removed: int = 8) -> Explanation:
    """Explain the vector of one user from months before `end_month` (a month number, exclusive).

    `without` is computed for the `n_removed` strongest interests of each anchor: one more embedding each. `life` must hold one user with
    at least one row before `end_month`; raises ValueError otherwise.
    """
    if life.n_users != 1 or not len(life.periods) or life.periods[0] >= end_month:
        raise ValueError(f"Expected the life of one user with events before month {end_month}, got {life.n_users} users, {len(life.periods)} rows.")
    smen, ends = smen.eval(), np.array([end_month])
    alpha = smen.anchor_weights(torch.arange(smen.n_interests)).detach()
    bags = {}
    for scale in smen.scales:
        of_scale = month_bags(life, info["grid_start"], ends) if scale == MONTH else year_bags(
            life, info["grid_start"], ends, info.get("year_blocks", CALENDAR))
        bags[scale] = of_scale
    with torch.no_grad():
        inputs = {scale: smen.bag_embedding(of_scale, alpha).float() for scale, of_scale in bags.items()}
        vector, silent = _forward(smen, inputs, bags), _forward(smen, {scale: torch.zeros_like(r) for scale, r in inputs.items()}, bags)
        vector = smen.with_memory(vector[None], {scale: smen.sums_of(scale, bags[scale]) for scale in smen.scales})[0]
        silent = smen.with_memory(silent[None], {scale: silent.new_zeros(1, smen.n_sums(scale)) for scale in smen.scales})[0]
    norms = vector.norm(dim=1)
    direction = torch.where(norms[:, None] > 0, vector / norms[:, None].clamp_min(1e-30), torch.zeros_like(vector))  # (M, H)
    gradients = _mean_gradients(smen, inputs, bags, direction[: smen.n_recurrent])
    interests = np.unique(torch.cat([of_scale.interest_ids for of_scale in bags.values()]).numpy())
    parts = [_cells(smen, alpha, bags[scale], inputs[scale], gradients[scale], interests) for scale in smen.scales]
    if smen.memory_scale:
        parts = [_with_memory(smen, part, bags[scale], interests, direction[-1], scale) for scale, part in zip(smen.scales, parts, strict=True)]
    periods = [(scale, name) for scale in smen.scales for name in _names(scale, bags[scale], info, end_month)]
    result = Explanation(
        interests, periods, np.concatenate([counts for counts, _, _ in parts]), vector.numpy(), norms.double().numpy(),
        (silent * direction).sum(dim=1).double().numpy(), np.concatenate([over_time for _, over_time, _ in parts], axis=1),
        np.concatenate([within for _, _, within in parts], axis=1), np.full((smen.n_anchors, len(interests)), np.nan),
    )
    removed = sorted({place for anchor in range(smen.n_anchors) for place in result.strongest(anchor, n_removed)})
    if removed:
        vectors = embed(smen, info, concatenate([without_interest(life, interests[place]) for place in removed]), None, end_month)
        left = torch.from_numpy(vectors).view(len(removed), smen.n_anchors, smen.dim)
        result.without[:, removed] = ((vector - left) * direction).sum(dim=2).double().numpy().T
    return result


def module_contributions(smen: SMEN, interest_ids: Sequence[int], counts: Sequence[float]) -> np.ndarray:
    """(n_recurrent, J, H) float64: what each of J interests of one bag contributes to r = ReLU(S); sums over J to r exactly (step 1)."""
    chosen = torch.as_tensor(np.asarray(interest_ids, np.int64))
    with torch.no_grad():
        vectors, alpha = smen.interest_embedding(chosen).double(), smen.anchor_weights(chosen).double()
    scale = torch.log1p(torch.as_tensor(np.asarray(counts, np.float64)))
    before = torch.einsum("j,jm,jh->mjh", scale, alpha, vectors)
    return (before * (before.sum(dim=1, keepdim=True) > 0)).numpy()


def without_interest(life: Lives, interest: int) -> Lives:
    """The life of one user had he never touched an interest; months that hold nothing else are gone."""
    kept = life.interest_ids != interest
    lengths = np.add.reduceat(kept.astype(np.int64), life.offsets[:-1])
    full = np.flatnonzero(lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths[full])]).astype(np.int64)
    return Lives(life.user_ids, np.array([0, len(full)], np.int64), life.periods[full], offsets, life.interest_ids[kept], life.counts[kept])


def _forward(smen: SMEN, inputs: dict[str, torch.Tensor], bags: dict[str, SparseBags]) -> torch.Tensor:
    """The recurrent part of the user's embedding (M, H) from r (R, M, H) of each scale."""
    return smen.fuse({scale: last_states(smen.gru_of(scale), inputs[scale], bags[scale]) for scale in smen.scales})[0]


def _mean_gradients(smen: SMEN, inputs: dict[str, torch.Tensor], bags: dict[str, SparseBags], direction: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of every anchor's length along `direction`, towards its inputs, averaged over the straight way from 0 to the inputs.

    An anchor's part depends on its own inputs alone, so one backward pass gives the gradients of all anchors.
    """
    nodes, weights = np.polynomial.legendre.leggauss(N_NODES)
    total = {scale: torch.zeros_like(r, dtype=torch.float64) for scale, r in inputs.items()}
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        at = {scale: (r * float(node)).requires_grad_(True) for scale, r in inputs.items()}
        with torch.enable_grad():
            length = (_forward(smen, at, bags) * direction).sum()
        for scale, gradient in zip(at, torch.autograd.grad(length, list(at.values())), strict=True):
            total[scale] += float(weight) * gradient
    return total


def _cells(smen: SMEN, alpha: torch.Tensor, bags: SparseBags, inputs: torch.Tensor, gradients: torch.Tensor, interests: np.ndarray):
    """(P, J) counts, (M, P, J) contributions over time, (M, P, J) contributions within the period, of one scale."""
    shape = (len(bags.steps), len(interests))
    counts, over_time, within = np.zeros(shape, np.int64), np.zeros((smen.n_recurrent, *shape)), np.zeros((smen.n_recurrent, *shape))
    own = torch.nn.functional.normalize(inputs.double(), dim=2)
    for row, (start, stop) in enumerate(zip(bags.offsets[:-1].tolist(), bags.offsets[1:].tolist(), strict=True)):
        chosen = bags.interest_ids[start:stop]
        places = np.searchsorted(interests, chosen.numpy())
        vectors = smen.interest_embedding(chosen).detach().double()  # (j, H)
        scale = alpha[chosen].double().T * torch.log1p(bags.counts[start:stop].double())  # (M, j)
        mask = inputs[row] > 0  # (M, H)
        counts[row, places] = bags.counts[start:stop].numpy()
        over_time[:, row, places] = (((gradients[row] * mask) @ vectors.T) * scale).numpy()
        within[:, row, places] = (((own[row] * mask) @ vectors.T) * scale).numpy()
    return counts, over_time, within


def _with_memory(smen: SMEN, cells: tuple, bags: SparseBags, interests: np.ndarray, direction: torch.Tensor, scale: str) -> tuple:
    """`_cells` with one row more: the parts of the memory; `within` is of its directions alone, which one scale has."""
    counts, over_time, within = cells
    whole, own = np.zeros((2, *counts.shape))
    of_interests = direction[: smen.memory.shape[1]].double()
    if scale == smen.memory_scale:
        factor = float(smen.memory_length) / max(float(smen.memory_sums(bags).double().norm()), 1e-12)
        rows = torch.nn.functional.normalize(smen.memory_of_rows(bags).double(), dim=1)
        for row, (start, stop) in enumerate(zip(bags.offsets[:-1].tolist(), bags.offsets[1:].tolist(), strict=True)):
            chosen = bags.interest_ids[start:stop]
            adds = smen.memory[chosen].double() * torch.log1p(bags.counts[start:stop].double())[:, None]
            places = np.searchsorted(interests, chosen.numpy())
            whole[row, places], own[row, places] = (adds @ of_interests).numpy() * factor, (adds @ rows[row]).numpy()
    if scale == smen.activity_scale:
        towards = (direction[-N_TRACES:] * smen.activity_weights).double().view(2, -1)
        left = fading(scale).double() ** (bags.n_steps[bags.users] - 1 - bags.steps)[:, None]  # of what each row has added
        added = (of_rows(bags).double() @ towards * left).sum(dim=1).numpy()
        whole += added[:, None] * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return counts, np.concatenate([over_time, whole[None]]), np.concatenate([within, own[None]])


def _names(scale: str, bags: SparseBags, info: dict, end_month: int) -> list[str]:
    """Names of the non-empty periods. The first step of the grid also holds what lies before it."""
    steps = bags.steps.tolist()
    if scale == MONTH:
        return [month_name(info["grid_start"] + step) for step in steps]
    if info.get("year_blocks", CALENDAR) == CALENDAR:
        return [str(1970 + info["grid_start"] // 12 + step) for step in steps]
    blocks = int(bags.n_steps[0])
    return [f"12 months before {month_name(end_month - 12 * (blocks - 1 - step))}" for step in steps]
