"""The lease: one run at a time, renewed while its holder lives, over when it is dead or silent, and noticed when it is lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from faults import FAULTS, FaultyObjects
from published import day, publish_day, rows_of, stage_day

from lurm import lease as lease_module
from lurm import open_table
from lurm.errors import StoreError
from lurm.lease import CLOCK_SECONDS, LEASE, TABLE, Holding, holding_now, lease
from lurm.manifest import Manifest
from lurm.releases import move_release, releases, rollback
from lurm.runner import run_stages
from lurm.schema import SEEN_ITEMS
from lurm.store import Store

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "warehouse"))


def write(store: Store, holding: Holding) -> None:
    """Put a holding into the log, as another process would."""
    store.commit_on(store.load(LEASE) or store.create(TABLE), TABLE, [], {name: str(value) for name, value in vars(holding).items()})


def elsewhere(until: float, **changes) -> Holding:
    """A holding of a process on another machine."""
    return replace(Holding("0123", "run of 2022-01-01 (process 7 on other)", "", 7, "1", time.time() - 60, until), **changes)


def test_looking_creates_nothing(store, tmp_path):
    assert holding_now(store) is None and not (tmp_path / "warehouse").exists()


def test_one_at_a_time_and_a_sentence_for_the_others(store):
    with lease(store, "run of 2022-01-01") as held:
        held.check()
        with pytest.raises(StoreError) as error:
            with lease(Store(store.uri), "another"):
                raise AssertionError("two holders")
        sentence = str(error.value)
        assert f"run of 2022-01-01 (process {os.getpid()} on " in sentence and "wait with --wait SECONDS." in sentence and "\n" not in sentence
        assert sentence.count(" UTC") == 2, "since when, and until when"
        assert holding_now(store).pid == os.getpid()
    assert holding_now(store) is None and store.lease is None
    with lease(Store(store.uri), "another"):
        assert holding_now(store).holder.startswith("another")


def test_given_back_also_after_an_error(store):
    with pytest.raises(ZeroDivisionError), lease(store, "one"):
        raise ZeroDivisionError
    assert holding_now(store) is None


def test_within_its_own_block_it_is_the_same(store):
    with lease(store, "backfill") as outer:
        with lease(store, "one of its dates") as inner:
            assert inner is outer
        assert holding_now(store).holder.startswith("backfill"), "the inner block gives nothing back"


def test_a_run_waits_as_long_as_it_is_told_to(store, monkeypatch):
    monkeypatch.setattr(lease_module, "LOOK_AGAIN_SECONDS", 0.02)
    entered, order = threading.Event(), []

    def first():
        with lease(Store(store.uri), "first"):
            entered.set()
            time.sleep(0.3)
            order.append("first is done")

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait()
    with pytest.raises(StoreError, match="Expected to be the only run"):
        with lease(store, "impatient", wait_seconds=0.05):
            raise AssertionError("two holders")
    with lease(store, "patient", wait_seconds=60):
        order.append("patient")
    thread.join()
    assert order == ["first is done", "patient"]


def test_many_at_once_are_one_after_the_other(store, monkeypatch):
    monkeypatch.setattr(lease_module, "LOOK_AGAIN_SECONDS", 0.01)
    start, inside, most = threading.Barrier(6), [], []

    def work(number):
        start.wait()
        with lease(Store(store.uri), f"run {number}", wait_seconds=120):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.01)
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert most == [1] * 6


def test_it_is_renewed_while_its_holder_lives(store):
    with lease(store, "long", ttl_seconds=0.15) as held:
        first = holding_now(store).until
        end = time.monotonic() + 60
        while holding_now(store).until <= first + 0.15 and time.monotonic() < end:
            time.sleep(0.01)
        assert holding_now(store).until > first + 0.15 and holding_now(store).since < first
        held.check()
    version = store.load(LEASE).version()
    time.sleep(0.2)
    assert store.load(LEASE).version() == version, "and no longer"


def test_silence_ends_it_after_the_margin_for_clocks(store):
    write(store, elsewhere(until=time.time() - CLOCK_SECONDS / 2))
    with pytest.raises(StoreError, match="run of 2022-01-01 .process 7 on other. has its lease"):
        with lease(store, "next"):
            raise AssertionError("its clock may be behind ours")
    write(store, elsewhere(until=time.time() - CLOCK_SECONDS - 1))
    assert holding_now(store) is None
    with lease(store, "next"):
        assert holding_now(store).holder.startswith("next")


HOLD = """
import sys, time
from lurm.lease import lease
from lurm.store import Store
with lease(Store(sys.argv[1]), "child"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_holder_on_this_machine_is_taken_over_at_once(store):
    child = subprocess.Popen([sys.executable, "-c", HOLD, store.uri], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "held\n"
        child.send_signal(signal.SIGSTOP)
        with pytest.raises(StoreError, match="child .process"):
            with lease(store, "impatient"):
                raise AssertionError("one that stands still is not dead")
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the list of processes, because nobody has collected it
        with lease(store, "next"):
            assert holding_now(store).holder.startswith("next")
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_a_number_that_another_process_has_now_is_no_holder(store):
    here = lease_module._machine()
    if not here:
        pytest.skip("processes can be told apart on Linux only")
    ours = elsewhere(until=time.time() + 600, machine=here, pid=os.getpid(), started=lease_module._started(os.getpid()))
    assert not ours.is_orphan() and replace(ours, started="1").is_orphan()
    assert not replace(ours, started="1", machine="another boot").is_orphan() and not replace(ours, started="1", machine="").is_orphan()
    write(store, replace(ours, started="1"))
    with lease(store, "next"):
        assert holding_now(store).holder.startswith("next")


def test_a_holder_that_lost_it_writes_nothing_more(store, tmp_path):
    manifest = stage_day(store, "2022-01-01", [rows_of(["a"])])
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "info.json").write_text("{}")
    with lease(store, "slow") as held:
        version = store.commit(Manifest(SEEN_ITEMS.name, "one", (), ({"as_of": "2022-01-01"},)))
        write(store, elsewhere(until=time.time() + 600))  # it slept, and another one took over
        held.renew()
        for forbidden in (
            held.check, lambda: store.commit(manifest), lambda: store.put_artifact("models", "m", tmp_path / "made"),
            lambda: move_release(store, {"as_of": "2022-01-01", "reason": "publish"}), lambda: run_stages(day(store, "2022-01-01"), ["publish"]),
        ):
            with pytest.raises(StoreError, match="Expected to hold the lease of .*run of 2022-01-01 .process 7 on other.*run it again"):
                forbidden()
        assert store.snapshot(SEEN_ITEMS.name).version == version and releases(store) == [] and not store.has_artifact("models", "m")
    assert holding_now(store).token == "0123", "what is another's is not given back"


def test_a_renewal_that_fails_is_tried_again_until_it_is_too_late(store, caplog):
    with lease(store, "one", ttl_seconds=60) as held:
        until = holding_now(store).until
        held._store = Store(store.uri, FaultyObjects(store.uri, 1, FAULTS["fail_before"][0]))  # looked, and then no space left
        held.renew()
        assert "lease: Could not commit to lease" in caplog.text and holding_now(store).until == until
        held.check()
        held.renew()
        assert holding_now(store).until > until
        held._holding = replace(held._holding, until=time.time() - 1)
        held._store = Store(store.uri, FaultyObjects(store.uri, 1, FAULTS["fail_before"][0]))
        with pytest.raises(StoreError, match="it could not be renewed .Could not commit to lease"):
            held.check()


def test_what_could_not_be_given_back_does_not_stand_in_the_way(store, caplog):
    """A full disk at the end of a run: this process knows that it has ended, others wait until it is gone or silent."""
    with lease(store, "one") as held:
        held._store = Store(store.uri, FaultyObjects(store.uri, 1, FAULTS["fail_before"][0]))
    assert "could not give it back" in caplog.text and store.load(LEASE).history(1)[0]["holder"].startswith("one")
    with lease(store, "next"):
        assert holding_now(store).holder.startswith("next")


def test_a_pause_longer_than_the_lease_does_no_harm_if_nobody_came(store):
    with lease(store, "asleep", ttl_seconds=3_600) as held:
        held._holding = replace(held._holding, until=time.time() - 100)
        held.check()
        assert holding_now(store).until > time.time()


def test_its_log_stays_short(store):
    with lease(store, "long", ttl_seconds=3_600) as held:
        for _ in range(120):
            held.renew()
        log = Path(store.root, "tables", LEASE, "_delta_log")
        for file in log.iterdir():
            os.utime(file, (time.time() - 3 * 86_400,) * 2)
        for _ in range(100):
            held.renew()
        assert len(list(log.glob("*.json"))) < 130 and holding_now(store).holder.startswith("long")


def test_a_run_takes_it_and_readers_never_ask(store):
    publish_day(store, "2022-01-01", ["a", "b"])
    publish_day(store, "2022-02-01", ["a", "b", "c"])
    manifest = stage_day(store, "2022-03-01", [rows_of(["a"])])
    with lease(Store(store.uri), "another"):
        with pytest.raises(StoreError, match="Expected to be the only run in .*another .process"):
            run_stages(day(store, "2022-03-01"), ["publish"])
        assert len(open_table(store.uri)) == 3 and len(releases(store)) == 2
        assert rollback(Store(store.uri))["as_of"] == "2022-01-01", "at three in the morning nobody waits"
    reports = run_stages(day(store, "2022-03-01"), ["publish"])
    assert reports["publish"]["users"] == manifest.rows() and holding_now(store) is None and store.lease is None


def test_of_several_processes_of_a_training_the_first_takes_it(store, monkeypatch):
    stage_day(store, "2022-01-01", [rows_of(["a"])])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with lease(Store(store.uri), "rank 0"):
        monkeypatch.setenv("RANK", "1")
        assert run_stages(day(store, "2022-01-01"), ["publish"])["publish"]["released"]
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(StoreError, match="rank 0"):
            run_stages(day(store, "2022-01-01"), ["publish"])
