"""A small world with planted interests, for the demo, tests and benchmarks.

In: `WorldSettings`. Out: a folder that looks like a company's log, plus the truth that no stage may read:

    events/part-*.parquet   user_id, item_id, timestamp (us, UTC); rows of one user together, not in order of time
    items/part-*.parquet    item_id, title, category (list of text: department, shelf)
    users.parquet           user_id, persona ("a" or "b"), age_band (four classes): labels, never features
    truth.parquet           item_id, topic, department

A topic is a planted interest: its own distribution over 30 words, most of them its own, some shared by its department. Popularity of
topics, items and words is Zipf-like. A user lives between two dates, perhaps with a silent gap, shops in sessions of mostly one topic,
has three to six lasting topics at a time and changes some of them once or twice in life. Some topics have a season. `persona` shifts
the odds of whole departments; `age_band` does too, and the young change their topics more often.

Users and items are made in chunks of a fixed size, each from its own generator, so memory is bounded by a chunk and by the catalogue,
and the same settings give the same bytes. There is no equation here: the papers' data is closed, this world stands in for it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lurm.errors import InputError
from lurm.schema import TIMESTAMP
from lurm.synthetic_files import check_format, write_parts, write_table

AGE_BANDS = ("18-29", "30-44", "45-59", "60+")
PERSONAS = ("a", "b")
USERS_PER_CHUNK, ITEMS_PER_CHUNK = 4_096, 65_536  # part of what a seed means: another size is another world
WORDS_PER_TOPIC, OWN_WORDS, DEPARTMENT_WORDS = 30, 20, 14
SLOTS, ERAS = 6, 3  # topics that a user can have at a time; stretches of life between two changes of taste
MEAN_SESSION = 3.0  # events
FILLERS = "New Set Black White Premium Classic with for Small Large Soft Home Original Portable".split()
SIZES = ["Pack of 2", "Pack of 6", "XL", "500 ml", "12 Inch", "Size M"]


@dataclass(frozen=True)
class WorldSettings:
    """How large the world is; equal settings give equal bytes."""

    n_users: int = 2_000
    n_items: int = 3_000
    n_topics: int = 24
    n_months: int = 36
    start: str = "2019-01"  # first month, YYYY-MM
    events_per_user: float = 60.0  # mean; lives differ much
    seed: int = 17
    attribute_strength: float = 1.0  # 0: persona and age_band say nothing about topics


@dataclass(frozen=True)
class WorldSummary:
    """What was written."""

    n_users: int
    n_items: int
    n_topics: int
    n_events: int
    start: str  # first day, YYYY-MM-DD
    end: str  # first day after the last month: as_of for "all of it"
    events_path: str
    items_path: str
    users_path: str
    truth_path: str


@dataclass(frozen=True)
class _Plan:
    """All that chunks share; T topics, n items, W words, C = 8 classes of users (persona x age band)."""

    words: pa.Array  # (W,) text
    topic_words: np.ndarray  # (T, 30) int64: rows of words
    topic_department: np.ndarray  # (T,) int64
    brand_words: np.ndarray  # (departments, 4) int64
    filler_words: np.ndarray  # (F,) int64
    size_words: np.ndarray  # (S,) int64
    item_topic: np.ndarray  # (n,) int64, by item number
    topic_offsets: np.ndarray  # (T + 1,) int64: ranks of topic t are number_of_rank[topic_offsets[t]:topic_offsets[t + 1]], popular first
    number_of_rank: np.ndarray  # (n,) int64
    class_odds: np.ndarray  # (C x T,) float64: cumulated odds of the lasting topics of class c, plus c
    season_topics: np.ndarray  # (2 x seasonal,) int64: seasonal topics by season, twice around the year
    season_offsets: np.ndarray  # (12, 2) int64: those in season in a calendar month


def write_world(
    directory: str | Path, settings: WorldSettings = WorldSettings(), progress: Callable[[int], None] | None = None, format: str = "parquet"
) -> WorldSummary:
    """Write the world below `directory` and say what it holds; `progress` is told the number of users done."""
    _check(settings, format)
    directory = Path(directory)
    plan = _make_plan(settings)
    item_ids = item_id_array(np.arange(settings.n_items))
    write_parts(directory / "items", _items(plan, settings, item_ids), format)
    departments = plan.topic_department[plan.item_topic]
    truth = {"item_id": item_ids, "topic": pa.array(plan.item_topic, pa.int32()), "department": pa.array(departments, pa.int32())}
    truth_path = write_table(pa.table(truth), directory / "truth", format)

    users, n_events = [], 0

    def event_tables() -> Iterator[pa.Table]:
        nonlocal n_events
        for first in range(0, settings.n_users, USERS_PER_CHUNK):
            attributes, events = _users_and_events(plan, settings, first, item_ids)
            users.append(attributes)
            n_events += len(events)
            yield events
            if progress:
                progress(first + len(attributes))

    write_parts(directory / "events", event_tables(), format)
    users_path = write_table(pa.concat_tables(users), directory / "users", format)
    start, end = _span(settings)
    return WorldSummary(
        settings.n_users, settings.n_items, settings.n_topics, n_events, str(start.astype("M8[D]")), str(end.astype("M8[D]")),
        str(directory / "events"), str(directory / "items"), str(users_path), str(truth_path),
    )  # fmt: skip


def item_id_array(numbers: np.ndarray) -> pa.Array:
    """Names of items by number."""
    return pa.array([f"i{number:07d}" for number in numbers.tolist()], pa.string())


def user_id_array(numbers: np.ndarray) -> pa.Array:
    """Names of users by number."""
    return pa.array([f"u{number:07d}" for number in numbers.tolist()], pa.string())


def _check(settings: WorldSettings, format: str) -> None:
    check_format(format)
    if settings.n_items < settings.n_topics or min(settings.n_users, settings.n_topics, settings.n_months) < 1:
        raise InputError(
            f"Expected at least one user, topic and month and an item for every topic, got {settings}; raise what is too small."
        )


def _span(settings: WorldSettings) -> tuple[np.datetime64, np.datetime64]:
    start = np.datetime64(settings.start, "M")
    return start, start + settings.n_months


def _make_plan(settings: WorldSettings) -> _Plan:
    rng = np.random.default_rng([settings.seed, 0])
    n_topics = settings.n_topics
    n_departments = int(np.clip(n_topics // 4, 2, 40))
    topic_department = rng.permutation(np.arange(n_topics) % n_departments)

    own, shared = n_topics * OWN_WORDS, n_departments * DEPARTMENT_WORDS
    names = [*_invent_words(own + shared + 4 * n_departments, rng), *FILLERS, *SIZES]
    borrowed = WORDS_PER_TOPIC - OWN_WORDS
    pick = rng.random((n_topics, DEPARTMENT_WORDS)).argsort(axis=1, kind="stable")[:, :borrowed]
    own_words = np.arange(own).reshape(n_topics, OWN_WORDS)
    topic_words = np.concatenate([own_words, own + topic_department[:, None] * DEPARTMENT_WORDS + pick], axis=1)
    topic_words = rng.permuted(topic_words, axis=1)  # place in the row is the word's rank, so shared words can be frequent ones
    brands = own + shared + np.arange(4 * n_departments).reshape(n_departments, 4)
    fillers = brands[-1, -1] + 1 + np.arange(len(FILLERS) + len(SIZES))

    popularity = 1.0 / (1 + rng.permutation(n_topics)) ** 0.6
    share = np.sqrt(popularity)  # the catalogue is less uneven than demand
    n_spare = settings.n_items - n_topics  # every topic has one item at least
    topic_offsets = np.concatenate([[0], np.arange(1, n_topics + 1) + np.floor(n_spare * share.cumsum() / share.sum() + 1e-9).astype(int)])
    number_of_rank = rng.permutation(settings.n_items)
    item_topic = np.empty(settings.n_items, np.int64)
    item_topic[number_of_rank] = np.repeat(np.arange(n_topics), np.diff(topic_offsets))

    n_seasonal = n_topics // 10
    seasonal, season = np.arange(n_seasonal), np.sort(rng.integers(0, 12, n_seasonal))
    both_years = np.concatenate([season, season + 12])
    months = np.arange(12)[:, None] + np.array([[11, 13]])  # in season: the topic's own month and the one after it
    return _Plan(
        words=pa.array(names), topic_words=topic_words, topic_department=topic_department, brand_words=brands,
        filler_words=fillers[: len(FILLERS)], size_words=fillers[len(FILLERS) :], item_topic=item_topic, topic_offsets=topic_offsets,
        number_of_rank=number_of_rank, class_odds=_class_odds(popularity, topic_department, n_seasonal, settings, rng),
        season_topics=np.concatenate([seasonal, seasonal]), season_offsets=np.searchsorted(both_years, months),
    )  # fmt: skip


def _class_odds(
    popularity: np.ndarray, topic_department: np.ndarray, n_seasonal: int, settings: WorldSettings, rng: np.random.Generator
) -> np.ndarray:
    """(C x T,) float64: class c = 4 x persona + age band has its topics' cumulated odds in (c, c + 1]."""
    n_departments = topic_department.max() + 1
    mass = np.bincount(topic_department, popularity)
    side = np.empty(n_departments)
    side[np.argsort(-mass, kind="stable")] = np.resize([1.0, -1.0, -1.0, 1.0], n_departments)  # personas share demand about evenly
    leaning = settings.attribute_strength * rng.uniform(0.9, 1.3, n_departments) * side
    peak = rng.permutation(n_departments) / n_departments  # the age at which a department is liked most, as a share of a circle
    taste_of_age = settings.attribute_strength * 1.8 * np.cos(2 * np.pi * (np.arange(4)[:, None] / 4 - peak))
    logits = np.array([-1.0, 1.0])[:, None, None] * leaning + taste_of_age  # (2, 4, departments)
    odds = np.exp(logits[:, :, topic_department]).reshape(8, -1) * popularity
    odds[:, :n_seasonal] = 0  # seasonal topics are nobody's lasting ones
    return (odds.cumsum(axis=1) / odds.sum(axis=1, keepdims=True) + np.arange(8)[:, None]).ravel()


