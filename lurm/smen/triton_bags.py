"""Equation 5 without a gradient on a GPU, as one Triton kernel: a row of We and its anchor weights are gathered once for all anchors.

In and out as in `lurm.smen.frozen_bags`, on a device. One program a bag: CELLS cells at a time their weights (anchors x cells) times their rows of We
(cells x width) is one small product in float32, and the sums stay in registers until the ReLU. What would otherwise go through memory (the padded
weights, the gathered rows, the products before they are put in their places) is never written.

Triton comes with torch's builds for CUDA. In its interpreter (TRITON_INTERPRET=1) the kernel runs on a CPU, which is how it is tested.
"""

import torch
import triton
import triton.language as tl

CELLS, FEWEST = 16, 16  # a small product has no side below 16


@triton.jit
def _bags(
    weights, vectors, interests, values, offsets, places, out, n_anchors, width,
    CELLS: tl.constexpr, ANCHORS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row, columns = tl.program_id(0), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    anchors = tl.arange(0, ANCHORS)
    start, stop, place = tl.load(offsets + row), tl.load(offsets + row + 1), tl.load(places + row)
    total = tl.zeros((ANCHORS, COLUMNS), dtype=tl.float32)
    for first in range(start, stop, CELLS):
        cells = first + tl.arange(0, CELLS)
        real = cells < stop
        interest = tl.load(interests + cells, mask=real, other=0)
        value = tl.load(values + cells, mask=real, other=0.0)
        known = (anchors < n_anchors)[:, None] & real[None, :]
        factors = tl.load(weights + interest[None, :] * n_anchors + anchors[:, None], mask=known, other=0.0) * value[None, :]
        rows = tl.load(vectors + interest[:, None] * width + columns[None, :], mask=real[:, None] & (columns < width)[None, :], other=0.0)
        total += tl.dot(factors, rows, input_precision="ieee")
    total = tl.where(total < 0, 0.0, total)
    inside = (anchors < n_anchors)[:, None] & (columns < width)[None, :]
    tl.store(out + (place * n_anchors + anchors[:, None]) * width + columns[None, :], total, mask=inside)


def bags(weights: torch.Tensor, vectors: torch.Tensor, interests: torch.Tensor, values: torch.Tensor, offsets: torch.Tensor,
         places: torch.Tensor) -> torch.Tensor:  # fmt: skip
    """r (R, M, H) float32, row r at places[r]."""
    n_anchors, width = weights.shape[1], vectors.shape[1]
    found = vectors.new_empty(len(places), n_anchors, width)
    if len(places):
        arrays = [part.detach().contiguous() for part in (weights, vectors, interests, values, offsets, places)]
        columns = min(128, max(FEWEST, triton.next_power_of_2(width)))
        anchors = max(FEWEST, triton.next_power_of_2(n_anchors))
        _bags[(len(places), triton.cdiv(width, columns))](*arrays, found, n_anchors, width, CELLS=CELLS, ANCHORS=anchors, COLUMNS=columns)
    return found
