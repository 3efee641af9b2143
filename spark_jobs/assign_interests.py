"""assign-interests: every embedded item gets its nearest centroid.

In: item embeddings, the interest space. Out: one more batch of `item_interests` with the items that had none. Items whose title has no
known word have no direction and stay without an interest; they are counted.
"""

from functools import cache

from lurm.lineage import Context
from lurm.manifest import Manifest
from lurm.schema import ITEM_INTERESTS
from lurm.store import Store
from spark_jobs.missing_items import stage_missing
from spark_jobs.session import job_main

ASSIGNED = ITEM_INTERESTS.data_schema


def run(context: Context) -> dict:
    store, space_id, embeddings = context.store, context.space_id(), context.embeddings()
    store.get_artifact("spaces", space_id)
    context.check_chain(store.artifact_info("spaces", space_id), encoder_id=context.encoder_id())
    run_key = context.batch_key("assign-interests", space_id, embeddings)
    scope = ({"space_id": space_id, "batch": run_key},)
    if store.committed(ITEM_INTERESTS.name, run_key, scope):
        return {"skipped": "nothing new"}
    existing = store.snapshot(ITEM_INTERESTS.name).where(space_id=space_id, batch=lambda batch: batch != run_key)
    device, n_probes = context.config.interests.device, store.artifact_info("spaces", space_id).get("n_probes")

    def assign_batches(batches):
        import faiss
        import numpy as np
        import pyarrow as pa

        from lurm.kmeans import assign

        faiss.omp_set_num_threads(1)  # of this thread: a task has one core
        centroids = _centroids(store, space_id)
        cells = None if n_probes is None else _cells(store, space_id)
        for batch in batches:
            vectors = batch.column("embedding").flatten().to_numpy().reshape(batch.num_rows, -1)
            known = np.flatnonzero(np.any(vectors != 0, axis=1))
            if len(known):
                interest_ids, _ = assign(vectors[known], centroids, device=device, n_probes=n_probes, n_threads=1, cells=cells)
                yield pa.RecordBatch.from_arrays([batch.column("item_id").take(pa.array(known)), pa.array(interest_ids)], schema=ASSIGNED)

    partition = {"space_id": space_id, "batch": run_key}
    columns = ["item_id", "embedding"]
    files = stage_missing(context, "assign-interests", embeddings, columns, existing, assign_batches, ITEM_INTERESTS, run_key, partition)
    n_assigned = sum(file.rows for file in files)
    figures = {"assigned": n_assigned, "without_known_words": embeddings.rows() - existing.rows() - n_assigned}
    manifest = Manifest(ITEM_INTERESTS.name, run_key, tuple(files), scope, figures, {"item_embeddings": embeddings.version})
    store.write_manifest(manifest)
    store.commit(manifest)
    return figures


@cache
def _centroids(store: Store, space_id: str):
    from lurm.interest_space import load_centroids

    return load_centroids(store.get_artifact("spaces", space_id))


@cache
def _cells(store: Store, space_id: str):
    from lurm.cells import cells_of

    return cells_of(_centroids(store, space_id))  # once a worker, not once a batch


if __name__ == "__main__":
    job_main("assign-interests")
