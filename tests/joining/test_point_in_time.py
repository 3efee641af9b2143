"""Which release an instant gets: two clocks, rollbacks, models of the future, and equality with a slow loop on random histories."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moments import at, micros, slow_choice

from lurm.errors import ConfigError
from lurm.joining.point_in_time import EVENT, NONE, PUBLICATION, instant, midnight, opened, timeline, visible, withdrawals


def history_of(*moves) -> list[dict]:
    """Rows of releases from (as_of, released_at[, model[, trained[, current]]])."""
    rows = []
    for as_of, released_at, *more in moves:
        model, trained, current = [*more, *("A", None, True)[len(more):]]
        rows.append({"epoch": len(rows) + 1, "as_of": as_of, "model_id": model, "released_at": at(released_at), "current": current,
                     "trained_as_of": trained})
    return rows


def chosen(history, moment: str, clock=EVENT, newest=None, **options) -> int | None:
    """Epoch that an instant gets."""
    steps = timeline(history, newest or history[-1], clock, **options)
    (place,) = steps.at(np.array([micros(at(moment))]))
    return None if place == NONE else steps.releases[place]["epoch"]


MONTHLY = history_of(("2022-01-01", "2022-01-03"), ("2022-02-01", "2022-02-03"), ("2022-03-01", "2022-03-03"))


def test_event_time_begins_at_midnight_and_publication_time_at_the_move():
    assert chosen(MONTHLY, "2021-12-31T23:59:59.999999") is None
    assert chosen(MONTHLY, "2022-01-01T00:00:00") == 1 and chosen(MONTHLY, "2022-01-31T23:59:59.999999") == 1
    assert chosen(MONTHLY, "2022-02-01T00:00:00") == 2 and chosen(MONTHLY, "2099-01-01") == 3
    assert chosen(MONTHLY, "2022-01-02T23:59:59.999999", PUBLICATION) is None and chosen(MONTHLY, "2022-01-03", PUBLICATION) == 1
    assert chosen(MONTHLY, "2022-02-02", PUBLICATION) == 1 and chosen(MONTHLY, "2022-02-03", PUBLICATION) == 2


def test_nothing_newer_than_what_was_opened():
    assert chosen(MONTHLY, "2022-05-01", newest=MONTHLY[1]) == 2


def test_a_rollback_takes_back_in_event_time_for_good_and_in_publication_time_from_then_on():
    history = history_of(("2022-01-01", "2022-01-03"), ("2022-02-01", "2022-02-03"), ("2022-01-01", "2022-02-10"), ("2022-03-01", "2022-03-03"))
    assert withdrawals(history) == {2: history[2]}
    assert chosen(history, "2022-02-15") == 3 and chosen(history, "2022-02-05") == 3, "epoch 3 is the same table as epoch 1"
    assert chosen(history, "2022-02-05", PUBLICATION) == 2 and chosen(history, "2022-02-10", PUBLICATION) == 3
    assert chosen(history, "2022-03-02", PUBLICATION) == 3 and chosen(history, "2022-03-03", PUBLICATION) == 4
    assert chosen(history, "2022-02-15", newest=history[1]) == 2, "who opens what was taken back has chosen it"
    forward = [*history[:3], *history_of(("2022-02-01", "2022-02-20"))]
    forward[-1]["epoch"] = 4
    assert chosen(forward, "2022-02-15") == 4, "rolled forward again"


def test_history_that_was_filled_in_counts_in_event_time_and_wakes_nobody():
    history = history_of(("2022-01-01", "2022-01-03"), ("2022-03-01", "2022-03-03"), ("2022-02-01", "2022-03-05", "A", None, False))
    assert chosen(history, "2022-02-15", newest=history[1]) == 3
    assert chosen(history, "2022-02-15", PUBLICATION, newest=history[1]) == 1 and chosen(history, "2022-03-06", PUBLICATION, newest=history[1]) == 2


def test_a_model_that_has_seen_the_future_is_passed_over():
    history = history_of(("2022-01-01", "2022-01-03", "A", "2022-01-01"), ("2022-03-01", "2022-03-03", "A", "2022-01-01"),
                         ("2022-01-01", "2022-03-04", "B", "2022-03-01", False), ("2022-02-01", "2022-03-04", "B", "2022-03-01", False))
    assert chosen(history, "2022-02-15", newest=history[1]) == 1, "the only one that knows nothing of the time after"
    assert chosen(history, "2022-02-15", newest=history[1], allow_future_model=True) == 4
    assert chosen(history, "2022-02-15", newest=history[1], model="B") is None
    assert chosen(history, "2022-03-01", newest=history[1], model="B") == 4, "trained on events before that midnight, none later"


def test_clocks_of_publishers_may_differ():
    history = history_of(("2022-01-01", "2022-01-03"), ("2022-02-01", "2022-02-05"), ("2022-03-01", "2022-02-04"))
    assert [row["epoch"] for row in visible(history, at("2022-02-04"))] == [1], "a move is not visible before those that it stands on"
    assert [row["epoch"] for row in visible(history, at("2022-02-05"))] == [1, 2, 3] and len(visible(history, None)) == 3


def test_what_a_reader_opens():
    history = history_of(("2022-01-01", "2022-01-03"), ("2022-02-01", "2022-02-03", "B"), ("2022-01-01", "2022-02-10"))
    assert opened(history)["epoch"] == 3 and opened(history, "2022-02-01")["epoch"] == 2 and opened(history, "2021-01-01") is None
    assert opened(history, model="A")["epoch"] == 3 and opened(history, model="B") is None and opened(history, "2022-05-01", "B")["epoch"] == 2
    assert opened([]) is None
    later = [*history, {**history[0], "epoch": 4, "as_of": "2022-03-01", "model_id": "B"}]
    assert opened(later)["epoch"] == 4 and opened(later, model="A")["epoch"] == 3, "the pointer has gone on to another model"


MOMENTS = [str(date(2022, 1, 1) + timedelta(days=number)) for number in range(12)]


MOVE = st.tuples(st.sampled_from(MOMENTS), st.integers(0, 14), st.sampled_from("AB"), st.sampled_from([None, *MOMENTS]))


@given(moves=st.lists(MOVE, min_size=1, max_size=9),
       clock=st.sampled_from([EVENT, PUBLICATION]), allowed=st.booleans(), hours=st.integers(-30, 400))
def test_it_equals_a_slow_loop(moves, clock, allowed, hours):
    """Random histories: a move goes back (a rollback), forward, or fills in an older date."""
    history, day = [], at("2022-01-01")
    for number, (as_of, wait, model, trained) in enumerate(moves):
        day += timedelta(hours=wait)
        pointer = next((row for row in reversed(history) if row["current"]), None)
        history.append({"epoch": number + 1, "as_of": as_of, "model_id": model, "released_at": day, "trained_as_of": trained,
                        "current": pointer is None or as_of >= pointer["as_of"] or wait % 2 == 0})
    newest = opened(history)
    moment = at("2022-01-01") + timedelta(hours=hours)
    expected = slow_choice(history, newest, moment, clock, allowed)
    steps = timeline(history, newest, clock, allowed)
    (place,) = steps.at(np.array([micros(moment)]))
    assert (None if place == NONE else steps.releases[place]["epoch"]) == (expected and expected["epoch"])


def test_a_publication_join_is_what_a_reader_of_that_moment_opened():
    """Among histories as publish makes them: the pointer of a moment, and the step function, agree."""
    history = history_of(("2022-01-01", "2022-01-01"), ("2022-01-05", "2022-01-05"), ("2022-01-03", "2022-01-06", "A", None, False),
                         ("2022-01-01", "2022-01-07"), ("2022-01-09", "2022-01-09"), ("2022-01-05", "2022-01-10"), ("2022-01-12", "2022-01-12"))
    for hour in range(0, 24 * 14, 5):
        moment = at("2022-01-01") + timedelta(hours=hour)
        assert chosen(history, moment.replace(tzinfo=None).isoformat(), PUBLICATION) == opened(visible(history, moment))["epoch"]


def test_moments():
    assert instant("2022-01-01") == instant(date(2022, 1, 1)) == instant(datetime(2022, 1, 1)) == at("2022-01-01")
    assert instant("2022-01-01T02:00:00+02:00") == at("2022-01-01") and instant("2022-01-01T00:00:00Z").tzinfo == UTC
    for wrong in ("yesterday", 7):
        with pytest.raises(ConfigError, match="Expected a moment such as"):
            instant(wrong)
    assert midnight("1970-01-02") == 86_400_000_000


def test_ten_years_of_days_are_quick():
    history = history_of(*((str(date(2010, 1, 1) + timedelta(days=number)),) * 2 for number in range(3_650)))
    steps = timeline(history, history[-1], PUBLICATION)
    assert len(steps.starts) == 3_650 and steps.at(np.array([midnight("2015-06-01")]))[0] == (date(2015, 6, 1) - date(2010, 1, 1)).days
