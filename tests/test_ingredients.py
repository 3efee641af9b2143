"""What a date was made of: the same for the same counts, and every change is named, also when the counts of its open month are gone."""

import pytest
from small_pipeline import plant_bags, plant_interests, plant_model, plant_row, plant_year_bags

from lurm.config import load_config
from lurm.errors import MissingInputError
from lurm.ingredients import closed_months, ingredients, what_changed
from lurm.lineage import Context
from lurm.manifest import Manifest
from lurm.schema import BAGS, EVENTS
from lurm.store import Store


@pytest.fixture
def store(tmp_path) -> Store:
    """January is closed, February is counted up to the 10th."""
    store = Store(str(tmp_path / "warehouse"))
    plant_model(store)
    plant_interests(store, {"a": 1})
    for month, end in (("2021-01", "2021-02-01"), ("2021-02", "2021-02-10")):
        plant_row(store, EVENTS.name, f"log{month[5:]}", {"month": month}, month)
        plant_bags(store, month, end)
    plant_year_bags(store, "2021-02-10")
    return store


def at(store: Store, as_of: str = "2021-02-10") -> Context:
    return Context(store, load_config(), as_of, "planted")


def test_nothing_has_changed_also_when_the_open_month_was_closed(store):
    then = ingredients(at(store))
    assert what_changed(at(store), then) is None and all(then[name] for name in ("closed_months", "open_month_events"))
    plant_bags(store, "2021-02", "2021-03-01")
    store.commit(Manifest(BAGS.name, "gone", (), ({"until": "2021-02-10"},)))
    plant_row(store, EVENTS.name, "march", {"month": "2021-03"})
    assert what_changed(at(store), then) is None
    with pytest.raises(MissingInputError, match="found none of 2021-02; run `lurm build-bags`"):
        at(store).bags()


def test_every_change_is_named(store):
    then = ingredients(at(store))
    plant_row(store, EVENTS.name, "more", {"month": "2021-02"}, "more")
    assert what_changed(at(store), then) == "2021-02 has other events now, which may lie after the date"
    plant_bags(store, "2021-01", "2021-02-01", "late")
    assert what_changed(at(store), then) == "closed months have other events now"


def test_new_items_matter_where_events_of_the_open_month_had_no_interest(store):
    assert ingredients(at(store))["open_month_interests"] == ""
    plant_interests(store, {"b": 1}, "two")
    then = ingredients(at(store))
    plant_interests(store, {"c": 1}, "three")
    assert what_changed(at(store), then) is None, "all events of the month had their interest"
    (run_key,) = store.snapshot(BAGS.name).where(period="2021-02").run_keys()
    manifest = store.read_manifest(BAGS.name, run_key)
    manifest.figures["periods"]["2021-02"]["unassigned"] = 3
    store.write_manifest(manifest)
    then = ingredients(at(store))
    assert what_changed(at(store), then) is None
    plant_interests(store, {"d": 1}, "four")
    assert what_changed(at(store), then) == "2021-02 had events of items without an interest, and items have been added"


def test_on_the_first_of_a_month_all_months_are_closed(store):
    store.commit(Manifest(BAGS.name, "gone", (), ({"until": "2021-02-10"},)))
    plant_year_bags(store, "2021-02-01")
    then = ingredients(at(store, "2021-02-01"))
    assert then["open_month_events"] == then["open_month_interests"] == "" and closed_months(at(store, "2021-02-01")).values("period") == ["2021-01"]
    plant_row(store, EVENTS.name, "more", {"month": "2021-02"}, "more")
    assert what_changed(at(store, "2021-02-01"), then) is None, "what comes later changes nothing"


def test_a_month_that_is_not_counted_any_more(store):
    then = ingredients(at(store))
    store.commit(Manifest(BAGS.name, "gone", (), ({"period": "2021-01"},)))
    with pytest.raises(MissingInputError, match="Expected bags of 2021-01 in space space-planted, found none; run `lurm build-bags`"):
        what_changed(at(store), then)
