"""Products of unit vectors in bfloat16, where the processor multiplies those several times as fast as float32 (AMX, AVX-512 BF16).

A bfloat16 is a float32 without its last 16 bits. Vectors and products are kept as int16, through torch, which need not be installed: positive
bfloat16 are in the order of their bits, and numpy takes maxima of 16-bit integers quickest. Good for finding what must be looked at again
in float32. Without such a processor, or without torch, `available` is False and nobody calls the rest.
"""

import importlib.util
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import numpy as np
from threadpoolctl import threadpool_limits

MARGIN = 3  # units in the last place of a bfloat16 by which `bits` may put two products in the wrong order: rounded inputs and a rounded result


@cache
def available() -> bool:
    """Whether bfloat16 products are quick here."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def to_bits(vectors: np.ndarray) -> np.ndarray:
    """(n, d) float32, rounded to bfloat16, as int16."""
    import torch

    return torch.from_numpy(vectors if vectors.flags.writeable else vectors.copy()).bfloat16().view(torch.int16).numpy()


def bits(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(n, d) and (m, d) of `to_bits` to (n, m): the bits of their products."""
    import torch

    left, right = (torch.from_numpy(side).view(torch.bfloat16) for side in (rows, columns))
    return torch.mm(left, right.T).view(torch.int16).numpy()


@contextmanager
def one_thread_a_product(n_threads: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A pool of n_threads (None: as many as cores may be used). Each product is computed by the thread that asks for it, so that results do
    not depend on how many there are."""
    n_threads = n_threads or usable_cores()
    if not available():
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_threads) as pool:
            yield pool
        return
    import torch

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def usable_cores() -> int:
    """Cores this process may run on, where the system does not tell all of them; its part, where torchrun has started several here."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, n_cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
