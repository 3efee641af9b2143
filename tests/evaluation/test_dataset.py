"""The data set at a cut: nothing later reaches the history, and views keep the last events by hand."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from small_evaluation import CUT, settings, tables

from lurm.errors import ConfigError, InputError
from lurm.evaluation.baselines.method import History
from lurm.evaluation.dataset import _catalogue, load_dataset, make_dataset, micros, table_fingerprint, view_of
from lurm.evaluation.evaluation_settings import DataSettings, ViewSettings


def stamps(*days: str) -> pa.Array:
    return pa.array([np.datetime64(day, "us").astype(object) for day in days], pa.timestamp("us", tz="UTC"))


def small(**changes):
    events, items, users = tables()
    return make_dataset(settings(**changes), events, _catalogue(items), users)


def test_the_history_ends_at_the_cut_and_its_rows_are_in_order():
    dataset = small()
    events = dataset.history.events
    assert events.column_names == ["user_id", "item_id", "timestamp"] and pc.max(events["timestamp"]).as_py() < stamps(CUT)[0].as_py()
    assert events.equals(events.sort_by([("user_id", "ascending"), ("timestamp", "ascending")]))
    assert pc.min(dataset.future["timestamp"]).as_py() >= stamps(CUT)[0].as_py()
    assert dataset.users.tolist() == dataset.attributes["user_id"].to_pylist() == sorted(dataset.users)
    first = events.filter(pc.equal(events["user_id"], dataset.users[0]))
    assert dataset.n_events[0] == len(first) and dataset.n_events.min() >= 4


def test_what_comes_later_changes_nothing_that_methods_see():
    events, items, users = tables()
    later = pa.table({"user_id": ["u001", "u002"], "item_id": ["i99", "i00"], "timestamp": stamps(CUT, "2021-02-01")})
    more = pa.concat_tables([items, pa.table({"item_id": ["i99"], "title": ["tea of tomorrow"], "category": [["tea", "shelf0"]]})])
    now = make_dataset(settings(), pa.concat_tables([events, later]), _catalogue(more), users)
    before = small()
    for name in ("events", "items"):
        assert table_fingerprint(getattr(now.history, name)) == table_fingerprint(getattr(before.history, name))
    assert now.users.tolist() == before.users.tolist() and len(now.future) > len(before.future)
    past = pa.table({"user_id": ["u001"], "item_id": ["i00"], "timestamp": stamps("2020-12-31")})
    other = make_dataset(settings(), pa.concat_tables([events, past]), _catalogue(items), users)
    assert table_fingerprint(other.history.events) != table_fingerprint(before.history.events)


def test_who_is_evaluated():
    everybody, some = small(), small(where="open", min_events=15)
    assert 0 < len(some.users) < len(everybody.users) and "u000" not in some.users and some.n_events.min() >= 15
    assert len(some.history.events) == len(everybody.history.events), "the others are there to learn from"
    few = small(max_users=40)
    assert len(few.users) == 40 and set(few.users) < set(everybody.users)
    recent = small(active_days=3)
    last = everybody.history.events.group_by("user_id").aggregate([("timestamp", "max")])
    of_user = dict(zip(last["user_id"].to_pylist(), last["timestamp_max"].cast(pa.int64()).to_pylist(), strict=True))
    assert recent.users.tolist() == [user for user in everybody.users if of_user[user] >= micros("2020-12-29")]


def test_items_without_title_or_category_are_plain():
    raw = pa.table({"item_id": ["a", "b", "a", "c"], "title": ["tea", None, "cake", "x"], "category": ["hot", "", "cold", None]})
    assert _catalogue(raw).to_pylist() == [
        {"item_id": "a", "title": "tea", "category": ["hot"]}, {"item_id": "b", "title": "", "category": []},
        {"item_id": "c", "title": "x", "category": []},
    ]
    assert _catalogue(raw.drop(["category"]))["category"].to_pylist() == [[], [], []]


def test_views_by_hand():
    events = pa.table({"user_id": ["a", "a", "a", "b", "c", "c"], "item_id": list("xyzxyz"),
                       "timestamp": stamps("2020-01-01", "2020-12-30", "2020-12-31", "2020-01-01", "2020-12-01", "2020-12-30")})
    history = History(events, pa.table({"item_id": list("xyz")}), CUT)
    assert view_of(history, ViewSettings("all")).events.equals(events)
    last = view_of(history, ViewSettings("last", last_events=2)).events
    assert list(zip(*(last[name].to_pylist() for name in ("user_id", "item_id")))) == [("a", "y"), ("a", "z"), ("b", "x"), ("c", "y"), ("c", "z")]
    recent = view_of(history, ViewSettings("recent", last_days=2)).events
    assert list(zip(*(recent[name].to_pylist() for name in ("user_id", "item_id")))) == [("a", "y"), ("a", "z"), ("c", "z")]
    assert len(view_of(history, ViewSettings("none", last_days=1, last_events=1)).events) == 1
    assert view_of(History(events.slice(0, 0), history.items, CUT), ViewSettings("last", last_events=2)).events.num_rows == 0


def test_files_are_read_and_refused(tmp_path):
    for name, table in zip(("e", "i", "u"), tables(), strict=True):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    files = DataSettings("e.parquet", "i.parquet", "u.parquet")
    read = load_dataset(settings(data=files), str(tmp_path), str(tmp_path))
    assert table_fingerprint(read.history.events) == table_fingerprint(small().history.events)
    for changes, error, sentence in [
        ({"data": replace(files, events="x.parquet")}, InputError, "Expected Parquet at .*x.parquet.*give its folder with --data"),
        ({"data": replace(files, events="u.parquet")}, InputError, "Expected column 'item_id' in .*u.parquet.*got user_id, kind, age, open"),
        ({"data": replace(files, items="")}, ConfigError, "Expected data.events and data.items"),
        ({"data": DataSettings(world={"users": 3})}, ConfigError, "Unknown setting 'data.world.users'"),
        ({"data": files, "where": "closed"}, InputError, "Expected a column 'closed' of the users"),
        ({"data": files, "min_events": 400}, InputError, "Expected at least 6 users with 400 titled events before 2021-01-01, got 0"),
    ]:
        with pytest.raises(error, match=sentence):
            load_dataset(settings(**changes), str(tmp_path), str(tmp_path))


def test_a_synthetic_world_is_written_once(tmp_path):
    world = DataSettings(world={"n_users": 60, "n_items": 60, "n_topics": 4, "n_months": 14, "events_per_user": 20})
    chosen = settings(data=world, cut="2019-12-01")
    first = load_dataset(chosen, ".", str(tmp_path))
    (folder,) = tmp_path.glob("world-*")
    written = (folder / "complete").stat().st_mtime_ns
    assert table_fingerprint(load_dataset(chosen, ".", str(tmp_path)).history.events) == table_fingerprint(first.history.events)
    assert (folder / "complete").stat().st_mtime_ns == written and "persona" in first.attributes.column_names
