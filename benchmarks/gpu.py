"""The GPU side in one call of under nine minutes: k-means and assignment, the multi-anchor bag, embedding, training.

    python benchmarks/gpu.py [--vectors 1000000] [--clusters 100000] [--users 20000] [--months 60] [--seconds 500] [--device auto]

For a bare machine with CUDA, PyTorch and Triton: no faiss, Spark or Delta is needed. Random data, medians of runs after one that is not
counted. Shares are of the peak of matrix products of the same precision (8192 x 8192 x 8192), measured in the same call. Where there is no
CUDA device every cell says "not run"; `--device cpu` goes through everything on a processor, with small sizes a way to try this file.

  assign            nearest of all centroids by tiles of products; the vectors lie in GPU memory, or are copied from the host's while it works
  re-ranked         bfloat16 finds the best of each tile of centroids, float32 decides among the best four tiles
  Lloyd iteration   assign, sums of the vectors of each centroid, unit length
  bag               lurm/smen/model.py: bag_embedding of rows of about 12 non-zeros, without a gradient by the kernel of lurm/smen/triton_bags.py
                    where Triton is there; `and back` with the gradients of all weights
  whole lives       lurm/smen/inference.py: embed, from numpy to numpy; `on the device` is the model alone, its inputs there already
  kept states       lurm/smen/states.py: finish, one month and one year more, likewise
  training          a step of 256 pairs of windows: forward, loss, backward, Adam
"""

import argparse
import importlib.util
import platform
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

