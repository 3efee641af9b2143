"""Without a usable Java there is one sentence; under spark-submit a job does what the command line does."""

import logging
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from small_pipeline import SMALL, content, source_overrides

from lurm.config import load_config
from lurm.errors import ConfigError
from spark_jobs.session import check_java, gpu_profile, open_session, progress, torch_beside

ROOT = Path(__file__).resolve().parents[2]


def fake_java(folder: Path, version: str) -> Path:
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2018-10-16' >&2\n")
    java.chmod(0o755)
    return folder


@pytest.mark.parametrize("version", ["11.0.2", "1.8.0_292", "9"])
def test_an_old_java_is_one_sentence(tmp_path, monkeypatch, version):
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path, version)))
    with pytest.raises(ConfigError, match=f"Expected Java 17 or later for Spark, found version {version}; install it"):
        check_java()


@pytest.mark.parametrize("version", ["17.0.15", "21", "25-ea"])
def test_a_new_java_will_do(tmp_path, monkeypatch, version):
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path, version)))
    check_java()


@pytest.mark.parametrize("home", [None, "nowhere"])
def test_no_java_is_exit_code_2_and_a_sentence(tmp_path, world, home):
    environment = {name: value for name, value in os.environ.items() if name != "JAVA_HOME"} | {"PATH": "", "PYTHONPATH": str(ROOT)}
    if home:
        environment["JAVA_HOME"] = str(tmp_path / home)
    command = [sys.executable, "-m", "lurm.cli", "ingest", "--warehouse", str(tmp_path / "warehouse"), "--as-of", "2021-01-01", "--quiet"]
    for override in source_overrides(world):
        command += ["--set", override]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "lurm: Expected Java 17 or later for Spark, found none; install it, for example with: apt-get install openjdk-17-jre-headless."
    )


def test_an_open_session_is_reused(spark):
    assert open_session(load_config(None, SMALL)) is spark
    assert spark.conf.get("spark.sql.session.timeZone") == "UTC"


def test_long_work_says_how_far_it_is(spark, caplog):
    with caplog.at_level(logging.INFO, "lurm"), progress(spark, "counting", every_seconds=0.1):
        spark.sparkContext.parallelize(range(4), 4).foreach(lambda _: time.sleep(0.5))
    assert any("counting: " in message and "of 4 tasks" in message for message in caplog.messages)


def test_torch_leaves_the_cores_to_threads_that_do_the_work_themselves(spark):
    before = torch.get_num_threads()
    for number in (3, 1):
        torch.set_num_threads(number)
        try:
            with pytest.raises(RuntimeError, match="given up"), torch_beside(None), ThreadPoolExecutor(1) as pool:
                assert torch.get_num_threads() == pool.submit(torch.get_num_threads).result() == 1
                raise RuntimeError("given up")
            assert torch.get_num_threads() == number
            with torch_beside(spark):
                assert torch.get_num_threads() == number
        finally:
            torch.set_num_threads(before)


def test_a_gpu_is_asked_for_only_when_configured():
    assert gpu_profile(load_config().spark) is None


@pytest.mark.slow
def test_spark_submit_does_what_the_command_line_does(finished, world, tmp_path):
    """build-bags in a copy of the finished warehouse without its bags."""
    context, _ = finished
    shutil.copytree(context.store.uri, tmp_path / "warehouse")
    for folder in ("tables", "manifests"):
        shutil.rmtree(tmp_path / "warehouse" / folder / "bags")
    submit = Path(sys.executable).parent / "spark-submit"
    command = [str(submit), "--master", "local[2]", "--driver-memory", "1500m", "--conf", "spark.ui.enabled=false"]
    command += [str(ROOT / "spark_jobs" / "build_bags.py"), "--warehouse", str(tmp_path / "warehouse"), "--as-of", context.as_of]
    for override in (*SMALL, *source_overrides(world), "spark.in_process_mb=0"):
        command += ["--set", override]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYSPARK", "SPARK"))}
    environment |= {"PYTHONPATH": str(ROOT), "SPARK_LOCAL_IP": "127.0.0.1", "PATH": f"{submit.parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert '"months": {"periods": 14' in done.stdout
    store = type(context.store)(str(tmp_path / "warehouse"))
    assert content(store, "bags") == content(context.store, "bags")


def test_a_session_of_somebody_else_is_used_and_left_running(spark):
    from lurm.config import load_config
    from lurm.runner import SparkOnDemand

    on_demand = SparkOnDemand(load_config(None))
    assert on_demand() is spark
    on_demand.close()
    assert spark.range(3).count() == 3
