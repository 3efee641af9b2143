"""The profile: one pass gives the right figures, each defect is counted under its own name, and the sample is the same users everywhere."""

import hashlib
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published import DIM, N_ANCHORS, rows_of, stage_day, vector

from lurm.errors import StoreError
from lurm.manifest import DataFile, Manifest
from lurm.profile import profile_embeddings
from lurm.schema import USER_EMBEDDINGS
from lurm.store import Store

LENGTH = N_ANCHORS * DIM
DEFECTS = ("null_users", "null_embeddings", "wrong_length", "not_finite", "zero_vectors", "duplicate_users", "damaged_files",
           "files_of_another_schema", "future_facts", "wrong_facts")


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "warehouse"))


def defects_of(profile) -> dict[str, int]:
    return {name: getattr(profile, name) for name in DEFECTS if getattr(profile, name)}


def profile_of(store, parts, n_sampled: int = 2_000):
    return profile_embeddings(store, stage_day(store, "2022-01-01", parts), n_sampled)


def spoiled(**vectors) -> pa.Table:
    """Users a to f, some of them with another vector."""
    users = [*"abcdef"]
    return rows_of(users, vectors=[vectors.get(user, vector(user)) for user in users])


def changed(name: str, place: int, value) -> pa.Table:
    rows = rows_of([*"abcdef"]).to_pydict()
    rows[name][place] = value
    return pa.table(rows, schema=USER_EMBEDDINGS.data_schema)


def test_a_sound_table(store):
    vectors = [np.eye(LENGTH)[0] * 3, np.eye(LENGTH)[4] * 4]
    profile, sample = profile_of(store, [rows_of(["a", "b"], vectors=vectors), rows_of(["c", "d"], vectors=vectors)])
    assert defects_of(profile) == {} and (profile.rows, profile.manifest_rows) == (4, 4)
    assert (profile.norm_mean, profile.norm_max, profile.norm_p50, profile.norm_p1) == (3.5, 4.0, 3.5, 3.0)
    assert profile.anchor_norms == (1.5, 2.0), "two of four vectors lie in the first anchor with norm 3, two in the second with norm 4"
    assert sample.users.tolist() == [*"abcd"] and np.array_equal(sample.vectors, np.array([*vectors, *vectors])) and len(sample.hashes) == 4


@pytest.mark.parametrize(("part", "name", "value"), [
    (spoiled(c=np.array([1, 2, np.nan, 4, 5, 6])), "not_finite", 1),
    (spoiled(c=np.array([1, 2, np.inf, 4, 5, 6]), d=np.array([-np.inf] * 6)), "not_finite", 2),
    (spoiled(c=[1.0, None, 3.0, 4.0, 5.0, None]), "not_finite", 1),
    (spoiled(c=np.zeros(LENGTH)), "zero_vectors", 1),
    (spoiled(c=np.ones(LENGTH - 1)), "wrong_length", 1),
    (spoiled(c=np.ones(LENGTH + 1), d=[]), "wrong_length", 2),
    (spoiled(c=None, d=None), "null_embeddings", 2),
    (rows_of(["a", "b", None], vectors=[vector("x")] * 3), "null_users", 1),
    (rows_of(["a", "b", "b", "c", "c", "c"]), "duplicate_users", 3),
    (rows_of(["c", "a", "b", "a"]), "duplicate_users", 1),
    (changed("n_events", 2, 0), "wrong_facts", 1),
    (changed("n_active_months", 5, 0), "wrong_facts", 1),
    (changed("first_event_at", 0, datetime(2020, 1, 2, tzinfo=UTC)), "wrong_facts", 1),
    (changed("last_event_at", 0, None), "wrong_facts", 1),
    (changed("last_event_at", 0, datetime(2022, 1, 1, tzinfo=UTC)), "future_facts", 1),
])
def test_each_defect_is_counted_and_nothing_else(store, part, name, value):
    profile, sample = profile_of(store, [part])
    assert defects_of(profile) == {name: value} and profile.rows == part.num_rows
    assert np.isfinite(sample.vectors).all() and np.isfinite(profile.norm_mean) and None not in sample.users.tolist()


