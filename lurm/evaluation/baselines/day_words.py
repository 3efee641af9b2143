"""Behavioural words (UserBERT, masked multi-label; models.md section 2): what a user did in one day, or in one burst, as one token.

In: the events of some users before an instant. Out: `WordBatch`, two segments of tokens per user and what their actions carry.

    long    everything, one word a day from 4 a.m. to 4 a.m.; position: days since the history's first day (in 512 steps)
    short   the last 28 days, one word a burst, cut where nothing happens for more than 30 minutes; position: hours of these 28 days

The last `most` words of each segment are kept (the paper: 128). An action carries its item's categories, its title's words and its hour.
Registered facts about users are labels here, never features, so the profile is what the log itself tells: how many events and how long a life,
in eight classes each. The paper's short segment is seven days of clicks; purchases and commits are rarer.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch

from lurm.evaluation.baselines.behaviours import DAY
from lurm.evaluation.baselines.sequences import TitleSequences

HOUR, GAP, SHORT_DAYS = DAY // 24, DAY // 48, 28
N_LONG_POSITIONS, N_SHORT_POSITIONS, N_HOURS = 512, SHORT_DAYS * 24, 24
N_TARGET_WORDS = 2_000  # the most frequent words of titles: those that masked tokens are asked for
N_PROFILE_CLASSES = 8


@dataclass(frozen=True)
class WordBatch:
    """B users, T = 2 x most tokens each: the long segment, then the short one; A actions over N - 1 distinct items (row 0 is none)."""

    words: torch.Tensor  # (N, W) int64
    categories: torch.Tensor  # (N, LEVELS) int64
    items: torch.Tensor  # (A,) int64 row of the items
    hours: torch.Tensor  # (A,) int64
    tokens: torch.Tensor  # (A,) int64: user x T + token that the action is part of
    positions: torch.Tensor  # (B, T) int64
    mask: torch.Tensor  # (B, T) bool
    profile: torch.Tensor  # (B, 2) int64 classes of volume and of tenure

    def to(self, device: torch.device | str) -> "WordBatch":
        return WordBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


def word_batch(sequences: TitleSequences, users: np.ndarray, most: int, until: int | None = None) -> WordBatch:
    """Tokens of some users, by number, from events before `until` (microseconds; the history's cut by default)."""
    behaviours = sequences.behaviours
    until = behaviours.cut if until is None else until
    begin, end = behaviours.offsets[users], behaviours.offsets[users + 1]
    rows = np.repeat(np.arange(len(users)), end - begin)
    events = np.arange(len(rows)) + np.repeat(begin - np.concatenate([[0], np.cumsum(end - begin)[:-1]]), end - begin)
    early = behaviours.micros[events] < until
    rows, events = rows[early], events[early]
    micros = behaviours.micros[events]
    first_day = int(behaviours.micros.min()) // DAY
    days = (micros - 4 * HOUR) // DAY - first_day + 1
    step = -(-(behaviours.cut // DAY - first_day + 3) // N_LONG_POSITIONS)
    long = _segment(rows, days, np.clip(days // step, 0, N_LONG_POSITIONS - 1), len(users), most)
    recent = micros >= until - SHORT_DAYS * DAY
    bursts = np.concatenate([[0], np.cumsum((np.diff(micros) > GAP) | (np.diff(rows) != 0))]) if len(rows) else np.zeros(0, np.int64)
    hours_in = np.clip((micros - (until - SHORT_DAYS * DAY)) // HOUR, 0, N_SHORT_POSITIONS - 1)
    short = _segment(rows[recent], bursts[recent], hours_in[recent], len(users), most)
    kept, tokens = [], []
    for (owners, places, _, _), chosen, offset in ((long, events, 0), (short, events[recent], most)):
        real = places >= 0
        kept.append(chosen[real])
        tokens.append(owners[real] * 2 * most + offset + places[real])
    kept, tokens = np.concatenate(kept), np.concatenate(tokens)
    distinct, of_action = np.unique(np.concatenate([[0], behaviours.items[kept] + 1]), return_inverse=True)
    table = sequences.words[distinct]
    counts = np.bincount(rows, minlength=len(users))
    oldest = np.full(len(users), until, np.int64)
    np.minimum.at(oldest, rows, micros)
    profile = np.stack([np.log2(1 + counts), np.log2(1 + (until - oldest) / (30 * DAY))], axis=1)
    return WordBatch(
        torch.from_numpy(table[:, : max(1, int((table > 0).any(axis=0).sum()))].astype(np.int64)),
        torch.from_numpy(sequences.categories[distinct].astype(np.int64)), torch.from_numpy(of_action[1:]),
        torch.from_numpy(behaviours.micros[kept] // HOUR % N_HOURS), torch.from_numpy(tokens),
        torch.from_numpy(np.concatenate([long[2], short[2]], axis=1)), torch.from_numpy(np.concatenate([long[3], short[3]], axis=1)),
        torch.from_numpy(np.minimum(profile, N_PROFILE_CLASSES - 1).astype(np.int64)),
    )  # fmt: skip


def targets_of(batch: WordBatch, n_categories: int, chosen: torch.Tensor) -> list[torch.Tensor]:
    """What the chosen tokens (B, T) hold, as shares that add up to 1 (or to 0): categories, frequent words, hours; each (n, classes)."""
    device = batch.tokens.device
    number = torch.full((chosen.numel(),), -1, dtype=torch.int64, device=device)
    number[chosen.flatten()] = torch.arange(int(chosen.sum()), device=device)
    row = number[batch.tokens]
    items, hours, row = batch.items[row >= 0], batch.hours[row >= 0], row[row >= 0]
    found = []
    for values, n_classes in (
        (batch.categories[items], n_categories), (batch.words[items], N_TARGET_WORDS + 1), (hours[:, None] + 1, N_HOURS + 1)
    ):  # fmt: skip
        values = torch.where(values < n_classes, values, 0)
        hot = torch.zeros(int(chosen.sum()), n_classes, device=device)
        hot[row[:, None].expand_as(values).flatten(), values.flatten()] = 1.0
        hot[:, 0] = 0.0  # number 0 is none
        found.append(hot / hot.sum(1, keepdim=True).clamp_min(1.0))
    return found


def _segment(rows: np.ndarray, groups: np.ndarray, positions: np.ndarray, n_users: int, most: int) -> tuple[np.ndarray, ...]:
    """Owners and token places (-1: too old) of actions grouped by (row, group), and positions and mask (n_users, most) of the tokens."""
    table, mask = np.zeros((n_users, most), np.int64), np.zeros((n_users, most), bool)
    if not len(rows):
        return rows, np.zeros(0, np.int64), table, mask
    fresh = np.concatenate([[True], (np.diff(rows) != 0) | (np.diff(groups) != 0)])
    token = np.cumsum(fresh) - 1
    owner = rows[fresh]
    n_tokens = np.bincount(owner, minlength=n_users)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(n_tokens) - n_tokens, n_tokens)
    place = within - np.maximum(0, n_tokens - most)[owner]
    table[owner[place >= 0], place[place >= 0]] = positions[fresh][place >= 0]
    mask[owner[place >= 0], place[place >= 0]] = True
    return rows, place[token], table, mask
