"""Formats hold the same rows, planted defects are exactly those that were announced, and a cut world is still the whole world."""

import csv
import json
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lurm.errors import InputError
from lurm.synthetic import WorldSettings, write_world
from lurm.synthetic_files import HEAVY_USER, split_world, write_defects

SMALL = WorldSettings(n_users=60, n_items=90, n_topics=6, n_months=12, events_per_user=20)


def read_rows(folder: Path, format: str) -> list[dict]:
    """Rows as text: what a reader that knows no types sees."""
    rows: list[dict] = []
    for file in sorted(folder.glob(f"*.{format}")):
        if format == "parquet":
            rows += pq.read_table(file).to_pylist()
        elif format == "jsonl":
            rows += [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        else:
            with file.open(encoding="utf-8", newline="") as lines:
                rows += [{name: value or None for name, value in row.items()} for row in csv.DictReader(lines)]
    for row in rows:
        if isinstance(row.get("timestamp"), datetime):
            row["timestamp"] = row["timestamp"].strftime("%Y-%m-%dT%H:%M:%SZ")
        if isinstance(row.get("category"), list):
            row["category"] = " > ".join(row["category"])
    return [{name: value if value is None else str(value) for name, value in row.items()} for row in rows]


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_formats_hold_the_same_rows(tmp_path, format):
    write_world(tmp_path / "typed", SMALL)
    write_world(tmp_path / "text", SMALL, format=format)
    for folder in ("events", "items", ""):
        assert read_rows(tmp_path / "text" / folder, format) == read_rows(tmp_path / "typed" / folder, "parquet")


@pytest.mark.parametrize("format", ["parquet", "csv", "jsonl"])
def test_defects_are_exactly_those_announced(tmp_path, format):
    write_world(tmp_path, SMALL, format=format)
    sound = {tuple(row.values()) for row in read_rows(tmp_path / "events", format)}
    known = {row["item_id"] for row in read_rows(tmp_path / "items", format)}
    counts = write_defects(tmp_path, format, per_reason=4, heavy_user_events=500, long_title_characters=12_345)
    events = [row for row in read_rows(tmp_path / "events", format)][-sum(counts["events"].values()) :]
    items = [row for row in read_rows(tmp_path / "items", format)][-sum(counts["items"].values()) :]

    def event_reason(row: dict) -> str:
        if row["user_id"] is None:
            return "user_id_null"
        if row["item_id"] is None:
            return "item_id_null"
        if row["timestamp"] is None:
            return "timestamp_null"
        if not row["timestamp"][:4].isdigit():
            return "timestamp_unreadable"
        if row["timestamp"] < "1970" or row["timestamp"] > "2100":
            return "before_1970" if row["timestamp"] < "1970" else "in_future"
        if row["item_id"] not in known:
            return "unknown_item"
        if row["user_id"] == HEAVY_USER:
            return "heavy_user"
        return "duplicate_row" if tuple(row.values()) in sound else "sound"

    def item_reason(row: dict) -> str:
        title = row["title"]
        if row["item_id"] is None or row["item_id"] in known:
            return "item_id_null" if row["item_id"] is None else "duplicate_item"
        if title is None or not title.strip():
            return "title_null" if title is None else "title_blank"
        if len(title) == 12_345:
            return "long_title"
        return "markup_title" if "<script>" in title else "control_title" if "\x1b" in title else "sound"

    assert dict(Counter(map(event_reason, events))) == counts["events"]
    assert dict(Counter(map(item_reason, items))) == counts["items"]
    assert ("timestamp_unreadable" in counts["events"]) == (format != "parquet")
    assert all(len(set(table.values())) == len(table) for table in counts.values()), "two reasons with one count cannot be told apart"
    copies = Counter(tuple(row.values()) for row in events)
    assert max(copies.values()) == 1, "a spoiled row must not also be a duplicate"


def test_split_keeps_every_event_once_and_hands_over_late_ones(tmp_path):
    write_world(tmp_path, WorldSettings(n_users=60, n_items=900, n_topics=6, n_months=12, events_per_user=40))
    before, after = split_world(tmp_path, date(2019, 10, 1), late_share=0.25, late_days=30)
    whole, early, rest = (pq.read_table(folder / "events") for folder in (tmp_path, before, after))
    key = [("user_id", "ascending"), ("timestamp", "ascending"), ("item_id", "ascending")]
    assert pa.concat_tables([early, rest]).sort_by(key).equals(whole.sort_by(key))
    cut, late_from = datetime(2019, 10, 1, tzinfo=UTC), datetime(2019, 9, 1, tzinfo=UTC)
    late = [at for at in rest["timestamp"].to_pylist() if at < cut]
    assert max(early["timestamp"].to_pylist()) < cut and min(late) >= late_from
    in_window = len(late) + sum(at >= late_from for at in early["timestamp"].to_pylist())
    assert 0.15 < len(late) / in_window < 0.35

    old, new = (set(pq.read_table(folder / "items")["item_id"].to_pylist()) for folder in (before, after))
    assert not old & new and len(old | new) == 900 and len(new) > 10
    assert set(early["item_id"].to_pylist()) <= old and new <= set(rest["item_id"].to_pylist())


def test_defects_need_a_world(tmp_path):
    with pytest.raises(InputError, match="Expected csv files in .*items.*, found none; write a world there first"):
        write_defects(tmp_path, "csv")
    with pytest.raises(InputError, match="got 'avro'"):
        write_defects(tmp_path, "avro")
