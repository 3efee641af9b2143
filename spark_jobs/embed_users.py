"""embed-users: one embedding for every user with a usable event before as_of.

In: bags, the states kept after the last closed month, a trained SMEN. Out: staged files of `user_embeddings` and their manifest; no reader
sees them before `publish`. A task embeds one bucket of users straight from the bucket's files, so nothing is shuffled. Without kept states
(embed.keep_states, or a model that cannot have them) whole lives are embedded, with the same result. Users whose every item lacks an
interest are absent, and counted.
"""

from collections import Counter

from lurm.alignment import told_of
from lurm.ingredients import ingredients
from lurm.lineage import Context
from lurm.manifest import Manifest, Snapshot
from lurm.periods import end_month
from lurm.schema import USER_EMBEDDINGS
from spark_jobs.session import gpu_profile, job_main, progress, torch_beside
from spark_jobs.tables import cost_of, spark_for, stage_tasks


def run(context: Context) -> dict:
    from lurm.smen.states import can_keep_states, open_month

    store, settings, embed = context.store, context.config.spark, context.config.embed
    model_id, run_key = context.trained_model_id(), context.embed_key()
    store.get_artifact("models", model_id)  # fails here, not on an executor
    info = store.artifact_info("models", model_id)
    context.check_chain(info, space_id=context.space_id())
    if store.staged(USER_EMBEDDINGS.name, run_key):
        return {"skipped": "embedded already"}
    bags, end, until = context.bags(), end_month(context.as_of), f"{open_month(context.as_of)}-01"
    aligned = context.alignment()
    states = context.states(until) if embed.keep_states and can_keep_states(info, context.as_of) else None
    if states is not None:
        bags = _open_bags(bags, until, info["grid_start"])

    def produce(task: dict, counted: Counter):
        from lurm.alignment import load_alignment
        from lurm.smen.streams import embed_lives, embed_states, load_frozen

        model, bucket = load_frozen(store, model_id, embed.device, embed.batch_size), task["bucket"]
        alignment = load_alignment(store, model_id) if aligned else None
        mine = bags.where(bucket=bucket)
        if states is None:
            batches = embed_lives(model, store, mine, end)
        else:
            batches = embed_states(model, store, states.where(bucket=bucket), mine, until)
        for batch, n_absent in batches:
            counted["users_without_usable_events"] += n_absent
            yield alignment.turn_batch(batch) if alignment else batch

    spark, totals = spark_for([cost_of(bags, states)], settings, context.spark), Counter(users_without_usable_events=0)
    buckets = {*bags.values("bucket"), *(states.values("bucket") if states is not None else ())}
    tasks = [{"bucket": bucket} for bucket in sorted(buckets, key=int)]
    partition = {"as_of": context.as_of, "model_id": model_id}
    with progress(spark, "embed-users"), torch_beside(spark):
        files = stage_tasks(spark, tasks, produce, store, USER_EMBEDDINGS, run_key, rows_per_file=settings.rows_per_file,
                            partition=partition, resources=gpu_profile(settings), totals=totals)
    figures = {"users": sum(file.rows for file in files), **totals, "n_anchors": info["n_anchors"], "dim": info["dim"],
               "encoder_id": info["encoder_id"], "space_id": info["space_id"], "model_id": model_id, "trained_as_of": info["as_of"]}
    figures |= told_of(aligned, info["as_of"]) if aligned else {}
    inputs = {"bags": bags.version, "events": context.events().version, "ingredients": ingredients(context)}
    store.write_manifest(Manifest(USER_EMBEDDINGS.name, run_key, tuple(files), (partition,), figures, inputs))
    return figures


def _open_bags(bags: Snapshot, until: str, grid_start: int) -> Snapshot:
    """The bags that are not in the states yet: of the open month, and of its year (with all years before, in the first year of the grid)."""
    month, year = until[:7], until[:4]
    first = int(year) - 1970 == grid_start // 12

    def is_open(period: str) -> bool:
        return period == month or period == year or (first and len(period) == 4 and period < year)

    return bags.where(period=is_open)


if __name__ == "__main__":
    job_main("embed-users")
