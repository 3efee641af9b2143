"""Title sequences: what every neural method of the evaluation reads, made once a history and cut into batches here.

In: a `History`. Out: `TitleSequences`, the catalogue as tables of word and category numbers beside the users' events, and `SequenceBatch`,
tensors of the windows asked for. A title is encoded once per batch however many users hold it: `places` point at the distinct items.

Sizes: titles are cut at 30 words (PTUM, UserBERT), the vocabulary holds the 20,000 most frequent words that occur twice or more in titles that
somebody acted on before the cut. Number 0 is padding everywhere: no word, no category, no item.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch

from lurm.config import EncoderSettings
from lurm.errors import InputError
from lurm.evaluation.baselines.behaviours import DAY, Behaviours, behaviours_of
from lurm.evaluation.baselines.fitted import fitted
from lurm.evaluation.baselines.method import History
from lurm.item_encoder.tokenizer import encode_titles, train_tokenizer, vocabulary_size

MAX_WORDS, MAX_VOCABULARY, MAX_CATEGORIES = 30, 20_000, 2_000
LEVELS = 2  # of an item's categories: the broadest two


@dataclass(frozen=True)
class TitleSequences:
    """I items and E events of U users; item number 0 is none, so item i of `behaviours` is row i + 1."""

    behaviours: Behaviours
    words: np.ndarray  # (I+1, W) int32 word numbers, 0 after the title's end
    n_words: int  # numbers in use, 0 among them
    categories: np.ndarray  # (I+1, LEVELS) int32
    n_categories: int


@dataclass(frozen=True)
class SequenceBatch:
    """B windows of at most L behaviours over N - 1 distinct items; row 0 of the items is padding."""

    words: torch.Tensor  # (N, W) int64
    categories: torch.Tensor  # (N, LEVELS) int64
    places: torch.Tensor  # (B, L) int64 rows of the items, oldest first, 0 after the end
    ages: torch.Tensor  # (B, L) float32 days before the newest behaviour's end of the window
    users: torch.Tensor  # (B,) int64 numbers of users, from 0
    extra: torch.Tensor  # any shape, int64: rows of the items that were asked for beside

    def to(self, device: torch.device | str) -> "SequenceBatch":
        return SequenceBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


class Bundle(dict):
    """Batches and tensors by name that travel together."""

    def to(self, device: torch.device | str) -> "Bundle":
        return Bundle({name: part.to(device) for name, part in self.items()})


def title_sequences(history: History) -> TitleSequences:
    """The tables of a history; made once. Raises InputError where no title has a word."""
    return fitted(history, "title sequences", lambda: _tables(behaviours_of(history)))


def make_batch(
    sequences: TitleSequences, users: np.ndarray, starts: np.ndarray, stops: np.ndarray, extra: np.ndarray | None = None
) -> SequenceBatch:
    """Windows: events starts[w]:stops[w] of users[w] (numbers of events in the whole history). extra: item numbers, rows of the tables."""
    behaviours = sequences.behaviours
    lengths = stops - starts
    width = max(1, int(lengths.max(initial=0)))
    events = starts[:, None] + np.arange(width)
    real = np.arange(width) < lengths[:, None]
    events = np.where(real, events, 0)
    items = np.where(real, behaviours.items[events] + 1, 0)
    wanted = np.zeros(0, np.int64) if extra is None else extra
    distinct, rows = np.unique(np.concatenate([[0], items.ravel(), wanted.ravel()]), return_inverse=True)
    words = sequences.words[distinct]
    used = max(1, int((words > 0).any(axis=0).sum()))
    last = behaviours.micros[np.maximum(stops - 1, 0)]
    ages = np.where(real, (last[:, None] - behaviours.micros[events]) / DAY, 0)
    return SequenceBatch(
        torch.from_numpy(words[:, :used].astype(np.int64)),
        torch.from_numpy(sequences.categories[distinct].astype(np.int64)),
        torch.from_numpy(rows[1 : 1 + items.size].reshape(items.shape)),
        torch.from_numpy(ages.astype(np.float32)),
        torch.from_numpy(np.asarray(users, dtype=np.int64)),
        torch.from_numpy(rows[1 + items.size :].reshape(wanted.shape)),
    )


def last_windows(sequences: TitleSequences, users: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """(starts, stops) of the last `most` behaviours of some users."""
    stops = sequences.behaviours.offsets[users + 1]
    return np.maximum(sequences.behaviours.offsets[users], stops - most), stops


def others_items(sequences: TitleSequences, users: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Item numbers (len(users), *shape) of random behaviours of other users; of anybody where there is only one user."""
    offsets = sequences.behaviours.offsets
    spread = (len(users), *(1,) * len(shape))
    begin, own = offsets[users].reshape(spread), np.diff(offsets)[users].reshape(spread)
    n_events = len(sequences.behaviours.items)
    left = n_events - own
    drawn = (rng.random((len(users), *shape)) * np.where(left > 0, left, n_events)).astype(np.int64)
    return sequences.behaviours.items[np.where((left > 0) & (drawn >= begin), drawn + own, drawn)] + 1


def _tables(behaviours: Behaviours) -> TitleSequences:
    settings = EncoderSettings(vocabulary_size=MAX_VOCABULARY)
    if not any(behaviours.titles):
        raise InputError("Expected items with titles, got none with a word; the methods over title sequences cannot be compared on these data.")
    tokenizer = train_tokenizer(behaviours.titles, settings)
    flat, offsets = encode_titles(tokenizer, behaviours.titles, MAX_WORDS)
    lengths = np.diff(offsets)
    words = np.zeros((len(lengths) + 1, max(1, int(lengths.max()))), np.int32)
    rows = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    words[rows, np.arange(len(flat)) - np.repeat(offsets[:-1], lengths)] = flat + 1
    counts: dict[tuple[int, str], int] = {}
    for names in behaviours.categories:
        for level, name in enumerate(names[:LEVELS]):
            counts[level, name] = counts.get((level, name), 0) + 1
    kept = sorted(counts, key=lambda pair: (-counts[pair], pair))[:MAX_CATEGORIES]
    number = {pair: place + 1 for place, pair in enumerate(kept)}
    categories = np.zeros((len(lengths) + 1, LEVELS), np.int32)
    for item, names in enumerate(behaviours.categories):
        for level, name in enumerate(names[:LEVELS]):
            categories[item + 1, level] = number.get((level, name), 0)
    return TitleSequences(behaviours, words, vocabulary_size(tokenizer) + 1, categories, len(kept) + 1)
