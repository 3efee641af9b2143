"""What both DAGs share: the settings of a deployment, the one resolver of as_of, a task per stage, and the announcement of a release.

In: `lurm.pipeline.STAGES` and the environment of Airflow's processes (LURM_*, explained in the docstrings of the DAGs). Out: operators.
Nothing here imports more of lurm than its list of stages: a stage runs in a process of its own, so a DAG file parses in an instant.
"""

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import Asset, BaseOperator, Param, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from lurm.pipeline import SPARK, STAGES, Stage

log = logging.getLogger(__name__)

JOBS = Path(os.environ.get("LURM_JOBS", Path(__file__).resolve().parents[1] / "spark_jobs"))
PYTHON = os.environ.get("LURM_PYTHON", sys.executable)
# Before any date that somebody may ask for: Airflow makes no tasks for a manual run whose logical date is earlier, and calls the empty run a
# success. Nothing is caught up, so the scheduler begins today all the same.
START = datetime(2000, 1, 1, tzinfo=UTC)
RESOLVE, ANNOUNCE = "resolve", "announce"
SPARK_POOL, TRAINING_POOL = "lurm_spark", "lurm_training"
LEASE_WAIT = timedelta(hours=1)  # how long a stage waits while another run writes to the warehouse
DEFAULT_ARGS = {
    "owner": os.environ.get("LURM_OWNER", "lurm"),
    "depends_on_past": False,
    "retries": 2,
    "retry_delay": timedelta(minutes=2),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=30),
}
# Of both DAGs that write the table: two of their runs at once would only wait for each other, and what was missed is a backfill's to fill.
ONE_AT_A_TIME = {
    "start_date": START, "catchup": False, "max_active_runs": 1, "default_args": DEFAULT_ARGS, "tags": ["lurm", "user embeddings"],
}
# Questions to the warehouse, asked in a process of its own, because importing Arrow is not for a DAG file. The answer is a line of JSON.
ASK = """
import json, os, sys, lurm
from lurm.errors import LurmError
from lurm.releases import followed_model
from lurm.store import Store

def release(uri):
    table = lurm.open_table(uri)
    return {"epoch": table.epoch, "as_of": table.as_of, "table_version": table.version, "model_id": table.model_id}

def model(uri, as_of):
    return followed_model(Store(uri), as_of)

try:
    print(json.dumps({"release": release, "model": model}[sys.argv[1]](*sys.argv[2:])), flush=True)
    sys.stdout.flush()
    os._exit(0)  # native threads now and then abort an interpreter that takes itself apart, after all is done
except LurmError as error:
    print(f"lurm: {error}", file=sys.stderr, flush=True)
    os._exit(1)
"""


# ---- the deployment --------------------------------------------------------------------------------------------------------------------


def warehouse() -> str:
    uri = os.environ.get("LURM_WAREHOUSE", "")
    if not uri:
        raise AirflowException("Expected the URI of the warehouse in LURM_WAREHOUSE, found nothing; set it for all processes of Airflow.")
    return uri if "://" in uri else str(Path(uri).resolve())


def embeddings_asset() -> Asset:
    """The asset of the table; its name is what consumers schedule on, its URI says which warehouse."""
    uri = warehouse()
    return Asset(name="user_embeddings", uri=f"{uri if '://' in uri else f'file://{uri}'}/tables/user_embeddings", group="lurm")


def as_of_parameter() -> Param:
    return Param(os.environ.get("LURM_DEFAULT_AS_OF") or None, type=["null", "string"], format="date", title="as_of",
                 description="Events before this date (UTC, exclusive) may be used. Empty: the end of the run's data interval.")


# ---- the one resolver of as_of ---------------------------------------------------------------------------------------------------------


def resolve_as_of(partition_key: str | None, parameter: str | None, interval_end: datetime | None) -> str:
    """The date of a run, YYYY-MM-DD: its partition key, else its parameter, else the end of its data interval (its date in UTC).

    A run that has none of them is refused, because "now" is no date: the same run would give another table tomorrow.
    """
    if partition_key:
        return _midnight(partition_key, "a partition key")
    if parameter:
        return _midnight(parameter, "the parameter as_of")
    if interval_end is not None:
        return interval_end.astimezone(UTC).date().isoformat()
    raise AirflowFailException("Expected a date for this run, it has no partition key, no parameter as_of and no data interval (runs that are "
                               "triggered by an asset or without a logical date have none); trigger it with as_of, for example 2022-01-01.")


