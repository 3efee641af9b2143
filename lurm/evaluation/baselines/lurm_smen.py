"""LURM: SMEN over the bags of interests, trained and run by the product's own functions (lurm.smen), with the ablations of the paper.

In: the shared interests and monthly bags of a history (lurm_foundation). Out: (B, M x H) float32 at the cut, M = 10 and H = 128 unless told
otherwise. Users without an event are zeros; to the product they would be what the model says of silence.

  memory          the last anchor is the product's memory, which needs training, whole counts and an anchor beside it; false: all are the paper's
  activity        the memory's last numbers say how often and how recently
  from_centroids  We starts at the centroids, as the product's does; false: at random, the paper's literal setting
  scales          month+year (eq. 7), month, year
  n_anchors, dim  1 x 128 and 1 x 1280 are the paper's one-anchor rows. Where dim is not the centroids' width, We starts at the centroids
                  turned into dim dimensions (cosines stay), so that the wider module starts no worse
  n_interests     D; as the product derives it unless given
  last_months     the trained model reads the last months of a user only, as if he had done nothing before. Encoder, interests and
                  training are those of the whole history, so that rows differ in what is read of the user alone
  soft            events are shared among the nearest interests; counts are in thousandths, which the module divides out
  trained         false: the first weights, We from the centroids

Training: Adam 0.001, `Budget.steps` steps of 4 x `Budget.batch_size` users, the best of the held-out loss of 10 % of the users is kept.
"""

import dataclasses
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from lurm.bag_of_interests import Lives
from lurm.config import SmenSettings
from lurm.contrastive import nt_xent
from lurm.errors import InputError
from lurm.evaluation.baselines.behaviours import behaviours_of, rows_for, training_users
from lurm.evaluation.baselines.fitted import fitted
from lurm.evaluation.baselines.lurm_foundation import SOFT_UNIT, Interests, interests, last_months, lives
from lurm.evaluation.baselines.method import Budget, History
from lurm.periods import end_month
from lurm.sampling import hash_of_text
from lurm.smen import SMEN, ProjectionHead, SparseBags
from lurm.smen.fitting import build, fit_smen, training_batches
from lurm.smen.inference import embed
from lurm.smen.windows import Bags, Windows, bags_of_windows, draw_windows, trainable_users
from lurm.training import History as Trained
from lurm.training import LoopSettings, choose_device, fit

log = logging.getLogger("lurm")


