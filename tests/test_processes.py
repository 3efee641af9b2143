"""Publishing in real processes: killed with SIGKILL dozens of times (200 in `make test-long`) while others read, and many of them at once.

Every vector that is published says which version it is from, so a reader knows a torn table when it sees one.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from faults import Versions, committed_keys
from publishing_process import Forks, publication_of

from lurm import open_table
from lurm.garbage import find_garbage, vacuum
from lurm.lease import holding_now
from lurm.releases import releases, rollback
from lurm.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork") or not Path("/proc/self/task").exists(), reason="forks and /proc")]
PHASES = ("staging", "manifest", "audit", "commit", "release")
PROCESSES = Path(__file__).with_name("publishing_process.py")


@pytest.fixture(scope="module")
def forks():
    running = Forks()
    yield running
    running.close()


def phase_of(line: list[str]) -> str:
    """Which step of publishing a line of a child belongs to; `look` is all that only reads."""
    if len(line) < 4:
        return "start"
    operation, path = line[2:]
    if operation not in ("write_bytes", "create_table", "commit"):
        return "audit" if operation == "read_bytes" and "/tables/user_embeddings/" in path else "look"
    for folder, phase in (("/audits/", "audit"), ("/manifests/", "manifest"), ("/tables/releases", "release"), ("/tables/lease", "lease"),
                          ("/runs/", "record")):
        if folder in path:
            return phase
    return "staging" if path.endswith(".parquet") else "commit"


def follow(forks: Forks, pid: int, phase: str | None = None) -> tuple[list[list[str]], bool]:
    """Lines of a child up to its first one of a phase, or up to its end (whether it has ended)."""
    lines: list[list[str]] = []
    while not lines or phase is None or phase_of(lines[-1]) != phase:
        lines.append(forks.line())
        assert lines[-1][0] == str(pid), f"a line of nobody: {lines[-1]}"
        if lines[-1][1] == "done":
            return lines, True
    return lines, False


def finish(forks: Forks, **order) -> list[list[str]]:
    """One publication without a disturbance."""
    pid = forks.start(**order)
    lines, _ = follow(forks, pid)
    forks.collect(pid)
    assert forks.line()[1:] == ["exit", "0"] and lines[-1][1:3] == ["done", "released"], lines[-1]
    return lines


@pytest.mark.parametrize("kills", [40, pytest.param(200, marks=pytest.mark.long)])
def test_kills_and_no_torn_read(forks, tmp_path, kills):
    uri, stop, rng = str(tmp_path / "warehouse"), tmp_path / "stop", np.random.default_rng(5)
    environment = {**os.environ, "PYTHONPATH": f"{PROCESSES.parents[1]}{os.pathsep}{PROCESSES.parent}", "OMP_NUM_THREADS": "1"}
    readers = [subprocess.Popen([sys.executable, str(PROCESSES), uri, str(stop)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True) for _ in range(2)]
    versions, landed, inside, number = Versions(), Counter(), Counter(), 0
    try:
        finish(forks, uri=uri, as_of="2022-01-01", key=f"{number:016d}", lease=True)
        versions.add(publication_of(f"{number:016d}", "2022-01-01"))
        while landed.total() < kills:
            number += 1
            # Mostly the next date, often the same once more, sometimes one of long ago.
            as_of = f"{2022 + number // 24}-{1 + number // 2 % 12:02d}-01" if number % 5 else f"2021-{1 + number % 12:02d}-01"
            order = {"uri": uri, "as_of": as_of, "key": f"{number:016d}", "lease": bool(number % 2)}
            versions.add(publication_of(order["key"], as_of))
            for attempt in range(rng.integers(3, 8)):
                pid = forks.start(**order)
                first = attempt == 0 and rng.random() < 0.5  # what is staged is not staged again
                lines, ended = follow(forks, pid, PHASES[0] if first else str(rng.choice(PHASES[1:])))
                if not ended:  # as the phase begins, within a write or two of it, or anywhere later
                    time.sleep(rng.choice([0, rng.uniform(0, 0.003), rng.uniform(0, 0.1)]))
                    os.kill(pid, signal.SIGKILL)
                forks.collect(pid)
                lines += follow_to_exit(forks, pid)
                if lines[-1][1:] == ["exit", f"-{signal.SIGKILL}"]:
                    told = [line for line in lines if line[1] in ("begin", "end", "done")]
                    landed[phase_of(told[-1])] += 1
                    inside[phase_of(told[-1])] += told[-1][1] == "begin"
                else:
                    assert lines[-1][1:] == ["exit", "0"], lines[-1]
                    break
                assert all(reader.poll() is None for reader in readers), [reader.communicate() for reader in readers]
            finish(forks, **order)
    finally:
        stop.touch()
        ended = [reader.communicate(timeout=60) for reader in readers]
    assert all(reader.returncode == 0 for reader in readers), "\n".join(errors for _, errors in ended)[-3_000:]
    reads = [json.loads(text) for text, _ in ended]
    print(f"{landed.total()} kills, {number + 1} publications, landed {dict(landed)}, in the middle of a write or read {dict(inside)}, reads {reads}")
    assert min(landed[phase] for phase in PHASES) >= kills // 40, landed
    assert sum(read["reads"] for read in reads) >= kills // 2 and min(read["epochs"] for read in reads) >= max(3, kills // 40), reads

    store = Store(uri)
    versions.check(store)
    assert sorted(committed_keys(store)) == sorted(move["run_key"] for move in releases(store)) == sorted(versions.known)
    assert holding_now(store) is None
    vacuum(store, keep_days=0)
    assert find_garbage(store, 0, time.time() + 1) == []
    versions.check(store)
    for move in releases(store)[:-1]:
        assert rollback(store, move["epoch"])["epoch"] and open_table(uri)._release["run_key"] == move["run_key"] == versions.seen(uri)


def follow_to_exit(forks: Forks, pid: int) -> list[list[str]]:
    """What a killed child still said, and its exit status."""
    lines = []
    while not lines or lines[-1][1] != "exit":
        lines.append(forks.line())
        assert lines[-1][0] == str(pid)
    return lines


def all_at_once(forks: Forks, uri: str, orders: list[dict]) -> list[tuple[str, str]]:
    """Children that begin at one instant; what each said at its end."""
    at = time.time() + 0.5
    pids = [forks.start(uri=uri, at=at, **order) for order in orders]
    said = {}
    for pid in pids:
        forks.collect(pid)
    ended = 0
    while ended < len(pids):
        line = forks.line()
        if line[1] == "done":
            said[int(line[0])] = (line[2], line[3])
        ended += line[1] == "exit"
    return [said[pid] for pid in pids]


def test_many_processes_publish_the_same_and_different_dates_at_once(forks, tmp_path):
    uri, versions = str(tmp_path / "warehouse"), Versions()
    store, number = Store(uri), 0
    for turn in range(3):
        dates = [f"2022-0{1 + turn}-01", f"2022-0{1 + turn}-15"]
        keys = {as_of: [f"{number + step:016d}" for step in range(2)] for as_of, number in zip(dates, (number, number + 2), strict=True)}
        number += 4
        for as_of, two in keys.items():
            versions.add(*(publication_of(key, as_of) for key in two))
        orders = [{"as_of": as_of, "key": key, "lease": False} for as_of, two in keys.items() for key in two]
        said = all_at_once(forks, uri, orders)
        assert [result for result, _ in said] == ["released"] * 4, said
        versions.check(store)
        for as_of, two in keys.items():
            assert versions.seen(uri, as_of) in two
        assert versions.seen(uri) in keys[dates[1]], "the later date is what readers follow, whoever was first"
        moves = [move for move in releases(store) if move["as_of"] in dates]
        assert sorted(epoch for _, epoch in said) == sorted(str(move["epoch"]) for move in moves) and len(moves) == 4


def test_the_same_run_started_many_times_is_done_once(forks, tmp_path):
    uri = str(tmp_path / "warehouse")
    said = all_at_once(forks, uri, [{"as_of": "2022-01-01", "key": f"{7:016d}", "lease": False}] * 4)
    assert said == [("released", "1")] * 4
    assert committed_keys(Store(uri)) == [f"{7:016d}"] and len(releases(Store(uri))) == 1


def test_under_the_lease_one_wins_and_the_others_say_so(forks, tmp_path):
    uri, versions = str(tmp_path / "warehouse"), Versions()
    orders = [{"as_of": f"2022-0{1 + number}-01", "key": f"{number:016d}", "lease": True} for number in range(4)]
    versions.add(*(publication_of(order["key"], order["as_of"]) for order in orders))
    said = all_at_once(forks, uri, orders)
    refused = [sentence for result, sentence in said if result == "refused"]
    assert refused and len(refused) < 4, "they met, and one of them won"
    assert all("Expected to be the only run in" in sentence and sentence.endswith("--wait SECONDS.") for sentence in refused)
    versions.check(Store(uri))
    for order, (result, _) in zip(orders, said, strict=True):  # they come again, one after the other
        if result == "refused":
            finish(forks, uri=uri, **order)
    assert len(releases(Store(uri))) == 4 and versions.seen(uri) == orders[-1]["key"]
    versions.check(Store(uri))
