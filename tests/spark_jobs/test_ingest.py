"""Every planted defect is quarantined under its reason and counted; reading a log in pieces is reading it whole; formats of time agree."""

import json
import os
from collections import Counter
from datetime import UTC, date, datetime

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from small_pipeline import (
    content,
    ingest_catalogue,
    ingest_log,
    instant,
    make_context,
    rows_of,
    source_overrides,
    versions,
    write_events,
    write_items,
)

from lurm.erasing.erasure import verify_users
from lurm.erasing.suppression import hashes_of, suppress
from lurm.errors import ConfigError, InputError
from lurm.schema import TIMESTAMP
from lurm.synthetic import WorldSettings, write_world
from lurm.synthetic_files import write_defects
from spark_jobs.ingest import run

ROWS = [("u1", "i1", "2020-01-05T10:00:00"), ("u2", "i1", "2020-01-31T23:59:59"), ("u1", "i2", "2020-02-01T00:00:00")]
FEBRUARY = [("u1", "i3", "2020-02-20T08:00:00"), ("u3", "i1", "2020-02-21T08:00:00")]
LATE = [("u9", "i2", "2020-01-20T12:00:00")]


@pytest.fixture
def context_of(tmp_path, spark):
    """context_of("events.deduplicate=true", warehouse="other"): the log is tmp_path/log, the catalogue tmp_path/catalogue."""

    def make(*overrides, warehouse="warehouse", events="log", items="catalogue"):
        paths = f"events.path={tmp_path / events}", f"items.path={tmp_path / items}", "items.categories_column="
        return make_context(tmp_path / warehouse, "2021-01-01", lambda: spark, *paths, *overrides)

    return make


def events_of(context):
    return sorted((row["user_id"], row["item_id"], row["timestamp"]) for row in rows_of(context.store, "events"))


def expected(rows):
    return sorted((user, item, instant(time)) for user, item, time in rows)


# ---- defects -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["parquet", "csv", "jsonl"])
def test_every_planted_defect_is_quarantined_under_its_reason(tmp_path, spark, format):
    small = WorldSettings(n_users=40, n_items=60, n_topics=6, n_months=6, events_per_user=10)
    summary = write_world(tmp_path, small, format=format)
    planted = write_defects(tmp_path, format, per_reason=3)
    if format == "jsonl":
        with open(tmp_path / "events" / "part-defects.jsonl", "a", encoding="utf-8") as file:
            file.write('not json at all\n"text"\n17\n[1, 2]\n{"user_id": "u1", \n')
    context = make_context(tmp_path / "warehouse", "2021-01-01", lambda: spark, *source_overrides(tmp_path))
    figures = run(context)

    events, items = planted["events"], planted["items"]
    reasons = {
        "user_id is null": events["user_id_null"], "item_id is null": events["item_id_null"],
        "timestamp is null or unreadable": events["timestamp_null"] + events.get("timestamp_unreadable", 0),
        "timestamp before 1970": events["before_1970"], "timestamp in the future of its file": events["in_future"],
    }
    if format == "jsonl":
        reasons["not a JSON object"] = 5
    assert figures["events"]["quarantined"] == reasons
    n_sound = summary.n_events + events["duplicate_row"] + events["unknown_item"]
    assert figures["events"]["kept"] == n_sound == context.store.snapshot("events").rows()
    assert figures["events"]["read"] == n_sound + sum(reasons.values())

    item_reasons = {"item_id is null": items["item_id_null"], "title is missing": items["title_null"] + items["title_blank"]}
    assert figures["items"]["quarantined"] == item_reasons
    assert figures["items"]["titles_cut"] == items["long_title"]
    assert figures["items"]["duplicates"] == items["duplicate_item"]
    assert figures["items"]["kept"] == small.n_items + items["markup_title"] + items["control_title"] + items["long_title"]
    kept = Counter((row["source"], row["reason"]) for row in rows_of(context.store, "quarantine"))
    assert kept == {**{("events", k): v for k, v in reasons.items()}, **{("items", k): v for k, v in item_reasons.items()}}

    titles = {row["item_id"]: row["title"] for row in rows_of(context.store, "items")}
    assert titles["i-markup_title-0"] == '<script>alert("lamp")</script> <b>Lamp</b> &amp; Shade'  # text is data, whatever it looks like
    assert titles["i-control_title-0"].startswith("Lamp with [31m red") and not any(ord(sign) < 32 for sign in titles["i-control_title-0"])
    assert len(titles["i-long_title-0"]) == 2_000
    if format != "csv":
        assert all(len(row["categories"]) == 2 for row in rows_of(context.store, "items")), "department and shelf"


