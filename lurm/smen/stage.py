"""train-smen: SMEN learned from pairs of windows of one life.

In: the monthly bags before as_of and the centroids. Out: the artifact models/<model_id>. Lives are streamed bucket by bucket in a seeded
order, whatever the number of users; a training that was killed goes on from the exact step of its last checkpoint.
"""

import dataclasses
import logging
import shutil
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lurm.bag_of_interests import Lives, concatenate, read_lives
from lurm.config import SmenSettings, to_dict
from lurm.errors import InputError
from lurm.interest_space import load_centroids
from lurm.lineage import Context
from lurm.manifest import Snapshot
from lurm.periods import month_number
from lurm.sampling import hash_of_text
from lurm.schema import MONTH
from lurm.staging import read_files

log = logging.getLogger("lurm")


def run(context: Context) -> dict:
    """Train SMEN at this as_of, or say that it is there."""
    store, settings, seed = context.store, context.config.smen, context.config.seed
    model_id, space_id = context.trained_model_id(), context.space_id()
    if store.has_artifact("models", model_id):
        return {"skipped": "trained already", "model_id": model_id}
    space = store.artifact_info("spaces", space_id)
    context.check_chain(space, encoder_id=context.encoder_id())
    bags = context.bags().where(scale=MONTH)
    grid_start = month_number(min(bags.values("period")))
    split = Split(seed, settings, _count_users(context, bags))
    held_out = _held_out_users(context, bags, split)
    if held_out.n_users < 2:
        raise InputError(f"Expected at least 2 users to hold out of training, found {held_out.n_users}; give more users, or raise "
                         "smen.held_out_share.")

    def stream(epoch: int) -> Iterator[Lives]:
        buckets = np.random.default_rng((seed, epoch)).permutation(sorted(bags.values("bucket"), key=int))
        for bucket in buckets:
            for lives, _ in read_lives(store, bags.where(bucket=str(bucket))):
                chosen = np.flatnonzero(split.is_trained_on(lives[MONTH].user_ids))
                if len(chosen):
                    yield lives[MONTH].take(chosen)

    from lurm.smen.fitting import fit_smen
    from lurm.smen.inference import save_model
    from lurm.training import process_group

    with process_group() as writes:
        workspace = store.workspace(model_id)
        smen, _, history, health = fit_smen(
            stream, held_out, n_interests=space["n_interests"], centroids=load_centroids(store.get_artifact("spaces", space_id)),
            settings=settings, grid_start=grid_start, seed=seed, directory=workspace / "checkpoint", key=model_id,
        )
        info = {
            "model_id": model_id, "space_id": space_id, "encoder_id": context.encoder_id(), "as_of": context.as_of, "seed": seed,
            "settings": to_dict(settings), "n_interests": space["n_interests"], "n_anchors": settings.n_anchors, "dim": settings.dim,
            "scales": settings.scales.split("+"), "shared_gru": settings.shared_gru, "year_blocks": settings.year_blocks, "grid_start": grid_start,
            "history": dataclasses.asdict(history), "health": health,
        }
        if writes:
            finished = workspace / "finished"
            shutil.rmtree(finished, ignore_errors=True)
            save_model(finished, smen, info)
            store.put_artifact("models", model_id, finished)
            shutil.rmtree(workspace)
    return {"model_id": model_id, "steps": len(history.losses), "best_step": history.best_step,
            "held_out_loss": min(history.evaluations, default=None), "health": health}


@dataclasses.dataclass(frozen=True)
class Split:
    """Who is trained on and who is held out: by a seeded hash of the user, so nobody changes sides when others come or go."""

    seed: int
    settings: SmenSettings
    n_users: int

    def is_held_out(self, user_ids: np.ndarray) -> np.ndarray:
        return hash_of_text(user_ids, self.seed) < self.settings.held_out_share

    def is_trained_on(self, user_ids: np.ndarray) -> np.ndarray:
        share = min(1.0, self.settings.max_users / max(1, self.n_users))
        place = hash_of_text(user_ids, self.seed)
        return (place >= self.settings.held_out_share) & (place < self.settings.held_out_share + share * (1 - self.settings.held_out_share))


def _count_users(context: Context, bags: Snapshot) -> int:
    """Distinct users, where it matters: with fewer rows than `max_users` everybody is trained on anyway."""
    if bags.rows() <= context.config.smen.max_users:
        return bags.rows()
    n_users = 0
    for bucket in bags.values("bucket"):  # a user is in one bucket only
        columns = (batch.column("user_id") for batch in read_files(context.store, bags.where(bucket=bucket).uris(), ["user_id"]))
        names = pa.array([], pa.string())
        for column in columns:
            names = pc.unique(pa.concat_arrays([names, column]))
        n_users += len(names)
    return n_users


def _held_out_users(context: Context, bags: Snapshot, split: Split) -> Lives:
    """Lives of at most `max_held_out_users` held-out users with two active months or more; buckets are random, so the first ones do."""
    parts, n_found = [], 0
    for lives, _ in read_lives(context.store, bags):
        life = lives[MONTH]
        chosen = np.flatnonzero(split.is_held_out(life.user_ids) & (np.diff(life.row_offsets) >= 2))
        if len(chosen):
            parts.append(life.take(chosen[: split.settings.max_held_out_users - n_found]))
            n_found += parts[-1].n_users
        if n_found >= split.settings.max_held_out_users:
            break
    if not parts:
        raise InputError("Expected users with at least two active months to hold out of training, found none; give more users or a longer log.")
    return concatenate(parts)
