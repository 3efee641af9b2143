"""One bucket of users at a time: bags and kept states in, states and embeddings out, as streams of Arrow batches.

The files of a bucket are sorted by user and walked side by side, so memory is a few hundred users whatever the bucket holds. A user's
numbers do not depend on who else is in the batch. These functions run on the executors and know no Spark.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from lurm.bag_of_interests import FACTS, Lives, add_facts, concatenate, facts_of, lives_of, read_lives, read_periods
from lurm.errors import StoreError
from lurm.manifest import Snapshot
from lurm.periods import month_number
from lurm.schema import MONTH, USER_EMBEDDINGS, USER_STATES, YEAR
from lurm.smen.inference import embed, load_model
from lurm.smen.model import SMEN
from lurm.smen.states import States, advance, finish, fold, silence
from lurm.staging import read_files, walk_sorted
from lurm.store import Store

COLUMNS = {MONTH: "month_state", YEAR: "year_state"}
MOST_CHANGED = 20_000  # users of a bucket whose lives are read again one by one; with more the whole bucket is folded
_loading = threading.Lock()
Streams = Mapping[object, Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class Frozen:
    """A trained SMEN, ready on the device of this worker."""

    smen: SMEN
    info: dict
    alpha: torch.Tensor  # (D, recurrent anchors): anchor weights of every interest, the same for all users
    device: str
    batch_size: int


def load_frozen(store: Store, model_id: str, device: str, batch_size: int) -> Frozen:
    """The model of a worker, loaded once per process; one thread, because one task has one core."""
    with _loading:  # threads of one process wait for the first of them
        return _load_frozen(store, model_id, device, batch_size)


@cache
def _load_frozen(store: Store, model_id: str, device: str, batch_size: int) -> Frozen:
    torch.set_num_threads(1)
    smen, info = load_model(store.get_artifact("models", model_id))
    chosen = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    smen = smen.to(chosen).eval()
    with torch.no_grad():
        alpha = smen.anchor_weights(torch.arange(smen.n_interests, device=chosen))
    return Frozen(smen, info, alpha, chosen, batch_size)


def embed_lives(model: Frozen, store: Store, bags: Snapshot, end: int) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Embeddings of a bucket from whole lives up to month number `end`, exclusive: batches of `user_embeddings`, each with the number of
    users it leaves out because none of their events has an interest."""
    for lives, facts in _collected(read_lives(store, bags), model.batch_size):
        usable = np.flatnonzero(facts.column("n_events").to_numpy())
        facts = facts.take(pa.array(usable))
        months, years = lives[MONTH].take(usable), lives[YEAR].take(usable)
        vectors = embed(model.smen, model.info, months, years, end, model.batch_size, model.device, model.alpha)
        yield _embeddings(vectors, facts), lives[MONTH].n_users - len(usable)


def embed_states(model: Frozen, store: Store, states: Snapshot, bags: Snapshot, until: str) -> Iterator[tuple[pa.RecordBatch, int]]:
    """The same from states kept at `until`; `bags` are those of the open month and year only (and of what is counted into them)."""
    streams = {"states": _state_rows(store, states, model.batch_size), **read_periods(store, bags, model.batch_size)}
    silent = silence(model.smen, model.info, until)
    for pieces in _walk(streams, model.batch_size):
        facts = _facts(pieces, frozenset())
        names = facts.column("user_id").to_numpy()
        start = _placed(pieces.get("states", []), names, silent)
        last = {scale: _lives(pieces, scale, names) for scale in model.smen.scales}
        vectors = finish(model.smen, start, last, model.alpha, model.device)
        usable = np.flatnonzero(facts.column("n_events").to_numpy())
        yield _embeddings(vectors[usable], facts.take(pa.array(usable))), len(names) - len(usable)


