"""The gate on what was ingested: an honest log passes in silence, each planted defect is told by name, the same inputs are judged once."""

import json
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from small_pipeline import make_context, no_spark

from lurm import input_gate
from lurm.errors import AuditError, MissingInputError
from lurm.input_gate import FUTURE
from lurm.manifest import Manifest
from lurm.schema import EVENTS, ITEMS, QUARANTINE
from lurm.staging import stage_table
from lurm.store import Store

AS_OF = "2022-01-01"
ITEM_NAMES = [f"i{number:03d}" for number in range(50)]


def events_of(first: str, last: str, a_day: int = 20, items=tuple(ITEM_NAMES)) -> list[tuple[str, str, datetime]]:
    """The same number of events on every day of [first, last)."""
    rows, day, number = [], date.fromisoformat(first), 0
    while day < date.fromisoformat(last):
        for place in range(a_day):
            at = datetime(day.year, day.month, day.day, place % 24, place // 24 % 60, tzinfo=UTC)
            rows.append((f"u{number % 97:03d}", items[number * 7 % len(items)], at))
            number += 1
        day += timedelta(days=1)
    return rows


def plant_events(store: Store, rows: list[tuple[str, str, datetime]], n_files: int = 2) -> None:
    """A table of events as ingest writes it: a folder a month, files of different users, sorted."""
    files = []
    for month in sorted({f"{at:%Y-%m}" for _, _, at in rows}):
        for part in range(n_files):
            chosen = [row for row in rows if f"{row[2]:%Y-%m}" == month and int(row[0][1:]) % n_files == part]
            if chosen:
                chosen.sort(key=lambda row: (row[0], row[2], row[1]))
                users, items, times = zip(*chosen, strict=True)
                table = pa.table({"user_id": users, "item_id": items, "timestamp": times, "weight": [1] * len(chosen)}, schema=EVENTS.data_schema)
                files.append(stage_table(store, EVENTS, "events", {"month": month}, table))
    store.commit(Manifest(EVENTS.name, "events", tuple(files), ({},)))


def plant_items(store: Store, names=tuple(ITEM_NAMES)) -> None:
    table = pa.table({"item_id": names, "title": names, "categories": [[]] * len(names), "item_hash": range(len(names))}, schema=ITEMS.data_schema)
    store.commit(Manifest(ITEMS.name, "items", (stage_table(store, ITEMS, "items", {"bucket": "0"}, table),), ({},)))


def plant_quarantine(store: Store, source: str, reason: str, count: int) -> None:
    table = pa.table({"source_file": ["f"] * count, "row": [str(number) for number in range(count)]}, schema=QUARANTINE.data_schema)
    scope = {"source": source, "reason": reason}
    store.commit(Manifest(QUARANTINE.name, f"bad{source}", (stage_table(store, QUARANTINE, f"bad{source}", scope, table),), (scope,)))


@pytest.fixture
def context(tmp_path):
    """An empty warehouse with a catalogue; no Spark."""
    made = make_context(tmp_path / "warehouse", AS_OF, no_spark)
    plant_items(made.store)
    return made


def report_of(context) -> dict:
    (folder,) = [info.base_name for info in context.store.filesystem.get_file_info(pa.fs.FileSelector(f"{context.store.root}/audits"))]
    return json.loads(context.store.read_bytes(context.store.path("audits", folder, "report.json")))


def warned(context) -> list[str]:
    return input_gate.run(context).get("warnings", [])


def test_an_honest_log_passes_without_a_word(context):
    plant_events(context.store, events_of("2021-06-01", AS_OF) + events_of(AS_OF, "2022-01-20"))
    figures = input_gate.run(context)
    assert "warnings" not in figures and figures["last_week"] == 1.0 and figures["days_since_last_event"] == pytest.approx(5 / 24, abs=0.01)
    report = report_of(context)
    assert report["findings"] == [] and report["events_by_day"] == [20] * 63, "20 a day before as_of, none after it"
    assert report["figures"]["unknown_share"] == report["figures"]["duplicate_share"] == 0.0 and report["left_out"] == ["volume_of_the_last_day"]


def test_the_same_inputs_are_judged_once(context, monkeypatch):
    plant_events(context.store, events_of("2021-06-01", "2021-12-20"))
    assert input_gate.run(context)["warnings"] == ["log_is_recent", "volume_of_the_last_week"]
    monkeypatch.setattr(input_gate, "input_figures", None)
    assert input_gate.run(context) == {"skipped": "audited already", "warnings": ["log_is_recent", "volume_of_the_last_week"]}
    monkeypatch.undo()
    plant_events(context.store, events_of("2021-06-01", AS_OF))
    assert "skipped" not in input_gate.run(context), "other events, another audit"
    assert "skipped" in input_gate.run(context)
    assert "skipped" not in input_gate.run(make_context(context.store.root, AS_OF, no_spark, "input_gate.min_volume=0.2")), "other limits too"


def test_what_blocks_blocks_again(context):
    plant_events(context.store, events_of("2021-06-01", "2021-12-01"))
    said = []
    for _ in range(2):
        with pytest.raises(AuditError) as error:
            input_gate.run(context)
        said.append(str(error.value))
    assert said[0] == said[1] and "no_empty_month is 1, expected 0" in said[0] and said[0].endswith(".") and "\n" not in said[0]
    assert "/report.json" in said[0] and "run ingest again" in said[0] and report_of(context)["empty_months"] == ["2021-12"]
    milder = make_context(context.store.root, AS_OF, no_spark, "input_gate.severities=no_empty_month:warn")
    assert "no_empty_month" in warned(milder)


def test_a_month_missing_in_the_middle_blocks(context):
    plant_events(context.store, events_of("2021-06-01", "2021-10-01") + events_of("2021-11-01", AS_OF))
    with pytest.raises(AuditError, match="no_empty_month"):
        input_gate.run(context)
    assert report_of(context)["empty_months"] == ["2021-10"]


def test_a_log_that_ended_long_ago_is_a_warning(context):
    plant_events(context.store, events_of("2021-03-01", "2021-06-01"))
    assert warned(context) == ["log_is_recent"] and report_of(context)["figures"]["days_since_last_event"] == pytest.approx(214 + 5 / 24, abs=0.01)


def test_a_log_of_a_few_people_with_quiet_months_passes(context):
    plant_events(context.store, events_of("2021-06-01", "2021-12-01", a_day=1))
    assert warned(context) == ["log_is_recent"]


def test_another_catalogue_blocks_and_a_part_of_it_warns(context):
    plant_events(context.store, events_of("2021-06-01", AS_OF, items=[*ITEM_NAMES[:30], *(f"x{number}" for number in range(20))]))
    assert warned(context) == ["few_unknown_items"] and report_of(context)["figures"]["unknown_share"] == pytest.approx(0.4, abs=0.01)
    other = make_context(context.store.root, "2021-12-01", no_spark)
    plant_items(context.store, [f"y{number}" for number in range(30)])
    with pytest.raises(AuditError, match="items_are_of_this_catalogue is 1, expected 0 to 0.9"):
        input_gate.run(other)


def test_the_share_of_unknown_items_is_that_of_events(context, monkeypatch):
    """Looked up for every seventh event only, the share stays what it is."""
    monkeypatch.setattr(input_gate, "SAMPLED_EVENTS", 200)
    plant_events(context.store, events_of("2021-06-01", AS_OF, items=["x", *ITEM_NAMES[:9]]), n_files=3)
    assert warned(context) == []
    report = report_of(context)
    assert 150 < report["looked_up_events"] <= 200 and report["figures"]["unknown_share"] == pytest.approx(0.1, abs=0.06)


def test_an_export_that_came_twice_is_a_warning(context):
    rows = events_of("2021-06-01", AS_OF)
    plant_events(context.store, rows + rows)
    assert warned(context) == ["few_duplicates"] and report_of(context)["figures"]["duplicate_share"] == 0.5


def test_events_that_differ_in_one_column_are_no_duplicates(context):
    at = datetime(2021, 12, 5, tzinfo=UTC)
    plant_events(context.store, [("u1", "i001", at), ("u1", "i002", at), ("u3", "i001", at), ("u3", "i001", at + timedelta(seconds=1))], n_files=1)
    input_gate.run(context)
    assert report_of(context)["figures"]["duplicate_share"] == 0.0


def test_duplicates_across_batches_are_seen(context, monkeypatch):
    real = input_gate.read_files
    monkeypatch.setattr(input_gate, "read_files", lambda *arguments, **more: real(*arguments, batch_rows=3, **more))
    rows = [("u001", "i001", datetime(2021, 12, 5, tzinfo=UTC))] * 10 + [("u002", "i001", datetime(2021, 12, 5, tzinfo=UTC))]
    plant_events(context.store, rows, n_files=1)
    input_gate.run(context)
    assert report_of(context)["figures"]["duplicate_share"] == pytest.approx(9 / 11)


@pytest.mark.parametrize(("change", "warnings"), [
    (lambda rows: [row for row in rows if row[2] < datetime(2021, 12, 25, tzinfo=UTC) or int(row[0][1:]) % 5 == 0], ["volume_of_the_last_week"]),
    (lambda rows: rows + [(user, item, at + timedelta(seconds=part)) for user, item, at in rows if at >= datetime(2021, 12, 25, tzinfo=UTC)
                          for part in range(1, 4)], ["volume_of_the_last_week"]),
    (lambda rows: [row for row in rows if row[2].weekday() != 4], []),
])
def test_the_volume_of_the_last_week(context, change, warnings):
    plant_events(context.store, change(events_of("2021-06-01", AS_OF)))
    assert warned(context) == warnings


def test_the_volume_of_the_last_day_is_held_against_its_weekday(context):
    """2021-12-31 is a Friday. Fridays have five times the events of other days, but the last one had as few as they."""
    rows = events_of("2021-06-01", AS_OF, a_day=30)
    rows += [(user, item, at + timedelta(seconds=part)) for user, item, at in rows if at.weekday() == 4 and at.month < 12 for part in range(1, 5)]
    rows += [(user, item, at + timedelta(seconds=part)) for user, item, at in rows
             if at.weekday() == 4 and at.month == 12 and at.day < 31 for part in range(1, 5)]
    plant_events(context.store, rows)
    assert warned(context) == ["volume_of_the_last_day"] and report_of(context)["figures"]["last_day"] == pytest.approx(0.2)


def test_what_was_quarantined(context):
    plant_events(context.store, events_of("2021-06-01", AS_OF))
    n_rows = context.store.snapshot(EVENTS.name).rows()
    plant_quarantine(context.store, "events", "item_id is null", n_rows // 9)
    plant_quarantine(context.store, "items", "title is missing", 50)
    assert warned(context) == ["few_events_quarantined", "few_items_quarantined"]
    assert report_of(context)["figures"]["quarantined_share"] == pytest.approx(0.1, abs=0.001)
    assert report_of(context)["figures"]["quarantined_items_share"] == 0.5


def test_a_clock_that_runs_ahead(context):
    plant_events(context.store, events_of("2021-06-01", AS_OF))
    plant_quarantine(context.store, "events", FUTURE, 20)
    assert warned(context) == ["clocks_are_right"]


def test_more_quarantined_than_kept_blocks(context):
    plant_events(context.store, events_of("2021-12-01", AS_OF))
    plant_quarantine(context.store, "events", "timestamp is null or unreadable", 700)
    with pytest.raises(AuditError, match="most_events_usable is 0.5.*, expected 0 to 0.5"):
        input_gate.run(context)


def test_nothing_to_judge_is_the_sentence_of_what_is_missing(context):
    with pytest.raises(MissingInputError, match="Expected events before 2022-01-01"):
        input_gate.run(context)


def test_only_recent_months_are_read(context, monkeypatch):
    """63 days before 2022-01-01 begin on 2021-10-30."""
    plant_events(context.store, events_of("2021-01-01", "2022-02-01"))
    read: list[str] = []
    real = input_gate.read_files
    monkeypatch.setattr(input_gate, "read_files", lambda store, uris, *more, **named: read.extend(uris) or real(store, uris, *more, **named))
    input_gate.run(context)
    months = {uri.split("month=")[1][:7] for uri in read if "month=" in uri}
    assert months == {"2021-10", "2021-11", "2021-12"}


def test_days_are_counted_from_midnight(tmp_path):
    made = make_context(tmp_path / "w", "2022-01-01", no_spark)
    plant_items(made.store)
    instants = ["2021-12-31T23:59:59.999999", "2021-12-31T00:00:00", "2021-12-30T23:59:59", "2021-10-30T00:00:00", "2021-10-29T23:59:59"]
    plant_events(made.store, [("u001", "i001", datetime.fromisoformat(text).replace(tzinfo=UTC)) for text in instants], n_files=1)
    input_gate.run(made)
    days = np.array(report_of(made)["events_by_day"])
    assert days.sum() == 4 and days[0] == 2 and days[1] == 1 and days[62] == 1
