"""Training of the item encoder (paper equation 3): pairs of titles in, encoder out.

In: positive pairs, two items of one user less than beta days apart, streamed epoch by epoch as Arrow record batches that are already in
random order on disk; held-out pairs of the same columns. Out: the encoder with its best weights, the loop's history, and health numbers.
The loss is NT-Xent over the 2n items of a batch of n pairs; items of the batch that are the same item as the positive are no negatives.

A batch is a function of (seed, step): rows are mixed in a buffer of BUFFER_BATCHES batches whose order is drawn from (seed, epoch, number
of the buffer). So a resumed training reads past the buffers it has seen, tokenising nothing, and goes on with the very next batch.
Memory is bounded by two buffers: the next one is tokenised while this one is trained on.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from tokenizers import Tokenizer

from lurm.config import EncoderSettings
from lurm.contrastive import nt_xent
from lurm.errors import InputError
from lurm.item_encoder.model import ItemEncoder
from lurm.item_encoder.tokenizer import encode_titles, length_at_percentile, vocabulary_size
from lurm.training import History, LoopSettings, autocast, choose_device, choose_precision, fit

BUFFER_BATCHES = 64
MAX_HELD_OUT_BATCHES = 8
SPARSE_ABOVE = 20_000  # words; above, Adam on every word vector costs more than the rest of the step

Pairs = Callable[[int], Iterable[pa.RecordBatch]]  # epoch -> left_item_id, left_title, right_item_id, right_title


@dataclass(frozen=True)
class PairBatch:
    """n pairs: rows 0..n-1 of the CSR titles are the left items, rows n..2n-1 their partners."""

    token_ids: torch.Tensor  # (nnz,) int64
    offsets: torch.Tensor  # (2n+1,) int64
    item_ids: torch.Tensor  # (2n,) int64, equal for equal items

    def to(self, device: torch.device) -> "PairBatch":
        return PairBatch(*(tensor.to(device, non_blocking=True) for tensor in (self.token_ids, self.offsets, self.item_ids)))


def fit_encoder(
    pairs: Pairs,
    held_out: pa.Table,
    tokenizer: Tokenizer,
    settings: EncoderSettings,
    *,
    seed: int,
    directory: Path,
    key: str,
    max_length: int | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[ItemEncoder, History, dict]:
    """Train an encoder on pairs(0), pairs(1), ... for at most settings.epochs and settings.max_steps; continue a checkpoint of this key.

    max_length cuts titles, in words; None takes the length that covers settings.length_percentile of the held-out titles. The health
    dictionary says which, how well held-out partners are found, and how many directions the embeddings use.
    Raises InputError when there are fewer than two pairs.
    """
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    if max_length is None:
        titles = held_out["left_title"].to_pylist() + held_out["right_title"].to_pylist()
        max_length = length_at_percentile(tokenizer, titles, settings.length_percentile)
    encoder = _new_encoder(vocabulary_size(tokenizer), settings.dim, seed).to(device)
    words, rest = [encoder.words.weight], list(encoder.projection.parameters())
    if encoder.words.sparse:
        optimizers = [torch.optim.Adam(rest, settings.learning_rate), torch.optim.SparseAdam(words, settings.learning_rate)]
    else:
        optimizers = [torch.optim.Adam(words + rest, settings.learning_rate)]
    tests = _held_out_batches(held_out, tokenizer, settings.batch_size, max_length)

    def loss_of(batch: PairBatch, gather: bool = True) -> torch.Tensor:
        batch = batch.to(device)
        with autocast(device, precision):
            left, right = encoder(batch.token_ids, batch.offsets).chunk(2)
        return nt_xent(left, right, settings.temperature, *batch.item_ids.chunk(2), gather=gather)

    def evaluate() -> float:
        # Every process evaluates the same pairs, so their rows are not gathered.
        weighted = (float(loss_of(batch, gather=False)) * len(batch.item_ids) for batch in tests)
        return sum(weighted) / sum(len(batch.item_ids) for batch in tests)

    history = fit(
        encoder,
        optimizers,
        lambda start_step: pair_batches(pairs, tokenizer, settings, seed=seed, max_length=max_length, start_step=start_step),
        loss_of,
        directory=directory,
        key=key,
        settings=LoopSettings(settings.max_steps, settings.evaluate_every, settings.patience, settings.checkpoint_every),
        evaluate=evaluate if tests else None,
        progress=progress,
    )
    health = {
        "vocabulary_size": encoder.vocabulary_size,
        "max_length": max_length,
        "n_steps": len(history.steps),
        "best_step": history.best_step,
        "seconds": round(history.seconds, 1),
        "train_loss": history.losses[-1] if history.losses else None,
        "held_out_loss_untrained": history.evaluations[0] if history.evaluations else None,
        "held_out_loss": dict(zip(history.evaluation_steps, history.evaluations, strict=True)).get(history.best_step),
        **_embedding_health(encoder, [batch.to(device) for batch in tests]),
    }
    return encoder, history, health


def pair_batches(
    pairs: Pairs, tokenizer: Tokenizer, settings: EncoderSettings, *, seed: int, max_length: int, start_step: int = 0
) -> Iterator[PairBatch]:
    """The batches of steps start_step, start_step + 1, ...; under torch.distributed this process's share of each: pairs rank, rank + world, ...

    So N processes train on the batches that one would train on, whatever N. A short batch at the end of an epoch is used when it holds
    half of batch_size or is the epoch's only one.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)
    size = settings.batch_size
    skip = start_step

    def plans() -> Iterator[tuple[pa.Table, list[np.ndarray]]]:
        """Buffers with the rows of each of this process's batches that are still to come."""
        nonlocal skip
        for epoch in range(settings.epochs):
            n_batches = 0
            for number, buffer in enumerate(_buffers(pairs(epoch), BUFFER_BATCHES * size)):
                order = np.random.default_rng([seed, epoch, number]).permutation(buffer.num_rows)
                n_full = buffer.num_rows // size
                rows = [order[index * size : (index + 1) * size] for index in range(n_full)]
                rest = order[n_full * size :]
                if len(rest) >= 2 * world and (2 * len(rest) >= size or n_batches + n_full == 0):
                    rows.append(rest)
                rows = [row[rank : len(row) // world * world : world] for row in rows]
                n_batches += len(rows)
                if len(rows) > skip:
                    yield buffer, rows[skip:]
                skip = max(0, skip - len(rows))
            if n_batches == 0:
                raise InputError(
                    f"Expected at least two pairs of items per process ({world}), got too few in epoch {epoch}; "
                    "give a longer history or raise pairs.beta_days."
                )

    yield from _ahead(list(_tokenised(buffer, rows, tokenizer, max_length)) for buffer, rows in plans())


def _ahead(lists: Iterator[list]) -> Iterator:
    """The elements of the lists, the next list being made in a thread meanwhile (the tokenizer leaves the interpreter to others)."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="pairs") as thread:
        upcoming = thread.submit(next, lists, None)
        while (current := upcoming.result()) is not None:
            upcoming = thread.submit(next, lists, None)
            yield from current


def _buffers(batches: Iterable[pa.RecordBatch], n_rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly n_rows, the last one shorter."""
    held: list[pa.RecordBatch] = []
    n_held = 0
    for batch in batches:
        while n_held + batch.num_rows >= n_rows:
            cut = n_rows - n_held
            yield pa.Table.from_batches([*held, batch.slice(0, cut)])
            batch, held, n_held = batch.slice(cut), [], 0
        if batch.num_rows:
            held.append(batch)
            n_held += batch.num_rows
    if held:
        yield pa.Table.from_batches(held)


def _tokenised(buffer: pa.Table, batches: list[np.ndarray], tokenizer: Tokenizer, max_length: int) -> Iterator[PairBatch]:
    """PairBatches of the given rows. A title or item id that occurs many times in them is tokenised or hashed once."""
    wanted = np.concatenate(batches)
    buffer = buffer.take(pa.array(wanted))
    titles, title_of = _distinct(buffer["left_title"], buffer["right_title"])
    items, item_of = _distinct(buffer["left_item_id"], buffer["right_item_id"])
    token_ids, offsets = encode_titles(tokenizer, titles, max_length)
    item_hash = np.fromiter(map(_stable_hash, items), dtype=np.int64, count=len(items))
    start = 0
    for rows in batches:
        here = np.arange(start, start + len(rows))
        both = np.concatenate([here, len(wanted) + here])  # left rows, then their partners
        tokens, lengths = _take_titles(token_ids, offsets, title_of[both])
        yield PairBatch(torch.from_numpy(tokens), torch.from_numpy(lengths), torch.from_numpy(item_hash[item_of[both]]))
        start += len(rows)


def _distinct(left: pa.ChunkedArray, right: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """The distinct texts of two columns, and for each cell, the left column's first, its place among them."""
    column = pa.chunked_array([*left.chunks, *right.chunks], type=left.type).cast(pa.large_string()).fill_null("")
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy()


def _stable_hash(item_id: str) -> int:
    # Python's own hash differs between processes, which compare the ids of gathered negatives.
    return int.from_bytes(hashlib.blake2b(item_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little", signed=True)


def _take_titles(token_ids: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The CSR form, int64, of some rows of a CSR form."""
    lengths = offsets[rows + 1] - offsets[rows]
    taken = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(lengths, out=taken[1:])
    places = np.arange(taken[-1]) + np.repeat(offsets[rows] - taken[:-1], lengths)
    return token_ids[places].astype(np.int64), taken


def _held_out_batches(held_out: pa.Table, tokenizer: Tokenizer, batch_size: int, max_length: int) -> list[PairBatch]:
    """The first held-out pairs in batches of the training's size, for the loss depends on it; a rest of one pair says nothing."""
    n_rows = min(held_out.num_rows, MAX_HELD_OUT_BATCHES * batch_size)
    rows = [np.arange(start, min(start + batch_size, n_rows)) for start in range(0, n_rows, batch_size)]
    rows = [row for row in rows if len(row) >= 2]
    return list(_tokenised(held_out, rows, tokenizer, max_length)) if rows else []


def _new_encoder(n_words: int, dim: int, seed: int) -> ItemEncoder:
    with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it was
        torch.manual_seed(seed)
        return ItemEncoder(n_words, dim, sparse_gradients=n_words > SPARSE_ABOVE)


@torch.no_grad()
def _embedding_health(encoder: ItemEncoder, batches: list[PairBatch]) -> dict:
    """How held-out items lie: partners found, directions used, titles without a known word. Empty without held-out pairs."""
    if not batches:
        return {}
    found, n_pairs, vectors = 0, 0, {}
    for batch in batches:
        embedded = encoder(batch.token_ids, batch.offsets)
        left, right = embedded.chunk(2)
        found += int(((left @ right.T).argmax(dim=1) == torch.arange(len(left), device=left.device)).sum())
        n_pairs += len(left)
        vectors.update(zip(batch.item_ids.tolist(), embedded.cpu(), strict=True))
    items = torch.stack(list(vectors.values())).double()
    spread = torch.linalg.eigvalsh(torch.cov(items.T)).clamp_min(0.0)
    shares = spread / spread.sum().clamp_min(1e-12)
    return {
        "held_out_accuracy": found / n_pairs,  # partner nearer than every other right item of its batch
        "effective_rank": float(torch.exp(torch.special.entr(shares).sum())),  # directions in use, 1 .. dim
        "mean_cosine": float(items.mean(dim=0).square().sum()),  # of two random items; near 1 all items are one point
        "zero_share": float((items.square().sum(dim=1) == 0).double().mean()),
    }
