"""How the neural baselines are trained: one loop (lurm.training), Adam at the rate of the budget, the best held-out loss kept, one seed.

In: a module, batches by step, a loss. Out: the module with its best weights, in eval mode, and what it cost. Batches are functions of
(seed, step) alone; users that are held out are chosen by hash, so all methods of a history hold out the same ones.
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from lurm.evaluation.baselines.behaviours import Behaviours, training_users
from lurm.evaluation.baselines.method import Budget
from lurm.evaluation.baselines.sequences import SequenceBatch, TitleSequences, last_windows, make_batch
from lurm.sampling import hash_of_text
from lurm.training import LoopSettings, choose_device, fit

HELD_OUT, MOST_HELD_OUT = 0.1, 256
USERS_A_TIME = 256
SHOWN = 10  # losses of steps that are averaged to be shown
LOOKS = 12  # at the held-out loss in a training


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch draws from this seed inside, and goes on afterwards as if nothing had happened."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def learn(
    module: torch.nn.Module, budget: Budget, seed: int, make: Callable[[np.random.Generator, int], object],
    loss_of: Callable[[object], torch.Tensor], held_out: Sequence[object] = (), patience: int = LOOKS, untrained_counts: bool = True,
) -> dict:  # fmt: skip
    """Train in place on batches make(generator of the step, step), which have a method `to`; `held_out` are batches of others.

    Pre-training spends its whole budget and keeps the best look; with `patience` looks without improvement it stops earlier. The weights
    that came in are a candidate unless `untrained_counts` is false: a handful of held-out users must not say that learning was in vain.
    """
    device = choose_device("auto")
    module.to(device)
    evaluate_every = max(1, budget.steps // LOOKS)

    def batches(start: int) -> Iterator[object]:
        for step in range(start, budget.steps):
            yield make(np.random.default_rng((seed, step)), step).to(device)

    looks: list[float] = []

    def judge() -> float:
        if not (looks or untrained_counts):
            looks.append(math.inf)
            return math.inf
        with seeded(seed):
            looks.append(float(np.mean([float(loss_of(batch.to(device))) for batch in held_out])))
        return looks[-1]

    with seeded(seed), tempfile.TemporaryDirectory() as folder:
        history = fit(
            module, [torch.optim.Adam([weight for weight in module.parameters() if weight.requires_grad], lr=budget.learning_rate)], batches, loss_of,
            directory=Path(folder), key="evaluation", settings=LoopSettings(budget.steps, evaluate_every, patience, 1_000_000_000),
            evaluate=judge if held_out else None, progress=lambda step, loss: None,
        )  # fmt: skip
    module.eval()
    return {
        "steps": len(history.losses), "best_step": history.best_step, "seconds": round(history.seconds, 1),
        "first_loss": _mean(history.losses[:SHOWN]), "last_loss": _mean(history.losses[-SHOWN:]),
        "held_out_loss": [round(value, 4) for value in looks if math.isfinite(value)],
    }  # fmt: skip


def _mean(losses: list[float]) -> float | None:
    return round(float(np.mean(losses)), 4) if losses else None


def train_and_held_out(behaviours: Behaviours, fewest: int, budget: Budget, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the users to train on and of those held out (10 %, at most 256), all with at least `fewest` events."""
    chosen = training_users(behaviours, fewest, budget.max_users, seed)
    apart = hash_of_text(behaviours.users[chosen], seed + 1) < HELD_OUT
    held_out = chosen[apart][:MOST_HELD_OUT]
    return (chosen[~apart], held_out) if (~apart).any() else (chosen, chosen[:0])


def held_out_batches(users: np.ndarray, budget: Budget, seed: int, make: Callable[[np.ndarray, np.random.Generator], object]) -> list:
    """The same batches at every look: make(users, generator) of batch_size users each; one user alone says nothing."""
    parts = [users[start : start + budget.batch_size] for start in range(0, len(users), budget.batch_size)]
    return [make(part, np.random.default_rng((seed, 1 << 40, number))) for number, part in enumerate(parts) if len(part) > 1]


@torch.no_grad()
def embed_all(sequences: TitleSequences, most: int, embed: Callable[[SequenceBatch], torch.Tensor], users: np.ndarray | None = None) -> np.ndarray:
    """(U, d) float32 of all users (or of some, by number), each from the last `most` behaviours."""
    users = np.arange(len(sequences.behaviours.users)) if users is None else users
    device, parts = choose_device("auto"), []
    for start in range(0, len(users), USERS_A_TIME):
        some = users[start : start + USERS_A_TIME]
        parts.append(embed(make_batch(sequences, some, *last_windows(sequences, some, most)).to(device)).float().cpu().numpy())
    return np.concatenate(parts)
