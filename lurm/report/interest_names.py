"""What an interest is called: its distinctive words, and titles of its items that most users know.

In: the items that were seen before the model was trained, with titles; the interest of each. Out: a few words and titles for each of D
interests. Words are those of the item encoder's tokenizer. A word is distinctive by the weighted log-odds of the number of titles that
hold it, inside the interest against everywhere else, with the catalogue as prior (Monroe, Colaresi and Quinn, "Fightin' Words", 2008).

At most a million titles are read, a seeded sample by the hash of the item; memory is theirs, whatever the catalogue holds.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from lurm.config import fingerprint
from lurm.item_encoder.inference import load_encoder
from lurm.item_encoder.tokenizer import encode_titles, vocabulary_size
from lurm.manifest import Snapshot
from lurm.report.chain import Released
from lurm.report.kept_tables import kept_table
from lurm.sampling import hash_threshold
from lurm.schema import ITEM_INTERESTS, ITEMS, SEEN_ITEMS
from lurm.staging import read_files

log = logging.getLogger("lurm")
MAX_TITLES = 1_000_000
N_WORDS, N_TITLES = 3, 3
VERSION = 1  # of how names are made; names kept under another are made anew
TITLE_CHARACTERS = 90
PRIOR = 50.0  # words of the catalogue's usual mixture that every interest is given beforehand
FUNCTION_WORDS = frozenset("an and as at by for from in is it of on or the to with".split())
SURE = 1.0  # standard errors of the log-odds; the best word may be less sure than that


@dataclass(frozen=True)
class InterestNames:
    """Words and titles of D interests; either may be empty."""

    words: list[list[str]]
    titles: list[list[str]]

    def name(self, interest: int) -> str:
        return " · ".join(self.words[interest]) or f"interest {interest}"


def kept_names(released: Released) -> InterestNames:
    """Names of all interests of a release's space, kept in the warehouse by the space and the items they come from."""
    store, n_interests = released.store, released.space["n_interests"]
    catalogue, assigned = _catalogue(released), store.snapshot(ITEM_INTERESTS.name).where(space_id=released.model["space_id"])
    key = "names-" + fingerprint(VERSION, released.model["space_id"], catalogue.digest(), assigned.digest(), N_WORDS, N_TITLES, TITLE_CHARACTERS)

    def compute() -> pa.Table:
        titles, n_users, interests = read_titles(released, catalogue, assigned)
        _, tokenizer, _ = load_encoder(store.get_artifact("encoders", released.model["encoder_id"]))
        names = name_interests(titles, n_users, interests, tokenizer, n_interests)
        return pa.table({"words": pa.array(names.words, pa.list_(pa.string())), "titles": pa.array(names.titles, pa.list_(pa.string()))})

    table = kept_table(store, "interest_names", key, compute)
    return InterestNames(table.column("words").to_pylist(), table.column("titles").to_pylist())


