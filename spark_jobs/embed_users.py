"""embed-users: one embedding for every user with a usable event before as_of.

In: bags, a trained SMEN. Out: staged files of `user_embeddings` and their manifest; no reader sees them before `publish`. A task embeds
one bucket of users straight from the bucket's files, so nothing is shuffled. Users whose every item lacks an interest are absent, and
counted.
"""

from functools import cache

from pyspark.sql import functions as F

from lurm.bag_of_interests import concatenate, read_lives
from lurm.lineage import Context
from lurm.manifest import Manifest
from lurm.periods import end_month
from lurm.schema import MONTH, USER_EMBEDDINGS, YEAR
from lurm.store import Store
from spark_jobs.session import gpu_profile, job_main, progress
from spark_jobs.tables import read_table, stage_tasks


def run(context: Context) -> dict:
    store, settings, embed = context.store, context.config.spark, context.config.embed
    model_id, run_key = context.trained_model_id(), context.embed_key()
    store.get_artifact("models", model_id)  # fails here, not on an executor
    info = store.artifact_info("models", model_id)
    context.check_chain(info, space_id=context.space_id())
    if store.staged(USER_EMBEDDINGS.name, run_key):
        return {"skipped": "embedded already"}
    bags, end = context.bags(), end_month(context.as_of)

    def produce(task: dict):
        part, pending, n_pending = bags.where(bucket=task["bucket"]), [], 0
        for chunk in read_lives(store, part):
            pending.append(chunk)
            n_pending += chunk[1].num_rows
            if n_pending >= embed.batch_size:
                yield _embedded(store, model_id, pending, end, embed)
                pending, n_pending = [], 0
        if pending:
            yield _embedded(store, model_id, pending, end, embed)

    spark = context.spark()
    tasks = [{"bucket": bucket} for bucket in bags.values("bucket")]
    partition = {"as_of": context.as_of, "model_id": model_id}
    with progress(spark, "embed-users"):
        files = stage_tasks(spark, tasks, produce, store, USER_EMBEDDINGS, run_key, rows_per_file=settings.rows_per_file,
                            partition=partition, resources=gpu_profile(settings))
        events = read_table(spark, store, context.events()).where(F.col("timestamp") < F.lit(context.as_of).cast("timestamp"))
        n_users = events.select(F.countDistinct("user_id")).first()[0]
    n_embedded = sum(file.rows for file in files)
    figures = {"users": n_embedded, "users_without_usable_events": n_users - n_embedded, "n_anchors": info["n_anchors"], "dim": info["dim"],
               "encoder_id": info["encoder_id"], "space_id": info["space_id"], "model_id": model_id, "trained_as_of": info["as_of"]}
    inputs = {"bags": bags.version, "events": context.events().version}
    store.write_manifest(Manifest(USER_EMBEDDINGS.name, run_key, tuple(files), (partition,), figures, inputs))
    return figures


def _embedded(store: Store, model_id: str, chunks: list, end: int, settings):
    import pyarrow as pa

    from lurm.smen.inference import embed

    smen, info, device = _model(store, model_id, settings.device)
    months = concatenate([lives[MONTH] for lives, _ in chunks])
    years = concatenate([lives[YEAR] for lives, _ in chunks])
    facts = pa.concat_tables([facts for _, facts in chunks]).combine_chunks()
    vectors = embed(smen, info, months, years, end, settings.batch_size, device)
    offsets = pa.array(range(0, vectors.size + 1, vectors.shape[1]), pa.int32())
    columns = {"user_id": facts.column("user_id"), "embedding": pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)))}
    columns |= {name: facts.column(name) for name in ("n_events", "n_active_months", "first_event_at", "last_event_at")}
    table = pa.table(columns).select(USER_EMBEDDINGS.data_schema.names).cast(USER_EMBEDDINGS.data_schema)
    return table.combine_chunks().to_batches()[0]


@cache
def _model(store: Store, model_id: str, device: str):
    import torch

    from lurm.smen.inference import load_model

    torch.set_num_threads(1)  # Spark runs one task a core
    smen, info = load_model(store.get_artifact("models", model_id))
    chosen = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    return smen.to(chosen).eval(), info, chosen


if __name__ == "__main__":
    job_main("embed-users")
