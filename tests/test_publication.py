"""Publishing: what passes is seen whole, what fails is never seen, and a kill anywhere is mended by running again."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from published import DIM, MODEL, N_ANCHORS, day, publish_day, rows_of, stage_day, vector

from lurm import open_table, publication
from lurm.errors import AuditError, MissingInputError
from lurm.manifest import Manifest
from lurm.releases import releases, rollback
from lurm.schema import BAGS, USER_EMBEDDINGS
from lurm.staging import stage_table
from lurm.store import Store

AS_OF = "2022-01-01"


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "warehouse"))


def report_of(store: Store, key: str = "a" * 16) -> dict:
    return json.loads(store.read_bytes(store.path("audits", key, "report.json")))


def names_of(store: Store, severity: str = "block") -> list[str]:
    return [finding["name"] for finding in report_of(store)["findings"] if finding["severity"] == severity]


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
    audit = report_of(store)
    assert audit["findings"] == [] and audit["figures"]["rows"] == 3 and audit["digest"] == releases(store)[0]["audit_digest"]
    assert audit["compared_with"] == "nothing: this is the first release" and audit["forced"] is None


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
    ("no_null_users", [rows_of(["a", None], vectors=[vector("a")] * 2)], None),
    ("no_null_embeddings", [rows_of(["a", "b"], vectors=[vector("a"), None])], None),
    ("no_duplicate_users", [rows_of(["a", "a"])], None),
    ("no_duplicate_users", [rows_of(["a", "b"]), rows_of(["b", "c"])], None),
    ("row_count_is_that_of_the_stage", [rows_of(["a", "b"])], 3),
    ("some_users", [], None),
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
    assert f"{name} is" in sentence and f"audits/{'a' * 16}/report.json" in sentence and "run embed-users again" in sentence and "\n" not in sentence
    assert f"the candidate is tables/user_embeddings/as_of={AS_OF}/model_id={MODEL}/{'a' * 16}-*.parquet" in sentence
    assert store.snapshot(USER_EMBEDDINGS.name).version == version and len(releases(store)) == something_released
    if something_released:
        assert open_table(store.uri, AS_OF).as_of == "2021-12-01" and published_users(store) == ["x"]
    assert name in names_of(store)


def test_damaged_bytes_of_the_right_size_block(store):
    manifest = stage_day(store, AS_OF, [rows_of(["a", "b"])])
    path = store.path("tables", manifest.table, *manifest.files[0].path.split("/"))
    data = bytearray(store.read_bytes(path))
    data[len(data) // 2] ^= 255
    store.write_bytes(path, bytes(data))
    with pytest.raises(AuditError):
        publication.run(day(store, AS_OF))
    assert "no_damaged_files" in names_of(store) and releases(store) == []


# ---- limits: against the calendar and against the release --------------------------------------------------------------------------------

EVERYBODY = [f"u{number:04d}" for number in range(300)]


def honest(users: list[str], month: int = 1) -> np.ndarray:
    """Vectors of people who move a little from month to month; (n, 6) float32."""
    return np.stack([2 * vector(user) + 0.2 * vector(user, str(month)) for user in users])


def sorted_rows(users: list[str], vectors: np.ndarray) -> pa.Table:
    return rows_of(users, vectors=list(vectors.astype(np.float32)))


def judged(store: Store, as_of: str = AS_OF, key: str = "a" * 16, reason: str | None = None, **limits):
    return replace(day(store, as_of, key, **{"min_compared_users": 100, **limits}), force_reason=reason)


@pytest.fixture(scope="module")
def a_month_earlier(tmp_path_factory):
    """A warehouse with a release of 300 users; read only."""
    store = Store(str(tmp_path_factory.mktemp("before") / "warehouse"))
    halves = EVERYBODY[:150], EVERYBODY[150:]
    stage_day(store, "2021-12-01", [sorted_rows(half, honest(half)) for half in halves], "b" * 16)
    publication.run(judged(store, "2021-12-01", "b" * 16))
    return store


@pytest.fixture
def before(a_month_earlier, store):
    shutil.copytree(a_month_earlier.root, store.root)
    return store


def bytes_of_reader(store: Store) -> bytes:
    table = open_table(store.uri, AS_OF)
    return table.vectors(EVERYBODY).tobytes() + f"{table.as_of} {table.epoch}".encode()


def collapsed():
    return np.ones(N_ANCHORS * DIM) + 0.01 * honest(EVERYBODY)


def on_a_line():
    return np.outer(honest(EVERYBODY)[:, 0], np.arange(1, 7))


def one_anchor_dead(share: float):
    return honest(EVERYBODY, 2) * ([1.0] * DIM + [share] * DIM)


PLANTED = {
    "half of the users missing": (EVERYBODY[::2], honest(EVERYBODY[::2], 2), {"number_of_users", "lost_users"}),
    "other users": ([f"v{user}" for user in EVERYBODY], honest(EVERYBODY, 2), {"lost_users"}),
    "a collapsed model": (EVERYBODY, collapsed(), {"vectors_differ"}),
    "a model collapsed to a line": (EVERYBODY, on_a_line(), {"effective_rank"}),
    "vectors shifted by a constant": (EVERYBODY, honest(EVERYBODY, 2) + 4, {"vectors_not_shifted"}),
    "vectors shifted to the next user": (EVERYBODY, np.roll(honest(EVERYBODY, 2), 1, axis=0), {"users_stay_where_they_were", "neighbours_kept"}),
    "numbers shifted to the next place": (EVERYBODY, np.roll(honest(EVERYBODY, 2), 1, axis=1), {"users_stay_where_they_were"}),
    "vectors scaled": (EVERYBODY, honest(EVERYBODY, 2) * 3, {"norms_not_scaled"}),
    "zeros": (EVERYBODY, honest(EVERYBODY, 2) * (np.arange(300) % 20 > 0)[:, None], {"share_of_zero_vectors"}),
}


def test_an_honest_month_passes(before):
    stage_day(before, AS_OF, [sorted_rows(EVERYBODY, honest(EVERYBODY, 2))])
    report = publication.run(judged(before))
    assert report["released"] and "warnings" not in report
    figures = report_of(before)["figures"]
    assert figures["compared_users"] == 300 and figures["user_ratio"] == 1.0 and figures["lost_users"] == 0.0
    assert figures["same_user_cosine"] > 0.97 and figures["same_model_overlap"] > 0.5 and figures["new_model_overlap"] is None
    assert report_of(before)["compared_with"] == {"epoch": 1, "as_of": "2021-12-01", "model_id": MODEL, "table_version": 1, "n_users": 300}


@pytest.mark.parametrize("defect", PLANTED)
def test_a_planted_defect_is_blocked_by_name(before, defect):
    users, vectors, names = PLANTED[defect]
    seen = bytes_of_reader(before)
    stage_day(before, AS_OF, [sorted_rows(sorted(users), vectors)])
    with pytest.raises(AuditError) as error:
        publication.run(judged(before))
    assert names <= set(names_of(before)) and all(name in str(error.value) for name in names)
    assert "`lurm publish --force --reason TEXT`" in str(error.value) and str(error.value).endswith(".")
    assert bytes_of_reader(before) == seen and len(releases(before)) == 1 and before.snapshot(USER_EMBEDDINGS.name).where(as_of=AS_OF).files == ()


def test_a_warning_is_told_and_does_not_block(before):
    """Many new users, a few lost, a weak anchor, an offset: everything that is unusual, and nothing that is wrong."""
    more = sorted([*EVERYBODY[10:], *(f"w{number}" for number in range(700))])
    stage_day(before, AS_OF, [sorted_rows(more, honest(more, 2) * ([1.0] * DIM + [1e-4] * DIM) + ([1.0] * DIM + [0] * DIM))])
    limits = {"min_overlap": 0.0, "min_norm_ratio": 0.1}
    report = publication.run(judged(before, **limits))
    assert report["released"] and published_users(before) == more
    assert set(report["warnings"]) == {"every_anchor_lives", "growth_of_users", "few_users_lost", "users_move_little", "vectors_shift_little",
                                       "neighbours_mostly_kept"} == set(names_of(before, "warn"))
    assert publication.run(judged(before, **limits)) == report, "told again by the same run"


def test_severities_of_the_configuration(before):
    stage_day(before, AS_OF, [sorted_rows(EVERYBODY, one_anchor_dead(0.0))])
    with pytest.raises(AuditError, match="every_anchor_lives is 0, expected at least 0.001"):
        publication.run(judged(before, severities={"every_anchor_lives": "block"}))
    told = publication.run(judged(before, severities={"every_anchor_lives": "info"}))
    assert "every_anchor_lives" not in told.get("warnings", []) and names_of(before, "info") == ["every_anchor_lives"]


def test_another_model_is_compared_without_a_common_space(before):
    """Turned and scaled: no vector is near its old one, every neighbour is."""
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((6, 6)))[0] * 5
    stage_day(before, AS_OF, [sorted_rows(EVERYBODY, honest(EVERYBODY, 2) @ turn)], model_id="model-new")
    publication.run(judged(before))
    figures = report_of(before)["figures"]
    assert figures["same_user_cosine"] is figures["mean_shift"] is figures["norm_ratio"] is figures["same_model_overlap"] is None
    assert figures["new_model_overlap"] > 0.5 and figures["user_ratio"] == 1.0


def test_another_model_that_lost_half_of_the_users_is_blocked_all_the_same(before):
    stage_day(before, AS_OF, [sorted_rows(EVERYBODY[::2], np.random.default_rng(1).standard_normal((150, 6)))], model_id="model-new")
    with pytest.raises(AuditError):
        publication.run(judged(before))
    assert names_of(before) == ["number_of_users", "lost_users"] and names_of(before, "warn") == ["few_users_lost"]


def test_what_was_rolled_back_is_no_measure(before):
    stage_day(before, "2021-12-15", [sorted_rows(EVERYBODY, np.random.default_rng(1).standard_normal((300, 6)))], "c" * 16)
    publication.run(judged(before, "2021-12-15", "c" * 16, reason="a wrong table, on purpose"))
    rollback(before)
    stage_day(before, AS_OF, [sorted_rows(EVERYBODY, honest(EVERYBODY, 2))])
    assert publication.run(judged(before))["released"] and report_of(before)["compared_with"]["as_of"] == "2021-12-01"


def test_a_date_of_history_is_held_against_the_date_before_it(before):
    stage_day(before, "2021-11-01", [sorted_rows(EVERYBODY[:120], honest(EVERYBODY[:120], 3))], "c" * 16)
    publication.run(judged(before, "2021-11-01", "c" * 16))
    assert report_of(before, "c" * 16)["compared_with"].startswith("nothing")
    stage_day(before, "2021-11-15", [sorted_rows(EVERYBODY[:130], honest(EVERYBODY[:130], 3))], "d" * 16)
    publication.run(judged(before, "2021-11-15", "d" * 16))
    assert report_of(before, "d" * 16)["compared_with"]["as_of"] == "2021-11-01"


def test_a_release_that_cannot_be_read_is_a_warning(before, tmp_path):
    for file in before.snapshot(USER_EMBEDDINGS.name).files:
        (tmp_path / "warehouse" / "tables" / USER_EMBEDDINGS.name / file.path).write_bytes(b"broken")
    stage_day(before, AS_OF, [sorted_rows(EVERYBODY, honest(EVERYBODY, 2))])
    assert publication.run(judged(before))["warnings"] == ["release_can_be_read"]


def test_half_of_the_users_without_a_vector_block_a_first_release(store):
    stage_day(store, AS_OF, [rows_of(EVERYBODY[:100])], unusable=150)
    with pytest.raises(AuditError, match="coverage is 0.4, expected 0.5 to 1"):
        publication.run(judged(store))


def test_facts_that_cannot_be(store):
    rows = rows_of(["a", "b", "c", "d"]).to_pydict()
    rows["n_events"][0] = 0
    rows["first_event_at"][1] = datetime(2021, 1, 1, tzinfo=UTC)  # after the last one
    rows["last_event_at"][2] = datetime(2022, 1, 1, tzinfo=UTC)  # as_of itself is too late
    stage_day(store, AS_OF, [pa.table(rows, schema=USER_EMBEDDINGS.data_schema)])
    with pytest.raises(AuditError, match="no_event_from_the_future is 1, expected 0 .and activity_facts_fit"):
        publication.run(judged(store, reason="I want it"))
    assert report_of(store)["figures"]["wrong_facts"] == 2


def plant_bags(store: Store, users_by_month: dict[str, int]) -> None:
    """Bags of some months in a space of four interests, of which two are used."""
    store.write_bytes(store.path("artifacts", "spaces", "space-planted", "info.json"), json.dumps({"info": {"n_interests": 4}}).encode())
    files, at = [], datetime(2020, 1, 1, tzinfo=UTC)
    for month, count in users_by_month.items():
        rows = pa.table({"user_id": EVERYBODY[:count], "interest_ids": [[0, 3]] * count, "counts": [[1, 1]] * count, "n_events": [2] * count,
                         "first_event_at": [at] * count, "last_event_at": [at] * count}, schema=BAGS.data_schema)
        partition = {"space_id": "space-planted", "scale": "month", "period": month, "until": f"{month}-28", "bucket": "0"}
        files.append(stage_table(store, BAGS, "bags", partition, rows))
    store.commit(Manifest(BAGS.name, "bags", tuple(files), ({},)))


@pytest.mark.parametrize(("as_of", "months", "holes"), [
    ("2022-01-01", {"2021-08": 200, "2021-09": 200, "2021-10": 200, "2021-11": 200, "2021-12": 200}, []),
    ("2022-01-01", {"2021-08": 200, "2021-09": 200, "2021-10": 200, "2021-11": 200}, ["2021-12"]),
    ("2022-01-01", {"2021-07": 200, "2021-08": 200, "2021-09": 200, "2021-11": 200, "2021-12": 200}, ["2021-10"]),
    ("2022-01-15", {"2021-08": 200, "2021-09": 200, "2021-10": 200, "2021-11": 200, "2022-01": 5}, ["2021-12"]),
    ("2022-01-01", {"2021-08": 200, "2021-09": 200, "2021-10": 50, "2021-11": 200}, []),
])
def test_an_empty_month(store, as_of, months, holes):
    plant_bags(store, months)
    stage_day(store, as_of, [rows_of(["a", "b"])])
    if holes:
        with pytest.raises(AuditError, match="no_empty_month is 1, expected 0"):
            publication.run(judged(store, as_of))
    else:
        assert publication.run(judged(store, as_of))["released"]
    assert report_of(store)["empty_months"] == holes and report_of(store)["figures"]["interests_used"] == 0.5


def test_forced_with_a_reason(before):
    stage_day(before, AS_OF, [sorted_rows(EVERYBODY[::2], honest(EVERYBODY[::2], 2))])
    with pytest.raises(AuditError):
        publication.run(judged(before))
    assert report_of(before)["forced"] is None
    report = publication.run(judged(before, reason="a shop was sold"))
    assert report["released"] and report["current"] and report["forced"] == "a shop was sold" and published_users(before) == EVERYBODY[::2]
    assert releases(before)[-1]["reason"] == "publish, forced: a shop was sold" and report_of(before)["forced"] == "a shop was sold"
    commit = DeltaTable(before.table_uri(USER_EMBEDDINGS.name)).history(1)[0]
    assert commit["forced"] == "a shop was sold" and commit["audit_digest"] == report_of(before)["digest"]
    assert publication.run(judged(before)) == report == publication.run(judged(before, reason="again")), "what is released is not judged twice"
    assert len(releases(before)) == 2


def test_a_reason_that_was_not_needed_leaves_no_trace(store):
    stage_day(store, AS_OF, [rows_of(["a"])])
    assert "forced" not in publication.run(judged(store, reason="just in case")) and releases(store)[0]["reason"] == "publish"


@pytest.mark.parametrize(("name", "parts"), [
    ("all_numbers_finite", [rows_of(["a", "b"], vectors=[vector("a"), np.array([1, np.nan, 1, 1, 1, 1])])]),
    ("no_duplicate_users", [rows_of(["a", "a"])]), ("some_users", []),
    ("dimension_is_that_of_the_model", [rows_of(["a", "b"], vectors=[vector("a"), np.ones(5)])]),
])
def test_a_broken_contract_cannot_be_forced(store, name, parts):
    stage_day(store, AS_OF, parts)
    with pytest.raises(AuditError, match=f"--force cannot publish a table against {name}"):
        publication.run(judged(store, reason="I want it"))
    assert releases(store) == [] and report_of(store)["forced"] is None


class Killed(Exception):
    """Stands for a kill: nothing of ours may catch it."""


STEPS = {
    "audit": ("lurm.publication.output_figures",),
    "verdict": ("lurm.publication.audit",),
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
