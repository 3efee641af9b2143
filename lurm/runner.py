"""Running stages: one line in, one line out, seconds and peak memory, and a record beside the tables.

A stage is loaded by the name that `lurm.pipeline` gives it, so nothing here knows Spark or torch; Spark is started by the first stage
that needs it and serves all that follow.
"""

import importlib
import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from lurm import __version__
from lurm.config import fingerprint, to_dict
from lurm.lineage import Context
from lurm.memory import PeakMemory
from lurm.pipeline import BY_NAME, STAGES, Stage

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

    def close(self) -> None:
        if self._own:
            self._session.stop()
        self._session, self._own = None, False


def run_stages(context: Context, names: Sequence[str]) -> dict[str, dict]:
    """Run stages in the order given; returns what each reported, with seconds and peak_mb. Writes runs/<run_id>.json as it goes."""
    spark = SparkOnDemand(context.config)
    context = replace(context, spark=spark)
    started = datetime.now(UTC)
    run_id = f"{started:%Y%m%dT%H%M%S}-{fingerprint(str(started), list(names))[:6]}"
    record = {
        "run_id": run_id, "started_at": started.isoformat(timespec="seconds"), "as_of": context.as_of, "code_version": __version__,
        "settings": to_dict(context.config), "stages": {},
    }
    try:
        for name in names:
            figures = run_stage(context, BY_NAME[name])
            record["stages"][name] = figures
            text = json.dumps(record, indent=1, default=str)
            context.store.write_bytes(context.store.path("runs", f"{run_id}.json"), text.encode())
    finally:
        spark.close()
    return record["stages"]


def run_stage(context: Context, stage: Stage) -> dict:
    """Run one stage and time it."""
    log.info("%s: start, as_of %s, reads %s", stage.name, context.as_of, ", ".join(stage.reads))
    started = time.monotonic()
    with PeakMemory() as peak:
        figures = importlib.import_module(_runner(context, stage)).run(replace(context, pins={}))
    seconds = time.monotonic() - started
    log.info("%s: done in %.1f s, peak %.0f MB, %s", stage.name, seconds, peak.megabytes, json.dumps(figures, default=str))
    return {**figures, "seconds": round(seconds, 2), "peak_mb": round(peak.megabytes)}


def _runner(context: Context, stage: Stage) -> str:
    """The module that runs a stage: its own, or the one that starts several processes of a training."""
    settings = {"train-item-encoder": context.config.encoder, "train-smen": context.config.smen}.get(stage.name)
    several = settings is not None and settings.processes > 1 and "WORLD_SIZE" not in os.environ
    return f"spark_jobs.{stage.name.replace('-', '_')}" if several else stage.runner


def stages_to_run(model_id: str | None) -> list[str]:
    """All stages, or with a pinned model those that do not train."""
    return [stage.name for stage in STAGES if model_id is None or "daily" in stage.schedule]
