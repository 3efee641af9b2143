"""A tiny release with a real model behind it, made in a second and without Spark: for tests that look at what is published.

60 users, 12 interests, 3 anchors x 8, nine months. Interest 0 is everybody's; interest 11 is that of two users and must never be named
for k > 2; the titles of interest 1 try to be markup.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from published import day, rows_of, stage_day
from small_pipeline import instant, plant_row

from lurm import publication
from lurm.bag_of_interests import Lives, add_counts
from lurm.config import EncoderSettings
from lurm.interest_space import save_centroids
from lurm.item_encoder.inference import save_encoder
from lurm.item_encoder.model import ItemEncoder
from lurm.item_encoder.tokenizer import train_tokenizer, vocabulary_size
from lurm.manifest import Manifest
from lurm.periods import end_month, month_name, month_number, until
from lurm.schema import BAGS, ITEM_INTERESTS, SEEN_ITEMS, Table
from lurm.smen.inference import embed, save_model
from lurm.smen.model import SMEN
from lurm.staging import stage_table
from lurm.store import Store

AS_OF, N_INTERESTS, N_ANCHORS, DIM, N_USERS = "2020-09-16", 12, 3, 8, 60
ENCODER, SPACE, MODEL = "encoder-small", "space-small", "model-small"
MONTHS = [month_name(month_number("2020-01") + step) for step in range(9)]
HOSTILE = ["<script>alert(1)</script> evil lamp", "</script><img src=x onerror=alert(2)> evil lamp", "\"quoted\" & 'evil' lamp"]
SECRET = "zugspitze"
RARE = 11


@dataclass(frozen=True)
class SmallRelease:
    """What was planted."""

    store: Store
    smen: SMEN
    info: dict
    lives: Lives  # of all users, months
    titles: list[str]
    interests: np.ndarray  # (n,) of each title


def plant_release(warehouse: Path) -> SmallRelease:
    """Write chain, bags and catalogue, and publish the vectors that the model gives these bags, through the real stage."""
    store, generator = Store(str(warehouse)), np.random.default_rng(5)
    lives = _lives(generator)
    titles, interests = _catalogue()
    _plant_bags(store, lives)
    _plant_items(store, titles, interests)
    smen, info = _plant_chain(store, titles)
    vectors = embed(smen, info, lives, None, end_month(AS_OF))
    rows = rows_of(lives.user_ids.tolist(), vectors=list(vectors))
    stage_day(store, AS_OF, [rows], "c" * 16, MODEL, n_anchors=N_ANCHORS, dim=DIM)
    publication.run(day(store, AS_OF, "c" * 16))
    return SmallRelease(store, smen, info, lives, titles, interests)


def _lives(generator: np.random.Generator) -> Lives:
    users, periods, interests, counts = [], [], [], []
    for user in range(N_USERS):
        own = [0, *generator.choice(np.arange(1, RARE), 3, replace=False), *([RARE] if user < 2 else [])]
        for interest in own:
            for month in generator.choice(len(MONTHS), 3, replace=False):
                users.append(f"u{user:03d}")
                periods.append(month_number(MONTHS[month]))
                interests.append(interest)
                counts.append(int(generator.integers(1, 6)))
    return add_counts(np.array(users, object), np.array(periods), np.array(interests), np.array(counts))


def _catalogue() -> tuple[list[str], np.ndarray]:
    titles, interests = [], []
    for interest in range(N_INTERESTS):
        mine = HOSTILE if interest == 1 else [f"{SECRET} cabin {number}" for number in range(3)] if interest == RARE else [
            f"topic{chr(97 + interest)} shiny thing {number}" for number in range(4)]
        titles += mine
        interests += [interest] * len(mine)
    return titles, np.array(interests)


def _plant_chain(store: Store, titles: list[str]) -> tuple[SMEN, dict]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        smen = SMEN(N_INTERESTS, N_ANCHORS, DIM)
        tokenizer = train_tokenizer(titles, EncoderSettings(min_frequency=1))
        encoder = ItemEncoder(vocabulary_size(tokenizer), DIM)
    smen.eval().requires_grad_(False)
    history = {"losses": [3.0, 2.0, 1.5], "evaluation_steps": [0, 3], "evaluations": [3.2, 1.6], "best_step": 3}
    chain = {"encoder_id": ENCODER, "space_id": SPACE, "model_id": MODEL, "as_of": AS_OF}
    info = {**chain, "grid_start": month_number(MONTHS[0]), "year_blocks": "calendar", "history": history,
            "health": {"usage_entropy": 1.0, "interest_entropy": 0.8, "effective_rank": 4.0}}
    centroids = np.random.default_rng(8).standard_normal((N_INTERESTS, DIM)).astype(np.float32)
    _put(store, "models", MODEL, lambda folder: save_model(folder, smen, info))
    _put(store, "spaces", SPACE, lambda folder: save_centroids(folder, centroids, {
        **chain, "n_interests": N_INTERESTS, "objective": [0.8, 0.9, 0.91], "held_out_cosine": 0.9}))
    _put(store, "encoders", ENCODER, lambda folder: save_encoder(folder, encoder, tokenizer, {
        **chain, "max_length": 12, "history": history, "n_words": vocabulary_size(tokenizer), "n_pairs": 100}))
    return smen, info


def _put(store: Store, kind: str, artifact_id: str, write: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        store.put_artifact(kind, artifact_id, Path(folder))


def _plant_bags(store: Store, lives: Lives) -> None:
    owners, files = np.repeat(np.arange(lives.n_users), np.diff(lives.row_offsets)), []
    for month in MONTHS:
        plant_row(store, "events", f"events{month.replace('-', '')}", {"month": month})
        for bucket in (0, 1):
            rows = [row for row in np.flatnonzero(lives.periods == month_number(month)) if owners[row] % 2 == bucket]
            cells = [slice(lives.offsets[row], lives.offsets[row + 1]) for row in rows]
            table = pa.table({
                "user_id": [str(lives.user_ids[owners[row]]) for row in rows], "interest_ids": [lives.interest_ids[cell] for cell in cells],
                "counts": [lives.counts[cell] for cell in cells], "n_events": [int(lives.counts[cell].sum()) for cell in cells],
                "first_event_at": [instant(f"{month}-02")] * len(rows), "last_event_at": [instant(f"{month}-03")] * len(rows),
            }, schema=BAGS.data_schema)
            partition = {"space_id": SPACE, "scale": "month", "period": month, "until": until(month, AS_OF), "bucket": str(bucket)}
            files.append(stage_table(store, BAGS, "bags", partition, table))
    store.commit(Manifest(BAGS.name, "bags", tuple(files), ({"space_id": SPACE},)))


def _plant_items(store: Store, titles: list[str], interests: np.ndarray) -> None:
    ids = [f"i{place:03d}" for place in range(len(titles))]
    hashes = np.linspace(-(2**62), 2**62, len(ids)).astype(np.int64)
    seen = {"item_id": ids, "title": titles, "item_hash": hashes, "n_events": [5] * len(ids), "n_users": list(range(len(ids), 0, -1))}
    _commit(store, SEEN_ITEMS, {"as_of": AS_OF}, pa.table(seen))
    _commit(store, ITEM_INTERESTS, {"space_id": SPACE, "batch": "one"}, pa.table({"item_id": ids, "interest_id": pa.array(interests, pa.int32())}))


def _commit(store: Store, table: Table, partition: dict, rows: pa.Table) -> None:
    store.commit(Manifest(table.name, f"small{table.name}", (stage_table(store, table, f"small{table.name}", partition, rows),), (partition,)))
