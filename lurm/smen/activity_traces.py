"""Activity traces: how often and how recently somebody has done anything, as sums that fade over the periods of a life.

In: SparseBags of one scale. Out: (B, N_TRACES) float32, for each half-life h of lurm.periods.HALF_LIVES first

    a_h = sum over periods t of 2^(-(T - t) / h) log1p(n_t),   then   b_h = sum over t of 2^(-(T - t) / h) [n_t > 0],

n_t the events of period t, T the user's last period, both counted in months. What somebody does next depends on these more than on anything
else, and the recurrence, whose states lie between -1 and 1, tells them badly (docs/decisions.md). The sums are taken period by period, so
one that goes on from a kept value is the whole one, to the bit.
"""

import numpy as np
import torch

from lurm.periods import HALF_LIVES
from lurm.schema import MONTH
from lurm.smen.batches import SparseBags

N_TRACES = 2 * len(HALF_LIVES)
ACTIVITY_SHARE = 0.2  # of what else differs between users: chosen by users for validation (docs/decisions.md)


def fading(scale: str, device: torch.device | str = "cpu") -> torch.Tensor:
    """(K,) float32: what is left of each sum after one more period of the scale; 1 where nothing fades."""
    months = 1 if scale == MONTH else 12
    return torch.tensor([2.0 ** (-months / half_life) for half_life in HALF_LIVES], device=device)


def traces_of(bags: SparseBags, scale: str) -> torch.Tensor:
    """Traces of whole lives, (B, N_TRACES); zeros for a user without events."""
    n_users = len(bags.n_steps)
    traces = torch.zeros(n_users, 2, len(HALF_LIVES), device=bags.offsets.device)
    if not len(bags.steps):
        return traces.flatten(1)
    places = bags.n_steps.max() - bags.n_steps[bags.users] + bags.steps  # everybody's last period is the last of all
    first, last = (int(place) for place in torch.aminmax(places))
    periods = traces.new_zeros(last + 1 - first, n_users, 2, 1)
    periods[places - first, bags.users, :, 0] = of_rows(bags)
    kept = fading(scale, traces.device)
    for added in periods:
        traces.mul_(kept).add_(added)
    for _ in range(int(bags.n_steps.max()) - 1 - last):
        traces.mul_(kept)
    return traces.flatten(1)


def traces_after(before: torch.Tensor, bags: SparseBags, scale: str) -> torch.Tensor:
    """Traces (B, N_TRACES) after one more period, which `bags` hold, from those before it."""
    added = before.new_zeros(len(before), 2, 1)
    added[bags.users, :, 0] = of_rows(bags)
    return (before.view(-1, 2, len(HALF_LIVES)) * fading(scale, before.device)).add_(added).flatten(1)


def of_rows(bags: SparseBags) -> torch.Tensor:
    """(R, 2): log1p of the events of each row, and 1."""
    sums = torch.cat([bags.counts.new_zeros(1, dtype=torch.float64), bags.counts.double().cumsum(0)])  # whole numbers: exact in any order
    events = torch.log1p((sums[bags.offsets[1:]] - sums[bags.offsets[:-1]]).float())
    return torch.stack([events, torch.ones_like(events)], dim=1)


def trace_weights(variances: np.ndarray, spread: float) -> np.ndarray:
    """(N_TRACES,) float64: with these weights each trace differs between users alike, all of them together ACTIVITY_SHARE of `spread`.

    variances (N_TRACES,) are those of the traces, `spread` is the sum of the variances of what stands beside them; a trace that is the same for
    everybody weighs nothing.
    """
    return np.sqrt(ACTIVITY_SHARE * spread / N_TRACES / np.where(variances > 0, variances, np.inf))
