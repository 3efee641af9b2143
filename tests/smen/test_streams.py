"""States kept, advanced and folded again give what whole lives give: with months that close, late events, users who come and go."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lurm.bag_of_interests import batches_of, facts_of, lives_of, pack_counts, sum_periods
from lurm.manifest import Snapshot
from lurm.periods import month_name, month_number
from lurm.schema import BAGS, MONTH, TIMESTAMP, USER_EMBEDDINGS, USER_STATES
from lurm.smen import SMEN, streams
from lurm.smen.streams import Frozen, advance_states, changed_users, embed_lives, embed_states, fold_states
from lurm.staging import stage_table
from lurm.store import Store

GRID, D = 600, 6  # 2020-01
Cell = tuple[str, int, int, int]  # user, month, interest (-1: none), count


@pytest.fixture(scope="module")
def model() -> Frozen:
    smen = SMEN(D, n_anchors=3, dim=8, shared_gru=False).eval().requires_grad_(False)
    info = {"grid_start": GRID, "year_blocks": "calendar", "scales": ["month", "year"]}
    return Frozen(smen, info, smen.anchor_weights(torch.arange(D)), "cpu", 3)


def monthly_rows(cells: list[Cell]) -> dict[str, pa.RecordBatch]:
    """Rows of `bags` by month, through the packing that build-bags uses."""
    totals = Counter()
    for user, month, interest, count in cells:
        totals[month, user, interest] += count
    rows = []
    for (month, user, interest), count in sorted(totals.items()):
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=31 * month + interest)
        rows.append({"period": month_name(month), "user_id": user, "interest_id": None if interest < 0 else interest, "count": count,
                     "first_event_at": at, "last_event_at": at + timedelta(hours=count)})
    schema = pa.schema([("period", pa.string()), ("user_id", pa.string()), ("interest_id", pa.int32()), ("count", pa.int64()),
                        ("first_event_at", TIMESTAMP), ("last_event_at", TIMESTAMP)])
    if not rows:
        return {}
    packed = pa.Table.from_batches(list(pack_counts(pa.Table.from_pylist(rows, schema).to_batches(), ["period"])))
    return {month: packed.filter(pc.equal(packed["period"], month)) for month in sorted(set(packed["period"].to_pylist()))}


def bags_of(store: Store, cells: list[Cell], key: str, rows_per_file: int = 2) -> Snapshot:
    """Months and years of some cells, staged as build-bags lays them out in one bucket."""
    by_month = {month: rows.combine_chunks().to_batches()[0] for month, rows in monthly_rows(cells).items()}
    files = []

    def stage(scale: str, period: str, rows: pa.Table) -> None:
        partition = {"space_id": "s", "scale": scale, "period": period, "until": "2099-01-01", "bucket": "0"}
        for start in range(0, rows.num_rows, rows_per_file):
            files.append(stage_table(store, BAGS, key, partition, rows.slice(start, rows_per_file)))

    for month, batch in by_month.items():
        stage("month", month, pa.Table.from_batches([batch]))
    for year in sorted({month[:4] for month in by_month}):
        mine = [(month_number(month), batch) for month, batch in by_month.items() if month[:4] == year]
        facts = facts_of([batch for _, batch in mine])
        lives = lives_of(mine, facts.column("user_id").to_numpy())
        stage("year", year, pa.Table.from_batches([batches_of(sum_periods(lives), facts)]))
    return Snapshot(BAGS, 0, tuple(files), store.path("tables", BAGS.name))


def closed(bags: Snapshot, until: str) -> Snapshot:
    return bags.where(period=lambda period: period < (until[:7] if len(period) == 7 else until[:4]))


def still_open(bags: Snapshot, until: str) -> Snapshot:
    first = int(until[:4]) - 1970 == GRID // 12
    return bags.where(period=lambda period: period in (until[:7], until[:4]) or (first and len(period) == 4 and period < until[:4]))


def before(cells: list[Cell], end: int) -> list[Cell]:
    return [cell for cell in cells if cell[1] < end]


def kept(store: Store, batches, key: str) -> Snapshot:
    partition = {"model_id": "m", "until": key, "bucket": "0"}
    files = [stage_table(store, USER_STATES, f"states{key}", partition, pa.Table.from_batches([batch])) for batch in batches if batch.num_rows]
    return Snapshot(USER_STATES, 0, tuple(files), store.path("tables", USER_STATES.name))


def table_of(batches, schema) -> pa.Table:
    return pa.Table.from_batches([batch for batch in batches if batch.num_rows], schema).combine_chunks()


cell = st.tuples(st.sampled_from("abcdefgh"), st.integers(GRID - 3, GRID + 28), st.integers(-1, D - 1), st.integers(1, 3))


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], deadline=None)
@given(cells=st.lists(cell, min_size=1, max_size=60), late=st.lists(cell, max_size=6), since=st.integers(GRID + 1, GRID + 26),
       months=st.integers(0, 14))
def test_states_taken_on_are_states_folded_and_embed_alike(model, tmp_path_factory, cells, late, since, months):
    store = Store(str(tmp_path_factory.mktemp("w")))
    end = min(since + months, GRID + 28)
    first, then = f"{month_name(since)}-01", f"{month_name(end)}-01"
    old = closed(bags_of(store, before(cells, since + 1), "old"), first)
    known = before([*cells, *late], end + 1)  # all that is known when the month `end` is open
    new = bags_of(store, known, "new")
    states = kept(store, fold_states(model, store, old, first), first)
    changes = []
    for period in sorted({*old.where(scale=MONTH).values("period"), *closed(new, first).where(scale=MONTH).values("period")}):
        pair = [part.where(scale=MONTH, period=period).uris() for part in (old, new)]
        changes += [pair] if {uri.rpartition("-")[2] for uri in pair[0]} != {uri.rpartition("-")[2] for uri in pair[1]} else []
    counted = Counter()
    on = table_of(advance_states(model, store, states, first, closed(new, then), then, changes, counted), USER_STATES.data_schema)
    folded = table_of(fold_states(model, store, closed(new, then), then), USER_STATES.data_schema)
    assert on.equals(folded)
    earlier = set(late) & set(before(late, since))
    assert counted["folded_again"] <= len({user for user, *_ in earlier}) and on["user_id"].to_pylist() == sorted({c[0] for c in before(known, end)})

    whole = list(embed_lives(model, store, new, end + 1))
    cut = list(embed_states(model, store, kept(store, [folded.to_batches()[0]] if folded.num_rows else [], then), still_open(new, then), then))
    assert sum(absent for _, absent in whole) == sum(absent for _, absent in cut)
    whole, cut = (table_of([batch for batch, _ in part], USER_EMBEDDINGS.data_schema) for part in (whole, cut))
    assert whole.drop_columns("embedding").equals(cut.drop_columns("embedding"))
    vectors = [np.array(table["embedding"].to_pylist()) for table in (whole, cut)]
    assert np.allclose(*vectors, atol=1e-6) if len(whole) else True
    usable = {user for user, _, interest, _ in known if interest >= 0}
    assert cut["user_id"].to_pylist() == sorted(usable)


def test_who_changed(tmp_path):
    store = Store(str(tmp_path))
    cells = [("a", GRID, 1, 2), ("a", GRID, 3, 1), ("b", GRID, 1, 1), ("c", GRID, 2, 1), ("d", GRID, -1, 1)]
    now = [("a", GRID, 1, 2), ("a", GRID, 3, 1), ("b", GRID, 1, 2), ("d", GRID, 4, 1), ("e", GRID, 0, 1)]
    old, new = (bags_of(store, part, key).where(scale=MONTH).uris() for part, key in ((cells, "old"), (now, "new")))
    assert changed_users(store, [(old, new)]) == {"b", "c", "d", "e"} and changed_users(store, [(old, old)]) == frozenset()
    assert changed_users(store, [(old, []), ([], new)]) == set("abcde")
    swapped = [("a", GRID, 3, 2), ("a", GRID, 1, 1), *cells[2:]]
    assert changed_users(store, [(old, bags_of(store, swapped, "swapped").where(scale=MONTH).uris())]) == {"a"}


def test_with_an_old_file_gone_or_most_users_changed_the_bucket_is_folded(model, tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    cells = [(user, GRID + month, 1, 1) for user in "abc" for month in range(4)]
    bags = closed(bags_of(store, cells, "one"), "2020-05-01")
    states = kept(store, fold_states(model, store, closed(bags, "2020-04-01"), "2020-04-01"), "2020-04-01")
    folded = table_of(fold_states(model, store, bags, "2020-05-01"), USER_STATES.data_schema)
    uris = bags.where(scale=MONTH, period="2020-01").uris()
    for changes, most in (([([str(Path(uris[0]).with_name("gone.parquet"))], uris)], 20_000), ([(uris, [])], 0)):
        monkeypatch.setattr(streams, "MOST_CHANGED", most)
        counted = Counter()
        on = table_of(advance_states(model, store, states, "2020-04-01", bags, "2020-05-01", changes, counted), USER_STATES.data_schema)
        assert on.equals(folded) and not counted
