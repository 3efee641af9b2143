"""fit-interests in two processes (gloo) that torchrun and Spark's TorchDistributor start: the bytes of one process, and what a kill leaves.

A process that is killed ends the fit; the same call again goes on from the last iteration to the bytes of a fit that nobody disturbed.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_family import process_of_rank
from small_pipeline import AS_OF, SMALL, make_context, run
from test_interests import warehouse

from lurm import interests
from lurm.store import Store

TESTS = Path(__file__).resolve().parents[1]
SLOW_ENOUGH = {"n_interests": 1_500, "max_sample": 30_000, "n_iterations": 12}  # about a third of a second an iteration and process


def copy_of(finished, folder: Path) -> Path:
    """A warehouse in which everything is there but the space."""
    shutil.copytree(finished[0].store.root, folder, ignore=shutil.ignore_patterns("spaces", "lease", "runs", "work"))
    return folder


def space(folder: Path) -> bytes:
    """The centroids of the only space of a warehouse."""
    store = Store(str(folder))
    [name] = store.list_artifacts("spaces")
    return (store.get_artifact("spaces", name) / "centroids.npy").read_bytes()


def torchrun(*command: str, folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]), "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command]
    return subprocess.Popen(run, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_two_processes_of_torchrun_have_the_bytes_of_one(finished, tmp_path):
    folder = copy_of(finished, tmp_path / "warehouse")
    arguments = [part for override in SMALL for part in ("--set", override)]
    process = torchrun("-m", "lurm.cli", "fit-interests", "--warehouse", str(folder), "--as-of", AS_OF, *arguments, folder=tmp_path)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed[-3_000:]
    assert space(folder) == space(Path(finished[0].store.root))
    assert not list(folder.glob("work/*")), "what was kept for a resume is gone"


@pytest.mark.slow
def test_the_distributor_starts_as_many_as_are_set(finished, spark, tmp_path):
    folder = copy_of(finished, tmp_path / "warehouse")
    reports = run(make_context(folder, AS_OF, lambda: spark, "interests.processes=2"), ["fit-interests"])
    assert space(folder) == space(Path(finished[0].store.root))
    assert reports["fit-interests"]["space_id"] == finished[1]["fit-interests"]["space_id"], "how many processes is no part of what a space is"


FIT = """
import dataclasses, logging, os, sys
from lurm.config import Config, InterestsSettings
from lurm.store import Store
from test_interests import AS_OF, Fitting
from lurm import interests
logging.basicConfig(level=logging.INFO)
interests.run(Fitting(Store(sys.argv[1]), Config(interests=InterestsSettings(backend="numpy", **{settings!r})), AS_OF))
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> bytes:
    context = warehouse(tmp_path_factory.mktemp("whole"), 60_000, 60_000, **SLOW_ENOUGH)
    interests.run(context)
    return space(Path(context.store.root))


def kill_rank(parent: int, rank: int, folder: Path, after: int, seconds: float = 60.0) -> None:
    """SIGKILL to one process, once the fit has kept what iteration `after` begins with."""
    end = time.monotonic() + seconds
    while True:
        kept = [json.loads(file.read_text())["info"]["iteration"] for file in folder.glob("work/*/standing/info.json")]
        if kept and kept[0] >= after:
            break
        assert time.monotonic() < end
        time.sleep(0.01)
    process_of_rank(parent, rank).kill()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_killed_process_ends_the_fit_and_the_next_one_goes_on(undisturbed, tmp_path, rank):
    folder = tmp_path / "warehouse"
    warehouse(folder, 60_000, 60_000, **SLOW_ENOUGH)
    script = tmp_path / "fit.py"
    script.write_text(FIT.format(settings=SLOW_ENOUGH))
    first = torchrun(str(script), str(folder), folder=tmp_path)
    kill_rank(first.pid, rank, folder, after=2)
    killed_at = time.monotonic()
    printed, _ = first.communicate(timeout=60)
    assert first.returncode != 0 and time.monotonic() - killed_at < 45, "no process waits for the one that is gone"
    assert "SIGKILL" in printed and not Store(str(folder)).list_artifacts("spaces")
    second = torchrun(str(script), str(folder), folder=tmp_path)
    printed, _ = second.communicate(timeout=120)
    assert second.returncode == 0, printed[-3_000:]
    assert "The fit goes on with iteration" in printed and "fit-interests: iteration 1," not in printed
    assert space(folder) == undisturbed
