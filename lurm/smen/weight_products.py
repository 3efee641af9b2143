"""Weights of a GRU as rows are multiplied with them: by torch, or by compiled loops in the processor's registers or on its matrix unit.

A row's numbers hang on that row alone: a user must not depend on how many others were computed together.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from lurm.smen.compiled import loops_for

FEWEST_ROWS = 16


class Columns(NamedTuple):
    """The weights of input and state, (3H, H) as torch keeps them, as `lurm.smen.loops` multiplies rows with them; numbers are read as int32."""

    input: np.ndarray  # (n,) int32; if split, both weights
    state: np.ndarray  # (n,) int32; if split, nothing
    split: bool  # for `split_step`, else for `multiply`


def loop_columns(weight_in: torch.Tensor, weight_state: torch.Tensor) -> Columns | None:
    """None where torch is as quick."""
    loops = loops_for(weight_in)
    if loops is None or not loops.MULTIPLIES:
        return None
    if loops.splits(weight_in.shape[1]):
        return Columns(split_columns(weight_in, weight_state), np.empty(0, np.int32), True)
    return Columns(*(vector_columns(weight, loops.LANES) for weight in (weight_in, weight_state)), False)


def vector_columns(weight: torch.Tensor, lanes: int) -> np.ndarray:
    """A weight (W, H) as `loops.multiply` takes it: for every `lanes` columns, the H numbers of each side by side."""
    return weight.detach().view(-1, lanes, weight.shape[1]).transpose(1, 2).contiguous().view(torch.int32).numpy().ravel()


def split_columns(weight_in: torch.Tensor, weight_state: torch.Tensor) -> np.ndarray:
    """Both weights as `loops.split_step` takes them, in the order in which it does, in pairs of bfloat16.

    For 32 columns of reset come the input's weights, 32 numbers of each after the other as `lurm.smen.split_tiles` reads them, and the state's; then
    update's and the candidate's, and the next 32 columns.
    """
    weights = torch.stack([weight_in.detach(), weight_state.detach()])
    dim = weights.shape[2]
    high = weights.bfloat16()
    parts = torch.stack([high, (weights - high.float()).bfloat16()]).view(2, 2, 3, dim // 32, 2, 16, dim // 32, 16, 2)
    # now (32 columns, reset or update or candidate, input or state, 32 numbers, high or low, half of the columns), and a tile: (pair, column, 2)
    return parts.permute(3, 2, 1, 6, 0, 4, 7, 5, 8).contiguous().view(torch.int32).numpy().ravel()


def by_torch(rows: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """out = rows @ weight, (S, H) by (H, W). Few rows are padded: a product of 1 to 6 rows takes another kernel on a CPU, which rounds
    differently."""
    if len(rows) >= FEWEST_ROWS or not len(rows):
        return torch.mm(rows, weight, out=out)
    return out.copy_(torch.mm(whole_vectors(rows), weight)[: len(rows)])


def whole_vectors(rows: torch.Tensor) -> torch.Tensor:
    """The same and rows of zeros up to a multiple of FEWEST_ROWS: torch's sigmoid rounds the last numbers of a tensor differently where they do not
    fill a vector of the processor."""
    missing = -len(rows) % FEWEST_ROWS
    return functional.pad(rows, (0, 0, 0, missing)) if missing else rows
