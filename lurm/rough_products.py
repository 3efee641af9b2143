"""Whether rough products of vectors are quick here, their columns as they are kept for it, and the threads that compute products.

What is computed with them is in `lurm.rough_loops`, for which numba is needed. Without it, or on a processor that is not of the x86 family with
AVX2 (2013) or later, `available` is False and nobody calls `packed`.
"""

import importlib.util
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
from threadpoolctl import threadpool_limits

ALIGNED = 64  # bytes


@dataclass(frozen=True)
class Packed:
    """Groups of columns (K, d) as `lurm.rough_tiles` reads them: group g lies in packs[starts[g]:starts[g + 1]] of LANES columns each."""

    packs: np.ndarray  # int32: whole numbers of 16 bits
    starts: np.ndarray  # (G + 1,) int64
    in_bytes: bool  # for a matrix unit: high and low bytes by themselves


@cache
def available() -> bool:
    """Whether the loops are there."""
    if importlib.util.find_spec("numba") is None:
        return False
    from lurm.vector_code import HAS_AVX2

    return HAS_AVX2


def takes_bytes(width: int) -> bool:
    """Whether products of this width are made on the processor's matrix unit; they are the same."""
    from lurm.byte_tiles import BLOCK
    from lurm.matrix_unit import usable

    return width % BLOCK == 0 and usable()


def packed(columns: np.ndarray, starts: np.ndarray) -> Packed:
    """columns (K, d) float32, of length 1 or less, d a multiple of 16, in groups columns[starts[g]:starts[g + 1]], none of them empty."""
    from lurm.rough_loops import pack_columns
    from lurm.rough_tiles import LANES

    pack_starts, in_bytes = np.concatenate([[0], np.cumsum(-(-np.diff(starts) // LANES))]), takes_bytes(columns.shape[1])
    room = np.empty(pack_starts[-1] * LANES * columns.shape[1] // 2 + ALIGNED // 4, np.int32)
    first = -room.ctypes.data % ALIGNED // 4
    packs = room[first : len(room) - ALIGNED // 4 + first]
    pack_columns(columns, np.asarray(starts, np.int64), pack_starts, in_bytes, packs)
    return Packed(packs, pack_starts, in_bytes)


@contextmanager
def one_thread_a_product(n_threads: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A pool of n_threads (None: as many as cores may be used). Each product is computed by the thread that asks for it, so that results do
    not depend on how many there are."""
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_threads or usable_cores()) as pool:
        yield pool


def usable_cores() -> int:
    """Cores this process may run on, where the system does not tell all of them; its part, where torchrun has started several here."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, n_cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
