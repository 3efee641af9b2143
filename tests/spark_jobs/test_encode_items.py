"""Encoding in increments is encoding at once, and an item that is there is not encoded again."""

import numpy as np
import pytest
from small_pipeline import ingest_catalogue, make_context, no_spark, rows_of, run, source_overrides, write_items

from lurm.errors import MissingInputError, StoreError
from lurm.item_encoder.inference import encode, load_encoder
from spark_jobs.encode_items import run as encode_items


@pytest.fixture
def growing(finished, spark, tmp_path):
    """A warehouse that has the finished one's encoder and a catalogue of its own: tmp_path/catalogue."""
    source, _ = finished
    encoder_id = source.encoder_id()
    context = make_context(tmp_path / "warehouse", source.as_of, lambda: spark, f"items.path={tmp_path / 'catalogue'}",
                           "items.categories_column=", model_id="pinned")
    context.store.put_artifact("encoders", encoder_id, source.store.get_artifact("encoders", encoder_id))
    context.store.put_artifact("models", "pinned", source.store.get_artifact("models", source.trained_model_id()))
    titles = {row["item_id"]: row["title"] for row in rows_of(source.store, "items")}
    return context, titles


def vectors_of(context) -> dict[str, list[float]]:
    return {row["item_id"]: row["embedding"] for row in rows_of(context.store, "item_embeddings")}


def test_embeddings_are_those_of_the_encoder_alone(finished):
    context, _ = finished
    encoder, tokenizer, info = load_encoder(context.store.get_artifact("encoders", context.encoder_id()))
    titles = {row["item_id"]: row["title"] for row in rows_of(context.store, "items")}
    vectors = vectors_of(context)
    assert vectors.keys() == titles.keys()
    direct = encode(encoder.eval(), tokenizer, [titles[item] for item in vectors], info["max_length"], device="cpu")
    np.testing.assert_allclose(np.array(list(vectors.values())), direct, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(direct, axis=1), 1.0, atol=1e-5)


def test_increments_are_the_whole(growing, tmp_path, finished):
    context, titles = growing
    first = dict(list(titles.items())[:400])
    write_items(tmp_path / "catalogue" / "a.parquet", first)
    ingest_catalogue(context)
    assert encode_items(context) == {"encoded": 400}
    before = vectors_of(context)
    write_items(tmp_path / "catalogue" / "b.parquet", {item: title for item, title in titles.items() if item not in first})
    ingest_catalogue(context)
    assert encode_items(context) == {"encoded": 200}
    assert len(context.store.snapshot("item_embeddings").values("batch")) == 2
    after, whole = vectors_of(context), vectors_of(finished[0])
    assert all(after[item] == vector for item, vector in before.items())
    assert after.keys() == whole.keys()
    np.testing.assert_allclose([after[item] for item in whole], list(whole.values()), atol=1e-6)


def test_an_item_keeps_its_vector_and_goes_nowhere_when_it_leaves(growing, tmp_path):
    """A title changes, an item leaves, then the old catalogue is back: nothing to encode, each time."""
    context, titles = growing
    some = dict(list(titles.items())[:20])
    write_items(tmp_path / "catalogue" / "a.parquet", some)
    ingest_catalogue(context)
    encode_items(context)
    before = vectors_of(context)
    changed = {item: f"another {title}" for item, title in list(some.items())[:19]}
    write_items(tmp_path / "catalogue" / "a.parquet", changed)
    ingest_catalogue(context)
    assert encode_items(context) == {"encoded": 0}
    assert vectors_of(context) == before
    write_items(tmp_path / "catalogue" / "a.parquet", some)
    ingest_catalogue(context)
    encode_items(context)
    assert vectors_of(context) == before


def test_a_rerun_starts_no_spark(finished, world):
    done = finished[0]
    context = make_context(done.store.uri, done.as_of, no_spark, *source_overrides(world))
    assert encode_items(context) == {"skipped": "nothing new"}


def test_an_item_without_a_known_word_has_no_direction(growing, tmp_path):
    context, titles = growing
    write_items(tmp_path / "catalogue" / "a.parquet", {"known": titles[min(titles)], "unknown": "xyzzyplugh"})
    ingest_catalogue(context)
    encode_items(context)
    vectors = vectors_of(context)
    assert not np.any(vectors["unknown"]) and np.any(vectors["known"])


def test_without_an_encoder_it_is_one_sentence(finished, world, tmp_path, spark):
    empty = make_context(tmp_path / "empty", finished[0].as_of, lambda: spark, *source_overrides(world))
    with pytest.raises(MissingInputError, match="run `lurm ingest`"):
        encode_items(empty)
    run(empty, ["ingest", "build-pairs"])
    with pytest.raises(StoreError, match="Expected encoders/encoder-.* found none; run the stage that trains it"):
        encode_items(empty)
