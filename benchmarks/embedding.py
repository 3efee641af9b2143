"""Embedding users with a frozen SMEN: whole lives and kept states beside a plain PyTorch module, in one run, and what a company's users would take.

    python benchmarks/embedding.py --users 400 --months 60 --per-month 12 --threads 1

Compared are, on the same random lives (every month non-empty, or a share of them: --active 0.33) and with the default model (nine recurrent
anchors and a memory),
  whole lives   lurm.smen.inference.embed: packed, leading empty periods free, silent ones at half the price;
  kept states   lurm.smen.states.finish: one month and one year more, whatever the length of the life;
  ..., torch    both in torch's functions alone, as where numba is missing;
  plain module  nn.GRU over the dense grid of months and of years, ten EmbeddingBags for the bags: what one would write first.
The limit is the quicker of torch's float32 matrix product and the recurrence's own, measured in the same run (on a matrix unit, which multiplies
bfloat16, three of torch's products of that for one), for the products that a user takes: two of H x 3H for a period and recurrent anchor (one where
it is silent) and one of 2H x H for the anchor's gate. Bags, sigmoids and all else would be free at 100 %. The largest difference is that to torch's
functions, beside the spread of the numbers. At the end the measured rates are multiplied up: users / (rate of a core x cores).
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

from lurm.bag_of_interests import Lives
from lurm.schema import MONTH, YEAR
from lurm.smen.activity_traces import fading
from lurm.smen.compiled import loops_for, without_loops
from lurm.smen.inference import embed
from lurm.smen.model import SMEN
from lurm.smen.recurrence import ROWS_AT_A_TIME
from lurm.smen.states import finish
from lurm.smen.weight_products import loop_columns

FIRST_MONTH = (2017 - 1970) * 12
N_RUNS = 3
COMPANY, CORES = 200_000_000, (2, 64, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--months", type=int, default=60)
    parser.add_argument("--per-month", type=float, default=12)
    parser.add_argument("--interests", type=int, default=20_000)
    parser.add_argument("--active", type=float, default=1.0, help="share of the months that are not empty")
    parser.add_argument("--anchors", type=int, default=10, help="with the memory")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    smen = SMEN(options.interests, options.anchors, options.dim, memory=True, activity=True).requires_grad_(False)
    smen.memory.normal_(generator=torch.Generator().manual_seed(1))
    rng = np.random.default_rng(0)

    def lives(n_users: int, n_periods: int, first: int, active: float = 1.0) -> Lives:
        return _lives(rng, n_users, n_periods, first, options.per_month, options.interests, active)

    n_years = -(-options.months // 12)
    months, years = lives(options.users, options.months, FIRST_MONTH, options.active), lives(options.users, n_years, FIRST_MONTH // 12)
    n_daily = 4 * options.users
    last = {MONTH: lives(n_daily, 1, 0), YEAR: lives(n_daily, 1, 0)}
    widths = {scale: smen.n_recurrent * options.dim + smen.n_sums(scale) for scale in last}
    states = {scale: (rng.standard_normal((n_daily, width)) * 0.3).astype(np.float32) for scale, width in widths.items()}
    alpha, info = smen.anchor_weights(torch.arange(options.interests)), {"grid_start": FIRST_MONTH, "year_blocks": "calendar"}

    def whole_lives() -> np.ndarray:
        return embed(smen, info, months, years, FIRST_MONTH + options.months, alpha=alpha)

    def kept_states() -> np.ndarray:
        return finish(smen, states, last, alpha)

    one_product = 2 * 3 * options.dim**2  # operations, of a period and anchor
    of_life = (1 + options.active) * options.months + 2 * n_years
    programs = {  # what runs, users, periods and inputs of a user
        "plain module": (lambda: _plain(smen, months, years, options.months, n_years), options.users, of_life),
        "whole lives, torch": (partial(_in_torch, whole_lives), options.users, of_life),
        "whole lives": (whole_lives, options.users, of_life),
        "kept states, torch": (partial(_in_torch, kept_states), n_daily, 4),
        "kept states": (kept_states, n_daily, 4),
    }
    print(f"{cpu_name()}; {options.months} months of {options.per_month:g} interests, {options.active:.0%} active, D = {options.interests:,}, "
          f"{options.anchors} x {options.dim}, {options.threads} thread(s)\n\n"
          f"{'program':<28}{'users/s':>10}{'against plain':>15}{'of the limit':>14}{'largest difference':>20}{'spread':>8}")
    rates, exact = {}, {}
    of_torch, of_ours = _peak_of_torch(), _peak_of_ours(options.dim)
    for name, (run, n_users, n_products) in programs.items():
        found, seconds = best(run)
        rates[name] = n_users / seconds
        reference = exact.setdefault(name.removesuffix(", torch"), found)
        share = rates[name] * smen.n_recurrent * (n_products * one_product + 4 * options.dim**2) / max(of_torch, of_ours)
        ratio, off = rates[name] / rates["plain module"], np.abs(found - reference).max()
        print(f"{name:<28}{rates[name]:>10,.0f}{ratio:>15.1f}{share:>14.0%}{off:>20.1e}{reference.std():>8.3f}", flush=True)
    print(f"\nplain module and whole lives differ by at most {np.abs(exact['plain module'] - exact['whole lives']).max():.1e}; "
          f"float32 product: torch's {of_torch / 1e9:,.0f} GFLOP/s, ours {of_ours / 1e9:,.0f}")
    print(f"\n{COMPANY:,} users, from these rates on {options.threads} core(s), computing alone (hours)\n{'':<28}" +
          "".join(f"{f'{cores} cores':>12}" for cores in CORES))
    for kind, rate in rates.items():
        print(f"{kind:<28}" + "".join(f"{COMPANY / (rate / options.threads * cores) / 3_600:>12,.2f}" for cores in CORES))


def cpu_name() -> str:
    """What the machine calls its processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _in_torch(run: Callable) -> np.ndarray:
    with without_loops():
        return run()


