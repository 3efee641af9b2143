"""Publishing: what passes is seen whole, what fails is never seen, and a kill anywhere is mended by running again."""

import json

import numpy as np
import pytest
from published import MODEL, day, publish_day, rows_of, stage_day, vector

from lurm import open_table, publication
from lurm.errors import AuditError, MissingInputError
from lurm.releases import releases
from lurm.schema import USER_EMBEDDINGS
from lurm.store import Store

AS_OF = "2022-01-01"


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "warehouse"))


def published_users(store: Store, as_of: str = AS_OF) -> list[str]:
    return [user for batch in open_table(store.uri, as_of).scan(["user_id"]) for user in batch.column(0).to_pylist()]


def test_staged_then_published(store):
    stage_day(store, AS_OF, [rows_of(["a", "b"]), rows_of(["c"])])
    with pytest.raises(MissingInputError):
        open_table(store.uri)
    report = publication.run(day(store, AS_OF))
    assert {key: report[key] for key in ("users", "released", "epoch", "current", "model_id")} == {
        "users": 3, "released": True, "epoch": 1, "current": True, "model_id": MODEL,
    }
    assert published_users(store) == ["a", "b", "c"]
    audit = json.loads(store.read_bytes(store.path("manifests", USER_EMBEDDINGS.name, f"{'a' * 16}.audit.json")))
    assert audit["findings"] == [] and audit["profile"]["rows"] == 3 and audit["digest"] == releases(store)[0]["audit_digest"]


def test_running_again_changes_nothing(store):
    stage_day(store, AS_OF, [rows_of(["a", "b"])])
    first = publication.run(day(store, AS_OF))
    files = store.snapshot(USER_EMBEDDINGS.name).files
    assert publication.run(day(store, AS_OF)) == first
    publish_day(store, "2022-02-01", ["a"])
    publication.run(day(store, AS_OF))
    assert all(file in store.snapshot(USER_EMBEDDINGS.name).files for file in files) and len(releases(store)) == 2
    assert open_table(store.uri).as_of == "2022-02-01"


def test_nothing_staged_is_one_sentence(store):
    with pytest.raises(MissingInputError, match="Expected staged user embeddings of 2022-01-01, found none; run `lurm embed-users`"):
        publication.run(day(store, AS_OF))


def test_a_staged_file_that_is_gone_is_as_if_nothing_were_staged(store, tmp_path):
    manifest = stage_day(store, AS_OF, [rows_of(["a"])])
    (tmp_path / "warehouse" / "tables" / USER_EMBEDDINGS.name / manifest.files[0].path).unlink()
    with pytest.raises(MissingInputError, match="run `lurm embed-users`"):
        publication.run(day(store, AS_OF))


def test_publish_without_release_shows_nothing(store):
    stage_day(store, AS_OF, [rows_of(["a"])])
    assert publication.run(day(store, AS_OF, release=False))["released"] is False
    assert releases(store) == [] and store.snapshot(USER_EMBEDDINGS.name).rows() == 1
    assert publication.run(day(store, AS_OF))["released"] is True and published_users(store) == ["a"]


def test_an_older_date_is_history(store):
    publish_day(store, "2022-03-01", ["a"])
    report = publish_day(store, "2022-01-01", ["b"])
    assert report["current"] is False and open_table(store.uri).as_of == "2022-03-01" and published_users(store, "2022-02-01") == ["b"]


def test_a_new_model_of_a_date_leaves_the_old_one_readable_by_version(store):
    publish_day(store, AS_OF, ["a"], model_id="model-old")
    publish_day(store, AS_OF, ["a", "b"], model_id="model-new")
    assert open_table(store.uri).model_id == "model-new" and published_users(store) == ["a", "b"]
    assert store.snapshot(USER_EMBEDDINGS.name).values("model_id") == ["model-new", "model-old"]


def zeros():
    return [vector("a"), np.zeros(6), vector("c")]


