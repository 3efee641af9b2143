"""Pairs and seen items come from events before as_of only, no user gives more than a share, and Spark counts what Arrow counts."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_pipeline import content, instant, make_context, rows_of, write_events, write_items

from lurm.errors import InputError
from lurm.schema import TIMESTAMP
from lurm.synthetic_files import HEAVY_USER
from spark_jobs.build_pairs import run as build_pairs
from spark_jobs.ingest import run as ingest

AS_OF = "2020-04-01"
HOUR = 3_600


@pytest.fixture
def context_of(tmp_path, spark):
    def make(*overrides, as_of=AS_OF, warehouse="warehouse"):
        paths = f"events.path={tmp_path / 'log'}", f"items.path={tmp_path / 'catalogue'}", "items.categories_column="
        return make_context(tmp_path / warehouse, as_of, lambda: spark, *paths, *overrides)

    return make


@pytest.fixture
def log(tmp_path) -> pa.Table:
    """30 users with 20 events each and one with 3,000, on i0 to i39, one an hour until and beyond as_of; i38 and i39 have no title."""
    rng = np.random.default_rng(1)
    users = np.concatenate([np.repeat([f"u{number}" for number in range(30)], 20), np.repeat(HEAVY_USER, 3_000)])
    seconds = int(instant(AS_OF).timestamp()) + HOUR * rng.integers(-2_000, 200, len(users))
    items = [f"i{number}" for number in rng.integers(0, 40, len(users))]
    table = pa.table({"user_id": users, "item_id": items, "timestamp": pa.array(seconds * 1_000_000).cast(TIMESTAMP),
                      "kind": np.where(rng.random(len(users)) < 0.3, "buy", "view")})
    (tmp_path / "log").mkdir()
    pq.write_table(table, tmp_path / "log" / "a.parquet")
    write_items(tmp_path / "catalogue" / "a.parquet", {f"i{number}": f"title of {number}" for number in range(38)})
    return table


def test_seen_items_are_those_of_a_group_by(log, context_of):
    context = context_of("events.type_column=kind", "events.type_weights=buy:3")
    ingest(context)
    build_pairs(context)
    before = [row for row in log.to_pylist() if row["timestamp"] < instant(AS_OF) and row["item_id"] not in ("i38", "i39")]
    n_events = Counter()
    for row in before:
        n_events[row["item_id"]] += 3 if row["kind"] == "buy" else 1
    n_users = Counter(item for item, _ in {(row["item_id"], row["user_id"]) for row in before})
    seen = rows_of(context.store, "seen_items", as_of=AS_OF)
    assert {row["item_id"]: (row["n_events"], row["n_users"], row["title"]) for row in seen} == {
        item: (n_events[item], n_users[item], f"title of {item[1:]}") for item in n_events
    }


def test_pairs_are_two_items_of_one_user_less_than_beta_days_apart_and_before_as_of(log, context_of):
    context = context_of("pairs.beta_days=0.25")
    ingest(context)
    build_pairs(context)
    times: dict[tuple, list[int]] = {}
    for row in log.to_pylist():
        if row["timestamp"] < instant(AS_OF):
            times.setdefault(row["item_id"], []).append((row["user_id"], int(row["timestamp"].timestamp())))
    pairs = rows_of(context.store, "item_pairs", as_of=AS_OF)
    assert len(pairs) > 300
    for row in pairs:
        left, right = times[row["left_item_id"]], times[row["right_item_id"]]
        assert row["left_item_id"] != row["right_item_id"] and row["left_title"] == f"title of {row['left_item_id'][1:]}"
        assert any(one == other and abs(a - b) < 6 * HOUR for one, a in left for other, b in right), row


def test_a_heavy_user_gives_no_more_than_the_cap(log, context_of):
    """The 30 users have 20 events each: whatever is above 30 x 20 pairs is the heavy user's, and that is at most the cap."""
    few, all_pairs = context_of("pairs.max_pairs_per_user=50"), context_of("pairs.max_pairs_per_user=100000", warehouse="all")
    for context in (few, all_pairs):
        ingest(context)
    n_all = build_pairs(all_pairs)["candidates"]
    n_few = build_pairs(few)["candidates"]
    assert n_all > 2_500, "without a cap he dominates"
    assert 50 < n_few <= 30 * 20 + 50


def test_the_cap_on_all_pairs_takes_a_random_share(log, context_of):
    context = context_of("pairs.max_pairs_per_user=100000")
    ingest(context)
    everything = {row["order_key"] for row in rows_of(context.store, "item_pairs")} if build_pairs(context) else set()
    capped = context_of("pairs.max_pairs_per_user=100000", "pairs.max_pairs=500")
    build_pairs(capped)
    chosen = {row["order_key"] for row in rows_of(capped.store, "item_pairs")}
    assert chosen < everything and max(chosen) < min(everything - chosen), "those with the smallest keys, and keys are random"
    assert 300 < len(chosen) < 600, "500 of the candidates, less those without a title"


def test_events_at_or_after_as_of_change_nothing(tmp_path, log, context_of):
    one, other = context_of(as_of="2020-03-15"), context_of(as_of="2020-03-15", warehouse="other")
    ingest(one)
    build_pairs(one)
    keep = np.array([time < instant("2020-03-15") for time in log["timestamp"].to_pylist()])
    extra = write_events(tmp_path / "extra.parquet", [("u1", "i1", "2020-03-15T00:00:00"), ("new", "i0", "2020-03-16T00:00:00")])
    table = pa.concat_tables([log.filter(pa.array(keep)).drop_columns("kind"), pq.read_table(extra)])
    pq.write_table(table, tmp_path / "log" / "a.parquet")
    ingest(other)
    build_pairs(other)
    for table in ("item_pairs", "seen_items"):
        assert content(one.store, table) == content(other.store, table)
    assert one.encoder_id() == other.encoder_id()


def test_the_result_does_not_depend_on_how_spark_cuts_the_work(log, context_of, spark, monkeypatch):
    """Also with lives longer than a run of max_events_per_user, and with files that hold a few hundred rows."""
    settings = "pairs.max_events_per_user=700", "spark.rows_per_file=300", "pairs.max_pairs_per_user=2000"
    one, other = context_of(*settings), context_of(*settings, warehouse="other")
    ingest(one)
    build_pairs(one)
    names = {"spark.sql.shuffle.partitions": "7", "spark.sql.execution.arrow.maxRecordsPerBatch": "97"}
    before = {name: spark.conf.get(name) for name in names}
    try:
        for name, value in names.items():
            spark.conf.set(name, value)
        monkeypatch.setattr("spark_jobs.build_pairs.EVENTS_A_PART", 1_000)  # four parts, where there was one
        ingest(other)
        build_pairs(other)
    finally:
        for name, value in before.items():
            spark.conf.set(name, value)
    assert rows_of(one.store, "item_pairs")
    for table in ("events", "items", "item_pairs", "seen_items"):
        assert content(one.store, table) == content(other.store, table), table


def test_no_pairs_is_one_sentence_and_nothing_is_committed(tmp_path, context_of):
    write_events(tmp_path / "log" / "a.parquet", [("u1", "i1", "2020-01-05T00:00:00"), ("u1", "i2", "2020-03-05T00:00:00")])
    write_items(tmp_path / "catalogue" / "a.parquet", {"i1": "lamp", "i2": "chair"})
    context = context_of()
    ingest(context)
    with pytest.raises(InputError, match="less than 5 days apart before 2020-04-01, found none"):
        build_pairs(context)
    assert context.store.snapshot("seen_items").version == context.store.snapshot("item_pairs").version == -1
