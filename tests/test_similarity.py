"""Look-alikes: what a full matrix of cosines gives, ties by user id, nobody his own neighbour, and no neighbours without a direction."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published import day, rows_of, stage_day

from lurm import open_table, publication, similarity
from lurm.errors import InputError, UnknownUserError
from lurm.similarity import similar
from lurm.store import Store

AS_OF = "2022-01-01"


def publish(uri: str, vectors: dict[str, list[float]], n_files: int = 1, n_anchors: int = 2, dim: int = 3):
    """A released table of planted vectors, opened."""
    store, users = Store(uri), sorted(vectors)
    step = -(-len(users) // n_files)
    parts = [users[start : start + step] for start in range(0, len(users), step)]
    rows = [rows_of(part, vectors=[np.asarray(vectors[user], np.float32) for user in part]) for part in parts]
    stage_day(store, AS_OF, rows, n_anchors=n_anchors, dim=dim)
    publication.run(day(store, AS_OF, max_zero_share=1.0))
    return open_table(uri)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Vectors of two anchors whose cosines are known."""
    return publish(str(tmp_path_factory.mktemp("few") / "w"), {
        "a": [1, 0, 0, 0, 0, 2], "b": [3, 0, 0, 0, 0, 6],  # three times a: cosine 1
        "c": [0, 1, 0, 0, 0, 2],  # to a: 4/5; first anchors at right angles, second ones the same
        "d": [0, 2, 0, 0, 0, 4],  # twice c: as near to a as c
        "e": [-1, 0, 0, 0, 0, -2],  # the other way: -1
        "z": [0, 0, 0, 0, 0, 0], "y": [0, 0, 0, 1, 0, 0],  # no direction at all, and none in the first anchor
    })


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """200 random users in three files."""
    random = np.random.default_rng(3)
    return publish(str(tmp_path_factory.mktemp("many") / "w"), {f"u{n:03d}": random.standard_normal(6) for n in range(200)}, n_files=3)


def brute(table, anchor: int | None) -> tuple[list[str], np.ndarray]:
    """All users and their cosines to each other, -inf to oneself."""
    users = [user for batch in table.scan(["user_id"]) for user in batch.column(0).to_pylist()]
    vectors = table.vectors(users).astype(np.float64)[:, slice(None) if anchor is None else slice(3 * anchor, 3 * anchor + 3)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    return users, cosines


def test_by_hand(few):
    ids, cosines = similar(few, ["a"], 5)
    assert ids.tolist() == [["b", "c", "d", "y", "e"]] and np.allclose(cosines, [[1, 0.8, 0.8, 0, -1]], atol=1e-12)
    assert cosines[0, 1] == cosines[0, 2], "equal directions, equal cosines: then the ids decide"
    ids, cosines = similar(few, ["c", "b", "c"], 2)
    assert ids.tolist() == [["d", "a"], ["a", "c"], ["d", "a"]], "in the order asked, asked twice or not"


def test_one_anchor_by_hand(few):
    ids, cosines = similar(few, ["a"], 10, anchor=1)
    assert ids[0, :5].tolist() == ["b", "c", "d", "y", "e"] and np.allclose(cosines[0, :5], [1, 1, 1, 0, -1])
    assert ids[0, 5:].tolist() == [None] * 5 and np.isnan(cosines[0, 5:]).all(), "fewer users than asked for"
    ids, cosines = similar(few, ["a"], 4, anchor=0)
    assert ids.tolist() == [["b", "c", "d", "e"]] and np.allclose(cosines, [[1, 0, 0, -1]])


@pytest.mark.parametrize("anchor", [None, 0, 1])
def test_equal_to_the_full_matrix(many, anchor):
    users, truth = brute(many, anchor)
    ids, cosines = similar(many, users, 7, anchor)
    order = np.argsort(-truth, axis=1, kind="stable")[:, :7]
    assert (ids == np.asarray(users, dtype=object)[order]).all() and np.allclose(cosines, np.take_along_axis(truth, order, axis=1), atol=1e-9)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(st.integers(0, 199), min_size=1, max_size=20), k=st.integers(1, 250), batch_rows=st.sampled_from([1, 13, 64, 10_000]))
def test_batches_and_company_change_nothing(many, asked, k, batch_rows):
    """To the bit: a user asked alone, in one batch, and with others, in small ones."""
    users = [f"u{number:03d}" for number in asked]
    ids, cosines = similar(many, users, k, batch_rows=batch_rows)
    for row, user in enumerate(users):
        alone_ids, alone = similar(many, [user], k)
        assert (ids[row] == alone_ids[0]).all() and np.array_equal(cosines[row], alone[0], equal_nan=True)


def test_more_users_than_a_tile(many, monkeypatch):
    users = [f"u{number:03d}" for number in range(50)]
    expected = similar(many, users, 3)
    monkeypatch.setattr(similarity, "TILE_QUERIES", 7)
    got = similar(many, users, 3)
    assert (expected[0] == got[0]).all() and np.array_equal(expected[1], got[1])


def test_many_equal_vectors(tmp_path):
    """Every cosine is the same number: the first ids win, also across files and batches."""
    table = publish(str(tmp_path / "w"), {f"u{number:03d}": [0.1, 0.7, -0.3, 1.1, 2.3, 0.9] for number in range(120)}, n_files=4)
    ids, cosines = similar(table, ["u050", "u001"], 4, batch_rows=11)
    assert ids.tolist() == [["u000", "u001", "u002", "u003"], ["u000", "u002", "u003", "u004"]] and (cosines == 1).all()


def test_no_direction_no_neighbours(few):
    with pytest.raises(InputError, match="Expected users whose vector has a direction, it is zero for 1: z; such users have no neighbours, leave"):
        similar(few, ["a", "z"], 2)
    with pytest.raises(InputError, match="whose anchor 0 has a direction, it is zero for 2: y, z; .* or ask for another anchor"):
        similar(few, ["z", "y"], 2, anchor=0)
    ids, cosines = similar(few, ["z", "a"], 2, zero="mask")
    assert ids.tolist() == [[None, None], ["b", "c"]] and np.isnan(cosines[0]).all() and not np.isnan(cosines[1]).any()
    everybody = similar(few, ["a"], 6)[0]
    assert "z" not in everybody[0].tolist(), "nor are they anybody's neighbours"


def test_mistakes_in_the_call(few):
    with pytest.raises(UnknownUserError, match="it does not hold 1 of 2: nobody"):
        similar(few, ["a", "nobody"], 2)
    with pytest.raises(InputError, match="Expected to look for at least 1 neighbour, got 0"):
        similar(few, ["a"], 0)
    with pytest.raises(InputError, match="Expected anchors from 0 to 1, got 5"):
        similar(few, ["a"], 1, anchor=5)
    with pytest.raises(ValueError, match="zero to be 'error' or 'mask'"):
        similar(few, ["a"], 1, zero="skip")
    ids, cosines = similar(few, [], 3)
    assert ids.shape == cosines.shape == (0, 3)


def test_memory_is_a_batch_not_the_table(tmp_path):
    random = np.random.default_rng(1)
    vectors = random.standard_normal((6_000, 256)).astype(np.float32)
    table = publish(str(tmp_path / "w"), {f"u{number:05d}": row for number, row in enumerate(vectors)}, n_files=6, n_anchors=2, dim=128)
    similar(table, ["u00000"], 5, batch_rows=100)
    tracemalloc.start()
    similar(table, ["u00000"], 5, batch_rows=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < vectors.nbytes / 3, f"{peak} bytes of Python and numpy for a table of {vectors.nbytes}"
