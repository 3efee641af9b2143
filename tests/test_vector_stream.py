"""Vectors as they stream by: everybody once, in the order of the files, whole or one anchor."""

import logging

import numpy as np
import pytest
from published import publish_day, vector

from lurm import open_table, vector_stream
from lurm.errors import InputError
from lurm.store import Store
from lurm.vector_stream import stream_vectors

USERS = [f"u{number:02d}" for number in range(23)]
AS_OF = "2022-01-01"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("stream") / "w"))
    publish_day(store, AS_OF, USERS, n_files=3)
    return open_table(store.uri)


@pytest.mark.parametrize("anchor", [None, 0, 1])
@pytest.mark.parametrize("batch_rows", [1, 7, 1_000])
def test_everybody_once(table, anchor, batch_rows):
    part = slice(0, 6) if anchor is None else slice(3 * anchor, 3 * anchor + 3)
    batches = list(stream_vectors(table, anchor, batch_rows))
    assert max(len(ids) for ids, _ in batches) <= batch_rows
    assert [user for ids, _ in batches for user in ids.to_pylist()] == USERS
    assert np.array_equal(np.concatenate([vectors for _, vectors in batches]), np.stack([vector(user, AS_OF) for user in USERS])[:, part])


def test_an_anchor_that_is_not_there(table):
    for wrong in (2, -1):
        with pytest.raises(InputError, match=f"Expected anchors from 0 to 1, got {wrong}"):
            next(stream_vectors(table, wrong))


def test_long_work_says_where_it_is(table, monkeypatch, caplog):
    monkeypatch.setattr(vector_stream, "EVERY_SECONDS", -1.0)
    with caplog.at_level(logging.INFO, logger="lurm"):
        list(stream_vectors(table, batch_rows=8, what="counting"))
    assert caplog.messages[0] == "counting: 8 of 23 users" and caplog.messages[-1] == "counting: 23 of 23 users"