def test_the_last_instant_before_as_of_is_no_future(store):
    profile, _ = profile_of(store, [changed("last_event_at", 0, datetime(2021, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))])
    assert defects_of(profile) == {}


def test_a_user_in_two_files_is_a_duplicate(store):
    profile, _ = profile_of(store, [rows_of(["a", "b", "z"]), rows_of(["b", "c"]), rows_of(["b", "z"])])
    assert defects_of(profile) == {"duplicate_users": 3}


def test_nothing_and_nobody(store):
    for parts in ([], [rows_of([])]):
        profile, sample = profile_of(store, parts)
        assert defects_of(profile) == {} and profile.rows == 0 and profile.norm_mean == 0 and len(sample.users) == len(sample.hashes) == 0
        assert sample.vectors.shape == (0, LENGTH)


def test_changed_bytes_are_found_by_their_checksum_and_not_read(store):
    manifest = stage_day(store, "2022-01-01", [rows_of(["a", "b"]), rows_of(["c", "d"])])
    path = store.path("tables", manifest.table, *manifest.files[0].path.split("/"))
    data = bytearray(store.read_bytes(path))
    data[20] ^= 1
    store.write_bytes(path, bytes(data))
    profile, _ = profile_embeddings(store, manifest)
    assert defects_of(profile) == {"damaged_files": 1} and profile.rows == 2 and profile.manifest_rows == 4


@pytest.mark.parametrize("make", [
    lambda rows: rows.drop_columns(["n_events"]),
    lambda rows: rows.set_column(2, "n_events", rows.column("n_events").cast(pa.string())),
    lambda rows: rows.set_column(1, "embedding", rows.column("embedding").cast(pa.list_(pa.float64()))),
    None,
])
def test_a_file_of_another_schema(store, make):
    sink = pa.BufferOutputStream()
    if make:
        pq.write_table(make(rows_of(["a", "b"])), sink)
    else:
        sink.write(b"no Parquet at all, with the right checksum")
    data = sink.getvalue().to_pybytes()
    store.write_bytes(store.path("tables", USER_EMBEDDINGS.name, "x.parquet"), data)
    file = DataFile("x.parquet", len(data), 2, hashlib.sha256(data).hexdigest(), {"as_of": "2022-01-01"})
    profile, _ = profile_embeddings(store, Manifest(USER_EMBEDDINGS.name, "x", (file,), ({},), {"n_anchors": N_ANCHORS, "dim": DIM}))
    assert defects_of(profile) == {"files_of_another_schema": 1} and profile.rows == 0


def test_a_file_that_is_gone_is_one_sentence(store, tmp_path):
    manifest = stage_day(store, "2022-01-01", [rows_of(["a"])])
    (tmp_path / "warehouse" / "tables" / USER_EMBEDDINGS.name / manifest.files[0].path).unlink()
    with pytest.raises(StoreError, match=manifest.files[0].digest):
        profile_embeddings(store, manifest)


def test_the_sample_is_by_user_not_by_place(store, tmp_path):
    """The same users however the table is cut, about as many as asked; the figures do not depend on the cut either."""
    users = [f"u{number:05d}" for number in range(6_000)]
    vectors = np.random.default_rng(0).standard_normal((6_000, LENGTH)).astype(np.float32)
    whole = rows_of(users, vectors=list(vectors))
    one, sample = profile_of(store, [whole], n_sampled=300)
    many, same = profile_of(Store(str(tmp_path / "other")), [whole.slice(start, 700) for start in range(0, 6_000, 700)], n_sampled=300)
    assert sample.users.tolist() == same.users.tolist() == sorted(sample.users) and np.array_equal(sample.vectors, same.vectors)
    assert 230 < len(sample.users) < 370 and np.array_equal(sample.hashes, same.hashes) and len(sample.hashes) == 6_000
    places = [users.index(user) for user in sample.users]
    assert np.array_equal(sample.vectors, vectors[places])
    assert one.norm_mean == pytest.approx(np.linalg.norm(vectors, axis=1).mean()) == pytest.approx(many.norm_mean)
    assert np.allclose(one.anchor_norms, np.linalg.norm(vectors.reshape(-1, N_ANCHORS, DIM), axis=2).mean(axis=0))
