"""A driver that runs the stages on a cluster and says when tasks of a stage are running, so that a test can kill a worker just then.

In: one JSON argument (warehouse, as_of, overrides, conf, stages, watched: stage to seconds after its first task). Out on stdout: "tasks STAGE"
once tasks of a watched stage have run so long, "done STAGE REPORT" after each stage, "executors N" in answer to a line on stdin, which is
awaited after each watched stage. Run as a script.
"""

import json
import logging
import sys
import threading
import time
from dataclasses import replace


def say(*words) -> None:
    print(*words, flush=True)


def watch(spark, stage: str, seconds: float, ended: threading.Event) -> None:
    tracker = spark.sparkContext.statusTracker()
    while not ended.wait(0.01):
        infos = [info for info in map(tracker.getStageInfo, tracker.getActiveStageIds()) if info]
        if any(info.numActiveTasks for info in infos):
            time.sleep(seconds)
            say("tasks", stage)
            return


def main() -> None:
    order = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    from lurm.config import load_config
    from lurm.lineage import Context
    from lurm.pipeline import BY_NAME
    from lurm.runner import run_stage
    from lurm.store import Store
    from spark_jobs.session import open_session

    config = load_config(None, order["overrides"])
    config = replace(config, spark=replace(config.spark, conf=order["conf"]))
    spark = open_session(config)
    n_executors = spark.sparkContext._jsc.sc().statusTracker().getExecutorInfos
    while len(n_executors()) < 3:  # the driver counts as one
        time.sleep(0.05)
    say("executors", len(n_executors()) - 1)
    context = Context(Store(order["warehouse"]), config, order["as_of"], spark=lambda: spark)
    for name in order["stages"]:
        ended = threading.Event()
        seconds = order["watched"].get(name)
        if seconds is not None:
            threading.Thread(target=watch, args=(spark, name, seconds, ended), daemon=True).start()
        report = run_stage(context, BY_NAME[name])
        ended.set()
        say("done", name, json.dumps(report, default=str))
        if seconds is not None:
            sys.stdin.readline()
            while len(n_executors()) < 3:
                time.sleep(0.05)
    spark.stop()
    say("end")


if __name__ == "__main__":
    main()
