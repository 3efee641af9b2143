"""Alignment: a planted turn is found, lengths and products stay, what was trained on the old vectors reads the new ones; and publishing it."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from deltalake import DeltaTable
from published import DIM, N_ANCHORS, Day, day, rows_of, stage_day

from lurm import open_table, publication
from lurm.alignment import KIND, Alignment, alignment_id, explained, fit_alignment, held_out, load_alignment, quality, save_alignment
from lurm.candidates import candidates, release_candidate
from lurm.cli import main
from lurm.config import PublishSettings
from lurm.errors import AuditError, InputError, LineageError, StoreError
from lurm.releases import coordinates, releases
from lurm.schema import USER_EMBEDDINGS
from lurm.store import Store

OLD, NEW, NEWER = "model-old", "model-new", "model-newer"
AS_OF, LATER = "2022-01-01", "2022-01-02"
USERS = np.asarray([f"u{number:04d}" for number in range(600)], object)


def turn_of(n_parts: int, width: int, seed: int, shuffled: bool = True) -> Alignment:
    """A planted turn, drawn uniformly."""
    rng = np.random.default_rng(seed)
    parts = rng.permutation(n_parts) if shuffled else np.arange(n_parts)
    return Alignment(parts, np.stack([np.linalg.qr(rng.standard_normal((width, width)))[0] for _ in range(n_parts)]))


def population(n: int, width: int, seed: int = 0) -> np.ndarray:
    """(n, width) float32 of people: directions of unequal strength around a common mean."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, width)) * np.geomspace(1, 0.3, width) + 0.7).astype(np.float32)


# ---- the turn ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_parts", "width"), [(4, 5), (1, 12), (2, 3)])
def test_a_planted_turn_is_found(n_parts, width):
    planted = turn_of(n_parts, width, seed=3)
    new = population(500, n_parts * width)
    old = planted.turn(new)
    found = fit_alignment(new, old, n_parts)
    assert found.parts.tolist() == planted.parts.tolist() and np.allclose(found.rotations, planted.rotations, atol=1e-4)
    assert np.abs(found.turn(new) - old).max() < 1e-4
    noisy = old + 0.2 * np.random.default_rng(1).standard_normal(old.shape).astype(np.float32)
    found = fit_alignment(new, noisy, n_parts)
    assert found.parts.tolist() == planted.parts.tolist()
    assert quality(new, noisy, found.turn(new), n_parts)["residual"] < 0.1 < quality(new, noisy, new, n_parts)["residual"]


def test_a_turn_changes_no_length_and_no_product_within_an_anchor():
    found = fit_alignment(population(300, 12), population(300, 12, seed=9), 3)
    for rotation in found.rotations:
        assert np.abs(rotation @ rotation.T - np.eye(4)).max() < 1e-12, "orthogonal, whatever it was fitted to"
    vectors = population(50, 12, seed=2)
    turned = found.turn(vectors)
    assert turned.dtype == np.float32 and turned.shape == vectors.shape
    for place, part in enumerate(found.parts):
        before, now = (matrix.reshape(50, 3, 4)[:, anchor].astype(np.float64) for matrix, anchor in ((vectors, part), (turned, place)))
        assert np.allclose(before @ before.T, now @ now.T, atol=1e-5)


def test_users_do_not_depend_on_who_is_turned_with_them():
    planted, vectors = turn_of(2, 6, seed=1), population(100, 12)
    assert np.array_equal(planted.turn(vectors)[40:41], planted.turn(vectors[40:41]))


def test_what_two_models_do_not_share_no_turn_finds():
    new, old = population(2_000, 6, seed=1), population(2_000, 6, seed=2)
    apart = held_out(USERS[np.arange(2_000) % 600])
    figures = quality(new[apart], old[apart], fit_alignment(new[~apart], old[~apart], 2).turn(new[apart]), 2)
    assert figures["explained"] < 0.05 and figures["cosine"] == pytest.approx(figures["other_cosine"], abs=0.05)


