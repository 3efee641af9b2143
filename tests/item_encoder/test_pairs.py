"""Positive pairs: only near and different items of one user, fairly over users, the same however the events come in."""

from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from lurm.config import PairsSettings
from lurm.item_encoder.pairs import DAY, PAIRS, sample_pairs

SCHEMA = pa.schema([("user_id", pa.string()), ("user_hash", pa.int64()), ("item_id", pa.string()), ("timestamp", pa.int64())])
# A user of few names, an item of few, a time in quarters of a day.
events = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 120)), max_size=80)


def table_of(rows) -> pa.Table:
    """Events of (user, item, quarter of a day), sorted as sample_pairs wants them; item ids carry user and time, for the tests to look at."""
    rows = sorted(set(rows), key=lambda row: (row[0], row[2], row[1]))
    users, items, quarters = (list(column) for column in zip(*rows)) if rows else ([], [], [])
    names = [f"{user}|{item}|{quarter}" for user, item, quarter in zip(users, items, quarters)]
    times = [quarter * DAY // 4 for quarter in quarters]
    return pa.table([[f"u{user}" for user in users], [hash_of(user) for user in users], names, times], schema=SCHEMA)


def hash_of(user: int) -> int:
    return (user + 1) * 0x5851F42D4C957F2D % 2**63 - 2**62


def plain(table: pa.Table) -> pa.Table:
    """The same events with item ids that repeat."""
    return table.set_column(2, "item_id", pa.array([name.split("|")[1] for name in table.column("item_id").to_pylist()]))


def pairs_of(table: pa.Table, batch_rows: int = 10_000, seed: int = 17, **keywords) -> list[tuple]:
    out = list(sample_pairs(table.to_batches(max_chunksize=batch_rows), PairsSettings(**keywords), seed))
    assert all(batch.schema == PAIRS for batch in out)
    return [tuple(row.values()) for batch in out for row in batch.to_pylist()]


@given(events, st.sampled_from([0.25, 1.0, 5.0]))
def test_pairs_are_of_one_user_different_items_and_strictly_less_than_beta_apart(rows, beta_days):
    for left, right, _ in pairs_of(table_of(rows), beta_days=beta_days):
        (user, item, early), (other, other_item, late) = left.split("|"), right.split("|")
        assert user == other and (item, early) != (other_item, late)
        assert 0 <= int(late) - int(early) < beta_days * 4


@given(events)
def test_items_of_a_pair_differ_where_items_repeat(rows):
    assert all(left != right for left, right, _ in pairs_of(plain(table_of(rows))))


def test_beta_is_exclusive():
    apart = {quarters: bool(pairs_of(table_of([(0, 0, 0), (0, 1, quarters)]), beta_days=5)) for quarters in (0, 1, 19, 20, 21)}
    assert apart == {0: True, 1: True, 19: True, 20: False, 21: False}


@settings(max_examples=60)
@given(events, st.integers(1, 90), st.integers(2, 9), st.integers(1, 6))
def test_the_cut_into_batches_says_nothing(rows, batch_rows, max_events, max_pairs):
    """Also for lives longer than `max_events_per_user`, whose runs are counted from their first event."""
    table = plain(table_of(rows))
    keywords = {"max_events_per_user": max_events, "max_pairs_per_user": max_pairs}
    assert pairs_of(table, batch_rows, **keywords) == pairs_of(table, 1_000, **keywords)


def test_a_life_longer_than_a_run_gives_the_same_pairs_in_one_batch_and_in_many():
    table = table_of([(user, event % 5, event) for user in range(3) for event in range(40)])
    keywords = {"max_events_per_user": 7, "max_pairs_per_user": 1_000}
    whole = pairs_of(table, 1_000, **keywords)
    assert all(pairs_of(table, batch_rows, **keywords) == whole for batch_rows in (1, 6, 7, 8, 39, 41, 80))
    assert all(int(left.split("|")[2]) // 7 == int(right.split("|")[2]) // 7 for left, right, _ in whole), "partners are sought within a run"


def test_order_keys_are_seeded():
    table = table_of([(user, item, item) for user in range(5) for item in range(6)])
    one, again, other = pairs_of(table), pairs_of(table), pairs_of(table, seed=18)
    assert one == again and {key for *_, key in one} & {key for *_, key in other} == set()
    assert len({key for *_, key in one}) == len(one)


def test_a_user_is_paired_the_same_whoever_else_is_there():
    mine = [(3, item, item) for item in range(6)]
    alone = pairs_of(table_of(mine))
    assert alone == [pair for pair in pairs_of(table_of(mine + [(user, item, item) for user in (0, 1, 4) for item in range(5)])) if pair[1][0] == "3"]


def test_a_life_of_50_000_events_gives_few_pairs_and_little_memory():
    settings = PairsSettings(max_pairs_per_user=32, max_events_per_user=500)
    held = []

    def batches():
        for start in range(0, 50_000, 1_000):
            numbers = np.arange(start, start + 1_000)
            yield pa.record_batch([
                ["u"] * 1_000, np.full(1_000, 7), [f"i{number % 97}" for number in numbers], numbers * DAY // 50,
            ], schema=SCHEMA)
            held.append(pa.total_allocated_bytes())

    (pairs,) = sample_pairs(batches(), settings, 17)
    assert pairs.num_rows == 32 and len(set(pairs.column("order_key").to_pylist())) == 32
    assert max(held) - held[0] < 2_000_000, "50,000 events take more than that"
    places = sorted(int(name[1:]) for name in pairs.column("left_item_id").to_pylist())
    assert len(set(places)) > 15, "drawn from all of the life"


def test_a_heavy_user_does_not_crowd_out_the_others():
    rows = [(0, item % 50, item // 3) for item in range(3_000)] + [(user, item, item) for user in range(1, 4) for item in range(10)]
    by_user = Counter(right[0] for _, right, _ in pairs_of(table_of(rows), max_pairs_per_user=9))
    assert by_user == {"0": 9, "1": 9, "2": 9, "3": 9}


def test_every_partner_has_its_chance():
    """An event is paired with one earlier event, drawn evenly from those near enough."""
    rows = [(user, item, item) for user in range(5) for item in range(10)]
    drawn = Counter()
    for seed in range(200):
        for left, right, _ in pairs_of(table_of(rows), seed=seed):
            if right.split("|")[1] == "9":
                drawn[int(left.split("|")[1])] += 1
    assert sorted(drawn) == list(range(9)) and sum(drawn.values()) == 1_000
    assert max(abs(count - 1_000 / 9) for count in drawn.values()) < 45


def test_nothing_in_nothing_out():
    assert list(sample_pairs([], PairsSettings(), 17)) == [] and pairs_of(SCHEMA.empty_table()) == []
    assert pairs_of(table_of([(0, 0, 0)])) == []
