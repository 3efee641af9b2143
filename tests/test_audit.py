"""The quality gate: one pass gives the right figures, and each planted defect is found under its own name."""

import numpy as np
import pyarrow as pa
import pytest
from published import DIM, N_ANCHORS, rows_of, stage_day, vector

from lurm.audit import CHECKS, audit, digest, profile_embeddings
from lurm.config import PublishSettings
from lurm.store import Store

LENGTH = N_ANCHORS * DIM


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "warehouse"))


def findings_of(store, parts, users=None, **settings):
    manifest = stage_day(store, "2022-01-01", parts, users=users)
    profile = profile_embeddings(store, manifest)
    return profile, {finding.name: finding.value for finding in audit(profile, manifest, PublishSettings(**settings))}


def spoiled(**vectors) -> pa.Table:
    """Users a to f, some of them with another vector."""
    users = [*"abcdef"]
    return rows_of(users, vectors=[vectors.get(user, vector(user)) for user in users])


def test_a_sound_table_passes(store):
    unit = [np.eye(LENGTH)[0] * 3, np.eye(LENGTH)[1] * 4]
    profile, findings = findings_of(store, [rows_of(["a", "b"], vectors=unit), rows_of(["c", "d"], vectors=unit)])
    assert findings == {}
    assert (profile.rows, profile.manifest_rows, profile.duplicate_users, profile.damaged_files) == (4, 4, 0, 0)
    assert profile.norm_mean == 3.5 and profile.norm_max == 4.0


@pytest.mark.parametrize(("part", "name", "value"), [
    (spoiled(c=np.array([1, 2, np.nan, 4, 5, 6])), "all_numbers_finite", 1),
    (spoiled(c=np.array([1, 2, np.inf, 4, 5, 6]), d=np.array([-np.inf] * 6)), "all_numbers_finite", 2),
    (spoiled(c=[1.0, None, 3.0, 4.0, 5.0, None]), "all_numbers_finite", 1),
    (spoiled(c=np.zeros(LENGTH)), "share_of_zero_vectors", 1 / 6),
    (spoiled(c=np.ones(LENGTH - 1)), "dimension_is_that_of_the_model", 1),
    (spoiled(c=np.ones(LENGTH + 1), d=[]), "dimension_is_that_of_the_model", 2),
    (spoiled(c=None, d=None), "no_null_embeddings", 2),
    (rows_of(["a", "b", None], vectors=[vector("x")] * 3), "no_null_users", 1),
    (rows_of(["a", "b", "b", "c", "c", "c"]), "no_duplicate_users", 3),
])
def test_each_defect_is_found_alone_and_counted(store, part, name, value):
    _, findings = findings_of(store, [part])
    assert findings == {name: pytest.approx(value)}


def test_zero_vectors_up_to_the_share_allowed_pass(store):
    part = spoiled(c=np.zeros(LENGTH))
    assert findings_of(store, [part], max_zero_share=0.17)[1] == {}
    assert "share_of_zero_vectors" in findings_of(store, [part], max_zero_share=0.16)[1]


def test_a_user_in_two_files_is_a_duplicate(store):
    profile, findings = findings_of(store, [rows_of(["a", "b", "z"]), rows_of(["b", "c"]), rows_of(["b", "z"])])
    assert findings == {"no_duplicate_users": 3} and profile.duplicate_users == 3


def test_a_duplicate_across_two_batches_of_one_file_is_found(store, monkeypatch):
    """Users are walked in batches of 65,536: the last of one batch may be the first of the next."""
    names = [f"{number:06d}" for number in range(65_536)]
    rows = rows_of([*names, names[-1]], vectors=[vector("x")] * 65_537)
    assert findings_of(store, [rows])[1] == {"no_duplicate_users": 1}


def test_an_unsorted_file_hides_no_duplicate(store):
    assert findings_of(store, [rows_of(["c", "a", "b", "a"])])[1] == {"no_duplicate_users": 1}


def test_rows_that_the_stage_counted_and_nobody_has(store):
    assert findings_of(store, [rows_of(["a", "b"])], users=3)[1] == {"row_count_is_that_of_the_stage": 2}


def test_rows_that_the_manifest_does_not_know(store):
    manifest = stage_day(store, "2022-01-01", [rows_of(["a", "b"])])
    profile = profile_embeddings(store, manifest)
    lying = type(manifest)(**{**manifest.__dict__, "files": (type(manifest.files[0])(**{**manifest.files[0].__dict__, "rows": 1}),)})
    assert [finding.name for finding in audit(profile_embeddings(store, lying), lying, PublishSettings())] == ["row_count_is_that_of_the_manifest"]
    assert profile.rows == profile.manifest_rows


def test_no_rows_at_all_and_too_few(store):
    assert findings_of(store, [])[1] == {"enough_users": 0}
    assert findings_of(store, [rows_of([])])[1] == {"enough_users": 0}
    assert findings_of(store, [rows_of(["a"])], min_users=2)[1] == {"enough_users": 1}


def test_changed_bytes_are_found_by_their_checksum(store):
    manifest = stage_day(store, "2022-01-01", [rows_of(["a", "b"]), rows_of(["c", "d"])])
    path = store.path("tables", manifest.table, *manifest.files[0].path.split("/"))
    data = bytearray(store.read_bytes(path))
    data[20] ^= 1
    store.write_bytes(path, bytes(data))
    profile = profile_embeddings(store, manifest)
    names = [finding.name for finding in audit(profile, manifest, PublishSettings())]
    assert profile.damaged_files == 1 and "no_damaged_files" in names and "row_count_is_that_of_the_manifest" in names


def test_the_digest_names_the_outcome(store):
    manifest = stage_day(store, "2022-01-01", [rows_of(["a", "b"])])
    profile = profile_embeddings(store, manifest)
    assert digest(profile, []) == digest(profile_embeddings(store, manifest), [])
    assert digest(profile, []) != digest(profile, audit(profile, manifest, PublishSettings(min_users=3)))


def test_every_check_has_its_own_name():
    assert len({check.name for check in CHECKS}) == len(CHECKS)
