"""Users embedded bucket by bucket are users embedded one by one; who has no usable event is absent and counted."""

from collections import defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_pipeline import (
    PINNED_STAGES,
    copy_chain,
    instant,
    make_context,
    no_spark,
    published,
    rows_of,
    run,
    source_overrides,
    write_events,
    write_items,
)

from lurm import open_table
from lurm.bag_of_interests import read_lives
from lurm.errors import MissingInputError
from lurm.periods import end_month
from lurm.schema import MONTH, YEAR
from lurm.smen.inference import embed, load_model
from spark_jobs.embed_users import run as embed_users


def test_a_user_alone_has_the_vector_he_has_among_all(finished):
    context, _ = finished
    smen, info = load_model(context.store.get_artifact("models", context.trained_model_id()))
    users, vectors = published(context.store, context.as_of)
    place = {user: number for number, user in enumerate(users)}
    assert len(place) == len(users) and np.isfinite(vectors).all()
    for lives, _ in read_lives(context.store, context.bags().where(bucket="0")):
        for number in range(0, lives[MONTH].n_users, 20):
            one = lives[MONTH].take(np.array([number])), lives[YEAR].take(np.array([number]))
            vector = embed(smen.eval(), info, *one, end_month(context.as_of), 1, "cpu")
            np.testing.assert_allclose(vectors[place[one[0].user_ids[0]]], vector[0], atol=1e-5)


def test_facts_are_those_of_the_log(finished, world):
    context, reports = finished
    times = defaultdict(list)
    for row in pq.read_table(world / "events").to_pylist():
        if row["timestamp"] < instant(context.as_of):
            times[row["user_id"]].append(row["timestamp"])
    rows = rows_of(context.store, "user_embeddings")
    assert {row["user_id"] for row in rows} == times.keys(), "every user with an event before as_of, nobody else"
    assert reports["embed-users"]["users"] == len(times) and reports["embed-users"]["users_without_usable_events"] == 0
    for row in rows:
        mine = times[row["user_id"]]
        assert (row["n_events"], row["first_event_at"], row["last_event_at"]) == (len(mine), min(mine), max(mine))
        assert row["n_active_months"] == len({(time.year, time.month) for time in mine})


def test_who_has_no_usable_event_is_absent_and_counted_and_nothing_is_seen_before_publish(finished, spark, tmp_path):
    source, _ = finished
    titles = {row["item_id"]: row["title"] for row in rows_of(source.store, "items")}
    item = min(titles)
    write_items(tmp_path / "items" / "a.parquet", {item: titles[item], "strange": "xyzzyplugh"})
    write_events(tmp_path / "events" / "a.parquet", [
        ("known", item, "2020-03-01T00:00:00"), ("stranger", "strange", "2020-03-01T00:00:00"), ("later", item, source.as_of + "T00:00:00"),
    ])
    context = make_context(tmp_path / "warehouse", source.as_of, lambda: spark, *source_overrides(tmp_path), "items.categories_column=",
                           model_id=source.trained_model_id())
    copy_chain(source, context.store)
    reports = run(context, PINNED_STAGES[:-1])
    assert (reports["embed-users"]["users"], reports["embed-users"]["users_without_usable_events"]) == (1, 1)
    with pytest.raises(MissingInputError, match="Expected a release"):
        open_table(context.store.uri)
    run(context, PINNED_STAGES[-1:])
    assert published(context.store, context.as_of)[0].tolist() == ["known"]


def test_a_rerun_starts_no_spark(finished, world):
    done = finished[0]
    context = make_context(done.store.uri, done.as_of, no_spark, *source_overrides(world))
    assert embed_users(context) == {"skipped": "embedded already"}
