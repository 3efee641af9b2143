"""The synthetic world holds what its docstring promises: bytes, lives, sessions, seasons, drift and attributes that can be read off."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lurm import synthetic
from lurm.errors import InputError
from lurm.evaluation.recovery import attribute_auc
from lurm.schema import TIMESTAMP
from lurm.synthetic import WorldSettings, write_world

SMALL = WorldSettings(n_users=60, n_items=90, n_topics=6, n_months=12, events_per_user=20)


def digests(directory: Path) -> dict[str, str]:
    files = sorted(directory.rglob("*.*"))
    return {str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


class World:
    """A written world as arrays: user, topic and microsecond of every event, in order of user and time."""

    def __init__(self, directory: Path, settings: WorldSettings):
        self.summary = write_world(directory, settings)
        events, truth, self.users = (pq.read_table(getattr(self.summary, f"{name}_path")) for name in ("events", "truth", "users"))
        topic_of = truth["topic"].to_numpy()
        user, item = (np.array([int(name[1:]) for name in events[column].to_pylist()]) for column in ("user_id", "item_id"))
        at = events["timestamp"].cast("int64").to_numpy()
        order = np.lexsort((at, user))
        self.user, self.item, self.at = user[order], item[order], at[order]
        self.topic = topic_of[self.item]
        self.n_topics = settings.n_topics

    def histogram(self, where=slice(None)) -> np.ndarray:
        counts = np.zeros((len(self.users), self.n_topics))
        np.add.at(counts, (self.user[where], self.topic[where]), 1)
        return counts

    def labels(self, column: str) -> dict[str, str]:
        return dict(zip(self.users["user_id"].to_pylist(), self.users[column].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("world"), WorldSettings())


def test_same_settings_same_bytes_and_another_seed_another_world(tmp_path):
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    write_world(first, SMALL)
    write_world(again, SMALL)
    write_world(other, WorldSettings(n_users=60, n_items=90, n_topics=6, n_months=12, events_per_user=20, seed=18))
    assert digests(first) == digests(again)
    assert set(digests(first)) == {
        "events/part-00000.parquet", "items/part-00000.parquet", "truth.parquet", "users.parquet",
    }  # fmt: skip
    assert all(digests(other)[name] != digest for name, digest in digests(first).items())


def test_later_chunks_leave_earlier_ones_alone(tmp_path):
    one = write_world(tmp_path / "one", WorldSettings(n_users=synthetic.USERS_PER_CHUNK, n_items=90, n_topics=6, events_per_user=2))
    told = []
    two = write_world(
        tmp_path / "two", WorldSettings(n_users=synthetic.USERS_PER_CHUNK + 7, n_items=90, n_topics=6, events_per_user=2), told.append
    )
    assert told == [4_096, 4_103]
    assert two.n_events > one.n_events
    assert digests(tmp_path / "two")["events/part-00000.parquet"] == digests(tmp_path / "one")["events/part-00000.parquet"]
    users = pq.read_table(two.users_path)["user_id"]
    assert len(pc.unique(users)) == len(users) == 4_103
    assert set(pq.read_table(tmp_path / "two" / "events" / "part-00001.parquet")["user_id"].to_pylist()) == set(users.to_pylist()[4_096:])


def test_tables_have_the_form_of_a_log(world):
    events, items = pq.read_table(world.summary.events_path), pq.read_table(world.summary.items_path)
    assert events.schema.names == ["user_id", "item_id", "timestamp"] and events.schema.field("timestamp").type == TIMESTAMP
    assert world.summary.n_events == len(events) and len(pc.unique(events["user_id"])) == 2_000
    assert items.schema.names == ["item_id", "title", "category"] and len(pc.unique(items["item_id"])) == 3_000
    assert pc.all(pc.is_in(events["item_id"], items["item_id"].combine_chunks())).as_py()
    assert sum(column.null_count for column in (*events.columns, *items.columns)) == 0
    first, last = pc.min_max(events["timestamp"]).as_py().values()
    assert world.summary.start == "2019-01-01" and str(first.date()) >= "2019-01-01"
    assert world.summary.end == "2022-01-01" and "2021-12-28" < str(last.date()) < "2022-01-01"
    lengths = [len(title.split()) for title in items["title"].to_pylist()]
    assert min(lengths) >= 4 and max(lengths) <= 14
    assert len(world.users) == 2_000 and set(world.labels("persona").values()) == set(synthetic.PERSONAS)
    assert set(world.labels("age_band").values()) == set(synthetic.AGE_BANDS)


def test_mean_events_are_as_asked_and_lives_differ(world):
    counts = world.histogram().sum(axis=1)
    assert 55 < counts.mean() < 65
    assert counts.min() == 1 and counts.max() > 300
    first, last = (np.array([edge(world.at[world.user == user]) for user in range(300)]) / 8.64e10 for edge in (np.min, np.max))
    assert (last - first < 180).mean() > 0.2 and (last - first > 700).mean() > 0.2


def test_events_close_in_time_are_mostly_of_one_topic(world):
    near = (world.user[1:] == world.user[:-1]) & (np.diff(world.at) < 5 * 8.64e10)
    same = world.topic[1:] == world.topic[:-1]
    assert near.mean() > 0.5
    assert 0.7 < same[near].mean() < 0.95
    assert same[near].mean() > same[~near].mean() + 0.3


def test_popularity_is_uneven(world):
    topics = np.sort(np.bincount(world.topic, minlength=24))
    items = np.sort(np.bincount(world.item, minlength=3_000))
    assert topics[-1] > 5 * topics[2] and items[-30:].sum() > 0.04 * items.sum()


def test_seasonal_topics_stay_in_their_two_months(world):
    months = world.at.astype("M8[us]").astype("M8[M]").astype(int) % 12
    for topic in range(24):
        by_month = np.bincount(months[world.topic == topic], minlength=12)
        two_in_a_row = (by_month + np.roll(by_month, 1)).max() / by_month.sum()
        if topic < 2:
            assert two_in_a_row > 0.98  # a session that begins late on the last day may end in the next month
        else:
            assert two_in_a_row < 0.4 and by_month.min() > 0


def test_the_young_change_their_topics_more_than_the_old(world):
    age = np.array(list(world.labels("age_band").values()))
    half = np.datetime64("2020-07-01", "us").astype(int)
    early, late = world.histogram(world.at < half), world.histogram(world.at >= half)
    active = (early.sum(axis=1) >= 10) & (late.sum(axis=1) >= 10)
    cosine = (early * late).sum(axis=1)[active] / np.linalg.norm(early[active], axis=1) / np.linalg.norm(late[active], axis=1)
    assert cosine[age[active] == "60+"].mean() > cosine[age[active] == "18-29"].mean() + 0.1


@pytest.mark.parametrize("column", ["persona", "age_band"])
def test_attributes_can_be_read_off_true_topics_but_not_perfectly(world, column):
    users = world.users["user_id"].to_pylist()
    found = attribute_auc(users, np.log1p(world.histogram()), world.labels(column), seed=1)
    assert 0.83 < found["auc"] < 0.95
    assert 0.45 < found["chance"] < 0.55


def test_without_attribute_strength_topics_say_nothing(tmp_path):
    world = World(tmp_path, WorldSettings(attribute_strength=0.0, events_per_user=30))
    found = attribute_auc(world.users["user_id"].to_pylist(), np.log1p(world.histogram()), world.labels("persona"), seed=1)
    assert 0.44 < found["auc"] < 0.56


def test_titles_tell_the_topic_only_in_part(world):
    """Words are shared within a department: no topic owns all its words, no word of another department is used."""
    items, truth = pq.read_table(world.summary.items_path), pq.read_table(world.summary.truth_path)
    words: list[set] = [set() for _ in range(24)]
    for title, topic in zip(items["title"].to_pylist(), truth["topic"].to_pylist(), strict=True):
        words[topic].update(word for word in title.split() if word not in " ".join(synthetic.FILLERS + synthetic.SIZES).split())
    department = dict(zip(truth["topic"].to_pylist(), truth["department"].to_pylist(), strict=True))
    shared = {(a, b): len(words[a] & words[b]) for a in range(24) for b in range(a)}
    assert all((count > 0) == (department[a] == department[b]) for (a, b), count in shared.items())


def test_impossible_worlds_are_refused(tmp_path):
    with pytest.raises(InputError, match="an item for every topic, got WorldSettings"):
        write_world(tmp_path, WorldSettings(n_items=5, n_topics=6))
    with pytest.raises(InputError, match="parquet, csv, jsonl, got 'xml'"):
        write_world(tmp_path, SMALL, format="xml")
    assert not list(tmp_path.iterdir())
