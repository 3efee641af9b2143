"""Spark's bags are numpy's bags, for any date; a period is rebuilt exactly when its events, or what is known of its items, changed."""

import dataclasses
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_pipeline import ingest_log, instant, make_context, no_spark, plant_interests, plant_model, rows_of, run, versions, write_events

from lurm.bag_of_interests import add_counts, read_lives
from lurm.errors import InputError
from lurm.periods import month_number, until
from lurm.schema import MONTH, TIMESTAMP, YEAR
from spark_jobs.build_bags import parcels
from spark_jobs.build_bags import run as build_bags

INTERESTS = {f"i{number}": number % 7 for number in range(50)}  # i50 to i59 have none


@pytest.fixture
def context_of(tmp_path, spark):
    """context_of(as_of): a warehouse with a planted model and interests; the log is the folder tmp_path/log."""

    def make(as_of, *overrides, warehouse="warehouse", spark_of=lambda: spark, interests=INTERESTS):
        context = make_context(tmp_path / warehouse, as_of, spark_of, f"events.path={tmp_path / 'log'}", *overrides, model_id="planted")
        if not context.store.exists("artifacts"):
            plant_model(context.store)
            plant_interests(context.store, interests)
        return context

    return make


def random_log(path: Path, n_events: int = 1_500, seed: int = 3) -> pa.Table:
    """Events of 40 users from November 2019 to May 2020 on i0 to i59; the kind `buy` counts 3."""
    rng = np.random.default_rng(seed)
    start, end = (int(instant(text).timestamp()) for text in ("2019-11-01", "2020-06-01"))
    table = pa.table({
        "user_id": [f"u{number}" for number in rng.integers(0, 40, n_events)],
        "item_id": [f"i{number}" for number in rng.integers(0, 60, n_events)],
        "timestamp": pa.array(rng.integers(start, end, n_events) * 1_000_000, pa.int64()).cast(TIMESTAMP),
        "kind": np.where(rng.random(n_events) < 0.2, "buy", "view"),
    })
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return table


