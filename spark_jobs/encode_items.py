"""encode-items: the titles that this encoder has not embedded yet become item embeddings.

In: the catalogue, the encoder, what is there already. Out: one more batch of `item_embeddings`. The model is loaded once per worker;
a GPU is asked for when spark.gpus_per_worker says so. An item keeps the embedding of the title it had when it was first encoded.
"""

from functools import cache

from lurm.lineage import Context
from lurm.manifest import Manifest
from lurm.schema import ITEM_EMBEDDINGS
from lurm.store import Store
from spark_jobs.missing_items import stage_missing
from spark_jobs.session import job_main

ENCODED = ITEM_EMBEDDINGS.data_schema
VECTORS_A_TITLE = 10  # times the bytes of a title in its file


def run(context: Context) -> dict:
    store, encoder_id, items = context.store, context.encoder_id(), context.items()
    store.get_artifact("encoders", encoder_id)  # fails here, not on an executor
    run_key = context.batch_key("encode-items", encoder_id, items)
    scope = ({"encoder_id": encoder_id, "batch": run_key},)
    if store.committed(ITEM_EMBEDDINGS.name, run_key, scope):
        return {"skipped": "nothing new"}
    existing = store.snapshot(ITEM_EMBEDDINGS.name).where(encoder_id=encoder_id, batch=lambda batch: batch != run_key)
    device = context.config.encoder.device

    def encode_batches(batches):
        import pyarrow as pa

        from lurm.item_encoder.inference import encode

        encoder, tokenizer, info = _encoder(store, encoder_id, device)
        for batch in batches:
            vectors = encode(encoder, tokenizer, batch.column("title").to_pylist(), info["max_length"], device=_device(device))
            offsets = pa.array(range(0, vectors.size + 1, vectors.shape[1]), pa.int32())
            embedding = pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)))
            yield pa.RecordBatch.from_arrays([batch.column("item_id"), batch.column("item_hash"), embedding], schema=ENCODED)

    partition, columns = {"encoder_id": encoder_id, "batch": run_key}, ["item_id", "title", "item_hash"]
    files = stage_missing(context, "encode-items", items, columns, existing, encode_batches, ITEM_EMBEDDINGS, run_key, partition,
                          times=VECTORS_A_TITLE, by_torch=True)
    manifest = Manifest(ITEM_EMBEDDINGS.name, run_key, tuple(files), scope, {"encoded": sum(file.rows for file in files)}, {"items": items.version})
    store.write_manifest(manifest)
    store.commit(manifest)
    return manifest.figures


@cache
def _encoder(store: Store, encoder_id: str, device: str):
    from lurm.item_encoder.inference import load_encoder

    encoder, tokenizer, info = load_encoder(store.get_artifact("encoders", encoder_id))
    return encoder.to(_device(device)).eval(), tokenizer, info


def _device(setting: str) -> str:
    import torch

    torch.set_num_threads(1)
    return "cuda" if setting != "cpu" and torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    job_main("encode-items")
