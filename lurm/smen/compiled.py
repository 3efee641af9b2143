"""Whether SMEN's compiled loops (`lurm.smen.loops`) and kernels (`lurm.smen.triton_bags`) are taken, and where they are.

Loops need numba, a CPU, float32 and a width that is a multiple of the vectors of `lurm.vector_code`, kernels Triton and a GPU that torch calls cuda.
Everything else takes torch's functions, which give the same to about 1e-6. Both are imported when the first embedding asks for them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

import torch

_switched_off = False


def loops_for(tensor: torch.Tensor) -> ModuleType | None:
    """`lurm.smen.loops` if it can work on tensors like this one, whose last dimension is the width."""
    if _switched_off or tensor.device.type != "cpu" or tensor.dtype != torch.float32 or tensor.shape[-1] % 8:
        return None
    loops = _loops()
    return loops if loops is not None and tensor.shape[-1] % loops.LANES == 0 else None


def kernels_for(tensor: torch.Tensor) -> ModuleType | None:
    """`lurm.smen.triton_bags` if it can work on tensors like this one."""
    return None if _switched_off or tensor.device.type != "cuda" or tensor.dtype != torch.float32 else _kernels()


@contextmanager
def without_loops() -> Iterator[None]:
    """torch's functions alone inside, on any device: what the loops and kernels are measured and tested against."""
    global _switched_off
    before, _switched_off = _switched_off, True
    try:
        yield
    finally:
        _switched_off = before


@cache
def _loops() -> ModuleType | None:
    try:
        from lurm.smen import loops
    except ImportError:  # numba or llvmlite is not there
        return None
    return loops


@cache
def _kernels() -> ModuleType | None:
    try:
        from lurm.smen import triton_bags
    except ImportError:  # torch's builds for CPUs come without Triton
        return None
    return triton_bags
