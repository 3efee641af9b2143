"""Every item gets the nearest centroid, by brute force; increments add up; items without a direction are counted, not guessed."""

import numpy as np
import pyarrow as pa
import pytest
from small_pipeline import make_context, no_spark, rows_of, source_overrides

from lurm.errors import LineageError, StoreError
from lurm.interest_space import load_centroids, save_centroids
from lurm.manifest import Manifest
from lurm.schema import ITEM_EMBEDDINGS
from lurm.staging import stage_table
from spark_jobs.assign_interests import run as assign_interests

CENTROIDS = np.array([[1, 0], [0, 1], [-0.6, -0.8]], dtype=np.float32)


@pytest.fixture
def planted(tmp_path, spark):
    """A context with a model in name, three centroids in the plane, and a function that adds item embeddings."""
    context = make_context(tmp_path / "warehouse", "2020-01-01", lambda: spark, model_id="model-1")
    store = context.store
    info = b'{"info": {"encoder_id": "encoder-1", "space_id": "space-1", "model_id": "model-1", "as_of": "2020-01-01"}}'
    store.write_bytes(store.path("artifacts", "models", "model-1", "info.json"), info)
    add_space(tmp_path, store, "encoder-1")

    def add(batch: str, vectors: dict[str, list[float]]) -> None:
        partition = {"encoder_id": "encoder-1", "batch": batch}
        rows = pa.table({"item_id": list(vectors), "item_hash": list(range(len(vectors))), "embedding": list(vectors.values())})
        file = stage_table(store, ITEM_EMBEDDINGS, batch, partition, rows)
        store.commit(Manifest(ITEM_EMBEDDINGS.name, batch, (file,), (partition,)))

    return context, add


def add_space(tmp_path, store, encoder_id, n_probes=None):
    folder = tmp_path / "space"
    folder.mkdir(exist_ok=True)
    save_centroids(folder, CENTROIDS, {"encoder_id": encoder_id, "space_id": "space-1", "n_interests": 3, "n_probes": n_probes})
    store.put_artifact("spaces", "space-1", folder)


def interests_of(context) -> dict[str, int]:
    rows = rows_of(context.store, "item_interests")
    assert len(rows) == len({row["item_id"] for row in rows}), "one interest an item"
    return {row["item_id"]: row["interest_id"] for row in rows}


def test_the_nearest_centroid_by_hand(planted):
    """East is 0, north 1, south-west 2; (0.8, 0.6) has cosines 0.8, 0.6 and -0.96; a zero vector has none."""
    context, add = planted
    add("one", {"a": [0.8, 0.6], "b": [0.6, 0.8], "c": [-1.0, 0.0], "nowhere": [0.0, 0.0]})
    assert assign_interests(context) == {"assigned": 3, "without_known_words": 1}
    assert interests_of(context) == {"a": 0, "b": 1, "c": 2}

    add("two", {"d": [0.0, -1.0]})
    assert assign_interests(context) == {"assigned": 1, "without_known_words": 1}, "only what is new"
    assert interests_of(context) == {"a": 0, "b": 1, "c": 2, "d": 2}
    assert len(context.store.snapshot("item_interests").values("batch")) == 2


@pytest.mark.parametrize("n_probes", [1, 2])
def test_a_space_in_two_levels_is_searched_in_its_cells(planted, tmp_path, n_probes):
    """Three centroids lie in two cells; looking into both is exact."""
    context, add = planted
    add_space(tmp_path, context.store, "encoder-1", n_probes)
    add("one", {"a": [0.8, 0.6], "c": [-1.0, 0.0], "nowhere": [0.0, 0.0]})
    assert assign_interests(context) == {"assigned": 2, "without_known_words": 1}
    assert interests_of(context) == {"a": 0, "c": 2}


def test_a_space_of_another_encoder_is_refused(planted, tmp_path):
    context, add = planted
    add("one", {"a": [0.8, 0.6]})
    add_space(tmp_path, context.store, "encoder-2")
    with pytest.raises(LineageError, match="artifact of encoder_id encoder-1, got one of encoder-2"):
        assign_interests(context)


def test_the_finished_warehouse_agrees_with_brute_force(finished):
    context, _ = finished
    centroids = load_centroids(context.store.get_artifact("spaces", context.space_id()))
    embeddings = {row["item_id"]: row["embedding"] for row in rows_of(context.store, "item_embeddings")}
    interests = interests_of(context)
    assert interests.keys() == embeddings.keys()
    cosines = np.array([embeddings[item] for item in interests]) @ centroids.T
    chosen = cosines[np.arange(len(cosines)), list(interests.values())]
    np.testing.assert_allclose(chosen, cosines.max(axis=1), atol=1e-6)


def test_a_rerun_starts_no_spark(finished, world):
    done = finished[0]
    context = make_context(done.store.uri, done.as_of, no_spark, *source_overrides(world))
    assert assign_interests(context) == {"skipped": "nothing new"}


def test_without_a_space_it_is_one_sentence(planted):
    context, add = planted
    add("one", {"a": [0.8, 0.6]})
    context.store.filesystem.delete_dir(context.store.path("artifacts", "spaces"))
    with pytest.raises(StoreError, match="Expected spaces/space-1"):
        assign_interests(context)
