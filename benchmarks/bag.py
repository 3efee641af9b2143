"""The multi-anchor bag (equation 5), forward and backward: ours beside what torch has, in one run.

    python benchmarks/bag.py --interests 100000 --rows 20000 --per-row 12 --threads 1

Rows are (user, period) bags of about --per-row different interests, drawn from a long-tailed distribution. Compared are
  lurm          one gather of a row of We and of its anchor weights, batched products by length (lurm/smen/model.py);
  ten bags      an EmbeddingBag for each anchor, weighted by alpha times log1p(count): ten gathers of the same row;
  wide table    one EmbeddingBag over a table (D, anchors x dim) that holds alpha x We already: no products, ten times the bytes; it has to be
                made again after every step of a training, so forward only.
The limit is the processor's float32 matrix product, measured in the same run: 2 x anchors x dim operations a non-zero. The results are compared.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.nn import functional

from lurm.smen.batches import SparseBags
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
    print(f"{options.rows:,} rows, {n:,} non-zeros, D = {options.interests:,}, {options.anchors} x {options.dim}, {options.threads} thread(s)\n")
    print(f"{'program':<16}{'forward: non-zeros/s':>22}{'of the limit':>14}{'and backward':>18}{'largest difference':>20}")
    peak, reference = _peak(), None
    for name, (prepare, run) in _programs(smen, bags).items():
        program = partial(run, prepare())
        with torch.no_grad():
            found, forward = program(), n / best(program)
        both = f"{n / best(partial(_with_gradient, program)):,.0f}" if name != "wide table" else "-"
        reference = found if reference is None else reference
        share, off = forward * 2 * options.anchors * options.dim / peak, (found - reference).abs().max().item()
        print(f"{name:<16}{forward:>22,.0f}{share:>13.0%}{both:>19}{off:>20.1e}", flush=True)
    print(f"\nfloat32 product: {peak / 1e9:,.0f} GFLOP/s")


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

    def ten(weights: torch.Tensor) -> torch.Tensor:
        parts = [functional.embedding_bag(interests, table, starts, mode="sum", per_sample_weights=values * weights[interests, anchor])
                 for anchor in range(smen.n_anchors)]
        return functional.relu(torch.cat(parts, dim=1))

    def wide() -> torch.Tensor:
        return (alpha()[:, :, None] * table.detach()[:, None]).flatten(1)

    def lookup(prepared: torch.Tensor) -> torch.Tensor:
        return functional.relu(functional.embedding_bag(interests, prepared, starts, mode="sum", per_sample_weights=values))

    return {"lurm": (alpha, ours), "ten bags": (alpha, ten), "wide table": (wide, lookup)}


def _with_gradient(program: Callable) -> None:
    program().sum().backward()


def _peak() -> float:
    """Operations a second of a large float32 product."""
    left, right = torch.randn(2_048, 2_048), torch.randn(2_048, 2_048)
    return 2 * 2_048**3 / best(lambda: left @ right)


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