class Lurm:
    """Frozen."""

    def __init__(
        self, name: str, budget: Budget, seed: int, scales: str = "month+year", n_anchors: int = 10, dim: int = 128,
        n_interests: int | None = None, last_months: int | None = None, soft: bool = False, trained: bool = True,
        memory: bool = True, activity: bool = True, from_centroids: bool = True,
    ):  # fmt: skip
        if memory and (soft or not trained or n_anchors < 2):
            raise ValueError(f"Expected memory=False for {name!r}: it is soft, not trained or of one anchor, and no memory is made for these.")
        self.name, self.budget, self.seed = name, budget, seed
        self.n_interests, self.last_months, self.soft, self.trained = n_interests, last_months, soft, trained
        evaluate_every = max(1, min(25, budget.steps // 4))
        self.settings = SmenSettings(
            scales=scales, n_anchors=n_anchors, dim=dim, max_steps=budget.steps, batch_size=4 * budget.batch_size, evaluate_every=evaluate_every,
            patience=max(4, budget.steps // evaluate_every // 3), checkpoint_every=1_000_000, min_effective_rank=0.0,
            memory=memory, activity=activity, start_from_centroids=from_centroids,
        )  # fmt: skip
        self.details: dict = {}

    def fit(self, history: History) -> None:
        self._behaviours = behaviours_of(history)
        space = interests(history, self.budget, self.seed, self.n_interests)
        months = lives(history, self.budget, self.seed, self.n_interests, self.soft)
        key = ("smen", dataclasses.astuple(self.settings), self.budget.max_users, self.seed, len(space.centroids), self.soft, self.trained)
        smen, grid_start, facts = fitted(history, key, lambda: self._train(space, months))
        end = end_month(history.as_of)
        read = months if self.last_months is None else last_months(months, end - self.last_months)
        vectors = embed(smen, {"grid_start": grid_start, "year_blocks": self.settings.year_blocks}, read, None, end)
        vectors[np.diff(read.row_offsets) == 0] = 0
        self._matrix = vectors
        self.details = {**space.details, **facts, "last_months": self.last_months, "soft": self.soft, "width": vectors.shape[1]}

    def embed(self, users: Sequence[str]) -> np.ndarray:
        return rows_for(self._behaviours, users, self._matrix)

    def _train(self, space: Interests, months: Lives) -> tuple[SMEN, int, dict]:
        began = time.monotonic()
        grid_start = int(months.periods.min())
        centroids = widened(space.centroids, self.settings.dim, self.seed)
        if not self.trained:
            smen, _ = build(len(centroids), self.settings, self.seed, centroids)
            smen = _reading_thousandths(smen) if self.soft else smen
            return smen.eval(), grid_start, {"steps": 0}
        chosen = months.take(training_users(self._behaviours, 1, self.budget.max_users, self.seed))
        chosen = chosen.take(trainable_users(chosen))
        apart = hash_of_text(chosen.user_ids, self.seed) < self.settings.held_out_share
        training, held_out = chosen.take(np.flatnonzero(~apart)), chosen.take(np.flatnonzero(apart))
        if training.n_users < 2:
            raise InputError(f"Expected two users with events in two months to train on, got {training.n_users}; give a longer history.")

        def stream(epoch: int) -> Iterator[Lives]:
            yield training

        train = _fit_soft if self.soft else fit_smen
        with tempfile.TemporaryDirectory() as folder:
            smen, _, trained, health = train(
                stream, held_out, n_interests=len(centroids), centroids=centroids, settings=self.settings, grid_start=grid_start,
                seed=self.seed, directory=Path(folder), key="evaluation",
                progress=lambda step, loss: log.debug("%s: step %d, loss %.3f", self.name, step, loss),
            )  # fmt: skip
        facts = {"steps": len(trained.losses), "best_step": trained.best_step, "seconds": round(time.monotonic() - began, 1)}
        facts |= {name: health[name] for name in ("effective_rank", "usage_entropy") if name in health}
        return smen.cpu().requires_grad_(False), grid_start, facts | {"training_users": training.n_users}


class SoftSMEN(SMEN):
    """SMEN whose bags count thousandths of an event."""

    def forward(self, months: SparseBags | None, years: SparseBags | None, *known) -> torch.Tensor:
        events = [None if bags is None else dataclasses.replace(bags, counts=bags.counts / SOFT_UNIT) for bags in (months, years)]
        return super().forward(*events, *known)


def widened(centroids: np.ndarray, dim: int, seed: int) -> np.ndarray:
    """Centroids (D, d) in `dim` dimensions: turned by a random orthonormal map, which leaves every cosine as it is; as they are if d = dim."""
    if dim == centroids.shape[1]:
        return centroids
    drawn = np.random.default_rng(seed).normal(size=(max(dim, centroids.shape[1]),) * 2)
    turn = np.linalg.qr(drawn)[0][: centroids.shape[1], :dim]
    rows = centroids @ turn
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _reading_thousandths(smen: SMEN) -> SMEN:
    soft = SoftSMEN(smen.n_interests, smen.n_anchors, smen.dim, smen.scales, smen.shared_gru)
    soft.load_state_dict(smen.state_dict())
    return soft


def _fit_soft(
    stream: Callable[[int], Iterator[Lives]], held_out: Lives, *, n_interests: int, centroids: np.ndarray, settings: SmenSettings,
    grid_start: int, seed: int, directory: Path, key: str, progress: Callable[[int, float], None],
) -> tuple[SMEN, ProjectionHead, Trained, dict]:  # fmt: skip
    """As lurm.smen.fitting.fit_smen, but of a SoftSMEN: log(1 + count) does not scale, so the unit is divided out inside the module."""
    device = choose_device(settings.device)
    smen, head = build(n_interests, dataclasses.replace(settings, sparse_gradients="off"), seed, centroids)
    both = torch.nn.ModuleDict({"smen": _reading_thousandths(smen), "head": head}).to(device)

    def loss_of(bags: Bags) -> torch.Tensor:
        embeddings = both["smen"](*(scale.to(device) if scale is not None else None for scale in bags))
        return nt_xent(*both["head"](embeddings).chunk(2), settings.temperature)

    windows = None
    if held_out.n_users >= 2:
        held_out = held_out.take(np.arange(min(held_out.n_users, settings.max_held_out_users)))
        left, right = draw_windows(held_out, np.random.default_rng(seed), settings)
        both_sides = Windows(*(np.concatenate(pair) for pair in zip(vars(left).values(), vars(right).values(), strict=True)))
        windows = bags_of_windows(held_out, both_sides, settings, grid_start)
    trained = fit(
        both, [torch.optim.Adam(both.parameters(), lr=settings.learning_rate)],
        lambda start: training_batches(stream, settings, grid_start, seed, start), loss_of, directory=directory, key=key,
        settings=LoopSettings(settings.max_steps, settings.evaluate_every, settings.patience, settings.checkpoint_every),
        evaluate=None if windows is None else lambda: float(loss_of(windows)), progress=progress,
    )  # fmt: skip
    return both["smen"], both["head"], trained, {}
