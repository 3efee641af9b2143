"""The contract of every registered method, on a tiny world: shape, order, silence for strangers, the same bytes again, and no look ahead."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from lurm.errors import ConfigError
from lurm.evaluation.baselines.method import Budget, History, JointMethod, Method, Question, SupervisedMethod
from lurm.evaluation.baselines.registry import CANDIDATES, JOINT, METHODS, SUPERVISED, make_method

NEEDS_GENSIM = {"word2vec", "doc2vec-dbow", "doc2vec-dm"}
# Of a sweep one is enough in the quick suite, and the widest SMEN takes seconds a step.
SLOW = {name for name in METHODS if name.startswith(("lurm-d", "lurm-bag-d"))} - {"lurm-bag-d300"} | {"lurm-1x1280", "lurm-months", "lurm-years"}
SLOW |= JOINT - {"han-joint", "ptum-hsa-tuned-20-joint", "userbert-ml-tuned-joint"}  # what they start from is in the suite as it is
# One search is like another; what is searched stands in the list without it.
FROZEN = set(METHODS) - SUPERVISED - JOINT - {f"{name}-searched" for name in CANDIDATES} | {"tfidf-searched", "sumn-searched"}
BUDGET = Budget(steps=2, batch_size=6, max_behaviours=8)


def named(names):
    return [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in names]


def made(name: str):
    if name in NEEDS_GENSIM:
        pytest.importorskip("gensim")
    return make_method(name, BUDGET, seed=5)


def with_a_future(history: History) -> History:
    """The same past, and after the cut new words, new items, new users and events of everybody."""
    cut = int(np.datetime64(history.as_of, "us").astype(np.int64))
    users = [*sorted(set(history.events["user_id"].to_pylist()))[::2], "stranger"]
    future = pa.table({
        "user_id": pa.array(users), "item_id": pa.array(["new"] * len(users)),
        "timestamp": pa.array([cut + place for place in range(len(users))], pa.int64()).cast(pa.timestamp("us", tz="UTC")),
    })  # fmt: skip
    items = pa.Table.from_pylist([{"item_id": "new", "title": "zebra zebra apple apple", "category": ["zoo", "stripes"]}], history.items.schema)
    events = pa.concat_tables([history.events, future]).sort_by([("user_id", "ascending"), ("timestamp", "ascending")])
    return History(events, pa.concat_tables([items, history.items]), history.as_of)


def dense(rows) -> np.ndarray:
    return rows if isinstance(rows, np.ndarray) else rows.toarray()


@pytest.fixture(scope="module")
def perturbed(tiny):
    return with_a_future(tiny.history)


def test_the_registry_loads_neither_torch_nor_gensim():
    code = "import sys, lurm.evaluation.baselines.registry; print({'torch', 'gensim', 'sklearn'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


def test_an_unknown_name_is_told():
    with pytest.raises(ConfigError, match="got 'lurm-x'; known are tfidf, "):
        make_method("lurm-x", BUDGET, 0)


def test_every_method_keeps_its_name_and_kind():
    for name in METHODS:
        method = make_method(name, BUDGET, 0)
        assert method.name == name and method.details == {}
        kinds = {Method: set(METHODS) - SUPERVISED - JOINT, SupervisedMethod: SUPERVISED, JointMethod: JOINT}
        assert all(isinstance(method, kind) == (name in names) for kind, names in kinds.items())


@pytest.mark.parametrize("name", named(sorted(FROZEN)))
def test_a_frozen_method_keeps_the_contract(name, tiny, perturbed):
    method = made(name)
    method.fit(tiny.history)
    rows = method.embed(tiny.users)
    assert rows.shape[0] == len(tiny.users) and rows.shape[1] >= 1 and rows.dtype == np.float32
    rows = dense(rows)
    assert np.isfinite(rows).all() and len(np.unique(rows.round(6), axis=0)) > 1
    asked = [*tiny.users[::-1], "nobody", tiny.users[3]]
    assert np.array_equal(dense(method.embed(asked)), np.concatenate([rows[::-1], np.zeros_like(rows[:1]), rows[3:4]]))
    assert dense(method.embed([])).shape == (0, rows.shape[1])
    again = made(name)
    again.fit(perturbed)
    assert np.array_equal(dense(again.embed(tiny.users)), rows), "what happens after the cut, or chance, changed the vectors"
    assert not dense(again.embed(["stranger"])).any()


@pytest.mark.parametrize("name", named(sorted(SUPERVISED)))
def test_a_supervised_method_keeps_the_contract(name, tiny, perturbed):
    users = [*tiny.users[:30], "nobody"]
    labels = np.append(np.arange(30) % 3, 0)
    train, test = np.arange(20), np.arange(20, 31)
    method = made(name)
    method.fit(tiny.history)
    scores = method.scores(users, labels, train, test)
    assert scores.shape == (11, 3) and scores.dtype == np.float64
    assert (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1)
    again = made(name)
    again.fit(perturbed)
    turned = labels.copy()
    turned[test] = turned[test][::-1]
    assert np.array_equal(again.scores(users, turned, train, test), scores), "labels of the test users, the future or chance changed the scores"


@pytest.mark.parametrize("name", named(sorted(JOINT)))
def test_a_joint_method_keeps_the_contract(name, tiny, perturbed):
    users = [*tiny.users[:30], "nobody"]
    parts = np.arange(31) % 2
    questions = [Question(np.arange(31), np.append(np.arange(30) % 3, 0), 3), Question(np.arange(5, 20), np.arange(15) // 2 % 2, 2)]
    method = made(name)
    method.fit(tiny.history)
    scores = method.scores_of_all(users, questions, parts)
    assert [one.shape for one in scores] == [(31, 3), (15, 2)] and all(one.dtype == np.float64 for one in scores)
    assert all((one >= 0).all() and np.allclose(one.sum(axis=1), 1) for one in scores)
    again = made(name)
    again.fit(perturbed)
    turned = [Question(one.rows, np.where(parts[one.rows] == 1, one.labels[::-1], one.labels), one.n_classes) for one in questions]
    for question, one, other in zip(questions, scores, again.scores_of_all(users, turned, parts), strict=True):
        same = parts[question.rows] == 1
        assert np.array_equal(one[same], other[same]), "labels of users who are scored, the future or chance changed the scores"
