"""Equation 5 without a gradient, from a table of anchor weights: the quickest way there is for the tensors that come.

In: frozen anchor weights (D, M) and We (D, H), the cells of R bags. Out: r (R, M, H) float32. On a CPU the compiled loop of `lurm.smen.loops`, or
torch's own sums of weighted rows where that cannot be; on a GPU the kernel of `lurm.smen.triton_bags`, or nothing where Triton is missing, and the
caller takes the path of training.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch.nn import functional

from lurm.smen.compiled import kernels_for, loops_for

BAGS_AT_A_TIME = 256  # in torch's functions: what they read and write stays in the cache for all anchors
BEYOND_THE_CACHE = 4 << 20  # bytes: results that are larger go to memory straight, so that We stays in the cache
CELLS_OF_A_THREAD = 20_000  # fewer take less time than the thread
ALIGNED = 64  # bytes, which straight writes need


def frozen_bags(weights: torch.Tensor, vectors: torch.Tensor, interests: torch.Tensor, values: torch.Tensor, offsets: torch.Tensor,
                places: torch.Tensor | None = None) -> torch.Tensor | None:  # fmt: skip
    """r (R, M, H) of eq. 5, row r at places[r]; interests (nnz,) int64, values (nnz,) float32. None where the path of training is the one to take."""
    places = torch.arange(len(offsets) - 1, device=offsets.device) if places is None else places
    if weights.device.type != "cpu":
        kernel = kernels_for(vectors) if weights.dtype == vectors.dtype else None
        return kernel.bags(weights, vectors, interests, values, offsets, places) if kernel is not None else None
    loops = loops_for(vectors)
    if loops is None or weights.dtype != torch.float32:
        return sums_of_torch(weights, vectors, interests, values, offsets, places)
    if len(interests) and not 0 <= int(interests.min()) <= int(interests.max()) < len(weights):
        raise IndexError(f"Expected interests from 0 to {len(weights) - 1}, got {int(interests.min())} to {int(interests.max())}; "
                         "embed bags with the model of their interest space.")  # fmt: skip
    found = vectors.new_empty(len(places), weights.shape[1], vectors.shape[1])
    straight = found.nbytes > BEYOND_THE_CACHE and found.data_ptr() % ALIGNED == 0
    longest = int(offsets.diff().max()) if len(places) else 0
    arrays = [part.detach().contiguous().numpy() for part in (weights, vectors, interests, values)]
    starts, to, out = offsets.contiguous().numpy(), places.contiguous().numpy(), found.numpy()

    def sum_rows(first: int, last: int) -> None:
        room = np.empty((longest, weights.shape[1]), np.float32)
        loops.bags(*arrays, starts[first : last + 1], to[first:last], int(straight), room, out)

    n_threads = min(torch.get_num_threads(), 1 + len(interests) // CELLS_OF_A_THREAD)
    cuts = np.searchsorted(starts, np.linspace(0, starts[-1], n_threads + 1)[1:-1]).tolist()
    if not cuts:
        sum_rows(0, len(places))
        return found
    with ThreadPoolExecutor(n_threads) as pool:  # a row is written by one thread, and hangs on nothing that another one writes
        list(pool.map(sum_rows, [0, *cuts], [*cuts, len(places)]))
    return found


def sums_of_torch(weights: torch.Tensor, vectors: torch.Tensor, interests: torch.Tensor, values: torch.Tensor, offsets: torch.Tensor,
                  places: torch.Tensor) -> torch.Tensor:  # fmt: skip
    """The same with torch's sums of weighted rows, one anchor after the other: after the first one the rows of some hundred bags are in the cache."""
    n_rows, n_anchors = len(places), weights.shape[1]
    found = vectors.new_zeros(n_rows, n_anchors, vectors.shape[1])
    for start in range(0, n_rows, BAGS_AT_A_TIME):
        some = offsets[start : start + BAGS_AT_A_TIME + 1]
        cells = slice(int(some[0]), int(some[-1]))
        scale = (weights[interests[cells]] * values[cells, None]).T.contiguous()
        part = vectors.new_empty(len(some) - 1, n_anchors, vectors.shape[1])
        for anchor in range(n_anchors):
            part[:, anchor] = functional.embedding_bag(interests[cells], vectors, some - some[0], mode="sum", per_sample_weights=scale[anchor],
                                                       include_last_offset=True)  # fmt: skip
        found.index_copy_(0, places[start : start + BAGS_AT_A_TIME], part.relu_())
    return found
