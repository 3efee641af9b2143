"""Interests: how many there are, what they are fitted on, and how a space is kept."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest

from lurm import interests
from lurm.config import Config, InterestsSettings
from lurm.errors import InputError, StoreError
from lurm.interest_space import load_centroids
from lurm.interests import derive_n_interests, sample_embeddings
from lurm.lineage import Context
from lurm.manifest import Manifest
from lurm.schema import ITEM_EMBEDDINGS, SEEN_ITEMS
from lurm.staging import stage_table
from lurm.store import Store

DIM, AS_OF = 4, "2022-01-01"


@dataclass(frozen=True)
class Fitting(Context):
    """A context whose parents are given by hand."""

    def pairs(self, table):
        return self.store.snapshot(table).where(as_of=AS_OF)

    def embeddings(self):
        return self.store.snapshot("item_embeddings").where(encoder_id="encoder-1")

    def encoder_id(self):
        return "encoder-1"

    def space_id(self):
        return "space-1"


@pytest.mark.parametrize(("n_items", "n_user_items", "expected"), [
    (10, 10**6, 2),  # never fewer than 2
    (100, 10**6, 5),  # small: 20 items an interest
    (4_000, 10**6, 200),
    (20_000, 10**7, 256),  # 256 as long as 300 an interest gives fewer
    (60_000, 10**7, 256),
    (300_000, 10**8, 1_000),  # large: 300 items an interest
    (3_000_000, 10**9, 10_000),
    (10**9, 10**12, 100_000),  # max_interests
    (300_000, 10_000, 200),  # 50 distinct (user, item) pairs an interest must be able to count on
    (4_000, 0, 2),
])
def test_how_many_interests(n_items, n_user_items, expected):
    assert derive_n_interests(n_items, n_user_items, InterestsSettings()) == expected


def test_the_settings_of_the_derivation():
    settings = InterestsSettings(items_per_interest=10, pairs_per_interest=1, max_interests=700)
    assert derive_n_interests(6_000, 10**6, settings) == 600 and derive_n_interests(9_000, 10**6, settings) == 700


def hashes(n: int) -> np.ndarray:
    return np.sort(np.random.default_rng(5).integers(-(2**63), 2**63 - 1, n))


def warehouse(tmp_path, n_items: int, n_seen: int, n_files: int = 1, zero: int = 0, **settings) -> Fitting:
    """Items with unit vectors by hash; every item with an even place is seen until n_seen are; files cut as asked."""
    store = Store(str(tmp_path))
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((n_items, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[:zero] = 0
    keys = hashes(n_items)
    seen = np.arange(0, n_items, 2)[:n_seen]
    columns = {"item_id": [f"i{place}" for place in range(n_items)], "item_hash": keys, "embedding": vectors.tolist()}
    embeddings = pa.table(columns, schema=ITEM_EMBEDDINGS.data_schema)
    rows = {"item_id": [f"i{place}" for place in seen], "title": ["t"] * len(seen), "item_hash": keys[seen], "n_events": [5] * len(seen),
            "n_users": [4] * len(seen)}
    commit(store, ITEM_EMBEDDINGS, embeddings, {"encoder_id": "encoder-1", "batch": "b"}, n_files)
    commit(store, SEEN_ITEMS, pa.table(rows, schema=SEEN_ITEMS.data_schema), {"as_of": AS_OF}, n_files)
    return Fitting(store, Config(interests=InterestsSettings(backend="numpy", **settings)), AS_OF)


def commit(store, table, rows, partition, n_files):
    parts = [rows.take(pa.array(np.arange(start, rows.num_rows, n_files))) for start in range(n_files)]  # each a random sample, as buckets are
    files = tuple(stage_table(store, table, "run1", partition, part) for part in parts)
    store.commit(Manifest(table.name, "run1", files, (partition,)))


def matrix_of(context) -> np.ndarray:
    """Unit vectors of the seen items in the order of their hash."""
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((400, DIM)).astype(np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True))[::2]


def test_only_seen_items_are_sampled_in_the_order_of_their_hash(tmp_path):
    context = warehouse(tmp_path, 400, 400)
    sample, held_out = sample_embeddings(context, 1_000, 200)
    assert sample.shape == (180, DIM) and held_out.shape == (20, DIM) and sample.dtype == np.float32
    assert np.array_equal(np.concatenate([sample, held_out]), matrix_of(context))


def test_the_cut_into_files_says_nothing(tmp_path):
    samples = [np.concatenate(sample_embeddings(warehouse(tmp_path / str(n), 400, 400, n_files=n), 1_000, 200)) for n in (1, 3)]
    assert np.array_equal(*samples)


def test_the_sample_is_bounded_and_a_prefix_by_hash(tmp_path, monkeypatch):
    context = warehouse(tmp_path, 400, 400)
    sample, held_out = sample_embeddings(context, 50, 200)
    assert np.array_equal(sample, matrix_of(context)[:50]) and len(held_out) == 20


def test_vectors_without_a_known_word_are_left_out(tmp_path):
    sample, held_out = sample_embeddings(warehouse(tmp_path, 400, 400, zero=100), 1_000, 200)
    assert len(sample) + len(held_out) == 150 and np.allclose(np.linalg.norm(sample, axis=1), 1, atol=1e-6)


def test_no_seen_item_with_an_embedding(tmp_path):
    with pytest.raises(InputError, match="Expected embeddings of items with events, found none; check that items and events share"):
        sample_embeddings(warehouse(tmp_path, 20, 20, zero=20), 100, 10)


def test_fitting_keeps_a_space_and_does_it_once(tmp_path):
    context = warehouse(tmp_path, 400, 400, n_interests=5)
    report = interests.run(context)
    assert report["n_interests"] == 5 and 0 < report["held_out_cosine"] <= 1
    centroids = load_centroids(context.store.get_artifact("spaces", "space-1"))
    assert centroids.shape == (5, DIM) and np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    info = context.store.artifact_info("spaces", "space-1")
    assert (info["space_id"], info["encoder_id"], info["dim"], info["n_interests"], info["n_seen_items"]) == ("space-1", "encoder-1", DIM, 5, 200)
    assert interests.run(context) == {"skipped": "fitted already", "space_id": "space-1"}


def test_a_space_in_two_levels_says_how_far_to_reach(tmp_path):
    """Of its cells, so that whoever assigns later finds as many nearest centroids; without iterations too."""
    context = warehouse(tmp_path, 4_000, 4_000, n_interests=60, n_iterations=0)
    context = replace(context, config=replace(context.config, interests=replace(context.config.interests, backend="two-level")))
    report = interests.run(context)
    info = context.store.artifact_info("spaces", "space-1")
    assert 0 < info["n_probes"] < 1 <= info["n_cells"] and len(info["objective"]) == 1 and report["held_out_cosine"] > 0.9


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    read = []
    for name in ("one", "two"):
        context = warehouse(tmp_path / name, 400, 400, n_files=2 if name == "two" else 1, n_interests=5)
        interests.run(context)
        read.append((context.store.get_artifact("spaces", "space-1") / "centroids.npy").read_bytes())
    assert read[0] == read[1]


def test_more_interests_than_items(tmp_path):
    with pytest.raises(InputError, match="got 180 items for D = 300; lower interests.n_interests, or leave it 0"):
        interests.run(warehouse(tmp_path, 400, 400, n_interests=300))


def test_other_centroids_than_those_written_are_refused(tmp_path):
    context = warehouse(tmp_path, 400, 400, n_interests=5)
    interests.run(context)
    folder = context.store.get_artifact("spaces", "space-1")
    assert json.loads((folder / "info.json").read_text())["file"] == "centroids.npy"
    np.save(folder / "centroids.npy", np.zeros((5, DIM), np.float32))
    with pytest.raises(StoreError, match="found another file; run `lurm fit-interests` again"):
        load_centroids(folder)
