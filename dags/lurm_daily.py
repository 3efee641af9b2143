"""# lurm_daily: the table of user embeddings, brought up to a date with a trained model.

**What it does.** Reads the log and the catalogue, encodes and assigns the items that are new, counts the months that changed, embeds,
audits and publishes. The tasks are the stages of `lurm/pipeline.py` that have the schedule *daily*, in their order, between two more:
*resolve* fixes date and model for the whole run, *announce* tells consumers of a release.

**Every task is one call** of `lurm STAGE` with an explicit date and may be repeated at any time: it does what is missing and nothing
else. After a failure: read the last line of the log (one sentence: what was expected, what came, what to do), mend the cause, clear the
failed task. The same call works from a shell; the log begins with it.

**Which date.** The partition key of the run, else its parameter `as_of`, else the end of its data interval (in UTC). The run of the
night from the 1st to the 2nd has as_of = the 2nd: all events of the 1st. A run without any of them is refused.
*Parameter `model`*: `released` (the model that readers follow) or the id of a model. *A past date*: trigger with `as_of`. *A range*:
`airflow backfill create --dag-id lurm_daily --from-date 2021-12-01 --to-date 2021-12-31 --max-active-runs 1`, where the dates are the
starts of the data intervals, so as_of is one day later; `--dag-run-conf '{"model": "model-…"}'` pins a model for all of them.

**Alarms.** *audit blocked*: no reader sees the candidate, the sentence names the expectation; look before forcing anything. *lease
held*: another run writes to this warehouse; each task waits an hour. *trained on events before …*: the model is younger than the date;
name an older one. *announce skipped* is no alarm: nothing was released that readers follow, or it was announced before, or this is a
backfill (which wakes nobody). A wrong release: `lurm rollback --warehouse URI`, in seconds, then find out why.

**Deployment.** Environment of scheduler, DAG processor and workers: `LURM_WAREHOUSE` (URI, required), `LURM_CONFIG` (TOML file or a
bundled name), `LURM_SETTINGS` (`section.field=value …`), `LURM_JOBS` (folder of spark_jobs), `LURM_PYTHON` (interpreter of the stages),
`LURM_DRIVER_MEMORY` (2g), `LURM_OWNER`, `LURM_DAILY_CRON` (`0 0 * * *`, UTC; `0 3 * * *` if the log of a day is complete at three),
`LURM_SCHEDULE_UNTIL` (scheduled runs of later dates are skipped: for a log that has ended), `LURM_DEFAULT_AS_OF` (fills in the form of
a manual run). Connection `spark_default` says which Spark. Pools, made once: `airflow pools set lurm_spark 1 "Spark stages of lurm"`,
`airflow pools set lurm_training 1 "trainings of lurm, one a GPU"`.
"""

import os
from datetime import timedelta

import lurm_service
from airflow.sdk import DAG, CronDataIntervalTimetable, Param

from lurm.pipeline import DAILY

with DAG(
    dag_id="lurm_daily",
    description="New items, changed months, embeddings of all users, audit, publication",
    doc_md=__doc__,
    # "@daily" alone is a trigger without a data interval in Airflow 3, and a run without an interval has no date.
    schedule=CronDataIntervalTimetable(os.environ.get("LURM_DAILY_CRON", "0 0 * * *"), timezone="UTC"),
    dagrun_timeout=timedelta(hours=23),
    **lurm_service.ONE_AT_A_TIME,
    params={
        "as_of": lurm_service.as_of_parameter(),
        "model": Param("released", type="string", minLength=1, title="model", description="released, or the id of a trained model."),
    },
) as dag:
    lurm_service.build(DAILY, pinned=True)
