"""Files of a synthetic world: the formats, the defects of real logs, and a world cut in two at a date.

In: Arrow tables, or the folder that `lurm.synthetic.write_world` wrote. Out: more files in the same layout. What is wrong with a row and
how many such rows there are is returned, so that a test can compare what ingest counted with what was planted.
"""

import json
from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from lurm.errors import InputError
from lurm.schema import TIMESTAMP

FORMATS = ("parquet", "csv", "jsonl")
DAY = 86_400_000_000  # microseconds
HEAVY_USER = "u-heavy"


def check_format(format: str) -> None:
    """Raise InputError for a format that worlds are not written in."""
    if format not in FORMATS:
        raise InputError(f"Expected a format among {', '.join(FORMATS)}, got {format!r}; choose one of these.")


def write_parts(directory: Path, tables: Iterable[pa.Table], format: str) -> None:
    """Write part-00000, part-00001, ... into a folder."""
    for part, table in enumerate(tables):
        write_table(table, directory / f"part-{part:05d}", format)


def write_table(table: pa.Table, stem: Path, format: str) -> Path:
    """Write one file, say which; text formats carry timestamps as ISO text, and CSV a list as "a > b"."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    path = stem.with_name(f"{stem.name}.{format}")
    if format == "parquet":
        # Without Arrow's own schema in the file every reader sees plain Parquet types, as in a log that something else wrote.
        pq.write_table(table, path, compression="zstd", store_schema=False)
        return path
    table = _times_as_text(table)
    if format == "csv" and "category" in table.column_names:
        category = table.column_names.index("category")
        table = table.set_column(category, "category", pc.binary_join(table[category], " > "))
    if format == "csv":
        pyarrow.csv.write_csv(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()), encoding="utf-8")
    return path


def write_defects(
    directory: str | Path, format: str = "parquet", per_reason: int = 3, heavy_user_events: int = 0, long_title_characters: int = 100_000
) -> dict[str, dict[str, int]]:
    """Add `events/part-defects.*` and `items/part-defects.*` to a world and return rows by table and reason.

    A row has one reason, and no two reasons of a table have the same number of rows (`per_reason`, `per_reason + 1`, ...), so that
    counts under swapped names cannot look right.

    events: user_id_null, item_id_null, timestamp_null, timestamp_unreadable (text formats only), before_1970, in_future (the year 2999),
    duplicate_row (exact copies of rows of the world), unknown_item (not in the catalogue), heavy_user (sound events of user `u-heavy`).
    items: item_id_null, title_null, title_blank, duplicate_item (known items under another title); and, sound but odd: markup_title,
    control_title, long_title.
    """
    check_format(format)
    directory = Path(directory)
    known_items = _read(directory / "items", format, 1)["item_id"].slice(0, 1_000)
    sound = _read(directory / "events", format, 1).slice(0, per_reason + 8)  # rows to copy or to spoil
    events, event_counts = _bad_events(sound, known_items, per_reason, format, heavy_user_events)
    items, item_counts = _odd_items(known_items.to_pylist(), per_reason, format, long_title_characters)
    write_table(events, directory / "events" / "part-defects", format)
    write_table(items, directory / "items" / "part-defects", format)
    return {"events": event_counts, "items": item_counts}


def split_world(
    directory: str | Path, cut: date, late_share: float = 0.0, late_days: int = 60, seed: int = 17
) -> tuple[Path, Path]:
    """Cut a Parquet world at midnight UTC of `cut` into `before/` and `after/` below it and return both folders.

    `after` also gets the late events: a share of those of the last `late_days` days before the cut. Items that only `after` needs are in
    its catalogue and not in the one of `before`, so that a daily run meets new items. Labels and truth stay where they are.
    """
    directory = Path(directory)
    cut_at = int(np.datetime64(cut, "us").astype(np.int64))
    late_from = cut_at - late_days * DAY
    rng = np.random.default_rng([seed, 3])
    used_before = []
    for source in sorted((directory / "events").glob("*.parquet")):
        events = pq.read_table(source)
        at = events["timestamp"].cast(pa.int64()).to_numpy()
        late = (rng.random(len(at)) < late_share) & (at >= late_from)
        early = (at < cut_at) & ~late
        used_before.append(pc.unique(events["item_id"].filter(early)))
        write_table(events.filter(early), directory / "before" / "events" / source.stem, "parquet")
        write_table(events.filter(~early), directory / "after" / "events" / source.stem, "parquet")
    used_before = pa.chunked_array(used_before, pa.string())
    used_after = _read(directory / "after" / "events", "parquet")["item_id"]
    items = _read(directory / "items", "parquet")
    new = pc.and_(pc.is_in(items["item_id"], used_after), pc.invert(pc.is_in(items["item_id"], used_before)))
    write_parts(directory / "before" / "items", [items.filter(pc.invert(new))], "parquet")
    write_parts(directory / "after" / "items", [items.filter(new)], "parquet")
    return directory / "before", directory / "after"


def _bad_events(
    sound: pa.Table, item_ids: pa.ChunkedArray, per_reason: int, format: str, heavy_user_events: int
) -> tuple[pa.Table, dict[str, int]]:
    rows = sound.to_pylist()
    spoil = {
        "user_id_null": {"user_id": None},
        "item_id_null": {"item_id": None},
        "timestamp_null": {"timestamp": None},
        "timestamp_unreadable": {"timestamp": "the day before yesterday"},
        "before_1970": {"timestamp": datetime(1969, 12, 31, 23, tzinfo=UTC)},
        "in_future": {"timestamp": datetime(2999, 1, 1, tzinfo=UTC)},
        "duplicate_row": {},
        "unknown_item": {"item_id": "i-unknown"},
    }
    if format == "parquet":
        del spoil["timestamp_unreadable"]  # a typed column has no room for it
    bad, counts = [], {}
    for more, (reason, change) in enumerate(spoil.items()):
        counts[reason] = per_reason + more
        for place in range(counts[reason]):
            # A user for each row, so that no spoiled row is by chance a copy of another.
            name = {} if reason in ("user_id_null", "duplicate_row") else {"user_id": f"u-{reason}-{place}"}
            bad.append({**rows[place % len(rows)], **name, **change})
    if format != "parquet":
        bad = [{**row, "timestamp": _text(row["timestamp"])} for row in bad]
    parts = [pa.Table.from_pylist(bad, sound.schema)]
    if heavy_user_events:
        counts["heavy_user"] = heavy_user_events
        places = np.arange(heavy_user_events)
        moments = pa.array(np.datetime64(_text(rows[0]["timestamp"])[:19], "us") - places.astype("m8[s]")).cast(TIMESTAMP)
        user = np.full(heavy_user_events, HEAVY_USER)
        heavy = pa.table({"user_id": user, "item_id": item_ids.take(pa.array(places % len(item_ids))), "timestamp": moments})
        parts.append((heavy if format == "parquet" else _times_as_text(heavy)).cast(sound.schema))
    return pa.concat_tables(parts), counts


def _odd_items(known_items: list[str], per_reason: int, format: str, long_title_characters: int) -> tuple[pa.Table, dict[str, int]]:
    titles = {
        "item_id_null": "Lamp without a Name",
        "title_null": None,
        "title_blank": " \t ",
        "duplicate_item": "A second Title of the same Item",
        "markup_title": '<script>alert("lamp")</script> <b>Lamp</b> &amp; Shade',
        "control_title": "Lamp\x07 with\x1b[31m red\u202e light" + ("" if format == "csv" else "\x00 and\n two lines"),
        "long_title": "lamp " * (long_title_characters // 5) + "x" * (long_title_characters % 5),
    }
    rows, counts = [], {}
    for more, (reason, title) in enumerate(titles.items()):
        counts[reason] = min(per_reason + more, len(known_items)) if reason == "duplicate_item" else per_reason + more
        for place in range(counts[reason]):
            name = {"item_id_null": None, "duplicate_item": known_items[place % len(known_items)]}.get(reason, f"i-{reason}-{place}")
            rows.append({"item_id": name, "title": title, "category": ["Department 0", "Shelf 0.0"]})
    schema = pa.schema([("item_id", pa.string()), ("title", pa.string()), ("category", pa.list_(pa.string()))])
    return pa.Table.from_pylist(rows, schema), counts


def _text(moment: object) -> str | None:
    """A time as a text log writes it; text and nothing stay what they are."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if isinstance(moment, datetime) else moment


def _times_as_text(table: pa.Table) -> pa.Table:
    for place, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            text = pc.strftime(table[place].cast(pa.timestamp("s", tz="UTC")), "%Y-%m-%dT%H:%M:%SZ")
            table = table.set_column(place, field.name, text)
    return table


def _read(folder: Path, format: str, n_files: int | None = None) -> pa.Table:
    """Rows of the first, or of all, files of a folder; text formats keep text."""
    files = sorted(folder.glob(f"*.{format}"))[:n_files]
    if not files:
        raise InputError(f"Expected {format} files in {str(folder)!r}, found none; write a world there first with write_world.")
    if format == "parquet":
        return pa.concat_tables([pq.read_table(file) for file in files])
    if format == "jsonl":
        rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        return pa.Table.from_pylist(rows)
    text = pa.csv.ConvertOptions(column_types={name: pa.string() for name in ("user_id", "item_id", "timestamp", "title", "category")})
    return pa.concat_tables([pa.csv.read_csv(file, convert_options=text) for file in files])
