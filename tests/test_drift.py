"""Drift by hand: who is lost, how far vectors moved, whose neighbours stayed."""

import numpy as np
import pytest
from published import MODEL, N_ANCHORS, publish_day, rows_of, stage_day

from lurm.drift import Drift, baseline, compare
from lurm.profile import profile_embeddings
from lurm.releases import releases, rollback
from lurm.store import Store

USERS = [f"u{number:03d}" for number in range(40)]


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "warehouse"))


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, N_ANCHORS * 3)).astype(np.float32)


def drift_of(store, users, vectors, model_id: str = MODEL, min_users: int = 12) -> Drift:
    manifest = stage_day(store, "2022-01-01", [rows_of(users, vectors=list(vectors))], model_id=model_id)
    profile, sample = profile_embeddings(store, manifest)
    return compare(store, releases(store)[0], model_id, profile, sample, min_users)


def test_the_same_table_has_not_moved(store):
    publish_day(store, "2021-12-01", USERS, n_files=3)
    from lurm import open_table

    drift = drift_of(store, USERS, open_table(store.uri).vectors(USERS))
    assert (drift.user_ratio, drift.lost_users, drift.compared_users, drift.neighbour_overlap) == (1.0, 0.0, 40, 1.0)
    assert drift.same_user_cosine == pytest.approx(1.0) and drift.norm_ratio == pytest.approx(1.0) and drift.mean_shift == 0.0


def test_users_who_left_and_who_came(store):
    publish_day(store, "2021-12-01", USERS, n_files=2)
    drift = drift_of(store, USERS[10:] + [f"v{number}" for number in range(50)], rows(80))
    assert drift.user_ratio == 2.0 and drift.lost_users == 0.25 and drift.compared_users == 30


def test_too_few_in_common_say_nothing_of_vectors(store):
    publish_day(store, "2021-12-01", USERS)
    drift = drift_of(store, USERS[:11] + [f"v{number}" for number in range(50)], rows(61))
    assert drift == Drift(61 / 40, 29 / 40, 11)


def test_another_model_has_neighbours_only(store):
    publish_day(store, "2021-12-01", USERS)
    drift = drift_of(store, USERS, rows(40), "model-new")
    assert drift.same_user_cosine is drift.mean_shift is drift.norm_ratio is None and 0 < drift.neighbour_overlap < 1


def test_what_a_date_is_held_against(store):
    assert baseline(store, "2022-01-01", "x") is None
    first = publish_day(store, "2021-10-01", ["a"])["epoch"]
    publish_day(store, "2021-12-01", ["a"])
    assert baseline(store, "2021-09-01", "x") is None
    assert baseline(store, "2021-11-01", "x")["as_of"] == "2021-10-01", "history: the date before it"
    assert baseline(store, "2021-12-01", "x")["as_of"] == baseline(store, "2022-01-01", "x")["as_of"] == "2021-12-01"
    rollback(store, first)
    assert baseline(store, "2022-01-01", "x")["as_of"] == "2021-10-01", "what readers follow, not what was rolled back"
    assert baseline(store, "2021-10-01", releases(store)[0]["run_key"]) is None, "nothing is held against itself"
