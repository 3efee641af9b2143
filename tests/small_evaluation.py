"""A small log with a known truth for tests of the evaluation: 150 users of two kinds, 48 items of six categories, two years.

Kind a likes the first three categories, kind b the last three, before and after the cut; `age` is a class of three that nothing tells.
Two real methods: TF-IDF of the titles and the number of events; one that learns labels: the shares of the classes.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.feature_extraction.text import TfidfVectorizer

from lurm.evaluation.evaluation_settings import (
    DataSettings,
    EvaluationSettings,
    MethodSettings,
    ProbeSettings,
    TaskSettings,
    ViewSettings,
)

FILES = DataSettings("events.parquet", "items.parquet", "users.parquet")
CUT = "2021-01-01"
CATEGORIES = ("tea", "tools", "toys", "yarn", "paint", "lamps")
PROBE = ProbeSettings(folds=3, repeats=2, grid=(1.0,), resamples=60, label_shares=(0.5,), history_groups=2, seed=3)
TASKS = (
    TaskSettings("category", count=3, highest=0.9, window_days=120), TaskSettings("attribute", column="kind", positive=("a",)),
    TaskSettings("attribute", column="age"), TaskSettings("activity", window_days=10),
)


@cache
def tables(seed: int = 0, n_users: int = 150) -> tuple[pa.Table, pa.Table, pa.Table]:
    """events, items, users."""
    rng = np.random.default_rng(seed)
    items = [(f"i{number:02d}", f"{CATEGORIES[number % 6]} number{number} {CATEGORIES[number % 6]}s", [CATEGORIES[number % 6], f"shelf{number % 12}"])
             for number in range(48)]
    rows = []
    for user in range(n_users):
        odds = np.where((np.arange(48) % 6 < 3) == (user % 2 == 0), 3.0, 1.0)
        for _ in range(int(rng.integers(8, 40))):
            day = np.datetime64("2020-01-01") + int(rng.integers(0, 500))
            rows.append((f"u{user:03d}", items[rng.choice(48, p=odds / odds.sum())][0], day.astype("M8[us]").astype(object)))
    events = pa.table({"user_id": [row[0] for row in rows], "item_id": [row[1] for row in rows],
                       "timestamp": pa.array([row[2] for row in rows], pa.timestamp("us", tz="UTC"))})
    catalogue = pa.table({"item_id": [item[0] for item in items], "title": [item[1] for item in items], "category": [item[2] for item in items]})
    users = pa.table({"user_id": [f"u{user:03d}" for user in range(n_users)], "kind": ["a" if user % 2 == 0 else "b" for user in range(n_users)],
                      "age": [str(rng.integers(3)) for _ in range(n_users)], "open": [user % 10 != 0 for user in range(n_users)]})
    return events, catalogue, users


def write_tables(folder: Path) -> Path:
    """The tables as the files that `FILES` names."""
    for name, table in zip(("events", "items", "users"), tables(), strict=True):
        pq.write_table(table, folder / f"{name}.parquet")
    return folder


def settings(**changes) -> EvaluationSettings:
    names = ("words", "count")
    whole = EvaluationSettings("small", CUT, DataSettings(), TASKS, (MethodSettings(names),), (ViewSettings("all"),), PROBE, {}, "words",
                               min_events=4)
    return replace(whole, **changes)


class Words:
    """TF-IDF of the titles."""

    def __init__(self, budget=None, seed: int = 0, name: str = "words"):
        self.name, self.details, self.fits = name, {"n_interests": 6}, 0

    def fit(self, history) -> None:
        self.fits += 1
        self.history = history
        titles = dict(zip(history.items["item_id"].to_pylist(), history.items["title"].to_pylist(), strict=True))
        self.texts: dict[str, list[str]] = {}
        for user, item in zip(history.events["user_id"].to_pylist(), history.events["item_id"].to_pylist(), strict=True):
            self.texts.setdefault(user, []).append(titles[item])
        self.model = TfidfVectorizer(sublinear_tf=True, dtype=np.float32).fit(" ".join(self.texts[user]) for user in sorted(self.texts))

    def embed(self, users):
        return self.model.transform([" ".join(self.texts.get(user, [])) for user in users])


class Count(Words):
    """The number of events."""

    def embed(self, users):
        return np.array([[len(self.texts.get(user, []))] for user in users], np.float32)


class Shares:
    """Learns how frequent each class is; remembers what it was handed."""

    def __init__(self, budget=None, seed: int = 0, name: str = "shares"):
        self.name, self.details, self.handed, self.fits = name, {}, [], 0

    def fit(self, history) -> None:
        self.fits += 1

    def scores(self, users, labels, train, test):
        self.handed.append((tuple(users), train.tobytes(), test.tobytes()))
        shares = np.bincount(labels[train], minlength=labels.max() + 1) / len(train)
        return np.tile(shares, (len(test), 1))


class Together:
    """Learns how frequent each class is outside a user's part; remembers what it was handed."""

    def __init__(self, budget=None, seed: int = 0, name: str = "together"):
        self.name, self.details, self.handed, self.fits = name, {}, [], 0

    def fit(self, history) -> None:
        self.fits += 1

    def scores_of_all(self, users, questions, parts):
        self.handed.append((tuple(users), [question.labels.tobytes() for question in questions], np.bincount(parts)))
        found = []
        for question in questions:
            outside = parts[question.rows][:, None] != np.unique(parts)
            classes = question.labels[:, None] == np.arange(question.n_classes)
            shares = (outside.T @ classes) / outside.sum(axis=0)[:, None]
            found.append(shares[np.searchsorted(np.unique(parts), parts[question.rows])])
        return found


class Broken(Words):
    def embed(self, users):
        raise ValueError("no room | for <more>\nthan this")
