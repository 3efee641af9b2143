"""Two processes of torch.distributed over gloo, each running the same few lines; what rank 0 saves is what came out."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from lurm.training import load_tensors

PROLOGUE = """
import sys
sys.path[:0] = {paths!r}
import torch, torch.distributed as dist
from lurm.training import save_tensors
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="tcp://127.0.0.1:{port}", rank=int(sys.argv[1]), world_size=2)
"""
EPILOGUE = """
if dist.get_rank() == 0:
    save_tensors({result!r}, weights, told)
dist.destroy_process_group()
"""


def run_two(code: str, folder: Path, beside: str) -> tuple[dict, dict]:
    """Run `code`, which must leave `weights` (named tensors) and `told` (a dictionary), in two processes; returns rank 0's.

    `beside` is the test module whose folder the code may import from.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tests, result = Path(__file__).resolve().parent, str(folder / "result")
    paths = [str(tests.parent), str(tests), str(Path(beside).resolve().parent)]
    script = PROLOGUE.format(paths=paths, port=port) + code + EPILOGUE.format(result=result)
    workers = [subprocess.Popen([sys.executable, "-c", script, str(rank)], env=os.environ | {"OMP_NUM_THREADS": "1"}) for rank in range(2)]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    return load_tensors(result)
