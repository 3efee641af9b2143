"""Training SMEN: steps a second beside a plain implementation, and whether the loader keeps up, over bags that lie in Parquet files.

    python benchmarks/training.py --users 10000 1000000 [--steps 20] [--interests 10000] [--months 48] [--directory DIR]

For every number of users a table of monthly bags is written by hand (random interests, about 8 a month, users active in a third of the
months since their first). Then

  loader alone       bags read, users shuffled, windows drawn and laid out as tensors, and thrown away
  steps alone        forward, loss, backward, Adam; the batches lie in memory
  the same, torch    without the compiled passes of lurm/smen/loops.py, as where numba is missing
  steps with loader  both as the stage runs them, the next batch prepared by a thread while the model works on this one
  plain, alone       the same batches in torch's own modules: a gather padded to the longest bag, nn.GRU over every cell of the calendar grid

`waiting` is the share of the time that the model waits for a batch; the first batch, which fills the buffer users are shuffled in, stands by
itself. Plain and ours start from the same weights; the largest difference of a number of their embeddings is told. The limit of a step is the
processor's float32 matrix product, measured in the same run, for the products of forward and backward pass; everything else would be free.
"""

import argparse
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import torch

from lurm.bag_of_interests import Lives, read_lives
from lurm.config import load_config
from lurm.contrastive import nt_xent
from lurm.manifest import Manifest, Snapshot
from lurm.periods import month_name, month_number, until
from lurm.schema import BAGS, MONTH, TIMESTAMP, YEAR
from lurm.smen.compiled import without_loops
from lurm.smen.fitting import _optimizers, _prefetch, build, training_batches
from lurm.smen.model import SMEN
from lurm.smen.recurrence import pack
from lurm.staging import stage_table
from lurm.store import Store
from lurm.training import autocast, choose_device, choose_precision

FIRST_MONTH, AS_OF, SPACE = month_number("2018-01"), "2030-01-01", "space-random"
USERS_PER_BUCKET = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[10_000])
    parser.add_argument("--steps", type=int, default=20, help="steps whose time is taken, after two others")
    parser.add_argument("--plain-steps", type=int, default=4, help="of the plain implementation; 0 leaves it out")
    parser.add_argument("--loader-steps", type=int, default=128, help="batches that the loader alone makes")
    parser.add_argument("--interests", type=int, default=10_000)
    parser.add_argument("--months", type=int, default=48)
    parser.add_argument("--directory", help="where the tables go (default: a temporary folder)")
    parser.add_argument("--set", action="extend", nargs="+", default=[], dest="overrides", metavar="SECTION.FIELD=VALUE")
    options = parser.parse_args()
    folder = Path(options.directory or tempfile.mkdtemp(prefix="lurm-bench-"))
    settings = load_config(None, options.overrides).smen
    device = choose_device(settings.device)
    print(f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores, {torch.get_num_threads()} threads of torch on {device}; "
          f"{settings.n_anchors} anchors x {settings.dim}, {options.interests:,} interests, {options.months} months, batches of "
          f"{settings.batch_size} pairs\n")
    print(f"{'users':>11}  {'program':<20}{'first batch s':>14}{'steps/s':>10}{'windows/s':>12}{'waiting':>9}{'ratio':>8}")
    for n_users in options.users:
        bags = write_bags(folder / f"{n_users}", n_users, options.months, options.interests)
        rows, told = one_size(bags, options, settings, device)
        for name, (first, rate, waiting) in rows.items():
            windows, ratio = 2 * settings.batch_size * rate, f"{rate / rows['steps alone'][1]:.2f}"
            share = "" if waiting is None else f"{waiting:.1%}"
            print(f"{n_users:>11,}  {name:<20}{first:>14.2f}{rate:>10.2f}{windows:>12,.0f}{share:>9}{ratio:>8}", flush=True)
        print(told, flush=True)
    print("\nratio: to the steps alone; a loader alone above 1 keeps up with the model.")
    if not options.directory:
        shutil.rmtree(folder)