def test_quality_by_hand():
    targets = np.array([[2.0, 0, 0, 1], [0, 2, 1, 0]])
    turned = np.array([[2.0, 0, 0, 0], [0, 1, 1, 0]])
    figures = quality(np.roll(targets, 1, axis=0), targets, turned, 2)
    assert figures["residual"] == pytest.approx(2 / 10), "two numbers are off by one; the squared lengths are 5 and 5"
    assert [anchor["residual"] for anchor in figures["anchors"]] == pytest.approx([1 / 8, 1 / 2])
    assert figures["cosine_before"] == pytest.approx(0) and figures["cosine"] == pytest.approx((2 / 5**0.5 + 3 / (5**0.5 * 2**0.5)) / 2)
    assert explained(targets, targets + 7) == pytest.approx(1), "an offset is the same for all users"
    assert explained(targets, np.ones((2, 4))) == pytest.approx(0), "a constant says nothing of anybody"


def test_a_linear_model_of_the_old_vectors_reads_the_new_ones():
    """Least squares on the old vectors, scored on new vectors of other users: as well as on the old ones, where unaligned it is lost."""
    rng, old = np.random.default_rng(5), population(600, 12)
    scores = old @ rng.standard_normal(12)
    wanted = np.sign(scores - np.median(scores))
    new = turn_of(3, 4, seed=8).turn(old + 0.05 * rng.standard_normal(old.shape).astype(np.float32))
    apart = held_out(USERS)
    weights = np.linalg.lstsq(np.c_[old[~apart], np.ones((~apart).sum())], wanted[~apart], rcond=None)[0]

    def right(vectors):
        return (np.sign(np.c_[vectors, np.ones(len(vectors))] @ weights) == wanted[apart]).mean()

    aligned = fit_alignment(new[~apart], old[~apart], 3).turn(new[apart])
    assert right(old[apart]) > 0.9 and right(aligned) > right(old[apart]) - 0.05 and right(new[apart]) < 0.75


# ---- the artifact --------------------------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_and_damaged(tmp_path):
    store, planted = Store(str(tmp_path / "warehouse")), turn_of(2, 3, seed=1)
    info = {"alignment_id": alignment_id(planted, NEW, OLD), "aligned_to": OLD, "as_of": AS_OF}
    save_alignment(store, NEW, planted, info)
    loaded = load_alignment(store, NEW)
    assert np.array_equal(loaded.rotations, planted.rotations) and np.array_equal(loaded.parts, planted.parts)
    assert store.artifact_info(KIND, NEW)["alignment_id"] == alignment_id(loaded, NEW, OLD) != alignment_id(loaded, NEW, NEWER)
    assert coordinates(store, NEW) == OLD and coordinates(store, OLD) == OLD
    path = store.path("artifacts", KIND, NEW, "rotations.npy")
    store.write_bytes(path, store.read_bytes(path)[:-1] + b"x")
    with pytest.raises(StoreError, match="found another file or none; restore it"):
        load_alignment(store, NEW)


# ---- publishing ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelDay(Day):
    """A publish call of one model, whose run key follows the turn that is kept, as that of a real call does."""

    model: str = NEW

    def embed_key(self, alignment_id: str | None = None) -> str:
        if alignment_id is None and self.store.has_artifact(KIND, self.model):
            alignment_id = self.store.artifact_info(KIND, self.model)["alignment_id"]
        return super().embed_key(alignment_id)


def call(store: Store, model: str, key: str, as_of: str = AS_OF, align: str = "anchors", release: bool = True, **limits) -> ModelDay:
    made = day(store, as_of, key, **{"min_compared_users": 100, "min_overlap": 0.0, "min_same_user_cosine": -1.0, "max_mean_shift": 99.0, **limits})
    config = replace(made.config, publish=PublishSettings(release, align))
    return ModelDay(store, config, as_of, key=key, model=model)


def stage(store: Store, model: str, key: str, vectors: np.ndarray, as_of: str = AS_OF, users: np.ndarray = USERS):
    half = len(users) // 2
    parts = [rows_of(users[part].tolist(), vectors=list(vectors[part])) for part in (slice(0, half), slice(half, None))]
    return stage_day(store, as_of, parts, key, model)


def read(store: Store, **which) -> np.ndarray:
    return open_table(store.uri, **which).vectors(USERS)


VECTORS = population(600, N_ANCHORS * DIM)
BACK = turn_of(N_ANCHORS, DIM, seed=4)  # what brings the new model's vectors back to the old ones
TURNED = np.concatenate([VECTORS[:, DIM * place : DIM * (place + 1)] @ BACK.rotations[place].T for place in np.argsort(BACK.parts)], axis=1)