NOT_RUN = "not run"
TILE_ROWS, TILE_CENTROIDS, CANDIDATE_TILES = 65_536, 4_096, 4
PRECISIONS = {"float32": (torch.float32, False), "TF32": (torch.float32, True), "bfloat16": (torch.bfloat16, False)}
FIRST_MONTH = (2017 - 1970) * 12
Cell = tuple[str, str, Callable[[], tuple[float, str]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--clusters", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=200_000, help="of bags, each about 12 non-zeros")
    parser.add_argument("--users", type=int, default=20_000, help="whose lives are embedded")
    parser.add_argument("--months", type=int, default=60)
    parser.add_argument("--interests", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=500, help="after so many no further line is begun")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args()
    chosen = "cuda" if torch.cuda.is_available() else "cpu"
    runs = options.device == chosen or (options.device == "auto" and chosen == "cuda") or options.device == "cpu"
    device = torch.device("cpu" if options.device == "cpu" else chosen)
    machine = torch.cuda.get_device_name() if runs and device.type == "cuda" else f"{platform.machine()}, no CUDA device"
    print(f"{machine}; torch {torch.__version__}, Triton {'there' if importlib.util.find_spec('triton') else 'absent'}, Python "
          f"{platform.python_version()}\n\n{'':<56}{'':>14}  unit", flush=True)
    started = time.monotonic()
    peaks: dict[str, float] = {}
    for title, unit, measure in cells(options, device, peaks):
        value, remark = "", NOT_RUN
        if runs and time.monotonic() - started < options.seconds:
            try:
                figure, remark = measure()
                value = f"{figure:,.4g}" if figure < 10_000 else f"{figure:,.0f}"
            except (RuntimeError, ImportError) as error:  # out of memory, a library that is not there: the next line may do
                remark = f"failed: {str(error).splitlines()[0][:80]}"
        print(f"{title:<56}{value or NOT_RUN:>14}  {unit:<22}{'' if remark == NOT_RUN else remark}".rstrip(), flush=True)
        if device.type == "cuda" and runs:
            torch.cuda.empty_cache()


def cells(options: argparse.Namespace, device: torch.device, peaks: dict[str, float]) -> list[Cell]:
    """Every line of the table: title, unit, and what measures it: (figure, remark)."""
    size = f"{options.vectors:,} x {options.clusters:,}"
    made: dict = {}  # what several lines use, made by the first one that asks
    products = [(f"matrix product, {name}", "TFLOP/s", partial(matrix_peak, device, name, peaks)) for name in PRECISIONS]
    assigned = [(f"assign {size}, {name}", "vectors/s", partial(assign_rate, options, device, name, peaks, made)) for name in PRECISIONS]
    return [
        *products,
        ("memory copy", "TB/s read and written", partial(copy_rate, device)),
        *assigned,
        (f"assign {size}, bfloat16 re-ranked", "vectors/s", partial(assign_rate, options, device, "bfloat16", peaks, made, CANDIDATE_TILES)),
        ("the same, from host memory", "vectors/s", partial(assign_rate, options, device, "bfloat16", peaks, made, CANDIDATE_TILES, True)),
        (f"Lloyd iteration {size}, TF32", "seconds", partial(lloyd_seconds, options, device, "TF32", made)),
        (f"Lloyd iteration {size}, bfloat16 re-ranked", "seconds", partial(lloyd_seconds, options, device, "bfloat16", made)),
        ("bag, float32", "non-zeros/s", partial(bag_rate, options, device, "float32", False, peaks, made)),
        ("the same, in torch's functions", "non-zeros/s", partial(bag_rate, options, device, "float32", False, peaks, made, True)),
        ("bag, bfloat16", "non-zeros/s", partial(bag_rate, options, device, "bfloat16", False, peaks, made)),
        ("bag and back, float32", "non-zeros/s", partial(bag_rate, options, device, "float32", True, peaks, made)),
        (f"whole lives of {options.months} months", "users/s", partial(lives_rate, options, device, False, made)),
        ("the same, on the device", "users/s", partial(lives_rate, options, device, True, made)),
        ("kept states", "users/s", partial(states_rate, options, device, False, made)),
        ("the same, on the device", "users/s", partial(states_rate, options, device, True, made)),
        ("training, float32", "steps/s", partial(training_rate, options, device, "float32", made)),
        ("training, bfloat16", "steps/s", partial(training_rate, options, device, "bfloat16", made)),
    ]


def seconds_of(work: Callable[[], object], device: torch.device, at_least: float = 1.0) -> float:
    """Median seconds of a call, of three runs or more; the first one is not counted."""
    found: list[float] = []
    while len(found) < 4 or (sum(found[1:]) < at_least and len(found) < 50):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
        if found[0] > 20:  # so slow that one more would not say more
            return found[0]
    return float(np.median(found[1:]))


def matrix_peak(device: torch.device, precision: str, peaks: dict[str, float]) -> tuple[float, str]:
    kind, tf32 = PRECISIONS[precision]
    side = 8_192 if device.type == "cuda" else 512
    left, right = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    with tf32_products(tf32):
        peaks[precision] = 2 * side**3 / seconds_of(lambda: left @ right, device) / 1e12
    return peaks[precision], f"{side} x {side} x {side}"


def copy_rate(device: torch.device) -> tuple[float, str]:
    source = torch.randn(1 << (30 if device.type == "cuda" else 22), device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds_of(lambda: target.copy_(source), device) / 1e12, f"{source.nbytes / 1e9:.2g} GB"


@contextmanager
def tf32_products(on: bool) -> Iterator[None]:
    """Products of float32 on a GPU in TF32 inside, or in whole float32."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if on else "ieee"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


# ---- k-means -------------------------------------------------------------------------------------------------------------------------


def planted(options: argparse.Namespace, device: torch.device, made: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors (n, 128) around n / 50 directions, and as centroids K of them, a little moved."""
    if "vectors" not in made:
        generator = torch.Generator(device).manual_seed(0)

        def unit(rows: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(rows, dim=1)

        def noise(n: int) -> torch.Tensor:
            return torch.randn(n, 128, generator=generator, device=device)

        centres = unit(noise(max(1, options.vectors // 50)))
        chosen = torch.randint(len(centres), (options.vectors,), generator=generator, device=device)
        vectors = unit(centres[chosen] + 0.6 / 128**0.5 * noise(options.vectors))
        rows = torch.randperm(options.vectors, generator=generator, device=device)[: options.clusters]
        made["vectors"] = vectors, unit(vectors[rows] + 0.01 * noise(len(rows)))
    return made["vectors"]


@torch.no_grad()
def assign(vectors: torch.Tensor, centroids: torch.Tensor, precision: str, n_tiles: int = 0) -> torch.Tensor:
    """Number of the nearest centroid of every vector, (n,) int64 on the centroids' device; vectors may lie on the host.

    With n_tiles the winners of the best n_tiles tiles of centroids are compared again in float32.
    """
    kind, tf32 = PRECISIONS[precision]
    rough, width = centroids.to(kind), max(64, min(TILE_CENTROIDS, len(centroids) // 16))
    ids = torch.empty(len(vectors), dtype=torch.int64, device=centroids.device)
    with tf32_products(tf32):
        for start in range(0, len(vectors), TILE_ROWS):
            tile = vectors[start : start + TILE_ROWS].to(centroids.device, non_blocking=True)
            left = tile.to(kind)
            found = [(left @ rough[first : first + width].T).max(dim=1) for first in range(0, len(rough), width)]
            values, places = torch.stack([part.values for part in found], 1), torch.stack([part.indices for part in found], 1)
            best = values.topk(min(max(1, n_tiles), values.shape[1]), dim=1).indices
            candidates = places.gather(1, best) + best * width
            if candidates.shape[1] > 1:
                again = torch.einsum("nd,ncd->nc", tile, centroids[candidates])
                candidates = candidates.gather(1, again.argmax(dim=1, keepdim=True))
            ids[start : start + TILE_ROWS] = candidates[:, 0]
    return ids


def assign_rate(options, device, precision: str, peaks: dict, made: dict, n_tiles: int = 0, from_host: bool = False) -> tuple[float, str]:
    vectors, centroids = planted(options, device, made)
    sample = vectors[: min(len(vectors), 20_000)]
    if "exact" not in made:
        made["exact"] = assign(sample, centroids, "float32")
    agreement = float((assign(sample, centroids, precision, n_tiles) == made["exact"]).double().mean())
    if from_host:
        vectors = vectors.cpu().pin_memory() if device.type == "cuda" else vectors.cpu()
    seconds = seconds_of(lambda: assign(vectors, centroids, precision, n_tiles), device)
    reached = 2 * len(vectors) * len(centroids) * vectors.shape[1] / seconds / 1e12
    return len(vectors) / seconds, f"{reached:.3g} TFLOP/s{share(reached, peaks, precision)}; agrees with exact {agreement:.4%}"


def lloyd_seconds(options, device, precision: str, made: dict) -> tuple[float, str]:
    vectors, centroids = planted(options, device, made)

    def iteration() -> torch.Tensor:
        ids = assign(vectors, centroids, precision, CANDIDATE_TILES if precision == "bfloat16" else 0)
        sums = torch.zeros_like(centroids).index_add_(0, ids, vectors)
        norms = sums.norm(dim=1, keepdim=True)
        return torch.where(norms > 1e-6, sums / norms.clamp(min=1e-6), centroids)

    return seconds_of(iteration, device), "means by index_add, empty clusters kept"


def share(reached: float, peaks: dict[str, float], precision: str) -> str:
    return f", {reached / peaks[precision]:.1%} of the peak" if precision in peaks else ""


# ---- SMEN ----------------------------------------------------------------------------------------------------------------------------


def smen_of(options, device, made: dict):
    """An encoder with its first weights, and its info; imported here, so that a missing library costs its lines only."""
    without_delta()
    from lurm.smen.model import SMEN

    if "smen" not in made:
        made["smen"] = SMEN(options.interests).to(device).eval().requires_grad_(False)
    return made["smen"], {"grid_start": FIRST_MONTH, "year_blocks": "calendar", "scales": ["month", "year"]}


def without_delta() -> None:
    """Stand-ins for the table format, which nothing here touches, where it is not installed."""

    def stand_in(name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {"__init__": lambda self, *_, **__: None})

    if importlib.util.find_spec("deltalake") is None:
        for name in ("deltalake", "deltalake.exceptions", "deltalake.transaction"):
            module = types.ModuleType(name)
            module.__spec__, module.__getattr__ = importlib.util.spec_from_loader(name, None), stand_in
            sys.modules[name] = module


def bag_rate(options, device, precision: str, back: bool, peaks: dict, made: dict, in_torch: bool = False) -> tuple[float, str]:
    smen, _ = smen_of(options, device, made)
    from lurm.smen.batches import SparseBags
    from lurm.smen.compiled import without_loops

    rng = np.random.default_rng(1)
    lengths = np.minimum(1 + rng.poisson(11, options.rows), 64)
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    nnz = int(offsets[-1])
    ids = torch.from_numpy((rng.random(nnz) ** 3 * options.interests).astype(np.int64))
    rows = torch.arange(options.rows)
    bags = SparseBags(ids, torch.from_numpy(rng.geometric(0.5, nnz).astype(np.float32)), offsets, rows, torch.zeros_like(rows),
                      torch.ones_like(rows)).to(device)
    alpha = None if back else smen.anchor_weights(torch.arange(options.interests, device=device))
    work = smen if not back else type(smen)(options.interests).to(device)

    def forward() -> None:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            work.bag_embedding(bags, alpha)

    def forward_in_torch() -> None:
        with without_loops():
            forward()

    def and_back() -> None:
        work.zero_grad(set_to_none=True)
        work.bag_embedding(bags).sum().backward()

    seconds = seconds_of(and_back if back else forward_in_torch if in_torch else forward, device)
    reached = (6 if back else 2) * nnz * smen.n_anchors * smen.dim / seconds / 1e12
    return nnz / seconds, f"{nnz:,} non-zeros, {reached:.3g} TFLOP/s{share(reached, peaks, precision)}"


def random_lives(rng: np.random.Generator, n_users: int, n_months: int, n_interests: int, per_month: int = 12):
    """Lives without silence: every month about `per_month` different interests."""
    without_delta()
    from lurm.bag_of_interests import Lives

    n_rows = n_users * n_months
    lengths = np.minimum(1 + rng.poisson(per_month - 1, n_rows), 2 * per_month)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    room = n_interests // (2 * per_month + 1)
    gaps = np.cumsum(rng.integers(1, room + 1, offsets[-1]))
    ids = gaps - np.repeat(gaps[offsets[:-1]], lengths) + np.repeat(rng.integers(0, room, n_rows), lengths)
    names = np.array([f"u{number:08d}" for number in range(n_users)], dtype=object)
    return Lives(names, np.arange(n_users + 1, dtype=np.int64) * n_months, np.tile(np.arange(n_months, dtype=np.int32) + FIRST_MONTH, n_users),
                 offsets, ids.astype(np.int32), rng.geometric(0.5, offsets[-1]).astype(np.int32))


def lives_rate(options, device, on_device: bool, made: dict) -> tuple[float, str]:
    smen, info = smen_of(options, device, made)
    from lurm.smen.batches import month_bags, year_bags
    from lurm.smen.inference import PERIODS_PER_BATCH, embed

    end = FIRST_MONTH + options.months
    if "lives" not in made:
        made["lives"] = random_lives(np.random.default_rng(2), options.users, options.months, options.interests)
    lives = made["lives"]
    if not on_device:
        return options.users / seconds_of(lambda: embed(smen, info, lives, None, end, device=device), device), "host work included"
    n_users = min(options.users, max(1, PERIODS_PER_BATCH["cuda"] // options.months))
    part, ends = lives.take(np.arange(n_users)), np.full(n_users, end)
    months, years = month_bags(part, FIRST_MONTH, ends).to(device), year_bags(part, FIRST_MONTH, ends).to(device)
    alpha = smen.anchor_weights(torch.arange(options.interests, device=device))
    with torch.no_grad():
        return n_users / seconds_of(lambda: smen(months, years, alpha), device), f"batches of {n_users:,} users"


def states_rate(options, device, on_device: bool, made: dict) -> tuple[float, str]:
    smen, _ = smen_of(options, device, made)
    from lurm.smen.batches import one_step
    from lurm.smen.recurrence import next_states, step_weights
    from lurm.smen.states import finish

    rng, width = np.random.default_rng(3), smen.n_anchors * smen.dim
    last = {scale: random_lives(rng, options.users, 1, options.interests) for scale in smen.scales}
    alpha = smen.anchor_weights(torch.arange(options.interests, device=device))
    states = {scale: rng.standard_normal((options.users, width), dtype=np.float32) for scale in smen.scales}
    if not on_device:
        return options.users / seconds_of(lambda: finish(smen, states, last, alpha, device), device), "host work and copies included"
    bags = {scale: one_step(last[scale]).to(device) for scale in smen.scales}
    before = {scale: torch.from_numpy(states[scale]).to(device).view(-1, smen.n_anchors, smen.dim) for scale in smen.scales}

    @torch.no_grad()
    def work() -> torch.Tensor:
        ends = {}
        for scale in smen.scales:
            ends[scale] = next_states(step_weights(smen.gru_of(scale)), smen.bag_embedding(bags[scale], alpha), bags[scale].users, before[scale])
        return smen.fuse(ends)

    return options.users / seconds_of(work, device), f"batches of {options.users:,} users"


def training_rate(options, device, precision: str, made: dict) -> tuple[float, str]:
    smen_of(options, device, made)
    from lurm.config import SmenSettings
    from lurm.contrastive import nt_xent
    from lurm.smen.fitting import _optimizers, build, training_batches

    settings = SmenSettings(batch_size=min(256, options.users // 2), shuffle_users=min(4_096, options.users))
    lives = random_lives(np.random.default_rng(4), settings.shuffle_users, options.months, options.interests)
    drawn = training_batches(lambda epoch: iter([lives]), settings, FIRST_MONTH, seed=0)
    batches = [tuple(scale.to(device) for scale in next(drawn)) for _ in range(4)]
    smen, head = build(options.interests, settings, seed=0)
    both = torch.nn.ModuleDict({"smen": smen, "head": head}).to(device)
    optimizers, number = _optimizers(both, settings), iter(range(10**9))

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            projected = head(smen.recurrent(*batches[next(number) % len(batches)]))
        loss = nt_xent(*projected.chunk(2), settings.temperature)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    rate = 1 / seconds_of(step, device)
    return rate, f"{2 * settings.batch_size * rate:,.0f} windows/s, batches on the device"


if __name__ == "__main__":
    main()
