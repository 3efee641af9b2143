"""The multi-anchor bag (equation 5), forward and backward: ours beside what torch has, in one run.

    python benchmarks/bag.py --interests 100000 --rows 20000 --per-row 12 --threads 1

Rows are (user, period) bags of about --per-row different interests, drawn from a long-tailed distribution. Compared are
  lurm          one gather of a row of We and of its anchor weights, sums in registers (lurm/smen/loops.py); with a gradient lurm/smen/model.py;
  lurm, torch   what stands beside it where numba is missing: torch's weighted sums of rows, an anchor at a time over some hundred bags;
  ten bags      an EmbeddingBag for each anchor, weighted by alpha times log1p(count): ten gathers of the same row;
  wide table    one EmbeddingBag over a table (D, anchors x dim) that holds alpha x We already: no products, ten times the bytes; it has to be
                made again after every step of a training, so forward only.
There are two limits, measured in the same run: the processor's float32 matrix product, for 2 x anchors x dim operations a non-zero, and copying in
memory, for the row and the weights that are read for a non-zero and the anchors x dim numbers that are written for a bag. The results are compared.
"""

import argparse
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from lurm.smen.batches import SparseBags
from lurm.smen.compiled import without_loops
from lurm.smen.model import SMEN

N_RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interests", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--per-row", type=float, default=12)
    parser.add_argument("--anchors", type=int, default=10)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    smen, bags = SMEN(options.interests, options.anchors, options.dim, sparse=True), bags_of(options.interests, options.rows, options.per_row)
    n = len(bags.interest_ids)
    print(f"{cpu_name()}; {options.rows:,} rows, {n:,} non-zeros, D = {options.interests:,}, {options.anchors} x {options.dim}, "
          f"{options.threads} thread(s)\n")
    print(f"{'program':<14}{'forward: non-zeros/s':>22}{'of products':>13}{'of copying':>12}{'of ten bags':>13}{'and backward':>15}"
          f"{'largest difference':>20}")
    operations = 2 * options.anchors * options.dim
    moved = 4 * (options.dim + options.anchors) + 4 * options.anchors * options.dim * options.rows / n  # bytes a non-zero
    rows = {}
    for name, (prepare, run) in _programs(smen, bags).items():
        program = partial(run, prepare())
        with torch.no_grad():
            rows[name] = (program(), n / best(program), f"{n / best(partial(_with_gradient, program)):,.0f}" if name in ("lurm", "ten bags") else "-")
    peak, copying, reference = _peak(), _copying(), rows["ten bags"][0]
    for name, (found, rate, both) in rows.items():
        print(f"{name:<14}{rate:>22,.0f}{rate * operations / peak:>12.0%}{rate * moved / copying:>12.0%}{rate / rows['ten bags'][1]:>13.2f}{both:>16}"
              f"{(found - reference).abs().max().item():>20.1e}")
    print(f"\nfloat32 product: {peak / 1e9:,.0f} GFLOP/s; copying: {copying / 1e9:,.1f} GB/s read and written; {operations:,} operations and "
          f"{moved:,.0f} bytes a non-zero")


def cpu_name() -> str:
    """What the machine calls its processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def bags_of(n_interests: int, n_rows: int, per_row: float, seed: int = 0) -> SparseBags:
    rng = np.random.default_rng(seed)
    lengths = rng.poisson(per_row, n_rows) + 1
    interests = np.minimum((n_interests ** rng.random(lengths.sum())).astype(np.int64), n_interests - 1)  # p(rank) ~ 1 / rank
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    for start, stop in zip(offsets[:-1], offsets[1:], strict=True):
        interests[start:stop].sort()
    counts = torch.from_numpy(rng.integers(1, 5, len(interests)).astype(np.float32))
    rows = torch.arange(n_rows)
    return SparseBags(torch.from_numpy(interests), counts, torch.from_numpy(offsets), rows, torch.zeros_like(rows), torch.ones_like(rows))


def _programs(smen: SMEN, bags: SparseBags) -> dict[str, tuple[Callable, Callable]]:
    table, values = smen.interest_embedding.weight, torch.log1p(bags.counts)
    starts, interests = bags.offsets[:-1], bags.interest_ids

    def alpha() -> torch.Tensor:
        return smen.anchor_weights(torch.arange(smen.n_interests)).detach()

    def ours(weights: torch.Tensor) -> torch.Tensor:
        return smen.bag_embedding(bags, weights).flatten(1)

    def ours_in_torch(weights: torch.Tensor) -> torch.Tensor:
        with without_loops():
            return ours(weights)

    def ten(weights: torch.Tensor) -> torch.Tensor:
        parts = [functional.embedding_bag(interests, table, starts, mode="sum", per_sample_weights=values * weights[interests, anchor])
                 for anchor in range(smen.n_anchors)]
        return functional.relu(torch.cat(parts, dim=1))

    def wide() -> torch.Tensor:
        return (alpha()[:, :, None] * table.detach()[:, None]).flatten(1)

    def lookup(prepared: torch.Tensor) -> torch.Tensor:
        return functional.relu(functional.embedding_bag(interests, prepared, starts, mode="sum", per_sample_weights=values))

    return {"lurm": (alpha, ours), "lurm, torch": (alpha, ours_in_torch), "ten bags": (alpha, ten), "wide table": (wide, lookup)}


@torch.enable_grad()
def _with_gradient(program: Callable) -> None:
    program().sum().backward()


def _peak() -> float:
    """Operations a second of a large float32 product."""
    left, right = torch.randn(2_048, 2_048), torch.randn(2_048, 2_048)
    return 2 * 2_048**3 / best(lambda: left @ right)


def _copying() -> float:
    """Bytes a second, read and written, of a copy that no cache holds."""
    source = torch.randn(1 << 25)
    target = torch.empty_like(source)
    return 2 * source.nbytes / best(lambda: target.copy_(source))


def best(run: Callable) -> float:
    """Seconds of the quickest of a few runs, after one that warms up."""
    run()
    seconds = []
    for _ in range(N_RUNS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


if __name__ == "__main__":
    main()