@pytest.fixture
def store(tmp_path):
    """A warehouse with a release of the old model."""
    store = Store(str(tmp_path / "warehouse"))
    stage(store, OLD, "0" * 16, VECTORS)
    publication.run(call(store, OLD, "0" * 16))
    return store


def test_the_planted_new_model_is_the_old_one_turned():
    assert np.allclose(BACK.turn(TURNED), VECTORS, atol=1e-5) and np.abs(TURNED - VECTORS).max() > 1


def test_the_first_release_has_nothing_to_align_to(store):
    assert not store.has_artifact(KIND, OLD) and np.array_equal(read(store), VECTORS) and open_table(store.uri).aligned_to is None


def test_published_in_the_space_of_the_released_model(store):
    stage(store, NEW, "1" * 16, TURNED)
    report = publication.run(call(store, NEW, "1" * 16))
    assert report["released"] and report["aligned_to"] == OLD
    table = open_table(store.uri)
    assert (table.model_id, table.aligned_to) == (NEW, OLD) and np.allclose(read(store), VECTORS, atol=1e-4)
    info = store.artifact_info(KIND, NEW)
    assert info["fitted_to"] == {"model_id": OLD, "as_of": AS_OF, "epoch": 1} and info["users"] + info["held_out_users"] == 600
    assert info["figures"]["explained"] > 0.99 > info["figures"]["cosine_before"] and info["kind"] == "anchors" and "u0001" not in json.dumps(info)
    commit = DeltaTable(store.table_uri(USER_EMBEDDINGS.name)).history(1)[0]
    assert commit["aligned_to"] == OLD and commit["alignment_id"] == info["alignment_id"]
    audit = json.loads(store.read_bytes(store.path("audits", releases(store)[-1]["run_key"], "report.json")))
    assert audit["alignment"] == info
    assert publication.run(call(store, NEW, "1" * 16)) == report and len(releases(store)) == 2, "again is nothing"


def test_whole_vectors_where_anchors_do_not_match(store):
    """The new model spreads what the old one had in an anchor over both of its own: no turn of anchors helps, the whole vector's does."""
    mixed = VECTORS @ turn_of(1, N_ANCHORS * DIM, seed=6).rotations[0].astype(np.float32)
    stage(store, NEW, "1" * 16, mixed)
    with pytest.raises(AuditError, match=r"explains at least 0.5 .* it explains 0\.\d\d .*; publish with publish.align=vector or none"):
        publication.run(call(store, NEW, "1" * 16))
    assert not store.has_artifact(KIND, NEW) and len(releases(store)) == 1
    assert publication.run(call(store, NEW, "1" * 16, align="vector"))["aligned_to"] == OLD
    assert np.allclose(read(store), VECTORS, atol=1e-4) and store.artifact_info(KIND, NEW)["kind"] == "vector"


def test_a_model_that_has_nothing_in_common_is_not_aligned(store):
    stage(store, NEW, "1" * 16, population(600, N_ANCHORS * DIM, seed=7))
    with pytest.raises(AuditError, match="publish with publish.align=none"):
        publication.run(call(store, NEW, "1" * 16, align="vector"))
    assert publication.run(call(store, NEW, "1" * 16, align="none"))["released"] and open_table(store.uri).aligned_to is None
    assert coordinates(store, NEW) == NEW


def test_a_model_that_is_released_unaligned_stays_so(store):
    stage(store, NEW, "1" * 16, TURNED)
    publication.run(call(store, NEW, "1" * 16, align="none"))
    stage(store, NEW, "2" * 16, TURNED, LATER)
    assert "aligned_to" not in publication.run(call(store, NEW, "2" * 16, LATER))
    assert np.array_equal(read(store), TURNED.astype(np.float32)) and not store.has_artifact(KIND, NEW)


def test_a_third_model_is_in_the_same_space(store):
    stage(store, NEW, "1" * 16, TURNED)
    publication.run(call(store, NEW, "1" * 16))
    stage(store, NEWER, "2" * 16, turn_of(N_ANCHORS, DIM, seed=11).turn(VECTORS), LATER)
    publication.run(call(store, NEWER, "2" * 16, LATER))
    assert open_table(store.uri).aligned_to == OLD and store.artifact_info(KIND, NEWER)["fitted_to"]["model_id"] == NEW
    assert np.allclose(read(store), VECTORS, atol=1e-3)


