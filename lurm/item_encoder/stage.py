"""train-item-encoder: tokenizer, word vectors and encoder, learned from positive pairs.

In: `item_pairs` and `seen_items` of one as_of. Out: the artifact encoders/<encoder_id>. Titles are streamed, never held as a whole; a
training that was killed goes on from its last checkpoint.
"""

import dataclasses
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from lurm.config import to_dict
from lurm.errors import InputError
from lurm.lineage import Context
from lurm.staging import read_files

log = logging.getLogger("lurm")
COLUMNS = ["left_item_id", "left_title", "right_item_id", "right_title"]
MAX_HELD_OUT = 20_000


def run(context: Context) -> dict:
    """Train the item encoder of this as_of, or say that it is there."""
    store, settings, seed = context.store, context.config.encoder, context.config.seed
    encoder_id = context.encoder_id()
    if store.has_artifact("encoders", encoder_id):
        return {"skipped": "trained already", "encoder_id": encoder_id}
    pairs, seen = context.pairs("item_pairs"), context.pairs("seen_items")
    if not pairs.rows():
        raise InputError(f"Expected item pairs before {context.as_of}, found none; raise pairs.beta_days or check the events.")

    from lurm.item_encoder.fitting import fit_encoder
    from lurm.item_encoder.inference import save_encoder
    from lurm.item_encoder.tokenizer import length_at_percentile, train_tokenizer, vocabulary_size
    from lurm.training import process_group

    def titles() -> Iterator[str]:
        for batch in read_files(store, _in_order(seen), ["title"]):
            yield from batch.column("title").to_pylist()

    tokenizer = train_tokenizer(titles(), settings)
    max_length = length_at_percentile(tokenizer, titles(), settings.length_percentile)
    log.info("train-item-encoder: %d words, titles cut at %d", vocabulary_size(tokenizer), max_length)

    # Keys are hashes: ten of their bits choose the pairs that are kept out of training, the same ones in every warehouse.
    slots = pc.bit_wise_and(pc.shift_right(ds.field("order_key"), 20), 1_023)
    n_slots = max(1, min(round(1_024 * settings.held_out_share), round(1_024 * MAX_HELD_OUT / pairs.rows())))
    held_out = pa.Table.from_batches(list(read_files(store, _in_order(pairs), COLUMNS, filters=slots < n_slots)), schema=_schema())

    def stream(epoch: int) -> Iterator[pa.RecordBatch]:
        return read_files(store, _in_order(pairs), COLUMNS, filters=slots >= n_slots)

    with process_group() as writes:
        workspace = store.workspace(encoder_id)
        encoder, history, health = fit_encoder(
            stream, held_out, tokenizer, settings, seed=seed, directory=workspace / "checkpoint", key=encoder_id, max_length=max_length
        )
        info = {
            "encoder_id": encoder_id, "as_of": context.as_of, "seed": seed, "settings": to_dict(settings), "max_length": max_length,
            "n_words": vocabulary_size(tokenizer), "n_pairs": pairs.rows(), "history": dataclasses.asdict(history), "health": health,
        }
        if writes:
            finished = workspace / "finished"
            shutil.rmtree(finished, ignore_errors=True)
            save_encoder(finished, encoder, tokenizer, info)
            store.put_artifact("encoders", encoder_id, Path(finished))
            shutil.rmtree(workspace)
    return {"encoder_id": encoder_id, "steps": len(history.losses), "best_loss": min(history.evaluations, default=None), "words": info["n_words"]}


def _in_order(snapshot) -> list[str]:
    """Files by content, so that the order of reading does not depend on the warehouse."""
    return [f"{snapshot.root}/{file.path}" for file in sorted(snapshot.files, key=lambda file: file.digest)]


def _schema() -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in COLUMNS])