def test_a_quarantined_row_can_be_read_again_from_its_json(tmp_path, context_of):
    write_items(tmp_path / "catalogue" / "a.parquet", {"i1": "lamp"})
    write_events(tmp_path / "log" / "a.parquet", [*ROWS, ("", "i7", "2020-01-01T00:00:00")])
    context = context_of()
    ingest_log(context)
    [row] = rows_of(context.store, "quarantine")
    assert row["reason"] == "user_id is null", "an empty id is no id"
    assert json.loads(row["row"])["item_id"] == "i7" and row["source_file"].endswith("log/a.parquet")


def test_all_rows_bad_is_one_sentence_and_nothing_is_committed(tmp_path, context_of):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu1,i1,yesterday\nu2,i1,soon\n,i1,2020-01-01\n")
    context = context_of(events="log.csv")
    with pytest.raises(InputError, match=r"found 2 x timestamp is null or unreadable, 1 x user_id is null; .*events\.time_format"):
        ingest_log(context)
    assert set(versions(context.store).values()) == {-1}


# ---- persons who must not come back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_rows_of_suppressed_persons_are_counted_and_kept_nowhere(tmp_path, context_of, monkeypatch, format):
    """Not as events, and not in the quarantine: neither their own unusable rows nor those of others that name them."""
    monkeypatch.setenv("LURM_SUPPRESSION_KEY", "a key of a test, long enough")
    rows = [("gone-000001", "i1", "2020-01-05T10:00:00"), (" gone-000001 ", "i2", "2020-02-05T10:00:00"), ("gone-000001", "", "2020-01-05T10:00:00"),
            ("", "by gone-000001", "2020-01-05T10:00:00"), ("gone-0000012", "i1", "2020-01-06T10:00:00"),
            ("Gone-000001", "i1", "2020-01-07T10:00:00"), ("u1", "i1", "2020-01-08T10:00:00"), ("u1", "", "2020-01-08T10:00:00"),
            ("17", "i1", "2020-01-08T10:00:00")]
    names = ("user_id", "item_id", "timestamp")
    lines = [",".join(names), *map(",".join, rows)] if format == "csv" else [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    lines += ['{"user_id": "gone-000001", "item', '{"user_id": "u2", "item'] if format == "jsonl" else []
    (tmp_path / f"log.{format}").write_text("\n".join(lines) + "\n")
    context = context_of(events=f"log.{format}")
    suppress(context.store, hashes_of(context.store, ["gone-000001", "17", "nobody-here"]), "e1")
    figures = ingest_log(context)
    broken = format == "jsonl"
    assert figures["suppressed"] == 5 + broken and figures["kept"] == 3 and figures["read"] == len(rows) + 2 * broken
    assert figures["quarantined"] == {"item_id is null": 1, **({"not a JSON object": 1} if broken else {})}
    assert sorted({row["user_id"] for row in rows_of(context.store, "events")}) == ["Gone-000001", "gone-0000012", "u1"], "other spellings, other ids"
    assert not any("gone-000001" in row["row"] for row in rows_of(context.store, "quarantine"))
    assert verify_users(context.store, ["gone-000001"]).traces == ()


def test_a_list_that_cannot_be_obeyed_stops_the_reading(tmp_path, context_of, monkeypatch):
    monkeypatch.setenv("LURM_SUPPRESSION_KEY", "a key of a test, long enough")
    write_events(tmp_path / "log" / "1.parquet", ROWS)
    context = context_of()
    suppress(context.store, hashes_of(context.store, ["u1"]), "e1")
    monkeypatch.setenv("LURM_SUPPRESSION_KEY", "another key, also long")
    with pytest.raises(ConfigError, match="got another"):
        ingest_log(context)
    monkeypatch.setenv("LURM_SUPPRESSION_KEY", "a key of a test, long enough")
    suppress(context.store, hashes_of(context.store, ["u2"]), "e2")
    with pytest.raises(InputError, match="3 x of a suppressed person"):
        ingest_log(context)
    assert set(versions(context.store).values()) == {-1}


# ---- in pieces -------------------------------------------------------------------------------------------------------------------------


def test_in_pieces_is_as_a_whole_and_only_touched_months_are_replaced(tmp_path, context_of):
    """A second file brings February events and a bad row, a third a late January event."""
    log = tmp_path / "log"
    write_events(log / "1.parquet", [*ROWS, ("", "i1", "2020-02-01T00:00:00")])
    context = context_of()
    assert ingest_log(context)["kept"] == 3
    january = content(context.store, "events")[:2]

    write_events(log / "2.parquet", [*FEBRUARY, ("", "i1", "2020-02-02T00:00:00"), ("u1", "", "2020-02-02T00:00:00")])
    figures = ingest_log(context)
    assert (figures["read"], figures["kept"]) == (4, 2), "the first file is not read again"
    paths = {file.path for file in context.store.snapshot("events").where(month="2020-01").files}
    assert content(context.store, "events")[: len(january)] == january

    assert ingest_log(context) == {"skipped": "nothing new"}
    write_events(log / "3.parquet", LATE)
    ingest_log(context)
    assert {file.path for file in context.store.snapshot("events").where(month="2020-01").files} != paths
    assert events_of(context) == expected(ROWS + FEBRUARY + LATE)

    whole = context_of(warehouse="whole")
    ingest_log(whole)
    assert content(whole.store, "events") == content(context.store, "events")
    assert content(whole.store, "quarantine") == content(context.store, "quarantine")


def test_a_day_of_bad_rows_only_is_quarantined_and_the_log_stays(tmp_path, context_of):
    write_events(tmp_path / "log" / "1.parquet", ROWS)
    context = context_of()
    ingest_log(context)
    before = content(context.store, "events")
    write_events(tmp_path / "log" / "2.parquet", [("", "i1", "2020-02-02T00:00:00")])
    figures = ingest_log(context)
    assert (figures["kept"], figures["quarantined"]) == (0, {"user_id is null": 1})
    assert content(context.store, "events") == before
    assert ingest_log(context) == {"skipped": "nothing new"}


def test_a_rerun_writes_nothing(tmp_path, context_of):
    write_items(tmp_path / "catalogue" / "a.parquet", {"i1": "lamp", "i2": "chair"})
    write_events(tmp_path / "log" / "1.parquet", ROWS)
    context = context_of()
    run(context)
    before = versions(context.store)
    assert run(context) == {"events": {"skipped": "nothing new"}, "items": {"skipped": "nothing new"}}
    assert versions(context.store) == before


@pytest.mark.parametrize("what", ["changed", "removed", "settings"])
def test_a_changed_past_is_read_again_as_a_whole(tmp_path, context_of, what):
    log = tmp_path / "log"
    write_events(log / "1.parquet", [*ROWS, ("", "i1", "2020-02-01T00:00:00")])
    write_events(log / "2.parquet", FEBRUARY)
    ingest_log(context_of())
    context, left = context_of(), FEBRUARY + LATE
    if what == "changed":
        write_events(log / "1.parquet", LATE)
    elif what == "removed":
        os.remove(log / "1.parquet")
        left = FEBRUARY
    else:
        context, left = context_of("events.item_column=user_id"), [(user, user, time) for user, _, time in ROWS + FEBRUARY]
    ingest_log(context)
    assert events_of(context) == expected(left)
    assert len(rows_of(context.store, "quarantine")) == (1 if what == "settings" else 0), "nothing stays of the old file"


def test_a_kill_between_quarantine_and_events_counts_no_row_twice(tmp_path, context_of, monkeypatch):
    log = tmp_path / "log"
    write_events(log / "1.parquet", [*ROWS, ("", "i1", "2020-02-01T00:00:00")])
    context = context_of()
    ingest_log(context)
    write_events(log / "2.parquet", [*FEBRUARY, ("", "i2", "2020-02-02T00:00:00")])
    commit = type(context.store).commit

    def killed(self, manifest, *rest):
        if manifest.table == "events":
            raise KeyboardInterrupt
        return commit(self, manifest, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(type(context.store), "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            ingest_log(context)
    write_events(log / "3.parquet", [*LATE, ("", "i3", "2020-02-02T00:00:00")])
    ingest_log(context)
    assert sorted(json.loads(row["row"])["item_id"] for row in rows_of(context.store, "quarantine")) == ["i1", "i2", "i3"]
    assert events_of(context) == expected(ROWS + FEBRUARY + LATE)


# ---- columns and times -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "time_format"),
    [
        (pa.array([1577836800, 1580515199], pa.int64()), "auto"),
        (pa.array([1577836800.0, 1580515199.0]), "s"),
        (pa.array([1577836800000, 1580515199000], pa.int64()), "ms"),
        (pa.array([1577836800000000, 1580515199000000], pa.int64()), "us"),
        (pa.array(["2020-01-01T00:00:00Z", "2020-02-01T02:59:59+03:00"]), "auto"),
        (pa.array(["2020-01-01 00:00:00", "2020-01-31 23:59:59"]), "auto"),
        (pa.array(["1577836800", "1580515199"]), "auto"),
        (pa.array(["1577836800000", "1580515199000"]), "ms"),
        (pa.array(["01.01.2020 00:00:00", "31.01.2020 23:59:59"]), "dd.MM.yyyy HH:mm:ss"),
        (pa.array([datetime(2020, 1, 1), datetime(2020, 1, 31, 23, 59, 59)], pa.timestamp("ms")), "auto"),
        (pa.array([datetime(2020, 1, 1), datetime(2020, 1, 31, 23, 59, 59)], pa.timestamp("us", tz="Asia/Tokyo")), "auto"),
    ],
    ids=["numbers", "s", "ms", "us", "iso", "sql", "text-numbers", "text-ms", "pattern", "naive", "zoned"],
)
def test_formats_of_time_agree(tmp_path, context_of, values, time_format):
    (tmp_path / "log").mkdir()
    pq.write_table(pa.table({"user_id": [1, 2], "item_id": ["i1", "i1"], "timestamp": values}), tmp_path / "log" / "a.parquet")
    context = context_of(f"events.time_format={time_format}")
    ingest_log(context)
    assert events_of(context) == expected([("1", "i1", "2020-01-01T00:00:00"), ("2", "i1", "2020-01-31T23:59:59")]), "integers are ids too"


def test_days_are_midnights(tmp_path, context_of):
    """As dates, and as text of a pattern without an hour."""
    for number, (values, time_format) in enumerate([(pa.array([date(2020, 1, 31)]), "auto"), (pa.array(["31.01.2020"]), "dd.MM.yyyy")]):
        (tmp_path / f"log{number}").mkdir()
        pq.write_table(pa.table({"user_id": ["u"], "item_id": ["i"], "timestamp": values}), tmp_path / f"log{number}" / "a.parquet")
        context = context_of(f"events.time_format={time_format}", events=f"log{number}", warehouse=f"warehouse{number}")
        ingest_log(context)
        assert events_of(context) == expected([("u", "i", "2020-01-31T00:00:00")])


def test_numbers_in_json_lines_are_seconds(tmp_path, context_of):
    rows = [{"user_id": 1, "item_id": "i1", "timestamp": 1577836800}, {"user_id": 2, "item_id": "i1", "timestamp": 1580515199.5}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    context = context_of(events="log.jsonl")
    ingest_log(context)
    assert events_of(context) == expected([("1", "i1", "2020-01-01T00:00:00"), ("2", "i1", "2020-01-31T23:59:59.500")])


def test_nanoseconds_of_pandas_lose_no_microsecond(tmp_path, context_of):
    """A float64 has steps of 256 ns here, so a division in floats would now and then be one microsecond short."""
    moments = pd.to_datetime([1_600_000_000_000_000_000 + step * 1_001_000 for step in range(200)])
    (tmp_path / "log").mkdir()
    pd.DataFrame({"user_id": "u", "item_id": "i", "timestamp": moments}).to_parquet(tmp_path / "log" / "a.parquet")
    context = context_of()
    assert pq.read_schema(tmp_path / "log" / "a.parquet").field("timestamp").type.unit == "ns"
    ingest_log(context)
    assert [time for _, _, time in events_of(context)] == [moment.to_pydatetime().replace(tzinfo=UTC) for moment in moments]


def test_a_pattern_for_numbers_is_refused(tmp_path, context_of):
    (tmp_path / "log").mkdir()
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["i"], "timestamp": [20200131]}), tmp_path / "log" / "a.parquet")
    with pytest.raises(ConfigError, match=r"time_format s, ms or us for the numbers in 'timestamp', got 'yyyyMMdd'"):
        ingest_log(context_of("events.time_format=yyyyMMdd"))


