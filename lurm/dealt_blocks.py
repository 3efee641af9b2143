"""Blocks of work dealt to several processes: each computes some, all get everything, as if one had computed it alone.

In: a function, and tasks that do not depend on how many processes there are. Out, in every process: the results in the order of the tasks. So
whatever the number of processes, the same products of the same shapes are computed, and the bytes are the same. Processes are those of
torch.distributed (torchrun, Spark's TorchDistributor); where none has been joined, everything is computed here. Results go through the memory
of the CPU, also where they come from GPUs.
"""

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np

Arrays = np.ndarray | tuple[np.ndarray, ...]


class Pool(Protocol):
    """Threads, or processes with threads."""

    def map(self, one: Callable, tasks: Iterable) -> Iterable: ...


class DealtPool:
    """A map that several processes share; each of them must ask for the same maps in the same order, in its main thread.

    `each` is how one process computes its own tasks: a pool's map, or the plain one. A result is an array or a tuple of arrays.
    """

    def __init__(self, each: Callable = map):
        self._each = each

    def map(self, one: Callable[..., Arrays], tasks: Iterable) -> Iterable[Arrays]:
        rank, n_processes = processes()
        if n_processes == 1:
            return self._each(one, tasks)
        tasks = list(tasks)
        found = [_unpacked(data) for data in _gathered(_packed(self._each(one, tasks[rank::n_processes])))]
        return [next(found[place % n_processes]) for place in range(len(tasks))]


def processes() -> tuple[int, int]:
    """The number of this process, and how many there are. Whoever has not loaded torch has joined nobody."""
    dist = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_available() or not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def of_the_first(arrays: Arrays) -> Arrays:
    """What process 0 calls this with, in every process: where all must decide alike, or only one of them has it."""
    rank, n_processes = processes()
    return arrays if n_processes == 1 else next(_unpacked(_broadcast(_packed([arrays] if rank == 0 else []))))


def _packed(results: Iterable[Arrays]) -> np.ndarray:
    """Arrays one after the other in numpy's own format, (bytes,) uint8; tuples with their length before them."""
    file = io.BytesIO()
    for result in results:
        parts = result if isinstance(result, tuple) else (result,)
        file.write(bytes([len(parts) if isinstance(result, tuple) else 0]))
        for part in parts:
            np.save(file, part, allow_pickle=False)
    return np.frombuffer(file.getbuffer(), np.uint8)


def _unpacked(data: np.ndarray) -> Iterator[Arrays]:
    file = io.BytesIO(data)
    while mark := file.read(1):
        parts = tuple(np.load(file, allow_pickle=False) for _ in range(mark[0] or 1))
        yield parts if mark[0] else parts[0]


def _gathered(mine: np.ndarray) -> list[np.ndarray]:
    """The bytes of every process, in the order of their numbers."""
    import torch
    import torch.distributed as dist

    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64)
    sizes[dist.get_rank()] = len(mine)
    dist.all_reduce(sizes)
    padded = torch.zeros(int(sizes.max()), dtype=torch.uint8)
    padded.numpy()[: len(mine)] = mine
    received = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(received, padded)
    return [block.numpy()[:size] for block, size in zip(received, sizes.tolist(), strict=True)]


def _broadcast(mine: np.ndarray) -> np.ndarray:
    import torch
    import torch.distributed as dist

    size = torch.tensor([len(mine)])
    dist.broadcast(size, 0)
    block = torch.empty(int(size), dtype=torch.uint8)
    block.numpy()[: len(mine)] = mine  # nothing, where this is not process 0
    dist.broadcast(block, 0)
    return block.numpy()