def test_the_turn_is_fitted_on_the_newest_date_before_if_there_is_no_other(store):
    stage(store, NEW, "1" * 16, TURNED, LATER)
    publication.run(call(store, NEW, "1" * 16, LATER))
    info = store.artifact_info(KIND, NEW)
    assert info["fitted_to"]["as_of"] == AS_OF and info["fitted_at"] == info["as_of"] == LATER


@pytest.mark.parametrize(("what", "error", "sentence"), [
    ("shape", InputError, "Expected a model of 2 anchors x 3 to align to the released one, got 3 anchors x 2"),
    ("users", InputError, r"Expected at least 100 users .* found 0"),
    ("damage", AuditError, "dimension_is_that_of_the_model"),
])
def test_what_cannot_be_aligned(store, what, error, sentence):
    if what == "shape":
        stage_day(store, AS_OF, [rows_of(USERS.tolist(), vectors=list(VECTORS))], "1" * 16, NEW, n_anchors=3, dim=2)
    elif what == "users":
        stage(store, NEW, "1" * 16, TURNED, users=np.asarray([f"v{user}" for user in USERS], object))
    else:
        stage_day(store, AS_OF, [rows_of(USERS.tolist(), vectors=[*TURNED[:-1], np.ones(5)])], "1" * 16, NEW)
    with pytest.raises(error, match=sentence):
        publication.run(call(store, NEW, "1" * 16, max_lost_users=1.0))
    assert len(releases(store)) == 1 and not store.has_artifact(KIND, NEW)


class Killed(Exception):
    """Stands for a kill: nothing of ours may catch it."""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("step", "number"), [("stage_table", 1), ("stage_table", 2), ("turn_files", 1), ("save_alignment", 1)])
def test_a_kill_then_running_again_gives_one_aligned_release(store, monkeypatch, step, number, when):
    import lurm.alignment

    stage(store, NEW, "1" * 16, TURNED)
    real, calls = getattr(lurm.alignment, step), []

    def dying(*arguments):
        calls.append(step)
        if when == "before" and len(calls) == number:
            raise Killed
        result = real(*arguments)
        if len(calls) == number:
            raise Killed
        return result

    monkeypatch.setattr(lurm.alignment, step, dying)
    with pytest.raises(Killed):
        publication.run(call(store, NEW, "1" * 16))
    monkeypatch.undo()
    assert open_table(store.uri).model_id == OLD
    assert publication.run(call(store, NEW, "1" * 16))["aligned_to"] == OLD
    assert [row["model_id"] for row in releases(store)] == [OLD, NEW] and np.allclose(read(store), VECTORS, atol=1e-4)
    assert store.snapshot(USER_EMBEDDINGS.name).where(model_id=NEW).rows() == 600


def test_a_candidate_that_was_committed_before_the_alignment_is_not_released(store):
    """Its vectors are not in the space that later tables of its model are in."""
    stage(store, NEW, "1" * 16, TURNED)
    publication.run(call(store, NEW, "1" * 16, align="none", release=False))
    stage(store, NEW, "2" * 16, TURNED, LATER)
    publication.run(call(store, NEW, "2" * 16, LATER, release=False))
    assert [row["aligned_to"] for row in candidates(store)] == [None, OLD]
    with pytest.raises(LineageError, match=f"was committed before the model was aligned to {OLD}; embed and publish this date again"):
        release_candidate(store, NEW, AS_OF)
    assert release_candidate(store, NEW, LATER)["current"] and np.allclose(read(store), VECTORS, atol=1e-4)


def test_the_releases_say_what_was_aligned(store, capsys):
    stage(store, NEW, "1" * 16, TURNED)
    publication.run(call(store, NEW, "1" * 16, release=False))
    assert main(["releases", "--warehouse", store.uri]) == 0
    _, waiting, turned = capsys.readouterr().out.splitlines()
    assert waiting.endswith(f"aligned to {OLD}")
    assert turned == f"aligned           {AS_OF}  {NEW}  to {OLD} by anchors, explains 1.00 of what differs between users"
