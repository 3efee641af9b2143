"""A data set at a cut: the history that methods see, the users who are evaluated, and what came later, for labels alone.

In: `EvaluationSettings` and Parquet: events (user_id, item_id, timestamp), items (item_id, title, perhaps category) and users (user_id,
attributes). Out: a `Dataset`. The history ends before the cut's midnight (UTC), and its catalogue holds the items that had an event by
then: so nothing that comes later, not even a title, reaches a method.
"""

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lurm.config import fingerprint
from lurm.errors import ConfigError, InputError
from lurm.evaluation.baselines.method import History
from lurm.evaluation.evaluation_settings import DataSettings, EvaluationSettings, ViewSettings
from lurm.sampling import hash64_of_text
from lurm.schema import TIMESTAMP
from lurm.synthetic import WorldSettings, write_world

DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True)
class Dataset:
    """Everything that tasks and methods are made of; n evaluated users."""

    name: str
    history: History  # of all users, evaluated or not
    users: np.ndarray  # (n,) text, ascending
    n_events: np.ndarray  # (n,) int64, with a title, before the cut
    attributes: pa.Table  # n rows, those of `users`
    future: pa.Table  # user_id, item_id, timestamp of the evaluated users, at or after the cut
    past: pa.Table  # the same before the cut
    items: pa.Table  # the whole catalogue: item_id, title, category (list of text)

    @property
    def cut(self) -> int:
        """Microseconds since 1970."""
        return micros(self.history.as_of)


def load_dataset(settings: EvaluationSettings, data: str, directory: str) -> Dataset:
    """Read the files below `data`, or write the synthetic world below `directory` first; raises InputError for files that do not fit."""
    files = _world_files(settings, directory) if settings.data.world else settings.data
    if not files.events or not files.items:
        raise ConfigError("Expected data.events and data.items, or data.world, got neither; name the files.")
    events = _read(data, files.events, ("user_id", "item_id", "timestamp"))
    items = _catalogue(_read(data, files.items, ("item_id", "title"), ("category",)))
    users = _read(data, files.users, ("user_id",), None) if files.users else None
    return make_dataset(settings, events, items, users)


