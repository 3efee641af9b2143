"""One run at a time in a warehouse: a lease that its holder renews, and that nobody holds for ever.

In: a store and the name of who asks. Out: a `with` block during which no other run has the lease; readers, `status`, `releases` and
`rollback` never ask for it. The lease is a Delta log without data (`tables/lease`): every change is one commit on top of the one before,
accepted only if nobody was faster, and says in its metadata who holds the lease until when. It works wherever commits work.

The lease ends when its holder leaves the block, when its holder's process is seen to be gone (from the same machine only), or when it
was not renewed for `ttl_seconds`. Clocks: `valid until` is compared across machines, whose clocks are assumed to agree to CLOCK_SECONDS;
if they do not, two runs may work side by side until the first one's next look. What a lease saves is work and confusion. That no table
is ever a mixture does not hang on it, but on compare-and-set of the commits themselves.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pyarrow as pa

from lurm.errors import StoreError
from lurm.objects import LEASE
from lurm.schema import Table
from lurm.store import Store

log = logging.getLogger("lurm")
TABLE = Table(LEASE, pa.schema([("holder", pa.string())]), (), (), "who may write now; its log alone says so")
TTL_SECONDS = 120.0
CLOCK_SECONDS = 10.0
LOOK_AGAIN_SECONDS = 1.0
_ended: set[str] = set()  # tokens of this process that could not be given back, because the disk was full for example


@dataclass(frozen=True)
class Holding:
    """What the newest commit says: who holds the lease, in which process, and until when (seconds since 1970)."""

    token: str  # names one holding, so that a holder never mistakes another's for its own
    holder: str
    machine: str  # empty where processes cannot be told apart for sure
    pid: int
    started: str  # when the process started: its number may be given to another
    since: float
    until: float

    def __str__(self) -> str:
        return f"{self.holder} has its lease since {_clock(self.since)} and until {_clock(self.until)}"

    def is_over(self, now: float) -> bool:
        return now > self.until + CLOCK_SECONDS or self.token in _ended or self.is_orphan()

    def is_orphan(self) -> bool:
        """Whether the holder's process ran on this machine and is gone."""
        if not self.machine or self.machine != _machine():
            return False
        started = _started(self.pid)
        return started is None or started not in ("", self.started)


class Lease:
    """A lease that this process holds; `check` raises StoreError once it is lost."""

    def __init__(self, store: Store, holding: Holding, ttl_seconds: float):
        self._store, self._holding, self._ttl = store, holding, ttl_seconds
        self._lost: str | None = None
        self._one_at_a_time, self._finished = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._renew_for_ever, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """What a holder asks before it commits. After a pause longer than the lease (a laptop asleep) it is renewed here, or lost."""
        if self._lost is None and time.time() > self._holding.until:
            self.renew()
        if self._lost is not None:
            raise StoreError(f"Expected to hold the lease of {self._store.uri}, {self._lost}; this run stops before its next commit, run it "
                             "again when the other one has ended.")

    def renew(self) -> None:
        """Move `until` on, unless another holder is found."""
        with self._one_at_a_time:
            if self._lost is not None or self._finished.is_set():
                return
            now = time.time()
            renewed = replace(self._holding, until=now + self._ttl)
            try:
                while self._holding is not renewed and self._lost is None:  # again only if somebody wrote in between
                    delta = self._store.load(LEASE)
                    found = _read(delta)
                    if found is None or found.token != self._holding.token:
                        self._lost = str(found) if found else "nobody has it any more"
                    elif self._store.commit_on(delta, TABLE, [], _metadata(renewed)) is not None:
                        self._holding = renewed
            except StoreError as error:  # a full disk, a lost connection: tried again until it is too late
                if now > self._holding.until:
                    self._lost = f"it could not be renewed ({error})"
                else:
                    log.warning("lease: %s", error)

    def give_back(self) -> None:
        self._finished.set()
        with self._one_at_a_time:
            if self._lost is None:
                try:
                    delta = self._store.load(LEASE)
                    found = _read(delta)
                    if found is not None and found.token == self._holding.token:
                        self._store.commit_on(delta, TABLE, [], {})
                except StoreError as error:  # what the run did counts; for others the lease ends with this process, or runs out
                    _ended.add(self._holding.token)
                    log.warning("lease: could not give it back (%s)", error)
        self._thread.join()

    def _renew_for_ever(self) -> None:
        while not self._finished.wait(self._ttl / 3):
            self.renew()


@contextmanager
def lease(store: Store, holder: str, wait_seconds: float = 0.0, ttl_seconds: float = TTL_SECONDS) -> Iterator[Lease]:
    """Hold the warehouse's lease during a block; commits of `store` then refuse once it is lost. Within a block of its own it is that block's.

    Raises StoreError if another run holds it, and still does after `wait_seconds`.
    """
    if store.lease is not None:
        yield store.lease
        return
    holding = _take(store, f"{holder} (process {os.getpid()} on {socket.gethostname()})", wait_seconds, ttl_seconds)
    store.lease = Lease(store, holding, ttl_seconds)
    try:
        yield store.lease
    finally:
        held, store.lease = store.lease, None
        held.give_back()


def holding_now(store: Store) -> Holding | None:
    """Who has the lease, None if it is free; looking needs no right to write."""
    found = _read(store.load(LEASE))
    return None if found is None or found.is_over(time.time()) else found


def _take(store: Store, holder: str, wait_seconds: float, ttl_seconds: float) -> Holding:
    end = time.monotonic() + wait_seconds
    while True:
        delta = store.load(LEASE) or store.create(TABLE)
        found, now = _read(delta), time.time()
        if found is None or found.is_over(now):
            mine = Holding(uuid.uuid4().hex, holder, _machine(), os.getpid(), _started(os.getpid()) or "", now, now + ttl_seconds)
            if store.commit_on(delta, TABLE, [], _metadata(mine)) is not None:
                if found is not None:
                    log.warning("lease: %s, and is gone; this run takes over", found)
                return mine
        elif time.monotonic() >= end:
            raise StoreError(f"Expected to be the only run in {store.uri}, {found}; wait for it, or let this one wait with --wait SECONDS.")
        else:
            time.sleep(min(LOOK_AGAIN_SECONDS, max(0.0, end - time.monotonic())))


def _metadata(holding: Holding) -> dict[str, str]:
    return {name: str(value) for name, value in vars(holding).items()}


def _read(delta) -> Holding | None:
    """The holding that the newest commit of the log names, None if there is no log or the lease was given back."""
    told = delta.history(1)[0] if delta is not None else {}
    if "token" not in told:
        return None
    plain = {name: told[name] for name in ("token", "holder", "machine", "started")}
    return Holding(**plain, pid=int(told["pid"]), since=float(told["since"]), until=float(told["until"]))


def _machine() -> str:
    """Names the running kernel and the space of process numbers in it, which containers do not share; empty where Linux's /proc is missing."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process started, in ticks since boot; None if it is gone or dead already, empty where nobody may know."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # somebody else's process: it is there
        pass
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return None if fields[0] in "ZX" else fields[19]


def _clock(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
