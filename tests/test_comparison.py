"""Comparison: each figure where the answer is planted, and which tables a name stands for."""

import numpy as np
import pytest
from published import DIM, N_ANCHORS, day, rows_of, stage_day

from lurm import publication
from lurm.alignment import Alignment, save_alignment
from lurm.candidates import table_of
from lurm.comparison import choose, compare_tables, compare_vectors, lines_of
from lurm.errors import InputError, MissingInputError
from lurm.profile import hash_of_users
from lurm.releases import rollback
from lurm.store import Store

OLD, NEW = "model-old", "model-new"
USERS = [f"u{number:04d}" for number in range(400)]
WIDTH = N_ANCHORS * DIM


def population(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, WIDTH)).astype(np.float32)


VECTORS = population(400)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "warehouse"))


def publish(store: Store, as_of: str, model: str, key: str, users: list[str], vectors: np.ndarray, release: bool = True) -> dict:
    stage_day(store, as_of, [rows_of(users, vectors=list(vectors))], key * 16, model)
    return publication.run(day(store, as_of, key * 16, release))


def compared(store: Store, before: str, now: str, n_sampled: int = 2_000) -> dict:
    return compare_tables(store, *(table_of(store, row) for row in choose(store, before, now)), n_sampled)


# ---- which tables --------------------------------------------------------------------------------------------------------------------------


def test_what_a_name_stands_for(store):
    for number, (as_of, model, release) in enumerate([
        ("2022-01-01", OLD, True), ("2022-01-02", OLD, True), ("2022-01-01", NEW, False), ("2022-01-02", NEW, False), ("2022-01-03", OLD, True),
    ]):
        publish(store, as_of, model, str(number), USERS[:3], VECTORS[:3], release)

    def names(*arguments):
        return [(row["model_id"], row["as_of"], row["epoch"]) for row in choose(store, *arguments)]

    assert names("released", "candidate") == names(OLD, NEW) == [(OLD, "2022-01-02", 2), (NEW, "2022-01-02", 0)], "the newest date that both have"
    assert names("released", NEW, "2022-01-01") == names("1", "candidate") == [(OLD, "2022-01-01", 1), (NEW, "2022-01-01", 0)]
    assert names("1", "3") == [(OLD, "2022-01-01", 1), (OLD, "2022-01-03", 3)], "two epochs are what they are"
    rollback(store, 1)
    with pytest.raises(InputError, match="Expected two different tables, 1 and 4 are both"):
        choose(store, "1", "4")


def test_names_that_stand_for_nothing(store):
    with pytest.raises(MissingInputError, match="got 'released'; .* has no epoch, and tables of these models: none"):
        choose(store, "released", "candidate")
    publish(store, "2022-01-01", OLD, "0", USERS[:3], VECTORS[:3])
    publish(store, "2022-01-02", NEW, "1", USERS[:3], VECTORS[:3])
    with pytest.raises(MissingInputError, match=f"got 'model-x'; .* has epochs 1 to 2, and tables of these models: {OLD}, {NEW}"):
        choose(store, "model-x", OLD)
    with pytest.raises(MissingInputError, match="Expected an epoch.* got '7'"):
        choose(store, "7", "1")
    with pytest.raises(MissingInputError, match=f"Expected a date that both have, their newest dates are {OLD}: 2022-01-01; {NEW}: 2022-01-02"):
        choose(store, OLD, NEW)
    with pytest.raises(MissingInputError, match="Expected both to have 2022-01-02"):
        choose(store, OLD, NEW, "2022-01-02")
    with pytest.raises(InputError, match=f"Expected two different tables, released and 2 are both {NEW} at 2022-01-02"):
        choose(store, "released", "2")


# ---- what changes --------------------------------------------------------------------------------------------------------------------------


def test_the_same_vectors_under_another_name(store):
    """Users come and go; those of both have exactly the neighbours, norms and directions they had."""
    publish(store, "2022-01-01", OLD, "0", USERS[:350], VECTORS[:350])
    publish(store, "2022-01-02", OLD, "1", USERS[50:], VECTORS[50:])
    result = compared(store, "1", "2")
    assert result["users"] == {"before": 350, "now": 350, "both": 300, "lost": 50, "gained": 50}
    assert result["sampled_users"] == 300 and result["same_space"] and "if_aligned" not in result
    assert result["neighbours"]["10"] == {"mean": 1, "p1": 1, "p10": 1, "p50": 1, "p90": 1, "chance": 10 / 299}
    assert result["same_user_cosine"]["p1"] == pytest.approx(1) and result["mean_shift"] == 0 and result["norms"]["ratio"] == 1
    assert result["before"]["epoch"] == 1 and result["now"] == {**result["before"], "epoch": 2, "as_of": "2022-01-02", "version": 2}
    assert result["effective_rank"]["before"] == result["effective_rank"]["now"]


def test_some_users_are_less_stable_than_others(store):
    """A tenth of the users get vectors of strangers: the percentiles show them, the mean hardly does."""
    moved = VECTORS.copy()
    moved[:40] = population(40, seed=9)
    publish(store, "2022-01-01", OLD, "0", USERS, VECTORS)
    publish(store, "2022-01-02", OLD, "1", USERS, moved)
    result = compared(store, "1", "2")
    assert result["same_user_cosine"]["p1"] < 0 < 0.99 < result["same_user_cosine"]["p50"] and result["same_user_cosine"]["mean"] > 0.85
    assert result["neighbours"]["10"]["p1"] < 0.2 < 0.7 < result["neighbours"]["10"]["p50"] and result["neighbours"]["10"]["chance"] < 0.03