def make_dataset(settings: EvaluationSettings, events: pa.Table, items: pa.Table, users: pa.Table | None) -> Dataset:
    """Cut the tables; items as `_catalogue` gives them."""
    cut = pa.scalar(micros(settings.cut), pa.int64()).cast(pa.timestamp("us")).cast(TIMESTAMP)
    names = ["user_id", "item_id", "timestamp"]
    events = events.select(names).cast(pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", TIMESTAMP)]))
    ids = items["item_id"].combine_chunks()
    place = pc.index_in(events["item_id"], ids)
    known = pc.and_(pc.is_valid(place), pc.and_(pc.is_valid(events["timestamp"]), pc.is_valid(events["user_id"])))
    events = events.append_column("titled", pc.greater(pc.utf8_length(items["title"].combine_chunks().take(place.combine_chunks())), 0))
    events = events.filter(known).sort_by([("user_id", "ascending"), ("timestamp", "ascending")])
    past = events.filter(pc.less(events["timestamp"], cut))
    chosen, counts = _eligible(settings, past, users)
    seen = items.filter(pc.is_in(ids, pc.unique(past["item_id"].combine_chunks()))).combine_chunks()
    wanted = pa.array(chosen, pa.string())
    history = History(past.select(names).combine_chunks(), seen, settings.cut)
    attributes = pa.table({"user_id": wanted}) if users is None else users.take(pc.index_in(wanted, users["user_id"].combine_chunks()))
    return Dataset(
        settings.name, history, np.array(chosen, object), counts, attributes,
        future=events.filter(pc.and_(pc.greater_equal(events["timestamp"], cut), pc.is_in(events["user_id"], wanted))).select(names),
        past=past.filter(pc.is_in(past["user_id"], wanted)).select(names), items=items,
    )


def view_of(history: History, view: ViewSettings) -> History:
    """The history with each user's last events only; the catalogue stays, for it is no behaviour."""
    events = history.events
    if view.last_days:
        first = pa.scalar(micros(history.as_of) - view.last_days * DAY, pa.int64()).cast(pa.timestamp("us")).cast(TIMESTAMP)
        events = events.filter(pc.greater_equal(events["timestamp"], first))
    if view.last_events:
        codes = events["user_id"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
        ends = np.append(np.flatnonzero(np.diff(codes)) + 1, len(codes))  # rows of a user lie together
        left = np.repeat(ends, np.diff(ends, prepend=0)) - np.arange(len(codes))  # 1 for the last event of a user
        events = events.filter(pa.array(left <= view.last_events))
    return History(events.combine_chunks(), history.items, history.as_of, history.seed)


def table_fingerprint(table: pa.Table) -> str:
    """16 hexadecimal digits of what a table holds."""
    digest = hashlib.blake2b(digest_size=8)
    for batch in table.replace_schema_metadata(None).combine_chunks().to_batches(max_chunksize=65_536):
        digest.update(batch.serialize())
    return digest.hexdigest()


def micros(day: str) -> int:
    """Microseconds from 1970 to a day's midnight, UTC."""
    return int(np.datetime64(day, "us").astype(np.int64))


def _eligible(settings: EvaluationSettings, past: pa.Table, users: pa.Table | None) -> tuple[list[str], np.ndarray]:
    """Who is evaluated, ascending, and their events before the cut."""
    counted = past.group_by("user_id").aggregate([("titled", "sum"), ("timestamp", "max")])
    kept = pc.greater_equal(counted["titled_sum"], settings.min_events)
    if settings.active_days:
        oldest = micros(settings.cut) - settings.active_days * DAY
        kept = pc.and_(kept, pc.greater_equal(counted["timestamp_max"].cast(pa.int64()), oldest))
    if users is not None:
        there = users
        if settings.where:
            if settings.where not in users.column_names:
                raise InputError(f"Expected a column {settings.where!r} of the users, got {', '.join(users.column_names)}; mend where.")
            there = users.filter(pc.fill_null(users[settings.where].cast(pa.bool_()), False))
        kept = pc.and_(kept, pc.is_in(counted["user_id"], there["user_id"].combine_chunks()))
    counted = counted.filter(kept)
    names = np.array(counted["user_id"].to_pylist(), object)
    counts = counted["titled_sum"].to_numpy().astype(np.int64)
    if settings.max_users and len(names) > settings.max_users:
        few = np.argsort(hash64_of_text(names, settings.probe.seed), kind="stable")[: settings.max_users]
        names, counts = names[few], counts[few]
    if len(names) < 2 * settings.probe.folds:
        raise InputError(
            f"Expected at least {2 * settings.probe.folds} users with {settings.min_events} titled events before {settings.cut}, got {len(names)}; "
            "choose a later cut, a smaller min_events or another where."
        )
    order = np.argsort(names)
    return list(names[order]), counts[order]


def _catalogue(items: pa.Table) -> pa.Table:
    """item_id, title ("" where there is none) and category as a list (empty where there is none); of items named twice the first counts."""
    ids = items["item_id"].cast(pa.string()).combine_chunks()
    first = pc.equal(pc.index_in(ids, ids), pa.array(np.arange(len(ids), dtype=np.int32)))
    if "category" not in items.column_names:
        lists = [[]] * len(items)
    elif pa.types.is_list(items["category"].type) or pa.types.is_large_list(items["category"].type):
        lists = [[str(name) for name in names or [] if name] for names in items["category"].to_pylist()]
    else:
        lists = [[str(name)] if name not in (None, "") else [] for name in items["category"].to_pylist()]
    table = pa.table({
        "item_id": ids, "title": pc.fill_null(items["title"].cast(pa.string()), ""), "category": pa.array(lists, pa.list_(pa.string())),
    })
    return table.filter(pc.and_(first, pc.is_valid(table["item_id"]))).combine_chunks()


def _read(data: str, path: str, columns: tuple[str, ...], optional: tuple[str, ...] | None = ()) -> pa.Table:
    """Some columns of a file or folder; all of them where `optional` is None."""
    place = Path(data) / path
    try:
        table = pq.read_table(place)
    except (OSError, pa.ArrowInvalid) as error:
        why = str(error).splitlines()[0]
        raise InputError(f"Expected Parquet at {str(place)!r}, could not read it ({why}); give its folder with --data.") from None
    absent = [name for name in columns if name not in table.column_names]
    if absent:
        raise InputError(f"Expected column {absent[0]!r} in {str(place)!r}, got {', '.join(table.column_names)}; rename it in the file.")
    names = table.column_names if optional is None else [*columns, *(name for name in optional if name in table.column_names)]
    return table.select(names).replace_schema_metadata(None)


def _world_files(settings: EvaluationSettings, directory: str) -> DataSettings:
    known = {entry.name for entry in fields(WorldSettings)}
    wrong = sorted(set(settings.data.world) - known)
    if wrong:
        raise ConfigError(f"Unknown setting 'data.world.{wrong[0]}'; known here: {', '.join(sorted(known))}.")
    world = WorldSettings(**settings.data.world)
    folder = (Path(directory) / f"world-{fingerprint(world)[:8]}").resolve()
    if not (folder / "complete").exists():
        write_world(folder, world)
        (folder / "complete").touch()
    return DataSettings(str(folder / "events"), str(folder / "items"), str(folder / "users.parquet"))
