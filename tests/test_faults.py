"""Publishing under faults: any operation of a publication fails, in every way, and nothing goes wrong.

The operations are counted in an undisturbed run; then, for every third of them (`make test-long`: each) and each kind of fault, the run is disturbed
there and looked at with a reader's eyes, before and after it is run again. What must hold: a reader sees the version before or the one after, never a
mixture; no run commits twice; nothing that a release needs is gone; running again ends where the undisturbed run ended, byte for byte.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults import FAULTS, WRITES, Crash, FaultyObjects, Publication, Versions, committed_keys, die_after
from small_pipeline import content
from thinned import WALKS, stops

from lurm.errors import LurmError
from lurm.releases import releases, rollback
from lurm.schema import USER_EMBEDDINGS
from lurm.store import Store

pytestmark = pytest.mark.slow
USERS = ("a", "b", "c", "d", "e")
JANUARY = Publication("2022-01-01", "january0", USERS[:3])
FEBRUARY = Publication("2022-02-01", "february", USERS)
LATE = Publication("2022-02-01", "february2", USERS[1:])  # the same date once more: late events have come
DECEMBER = Publication("2021-12-01", "december", USERS[2:])
ALL = (JANUARY, FEBRUARY, LATE, DECEMBER)


@dataclass(frozen=True)
class Case:
    """What is there before, what is done, and what readers of the current release and of its date see before and after."""

    before: tuple[Publication, ...]
    act: Callable[[Store], object]
    as_of: str
    current: tuple[str | None, str]
    dated: tuple[str | None, str]


def roll_back(store: Store):
    """Back to the release before February; once that is done, again is nothing."""
    return rollback(store, epoch=1, reason="drift")


CASES = {
    "first": Case((), JANUARY.publish, "2022-01-01", (None, "january0"), (None, "january0")),
    "next date": Case((JANUARY,), FEBRUARY.publish, "2022-02-01", ("january0", "february"), ("january0", "february")),
    "same date": Case((JANUARY, FEBRUARY), LATE.publish, "2022-02-01", ("february", "february2"), ("february", "february2")),
    "history": Case((JANUARY, FEBRUARY), DECEMBER.publish, "2021-12-15", ("february", "february"), (None, "december")),
    "rollback": Case((JANUARY, FEBRUARY), roll_back, "2022-01-15", ("february", "january0"), ("january0", "january0")),
}


@pytest.fixture
def versions():
    known = Versions()
    known.add(*ALL)
    return known


def moves(store: Store) -> list[dict]:
    """All moves without the instants."""
    return [{name: value for name, value in move.items() if name != "released_at"} for move in releases(store)]


@pytest.mark.parametrize("step", WALKS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", CASES)
def test_a_fault_at_any_operation(tmp_path, versions, name, fault, step):
    case = CASES[name]
    start = Store(str(tmp_path / "start"))
    Path(start.root).mkdir()
    for publication in case.before:
        publication.publish(start)
    calm = copy_of(start, tmp_path / "calm", FaultyObjects)
    case.act(calm)
    trace, tables, pointer = list(calm.objects.trace), content(calm, USER_EMBEDDINGS.name), moves(calm)
    assert sum(operation in WRITES for operation in trace) >= (2 if name == "rollback" else 6), "staged, listed, audited, committed, released"

    outcomes, (make_fault, where) = [], FAULTS[fault]
    where = where if name in ("next date", "rollback") or fault != "fail_before" else WRITES  # a read that fails is the same everywhere
    numbers = [number for number, operation in enumerate(trace) if operation in where]
    numbers = stops(numbers, step, list(FAULTS).index(fault) + list(CASES).index(name))
    for number in numbers:
        store = copy_of(start, tmp_path / f"at{number}", lambda uri, number=number: FaultyObjects(uri, number, make_fault))
        try:
            case.act(store)
            outcomes.append("went on")
        except Crash:
            outcomes.append("crashed")
        except LurmError as error:
            assert str(error).endswith(".") and "\n" not in str(error), f"no sentence: {error}"
            outcomes.append("said so")
        assert store.objects.trace[: number + 1] == trace[: number + 1], "the run that is disturbed is the one that was counted"
        again = Store(store.uri)
        assert versions.seen(again.uri) in case.current and versions.seen(again.uri, case.as_of) in case.dated, f"{fault} at {number}"
        versions.check(again)

        case.act(again)
        assert (versions.seen(again.uri), versions.seen(again.uri, case.as_of)) == (case.current[1], case.dated[1]), f"{fault} at {number}"
        versions.check(again)
        assert content(again, USER_EMBEDDINGS.name) == tables and moves(again) == pointer, f"{fault} at {number}"
        shutil.rmtree(again.root)
    assert len(outcomes) == len(numbers) >= (2 if step == 1 else 1)
    if fault.startswith("die"):
        assert set(outcomes) == {"crashed"}


def copy_of(store: Store, folder: Path, objects: Callable) -> Store:
    shutil.copytree(store.root, folder)
    return Store(str(folder), objects(str(folder)))


@pytest.mark.parametrize("step", WALKS)
@pytest.mark.parametrize(("one", "other"), [(FEBRUARY, FEBRUARY), (FEBRUARY, LATE), (FEBRUARY, DECEMBER), (DECEMBER, FEBRUARY)],
                         ids=["the same run", "the same date", "an older date", "a newer date"])
def test_another_process_publishes_between_any_two_operations(tmp_path, versions, one, other, step):
    """Two attempts of one task, or two runs that should not have met: the second does all its work between two operations of the first."""
    start = Store(str(tmp_path / "start"))
    JANUARY.publish(start)
    calm = copy_of(start, tmp_path / "calm", FaultyObjects)
    one.publish(calm)
    numbers = [number for number, operation in enumerate(calm.objects.trace) if operation in (*WRITES, "open_table")]
    for number in stops(numbers, step, ALL.index(one) + ALL.index(other)):
        folder = tmp_path / f"at{number}"

        def cut_in(name, operation, stale, folder=folder):
            other.publish(Store(str(folder)))
            return operation()

        store = copy_of(start, folder, lambda uri: FaultyObjects(uri, number, cut_in))  # noqa: B023, called at once
        one.publish(store)
        versions.check(store)
        expected = sorted({"january0", one.key, other.key})
        assert sorted(committed_keys(store)) == expected and sorted(move["run_key"] for move in releases(store)) == expected
        dates = {one.as_of: {one.key, other.key}} if one.as_of == other.as_of else {one.as_of: {one.key}, other.as_of: {other.key}}
        for as_of, keys in dates.items():
            assert versions.seen(store.uri, as_of) in keys
        assert versions.seen(store.uri) in dates["2022-02-01"], "history that comes late never becomes current"
        shutil.rmtree(folder)


def test_the_faults_are_real(tmp_path, versions):
    """What the walk looks for is seen when it is there: a released file that is gone, rows of two versions, a crash."""
    gone = Store(str(tmp_path / "gone"))
    JANUARY.publish(gone)
    for file in gone.snapshot(USER_EMBEDDINGS.name).uris():
        gone.objects.delete(file)
    with pytest.raises(LurmError, match="Expected a whole Parquet file"):
        versions.seen(gone.uri)
    with pytest.raises(AssertionError):
        versions.check(gone)

    store = Store(str(tmp_path / "mixed"))
    JANUARY.publish(store)
    mixed = Publication("2022-01-01", "january0", USERS[:2])
    mixed.publish(store)
    with pytest.raises(AssertionError):
        versions.seen(store.uri)
    with pytest.raises(Crash):
        JANUARY.publish(Store(str(tmp_path / "crash"), FaultyObjects(str(tmp_path / "crash"), 0, die_after)))