def read_titles(released: Released, catalogue: Snapshot, assigned: Snapshot) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Titles, users of each (n,) int64 and interest of each (n,) int64, of at most MAX_TITLES items that have an interest."""
    store, counted = released.store, "n_users" in catalogue.table.schema.names
    below = ds.field("item_hash") <= hash_threshold(MAX_TITLES / max(1, catalogue.rows()))
    columns = ["item_id", "title", *(["n_users"] if counted else [])]
    batches = list(read_files(store, catalogue.uris(), columns, filters=below))
    if not batches:
        return [], np.zeros(0, np.int64), np.zeros(0, np.int64)
    items = pa.Table.from_batches(batches).combine_chunks()
    known, interests = items.column("item_id").combine_chunks(), np.full(items.num_rows, -1, np.int64)
    for batch in read_files(store, assigned.uris(), ["item_id", "interest_id"]):
        places = pc.index_in(batch.column("item_id"), value_set=known).fill_null(-1).to_numpy()
        interests[places[places >= 0]] = batch.column("interest_id").fill_null(-1).to_numpy()[places >= 0]
    kept = np.flatnonzero(interests >= 0)
    items = items.take(pa.array(kept))
    n_users = items.column("n_users").to_numpy() if counted else np.zeros(len(kept), np.int64)
    return items.column("title").to_pylist(), n_users, interests[kept]


def name_interests(titles: Sequence[str | None], n_users: np.ndarray, interests: np.ndarray, tokenizer, n_interests: int) -> InterestNames:
    """Names from n titles, the users of each (n,) and the interest of each (n,) in [0, D); `tokenizer` is that of the item encoder."""
    log.info("naming %s interests from %s titles", f"{n_interests:,}", f"{len(titles):,}")
    token_ids, offsets = encode_titles(tokenizer, titles)
    vocabulary = [tokenizer.id_to_token(token) for token in range(vocabulary_size(tokenizer))]
    speaking = np.array([_speaks(word) for word in vocabulary], bool)
    chosen = distinctive_tokens(token_ids, offsets, interests, speaking, n_interests, 3 * N_WORDS)
    words = [_without_variants(vocabulary[token] for token in row if token >= 0) for row in chosen]
    return InterestNames(words, _known_titles(titles, n_users, interests, n_interests))


def distinctive_tokens(token_ids: np.ndarray, offsets: np.ndarray, interests: np.ndarray, speaking: np.ndarray, n_interests: int,
                       n_best: int) -> np.ndarray:
    """(D, n_best) int64: the tokens that tell an interest best, best first, -1 where there are no more.

    Titles in CSR form with the interest of each, (n,); `speaking` (V,) says which tokens may be part of a name. A token counts if two
    titles of the interest hold it (one, where the interest has only one) and if it is more frequent inside than outside.
    """
    n_tokens = max(1, len(speaking))
    title_of = np.repeat(np.arange(len(interests)), np.diff(offsets))
    in_title = np.unique(title_of * n_tokens + token_ids)  # a title that repeats a word says it once
    cells, inside = np.unique(interests[in_title // n_tokens] * n_tokens + in_title % n_tokens, return_counts=True)
    interest, token = cells // n_tokens, cells % n_tokens
    everywhere = np.bincount(token, weights=inside, minlength=n_tokens)
    of_interest = np.bincount(interest, weights=inside, minlength=n_interests)
    n_all = everywhere.sum()
    prior = PRIOR * everywhere[token] / max(n_all, 1)
    outside = everywhere[token] - inside
    odds_inside = (inside + prior) / (of_interest[interest] + PRIOR - inside - prior)
    odds_outside = (outside + prior) / np.maximum(n_all - of_interest[interest] + PRIOR - outside - prior, 1e-9)
    score = (np.log(odds_inside) - np.log(odds_outside)) / np.sqrt(1 / (inside + prior) + 1 / (outside + prior))
    fewest = np.minimum(2, np.bincount(interests, minlength=n_interests))
    usable = np.flatnonzero((score > 0) & speaking[token] & (inside >= fewest[interest]))
    order = usable[np.lexsort((token[usable], -score[usable], interest[usable]))]
    result = np.full((n_interests, n_best), -1, np.int64)
    place, row = _first_of_each(interest[order], n_best)
    sure = (place == 0) | (score[order[row]] > SURE)
    place, row = place[sure], row[sure]
    result[interest[order[row]], place] = token[order[row]]
    return result


def _speaks(word: str) -> bool:
    """Whether a word can be part of a name: it has a letter, is not a lone Latin one, and says more than English articles do."""
    return any(character.isalpha() for character in word) and not (word.isascii() and len(word) == 1) and word not in FUNCTION_WORDS


def _first_of_each(groups: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Places within their group and positions of the first n members of every group; `groups` ascends."""
    starts = np.searchsorted(groups, groups, side="left")
    place = np.arange(len(groups)) - starts
    chosen = np.flatnonzero(place < n)
    return place[chosen], chosen


def _without_variants(words: Iterator[str]) -> list[str]:
    """The first words that are not another's plural or beginning: shoe and shoes say the same."""
    kept: list[str] = []
    for word in words:
        if not any(word.startswith(other) or other.startswith(word) for other in kept):
            kept.append(word)
    return kept[:N_WORDS]


def _known_titles(titles: Sequence[str | None], n_users: np.ndarray, interests: np.ndarray, n_interests: int) -> list[list[str]]:
    """Titles of each interest's items that most users have, without repetitions, cut."""
    order = np.lexsort((np.arange(len(interests)), -n_users, interests))
    result: list[list[str]] = [[] for _ in range(n_interests)]
    for position in order[_first_of_each(interests[order], 3 * N_TITLES)[1]]:
        title = " ".join((titles[position] or "").split())
        title = title if len(title) <= TITLE_CHARACTERS else title[: TITLE_CHARACTERS - 1].rstrip() + "…"
        mine = result[interests[position]]
        if title and len(mine) < N_TITLES and title not in mine:
            mine.append(title)
    return result


def _catalogue(released: Released) -> Snapshot:
    """Items with events before the model was trained; the whole catalogue where that is not kept."""
    seen = released.store.snapshot(SEEN_ITEMS.name).where(as_of=released.model["as_of"])
    return seen if seen.rows() else released.store.snapshot(ITEMS.name)