def _midnight(text: str, what: str) -> str:
    """A date, or the timestamp of a midnight in UTC, as a date."""
    try:
        if len(text) == 10:
            return date.fromisoformat(text).isoformat()
        instant = datetime.fromisoformat(text)
        instant = instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
        if instant.time() == datetime.min.time() and len(text) > 10:
            return instant.date().isoformat()
    except (TypeError, ValueError):
        pass
    raise AirflowFailException(f"Expected {what} that is a date (YYYY-MM-DD), or a midnight in UTC, got {text!r}; trigger the run again with one.")


def date_of(run, params: Mapping) -> str:
    """as_of of a run. The default of the parameter fills in the form of a manual run; a scheduled run and a backfill have dates of their own."""
    given = params.get("as_of") if run.run_type == "manual" else (run.conf or {}).get("as_of")
    return resolve_as_of(run.partition_key, given, run.data_interval_end)


def check_schedule(run_type: str, as_of: str) -> None:
    """A scheduled run is skipped where the log has ended (LURM_SCHEDULE_UNTIL, as for the demo); other runs are somebody's wish."""
    last = os.environ.get("LURM_SCHEDULE_UNTIL", "")
    if last and run_type == "scheduled" and as_of > last:
        raise AirflowSkipException(f"The schedule of this deployment ends at {last} (LURM_SCHEDULE_UNTIL): nothing to do at {as_of}.")


def resolve_model(wanted: str, as_of: str) -> str:
    """The id of the model of a run: "released" becomes what that means now (see lurm.releases.followed), for all stages of the run."""
    return ask("model", warehouse(), as_of) if wanted == "released" else wanted


def current_release() -> dict:
    """What readers follow now: epoch, as_of, table_version, model_id."""
    return ask("release", warehouse())


def ask(*question: str):
    answer = subprocess.run([PYTHON, "-c", ASK, *question], capture_output=True, text=True, timeout=600, check=False)
    if answer.returncode:
        raise AirflowException(answer.stderr.strip().splitlines()[-1] if answer.stderr.strip() else f"exit code {answer.returncode}")
    return json.loads(answer.stdout.strip().splitlines()[-1])


# ---- tasks -----------------------------------------------------------------------------------------------------------------------------


class StageOperator(BaseOperator):
    """One call of `lurm STAGE` in a process of its own, without a shell; what it prints goes to the log of the task.

    Returns the ids that the stage reports as its last line of JSON, if `keep` names any. Killing the task kills the whole process group.
    """

    template_fields = ("arguments",)

    def __init__(self, *, stage: str, arguments: Sequence[str], keep: Sequence[str] = (), **kwargs):
        super().__init__(**kwargs)
        self.stage, self.arguments, self.keep = stage, list(arguments), tuple(keep)
        self._process: subprocess.Popen | None = None

    def execute(self, context) -> dict | None:
        command = [PYTHON, "-m", "lurm.cli", self.stage, *self.arguments]
        self.log.info("%s", shlex.join(command))
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        report = last = ""
        try:
            for line in self._process.stdout:
                self.log.info("%s", line.rstrip())
                last = line.strip() or last
                report = last if last.startswith("{") else report
            code = self._process.wait()
        finally:
            self.on_kill()
        if code:
            raise AirflowException(f"lurm {self.stage} ended with exit code {code}: {last}")
        figures = json.loads(report) if report and self.keep else {}
        return {name: figures[name] for name in self.keep if name in figures} or None

    def on_kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)


def stages_of(schedule: str) -> list[Stage]:
    return [stage for stage in STAGES if schedule in stage.schedule]


