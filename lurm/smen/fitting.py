"""Trains SMEN with its projection head: users in, two windows of each life, NT-Xent, Adam (LURM section 1.4).

In: a stream of monthly Lives, repeatable epoch by epoch, and the Lives of held-out users. Out: the encoder and the head with the
weights of the best held-out loss, the history, and measures of health.

Batch number s is a function of (seed, epoch, s) and of the stream alone, so training resumes exactly and the same seed gives the
same weights. Memory holds `shuffle_users` users (and the chunk being read), however many there are.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from lurm.bag_of_interests import Lives, concatenate
from lurm.config import SmenSettings
from lurm.contrastive import nt_xent
from lurm.errors import CollapseError, InputError
from lurm.smen.memory_anchor import fit_memory
from lurm.smen.model import SMEN, ProjectionHead, anchor_entropy, initialise, initialise_head
from lurm.smen.windows import Bags, Windows, bags_of_windows, draw_windows, trainable_users
from lurm.training import History, LoopSettings, autocast, choose_device, choose_precision, fit
from lurm.vectors import effective_rank

log = logging.getLogger("lurm")
SPARSE_ABOVE = 20_000  # interests: above it most rows of We have no gradient in a batch
RANKED_USERS = 512  # held-out users whose effective rank is measured
FEWEST_RANKED = 8  # n users have a rank of n - 1 at most, so a handful proves no collapse
SHUFFLE, HELD_OUT = 1 << 40, 1 << 41  # third word of the seeds that are not steps
Stream = Callable[[int], Iterator[Lives]]


def fit_smen(
    stream: Stream,
    held_out: Lives,
    *,
    n_interests: int,
    centroids: np.ndarray | None,
    settings: SmenSettings,
    grid_start: int,
    seed: int,
    directory: Path,
    key: str,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[SMEN, ProjectionHead, History, dict]:
    """Train on stream(epoch), which yields the users of an epoch in chunks, always in the same order.

    centroids: (D, H) float32 or None, where We starts (settings.start_from_centroids); ignored when their width is not settings.dim.
    Users with one active month are left out. Raises InputError when fewer than two users remain and CollapseError when the vectors
    carry no information. Health: usage_entropy and interest_entropy (nats), effective_rank, held_out_loss, held_out_users,
    one_month_users (left out; counted in the first epoch as far as it was read).
    """
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    smen, head = build(n_interests, settings, seed, centroids)
    both = torch.nn.ModuleDict({"smen": smen, "head": head}).to(device)
    counted: dict[str, int] = {}

    def loss_of(bags: Bags) -> torch.Tensor:
        months, years = (scale.to(device) if scale is not None else None for scale in bags)
        with autocast(device, precision):
            projected = head(smen.recurrent(months, years))
        return nt_xent(*projected.chunk(2), settings.temperature)

    held_out = held_out.take(trainable_users(held_out)[: settings.max_held_out_users])
    fixed = _fixed_batches(held_out, settings, grid_start, seed)

    def look() -> dict:
        smen.eval()
        with torch.no_grad(), autocast(device, precision):
            left, losses = [], []
            for users, (months, years) in fixed:
                embeddings = smen.recurrent(*(scale.to(device) if scale is not None else None for scale in (months, years)))
                losses.append(users * float(nt_xent(*head(embeddings).chunk(2), settings.temperature, gather=False)))
                left.append(embeddings[:users].float().flatten(1))
        usage, interest = anchor_entropy(smen)
        rank = effective_rank(torch.cat(left)[:RANKED_USERS].cpu().numpy()) if left else float("nan")
        loss = sum(losses) / len(held_out.user_ids) if left else float("nan")
        return {"held_out_loss": loss, "usage_entropy": usage, "interest_entropy": interest, "effective_rank": rank}

    def evaluate() -> float:
        seen = look()
        log.info(
            "held-out loss %(held_out_loss).4f, anchor usage entropy %(usage_entropy).2f, effective rank %(effective_rank).1f", seen
        )
        _check_collapse(seen, held_out.n_users, settings)
        return seen["held_out_loss"]

    if not fixed:
        log.warning("Fewer than two held-out users have two active months: training runs to max_steps without early stopping.")
    history = fit(
        both,
        _optimizers(both, settings),
        lambda start: _prefetch(training_batches(stream, settings, grid_start, seed, start, counted)),
        loss_of,
        directory=directory,
        key=key,
        settings=LoopSettings(settings.max_steps, settings.evaluate_every, settings.patience, settings.checkpoint_every),
        evaluate=evaluate if fixed else None,
        progress=progress,
    )
    if settings.memory:
        fit_memory(smen, stream(0), settings.year_blocks, grid_start, seed)
    health = look() | {"held_out_users": len(held_out.user_ids) if fixed else 0} | {"one_month_users": counted.get("one_month_users", 0)}
    return smen, head, history, health


def build(n_interests: int, settings: SmenSettings, seed: int, centroids: np.ndarray | None = None) -> tuple[SMEN, ProjectionHead]:
    """Encoder and head with their first weights."""
    sparse = {"on": True, "off": False}.get(settings.sparse_gradients, n_interests > SPARSE_ABOVE)
    smen = SMEN(n_interests, settings.n_anchors, settings.dim, tuple(settings.scales.split("+")), settings.shared_gru, sparse, settings.memory,
                settings.memory and settings.activity)  # fmt: skip
    head = ProjectionHead(smen.n_recurrent, settings.dim)
    generator = torch.Generator().manual_seed(seed)
    usable = settings.start_from_centroids and centroids is not None and centroids.shape == (n_interests, settings.dim)
    initialise(smen, generator, torch.as_tensor(np.array(centroids)) if usable else None)
    initialise_head(head, generator)
    return smen, head


def training_batches(
    stream: Stream, settings: SmenSettings, grid_start: int, seed: int, start: int = 0, counted: dict[str, int] | None = None
) -> Iterator[Bags]:
    """Batches of steps start, start + 1, ... without end: bags of the left windows, then of the right ones.

    Of each batch a process of torch.distributed takes its share: users rank, rank + world, ... A batch that is skipped costs the
    reading only. The last incomplete batch of an epoch is dropped unless it is the only one.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)
    counted = {} if counted is None else counted
    counted["one_month_users"] = 0
    step, epoch = 0, 0
    while True:
        for lives in _user_batches(stream, settings, seed, epoch, counted):
            if step >= start:
                windows = draw_windows(lives, np.random.default_rng((seed, epoch, step)), settings)
                share = slice(rank, len(lives.user_ids) // world * world, world)
                joined = _join(*(side.take(share) for side in windows))
                yield bags_of_windows(lives, joined, settings, grid_start)
            step += 1
        epoch += 1


def _user_batches(stream: Stream, settings: SmenSettings, seed: int, epoch: int, counted: dict[str, int]) -> Iterator[Lives]:
    """One epoch: users shuffled within a buffer of `shuffle_users`, cut into batches."""
    rng = np.random.default_rng((seed, epoch, SHUFFLE))
    waiting: list[Lives] = []
    n_batches = 0

    def emit(last: bool) -> Iterator[Lives]:
        nonlocal n_batches
        users = concatenate(waiting) if waiting else None
        waiting.clear()
        if users is None:
            return
        order = rng.permutation(users.n_users)
        whole = users.n_users // settings.batch_size * settings.batch_size
        for start in range(0, whole, settings.batch_size):
            n_batches += 1
            yield users.take(order[start : start + settings.batch_size])
        if whole < users.n_users and not last:
            waiting.append(users.take(order[whole:]))
        elif n_batches == 0 and users.n_users >= 2:
            n_batches += 1
            yield users.take(order)

    for chunk in stream(epoch):
        chosen = trainable_users(chunk)
        counted["one_month_users"] += (chunk.n_users - len(chosen)) * (epoch == 0)
        for start in range(0, len(chosen), settings.shuffle_users):
            waiting.append(chunk.take(chosen[start : start + settings.shuffle_users]))
            if sum(lives.n_users for lives in waiting) >= settings.shuffle_users:
                yield from emit(last=False)
    yield from emit(last=True)
    if n_batches == 0:
        raise InputError(
            "Expected at least two users with events in two different months to train SMEN on, found fewer; "
            "give a longer history or more users."
        )


def _fixed_batches(held_out: Lives, settings: SmenSettings, grid_start: int, seed: int) -> list[tuple[int, Bags]]:
    """The held-out users' windows, the same at every evaluation: (number of users, bags of left then right windows)."""
    if held_out.n_users < 2:
        return []
    left, right = draw_windows(held_out, np.random.default_rng((seed, 0, HELD_OUT)), settings)
    parts = np.array_split(np.arange(held_out.n_users), -(-held_out.n_users // max(2, settings.batch_size)))
    return [(len(part), bags_of_windows(held_out, _join(left.take(part), right.take(part)), settings, grid_start)) for part in parts]


def _join(left: Windows, right: Windows) -> Windows:
    """Both sides as one list: the encoder runs once over 2n windows."""
    return Windows(*(np.concatenate(pair) for pair in zip(vars(left).values(), vars(right).values(), strict=True)))


def _optimizers(module: torch.nn.ModuleDict, settings: SmenSettings) -> list[torch.optim.Optimizer]:
    sparse = module["smen"].interest_embedding
    if not sparse.sparse:
        return [torch.optim.Adam(module.parameters(), lr=settings.learning_rate)]
    dense = [parameter for parameter in module.parameters() if parameter is not sparse.weight]
    return [torch.optim.Adam(dense, lr=settings.learning_rate), torch.optim.SparseAdam([sparse.weight], lr=settings.learning_rate)]


def _check_collapse(seen: dict, n_users: int, settings: SmenSettings) -> None:
    rank = seen["effective_rank"]
    if rank == 0:
        raise CollapseError(
            "Expected embeddings that differ between users, got the same one for every held-out user; "
            "check that the interests spread over the items (lurm status), set smen.start_from_centroids=true, and train again."
        )
    if n_users >= FEWEST_RANKED and not rank >= settings.min_effective_rank:
        raise CollapseError(
            f"Expected held-out embeddings of effective rank {settings.min_effective_rank} or more, got {rank:.2f}; check the interests, "
            "set smen.start_from_centroids=true, lower smen.learning_rate, or lower smen.min_effective_rank if so few users are meant."
        )


def _prefetch(batches: Iterator) -> Iterator:
    """The same batches in the same order; a thread prepares the next one while the model works on this one."""
    with ThreadPoolExecutor(1) as worker:
        following = worker.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = worker.submit(next, batches, None)
            yield batch
