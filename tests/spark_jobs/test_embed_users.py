"""Users embedded bucket by bucket are users embedded one by one; who has no usable event is absent and counted."""

import shutil
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
from lurm.alignment import Alignment, save_alignment
from lurm.bag_of_interests import read_lives
from lurm.errors import LineageError, MissingInputError
from lurm.periods import end_month
from lurm.schema import MONTH, USER_EMBEDDINGS, YEAR
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


def test_vectors_of_an_aligned_model_are_turned_under_a_name_of_their_own(finished, spark, tmp_path):
    """Whichever date is embedded from now on: the turn belongs to the model, and the states stay as the model made them."""
    source, _ = finished
    shutil.copytree(source.store.root, tmp_path / "warehouse")
    context = make_context(tmp_path / "warehouse", source.as_of, lambda: spark)
    model_id, key, states = source.trained_model_id(), source.embed_key(), context.store.snapshot("user_states")
    info = context.store.artifact_info("models", model_id)
    rng = np.random.default_rng(0)
    turns = np.stack([np.linalg.qr(rng.standard_normal((info["dim"], info["dim"])))[0] for _ in range(info["n_anchors"])])
    planted = Alignment(rng.permutation(info["n_anchors"]), turns)
    told = {"alignment_id": "alignment-planted", "aligned_to": "model-elsewhere"}
    save_alignment(context.store, model_id, planted, {**told, "as_of": "2021-02-17"})
    with pytest.raises(LineageError, match="Expected an alignment fitted on events before 2021-02-16, that of .* has seen those before 2021-02-17"):
        embed_users(context)
    save_alignment(context.store, model_id, planted, {**told, "as_of": context.as_of})
    figures = embed_users(context)
    assert context.embed_key() not in (key, source.embed_key("alignment-other")) and context.embed_key() == source.embed_key("alignment-planted")
    assert {name: figures[name] for name in told} == told and figures["trained_as_of"] == context.as_of
    users, vectors = published(source.store, source.as_of)
    manifest = context.store.staged(USER_EMBEDDINGS.name, context.embed_key())
    rows = [row for file in manifest.files for row in pq.read_table(context.store.path("tables", manifest.table, *file.path.split("/")),
                                                                   partitioning=None).to_pylist()]
    rows.sort(key=lambda row: row["user_id"])
    assert [row["user_id"] for row in rows] == users.tolist()
    np.testing.assert_allclose(np.stack([row["embedding"] for row in rows]), planted.turn(vectors), atol=1e-6)
    assert context.store.snapshot("user_states").digest() == states.digest()