def stage_arguments(pinned: bool, release: bool) -> list[str]:
    """Arguments of every stage of a DAG, date and model as templates that the first task fills in.

    `pinned`: with the run's model, else it trains; `release`: publishing asks the parameter `release`.
    """
    found = "ti.xcom_pull(task_ids='" + RESOLVE + "')"
    arguments = ["--warehouse", warehouse(), "--as-of", "{{ " + found + "['as_of'] }}", "--wait", str(int(LEASE_WAIT.total_seconds()))]
    if os.environ.get("LURM_CONFIG"):
        arguments += ["--config", os.environ["LURM_CONFIG"]]
    for setting in shlex.split(os.environ.get("LURM_SETTINGS", "")):
        arguments += ["--set", setting]
    if pinned:
        arguments += ["--model", "{{ " + found + "['model'] }}"]
    if release:
        arguments += ["--set", "publish.release={{ 'true' if params.release else 'false' }}"]
    return arguments


def stage_task(stage: Stage, arguments: Sequence[str]) -> BaseOperator:
    """The task of one stage: spark-submit for those that Spark runs, a Python process for the others."""
    trains = any(written.startswith("artifacts/") for written in stage.writes)
    about = {
        "task_id": stage.name,
        "doc_md": f"{stage.summary}.\n\nreads {', '.join(stage.reads)}\n\nwrites {', '.join(stage.writes)}",
        "execution_timeout": timedelta(hours=24 if trains else 8),
    }
    if stage.engine == SPARK:
        return SparkSubmitOperator(
            application=str(JOBS / f"{stage.name.replace('-', '_')}.py"), application_args=list(arguments), name=f"lurm {stage.name}",
            conn_id="spark_default", driver_memory=os.environ.get("LURM_DRIVER_MEMORY", "2g"), env_vars={"PYSPARK_PYTHON": PYTHON},
            pool=SPARK_POOL, **about,
        )
    keep = ("released", "current", "epoch", "table_version", "model_id", "users") if stage is STAGES[-1] else ()
    return StageOperator(stage=stage.name, arguments=arguments, keep=keep, pool=TRAINING_POOL if trains else "default_pool", **about)


def build(schedule: str, pinned: bool) -> None:
    """All tasks of a DAG, one after the other: resolve, the stages of its schedule, announce. To be called inside `with DAG(...)`."""

    @task(task_id=RESOLVE, execution_timeout=timedelta(minutes=15))
    def resolve(dag_run=None, params=None) -> dict:
        """The date of the run, and the model: fixed here, so that all stages of a run agree whatever is released meanwhile."""
        as_of = date_of(dag_run, params)
        check_schedule(dag_run.run_type, as_of)
        model = resolve_model(params["model"], as_of) if pinned else None
        log.info("as_of %s, model %s", as_of, model or "to be trained")
        return {"as_of": as_of, "model": model}

    asset = embeddings_asset()

    @task(task_id=ANNOUNCE, inlets=[asset], outlets=[asset], execution_timeout=timedelta(minutes=15))
    def announce(published: dict, dag_run=None, inlet_events=None, outlet_events=None) -> None:
        """Tell consumers of a release, once. Skipped where nothing was released that readers follow, and in a backfill."""
        newest = list(inlet_events[asset].ascending(False).limit(1))
        current = current_release() if published.get("released") else None
        outlet_events[asset].extra = announcement(published, current, newest[0].extra if newest else None, dag_run.run_type)

    before = resolve()
    arguments = stage_arguments(pinned, release=not pinned)
    for stage in stages_of(schedule):
        after = stage_task(stage, arguments)
        before >> after
        before = after
    before >> announce(before.output)


def announcement(published: Mapping, current: Mapping | None, announced: Mapping | None, run_type: str) -> dict:
    """What the event of a release says: epoch, as_of, table_version, model_id. Raises AirflowSkipException where there is none to make.

    `published` is what publish reported, `current` what readers follow now, `announced` what the newest event said. A task that runs again
    after a release makes up for an event that was lost with the first try, and makes no second one.
    """
    if not published.get("released"):
        raise AirflowSkipException("A candidate was committed and not released: nobody is woken.")
    if run_type == "backfill":
        raise AirflowSkipException("A backfill fills in history: nobody is woken, whatever date it released.")
    if current["epoch"] != published["epoch"]:
        raise AirflowSkipException(f"Readers follow release {current['epoch']} of {current['as_of']}, not release {published['epoch']}.")
    if announced == current:
        raise AirflowSkipException(f"Release {current['epoch']} was announced before.")
    return dict(current)
