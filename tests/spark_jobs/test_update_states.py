"""A month of days: the state kept and advanced gives what a recomputation of whole lives gives, and only what changed is done."""

import shutil
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from small_pipeline import AS_OF, PINNED_STAGES, copy_chain, instant, make_context, no_spark, published, run, source_overrides

from lurm.errors import MissingInputError
from lurm.manifest import Manifest
from lurm.periods import end_month
from lurm.schema import USER_STATES
from lurm.smen.streams import embed_lives, load_frozen
from lurm.staging import stage_table
from spark_jobs.embed_users import run as embed_users
from spark_jobs.update_states import run as update_states

FIRST, LAST = date(2020, 12, 20), date(2021, 1, 20)  # over the end of a month and of a year


def by_arrival(world, rng, every: int):
    """(day, events that have arrived since the last one), every so many days: most arrive when they happen, some up to 40 days later; all before
    FIRST come first.

    Of one item in ten nothing happened before a day of the month: it is new then.
    """
    events = pq.read_table(world / "events")
    items = np.unique(events["item_id"].to_numpy())[::10]
    appears = dict(zip(items, (FIRST - date(1970, 1, 1)).days + rng.integers(0, 25, len(items)), strict=True))
    happened = events["timestamp"].cast(pa.int64()).to_numpy() // 86_400_000_000
    events = events.filter(pa.array(happened >= np.array([appears.get(item, 0) for item in events["item_id"].to_pylist()])))
    happened = events["timestamp"].cast(pa.int64()).to_numpy() // 86_400_000_000
    arrived = happened + np.where(rng.random(len(happened)) < 0.1, rng.integers(1, 40, len(happened)), 0)
    first = (FIRST - date(1970, 1, 1)).days
    for number in range(first - 1, (LAST - date(1970, 1, 1)).days, every):
        since = arrived > (number - every if number >= first else -1)
        yield date(1970, 1, 1) + timedelta(days=number + 1), events.filter(pa.array(since & (arrived <= number)))


def whole_lives(context) -> tuple[list[str], np.ndarray]:
    """Users and vectors from the bags alone, as if nothing had been kept."""
    model = load_frozen(context.store, context.trained_model_id(), "cpu", 64)
    bags, batches = context.bags(), []
    for bucket in bags.values("bucket"):
        batches += [batch for batch, _ in embed_lives(model, context.store, bags.where(bucket=bucket), end_month(context.as_of))]
    table = pa.Table.from_batches(batches).sort_by("user_id")
    return table["user_id"].to_pylist(), np.array(table["embedding"].to_pylist(), np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.long), 4])
def test_a_month_of_days_equals_recomputing_every_day(finished, world, spark, tmp_path, every):
    source, rng = finished[0], np.random.default_rng(6)
    items, log = pq.read_table(world / "items"), tmp_path / "events"
    for name in ("events", "items"):
        (tmp_path / name).mkdir()
    known, days, seen = set(), [], []
    for day, events in by_arrival(world, rng, every):
        as_of = day.isoformat()
        pq.write_table(events, log / f"{as_of}.parquet")
        new = set(events["item_id"].to_pylist()) - known
        known |= new
        pq.write_table(items.filter(pc.is_in(items["item_id"], pa.array(sorted(known)))), tmp_path / "items" / "all.parquet")
        # A model of six steps moves more at the start of a year than the gate lets a real one.
        context = make_context(tmp_path / "warehouse", as_of, lambda: spark, *source_overrides(tmp_path), "gate.max_mean_shift=9",
                               model_id=source.trained_model_id())
        copy_chain(source, context.store)
        reports = run(context, PINNED_STAGES)
        days.append((day, reports))
        users, vectors = published(context.store, as_of)
        expected_users, expected = whole_lives(context)
        assert users.tolist() == expected_users
        assert np.abs(vectors - expected).max() <= 1e-5
        seen.append((len(users), np.array_equal(vectors, expected), len(new)))
    assert seen[-1][0] > seen[0][0], "there are new users"
    assert sum(new for *_, new in seen[1:]) > 20, "there are new items"
    assert all(same for _, same, _ in seen), "to the bit"
    again = [reports["update-states"].get("folded_again", 0) for _, reports in days[1:]]
    assert 0 < np.mean(again) < 30 * every and max(again) < seen[-1][0] * min(0.8, every / 3), "late events concern some users, never all"
    assert {reports["update-states"]["until"] for day, reports in days if "until" in reports["update-states"] and day.month == 1} == {
        "2020-12-01", "2021-01-01"}, "as_of on the first day of a month still has the last month open"
    assert context.store.snapshot(USER_STATES.name).values("until") == ["2021-01-01"], "states of closed months are dropped"

    # The same log from scratch in one go, with late events and all.
    fresh = make_context(tmp_path / "fresh", context.as_of, lambda: spark, *source_overrides(tmp_path), model_id=source.trained_model_id())
    copy_chain(source, fresh.store)
    run(fresh, PINNED_STAGES)
    (users, ours), (same_users, theirs) = published(context.store, context.as_of), published(fresh.store, context.as_of)
    assert users.tolist() == same_users.tolist() and np.abs(ours - theirs).max() <= 1e-5


