"""# lurm_train: a new item encoder, new interests, a new SMEN, and the table of their date.

**What it does.** All stages of `lurm/pipeline.py` that have the schedule *train*, in their order, between two more: *resolve* fixes the
date for the whole run, *announce* tells consumers of a release. Monthly, or by hand.

**Every task is one call** of `lurm STAGE` with an explicit date and may be repeated at any time; a training that was killed goes on from
its last checkpoint. After a failure: read the last line of the log (one sentence), mend the cause, clear the failed task.

**Which date.** The partition key of the run, else its parameter `as_of`, else the end of its data interval (in UTC): the monthly run has
the first of the month. A run without any of them is refused. *Parameter `release`*: false makes a **candidate**: model and table are
committed and can be looked at, readers stay where they are; trigger the same date with true to release it. Vectors of two models are
not comparable: consumers see a new `model_id` in the event and in the table.

**Alarms.** *late events during a training*: ids are fingerprints of the events before the date, so a stage may miss what an earlier
stage of the run wrote ("Expected item_pairs …; run `lurm build-pairs`"): clear the run from `build-pairs` on. *audit blocked*, *lease
held*, a wrong release and the **deployment** (environment, connection, pools): see `lurm_daily`. Besides, `LURM_TRAIN_CRON`
(`0 0 1 * *`, UTC). Trainings run in the pool `lurm_training`: as many slots as GPUs may train at a time.
"""

import os
from datetime import timedelta

import lurm_service
from airflow.sdk import DAG, CronDataIntervalTimetable, Param

from lurm.pipeline import TRAIN

with DAG(
    dag_id="lurm_train",
    description="Item encoder, interests, bags, SMEN, and the embeddings of the new model",
    doc_md=__doc__,
    schedule=CronDataIntervalTimetable(os.environ.get("LURM_TRAIN_CRON", "0 0 1 * *"), timezone="UTC"),
    dagrun_timeout=timedelta(days=5),
    **lurm_service.ONE_AT_A_TIME,
    params={
        "as_of": lurm_service.as_of_parameter(),
        "release": Param(True, type="boolean", title="release", description="false: a candidate, readers stay where they are."),
    },
) as dag:
    lurm_service.build(TRAIN, pinned=False)