def test_event_types_weigh(tmp_path, context_of):
    """A weight of 0 leaves a type out, one that is not named counts 1."""
    (tmp_path / "log").mkdir()
    table = pa.table({
        "who": ["u1", "u1", "u1", "u2"], "what": ["i1", "i2", "i3", "i1"], "kind": ["view", "buy", "click", None],
        "at": pa.array([instant("2020-01-05")] * 4, TIMESTAMP),
    })
    pq.write_table(table, tmp_path / "log" / "a.parquet")
    columns = ["events.user_column=who", "events.item_column=what", "events.time_column=at", "events.type_column=kind"]
    context = context_of(*columns, "events.type_weights=view:0,buy:5")
    figures = ingest_log(context)
    assert (figures["read"], figures["kept"], figures["left_out"]) == (4, 3, 1)
    assert {(row["user_id"], row["item_id"]): row["weight"] for row in rows_of(context.store, "events")} == {
        ("u1", "i2"): 5, ("u1", "i3"): 1, ("u2", "i1"): 1,
    }
    with pytest.raises(ConfigError, match=r"type_weights.*-1"):
        ingest_log(context_of(*columns, "events.type_weights=view:-1"))


def test_deduplicate_drops_exact_copies_also_across_files(tmp_path, context_of):
    write_events(tmp_path / "log" / "1.parquet", ROWS + ROWS[:1])
    kept, once = context_of(warehouse="kept"), context_of("events.deduplicate=true")
    assert ingest_log(kept)["kept"] == 4, "copies are real in many logs"
    assert ingest_log(once)["duplicates_dropped"] == 1
    write_events(tmp_path / "log" / "2.parquet", ROWS[:2] + LATE)
    assert ingest_log(once)["duplicates_dropped"] == 2
    assert events_of(once) == expected(ROWS + LATE)


