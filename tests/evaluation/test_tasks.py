"""Tasks: categories by the rule, attributes, activity and new interests, each worked out by hand on a few events."""

import numpy as np
import pyarrow as pa
import pytest
from small_evaluation import settings, tables

from lurm.errors import InputError
from lurm.evaluation.dataset import Dataset, _catalogue, make_dataset, micros
from lurm.evaluation.evaluation_settings import TaskSettings
from lurm.evaluation.tasks import NONE, make_tasks, window_of


def dataset_of(past: list[tuple[str, str]], future: list[tuple[str, str, str]], users: int = 8, categories=None) -> Dataset:
    """Users a, b, c, ...; items tea, tools, toys of one category each; past events (user, item), future ones (user, item, day)."""
    names = [chr(97 + number) for number in range(users)]
    categories = categories or {"tea": ["drinks", "hot"], "tools": ["house", "iron"], "toys": ["house", "wood"]}
    rows = [(user, "tea", "2020-01-01") for user in names] + [(user, item, "2020-06-01") for user, item in past] + future
    events = pa.table({"user_id": [row[0] for row in rows], "item_id": [row[1] for row in rows],
                       "timestamp": pa.array([micros(row[2]) for row in rows]).cast(pa.timestamp("us"))})
    items = pa.table({"item_id": list(categories), "title": [f"Fine {name}" for name in categories], "category": list(categories.values())})
    attributes = pa.table({"user_id": names, "colour": [["red", "blue", "green "][number % 3] for number in range(users)]})
    return make_dataset(settings(min_events=1), events, _catalogue(items), attributes)


def test_categories_nearest_to_the_rate_are_asked_about():
    future = [(user, "tea", "2021-01-05") for user in "abcdef"] + [(user, "tools", "2021-02-01") for user in "abc"] + [("h", "toys", "2021-02-01")]
    dataset = dataset_of([], future)
    asked = TaskSettings("category", count=2, rate=0.4, lowest=0.2, highest=0.8, level=1, window_days=60)
    tasks, notes = make_tasks(dataset, (asked,), 1)
    assert [task.name for task in tasks] == ["buys: iron", "buys: hot"] and tasks[0].group == "future", "3/8 is nearer than 6/8, 1/8 too few"
    assert tasks[0].labels.tolist() == [1, 1, 1, 0, 0, 0, 0, 0] and tasks[0].truth[0].tolist() == [False, True]
    top, notes = make_tasks(dataset, (TaskSettings("category", count=3, lowest=0.1, highest=0.8, window_days=60),), 1)
    assert [(task.name, task.labels.sum()) for task in top] == [("buys: house", 4), ("buys: drinks", 6)], "4/8 is nearer to 0.3 than 6/8"
    assert notes == ["buys: 2 categories instead of 3 are touched by 10% to 80% of the users"]
    assert [task.name for task in make_tasks(dataset, (TaskSettings("category", exclude=("house",), highest=0.8),), 1)[0]] == ["buys: drinks"]


def test_the_window_is_half_open_and_begins_after_the_gap():
    days = {"a": "2021-01-01", "b": "2021-01-10", "c": "2021-01-11", "d": "2021-01-30", "e": "2021-01-31"}
    dataset = dataset_of([], [(user, "tools", day) for user, day in days.items()])
    asked = TaskSettings("category", gap_days=10, window_days=20, lowest=0.1)
    assert [micros(day) for day in ("2021-01-11", "2021-01-31")] == list(window_of(dataset, asked))
    (task,), _ = make_tasks(dataset, (asked,), 1)
    assert task.labels.tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    (active,), _ = make_tasks(dataset, (TaskSettings("activity", window_days=10),), 1)
    assert active.labels.tolist() == [1, 1, 0, 0, 0, 0, 0, 0] and active.classes == ("no", "yes")
    later = [("a", "tea", "2021-01-02"), ("b", "tea", "2021-01-02"), *[(user, "tools", "2021-01-02") for user in "cdef"]]
    (busy,), _ = make_tasks(dataset_of([], later), (TaskSettings("category", among_active=True, lowest=0.6, highest=0.7),), 1)
    assert busy.rows.tolist() == [0, 1, 2, 3, 4, 5] and busy.name == "buys: house"


def test_words_and_items_stand_in_for_categories():
    dataset = dataset_of([], [(user, "tools", "2021-01-02") for user in "abc"] + [(user, "toys", "2021-01-02") for user in "cdf"])
    words, _ = make_tasks(dataset, (TaskSettings("category", name="word", source="word", count=9, exclude=("fine",)),), 1)
    assert [task.name for task in words] == ["word: tools", "word: toys"] and words[1].labels.tolist() == [0, 0, 1, 1, 0, 1, 0, 0]
    items, _ = make_tasks(dataset, (TaskSettings("category", name="item", source="item", count=1),), 1)
    assert items[0].name == "item: tools Fine tools"


