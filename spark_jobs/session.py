"""Starting Spark, and showing how far a long job is.

On one machine the session is local and embedded; under spark-submit the cluster's own settings win. Python workers use the
interpreter that runs this file, and the driver talks over loopback in local mode.
"""

import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

from lurm.config import Config
from lurm.errors import ConfigError
from spark_jobs.class_archive import java_options

log = logging.getLogger("lurm")
JAVA_NEEDED = "Expected Java 17 or later for Spark, {came}; install it, for example with: apt-get install openjdk-17-jre-headless."


def check_java() -> None:
    """One sentence instead of a stack trace where Java is missing or too old."""
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if not java or not os.path.exists(java):
        raise ConfigError(JAVA_NEEDED.format(came="found none"))
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False).stderr
    version = answer.split('"')[1] if answer.count('"') >= 2 else "?"
    major = re.match(r"\d*", version)[0]  # 17.0.15, 25-ea
    if not major or int(major) < 17:
        raise ConfigError(JAVA_NEEDED.format(came=f"found version {version}"))


def active_session():
    """The session that is running in this process already, or None."""
    from pyspark.sql import SparkSession

    return SparkSession.getActiveSession()


def open_session(config: Config):
    """A SparkSession for these settings."""
    check_java()
    from pyspark.sql import SparkSession

    settings = config.spark
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # spark-submit has started the JVM: master and memory are its business
    if _master(settings.master, submitted).startswith("local"):  # elsewhere it is the workers' own python3: this machine's paths are not theirs
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("lurm")
    conf = {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": str(settings.shuffle_partitions),
        "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
        "spark.sql.autoBroadcastJoinThreshold": str(settings.broadcast_mb * 2**20),
        "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.executorEnv.OMP_NUM_THREADS": "1",  # one task a core: libraries must not start more threads
        "spark.executorEnv.TOKENIZERS_PARALLELISM": "false",
    }
    if not submitted:
        builder = builder.master(settings.master)
        conf["spark.driver.memory"] = settings.driver_memory
        if settings.master.startswith("local"):
            os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
            conf |= {
                "spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1",
                "spark.driver.bindAddress": "127.0.0.1",
                "spark.driver.extraJavaOptions": f"-XX:+UseParallelGC {java_options()}".strip(),
            }
    for name, value in {**conf, **settings.conf}.items():
        builder = builder.config(name, value)
    with _without_noise():
        return builder.getOrCreate()


def _master(configured: str, submitted: bool) -> str:
    if not submitted:
        return configured
    from pyspark import SparkConf, SparkContext

    SparkContext._ensure_initialized()  # connects to the JVM that spark-submit has started, which alone knows
    return SparkConf().get("spark.master", configured)


@contextmanager
def progress(spark, what: str, every_seconds: float = 5.0):
    """Log the share of finished tasks while a block of Spark work runs; without a session there is nothing to tell."""
    if spark is None:
        yield
        return
    tracker, finished = spark.sparkContext.statusTracker(), threading.Event()
    started = time.monotonic()

    def watch():
        while not finished.wait(every_seconds):
            stages = [info for info in map(tracker.getStageInfo, tracker.getActiveStageIds()) if info]
            if stages:
                done, total = sum(info.numCompletedTasks for info in stages), sum(info.numTasks for info in stages)
                log.info("%s: %d of %d tasks, %.0f s", what, done, total, time.monotonic() - started)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join(timeout=1)


@contextmanager
def torch_beside(spark):
    """In a block of work that this process does itself, because there is no session, torch leaves the cores to the threads that do it."""
    if spark is not None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # for this thread, and for every one that begins now
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _without_noise():
    """Start the JVM with a stderr that leaves out the lines every start prints and nobody can act upon; all others pass."""
    noise = ("WARNING: Using incubator modules", "Using Spark's default log4j", "Setting default log level", "Setting Spark log level",
             "To adjust logging level", "WARN NativeCodeLoader")
    reader, writer = os.pipe()
    real = os.dup(2)

    def forward():
        with os.fdopen(reader, "rb") as lines, os.fdopen(real, "wb", buffering=0) as out:
            for line in lines:
                if not any(start.encode() in line for start in noise):
                    out.write(line)

    threading.Thread(target=forward, daemon=True).start()
    kept = os.dup(2)
    os.dup2(writer, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(writer)


def gpu_profile(settings):
    """The resource profile of a stage that wants a GPU per worker; None where none is configured."""
    if not settings.gpus_per_worker:
        return None
    from pyspark.resource import ResourceProfileBuilder, TaskResourceRequests

    return ResourceProfileBuilder().require(TaskResourceRequests().cpus(1).resource("gpu", settings.gpus_per_worker)).build


def job_main(stage: str) -> None:
    """main() of a job under spark-submit: the same arguments as `lurm STAGE`."""
    from lurm.cli import run_and_leave

    run_and_leave([stage, *sys.argv[1:]])
