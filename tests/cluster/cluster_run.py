"""A run of all stages on a standalone cluster, seen from outside: its driver is a process of its own, and workers are killed at their tasks.

The driver (driving_process.py) says on which executors tasks of a stage are running. One of them is stopped (SIGSTOP) there and then, so that its
tasks cannot end; if they are still counted as running a moment later, the worker with all its processes is killed, else it goes on and the next
tasks are waited for. So whoever is reported as killed was killed in the middle of a task.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from small_pipeline import contents, published
from spark_cluster import ROOT, SparkCluster

from lurm.store import Store


class Driver:
    """The driver's process; lines of its stdout are read one by one, its stderr is kept."""

    def __init__(self, cluster: SparkCluster, own: Path, order: Mapping):
        own.mkdir(parents=True)
        conf = {"spark.submit.pyFiles": str(cluster.package), "spark.executor.memory": "700m", "spark.local.dir": str(own / "scratch"),
                "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.enabled": "false"}
        order = {"conf": conf, "config": None, "n_workers": cluster.n_workers, **order}
        order["overrides"] = [*order["overrides"], f"spark.master={cluster.url}", "spark.driver_memory=1g", "spark.in_process_mb=0"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYSPARK", "SPARK"))}
        environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(own), "SPARK_LOCAL_IP": "127.0.0.1"}
        environment = {"OMP_NUM_THREADS": "1", **environment, **cluster.environment}
        self.process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("driving_process.py")), json.dumps(order)], cwd=own,
                                        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.printed: list[str] = []
        threading.Thread(target=lambda: self.printed.extend(self.process.stderr), daemon=True).start()

    def line(self) -> list[str]:
        """The next line for us; what training processes print comes out here too."""
        while True:
            text = self.process.stdout.readline()
            assert text, "".join(self.printed)[-4_000:]
            if text.startswith(("executors ", "tasks ", "running ", "done ", "failed ", "end")):
                return text.rstrip("\n").split(" ", 2)
            self.printed.append(text)

    def tell(self, word: str) -> None:
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def run_on(cluster: SparkCluster, folder: Path, order: Mapping) -> tuple[dict[str, dict], list[str], str]:
    """Run order["stages"]; in each of order["killed_in"] a worker is killed (after so many seconds of tasks) and a new one started before the next
    stage. Returns the reports, the stages in which a worker was killed, and what the driver printed."""
    driver = Driver(cluster, folder, order)
    reports, killed = {}, {}
    try:
        while (line := driver.line())[0] != "end":
            if line[0] == "tasks":
                number = cluster.worker_at(int(line[2]))
                cluster.stop_worker(number)
                killed |= _killed_if_running(cluster, driver, line[1], number)
            elif line[0] == "done":
                reports[line[1]] = json.loads(line[2])
                if line[1] in order["killed_in"]:
                    if line[1] in killed:
                        cluster.start_worker(killed[line[1]])
                    driver.tell("go on")
            assert line[0] != "failed", f"{line}\n{''.join(driver.printed)[-4_000:]}"
        assert driver.process.wait(60) == 0
    finally:
        driver.close()
        print({name: report["seconds"] for name, report in reports.items()}, killed)  # pytest shows it where the test fails, or with -s
    return reports, list(killed), "".join(driver.printed)


def _killed_if_running(cluster: SparkCluster, driver: Driver, stage: str, number: int) -> dict[str, int]:
    """Kill the stopped worker if its tasks count as running; else let it go on."""
    driver.tell("look")
    if driver.line()[2] == "yes":
        cluster.kill_worker(number)
        driver.tell("killed")
        return {stage: number}
    cluster.continue_worker(number)
    driver.tell("missed")
    return {}


def check_equal(store: Store, local: Store, as_of: str) -> None:
    """All tables are the same, file for file and byte for byte, and so is what a reader gets."""
    here, there = contents(local), contents(store)
    assert {name: there[name] == here[name] for name in here} == dict.fromkeys(here, True)
    for mine, theirs in zip(published(local, as_of), published(store, as_of), strict=True):
        assert np.array_equal(mine, theirs)
