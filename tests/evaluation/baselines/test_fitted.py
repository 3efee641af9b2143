"""Things are made once per content, whatever tables they came in."""

import dataclasses

import pyarrow as pa
import pytest

from lurm.evaluation.baselines.fitted import KEPT_HISTORIES, fitted, forget, history_key


@pytest.fixture(autouse=True)
def empty():
    forget()
    yield
    forget()


def test_equal_content_has_one_key_however_it_is_cut(tiny):
    history = tiny.history
    pieces = pa.concat_tables([history.events.slice(0, 7), history.events.slice(7)])
    assert history_key(dataclasses.replace(history, events=pieces)) == history_key(history)
    assert history_key(dataclasses.replace(history, events=history.events.slice(1))) != history_key(history)
    assert history_key(dataclasses.replace(history, as_of="2021-02-01")) != history_key(history)


def test_things_are_made_once_and_the_oldest_history_is_forgotten(tiny):
    made = []
    histories = [dataclasses.replace(tiny.history, as_of=f"2021-0{month}-01") for month in range(1, KEPT_HISTORIES + 2)]

    def ask(history, key="thing"):
        return fitted(history, key, lambda: made.append(key) or len(made))

    assert ask(histories[0]) == ask(histories[0]) == 1
    assert ask(histories[0], "other") == 2
    for history in histories[1:]:
        ask(history)
    assert ask(histories[-1]) == 4 and ask(histories[0]) == 5