def test_a_delta_table_is_a_source(tmp_path, context_of):
    table = pq.read_table(write_events(tmp_path / "rows.parquet", ROWS))
    write_deltalake(str(tmp_path / "log"), table)
    context = context_of()
    ingest_log(context)
    assert events_of(context) == expected(ROWS)
    write_deltalake(str(tmp_path / "log"), pq.read_table(write_events(tmp_path / "more.parquet", FEBRUARY)), mode="append")
    assert ingest_log(context)["read"] == 2
    assert events_of(context) == expected(ROWS + FEBRUARY)
    write_deltalake(str(tmp_path / "log"), table, mode="overwrite")  # the old files still lie there, but belong to no version any more
    ingest_log(context)
    assert events_of(context) == expected(ROWS)


@pytest.mark.parametrize(
    ("categories", "result"),
    [
        (pa.array([["Home", "Lamps"], None]), [["Home", "Lamps"], []]),
        (pa.array(["Home", None]), [["Home"], []]),
    ],
    ids=["lists", "text"],
)
def test_categories_are_text_or_lists(tmp_path, context_of, categories, result):
    (tmp_path / "catalogue").mkdir()
    pq.write_table(pa.table({"item_id": [7, 8], "title": ["lamp", "chair"], "tags": categories}), tmp_path / "catalogue" / "a.parquet")
    context = context_of("items.categories_column=tags")
    ingest_catalogue(context)
    assert [row["categories"] for row in sorted(rows_of(context.store, "items"), key=lambda row: row["item_id"])] == result


def test_an_item_with_two_titles_gets_the_first_in_the_alphabet(tmp_path, context_of):
    write_items(tmp_path / "catalogue" / "a.parquet", {"i1": "zebra lamp"})
    write_items(tmp_path / "catalogue" / "b.parquet", {"i1": "apple lamp", "i2": "chair"})
    context = context_of()
    assert ingest_catalogue(context)["duplicates"] == 1
    assert {row["item_id"]: row["title"] for row in rows_of(context.store, "items")} == {"i1": "apple lamp", "i2": "chair"}