def test_a_bucket_without_a_change_keeps_its_files_and_a_rerun_starts_no_spark(finished, world, spark, tmp_path):
    source = finished[0]
    events = pq.read_table(world / "events")
    events = events.filter(pc.less(events["timestamp"], pa.scalar(instant(AS_OF), events["timestamp"].type)))
    (tmp_path / "events").mkdir()
    pq.write_table(events, tmp_path / "events" / "a.parquet")
    overrides = (f"events.path={tmp_path}/events", f"items.path={world}/items")
    context = make_context(tmp_path / "warehouse", AS_OF, lambda: spark, *overrides, model_id=source.trained_model_id())
    copy_chain(source, context.store)
    for until in ("2020-06-01", "2021-01-01"):  # of a model that is not run any more
        partition = {"model_id": "model-other", "until": until, "bucket": "0"}
        file = stage_table(context.store, USER_STATES, f"other{until}", partition, USER_STATES.data_schema.empty_table())
        context.store.commit(Manifest(USER_STATES.name, f"other{until}", (file,), (partition,)))
    stages = PINNED_STAGES[: PINNED_STAGES.index("embed-users")]
    first = run(context, stages)["update-states"]
    users = set(pc.unique(events["user_id"]).to_pylist())
    assert (first["until"], first["buckets_as_they_were"], first["folded_again"]) == ("2021-02-01", 0, 0) and first["users"] <= len(users)
    before = {file.path for file in context.store.snapshot(USER_STATES.name).files}
    assert context.store.snapshot(USER_STATES.name).where(model_id="model-other").values("until") == ["2021-01-01"]

    idle = make_context(tmp_path / "warehouse", AS_OF, no_spark, *overrides, model_id=source.trained_model_id())
    assert update_states(idle) == {"skipped": "nothing changed"}
    pq.write_table(events.slice(7, 1), tmp_path / "events" / "late.parquet")  # one more event of a closed month, of one user
    again = run(context, stages)["update-states"]
    assert (again["buckets_as_they_were"], again["buckets_advanced"], again["folded_again"]) == (1, 1, 1)
    assert again["users"] == first["users"]
    after = {file.path for file in context.store.snapshot(USER_STATES.name).files}
    assert before & after and after - before, "the other bucket has the files it had"
    assert update_states(idle) == {"skipped": "nothing changed"}


def test_without_states_whole_lives_are_embedded_with_the_same_bytes(finished, world, spark, tmp_path):
    source = finished[0]
    context = make_context(tmp_path / "warehouse", AS_OF, lambda: spark, *source_overrides(world), "embed.keep_states=false",
                           model_id=source.trained_model_id())
    copy_chain(source, context.store)
    reports = run(context, PINNED_STAGES)
    assert reports["update-states"]["skipped"] == "whole lives are embedded"
    assert context.store.snapshot(USER_STATES.name).version == -1
    kept, whole = (sorted(file.digest for file in one.store.snapshot("user_embeddings").where(as_of=AS_OF).files) for one in (source, context))
    assert kept == whole


def test_embedding_needs_the_states_of_the_bags_as_they_are(finished, world, tmp_path):


    source = finished[0]
    shutil.copytree(source.store.root, tmp_path / "warehouse")
    shutil.rmtree(tmp_path / "warehouse" / "tables" / "user_states")
    shutil.rmtree(tmp_path / "warehouse" / "manifests" / "user_embeddings")
    context = make_context(tmp_path / "warehouse", AS_OF, no_spark, *source_overrides(world))
    with pytest.raises(MissingInputError, match="Expected states of model-.* at 2021-02-01 .*run `lurm update-states`"):
        embed_users(context)
