"""Equation 5 on a GPU, as Triton kernels: a row of We and its anchor weights are gathered once for all anchors.

In and out as in `lurm.smen.frozen_bags`, on a device. One program a bag: CELLS cells at a time their weights (anchors x cells) times their rows of We
(cells x width) is one small product in float32, and the sums stay in registers until the ReLU. What would otherwise go through memory (the padded
weights, the gathered rows, the products before they are put in their places) is never written. On the way back a program writes what each of its
cells gives to the gradients, and cells of one interest are added up by torch: no two programs write to the same place.

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


@triton.jit
def _gradients(
    weights, vectors, interests, values, offsets, places, out, gradient, d_weights, d_vectors, n_anchors, width,
    CELLS: tl.constexpr, ANCHORS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row, anchors = tl.program_id(0), tl.arange(0, ANCHORS)
    start, stop, place = tl.load(offsets + row), tl.load(offsets + row + 1), tl.load(places + row)
    for first in range(start, stop, CELLS):
        cells = first + tl.arange(0, CELLS)
        real = cells < stop
        interest = tl.load(interests + cells, mask=real, other=0)
        value = tl.load(values + cells, mask=real, other=0.0)
        known = real[:, None] & (anchors < n_anchors)[None, :]
        factors = tl.load(weights + interest[:, None] * n_anchors + anchors[None, :], mask=known, other=0.0) * value[:, None]
        of_weights = tl.zeros((CELLS, ANCHORS), dtype=tl.float32)
        for left in range(0, width, COLUMNS):
            columns = left + tl.arange(0, COLUMNS)
            inside = (anchors < n_anchors)[:, None] & (columns < width)[None, :]
            at = (place * n_anchors + anchors[:, None]) * width + columns[None, :]
            passed = tl.where(tl.load(out + at, mask=inside, other=0.0) > 0, tl.load(gradient + at, mask=inside, other=0.0), 0.0)
            there = real[:, None] & (columns < width)[None, :]
            rows = tl.load(vectors + interest[:, None] * width + columns[None, :], mask=there, other=0.0)
            of_weights += tl.dot(rows, tl.trans(passed), input_precision="ieee")
            tl.store(d_vectors + cells[:, None] * width + columns[None, :], tl.dot(factors, passed, input_precision="ieee"), mask=there)
        tl.store(d_weights + cells[:, None] * n_anchors + anchors[None, :], of_weights * value[:, None], mask=known)


def bags(weights: torch.Tensor, vectors: torch.Tensor, interests: torch.Tensor, values: torch.Tensor, offsets: torch.Tensor,
         places: torch.Tensor) -> torch.Tensor:  # fmt: skip
    """r (R, M, H) float32, row r at places[r]."""
    n_anchors, width = weights.shape[1], vectors.shape[1]
    found = vectors.new_empty(len(places), n_anchors, width)
    if len(places):
        arrays, tile = [part.detach().contiguous() for part in (weights, vectors, interests, values, offsets, places)], _tile(n_anchors, width)
        _bags[(len(places), triton.cdiv(width, tile["COLUMNS"]))](*arrays, found, n_anchors, width, **tile)
    return found


def trained_bags(weights: torch.Tensor, vectors: torch.Tensor, interests: torch.Tensor, values: torch.Tensor, offsets: torch.Tensor,
                 places: torch.Tensor) -> torch.Tensor:  # fmt: skip
    """The same with a gradient for weights (U, M) and vectors (U, H)."""
    return _Bags.apply(weights, vectors, interests, values, offsets, places)


class _Bags(torch.autograd.Function):
    @staticmethod
    def forward(context, weights, vectors, interests, values, offsets, places):
        found = bags(weights, vectors, interests, values, offsets, places)
        context.save_for_backward(*(part.contiguous() for part in (weights, vectors, interests, values, offsets, places)), found)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        weights, vectors, interests, *_, places, _ = context.saved_tensors
        n_anchors, width = weights.shape[1], vectors.shape[1]
        of_cells = tuple(vectors.new_empty(len(interests), size) for size in (n_anchors, width))
        if len(places):
            _gradients[(len(places),)](*context.saved_tensors, gradient.contiguous(), *of_cells, n_anchors, width, **_tile(n_anchors, width))
        d_weights, d_vectors = (torch.zeros_like(to).index_add_(0, interests, part) for to, part in zip((weights, vectors), of_cells, strict=True))
        return d_weights, d_vectors, None, None, None, None


def _tile(n_anchors: int, width: int) -> dict[str, int]:
    """The sizes of a program."""
    columns, anchors = min(128, max(FEWEST, triton.next_power_of_2(width))), max(FEWEST, triton.next_power_of_2(n_anchors))
    return {"CELLS": CELLS, "ANCHORS": anchors, "COLUMNS": columns}
