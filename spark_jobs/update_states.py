"""update-states: where SMEN's GRU stands for every user after the last closed month.

In: the closed bags, a trained SMEN, the states kept before. Out: `user_states` at the first day of the open month. A month that closes
is one step from the states before it; whom late events concern is folded again from his whole life; a bucket in which nothing changed
keeps its files. States of earlier months, and of models that are not run any more, are dropped with the same commit.
"""

from collections import Counter
from dataclasses import dataclass

from lurm.config import fingerprint
from lurm.errors import StoreError
from lurm.lineage import Context
from lurm.manifest import Manifest, Snapshot
from lurm.periods import month_number
from lurm.periods import until as end_of
from lurm.schema import BAGS, MONTH, USER_STATES
from spark_jobs.session import gpu_profile, job_main, progress, torch_beside
from spark_jobs.tables import cost_of, spark_for, stage_tasks


@dataclass(frozen=True)
class Kept:
    """The states of one bucket that are there, and what they were made of."""

    states: Snapshot
    since: str
    recipe: str
    bags: Snapshot  # the closed months, as they were


def run(context: Context) -> dict:
    from lurm.smen.states import can_keep_states, open_month

    store, embed, settings = context.store, context.config.embed, context.config.spark
    model_id, until = context.trained_model_id(), f"{open_month(context.as_of)}-01"
    info = store.artifact_info("models", model_id)
    context.check_chain(info, space_id=context.space_id())
    if not embed.keep_states or not can_keep_states(info, context.as_of):
        return {"skipped": "whole lives are embedded"}
    bags, scope = context.closed_bags(until), {"model_id": model_id, "until": until}
    if not bags.files:
        return {"skipped": f"no events before {until}"}
    run_key = context.states_key(until)
    if store.committed(USER_STATES.name, run_key, (scope,)):
        return {"skipped": "nothing changed"}
    recipes = {bucket: fingerprint(until, bags.where(bucket=bucket).digest()) for bucket in bags.values("bucket")}
    kept = _kept(context, model_id, until)
    same = [bucket for bucket, recipe in recipes.items() if bucket in kept and (kept[bucket].since, kept[bucket].recipe) == (until, recipe)]
    tasks = [_task(bucket, kept.get(bucket), bags.where(bucket=bucket)) for bucket in recipes if bucket not in same]
    states = {task["bucket"]: kept[task["bucket"]].states for task in tasks if task["since"]}

    def produce(task: dict, counted: Counter):
        import pyarrow as pa

        from lurm.smen.streams import advance_states, fold_states, load_frozen

        model = load_frozen(store, model_id, embed.device, embed.batch_size)
        bucket, mine = task["bucket"], bags.where(bucket=task["bucket"])
        if task["since"]:
            batches = advance_states(model, store, states[bucket], task["since"], mine, until, task["changes"], counted)
        else:
            batches = fold_states(model, store, mine, until)
        for batch in batches:
            counted["users"] += batch.num_rows
            yield batch.append_column("bucket", pa.array([bucket] * batch.num_rows))

    totals = Counter(users=sum(kept[bucket].states.rows() for bucket in same), folded_again=0)
    spark = spark_for([cost_of(bags.where(bucket=task["bucket"]), states.get(task["bucket"])) for task in tasks], settings, context.spark)
    with progress(spark, "update-states"), torch_beside(spark):
        files = stage_tasks(spark, tasks, produce, store, USER_STATES, run_key, rows_per_file=settings.rows_per_file, keys=["bucket"],
                            partition=scope, resources=gpu_profile(settings), totals=totals)
    files += [file for bucket in same for file in kept[bucket].states.files]
    replaces = (scope, *_outdated(store.snapshot(USER_STATES.name), model_id, until))
    figures = {**totals, "buckets": len(recipes), "buckets_as_they_were": len(same), "buckets_advanced": len(states), "recipes": recipes}
    manifest = Manifest(USER_STATES.name, run_key, tuple(files), replaces, figures, {"bags": bags.version})
    store.write_manifest(manifest)
    store.commit(manifest)
    return {"until": until, **{name: value for name, value in figures.items() if name != "recipes"}}


def _kept(context: Context, model_id: str, until: str) -> dict[str, Kept]:
    """The newest states of each bucket that are not after `until`; a bucket whose past cannot be told is left out."""
    store, found, pasts = context.store, {}, {}
    live = store.snapshot(USER_STATES.name).where(model_id=model_id, until=lambda value: value <= until)
    for bucket in live.values("bucket"):
        since = max(live.where(bucket=bucket).values("until"))
        states = live.where(bucket=bucket, until=since)
        manifests = [store.read_manifest(USER_STATES.name, key) for key in states.run_keys()]
        if len(manifests) != 1 or manifests[0] is None:
            continue
        version = manifests[0].inputs["bags"]
        if (version, since) not in pasts:
            pasts[version, since] = _closed_months(context, version, since)
        past = pasts[version, since]
        if past is not None:
            found[bucket] = Kept(states, since, manifests[0].figures["recipes"][bucket], past.where(bucket=bucket))
    return found


def _closed_months(context: Context, version: int, since: str) -> Snapshot | None:
    """The months that were closed at `since`, in an earlier version of the bags; None where that version has been cleaned away."""
    try:
        bags = context.store.snapshot(BAGS.name, version)
    except StoreError:
        return None
    bags = bags.where(space_id=context.space_id(), scale=MONTH, period=lambda period: f"{period}-01" < since)
    files = tuple(file for file in bags.files if file.rows and file.partition["until"] == end_of(file.partition["period"], since))
    return Snapshot(bags.table, bags.version, files, bags.root)


def _outdated(live: Snapshot, model_id: str, until: str) -> list[dict[str, str]]:
    """States that nobody goes on from: earlier ones of this model, and those of models that have not been run for two months."""
    found = {(file.partition["model_id"], file.partition["until"]) for file in live.files}
    long_ago = month_number(until) - 2
    return [{"model_id": model, "until": value} for model, value in sorted(found)
            if (value < until if model == model_id else month_number(value) < long_ago)]


def _task(bucket: str, kept: Kept | None, bags: Snapshot) -> dict:
    """One bucket to do: from nothing, or from kept states with the months before them that have changed since, (old, new) files each."""
    if kept is None:
        return {"bucket": bucket, "since": None}
    now = bags.where(scale=MONTH, period=lambda period: f"{period}-01" < kept.since)
    changes = []
    for period in sorted({*kept.bags.values("period"), *now.values("period")}):
        old, new = kept.bags.where(period=period).uris(), now.where(period=period).uris()
        if set(old) != set(new):
            changes.append([old, new])
    return {"bucket": bucket, "since": kept.since, "changes": changes}


if __name__ == "__main__":
    job_main("update-states")