def _peak_of_torch(dtype: torch.dtype = torch.float32) -> float:
    """Operations a second of a large product."""
    left, right = torch.randn(2, 2_048, 2_048).to(dtype)
    return 2 * 2_048**3 / best(lambda: left @ right)[1]


def _peak_of_ours(dim: int) -> float:
    """The same of the recurrence's own product: a third of torch's of bfloat16 where it makes three of those; 0 where it has none."""
    weight, rows, out = torch.randn(3 * dim, dim), torch.randn(ROWS_AT_A_TIME, dim).numpy(), np.empty((ROWS_AT_A_TIME, 3 * dim), np.float32)
    columns = loop_columns(weight, weight)
    if columns is None or columns.split:
        return 0.0 if columns is None else _peak_of_torch(torch.bfloat16) / 3

    def many() -> None:
        for _ in range(100):
            loops_for(weight).multiply(rows, columns.input, out)

    return torch.get_num_threads() * 100 * 2 * out.size * dim / best(many)[1]


def _lives(rng: np.random.Generator, n_users: int, n_periods: int, first: int, per_period: float, n_interests: int, active: float) -> Lives:
    there = rng.random((n_users, n_periods)) < active
    there[:, 0] = True  # no leading silence, which would cost nothing
    n_rows = int(there.sum())
    lengths = rng.poisson(per_period, n_rows) + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    interests = np.concatenate([np.sort(rng.choice(n_interests, length, replace=False)) for length in lengths]).astype(np.int32)
    names = np.array([f"u{number:09d}" for number in range(n_users)], dtype=object)
    periods, row_offsets = (np.nonzero(there)[1] + first).astype(np.int32), np.concatenate([[0], there.sum(axis=1).cumsum()]).astype(np.int64)
    return Lives(names, row_offsets, periods, offsets, interests, rng.integers(1, 4, len(interests)).astype(np.int32))


@torch.no_grad()
def _plain(smen: SMEN, months: Lives, years: Lives, n_months: int, n_years: int) -> np.ndarray:
    """Every period of the grid, 256 users at a time."""
    alpha, parts = smen.anchor_weights(torch.arange(smen.n_interests)), []
    for start in range(0, months.n_users, 256):
        users, states, sums = np.arange(start, min(start + 256, months.n_users)), {}, {}
        for scale, lives, n_periods, first in (
            (MONTH, months.take(users), n_months, FIRST_MONTH), (YEAR, years.take(users), n_years, FIRST_MONTH // 12)
        ):
            interests, values = torch.from_numpy(lives.interest_ids.astype(np.int64)), torch.log1p(torch.from_numpy(lives.counts).float())
            starts = torch.from_numpy(lives.offsets[:-1])
            bags = [functional.embedding_bag(interests, smen.interest_embedding.weight, starts, mode="sum",
                                             per_sample_weights=values * alpha[interests, anchor]) for anchor in range(smen.n_recurrent)]
            cells = torch.from_numpy(np.repeat(np.arange(len(users)), np.diff(lives.row_offsets)) * n_periods + lives.periods - first)
            grid = torch.zeros(len(users) * n_periods, smen.n_recurrent, smen.dim)
            grid[cells] = functional.relu(torch.stack(bags, dim=1))
            grid = grid.view(len(users), n_periods, smen.n_recurrent, smen.dim).transpose(1, 2)
            states[scale] = smen.gru(grid.reshape(-1, n_periods, smen.dim))[1][0].view(len(users), smen.n_recurrent, smen.dim)
            if scale == smen.memory_scale:
                rows = functional.embedding_bag(interests, smen.memory, starts, mode="sum", per_sample_weights=values)
                sums[scale] = torch.zeros(len(users), rows.shape[1]).index_add_(0, cells // n_periods, rows)
            else:
                events = torch.zeros(len(users) * n_periods)
                events[cells] = torch.from_numpy(np.add.reduceat(lives.counts, lives.offsets[:-1])).float()
                left = fading(scale)[:, None] ** torch.arange(n_periods - 1, -1, -1)  # (half-lives, periods)
                sums[scale] = torch.cat([each.view(len(users), n_periods) @ left.T for each in (torch.log1p(events), (events > 0).float())], dim=1)
        parts.append(smen.with_memory(smen.fuse(states), sums).flatten(1).numpy())
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