def one_size(bags: tuple[Store, Snapshot], options: argparse.Namespace, settings, device: torch.device) -> tuple[dict, str]:
    """(seconds to the first batch, steps a second, share of waiting) of every program, and how far plain and ours differ."""

    def stream(epoch: int) -> Iterator[Lives]:
        for bucket in np.random.default_rng(epoch).permutation(bags[1].values("bucket")):
            for lives, _ in read_lives(bags[0], bags[1].where(bucket=str(bucket))):
                yield lives[MONTH]

    def batches() -> Iterator:
        return training_batches(stream, settings, FIRST_MONTH, seed=0)

    started = time.perf_counter()
    drawn = batches()
    ready = [next(drawn)]
    first = time.perf_counter() - started
    ready += [next(drawn) for _ in range(min(options.steps, 30) + 1)]
    for _ in range(max(1, options.loader_steps - len(ready))):
        next(drawn)
    rows = {"loader alone": (first, options.loader_steps / (time.perf_counter() - started), None)}

    def smen_and_step(kind: type[SMEN]) -> tuple[SMEN, Callable]:
        smen, head = build(options.interests, settings, seed=0)
        smen.__class__ = kind  # the same weights
        both = torch.nn.ModuleDict({"smen": smen, "head": head}).to(device)
        optimizers, precision = _optimizers(both, settings), choose_precision(settings.precision, device)

        def step(batch) -> None:
            months, years = (scale.to(device) if scale is not None else None for scale in batch)
            with autocast(device, precision):
                loss = nt_xent(*head(smen.recurrent(months, years)).chunk(2), settings.temperature)
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return smen, step

    def alone(step: Callable, n_steps: int) -> float:
        for batch in ready[:2]:
            step(batch)
        started = time.perf_counter()
        for number in range(n_steps):
            step(ready[2 + number % (len(ready) - 2)])
        return n_steps / (time.perf_counter() - started)

    ours, step = smen_and_step(SMEN)
    plain, plain_step = smen_and_step(Plain)
    with torch.no_grad():
        both = [smen.recurrent(*(scale.to(device) for scale in ready[0])) for smen in (ours, plain)]
    rows["steps alone"] = (0.0, alone(step, options.steps), None)
    with without_loops():
        rows["the same, torch"] = (0.0, alone(step, options.steps), None)
    rows["steps with loader"] = with_loader(_prefetch(batches()), step, options.steps)
    if options.plain_steps:
        rows["plain, alone"] = (0.0, alone(plain_step, options.plain_steps), None)
    work, peak = operations_of_step(ours, ready[2]), matrix_peak(device)
    told = (f"largest difference of ours and plain before training: {float((both[0] - both[1]).abs().max()):.1e}; "
            f"products of a step: {work / 1e9:.1f} GFLOP, alone {work * rows['steps alone'][1] / peak:.0%} of {peak / 1e9:,.0f} GFLOP/s")
    return rows, f"{'':>13}{told}"


def operations_of_step(smen: SMEN, batch) -> float:
    """Operations of the products of a step, backward pass included, where each product is two."""
    width, n_anchors, n_windows, forward = smen.dim, smen.n_recurrent, len(batch[0].n_steps), 0.0
    for bags in batch:
        packing = pack(bags)
        forward += 2 * n_anchors * width * (3 * width * (sum(packing.running) + len(packing.ranks)) + len(bags.interest_ids))
    forward += 2 * n_windows * n_anchors * width * (2 * width + width + n_anchors * width + n_windows)  # gate, head, similarities
    return 3 * forward


def matrix_peak(device: torch.device) -> float:
    """Operations a second of a large float32 product."""
    left, right = torch.randn(2_048, 2_048, device=device), torch.randn(2_048, 2_048, device=device)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        (left @ right).sum().item()
        seconds.append(time.perf_counter() - started)
    return 2 * 2_048**3 / min(seconds)


