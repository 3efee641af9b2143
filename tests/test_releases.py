"""The release pointer: every move is a new epoch, a repeat is none, a rollback is a move, and racing movers never share an epoch."""

import threading

import pytest
from published import publish_day

from lurm import open_table
from lurm.errors import MissingInputError, StoreError
from lurm.releases import move_release, released, releases, rollback
from lurm.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "warehouse"))


def row(as_of: str, version: int, run_key: str = "", current: bool = True, reason: str = "publish") -> dict:
    return {
        "as_of": as_of, "model_id": "model-1", "table_version": version, "n_users": 3, "n_anchors": 2, "dim": 3,
        "run_key": run_key or f"run-{as_of}", "audit_digest": "x", "current": current, "reason": reason,
    }


def moved(release: dict, reason: str) -> dict:
    """The row that moves the pointer to where an earlier move had put it."""
    return {**{name: value for name, value in release.items() if name not in ("epoch", "released_at")}, "current": True, "reason": reason}


def test_nothing_released(store):
    assert releases(store) == [] and released(store) is None and released(store, "2022-01-01") is None


def test_epochs_grow_by_one(store):
    moves = [move_release(store, row(f"2022-0{month}-01", month)) for month in (1, 2, 3)]
    assert [move["epoch"] for move in moves] == [1, 2, 3]
    assert [old["epoch"] for old in releases(store)] == [1, 2, 3] and releases(store)[0]["released_at"].tzinfo is not None
    assert released(store)["as_of"] == "2022-03-01"


def test_a_repeated_publish_is_no_move(store):
    first = move_release(store, row("2022-01-01", 1))
    move_release(store, row("2022-02-01", 2))
    again = move_release(store, row("2022-01-01", 2, current=False))  # a repeated commit reports the newest version
    assert again["epoch"] == first["epoch"] and len(releases(store)) == 2
    assert move_release(store, row("2022-01-01", 3, run_key="other", current=False))["epoch"] == 3, "another run is another release"


def test_history_does_not_move_current(store):
    move_release(store, row("2022-03-01", 1))
    move_release(store, row("2022-01-01", 2, current=False))
    assert released(store)["as_of"] == "2022-03-01"
    assert released(store, "2022-02-15")["as_of"] == "2022-01-01", "but it is read by its date"
    assert released(store, "2022-01-01")["table_version"] == 2 and released(store, "2021-12-31") is None


def test_the_newest_move_of_a_date_counts(store):
    move_release(store, row("2022-01-01", 1, run_key="one"))
    move_release(store, row("2022-01-01", 2, run_key="two"))
    assert released(store, "2022-01-01")["run_key"] == released(store)["run_key"] == "two"


def test_rolling_back_and_forth(store):
    first, second = move_release(store, row("2022-01-01", 1)), move_release(store, row("2022-02-01", 2))
    for epoch, target in enumerate((first, second, first, second), start=3):
        assert move_release(store, moved(target, "rollback"))["epoch"] == epoch, "the same rollback again, after moving forward, is a move"
        assert released(store)["as_of"] == target["as_of"]
        assert move_release(store, moved(target, "rollback"))["epoch"] == epoch, "twice in a row is none"
    assert len(releases(store)) == 6


def test_a_repeated_publish_does_not_undo_a_rollback(store):
    first, _ = move_release(store, row("2022-01-01", 1)), move_release(store, row("2022-02-01", 2))
    move_release(store, moved(first, "rollback"))
    move_release(store, row("2022-02-01", 2))
    assert released(store)["as_of"] == "2022-01-01" and len(releases(store)) == 3


def test_a_reader_follows_a_rollback(store):
    publish_day(store, "2022-01-01", ["u1", "u2"])
    before = open_table(store.uri).vectors(["u1"])
    publish_day(store, "2022-02-01", ["u1", "u2", "u3"])
    assert open_table(store.uri).as_of == "2022-02-01"
    move_release(store, moved(releases(store)[0], "rollback"))
    table = open_table(store.uri)
    assert (table.as_of, table.epoch, table.n_users) == ("2022-01-01", 3, 2) and (table.vectors(["u1"]) == before).all()
    assert open_table(store.uri, "2022-02-01").n_users == 3, "the later date is still read by its date"


def test_rollback_goes_to_the_release_before_or_to_an_epoch(store):
    with pytest.raises(MissingInputError, match="it has none"):
        rollback(store)
    move_release(store, row("2022-01-01", 1))
    with pytest.raises(MissingInputError, match="Expected a release before the present one .* its epochs are 1;"):
        rollback(store)
    move_release(store, row("2021-06-01", 2, current=False))  # history filled in: nobody followed it, so nobody goes back to it
    move_release(store, row("2022-02-01", 3))
    back = rollback(store, reason="drift")
    assert (back["as_of"], back["reason"], back["epoch"]) == ("2022-01-01", "drift", 4) and released(store) == back
    assert rollback(store, 3)["as_of"] == "2022-02-01"
    with pytest.raises(MissingInputError, match="Expected epoch 9"):
        rollback(store, 9)


def test_a_reader_follows_a_rollback_within_one_date(store):
    publish_day(store, "2022-01-01", ["u1"], model_id="model-old")
    publish_day(store, "2022-01-01", ["u1", "u2"], model_id="model-new")
    assert open_table(store.uri).model_id == "model-new"
    move_release(store, moved(releases(store)[0], "rollback"))
    assert open_table(store.uri).model_id == "model-old" and open_table(store.uri, "2022-01-01").model_id == "model-old"


def test_racing_movers_get_distinct_epochs(store):
    move_release(store, row("2022-01-01", 1))
    start, got, failures = threading.Barrier(5), [], []

    def move(number):
        start.wait()
        try:
            got.append(move_release(Store(store.uri), row(f"2022-02-0{number}", number + 1))["epoch"])
        except StoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=move, args=(number,)) for number in range(1, 6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert failures == [] and sorted(got) == [2, 3, 4, 5, 6]
    assert [old["epoch"] for old in releases(store)] == [1, 2, 3, 4, 5, 6]
