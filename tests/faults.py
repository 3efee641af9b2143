"""An object store that fails where a test wants it: any single operation, before or after it took effect, or with an old answer.

`Versions` makes publications whose vectors say which version they are from, and reads a warehouse as any reader would: what it sees is
exactly one of them, or the test fails.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from deltalake.exceptions import CommitFailedError
from published import MODEL, day, rows_of, stage_day, vector

from lurm import open_table, publication
from lurm.errors import MissingInputError
from lurm.objects import Objects
from lurm.releases import releases
from lurm.schema import USER_EMBEDDINGS
from lurm.store import Store

OPERATIONS = ("sizes", "read_bytes", "write_bytes", "list_files", "delete", "open_table", "create_table", "describe", "commit")
WRITES = ("write_bytes", "delete", "create_table", "describe", "commit")


class Crash(BaseException):
    """The end of the process: not an Exception, so that nothing between here and the test can catch it."""


def die_before(name: str, operation: Callable, stale: Callable):
    raise Crash


def die_after(name: str, operation: Callable, stale: Callable):
    operation()
    raise Crash


def fail_before(name: str, operation: Callable, stale: Callable):
    raise OSError(errno.EIO, "the disk said no")


def fail_after(name: str, operation: Callable, stale: Callable):
    """It took effect, and the answer was lost."""
    operation()
    raise OSError(errno.ETIMEDOUT, "no answer")


def done_twice(name: str, operation: Callable, stale: Callable):
    """A client that got no answer tried again by itself: the second try of a commit finds its own first one in the way."""
    first = operation()
    try:
        second = operation()
    except CommitFailedError:
        raise CommitFailedError("version exists already") from None
    return second if first is None else first


def old_answer(name: str, operation: Callable, stale: Callable):
    """What a listing that lags behind says."""
    return stale()


# Each fault with the operations it can make a difference to: dying around a read is dying before the write that follows.
READS, LISTINGS = ("sizes", "read_bytes", "list_files", "open_table"), ("sizes", "list_files", "open_table")
FAULTS = {
    "die_before": (die_before, WRITES), "die_after": (die_after, WRITES), "fail_before": (fail_before, (*READS, *WRITES)),
    "fail_after": (fail_after, WRITES), "done_twice": (done_twice, WRITES), "old_answer": (old_answer, LISTINGS),
}


class FaultyObjects(Objects):
    """Does what the real one does, keeps a list of it, and lets `fault` have the operation number `at` (counted from 0)."""

    def __init__(self, uri: str, at: int = -1, fault: Callable | None = None):
        super().__init__(uri)
        self.at, self.fault = at, fault
        self.trace: list[str] = []

    def _stale(self, name: str, arguments: tuple):
        if name == "sizes":
            return [None] * len(arguments[0])
        if name == "list_files":
            return []
        newest = Objects.open_table(self, *arguments)
        if len(arguments) > 1 and arguments[1] is not None or newest is None:
            return newest  # a version that is asked for by its number cannot be an older one
        return Objects.open_table(self, arguments[0], newest.version() - 1) if newest.version() else None


def _counted(name: str) -> Callable:
    real = getattr(Objects, name)

    def operation(self, *arguments, **more):
        number = len(self.trace)
        self.trace.append(name)
        if number != self.at:
            return real(self, *arguments, **more)
        return self.fault(name, lambda: real(self, *arguments, **more), lambda: self._stale(name, arguments))

    return operation


for _name in OPERATIONS:
    setattr(FaultyObjects, _name, _counted(_name))


@dataclass(frozen=True)
class Publication:
    """A version that can be told from every other by any of its vectors."""

    as_of: str
    key: str
    users: tuple[str, ...]
    n_files: int = 2
    model_id: str = MODEL

    @property
    def tag(self) -> str:
        return f"{self.as_of} {self.key}"

    def vectors(self) -> np.ndarray:
        return np.stack([vector(user, self.tag) for user in self.users])

    def stage(self, store: Store) -> None:
        """Leave what embed-users leaves: files and their manifest."""
        step = -(-len(self.users) // self.n_files)
        parts = [rows_of(list(self.users[start : start + step]), self.tag) for start in range(0, len(self.users), step)]
        stage_day(store, self.as_of, parts, self.key, self.model_id)

    def publish(self, store: Store) -> dict:
        """Stage, write the manifest, audit, commit, release."""
        self.stage(store)
        return publication.run(day(store, self.as_of, self.key))


@dataclass
class Versions:
    """All publications that a warehouse may show."""

    known: dict[str, Publication] = field(default_factory=dict)

    def add(self, *publications: Publication) -> None:
        self.known |= {publication.key: publication for publication in publications}

    def seen(self, uri: str, as_of: str | None = None) -> str | None:
        """Key of the one publication that a reader sees, whole; None before the first release."""
        try:
            table = open_table(uri, as_of)
        except MissingInputError:
            return None
        rows = [row for batch in table.scan(["user_id", "embedding"]) for row in batch.to_pylist()]
        rows.sort(key=lambda row: row["user_id"])
        users, vectors = tuple(row["user_id"] for row in rows), np.array([row["embedding"] for row in rows], np.float32)
        whole = [key for key, one in self.known.items() if one.users == users and np.array_equal(one.vectors(), vectors)]
        assert len(whole) == 1, f"a reader saw {len(rows)} rows that are no publication"
        assert (table.as_of, table.n_users) == (self.known[whole[0]].as_of, len(users))
        return whole[0]

    def check(self, store: Store) -> None:
        """Every epoch that was ever released is still there, whole; every run committed at most once, and moved the pointer at most once."""
        moves = releases(store)
        assert [move["epoch"] for move in moves] == list(range(1, len(moves) + 1))
        for move in moves:
            one = self.known[move["run_key"]]
            snapshot = store.snapshot(USER_EMBEDDINGS.name, move["table_version"]).where(as_of=one.as_of, model_id=one.model_id)
            assert snapshot.run_keys() == {one.key} and snapshot.rows() == len(one.users)
            assert store.objects.sizes(snapshot.uris()) == [file.size for file in snapshot.files]
        published = [move["run_key"] for move in moves if move["reason"] == "publish"]
        assert len(published) == len(set(published))
        keys = committed_keys(store)
        assert len(keys) == len(set(keys)), f"committed more than once: {keys}"


def committed_keys(store: Store) -> list[str]:
    """Run keys of the commits of user_embeddings, newest first."""
    delta = store.load(USER_EMBEDDINGS.name)
    return [entry["run_key"] for entry in delta.history() if "run_key" in entry] if delta is not None else []
