"""Embedding users with a frozen SMEN: whole lives and kept states beside a plain PyTorch module, in one run, and what a company's users would take.

    python benchmarks/embedding.py --users 400 --months 60 --per-month 12 --threads 1

Compared are, on the same random lives (every month non-empty),
  whole lives   lurm.smen.inference.embed: packed, leading empty periods free, buffers kept;
  kept states   lurm.smen.states.finish: one month and one year more, whatever the length of the life;
  plain module  nn.GRU over the dense grid of months and of years, ten EmbeddingBags for the bags: what one would write first.
`bfloat16` runs the products of float32 numbers in bfloat16 (torch.backends.mkldnn.matmul.fp32_precision) where the processor can, and says how far
the vectors move: the largest difference beside the spread of the numbers. The published table is float32. At the end the measured rates are
multiplied up: users / (rate of a core x cores).
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from lurm.bag_of_interests import Lives
from lurm.schema import MONTH, YEAR
from lurm.smen.inference import embed
from lurm.smen.model import SMEN
from lurm.smen.states import finish

FIRST_MONTH = (2017 - 1970) * 12
N_RUNS = 3
COMPANY, CORES = 200_000_000, (2, 64, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--months", type=int, default=60)
    parser.add_argument("--per-month", type=float, default=12)
    parser.add_argument("--interests", type=int, default=20_000)
    parser.add_argument("--anchors", type=int, default=10)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    smen = SMEN(options.interests, options.anchors, options.dim).requires_grad_(False)
    rng = np.random.default_rng(0)

    def lives(n_users: int, n_periods: int, first: int) -> Lives:
        return _lives(rng, n_users, n_periods, first, options.per_month, options.interests)

    n_years = -(-options.months // 12)
    months, years = lives(options.users, options.months, FIRST_MONTH), lives(options.users, n_years, FIRST_MONTH // 12)
    n_daily = 4 * options.users
    last = {MONTH: lives(n_daily, 1, 0), YEAR: lives(n_daily, 1, 0)}
    states = {scale: (rng.standard_normal((n_daily, options.anchors * options.dim)) * 0.3).astype(np.float32) for scale in last}
    alpha, info = smen.anchor_weights(torch.arange(options.interests)), {"grid_start": FIRST_MONTH, "year_blocks": "calendar"}
    programs = {
        "plain module": (options.users, lambda: _plain(smen, months, years, options.months, n_years)),
        "whole lives": (options.users, lambda: embed(smen, info, months, years, FIRST_MONTH + options.months)),
        "kept states": (n_daily, lambda: finish(smen, states, last, alpha)),
    }
    print(f"{options.months} months of {options.per_month:g} interests, D = {options.interests:,}, {options.anchors} x {options.dim}, "
          f"{options.threads} thread(s)\n\n{'program':<28}{'users/s':>10}{'against plain':>15}{'largest difference':>20}{'spread':>8}")
    rates, exact = {}, {}
    for precision in ("ieee", "bf16"):
        torch.backends.mkldnn.matmul.fp32_precision = precision
        for name, (n_users, run) in programs.items():
            found, seconds = best(run)
            kind = name if precision == "ieee" else f"{name}, bfloat16"
            rates[kind] = n_users / seconds
            reference = exact.setdefault(name, found)
            off = np.abs(found - reference).max()
            print(f"{kind:<28}{rates[kind]:>10,.0f}{rates[kind] / rates['plain module']:>15.1f}{off:>20.1e}{reference.std():>8.3f}", flush=True)
    print(f"\nplain module and whole lives differ by at most {np.abs(exact['plain module'] - exact['whole lives']).max():.1e}")
    print(f"\n{COMPANY:,} users, from these rates on {options.threads} core(s), computing alone (hours)\n{'':<28}" +
          "".join(f"{f'{cores} cores':>12}" for cores in CORES))
    for kind, rate in rates.items():
        print(f"{kind:<28}" + "".join(f"{COMPANY / (rate / options.threads * cores) / 3_600:>12,.2f}" for cores in CORES))


def _lives(rng: np.random.Generator, n_users: int, n_periods: int, first: int, per_period: float, n_interests: int) -> Lives:
    n_rows = n_users * n_periods
    lengths = rng.poisson(per_period, n_rows) + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    interests = np.concatenate([np.sort(rng.choice(n_interests, length, replace=False)) for length in lengths]).astype(np.int32)
    names = np.array([f"u{number:09d}" for number in range(n_users)], dtype=object)
    periods = np.tile(np.arange(first, first + n_periods), n_users).astype(np.int32)
    return Lives(names, np.arange(n_users + 1) * n_periods, periods, offsets, interests, rng.integers(1, 4, len(interests)).astype(np.int32))


@torch.no_grad()
def _plain(smen: SMEN, months: Lives, years: Lives, n_months: int, n_years: int) -> np.ndarray:
    """Every period of the grid, 256 users at a time."""
    alpha, parts = smen.anchor_weights(torch.arange(smen.n_interests)), []
    for start in range(0, months.n_users, 256):
        users, states = np.arange(start, min(start + 256, months.n_users)), {}
        for scale, lives, n_periods in ((MONTH, months.take(users), n_months), (YEAR, years.take(users), n_years)):
            interests, values = torch.from_numpy(lives.interest_ids.astype(np.int64)), torch.log1p(torch.from_numpy(lives.counts).float())
            starts = torch.from_numpy(lives.offsets[:-1])
            bags = [functional.embedding_bag(interests, smen.interest_embedding.weight, starts, mode="sum",
                                             per_sample_weights=values * alpha[interests, anchor]) for anchor in range(smen.n_anchors)]
            grid = functional.relu(torch.stack(bags, dim=1)).view(len(users), n_periods, smen.n_anchors, smen.dim).transpose(1, 2)
            states[scale] = smen.gru(grid.reshape(-1, n_periods, smen.dim))[1][0].view(len(users), smen.n_anchors, smen.dim)
        parts.append(smen.fuse(states).flatten(1).numpy())
    return np.concatenate(parts)


def best(run: Callable) -> tuple[np.ndarray, float]:
    """What it gives, and the seconds of the quickest of a few runs after one that warms up."""
    found, seconds = run(), []
    for _ in range(N_RUNS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return found, min(seconds)


if __name__ == "__main__":
    main()
