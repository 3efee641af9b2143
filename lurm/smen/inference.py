"""Frozen SMEN: saving, loading, and embedding users.

In: a saved model, monthly Lives (and the stored yearly ones), the month to embed at. Out: (B, M x H) float32, anchors in order.

A user's embedding depends on that user's bags alone: batches are cut and sorted for speed (users who start at the same month share
their leading empty periods) and the caller's order is restored.
"""

from pathlib import Path

import numpy as np
import torch

from lurm.bag_of_interests import Lives
from lurm.schema import MONTH, YEAR
from lurm.smen.batches import CALENDAR, month_bags, stored_year_bags, year_bags
from lurm.smen.model import SMEN
from lurm.smen.recurrence import states_of_silence
from lurm.training import load_tensors, save_tensors

# User-periods in a batch at M x H = 1280. On a CPU what one step of the GRU touches should stay in the cache: 20 % faster than 16,384.
PERIODS_PER_BATCH = {"cpu": 4_096, "cuda": 131_072}


def save_model(directory: Path, smen: SMEN, info: dict) -> None:
    """Write the weights and `info`: grid_start and year_blocks, plus whatever names the model (model_id, space_id, encoder_id, ...)."""
    shape = {name: getattr(smen, name) for name in ("n_interests", "n_anchors", "dim", "shared_gru")}
    shape |= {"scales": list(smen.scales), "memory": smen.memory_scale is not None, "activity": smen.activity_scale is not None}
    save_tensors(directory, smen.state_dict(), info | shape)


def load_model(directory: Path) -> tuple[SMEN, dict]:
    """The encoder in eval mode on the CPU, and its info; raises StoreError when the files are damaged."""
    tensors, info = load_tensors(directory)
    parts = {name: info.get(name, False) for name in ("memory", "activity")}
    smen = SMEN(info["n_interests"], info["n_anchors"], info["dim"], tuple(info["scales"]), info["shared_gru"], **parts)
    smen.load_state_dict(tensors)
    return smen.eval().requires_grad_(False), info


@torch.no_grad()
def embed(
    smen: SMEN,
    info: dict,
    months: Lives,
    years: Lives | None,
    end_month: int,
    batch_size: int = 1_024,
    device: torch.device | str = "cpu",
    alpha: torch.Tensor | None = None,
) -> np.ndarray:
    """User embeddings (B, M x H) float32 of the users of `months`, in their order, from events before month `end_month`.

    years: stored calendar years of the same users in the same order; when None, or with rolling blocks, years are summed from months.
    A user without events gets what the model says about silence. alpha (D, recurrent anchors): the table of anchor weights, for who has it already.
    """
    smen = smen.to(device).eval()
    stored = years is not None and info.get("year_blocks", CALENDAR) == CALENDAR
    if alpha is None:
        alpha = smen.anchor_weights(torch.arange(smen.n_interests, device=device))  # the same for all users
    longest = max(1, end_month - info["grid_start"])
    silent = {scale: states_of_silence(smen.gru_of(scale), longest if scale == MONTH else -(-longest // 12) + 1) for scale in smen.scales}
    result = np.empty((len(months.user_ids), smen.n_anchors * smen.dim), dtype=np.float32)
    budget = PERIODS_PER_BATCH[torch.device(device).type] * 1_280 // (smen.n_anchors * smen.dim)
    for users in batches_of_users(months, end_month, batch_size, max(1, budget)):
        part, ends = months.take(users), np.full(len(users), end_month)
        bags: dict = {MONTH: None, YEAR: None}
        if MONTH in smen.scales:
            bags[MONTH] = month_bags(part, info["grid_start"], ends).to(device)
        if YEAR in smen.scales and stored:
            bags[YEAR] = stored_year_bags(years.take(users), info["grid_start"], end_month).to(device)
        elif YEAR in smen.scales:
            bags[YEAR] = year_bags(part, info["grid_start"], ends, info.get("year_blocks", CALENDAR)).to(device)
        result[users] = smen(bags[MONTH], bags[YEAR], alpha, silent).flatten(1).cpu().numpy()
    return result


def batches_of_users(months: Lives, end_month: int, batch_size: int, budget: int) -> list[np.ndarray]:
    """Positions of users in batches: by first active month, at most batch_size users and `budget` user-periods each."""
    first = np.full(len(months.user_ids), end_month, dtype=np.int64)
    active = np.flatnonzero(np.diff(months.row_offsets))
    first[active] = np.minimum(months.periods[months.row_offsets[active]], end_month)
    order = np.argsort(first, kind="stable")
    batches, start = [], 0
    while start < len(order):
        longest = max(1, end_month - int(first[order[start]]))
        size = max(1, min(batch_size, budget // longest))
        batches.append(order[start : start + size])
        start += size
    return batches
