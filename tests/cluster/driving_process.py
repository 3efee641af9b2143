"""A driver that runs stages on a cluster and says where tasks of a stage are running, so that a test can kill a worker just then.

In: one JSON argument (warehouse, as_of, config, overrides, conf, n_workers, stages, killed_in: stage to the seconds its tasks run before the first
try). Out on stdout: "tasks STAGE PORT", the port of an executor that runs tasks of such a stage; after the line "look" on stdin, "running STAGE yes"
or "no" for that executor; then "killed" or "missed" is awaited. "done STAGE REPORT" after each stage, and after one of killed_in any line is
awaited, then all workers. "failed STAGE SENTENCE" where a stage says no; "end" at the end. Run as a script.
"""

import json
import logging
import sys
import threading
import time
from dataclasses import replace

SETTLED = 0.5  # seconds after which a task that has ended counts as ended


def say(*words) -> None:
    print(*words, flush=True)


def running(spark) -> list[int]:
    """Ports of the executors that run tasks."""
    return [info.port() for info in spark.sparkContext._jsc.sc().statusTracker().getExecutorInfos() if info.numRunningTasks()]


def watch(spark, stage: str, seconds: float, ended: threading.Event) -> None:
    first = None
    while not ended.wait(0.01):
        ports = running(spark)
        first = first or (time.monotonic() if ports else None)
        if not ports or time.monotonic() < first + seconds:
            continue
        say("tasks", stage, ports[-1])
        sys.stdin.readline()
        time.sleep(SETTLED)
        say("running", stage, "yes" if ports[-1] in running(spark) else "no")
        if sys.stdin.readline().strip() == "killed":
            return


def main() -> None:
    order = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    from lurm.config import load_config
    from lurm.errors import LurmError
    from lurm.lineage import Context
    from lurm.pipeline import BY_NAME
    from lurm.runner import run_stage
    from lurm.store import Store
    from spark_jobs.session import open_session

    config = load_config(order["config"], order["overrides"])
    config = replace(config, spark=replace(config.spark, conf=order["conf"]))
    spark = open_session(config)
    executors = spark.sparkContext._jsc.sc().statusTracker().getExecutorInfos

    def wait_for_all() -> None:
        while len(executors()) < order["n_workers"] + 1:  # the driver counts as one
            time.sleep(0.05)

    wait_for_all()
    say("executors", len(executors()) - 1)
    context = Context(Store(order["warehouse"]), config, order["as_of"], spark=lambda: spark)
    for name in order["stages"]:
        ended, seconds = threading.Event(), order["killed_in"].get(name)
        watcher = threading.Thread(target=watch, args=(spark, name, seconds, ended), daemon=True)
        if seconds is not None:
            watcher.start()
        try:
            report = run_stage(context, BY_NAME[name])
        except LurmError as error:
            say("failed", name, str(error))
            break
        ended.set()
        if seconds is not None:
            watcher.join()
        say("done", name, json.dumps(report, default=str))
        if seconds is not None:
            sys.stdin.readline()
            wait_for_all()
    spark.stop()
    say("end")


if __name__ == "__main__":
    main()
