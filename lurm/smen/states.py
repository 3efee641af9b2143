"""Where SMEN's recurrences stand after the closed months, so that a daily run pays for the day and not for the life.

    state of a user = {month: GRU after the last month before `until`, year: GRU after the last calendar year before that of `until`}

Three steps replace the recurrence over a whole life: `fold` gives the state of lives from nothing, `advance` takes it over one more closed
period, `finish` takes it over the open month and the open year and fuses them into the embedding. The result is that of
`lurm.smen.inference.embed`, to the bit where products of matrices do not depend on the number of their rows (see recurrence._product).

Shapes: B users, R recurrent anchors, H width; a state is (B, R x H) float32, one for each scale of the model. What a memory adds up over the closed
periods of a scale stands behind it: (B, R x H + n_sums).
"""

import numpy as np
import torch

from lurm.bag_of_interests import Lives
from lurm.periods import end_month, month_name, month_number
from lurm.schema import MONTH, YEAR
from lurm.smen.batches import CALENDAR, SparseBags, month_bags, one_step, stored_year_bags
from lurm.smen.inference import PERIODS_PER_BATCH, batches_of_users
from lurm.smen.model import SMEN, Tables
from lurm.smen.recurrence import StepWeights, last_states_packed, next_states, pack, states_of_silence, step_weights

States = dict[str, np.ndarray]
USERS_AT_A_TIME = 256


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
    return _silence(smen, _tables_of_silence(smen, info, until))


@torch.no_grad()
def _tables_of_silence(smen: SMEN, info: dict, until: str) -> Tables:
    n_steps = {MONTH: month_number(until) - info["grid_start"], YEAR: int(until[:4]) - 1970 - info["grid_start"] // 12}
    return {scale: states_of_silence(smen.gru_of(scale), max(0, n_steps[scale])) for scale in smen.scales}


def _silence(smen: SMEN, tables: Tables) -> States:
    rows = {scale: table[-1] for scale, table in tables.items()}
    return {scale: torch.cat([row.repeat(smen.n_recurrent), row.new_zeros(smen.n_sums(scale))]).cpu().numpy() for scale, row in rows.items()}


@torch.no_grad()
def fold(smen: SMEN, info: dict, months: Lives, years: Lives, until: str, alpha: torch.Tensor, device: str = "cpu") -> States:
    """States at `until` from whole lives before it; months and years have the same users, alpha (D, M) is the table of anchor weights."""
    n_users, width = months.n_users, smen.n_anchors * smen.dim
    tables = _tables_of_silence(smen, info, until)
    states = {scale: np.tile(row, (n_users, 1)) for scale, row in _silence(smen, tables).items()}
    end, first_year = month_number(until), info["grid_start"] // 12
    budget = max(1, PERIODS_PER_BATCH[torch.device(device).type] * 1_280 // width)
    for users in batches_of_users(months, end, n_users, budget):
        if MONTH in states:
            bags = month_bags(months.take(users), info["grid_start"], np.full(len(users), end))
            states[MONTH][users] = _last(smen, MONTH, bags.to(device), alpha, tables)
        if YEAR in states and int(until[:4]) - 1970 > first_year:
            bags = stored_year_bags(years.take(users), info["grid_start"], end // 12 * 12)
            states[YEAR][users] = _last(smen, YEAR, bags.to(device), alpha, tables)
    return states


@torch.no_grad()
def advance(smen: SMEN, scale: str, states: np.ndarray, period: Lives, alpha: torch.Tensor, device: str = "cpu") -> np.ndarray:
    """States (B, M x H) after one more period; `period` has the same users, those without a row in it were silent."""
    bags, result, weights = one_step(period).to(device), np.empty_like(states), step_weights(smen.gru_of(scale))
    for users in _some_users(len(states), device):
        result[users] = _after(smen, scale, weights, states[users], bags.of_users(users.start, users.stop), alpha).cpu().numpy()
    return result


@torch.no_grad()
def finish(smen: SMEN, states: States, last: dict[str, Lives], alpha: torch.Tensor, device: str = "cpu") -> np.ndarray:
    """Embeddings (B, M x H) float32: states taken over the open period of each scale, then fused."""
    shape, width = (-1, smen.n_recurrent, smen.dim), smen.n_recurrent * smen.dim
    bags = {scale: (one_step(last[scale]).to(device), step_weights(smen.gru_of(scale))) for scale in smen.scales}
    result = np.empty((last[smen.scales[0]].n_users, smen.n_anchors * smen.dim), np.float32)
    for users in _some_users(len(result), device):
        ends = {scale: _after(smen, scale, weights, states[scale][users], every.of_users(users.start, users.stop), alpha)
                for scale, (every, weights) in bags.items()}  # fmt: skip
        recurrent = smen.fuse({scale: state[:, :width].reshape(shape) for scale, state in ends.items()})
        vectors = smen.with_memory(recurrent, {scale: state[:, width:] for scale, state in ends.items()})
        result[users] = vectors.flatten(1).cpu().numpy()
    return result


def _some_users(n_users: int, device: str) -> list[slice]:
    """All users, on a CPU so many at a time that what one step writes is still in the cache when the next one reads it."""
    at_once = USERS_AT_A_TIME if torch.device(device).type == "cpu" else max(1, n_users)
    return [slice(start, min(start + at_once, n_users)) for start in range(0, n_users, at_once)]


def _after(smen: SMEN, scale: str, weights: StepWeights, states: np.ndarray, bags: SparseBags, alpha: torch.Tensor) -> torch.Tensor:
    """States (B, M x H) after one more step, which `bags` hold."""
    start, width = torch.from_numpy(states).to(alpha.device), smen.n_recurrent * smen.dim
    before = start[:, :width].reshape(-1, smen.n_recurrent, smen.dim)
    after = next_states(weights, smen.bag_embedding(bags, alpha).float(), bags.users, before).view(-1, width)
    return torch.cat([after, smen.sums_after(scale, start[:, width:], bags)], dim=1) if smen.n_sums(scale) else after


def _last(smen: SMEN, scale: str, bags: SparseBags, alpha: torch.Tensor, silent: Tables) -> np.ndarray:
    packing = pack(bags)
    inputs = smen.bag_embedding(bags, alpha, packing.places)
    states = last_states_packed(smen.gru_of(scale), inputs, packing, silent[scale]).flatten(1)
    return (torch.cat([states, smen.sums_of(scale, bags)], dim=1) if smen.n_sums(scale) else states).cpu().numpy()