@pytest.mark.parametrize(("name", "parts", "users"), [
    ("all_numbers_finite", [rows_of(["a", "b"], vectors=[vector("a"), np.array([1, np.nan, 1, 1, 1, 1])])], None),
    ("all_numbers_finite", [rows_of(["a", "b"], vectors=[vector("a"), np.array([1, np.inf, 1, 1, 1, 1])])], None),
    ("share_of_zero_vectors", [rows_of(["a", "b", "c"], vectors=zeros())], None),
    ("dimension_is_that_of_the_model", [rows_of(["a", "b"], vectors=[vector("a"), np.ones(5)])], None),
    ("no_null_embeddings", [rows_of(["a", "b"], vectors=[vector("a"), None])], None),
    ("no_duplicate_users", [rows_of(["a", "a"])], None),
    ("no_duplicate_users", [rows_of(["a", "b"]), rows_of(["b", "c"])], None),
    ("row_count_is_that_of_the_stage", [rows_of(["a", "b"])], 3),
    ("enough_users", [], None),
])
@pytest.mark.parametrize("something_released", [False, True])
def test_a_defect_blocks_by_name_and_no_reader_sees_it(store, name, parts, users, something_released):
    if something_released:
        publish_day(store, "2021-12-01", ["x"])
    version = store.snapshot(USER_EMBEDDINGS.name).version
    stage_day(store, AS_OF, parts, users=users)
    with pytest.raises(AuditError) as error:
        publication.run(day(store, AS_OF))
    sentence = str(error.value)
    assert f"{name} is" in sentence and "audit.json" in sentence and "run embed-users again" in sentence and "\n" not in sentence
    assert store.snapshot(USER_EMBEDDINGS.name).version == version and len(releases(store)) == something_released
    if something_released:
        assert open_table(store.uri, AS_OF).as_of == "2021-12-01" and published_users(store) == ["x"]
    audit = json.loads(store.read_bytes(store.path("manifests", USER_EMBEDDINGS.name, f"{'a' * 16}.audit.json")))
    assert name in [finding["name"] for finding in audit["findings"]]


def test_damaged_bytes_of_the_right_size_block(store):
    manifest = stage_day(store, AS_OF, [rows_of(["a", "b"])])
    path = store.path("tables", manifest.table, *manifest.files[0].path.split("/"))
    data = bytearray(store.read_bytes(path))
    data[len(data) // 2] ^= 255
    store.write_bytes(path, bytes(data))
    with pytest.raises(AuditError):
        publication.run(day(store, AS_OF))
    audit = json.loads(store.read_bytes(store.path("manifests", USER_EMBEDDINGS.name, f"{'a' * 16}.audit.json")))
    assert "no_damaged_files" in [finding["name"] for finding in audit["findings"]] and releases(store) == []


class Killed(Exception):
    """Stands for a kill: nothing of ours may catch it."""


STEPS = {
    "audit": ("lurm.publication.profile_embeddings",),
    "report": ("lurm.store.Store.write_bytes",),
    "commit": ("lurm.store.Store.commit",),
    "transaction": ("deltalake.DeltaTable.create_write_transaction",),
    "look at the pointer": ("lurm.publication.released",),
    "move": ("lurm.publication.move_release",),
    "stage the move": ("lurm.releases.stage_table",),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("call", [1, 2])
def test_a_kill_around_any_step_then_running_again_gives_one_release(store, monkeypatch, step, when, call):
    publish_day(store, "2021-12-01", ["x"])
    stage_day(store, AS_OF, [rows_of(["a", "b"]), rows_of(["c"])])
    (target,) = STEPS[step]
    module, name = target.rsplit(".", 1)
    owner, calls = _resolve(module), []
    real = getattr(owner, name)

    def dying(*arguments, **keywords):
        calls.append(name)
        if when == "before" and len(calls) == call:
            raise Killed
        result = real(*arguments, **keywords)
        if when == "after" and len(calls) == call:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, dying)
    try:
        publication.run(day(store, AS_OF))
        assert len(calls) < call, "a step that is done once only cannot be killed the second time"
    except Killed:
        assert open_table(store.uri, AS_OF).as_of in ("2021-12-01", AS_OF), "readers see the old release or the new one"
    monkeypatch.undo()
    report = publication.run(day(store, AS_OF))
    assert report["released"] and [move["as_of"] for move in releases(store)] == ["2021-12-01", AS_OF]
    assert published_users(store) == ["a", "b", "c"] and open_table(store.uri).n_users == 3
    assert store.snapshot(USER_EMBEDDINGS.name).where(as_of=AS_OF).rows() == 3


def _resolve(path: str):
    import importlib

    module, _, last = path.rpartition(".")
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(module), last)
