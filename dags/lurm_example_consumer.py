"""# lurm_example_consumer: how another team's DAG follows the table.

It is scheduled on the asset `user_embeddings`, so it runs when a release was announced: not every day, not at a guessed hour, and not
for a backfill of history. The event says which release (`epoch`, `as_of`, `table_version`, `model_id`); several events that came
together are one run, which reads the newest. Copy this file: a consumer needs `lurm`, numpy, pyarrow and deltalake, nothing else.

Vectors of two models are not comparable: a consumer that keeps vectors, or a classifier trained on them, starts again when `model_id`
changes. Triggered by hand, without an event, it reads what readers follow now.
"""

import logging
from datetime import timedelta

import lurm_service
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowFailException

log = logging.getLogger(__name__)

with DAG(
    dag_id="lurm_example_consumer",
    description="Reads each release of the user embeddings and says how many users and how long their vectors are",
    doc_md=__doc__,
    schedule=[lurm_service.embeddings_asset()],
    catchup=False,
    max_active_runs=1,
    default_args={**lurm_service.DEFAULT_ARGS, "owner": "a team that uses the table"},
    tags=["lurm", "example"],
) as dag:

    @task(execution_timeout=timedelta(hours=1))
    def read_table(triggering_asset_events=None) -> dict:
        """Scan the release of the event, batch by batch; returns which one it was, how many users, and the mean norm."""
        import lurm  # here and not above: the file is parsed every few seconds, and the reader brings Arrow with it

        events = [event for of_asset in (triggering_asset_events or {}).values() for event in of_asset]
        release = max((event.extra for event in events), key=lambda extra: extra["epoch"], default=None)
        table = lurm.open_table(lurm_service.warehouse(), release["as_of"] if release else None)
        if release and table.model_id != release["model_id"]:
            raise AirflowFailException(f"Expected vectors of {release['model_id']}, the table of {table.as_of} has those of {table.model_id} "
                                       "since; wait for the event of that release.")
        n_users, total = 0, 0.0
        for batch in table.scan(["embedding"]):
            vectors = batch.column("embedding").flatten().to_numpy().reshape(batch.num_rows, table.n_anchors * table.dim)
            n_users += batch.num_rows
            total += float(((vectors.astype("float64") ** 2).sum(axis=1) ** 0.5).sum())
        log.info("%r: %d users, mean norm %.3f", table, n_users, total / max(n_users, 1))
        return {"epoch": table.epoch, "as_of": table.as_of, "model_id": table.model_id, "users": n_users}

    read_table()
