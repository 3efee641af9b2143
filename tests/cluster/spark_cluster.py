"""A standalone Spark master and workers as separate processes on loopback, as they would be on several machines.

Each worker has a scratch folder, a working directory and a Python environment of its own: the libraries of this one, without lurm. What a
Python worker opens of the driver's paths is written to a file (sys.addaudithook), so that a test can say that there was nothing. What the
processes share is what the warehouse's URI leads to.
"""

import os
import re
import signal
import site
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pyspark
from process_family import family, listening, send

ROOT = Path(__file__).resolve().parents[2]
SPARK_CLASS = Path(pyspark.__file__).parent / "bin" / "spark-class"
WATCH = '''
import os, sys

def _quotes_source():
    """Whether a traceback is being written: a function that came from the driver names the file it stood in there, which is then looked for."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__") == "linecache":
            return True
        frame = frame.f_back
    return False

def _watch(event, arguments, forbidden=tuple(os.environ["DRIVERS_PATHS"].split(os.pathsep)), told=os.environ["TOLD"]):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(forbidden) and not _quotes_source():
        descriptor = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, (arguments[0] + "\\n").encode())
        os.close(descriptor)

sys.addaudithook(_watch)
'''


class SparkCluster:
    """A master and `n_workers` workers with one core each; `close` ends them and all that they started."""

    def __init__(self, folder: Path, n_workers: int = 2, drivers_paths: Sequence[Path] = (), environment: dict[str, str] | None = None):
        self.folder, self.n_workers, self.environment = folder, n_workers, environment or {}
        self.drivers_paths = [str(ROOT / "lurm"), str(ROOT / "spark_jobs"), *map(str, drivers_paths)]
        self.python = _environment_without_lurm(folder / "python")
        self.package = _zipped(folder / "shipped" / "lurm.zip")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"spark://127.0.0.1:{free.getsockname()[1]}"
        self.processes: dict[str, subprocess.Popen] = {}
        self._start("master", ["org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", "--port", self.url.rpartition(":")[2],
                               "--webui-port", "0"], "I have been elected leader")
        for number in range(n_workers):
            self.start_worker(number)

    def start_worker(self, number: int) -> None:
        name = f"worker{number}"
        command = ["org.apache.spark.deploy.worker.Worker", "--host", "127.0.0.1", "--webui-port", "0", "--cores", "1", "--memory", "1500m",
                   "--work-dir", str(self.folder / name / "work"), self.url]
        self._start(name, command, "Successfully registered with master")

    def worker_at(self, port: int) -> int:
        """The worker whose executor listens on this port."""
        for number in range(self.n_workers):
            if port in {taken for _, taken in listening(self.processes[f"worker{number}"].pid)}:
                return number
        raise AssertionError(f"no executor listens on port {port}")

    def stop_worker(self, number: int) -> None:
        """SIGSTOP to a worker and all its processes: what it was doing cannot end."""
        self._signal(number, signal.SIGSTOP)

    def continue_worker(self, number: int) -> None:
        self._signal(number, signal.SIGCONT)

    def kill_worker(self, number: int) -> None:
        """SIGKILL to a worker, its executor and its Python processes, all at once."""
        self._signal(number, signal.SIGKILL)
        self.processes.pop(f"worker{number}").wait()

    def _signal(self, number: int, sent: signal.Signals) -> None:
        members = family(self.processes[f"worker{number}"].pid)
        assert len(members) > 1, "its executor is there"
        send(members, sent)

    def opened_of_the_driver(self) -> list[str]:
        """Paths of the driver that a Python worker has opened."""
        return [line for told in self.folder.glob("worker*/told") for line in told.read_text().splitlines()]

    def close(self) -> None:
        for worker in self.processes.values():
            send(family(worker.pid), signal.SIGKILL)
            worker.wait()
        self.processes.clear()

    def _start(self, name: str, command: list[str], until: str) -> None:
        own = self.folder / name
        for part in ("scratch", "here"):
            (own / part).mkdir(parents=True, exist_ok=True)
        kept = {key: value for key, value in os.environ.items() if not re.match("PYTHON|PYSPARK|SPARK|LURM|AWS", key)}
        environment = kept | {
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}", "SPARK_LOCAL_DIRS": str(own / "scratch"), "TMPDIR": str(own / "scratch"),
            "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m", "LURM_SCRATCH": str(own / "scratch"), "OMP_NUM_THREADS": "1",
            "TOLD": str(own / "told"), "DRIVERS_PATHS": os.pathsep.join(self.drivers_paths), **self.environment,
        }
        log = own / f"log{len(list(own.glob('log*')))}"
        with open(log, "wb") as out:
            self.processes[name] = subprocess.Popen([SPARK_CLASS, *command], cwd=own / "here", env=environment, stdout=out, stderr=subprocess.STDOUT)
        end = time.monotonic() + 120
        while until not in log.read_text(errors="replace"):
            assert self.processes[name].poll() is None and time.monotonic() < end, log.read_text(errors="replace")[-2_000:]
            time.sleep(0.05)


def _environment_without_lurm(folder: Path) -> Path:
    """A virtual environment with the libraries of this one, lurm and what leads to it left out; returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    [target] = (folder / "lib").glob("python*/site-packages")
    for package in (path for place in site.getsitepackages() for path in Path(place).iterdir()):
        if "lurm" not in package.name and package.name != "__pycache__":
            (target / package.name).symlink_to(package)
    (target / "sitecustomize.py").write_text(WATCH)
    return folder / "bin" / "python3"


def _zipped(file: Path) -> Path:
    """What `git archive --format zip HEAD lurm spark_jobs` would write, of the files as they are now."""
    file.parent.mkdir(parents=True)
    with zipfile.ZipFile(file, "w") as archive:
        for package in ("lurm", "spark_jobs"):
            for path in sorted((ROOT / package).rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    archive.write(path, path.relative_to(ROOT))
    return file
