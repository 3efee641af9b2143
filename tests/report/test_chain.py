"""The chain behind a release, and the bags it was made from."""

import pytest
from small_pipeline import plant_row
from small_release import AS_OF, ENCODER, MODEL, MONTHS, SPACE, plant_release

from lurm.errors import MissingInputError
from lurm.report.chain import open_release


def test_a_release_with_its_chain(released):
    assert released.as_of == AS_OF and released.table.model_id == MODEL and released.row["epoch"] == 1
    assert released.model["space_id"] == SPACE and released.space["n_interests"] == 12 and released.encoder["encoder_id"] == ENCODER
    bags, note = released.month_bags()
    assert bags.values("period") == MONTHS and bags.values("scale") == ["month"] and note == ""


def test_bags_that_a_later_day_has_counted_further_are_left_out_and_said_so(tmp_path):
    small = plant_release(tmp_path / "warehouse")
    plant_row(small.store, "bags", "later", {"space_id": SPACE, "scale": "month", "period": "2020-09"} | {"until": "2020-10-01", "bucket": "0"})
    store = small.store
    snapshot = store.snapshot("bags")
    assert {file.partition["until"] for file in snapshot.files if file.partition["period"] == "2020-09"} == {AS_OF, "2020-10-01"}
    released = open_release(store.uri)
    assert released.month_bags()[0].where(until="2020-10-01").files == ()
    plant_row(store, "events", "more", {"month": "2019-12"})  # a month of the log that nobody has counted
    bags, note = released.month_bags()
    assert note.startswith("Bags of this date are not all kept") and "9 months" in note and bags.where(until="2020-10-01").files == ()


def test_no_release(tmp_path):
    with pytest.raises(MissingInputError, match="Expected a release"):
        open_release(str(tmp_path / "nothing"))
