"""TF-IDF: the weights by hand, the small corner cases, activity beside them."""

import numpy as np
import pyarrow as pa
from conftest import events_table
from scipy import sparse

from lurm.evaluation.baselines.behaviours import behaviours_of
from lurm.evaluation.baselines.method import Budget, History
from lurm.evaluation.baselines.word_counts import TfIdf, documents_of, tf_idf, truncated_svd
from lurm.smen.activity_traces import ACTIVITY_SHARE, N_TRACES


def history_of(titles: dict[str, str], events: list[tuple[str, str, int]]) -> History:
    items = [{"item_id": name, "title": title, "category": []} for name, title in titles.items()]
    schema = pa.schema([("item_id", pa.string()), ("title", pa.string()), ("category", pa.list_(pa.string()))])
    return History(events_table(events), pa.Table.from_pylist(items, schema), "2021-01-01")


def test_weights_by_hand():
    history = history_of({"x": "red hat", "y": "blue"}, [("a", "x", 1), ("a", "x", 2), ("b", "y", 3)])
    behaviours = behaviours_of(history)
    assert documents_of(behaviours) == ["red hat red hat", "blue"]
    rows = tf_idf(behaviours, ngrams=1, min_df=1, sublinear=True).toarray()  # columns: blue, hat, red
    # Each word is known by one of two users, so all weigh the same; 1 + log 2 twice for a, then length 1.
    assert np.allclose(rows, [[0, 0.5**0.5, 0.5**0.5], [1, 0, 0]], atol=1e-6)


def test_titles_without_words_give_a_row_of_nothing():
    behaviours = behaviours_of(history_of({"x": "", "y": "-"}, [("a", "x", 1), ("b", "y", 2)]))
    assert tf_idf(behaviours, 2, 3, True).toarray().tolist() == [[0], [0]]


def test_svd_keeps_what_is_narrow_and_keeps_distances():
    narrow = sparse.csr_matrix(np.eye(5, 3, dtype=np.float32))
    assert np.array_equal(truncated_svd(narrow, 4, 0), narrow.toarray())
    rng = np.random.default_rng(0)
    low_rank = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 20))
    found = truncated_svd(sparse.csr_matrix(low_rank), 5, 0)
    assert found.shape == (40, 5) and np.allclose(found @ found.T, low_rank @ low_rank.T, atol=1e-3)


def test_activity_beside_the_words(tiny):
    """The words are as they were; all traces differ alike between users and have their share of what the words do."""
    plain, active = TfIdf("tfidf", Budget(), 0), TfIdf("tfidf-activity", Budget(), 0, activity=True)
    users = sorted(set(tiny.history.events["user_id"].to_pylist()))
    for method in (plain, active):
        method.fit(tiny.history)
    words, both = plain.embed(users).toarray(), active.embed(users).toarray()
    assert both.shape[1] == words.shape[1] + N_TRACES and np.array_equal(both[:, :-N_TRACES], words)
    traces = both[:, -N_TRACES:].var(axis=0)
    assert np.allclose(traces, traces.mean(), rtol=1e-3)
    assert np.isclose(traces.sum(), ACTIVITY_SHARE * words.var(axis=0).sum(), rtol=1e-3)
    assert not active.embed(["nobody"]).toarray().any()
