"""Running stages: one line in, one line out, seconds and peak memory, and a record beside the tables.

A stage is loaded by the name that `lurm.pipeline` gives it, so nothing here knows Spark or torch; Spark is started by the first stage
that needs it and serves all that follow.
"""

import importlib
import json
import logging
import os
import re
import time
from collections.abc import Sequence
from dataclasses import replace

from lurm import __version__
from lurm.erasing.suppression import check_erasures_ended
from lurm.lease import lease
from lurm.lineage import Context
from lurm.logs import logged_run, logged_stage
from lurm.memory import PeakMemory
from lurm.pipeline import BY_NAME, STAGES, Stage
from lurm.runs import cost, new_record, recorded, versions

log = logging.getLogger("lurm")


class SparkOnDemand:
    """Opens the session at the first call and hands out the same one afterwards; `close` stops what was opened here.

    A session that runs in this process already is used instead, and left running.
    """

    def __init__(self, config):
        self._config, self._session, self._own = config, None, False

    def __call__(self):
        if self._session is None:
            jobs = importlib.import_module("spark_jobs.session")
            self._session = jobs.active_session()
            if self._session is None:
                self._session, self._own = jobs.open_session(self._config), True
        return self._session

    def cores(self) -> int:
        """How many tasks run at once: what the master says in local mode, what the session knows of a cluster, else this machine's cores."""
        here = os.cpu_count() or 1
        submitted = "PYSPARK_GATEWAY_PORT" in os.environ
        if self._config.spark.master.startswith("local") and not submitted:
            told = re.match(r"local\[(\d+)", self._config.spark.master)
            return int(told[1]) if told else here
        return self._session.sparkContext.defaultParallelism if self._session is not None else here

    def close(self) -> None:
        if self._own:
            self._session.stop()
        self._session, self._own = None, False


def run_stages(context: Context, names: Sequence[str], command: str = "run", parent: str | None = None,
               wait_seconds: float = 0.0) -> dict[str, dict]:
    """Run stages in the order given; returns what each reported, with seconds and peak_mb. Writes runs/<run_id>.json as it goes.

    A session that the context brings is used and left open; otherwise one is opened when a stage asks, and stopped at the end. No other run
    writes to the warehouse meanwhile: StoreError if one does, and still does after `wait_seconds`, or if an erasure has been left unfinished.
    """
    if int(os.environ.get("RANK", "0")):  # of several processes of one training the first holds the lease for all
        return _run_stages(context, names, command, parent)
    with lease(context.store, f"{command} of {context.as_of}", wait_seconds):
        check_erasures_ended(context.store)
        return _run_stages(context, names, command, parent)


def _run_stages(context: Context, names: Sequence[str], command: str, parent: str | None) -> dict[str, dict]:
    store, spark = context.store, SparkOnDemand(context.config)
    context = replace(context, spark=context.spark or spark)
    opened = context.spark if isinstance(context.spark, SparkOnDemand) else spark
    record = new_record(store, command, context.config, __version__, context.as_of, context.model_id, parent)
    touched = {name for stage in names for name in (*BY_NAME[stage].reads, *BY_NAME[stage].writes)}
    record |= {"allow_future_model": context.allow_future_model, "planned": list(names), "versions_before": versions(store, touched)}
    with logged_run(record["run_id"]), recorded(store, record) as recorder:
        started = time.monotonic()
        try:
            for name in names:
                recorder.stage_done(name, run_stage(context, BY_NAME[name]))
            spent = cost(record["stages"], opened.cores(), context.config.service.price_per_core_hour)
            recorder.write(seconds=round(time.monotonic() - started, 2), cost=spent, versions_after=versions(store, touched))
        finally:
            spark.close()
    return record["stages"]


def run_stage(context: Context, stage: Stage) -> dict:
    """Run one stage and time it."""
    with logged_stage(stage.name):
        log.info("%s: start, as_of %s, reads %s", stage.name, context.as_of, ", ".join(stage.reads))
        started = time.monotonic()
        with PeakMemory() as peak:
            figures = importlib.import_module(_runner(context, stage)).run(replace(context, pins={}))
        seconds = time.monotonic() - started
        told = {**figures, "seconds": round(seconds, 2), "peak_mb": round(peak.megabytes)}
        log.info("%s: done in %.1f s, peak %.0f MB, %s", stage.name, seconds, peak.megabytes, json.dumps(figures, default=str),
                 extra={"figures": told})
    return told


def _runner(context: Context, stage: Stage) -> str:
    """The module that runs a stage: its own, or the one that starts several processes of a training."""
    config = context.config
    settings = {"train-item-encoder": config.encoder, "fit-interests": config.interests, "train-smen": config.smen}.get(stage.name)
    several = settings is not None and settings.processes > 1 and "WORLD_SIZE" not in os.environ
    return f"spark_jobs.{stage.name.replace('-', '_')}" if several else stage.runner


def stages_to_run(model_id: str | None) -> list[str]:
    """All stages, or with a pinned model those that do not train."""
    return [stage.name for stage in STAGES if model_id is None or "daily" in stage.schedule]