def numpy_bags(log: pa.Table, as_of: str, scale: str, interests: dict[str, int] = INTERESTS) -> dict:
    """(user, period number) -> {interest: count}, by the definition: numpy over the raw events before as_of."""
    rows = [row for row in log.to_pylist() if row["timestamp"] < instant(as_of) and row["item_id"] in interests]
    months = np.array([month_number(row["timestamp"].isoformat()) for row in rows])
    cells = np.array([interests[row["item_id"]] for row in rows])
    weights = np.array([3 if row.get("kind") == "buy" else 1 for row in rows])
    lives = add_counts(np.array([row["user_id"] for row in rows]), months if scale == MONTH else months // 12, cells, weights)
    return as_mapping(lives)


def as_mapping(lives) -> dict:
    bags = {}
    for user, first, last in zip(lives.user_ids, lives.row_offsets[:-1], lives.row_offsets[1:], strict=True):
        for row in range(first, last):
            cells = slice(lives.offsets[row], lives.offsets[row + 1])
            bags[user, int(lives.periods[row])] = dict(zip(lives.interest_ids[cells].tolist(), lives.counts[cells].tolist(), strict=True))
    return bags


def spark_bags(context, scale: str) -> dict:
    bags = {}
    for lives, _ in read_lives(context.store, context.bags()):
        bags |= as_mapping(lives[scale])
    return bags


def files_of(context, **conditions) -> set[str]:
    return {file.path for file in context.store.snapshot("bags").where(**conditions).files}


def test_the_bag_of_spark_is_the_bag_of_numpy(tmp_path, context_of):
    log = random_log(tmp_path / "log" / "a.parquet")
    context = context_of("2020-06-01", "events.type_column=kind", "events.type_weights=buy:3")
    ingest_log(context)
    figures = build_bags(context)
    assert figures["months"]["periods"] == 7 and figures["years"]["periods"] == 2
    weight_of = {"buy": 3, "view": 1}
    assert figures["months"]["unassigned_events"] == sum(
        weight_of[row["kind"]] for row in log.to_pylist() if row["item_id"] not in INTERESTS
    )
    for scale in (MONTH, YEAR):
        assert spark_bags(context, scale) == numpy_bags(log, "2020-06-01", scale)

    moments = defaultdict(list)
    for row in log.to_pylist():
        if row["item_id"] in INTERESTS:
            moments[row["user_id"], row["timestamp"].strftime("%Y-%m")].append(row["timestamp"])
    strangers = {(row["user_id"], row["timestamp"].strftime("%Y-%m")) for row in log.to_pylist()} - moments.keys()
    for row in rows_of(context.store, "bags", scale=MONTH):
        if (row["user_id"], row["period"]) in strangers:  # an empty bag: he acted, on nothing we know
            strangers.remove((row["user_id"], row["period"]))
            assert (row["interest_ids"], row["counts"], row["n_events"], row["first_event_at"]) == ([], [], 0, None)
            continue
        times = moments.pop((row["user_id"], row["period"]))
        assert (row["first_event_at"], row["last_event_at"]) == (min(times), max(times))
        assert row["n_events"] == sum(row["counts"]) and row["interest_ids"] == sorted(set(row["interest_ids"]))
    assert not moments and not strangers


@pytest.mark.parametrize("rows_per_file", [40, 1_000])
def test_whoever_counts_the_files_are_the_same(tmp_path, context_of, monkeypatch, rows_per_file):
    """One pass over files as ingest leaves them, in this process or in Spark's workers, many parts a task or one, and Spark's grouping of any
    files: equal bytes, equal figures, in an open month too."""
    random_log(tmp_path / "log" / "a.parquet", 4_000)
    settings = ("events.type_column=kind", "events.type_weights=buy:3", f"spark.rows_per_file={rows_per_file}", "spark.user_buckets=3")
    here = context_of("2020-05-15", *settings, warehouse="here")
    sent, alone, grouped = (context_of("2020-05-15", *settings, "spark.in_process_mb=0", warehouse=name) for name in ("sent", "alone", "grouped"))
    for context in (here, sent, alone, grouped):
        ingest_log(context)
    figures = build_bags(dataclasses.replace(here, spark=lambda: pytest.fail("a small log is counted here")))
    assert here.bags().files
    for context, name, value in ((sent, "ROWS_AT_ONCE", 50), (alone, "SMALL_ROWS", 0), (grouped, "sorted_parts", lambda *_: None)):
        monkeypatch.setattr(f"spark_jobs.build_bags.{name}", value)
        assert build_bags(context) == figures
        assert files_of(context) == files_of(here)


def test_parcels_hold_small_parts_together_up_to_what_is_counted_at_once():
    def part(rows):
        return {"period": "2020-01", "until": "2020-02-01", "bucket": "1", "files": ["f"], "size": 2 * rows, "rows": rows}

    sizes = [16_384] * 10 + [16_385, 1, 1, 500_000, 1]
    tasks = parcels([part(rows) for rows in sizes])
    assert [[one["rows"] for one in task["parts"]] for task in tasks] == [[16_384] * 8, [16_384] * 2, [16_385], [1, 1], [500_000], [1]]
    assert [task["size"] for task in tasks] == [2 * 131_072, 2 * 32_768, 2 * 16_385, 4, 1_000_000, 2]
    assert [("period" in task, task["scale"]) for task in tasks] == [(len(task["parts"]) == 1, MONTH) for task in tasks]
    assert parcels([]) == []


def test_files_that_are_not_cut_by_bucket_are_counted_too(tmp_path, context_of, monkeypatch):
    """As after a change of spark.user_buckets, or with one user a file that tells nothing: they are found out, and Spark sorts."""
    log = random_log(tmp_path / "log" / "a.parquet").drop_columns("kind")
    ingest_log(context_of("2020-06-01", "spark.user_buckets=1"))
    other = context_of("2020-06-01", "spark.user_buckets=5")
    assert build_bags(other)["months"]["periods"] == 7
    assert spark_bags(other, MONTH) == numpy_bags(log, "2020-06-01", MONTH)
    assert set(other.bags().values("bucket")) == {"0", "1", "2", "3", "4"}

    blind = context_of("2020-06-01", "spark.user_buckets=5", warehouse="blind")
    ingest_log(context_of("2020-06-01", "spark.user_buckets=1", warehouse="blind"))
    monkeypatch.setattr("spark_jobs.build_bags.sorted_parts", lambda events, as_of, _: [
        {"period": file.partition["month"], "until": until(file.partition["month"], as_of), "bucket": "0",
         "files": [f"{events.root}/{file.path}"], "size": file.size, "rows": file.rows} for file in events.files
    ])
    build_bags(blind)
    assert files_of(blind) == files_of(other), "workers look at every user"


def test_workers_may_read_the_files_with_arrow(tmp_path, context_of):
    """As for an object store, where Spark has no connector."""
    log = random_log(tmp_path / "log" / "a.parquet").drop_columns("kind")
    context = context_of("2020-06-01")
    ingest_log(context)
    context.store.is_local = False
    build_bags(context)
    assert spark_bags(context, YEAR) == numpy_bags(log, "2020-06-01", YEAR)


def test_more_items_than_a_worker_may_know_are_joined_by_spark(tmp_path, context_of):
    log = random_log(tmp_path / "log" / "a.parquet").drop_columns("kind")
    context = context_of("2020-06-01", "spark.broadcast_mb=0")
    ingest_log(context)
    build_bags(context)
    assert spark_bags(context, MONTH) == numpy_bags(log, "2020-06-01", MONTH)


def test_an_as_of_in_the_middle_of_a_month(tmp_path, context_of):
    """until says up to when a period is counted: later dates replace what was counted of the open month, earlier ones destroy nothing."""
    log = random_log(tmp_path / "log" / "a.parquet").drop_columns("kind")
    middle = context_of("2020-03-15")
    ingest_log(middle)
    build_bags(middle)
    assert spark_bags(middle, MONTH) == numpy_bags(log, "2020-03-15", MONTH)
    assert spark_bags(middle, YEAR) == numpy_bags(log, "2020-03-15", YEAR)
    closed = files_of(middle, period="2020-02")

    later = context_of("2020-04-10")
    assert build_bags(later)["months"]["periods"] == 2, "March, now closed, and April; nothing else"
    assert spark_bags(later, MONTH) == numpy_bags(log, "2020-04-10", MONTH)
    assert spark_bags(later, YEAR) == numpy_bags(log, "2020-04-10", YEAR)
    assert files_of(later, period="2020-02") == closed
    assert later.store.snapshot("bags").where(period="2020-03").values("until") == ["2020-04-01"], "the open month is gone"
    before = later.bags().digest()

    backfill = context_of("2020-03-10")
    build_bags(backfill)
    for scale in (MONTH, YEAR):
        assert spark_bags(backfill, scale) == numpy_bags(log, "2020-03-10", scale)
    assert context_of("2020-04-10").bags().digest() == before


def test_a_late_event_rebuilds_its_month_and_its_year_only(tmp_path, context_of):
    log = random_log(tmp_path / "log" / "a.parquet").drop_columns("kind")
    context = context_of("2020-06-01")
    ingest_log(context)
    build_bags(context)
    before = {period: files_of(context, period=period) for period in context.bags().values("period")}

    write_events(tmp_path / "log" / "b.parquet", [("u1", "i1", "2020-02-10T00:00:00"), ("late", "i2", "2020-02-11T00:00:00")])
    ingest_log(context)
    figures = build_bags(context)
    assert figures["months"]["periods"] == 1 and figures["years"]["periods"] == 1
    changed = {period for period, files in before.items() if files_of(context, period=period) != files}
    assert changed == {"2020-02", "2020"}
    whole = pa.concat_tables([log, pq.read_table(tmp_path / "log" / "b.parquet")])
    assert spark_bags(context, MONTH) == numpy_bags(whole, "2020-06-01", MONTH)
    assert spark_bags(context, YEAR) == numpy_bags(whole, "2020-06-01", YEAR)


def test_a_rerun_starts_no_spark_and_writes_nothing(tmp_path, context_of):
    random_log(tmp_path / "log" / "a.parquet")
    ingest_log(context_of("2020-06-01"))
    build_bags(context_of("2020-06-01"))
    again = context_of("2020-06-01", spark_of=no_spark)
    before = versions(again.store)
    assert build_bags(again) == {"months": {"skipped": "nothing changed"}, "years": {"skipped": "nothing changed"}}
    assert versions(again.store) == before


def test_a_month_with_unknown_items_is_counted_again_when_they_get_an_interest(tmp_path, context_of):
    log = write_events(tmp_path / "log" / "a.parquet", [
        ("u1", "i1", "2020-01-05T00:00:00"), ("u1", "new", "2020-01-06T00:00:00"), ("u1", "i2", "2020-02-06T00:00:00"),
    ])
    context = context_of("2020-03-01")
    ingest_log(context)
    assert build_bags(context)["months"]["unassigned_events"] == 1
    february = files_of(context, period="2020-02")
    plant_interests(context.store, {"new": 5}, "two")
    assert build_bags(context)["months"] == {"periods": 1, "rows": 1, "unassigned_events": 0}
    assert spark_bags(context, MONTH) == numpy_bags(pq.read_table(log), "2020-03-01", MONTH, {**INTERESTS, "new": 5})
    assert files_of(context, period="2020-02") == february


def test_months_without_a_usable_event_are_no_obstacle(tmp_path, context_of, spark):
    """One month has unknown items only; of the open month all events lie at or after as_of. Neither may hide the others or stay undone."""
    sound = [("u1", "i1", "2020-01-05T00:00:00"), ("u2", "i2", "2020-03-06T00:00:00")]
    write_events(tmp_path / "log" / "a.parquet", [*sound, ("u1", "i55", "2019-02-06T00:00:00")])
    context = context_of("2020-04-10")
    ingest_log(context)
    build_bags(context)
    without = context.bags().digest()
    write_events(tmp_path / "log" / "b.parquet", [("u1", "i1", "2020-04-10T00:00:00")])  # as_of itself is not before as_of
    ingest_log(context)
    build_bags(context)
    assert context.bags().digest() == without, "events at or after as_of change nothing"
    table = pq.read_table(tmp_path / "log" / "a.parquet")
    assert spark_bags(context, MONTH) == numpy_bags(table, "2020-04-10", MONTH)
    assert spark_bags(context, YEAR) == numpy_bags(table, "2020-04-10", YEAR)
    again = context_of("2020-04-10", spark_of=no_spark)
    assert build_bags(again) == {"months": {"skipped": "nothing changed"}, "years": {"skipped": "nothing changed"}}


def test_what_left_the_log_leaves_the_bags(tmp_path, context_of):
    """A pinned model, and a log that was exported again without two of its months, one of them all of its year."""
    kept = [("u1", "i1", "2020-01-05T00:00:00")]
    write_events(tmp_path / "log" / "a.parquet", [*kept, ("u1", "i2", "2020-02-05T00:00:00"), ("u1", "i2", "2019-02-05T00:00:00")])
    context = context_of("2020-04-01")
    ingest_log(context)
    build_bags(context)
    log = write_events(tmp_path / "log" / "a.parquet", kept)
    ingest_log(context)
    build_bags(context)
    assert spark_bags(context, MONTH) == numpy_bags(pq.read_table(log), "2020-04-01", MONTH)
    assert spark_bags(context, YEAR) == numpy_bags(pq.read_table(log), "2020-04-01", YEAR)


def test_no_item_with_an_interest_is_one_sentence(tmp_path, context_of):
    write_events(tmp_path / "log" / "a.parquet", [("u1", "other", "2020-01-05T00:00:00")])
    context = context_of("2020-04-01")
    ingest_log(context)
    with pytest.raises(InputError, match="events before 2020-04-01 of items that have an interest, found none"):
        build_bags(context)
    assert context.store.snapshot("bags").version == -1


def test_skew_changes_nothing(tmp_path, context_of):
    """One user with 20,000 events in one month, and an item that has half of all events."""
    rng = np.random.default_rng(5)
    users = np.where(np.arange(24_000) < 20_000, "whale", np.char.add("u", rng.integers(0, 30, 24_000).astype(str)))
    items = np.where(rng.random(24_000) < 0.5, "i0", np.char.add("i", rng.integers(1, 60, 24_000).astype(str)))
    seconds = int(instant("2020-01-01").timestamp()) + rng.integers(0, 31 * 86_400, 24_000)
    table = pa.table({"user_id": users, "item_id": items, "timestamp": pa.array(seconds * 1_000_000).cast(TIMESTAMP)})
    (tmp_path / "log").mkdir()
    pq.write_table(table, tmp_path / "log" / "a.parquet")
    context = context_of("2020-02-01")
    ingest_log(context)
    build_bags(context)
    assert spark_bags(context, MONTH) == numpy_bags(table, "2020-02-01", MONTH)


def test_a_log_without_a_date_before_as_of_is_one_sentence(tmp_path, context_of):
    random_log(tmp_path / "log" / "a.parquet", 20)
    context = context_of("2019-11-01")
    ingest_log(context)
    with pytest.raises(InputError.__mro__[1], match="Expected events before 2019-11-01"):
        run(context, ["build-bags"])