def with_loader(batches: Iterator, step: Callable, n_steps: int) -> tuple[float, float, float]:
    started = time.perf_counter()
    step(next(batches))
    first = time.perf_counter() - started
    step(next(batches))
    waited, started = 0.0, time.perf_counter()
    for _ in range(n_steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        step(batch)
    seconds = time.perf_counter() - started
    return first, n_steps / seconds, waited / seconds


class Plain(SMEN):
    """SMEN as one would write it in torch's modules; same weights, same result."""

    def recurrent(self, months, years, alpha=None):
        return self.fuse({scale: self._state(scale, bags) for scale, bags in ((MONTH, months), (YEAR, years)) if scale in self.scales})

    def _state(self, scale: str, bags) -> torch.Tensor:
        lengths, n_users, n_steps = bags.offsets.diff(), len(bags.n_steps), int(bags.n_steps.max())
        position = torch.arange(int(lengths.max()), device=lengths.device)
        real = position < lengths[:, None]
        index = torch.where(real, bags.offsets[:-1, None] + position, 0)
        vectors = self.interest_embedding(bags.interest_ids[index])  # (R, longest, H)
        weights = torch.softmax(self.key_projection(torch.relu(vectors)) @ self.anchors.T, dim=2)
        weights = weights * (torch.log1p(bags.counts)[index] * real)[..., None]
        rows = torch.relu(torch.einsum("rlm,rlh->rmh", weights, vectors))
        grid = rows.new_zeros(n_users, n_steps, self.n_recurrent, self.dim).index_put((bags.users, bags.steps), rows)
        states, _ = self.gru_of(scale)(grid.transpose(1, 2).reshape(-1, n_steps, self.dim))
        users = torch.arange(n_users, device=lengths.device)
        return states.view(n_users, self.n_recurrent, n_steps, self.dim)[users, :, bags.n_steps - 1]


def write_bags(folder: Path, n_users: int, n_months: int, n_interests: int) -> tuple[Store, Snapshot]:
    """Monthly bags of random lives as build-bags leaves them; memory is one bucket."""
    store = Store(str(folder))
    if not store.snapshot(BAGS.name).files:
        files = []
        for bucket, first in enumerate(range(0, n_users, USERS_PER_BUCKET)):
            rng = np.random.default_rng((1, bucket))
            rows, months = random_bags(rng, first, min(USERS_PER_BUCKET, n_users - first), n_months, n_interests)
            for month in range(n_months):
                period = month_name(FIRST_MONTH + month)
                scope = {"space_id": SPACE, "scale": MONTH, "period": period, "until": until(period, AS_OF), "bucket": str(bucket)}
                files.append(stage_table(store, BAGS, "bench", scope, rows.take(pa.array(np.flatnonzero(months == month)))))
        store.commit(Manifest(BAGS.name, "bench", tuple(files), ({"space_id": SPACE},)))
    return store, store.snapshot(BAGS.name)


def random_bags(rng: np.random.Generator, first: int, n_users: int, n_months: int, n_interests: int) -> tuple[pa.Table, np.ndarray]:
    """Rows of `bags`, users ascending, and the month of each row."""
    start = rng.integers(0, n_months - 1, n_users)
    active = (np.arange(n_months) >= start[:, None]) & (rng.random((n_users, n_months)) < 1 / 3)
    users, months = np.nonzero(active)
    lengths = np.minimum(1 + rng.poisson(7, len(users)), 24)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    gaps = np.cumsum(rng.integers(1, n_interests // 24, offsets[-1]))  # ascending within a row: interests are different
    interests = gaps - np.repeat(gaps[offsets[:-1]], lengths) + np.repeat(rng.integers(0, n_interests // 24, len(users)), lengths)
    counts = rng.geometric(0.5, offsets[-1])
    lists = [pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(cells.astype(np.int32))) for cells in (interests, counts)]
    n_events, at = np.add.reduceat(counts, offsets[:-1]), pa.repeat(pa.scalar(0, pa.int64()), len(users)).cast(TIMESTAMP)
    names = pa.array([f"u{number:09d}" for number in range(first, first + n_users)]).take(pa.array(users))
    return pa.table([names, *lists, pa.array(n_events.astype(np.int64)), at, at], schema=BAGS.data_schema), months


if __name__ == "__main__":
    main()
