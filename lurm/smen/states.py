"""Where SMEN's recurrences stand after the closed months, so that a daily run pays for the day and not for the life.

    state of a user = {month: GRU after the last month before `until`, year: GRU after the last calendar year before that of `until`}

Three steps replace the recurrence over a whole life: `fold` gives the state of lives from nothing, `advance` takes it over one more closed
period, `finish` takes it over the open month and the open year and fuses them into the embedding. The result is that of
`lurm.smen.inference.embed`, to the bit where products of matrices do not depend on the number of their rows (see recurrence._product).

Shapes: B users, R recurrent anchors, H width; a state is (B, R x H) float32, one for each scale of the model. Where the model has a memory, its sum
over closed periods of its scale stands behind them: (B, R x H + H).
"""

import numpy as np
import torch

from lurm.bag_of_interests import Lives
from lurm.periods import end_month, month_name, month_number
from lurm.schema import MONTH, YEAR
from lurm.smen.batches import CALENDAR, month_bags, one_step, stored_year_bags
from lurm.smen.inference import PERIODS_PER_BATCH, batches_of_users
from lurm.smen.model import SMEN
from lurm.smen.recurrence import last_states_packed, next_states, pack, states_of_silence

States = dict[str, np.ndarray]


def open_month(as_of: str) -> str:
    """The last month of the grid at `as_of`, YYYY-MM: it is embedded from its bag, all months before it from the state."""
    return month_name(end_month(as_of) - 1)


def can_keep_states(info: dict, as_of: str) -> bool:
    """Whether a life can be cut at the open month: not with rolling years, whose blocks move, and not in the first month of the grid,
    into which earlier events are counted."""
    rolling = YEAR in info["scales"] and info.get("year_blocks", CALENDAR) != CALENDAR
    return not rolling and month_number(open_month(as_of)) > info["grid_start"]


def silence(smen: SMEN, info: dict, until: str) -> States:
    """The state at `until` of a user without events, float32, one row for each scale."""
    n_steps = {MONTH: month_number(until) - info["grid_start"], YEAR: int(until[:4]) - 1970 - info["grid_start"] // 12}
    with torch.no_grad():
        rows = {scale: states_of_silence(smen.gru_of(scale), max(0, n_steps[scale]))[-1] for scale in smen.scales}
    memory = {scale: row.new_zeros(smen.dim if scale == smen.memory_scale else 0) for scale, row in rows.items()}
    return {scale: torch.cat([row.repeat(smen.n_recurrent), memory[scale]]).cpu().numpy() for scale, row in rows.items()}


@torch.no_grad()
def fold(smen: SMEN, info: dict, months: Lives, years: Lives, until: str, alpha: torch.Tensor, device: str = "cpu") -> States:
    """States at `until` from whole lives before it; months and years have the same users, alpha (D, M) is the table of anchor weights."""
    n_users, width = months.n_users, smen.n_anchors * smen.dim
    states = {scale: np.tile(row, (n_users, 1)) for scale, row in silence(smen, info, until).items()}
    end, first_year = month_number(until), info["grid_start"] // 12
    budget = max(1, PERIODS_PER_BATCH[torch.device(device).type] * 1_280 // width)
    for users in batches_of_users(months, end, n_users, budget):
        if MONTH in states:
            bags = month_bags(months.take(users), info["grid_start"], np.full(len(users), end))
            states[MONTH][users] = _last(smen, MONTH, bags.to(device), alpha)
        if YEAR in states and int(until[:4]) - 1970 > first_year:
            bags = stored_year_bags(years.take(users), info["grid_start"], end // 12 * 12)
            states[YEAR][users] = _last(smen, YEAR, bags.to(device), alpha)
    return states


@torch.no_grad()
def advance(smen: SMEN, scale: str, states: np.ndarray, period: Lives, alpha: torch.Tensor, device: str = "cpu") -> np.ndarray:
    """States (B, M x H) after one more period; `period` has the same users, those without a row in it were silent."""
    bags = one_step(period).to(device)
    dim, width = smen.dim, smen.n_recurrent * smen.dim
    inputs = smen.bag_embedding(bags, alpha).float()
    start = torch.from_numpy(states).to(device)
    after = next_states(smen.gru_of(scale), inputs, bags.users, start[:, :width].reshape(-1, smen.n_recurrent, dim)).view(-1, width)
    if scale == smen.memory_scale:
        after = torch.cat([after, start[:, width:] + smen.memory_sums(bags)], dim=1)
    return after.cpu().numpy()


@torch.no_grad()
def finish(smen: SMEN, states: States, last: dict[str, Lives], alpha: torch.Tensor, device: str = "cpu") -> np.ndarray:
    """Embeddings (B, M x H) float32: states taken over the open period of each scale, then fused."""
    shape, width = (-1, smen.n_recurrent, smen.dim), smen.n_recurrent * smen.dim
    ends = {scale: torch.from_numpy(advance(smen, scale, states[scale], last[scale], alpha, device)).to(device) for scale in smen.scales}
    vectors = smen.fuse({scale: state[:, :width].reshape(shape) for scale, state in ends.items()})
    if smen.memory_scale:
        vectors = smen.with_memory(vectors, ends[smen.memory_scale][:, width:])
    return vectors.flatten(1).cpu().numpy()


def _last(smen: SMEN, scale: str, bags, alpha: torch.Tensor) -> np.ndarray:
    packing = pack(bags)
    states = last_states_packed(smen.gru_of(scale), smen.bag_embedding(bags, alpha, packing.places), packing).flatten(1)
    return (torch.cat([states, smen.memory_sums(bags)], dim=1) if scale == smen.memory_scale else states).cpu().numpy()