def fold_states(model: Frozen, store: Store, bags: Snapshot, until: str, users: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Batches of `user_states` from whole lives: of all users in a bucket of closed bags, or of some."""
    for lives, facts in _collected(read_lives(store, bags, users=users), model.batch_size):
        months = lives[MONTH]
        years = lives.get(YEAR) or lives_of([], months.user_ids)
        yield _states(fold(model.smen, model.info, months, years, until, model.alpha, model.device), facts)


def advance_states(
    model: Frozen, store: Store, states: Snapshot, since: str, bags: Snapshot, until: str,
    changes: Sequence[tuple[list[str], list[str]]], counted: Counter,
) -> Iterator[pa.RecordBatch]:
    """Batches of `user_states` at `until` from those kept at `since` and the closed bags between them.

    changes: files of months before `since` that have been counted again since the states were kept, (old, new) each. Whose bags differ
    in one of them is folded again from his whole life (`counted["folded_again"]`); everybody else goes on from his state.
    """
    try:
        again = changed_users(store, changes)
    except StoreError:  # an old file is gone: who has changed cannot be told
        again = None
    if again is None or len(again) > MOST_CHANGED:
        yield from fold_states(model, store, bags, until)
        return
    counted["folded_again"] += len(again)
    afresh = list(fold_states(model, store, bags, until, sorted(again))) if again else []
    months = range(month_number(since), month_number(until))
    years = range(int(since[:4]) - 1970, int(until[:4]) - 1970)
    first_year = model.info["grid_start"] // 12
    between = bags.where(scale=MONTH, period=lambda period: month_number(period) in months)
    closing = bags.where(scale=YEAR, period=lambda period: int(period) - 1970 in years or (first_year in years and int(period) - 1970 < first_year))
    streams = {"states": _state_rows(store, states, model.batch_size), "afresh": iter(afresh)}
    silent = silence(model.smen, model.info, since)
    streams |= read_periods(store, between, model.batch_size) | read_periods(store, closing, model.batch_size)
    for pieces in _walk(streams, model.batch_size):
        facts = _facts(pieces, again)
        names = facts.column("user_id").to_numpy()
        now = _placed(pieces.get("states", []), names, silent)
        for number in months if MONTH in now else ():
            now[MONTH] = advance(model.smen, MONTH, now[MONTH], _lives(pieces, MONTH, names, {number}), model.alpha, model.device)
        for number in years if YEAR in now else ():
            counted = {number} if number > first_year else {label[1] for label in streams if label[0] == YEAR and label[1] <= first_year}
            now[YEAR] = advance(model.smen, YEAR, now[YEAR], _lives(pieces, YEAR, names, counted), model.alpha, model.device)
        rows = pa.Table.from_batches([_states(now, facts), *pieces.get("afresh", [])], USER_STATES.data_schema)
        yield rows.sort_by("user_id").combine_chunks().to_batches()[0]


def changed_users(store: Store, changes: Sequence[tuple[list[str], list[str]]]) -> frozenset[str]:
    """Users whose bag of a month differs between its old and its new files; files are those of one bucket."""
    found: set[str] = set()
    for old, new in changes:
        both = pa.concat_tables([_marks(store, old), _marks(store, new)]).group_by(["user_id", "bag"]).aggregate([("bag", "count")])
        found |= set(both.filter(pc.equal(both.column("bag_count"), 1)).column("user_id").to_pylist())  # what is the same comes twice
    return frozenset(found)


def _marks(store: Store, uris: list[str]) -> pa.Table:
    """user_id and a hash of the bag, for every row of `bags`."""
    schema = pa.schema([("user_id", pa.string()), ("bag", pa.uint64())])
    parts = []
    for batch in read_files(store, uris, ["user_id", "interest_ids", "counts", "first_event_at", "last_event_at"]):
        interest_ids, counts = (batch.column(name).flatten().to_numpy().astype(np.int64) for name in ("interest_ids", "counts"))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mixed(interest_ids << 32 | counts))])  # wraps around, and so do differences
        offsets = batch.column("interest_ids").offsets.to_numpy()
        offsets = offsets - offsets[0]
        marks = sums[offsets[1:]] - sums[offsets[:-1]]
        for place, name in enumerate(("first_event_at", "last_event_at"), start=2):
            marks = marks * np.uint64(2 * place + 1) + _mixed(batch.column(name).cast(pa.int64()).fill_null(-1).to_numpy())
        parts.append(pa.RecordBatch.from_arrays([batch.column("user_id"), pa.array(marks)], schema=schema))
    return pa.Table.from_batches(parts, schema)


def _mixed(values: np.ndarray) -> np.ndarray:
    """64 well-mixed bits of each whole number (the finaliser of splitmix64)."""
    bits = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _walk(streams: Streams, n_users: int) -> Iterator[dict[object, list[pa.RecordBatch]]]:
    """Batches of all streams, by label, for at least `n_users` users at a time."""
    labels, pending, n_rows = list(streams), {}, 0
    for pieces in walk_sorted(list(streams.values()), "user_id"):
        for position, batch in pieces:
            pending.setdefault(labels[position], []).append(batch)
        n_rows += max(batch.num_rows for _, batch in pieces)
        if n_rows >= n_users:
            yield pending
            pending, n_rows = {}, 0
    if pending:
        yield pending


def _collected(lives: Iterator[tuple[dict[str, Lives], pa.Table]], n_users: int) -> Iterator[tuple[dict[str, Lives], pa.Table]]:
    """Lives of at least `n_users` users at a time."""
    pending: list[tuple[dict[str, Lives], pa.Table]] = []
    for chunk in lives:
        pending.append(chunk)
        if sum(facts.num_rows for _, facts in pending) >= n_users:
            yield _joined(pending)
            pending = []
    if pending:
        yield _joined(pending)


def _joined(chunks: list[tuple[dict[str, Lives], pa.Table]]) -> tuple[dict[str, Lives], pa.Table]:
    lives = {scale: concatenate([part[scale] for part, _ in chunks]) for scale in chunks[0][0]}
    return lives, pa.concat_tables([facts for _, facts in chunks]).combine_chunks()


def _facts(pieces: Mapping[object, list[pa.RecordBatch]], without: frozenset[str]) -> pa.Table:
    """Facts of the users in states and monthly bags, but of those in `without`."""
    parts = [pa.Table.from_batches(pieces["states"]).select(FACTS)] if "states" in pieces else []
    bags = [batch for label, batches in pieces.items() if label[0] == MONTH for batch in batches]
    parts += [facts_of(bags)] if bags else []
    facts = add_facts(pa.concat_tables([part.cast(FACTS_SCHEMA) for part in parts] or [FACTS_SCHEMA.empty_table()]))
    if without:
        mine = [user not in without for user in facts.column("user_id").to_pylist()]
        facts = facts.filter(pa.array(mine, pa.bool_())).combine_chunks()
    return facts.cast(FACTS_SCHEMA)


def _lives(pieces: Mapping[object, list[pa.RecordBatch]], scale: str, names: np.ndarray, numbers: set[int] | None = None) -> Lives:
    """Bags of one scale (of some periods) for exactly these users."""
    chosen = [(label[1], batch) for label, batches in pieces.items() if label[0] == scale and (numbers is None or label[1] in numbers)
              for batch in batches]
    return lives_of(chosen, names)


def _placed(batches: list[pa.RecordBatch], names: np.ndarray, silent: States) -> States:
    """States of these users: as they were kept, or those of silence."""
    states = {scale: np.tile(row, (len(names), 1)) for scale, row in silent.items()}
    for batch in batches:
        users = batch.column("user_id").to_numpy(zero_copy_only=False)
        places = np.minimum(np.searchsorted(names, users), max(0, len(names) - 1))
        known = np.flatnonzero(names[places] == users) if len(names) else np.zeros(0, np.int64)
        for scale, matrix in states.items():
            matrix[places[known]] = batch.column(COLUMNS[scale]).flatten().to_numpy().reshape(batch.num_rows, -1)[known]
    return states


def _state_rows(store: Store, states: Snapshot, batch_rows: int) -> Iterator[pa.RecordBatch]:
    files = sorted(states.files, key=lambda file: file.first_key or "")
    return read_files(store, [f"{states.root}/{file.path}" for file in files], batch_rows=batch_rows)


def _states(states: States, facts: pa.Table) -> pa.RecordBatch:
    columns = {name: facts.column(name) for name in FACTS}
    for scale, name in COLUMNS.items():
        columns[name] = _lists(states.get(scale, np.zeros((facts.num_rows, 0), np.float32)))
    return _batch(columns, USER_STATES.data_schema)


def _embeddings(vectors: np.ndarray, facts: pa.Table) -> pa.RecordBatch:
    return _batch({**{name: facts.column(name) for name in FACTS}, "embedding": _lists(vectors)}, USER_EMBEDDINGS.data_schema)


def _lists(matrix: np.ndarray) -> pa.ListArray:
    offsets = np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(matrix).reshape(-1)))


def _batch(columns: dict, schema: pa.Schema) -> pa.RecordBatch:
    table = pa.table(columns).select(schema.names).cast(schema).combine_chunks()
    return table.to_batches()[0] if table.num_rows else pa.RecordBatch.from_pylist([], schema)


FACTS_SCHEMA = pa.schema([USER_STATES.schema.field(name) for name in FACTS])
