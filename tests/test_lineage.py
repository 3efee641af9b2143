"""The chain of ids: what changes a name, what does not, and what is missing is said with the stage that makes it."""

import json

import pyarrow as pa
import pytest

from lurm.config import load_config
from lurm.errors import LineageError, MissingInputError
from lurm.lineage import Context
from lurm.manifest import Manifest
from lurm.schema import BAGS, EVENTS, ITEM_PAIRS, ITEMS, SEEN_ITEMS, TABLES, TIMESTAMP
from lurm.staging import stage_table
from lurm.store import Store


def rows_for(table, mark: str) -> pa.Table:
    """One row of a table, with `mark` in its text."""
    columns = []
    for field in table.data_schema:
        text = pa.types.is_string(field.type)
        columns.append(pa.array([mark] if text else [None], pa.string() if text else field.type))
    return pa.table(columns, schema=table.data_schema)


def put(store: Store, name: str, run_key: str, partition: dict, mark: str = "x") -> None:
    table = TABLES[name]
    file = stage_table(store, table, run_key, partition, rows_for(table, mark))
    manifest = Manifest(name, run_key, (file,), (partition,))
    store.write_manifest(manifest)
    store.commit(manifest)


def context(store: Store, as_of: str = "2022-01-01", *overrides: str, model_id: str | None = None) -> Context:
    return Context(store, load_config(None, overrides), as_of, model_id)


@pytest.fixture
def store(tmp_path):
    return with_log(tmp_path / "warehouse")


def with_log(folder) -> Store:
    store = Store(str(folder))
    for month in ("2021-11", "2021-12", "2022-01"):
        put(store, EVENTS.name, f"log{month}", {"month": month}, month)
    put(store, ITEMS.name, "items", {"bucket": "0"})
    return store


def with_pairs(store: Store, *overrides: str, as_of: str = "2022-01-01") -> Context:
    one = context(store, as_of, *overrides)
    for table in (ITEM_PAIRS, SEEN_ITEMS):
        put(store, table.name, one.pairs_key(), {"as_of": as_of})
    return one


def with_bags(store: Store) -> Context:
    one = with_pairs(store)
    partition = {"space_id": one.space_id(), "bucket": "0"}
    for scale, period in (("month", "2021-11"), ("month", "2021-12"), ("year", "2021")):
        end = {"2021-11": "2021-12-01"}.get(period, "2022-01-01")
        put(store, BAGS.name, f"bags{period}", {**partition, "scale": scale, "period": period, "until": end})
    return one


def test_events_are_the_months_with_instants_before_as_of(store):
    assert context(store, "2022-01-01").events().values("month") == ["2021-11", "2021-12"]
    assert context(store, "2022-01-02").events().values("month") == ["2021-11", "2021-12", "2022-01"]
    with pytest.raises(MissingInputError, match="Expected events before 2021-11-01 .*run `lurm ingest`, or choose a later --as-of"):
        context(store, "2021-11-01").events()


def test_later_events_change_no_name(store):
    before = context(store).pairs_key()
    put(store, EVENTS.name, "later", {"month": "2022-02"}, "later")
    assert context(store).pairs_key() == before
    put(store, EVENTS.name, "late", {"month": "2021-12"}, "late")
    assert context(store).pairs_key() != before, "but a late event of an earlier month does"


def test_equal_content_has_equal_names_in_any_warehouse(store, tmp_path):
    assert context(store).pairs_key() == context(with_log(tmp_path / "other")).pairs_key()


def test_a_name_follows_its_recipe_seed_and_date(store):
    base = context(store).pairs_key()
    for other in (context(store, "2022-01-01", "pairs.max_pairs=7"), context(store, "2022-01-01", "seed=18"), context(store, "2021-12-31")):
        assert other.pairs_key() != base
    same = context(store, "2022-01-01", "encoder.dim=64", "smen.dim=64", "spark.user_buckets=3", "smen.max_steps=9")
    assert same.pairs_key() == base, "settings of other stages say nothing"


def test_the_chain_links_each_id_to_its_parent(store):
    one = with_pairs(store)
    assert one.encoder_id().startswith("encoder-") and one.space_id().startswith("space-")
    other_pairs = with_pairs(store, "pairs.beta_days=2")
    with pytest.raises(MissingInputError, match="Expected item_pairs of 2022-01-01 for this configuration, found none; run `lurm build-pairs`"):
        one.encoder_id()  # the pairs of the date are now those of other settings
    assert other_pairs.encoder_id().startswith("encoder-")


def test_how_a_thing_is_computed_does_not_name_it(store):
    one = with_pairs(store)
    ids = (one.encoder_id(), one.space_id())
    same = context(store, "2022-01-01", "encoder.device=cpu", "encoder.checkpoint_every=7", "interests.device=cpu", "smen.device=cpu")
    assert (same.encoder_id(), same.space_id()) == ids
    other = context(store, "2022-01-01", "interests.n_iterations=5")
    assert other.encoder_id() == ids[0] and other.space_id() != ids[1], "a child's settings do not name its parent"
    parent = context(store, "2022-01-01", "encoder.temperature=0.2")
    assert parent.encoder_id() != ids[0] and parent.space_id() != ids[1], "a parent's settings name all its children"


