"""A history as arrays: the cut, the order, the users without events."""

import numpy as np
import pyarrow as pa
import pytest
from conftest import events_table
from scipy import sparse

from lurm.errors import InputError
from lurm.evaluation.baselines.behaviours import behaviours_of, places_of, rows_for, training_users
from lurm.evaluation.baselines.method import History

CUT = int(np.datetime64("2021-01-01", "us").astype(np.int64))


@pytest.fixture
def small() -> History:
    rows = [("b", "y", CUT - 1), ("b", "x", CUT - 9), ("a", "y", CUT - 5), ("a", "late", CUT), ("c", "x", CUT + 3), ("b", "lost", CUT - 2)]
    items = [{"item_id": name, "title": f"title {name}", "category": [name.upper()]} for name in ("late", "y", "x")]
    return History(events_table(rows), pa.Table.from_pylist(items), "2021-01-01")


def test_only_what_lies_before_the_cut_is_there(small):
    behaviours = behaviours_of(small)
    assert list(behaviours.users) == ["a", "b"] and list(behaviours.item_ids) == ["lost", "x", "y"]
    assert behaviours.titles == ["", "title x", "title y"] and behaviours.categories == [[], ["X"], ["Y"]]
    assert behaviours.offsets.tolist() == [0, 1, 4] and behaviours.items.tolist() == [2, 1, 0, 2]
    assert behaviours.owners.tolist() == [0, 1, 1, 1] and set(behaviours.months) == {611}


def test_rows_come_as_asked_and_strangers_are_zeros(small):
    behaviours = behaviours_of(small)
    assert places_of(behaviours, ["b", "zz", "a", "0"]).tolist() == [1, -1, 0, -1]
    matrix = np.array([[1.0, 2.0], [3.0, 4.0]])
    expected = np.array([[3, 4], [0, 0], [1, 2]], np.float32)
    assert np.array_equal(rows_for(behaviours, ["b", "zz", "a"], matrix), expected)
    found = rows_for(behaviours, ["b", "zz", "a"], sparse.csr_matrix(matrix))
    assert sparse.issparse(found) and found.dtype == np.float32 and np.array_equal(found.toarray(), expected)


def test_fewer_training_users_are_part_of_more(tiny):
    behaviours = behaviours_of(tiny.history)
    sets = [set(training_users(behaviours, 1, most, seed=2)) for most in (5, 20, None)]
    assert [len(users) for users in sets] == [5, 20, 60] and sets[0] < sets[1] < sets[2]
    assert len(training_users(behaviours, 25, None, 2)) == 0


def test_a_cut_before_everything_is_told(small):
    with pytest.raises(InputError, match="Expected events before 2000-01-01, got none of 6"):
        behaviours_of(History(small.events, small.items, "2000-01-01"))