def test_attributes_of_two_and_of_many_classes():
    dataset = dataset_of([], [], users=12)
    (colour,), notes = make_tasks(dataset, (TaskSettings("attribute", column="colour", smallest=2),), 1)
    assert colour.classes == ("blue", "green", "red") and colour.labels.tolist() == [2, 0, 1] * 4 and colour.scored == [0, 1, 2] and not notes
    warm = TaskSettings("attribute", name="warm", column="colour", positive=("red",), drop=("green",))
    (task,), _ = make_tasks(dataset, (warm,), 1)
    assert task.rows.tolist() == [0, 1, 3, 4, 6, 7, 9, 10] and task.labels.tolist() == [1, 0] * 4 and task.scored == [1]
    red = TaskSettings("attribute", column="colour", name="x", positive=("red",))
    few, notes = make_tasks(dataset, (TaskSettings("attribute", column="colour", smallest=5), red), 2)
    assert [task.name for task in few] == ["x"] and notes == [
        "colour: 3 classes with fewer than 5 users are left out", "colour is left out: its smallest class has 0 users, 4 are needed for 2 folds",
    ]


def test_the_next_new_interest_is_the_first_that_was_never_touched():
    past = [("a", "tools")]
    future = [("a", "tools", "2021-01-02"), ("a", "toys", "2021-01-03"),  # tools are not new to a
              ("b", "toys", "2021-01-05"), ("b", "tools", "2021-01-04"),  # of two the first
              ("c", "tools", "2021-01-02"), ("c", "toys", "2021-01-02"),  # at once: by name
              ("d", "toys", "2021-01-02"), ("e", "tea", "2021-01-02"), ("f", "toys", "2021-12-31")]  # tea is new to nobody
    (task,), _ = make_tasks(dataset_of(past, future), (TaskSettings("new_interest", level=1, count=2, window_days=30),), 1)
    assert task.classes == ("iron", "wood", NONE) and task.ranking and task.scored == [0, 1] and len(task.rows) == 8
    assert task.labels.tolist() == [1, 0, 0, 1, 2, 2, 2, 2]
    assert task.truth[:, :2].tolist() == [[False, True], [True, True], [True, True], [False, True], *[[False, False]] * 4]
    assert task.candidates.tolist() == [[False, True, False], *[[True, True, False]] * 7]
    everybody = [(user, item, "2021-01-02") for number, user in enumerate("abcdefgh") for item in (["tools", "toys"][number % 2],)]
    (all_new,), _ = make_tasks(dataset_of([], everybody), (TaskSettings("new_interest", level=1, count=2, window_days=30),), 2)
    assert all_new.classes == ("iron", "wood") and all_new.scored == [0, 1], "nobody takes up none: that is no class"
    asked = (TaskSettings("new_interest", level=1, count=2, window_days=30), TaskSettings("attribute", column="colour", positive=("red",)))
    tasks, notes = make_tasks(dataset_of(past, future, users=16), asked, 2)
    assert [task.name for task in tasks] == ["colour"]
    assert notes == ["next new interest: 1 categories instead of 2 are taken up first by 4 users or more"]


def test_the_labels_are_known_by_their_digest_and_errors_are_sentences():
    dataset = dataset_of([], [(user, "tools", "2021-01-02") for user in "abc"])
    one, other = (make_tasks(dataset, (TaskSettings("category", window_days=days),), 1)[0][0] for days in (5, 6))
    assert one.digest == other.digest
    changed = make_tasks(dataset_of([], [(user, "tools", "2021-01-02") for user in "abd"]), (TaskSettings("category"),), 1)[0][0]
    assert changed.digest != one.digest
    for asked, sentence in [
        (TaskSettings("attribute", column="size"), "Expected a column 'size' of the users, got user_id, colour"),
        (TaskSettings("attribute", column="colour", positive=("pink",)), "to have the value 'pink', got blue, green, red"),
        (TaskSettings("category", lowest=0.9, highest=0.95), "at least one task .*0 categories instead of 10"),
    ]:
        with pytest.raises(InputError, match=sentence):
            make_tasks(dataset, (asked,), 1)
    with pytest.raises(InputError, match="names of their own, got 'active' twice"):
        make_tasks(dataset, (TaskSettings("activity"), TaskSettings("activity", window_days=3)), 1)


def test_labels_of_a_log_are_what_was_planted():
    events, items, users = tables()
    dataset = make_dataset(settings(), events, _catalogue(items), users)
    tasks, _ = make_tasks(dataset, settings().tasks, 3)
    kinds = np.array(dataset.attributes["kind"].to_pylist())
    asked = next(task for task in tasks if task.name == "kind")
    assert (asked.labels == (kinds[asked.rows] == "a")).all() and len([task for task in tasks if task.group == "future"]) == 3