def _invent_words(n_words: int, rng: np.random.Generator) -> list[str]:
    """Distinct pronounceable words of two or three syllables, none of them a filler."""
    onsets, vowels, codas = "b d f g h k l m n p r s t v z br dr kl pl st".split(), "a e i o u".split(), ["", "", "", "n", "r", "s"]
    taken = {word.lower() for word in " ".join(FILLERS + SIZES).split()}
    words: list[str] = []
    while len(words) < n_words:
        draws = rng.integers(0, 20 * 5 * 6, (n_words, 3)).tolist()
        for row, length in zip(draws, rng.integers(2, 4, n_words).tolist(), strict=True):
            word = "".join(onsets[d % 20] + vowels[d // 20 % 5] + codas[d // 100] for d in row[:length])
            if word not in taken and len(words) < n_words:
                taken.add(word)
                words.append(word.capitalize())
    return words


def _items(plan: _Plan, settings: WorldSettings, item_ids: pa.Array) -> Iterator[pa.Table]:
    """The catalogue in chunks. A title is [brand] words of the topic, fillers and perhaps a size: 4 to 14 words."""
    rank_weight = 1.0 / np.arange(1, WORDS_PER_TOPIC + 1) ** 0.6
    n_departments = len(plan.brand_words)
    categories = pa.array(
        [[f"Department {d}", f"Shelf {d}.{shelf}"] for d in range(n_departments) for shelf in range(3)], pa.list_(pa.string())
    )
    for first in range(0, settings.n_items, ITEMS_PER_CHUNK):
        rng = np.random.default_rng([settings.seed, 1, first // ITEMS_PER_CHUNK])
        topic = plan.item_topic[first : first + ITEMS_PER_CHUNK]
        n, department = len(topic), plan.topic_department[topic]
        # Weighted draws without replacement: the smallest of exponential waiting times.
        order = np.argsort(rng.exponential(size=(n, WORDS_PER_TOPIC)) / rank_weight, axis=1, kind="stable")[:, :8]
        cells = np.concatenate([
            plan.brand_words[department, rng.integers(0, 4, n)][:, None],
            np.take_along_axis(plan.topic_words[topic], order, axis=1),
            rng.choice(plan.filler_words, (n, 2)),
            rng.choice(plan.size_words, (n, 1)),
        ], axis=1)  # (n, 12): brand, topic words, fillers, size  # fmt: skip
        kept = np.ones(cells.shape, bool)
        kept[:, 0] = rng.random(n) < 0.6
        kept[:, 1:9] = np.arange(8) < rng.integers(4, 9, (n, 1))
        kept[:, 9:11] = np.arange(2) < rng.integers(0, 3, (n, 1))
        kept[:, 11] = rng.random(n) < 0.4
        offsets = np.concatenate([[0], kept.sum(axis=1).cumsum()]).astype(np.int32)
        titles = pc.binary_join(pa.ListArray.from_arrays(offsets, plan.words.take(pa.array(cells[kept]))), " ")
        shelves = categories.take(pa.array(department * 3 + topic // n_departments % 3))
        yield pa.table({"item_id": item_ids.slice(first, n), "title": titles, "category": shelves})


def _users_and_events(plan: _Plan, settings: WorldSettings, first: int, item_ids: pa.Array) -> tuple[pa.Table, pa.Table]:
    """Attributes and events of one chunk of users, beginning with user number `first`."""
    rng = np.random.default_rng([settings.seed, 2, first // USERS_PER_CHUNK])
    n = min(USERS_PER_CHUNK, settings.n_users - first)
    persona, age = rng.integers(0, 2, n), rng.choice(4, n, p=[0.3, 0.3, 0.25, 0.15])

    # Lives, in shares of the world's span. A quarter are short; most reach the end, so that there is a future to predict.
    length = np.where(rng.random(n) < 0.25, rng.uniform(0.03, 0.15, n), rng.uniform(0.35, 1.0, n))
    begin = (1 - length) * np.where(rng.random(n) < 0.6, 1.0, rng.random(n))
    silence = np.where(rng.random(n) < 0.5, 0.0, rng.uniform(0.1, 0.35, n))
    silence_from = rng.uniform(0.1, 0.6, n)
    rate = settings.events_per_user * length / length.mean() * rng.gamma(2.0, 0.5, n)
    n_sessions = 1 + rng.poisson(np.maximum(rate / MEAN_SESSION - 1, 0))

    # Some people have the taste of another group: what keeps the labels from being read off without error.
    taste_persona = np.where(rng.random(n) < 0.06, 1 - persona, persona)
    taste_age = np.where(rng.random(n) < 0.10, rng.integers(0, 4, n), age)
    eras, change_at, slot_odds = _tastes(plan, taste_persona, taste_age, rng)

    user = np.repeat(np.arange(n), n_sessions)  # from here on one row is one session
    at = rng.random(len(user)) * (1 - silence[user])
    at += np.where(at >= silence_from[user], silence[user], 0.0)
    era = (at[:, None] >= change_at[user]).sum(axis=1)
    slot = (rng.random(len(user))[:, None] >= slot_odds[user]).sum(axis=1)
    start, end = (int(day.astype("M8[s]").astype(np.int64)) for day in _span(settings))
    second = start + ((begin[user] + at * length[user]) * (end - start)).astype(np.int64)
    topic = _in_season(plan, eras[user, era, slot], second, rng)

    size = rng.geometric(1 / MEAN_SESSION, len(user))
    session = np.repeat(np.arange(len(user)), size)  # from here on one row is one event
    event_user = user[session]
    strays = np.flatnonzero(rng.random(len(session)) < 0.12)  # a session is mostly, not wholly, about one topic
    event_topic = topic[session]
    event_topic[strays] = eras[event_user[strays], era[session[strays]], rng.integers(0, 3, len(strays))]
    low, high = plan.topic_offsets[event_topic], plan.topic_offsets[event_topic + 1]
    rank = low + (rng.random(len(session)) ** 2.0 * (high - low)).astype(np.int64)  # density falls as rank ** -0.5
    seconds = np.minimum(second[session] + rng.integers(0, 5_400, len(session)), end - 1)

    user_ids = user_id_array(np.arange(first, first + n))
    attributes = {"user_id": user_ids, "persona": np.array(PERSONAS)[persona], "age_band": np.array(AGE_BANDS)[age]}
    events = {
        "user_id": user_ids.take(pa.array(event_user)),
        "item_id": item_ids.take(pa.array(plan.number_of_rank[rank])),
        "timestamp": pa.array(seconds * 1_000_000, pa.int64()).cast(TIMESTAMP),
    }
    return pa.table(attributes), pa.table(events)


def _tastes(plan: _Plan, persona: np.ndarray, age: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lasting topics of n users: eras (n, 3, 6) int64 topics, change_at (n, 2) shares of life, slot_odds (n, 6) cumulated odds of slots."""
    n, n_topics = len(persona), len(plan.topic_department)
    user_class = (4 * persona + age)[:, None, None]
    drawn = np.searchsorted(plan.class_odds, user_class + rng.random((n, ERAS, SLOTS)), side="right") - user_class * n_topics
    eras = np.minimum(drawn, n_topics - 1)
    change = np.array([0.6, 0.45, 0.3, 0.15])[age][:, None]  # chance that a slot changes with an era
    for later in range(1, ERAS):
        eras[:, later] = np.where(rng.random((n, SLOTS)) < change, eras[:, later], eras[:, later - 1])
    change_at = np.sort(rng.uniform(0.15, 1.1, (n, ERAS - 1)), axis=1)
    weight = rng.gamma(3.0, size=(n, SLOTS)) * (np.arange(SLOTS) < rng.integers(3, SLOTS + 1, (n, 1)))
    slot_odds = weight.cumsum(axis=1) / weight.sum(axis=1, keepdims=True)
    slot_odds[:, -1] = 1.0  # rounding must not leave a draw without a slot
    return eras, change_at, slot_odds


def _in_season(plan: _Plan, topic: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some sessions turn to a topic that is in season in their month."""
    month = second.astype("M8[s]").astype("M8[M]").astype(np.int64) % 12
    low, high = plan.season_offsets[month].T
    draw = low + (rng.random(len(topic)) * (high - low)).astype(np.int64)
    turns = np.flatnonzero((rng.random(len(topic)) < 0.15) & (high > low))
    topic = topic.copy()
    topic[turns] = plan.season_topics[draw[turns]]
    return topic
