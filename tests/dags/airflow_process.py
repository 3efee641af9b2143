"""Airflow for tests, in processes of its own: this one never imports it, because the import changes logging, signals and a home folder."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from spark_jobs.class_archive import java_options

ROOT = Path(__file__).parents[2]
QUICK_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # a stage of a small world is over before a better compiler pays
# Appended to a script that has run a DAG: what became of it, as the last line.
TELL = """
import json
from airflow.models.xcom import XComModel
from airflow.models.asset import AssetEvent
from airflow.utils.session import create_session
with create_session() as session:
    tasks = {ti.task_id: str(ti.state) for ti in run.get_task_instances(session=session)}
    xcoms = [[row.task_id, row.key, row.value] for row in session.query(XComModel).filter(XComModel.run_id == run.run_id)]
    events = [event.extra for event in session.query(AssetEvent).order_by(AssetEvent.id)]
print(json.dumps({"state": str(run.state), "tasks": tasks, "xcoms": xcoms, "events": events}))
"""


def airflow_environment(home: Path, warehouse: str, settings: tuple[str, ...] = ()) -> dict[str, str]:
    """Environment of an Airflow whose home is `home` and whose DAGs write to `warehouse`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "LURM_"))}
    return {
        **clean, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False", "AIRFLOW_CONN_SPARK_DEFAULT": '{"conn_type": "spark", "host": "local[2]"}',
        "LURM_WAREHOUSE": warehouse, "LURM_SETTINGS": shlex.join(settings), "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_SUBMIT_OPTS": f"{QUICK_JVM} {java_options()}".strip(),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT / "dags"), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def python(code: str, environment: dict[str, str], timeout: float = 120):
    """Run a script; returns the JSON of the last line that it prints."""
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert answer.returncode == 0, answer.stdout[-6_000:] + answer.stderr[-6_000:]
    return json.loads(answer.stdout.strip().splitlines()[-1])