def test_bags_must_count_every_month_to_its_end(store):
    one = with_bags(store)
    assert one.bags().values("period") == ["2021", "2021-11", "2021-12"]
    assert one.trained_model_id().startswith("model-") and len(one.embed_key()) == 16
    put(store, EVENTS.name, "older", {"month": "2021-10"})
    with pytest.raises(MissingInputError, match="build-pairs"):
        context(store).bags()  # other events, another chain
    pinned = context(store, model_id="model-1")
    keep_model(store, space_id=store.snapshot(BAGS.name).values("space_id")[0])
    with pytest.raises(MissingInputError, match="Expected bags of 3 months before 2022-01-01 .* found none of 2021-10; run `lurm build-bags`"):
        pinned.bags()


def test_bags_that_stop_in_the_middle_of_a_month_are_not_those_of_another_date(store):
    with_bags(store)
    keep_model(store, space_id=store.snapshot(BAGS.name).values("space_id")[0])
    assert context(store, "2022-01-01", model_id="model-1").bags().rows() == 3
    with pytest.raises(MissingInputError, match="found none of 2021-12"):
        context(store, "2021-12-15", model_id="model-1").bags()


def test_one_call_sees_one_version_of_each_input(store):
    one = context(store)
    before = one.events()
    put(store, EVENTS.name, "late", {"month": "2021-12"}, "late")
    assert one.events() == before and one.pairs_key() != context(store).pairs_key()


def test_a_month_that_was_counted_and_found_empty_is_done_and_no_part_of_the_bags(store):
    keep_model(store)
    for period, end, n_rows in (("2021-11", "2021-12-01", 0), ("2021-12", "2022-01-01", 1), ("2021", "2022-01-01", 1)):
        partition = {"space_id": "space-9", "bucket": "0", "scale": "month" if "-" in period else "year", "period": period, "until": end}
        file = stage_table(store, BAGS, f"bags{period}", partition, rows_for(BAGS, "x").slice(0, n_rows))
        store.commit(Manifest(BAGS.name, f"bags{period}", (file,), (partition,)))
    assert context(store, model_id="model-1").bags().values("period") == ["2021", "2021-12"]


def test_a_year_that_a_later_date_has_closed_is_missed(store):
    """Months alone would be embedded as if there were no years; only who adds up the years may look at months alone."""
    keep_model(store)
    for period, end in (("2021-11", "2021-12-01"), ("2021-12", "2022-01-01")):
        put(store, BAGS.name, f"bags{period}", {"space_id": "space-9", "bucket": "0", "scale": "month", "period": period, "until": end})
    with pytest.raises(MissingInputError, match="Expected bags of the year 2021 before 2022-01-01 .*; run `lurm build-bags`"):
        context(store, model_id="model-1").bags()
    assert context(store, model_id="model-1").bags(with_years=False).rows() == 2


def keep_model(store: Store, **info) -> None:
    folder = store.workspace("keep")
    (folder / "info.json").write_text(json.dumps({"info": {"encoder_id": "encoder-9", "space_id": "space-9", "as_of": "2021-12-01", **info}}))
    store.put_artifact("models", "model-1", folder)


def test_a_pinned_model_names_its_whole_chain(store):
    keep_model(store)
    pinned = context(store, model_id="model-1")
    assert (pinned.encoder_id(), pinned.space_id(), pinned.trained_model_id()) == ("encoder-9", "space-9", "model-1")
    with pytest.raises(MissingInputError, match="Expected model 'model-2' in .*, found: model-1; pass one of these to --model"):
        context(store, model_id="model-2").space_id()


def test_a_model_that_has_seen_later_events_is_refused(store):
    keep_model(store, as_of="2022-01-01")
    assert context(store, "2022-01-01", model_id="model-1").space_id() == "space-9"
    with pytest.raises(LineageError, match="before 2021-12-31, model-1 has seen those before 2022-01-01; choose an older --model or a later"):
        context(store, "2021-12-31", model_id="model-1").space_id()


def test_two_chains_are_never_joined(store):
    context(store).check_chain({"space_id": "space-1", "encoder_id": "encoder-1"}, space_id="space-1", encoder_id="encoder-1")
    with pytest.raises(LineageError, match="Expected an artifact of space_id space-1, got one of space-2; use artifacts of one chain"):
        context(store).check_chain({"space_id": "space-2"}, space_id="space-1")


@pytest.mark.parametrize(("method", "stage"), [("items", "ingest"), ("embeddings", "encode-items"), ("interests", "assign-interests")])
def test_each_missing_input_names_the_stage_that_makes_it(tmp_path, method, stage):
    store = Store(str(tmp_path / "w"))
    keep_model(store)
    with pytest.raises(MissingInputError, match=f"run `lurm {stage}`"):
        getattr(context(store, model_id="model-1"), method)()


def test_timestamps_of_the_schema_are_utc():
    assert TIMESTAMP == pa.timestamp("us", tz="UTC")