def test_another_model_has_another_space_and_may_have_the_same_neighbours(store):
    """Each anchor turned by itself, one scaled: no direction is kept, every neighbour within an anchor is, and a turn would mend it."""
    rng = np.random.default_rng(4)
    turns = [np.linalg.qr(rng.standard_normal((DIM, DIM)))[0] for _ in range(N_ANCHORS)]
    turned = np.concatenate([VECTORS[:, :DIM] @ turns[0], 2 * VECTORS[:, DIM:] @ turns[1]], axis=1)
    publish(store, "2022-01-01", OLD, "0", USERS, VECTORS)
    publish(store, "2022-01-01", NEW, "1", USERS, turned, release=False)
    result = compared(store, "released", "candidate")
    assert not result["same_space"] and result["same_user_cosine"] is result["mean_shift"] is None
    assert [anchor["neighbours"] for anchor in result["anchors"]] == pytest.approx([1, 1]) and result["neighbours"]["10"]["mean"] < 0.9
    assert [anchor["ratio"] for anchor in result["anchors"]] == pytest.approx([1, 2], rel=1e-5) and 1 < result["norms"]["ratio"] < 2
    assert "same_user_cosine" not in result["anchors"][0]
    assert result["if_aligned"]["anchors"]["cosine"] > 0.9 and result["if_aligned"]["anchors"]["anchors"][0]["residual"] < 1e-6
    # Once it is aligned, directions are compared too.
    back = Alignment(np.arange(2), np.stack([turn.T for turn in turns]))
    save_alignment(store, NEW, back, {"alignment_id": "alignment-planted", "aligned_to": OLD, "as_of": "2022-01-01"})
    publish(store, "2022-01-02", NEW, "2", USERS, back.turn(turned), release=False)
    publish(store, "2022-01-02", OLD, "3", USERS, VECTORS)
    result = compared(store, "released", NEW)
    assert result["same_space"] and result["now"]["space"] == OLD and "if_aligned" not in result
    assert [anchor["same_user_cosine"] for anchor in result["anchors"]] == pytest.approx([1, 1])


def test_models_of_two_shapes(store):
    publish(store, "2022-01-01", OLD, "0", USERS, VECTORS)
    stage_day(store, "2022-01-01", [rows_of(USERS, vectors=list(population(400, 3)))], "1" * 16, NEW, n_anchors=3, dim=2)
    publication.run(day(store, "2022-01-01", "1" * 16, release=False))
    result = compared(store, "released", "candidate")
    assert result["anchors"] == [] and "if_aligned" not in result and result["neighbours"]["10"]["mean"] < 0.1
    assert result["norms"]["ratio"] == pytest.approx(1, abs=0.1)


def test_too_few_in_both_say_nothing_of_vectors(store):
    publish(store, "2022-01-01", OLD, "0", USERS[:250], VECTORS[:250])
    publish(store, "2022-01-02", OLD, "1", USERS[200:], VECTORS[200:])
    result = compared(store, "1", "2")
    assert result["users"]["both"] == result["sampled_users"] == 50 and "neighbours" not in result
    assert lines_of(result)[-1].endswith("not compared: fewer than 100 users are in both")


def test_the_sample_is_by_hash(store, monkeypatch):
    publish(store, "2022-01-01", OLD, "0", USERS, VECTORS)
    publish(store, "2022-01-02", OLD, "1", USERS, VECTORS)
    seen = []
    monkeypatch.setattr("lurm.comparison.compare_vectors", lambda users, *rest, **more: seen.append(list(users)) or {})
    compared(store, "1", "2", n_sampled=150)
    hashes = dict(zip(USERS, hash_of_users(rows_of(USERS)["user_id"].combine_chunks()).tolist(), strict=True))
    assert seen == [sorted(sorted(USERS, key=hashes.get)[:150])], "the users of smallest hash, in order"


def test_of_unrelated_vectors_what_chance_gives():
    users = np.asarray(USERS, object)
    result = compare_vectors(users, VECTORS, population(400, seed=5), (N_ANCHORS, N_ANCHORS), same_space=False, fit=True)
    for size in ("10", "100"):
        kept = result["neighbours"][size]
        assert kept["mean"] == pytest.approx(kept["chance"], abs=0.02) and kept["chance"] == int(size) / 399
    for kind in ("anchors", "vector"):
        assert result["if_aligned"][kind]["explained"] < 0.1


def test_every_figure_has_its_line(store):
    publish(store, "2022-01-01", OLD, "0", USERS, VECTORS)
    publish(store, "2022-01-01", NEW, "1", USERS, population(400, 2), release=False)
    result = compared(store, "released", "candidate")
    result["tasks"] = {"bought": {"before": 0.7, "now": 0.75, "users": 300, "difference": {"mean": 0.05, "low": -0.01, "high": 0.11}}}
    text = "\n".join(lines_of(result))
    for words in (f"epoch 1, {OLD} at 2022-01-01", f"candidate, {NEW} at 2022-01-01", "400 in both, 0 lost, 0 gained", "nearest 10 kept",
                  "(chance 0.025)", "anchor 1", "what was trained on the one cannot use the other", "publish.align=anchors", "publish.align=vector",
                  "AUC 0.700 -> 0.750, difference +0.050 (95 %: -0.010 to +0.110; 300 users)"):
        assert words in text, words
    assert all(line[20] != " " and len(line) <= 180 for line in lines_of(result))
