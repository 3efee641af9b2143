"""The whole pipeline: nothing after as_of matters, increments equal a fresh start, running again changes nothing, order is enforced."""

import hashlib
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from small_pipeline import (
    AS_OF,
    PINNED_STAGES,
    SMALL,
    STAGE_NAMES,
    content,
    contents,
    copy_chain,
    instant,
    make_context,
    published,
    rows_of,
    run,
    source_overrides,
    versions,
)

from lurm.cli import main
from lurm.schema import TIMESTAMP


def arguments(warehouse, *more, overrides=(), as_of=AS_OF) -> list[str]:
    settings = [part for override in (*SMALL, *overrides) for part in ("--set", override)]
    return ["--warehouse", str(warehouse), "--as-of", as_of, *settings, *more]


@pytest.fixture
def without_spark(monkeypatch):
    """Whoever opens a session fails."""

    def open_session(config):
        raise AssertionError("Spark was started")

    monkeypatch.setattr("spark_jobs.session.open_session", open_session)


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished warehouse to spoil."""
    shutil.copytree(finished[0].store.uri, tmp_path / "copy")
    return tmp_path / "copy"


# ---- nothing after as_of matters ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def perturbed(world, spark, tmp_path_factory):
    """The same world until AS_OF in another warehouse, told otherwise in every way that must not matter.

    Events at or after AS_OF are removed, added (in the same month, of new users and items) and changed; the log is shuffled and cut into
    other files; Spark cuts its work otherwise.
    """
    folder = tmp_path_factory.mktemp("perturbed")
    events, items = pq.read_table(world / "events"), pq.read_table(world / "items")
    early = pc.less(events["timestamp"], pa.scalar(instant(AS_OF), TIMESTAMP))
    before, later = events.filter(early), events.filter(pc.invert(early))
    assert later.num_rows > 100 and (later["timestamp"].to_pylist()[0].month == 2)
    swapped = later.slice(0, later.num_rows // 2).set_column(1, "item_id", later["item_id"].slice(1, later.num_rows // 2))
    at = pa.array([instant(AS_OF), instant("2021-02-17"), instant("2021-05-01")], TIMESTAMP)
    added = pa.table({"user_id": ["newcomer", "newcomer", before["user_id"][0].as_py()], "item_id": ["i-new"] * 3, "timestamp": at})
    log = pa.concat_tables([before, swapped, added.select(before.column_names)])
    log = log.take(np.random.default_rng(2).permutation(log.num_rows))
    for number, start in enumerate(range(0, log.num_rows, 5_000)):
        (folder / "events").mkdir(exist_ok=True)
        pq.write_table(log.slice(start, 5_000), folder / "events" / f"{9 - number}.parquet")
    (folder / "items").mkdir()
    new = pa.table({"item_id": ["i-new"], "title": ["Entirely New Lamp"], "category": [["Department 0", "Shelf 0.0"]]})
    catalogue = pa.concat_tables([items, new.cast(items.schema)])
    pq.write_table(catalogue.take(np.random.default_rng(3).permutation(catalogue.num_rows)), folder / "items" / "all.parquet")
    context = make_context(folder / "elsewhere", AS_OF, lambda: spark, *source_overrides(folder))
    names = {"spark.sql.shuffle.partitions": "7", "spark.sql.execution.arrow.maxRecordsPerBatch": "500"}
    kept = {name: spark.conf.get(name) for name in names}
    try:
        for name, value in names.items():
            spark.conf.set(name, value)
        run(context, STAGE_NAMES)
    finally:
        for name, value in kept.items():
            spark.conf.set(name, value)
    return context


def test_later_events_other_files_and_other_cuts_give_the_same_ids(finished, perturbed):
    one, other = finished[0], perturbed
    assert content(one.store, "events") != content(other.store, "events")
    for table in ("seen_items", "item_pairs"):
        assert content(one.store, table) == content(other.store, table)
    assert one.encoder_id() == other.encoder_id()
    assert one.space_id() == other.space_id()
    assert content(one.store, "bags") == content(other.store, "bags")
    assert one.trained_model_id() == other.trained_model_id()
    assert one.embed_key() == other.embed_key()


def test_and_the_reader_gets_the_same_bytes(finished, perturbed, tmp_path, capsys):
    files = []
    for number, context in enumerate((finished[0], perturbed)):
        files.append(tmp_path / f"{number}.parquet")
        assert main(["read", "--warehouse", context.store.uri, "--output", str(files[-1])]) == 0
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]  # not the bytes: pytest would compare them for minutes
    assert digests[0] == digests[1]
    assert pq.read_table(files[0]).num_rows > 250
    assert "users of 2021-02-16" in capsys.readouterr().out


# ---- increments ----------------------------------------------------------------------------------------------------------------------------


def test_days_one_after_the_other_are_all_days_at_once(finished, world, spark, tmp_path):
    """A pinned model and three dates; between them late events and new items. The other warehouse starts with everything before AS_OF."""
    events, items = pq.read_table(world / "events"), pq.read_table(world / "items")
    early = pc.less(events["timestamp"], pa.scalar(instant(AS_OF), TIMESTAMP))
    rng = np.random.default_rng(4)
    at = events["timestamp"].cast(pa.int64()).to_numpy()
    arrival = np.select([at < instant("2020-12-01").timestamp() * 1e6, at < instant("2021-01-10").timestamp() * 1e6], [0, 1], 2)
    arrival = np.where((rng.random(len(at)) < 0.05) & (at > instant("2020-10-01").timestamp() * 1e6), 2, arrival)  # late ones
    known = [set(events["item_id"].filter(pa.array(arrival <= day)).to_pylist()) for day in range(3)]
    shown = [[item in known[day] and (day == 0 or item not in known[day - 1]) for item in items["item_id"].to_pylist()] for day in range(3)]
    assert sum(shown[1]) + sum(shown[2]) > 0, "there are new items"
    parts = [(pa.array(arrival == day), pa.array(shown[day])) for day in range(3)]

    model_id, contexts = None, {}
    for name, days in (("daily", [(0, "2020-12-01"), (1, "2021-01-10"), (2, AS_OF)]), ("fresh", [(None, AS_OF)])):
        folder = tmp_path / name
        for part in ("events", "items"):
            (folder / part).mkdir(parents=True)
        for day, as_of in days:
            chosen = parts[day] if day is not None else (early, pa.array(np.any(shown, axis=0)))
            pq.write_table(events.filter(chosen[0]), folder / "events" / f"{as_of}.parquet")
            pq.write_table(items.filter(chosen[1]), folder / "items" / f"{as_of}.parquet")
            model_id = finished[0].trained_model_id()
            context = make_context(folder / "warehouse", as_of, lambda: spark, *source_overrides(folder), model_id=model_id)
            copy_chain(finished[0], context.store)
            run(context, PINNED_STAGES)
        contexts[name] = context
    daily, fresh = contexts["daily"], contexts["fresh"]

    assert fresh.store.snapshot("events").values("month")[-1] == "2021-02"
    assert content(daily.store, "items") == content(fresh.store, "items")
    assert daily.bags().digest() == fresh.bags().digest(), "the fresh one never saw an event at or after as_of"
    vectors = [{row["item_id"]: row["embedding"] for row in rows_of(one.store, "item_embeddings")} for one in (daily, fresh)]
    assert vectors[0].keys() == vectors[1].keys()
    np.testing.assert_allclose([vectors[0][item] for item in vectors[1]], list(vectors[1].values()), atol=1e-6)
    (users, ours), (same_users, theirs) = published(daily.store, AS_OF), published(fresh.store, AS_OF)
    assert users.tolist() == same_users.tolist()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for earlier in ("2020-12-01", "2021-01-10"):
        assert len(published(daily.store, earlier)[0]) > 200, "released dates stay readable"


# ---- running again -----------------------------------------------------------------------------------------------------------------------


def test_running_again_changes_nothing_and_starts_no_spark(finished, world, without_spark, capsys):
    context, reports = finished
    before, tables = versions(context.store), contents(context.store)
    assert main(["run", *arguments(context.store.uri, "--quiet", overrides=source_overrides(world))]) == 0
    assert versions(context.store) == before and contents(context.store) == tables
    output = capsys.readouterr().out
    assert output.count("skipped") == 13, "ingest and build-bags report by part"
    assert f"{reports['embed-users']['users']} users x 3 anchors x 32" in output


# ---- order, and mistakes --------------------------------------------------------------------------------------------------------------------

PARENTS = {
    "ingest": (None, "Expected a path in events.path"),
    "audit-inputs": ("tables/events", "run `lurm ingest`"),
    "build-pairs": ("tables/events", "run `lurm ingest`"),
    "train-item-encoder": ("tables/item_pairs", "run `lurm build-pairs`"),
    "encode-items": ("artifacts/encoders", "run the stage that trains it"),
    "fit-interests": ("tables/item_embeddings", "run `lurm encode-items`"),
    "assign-interests": ("artifacts/spaces", "run the stage that trains it"),
    "build-bags": ("tables/item_interests", "run `lurm assign-interests`"),
    "train-smen": ("tables/bags", "run `lurm build-bags`"),
    "update-states": ("artifacts/models", "run the stage that trains it"),
    "embed-users": ("tables/user_states", "run `lurm update-states`"),
    "publish": ("manifests/user_embeddings", "run `lurm embed-users`"),
}
OWN = {"embed-users": "manifests/user_embeddings", "train-item-encoder": "artifacts/encoders",
       "fit-interests": "artifacts/spaces", "train-smen": "artifacts/models"}


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_a_stage_before_its_parent_is_exit_code_2_and_a_sentence(stage, copy, without_spark, capsys):
    parent, sentence = PARENTS[stage]
    for folder in filter(None, (parent, OWN.get(stage))):
        shutil.rmtree(copy / folder)
    assert main([stage, *arguments(copy, "--quiet")]) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("lurm: Expected ") and sentence in message and "\n" not in message


def test_an_unknown_model_is_a_sentence_that_names_the_known_ones(finished, copy, without_spark, capsys):
    assert main(["build-bags", *arguments(copy, "--quiet", "--model", "model-0")]) == 2
    assert f"Expected model 'model-0' in {copy}, found: {finished[0].trained_model_id()}; pass one of these" in capsys.readouterr().err


def test_more_interests_than_items_is_a_sentence(copy, without_spark, capsys):
    assert main(["fit-interests", *arguments(copy, "--quiet", overrides=["interests.n_interests=5000"])]) == 2
    message = capsys.readouterr().err
    assert "at least as many seen items" in message and "D = 5000; lower interests.n_interests" in message
