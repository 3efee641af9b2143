"""Files, snapshots and manifests: what their names say, what `where` keeps, and what a digest depends on."""

import dataclasses

from lurm.manifest import DataFile, Manifest, Snapshot
from lurm.schema import EVENTS


def file(month: str, content: str, run_key: str = "run1", rows: int = 3) -> DataFile:
    return DataFile(f"month={month}/{run_key}-{content}.parquet", 100, rows, "0" * 64, {"month": month}, "a", "b")


def snapshot(*files: DataFile) -> Snapshot:
    return Snapshot(EVENTS, 4, files, "w/tables/events")


def test_a_name_is_the_run_and_the_content():
    one = file("2020-01", "c0ffee", "4f2a")
    assert (one.run_key, one.digest) == ("4f2a", "c0ffee")
    assert snapshot(one).uris() == ["w/tables/events/month=2020-01/4f2a-c0ffee.parquet"]


def test_where_takes_a_value_a_collection_or_a_condition():
    whole = snapshot(file("2020-01", "a"), file("2020-02", "b"), file("2021-01", "c"))
    assert whole.where(month="2020-02").values("month") == ["2020-02"]
    assert whole.where(month=["2020-01", "2021-01", "1999-01"]).values("month") == ["2020-01", "2021-01"]
    assert whole.where(month=lambda month: month > "2020-01").rows() == 6
    assert whole.where(month="1999-01").files == () and whole.where(month="2020-02").version == 4


def test_a_digest_is_of_content_and_place_not_of_runs_or_order():
    first, second = file("2020-01", "a"), file("2020-02", "b")
    digest = snapshot(first, second).digest()
    assert snapshot(second, file("2020-01", "a", run_key="run2")).digest() == digest
    assert snapshot(first, file("2020-02", "x")).digest() != digest
    assert snapshot(first, file("2020-03", "b")).digest() != digest
    assert snapshot(first).digest() != digest


def test_a_manifest_survives_json():
    manifest = Manifest("events", "run1", (file("2020-01", "a"),), ({"month": "2020-01"},), {"kept": 3}, {"recipe": "r"})
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.rows() == 3 and dataclasses.replace(manifest, files=()).rows() == 0
