"""A whole pipeline after an erasure: whatever is tried, the person does not come back, and everybody else has what he had, bit for bit."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from erasable import KEY, live_rows, places_of, released_rows
from small_pipeline import AS_OF, PINNED_STAGES, STAGE_NAMES, content, make_context, published, rows_of, run, source_overrides, write_events

from lurm import open_table
from lurm.backfill import backfill, plan
from lurm.erasing.erasure import erase
from lurm.lineage import Context
from lurm.releases import releases, rollback
from lurm.schema import BAGS, EVENTS, USER_STATES

pytestmark = pytest.mark.slow
LATER = "2021-03-01"


def copy_of(finished, folder: Path, world: Path, model: bool = True) -> Context:
    """The finished warehouse and its log, to be changed."""
    context, _ = finished
    shutil.copytree(context.store.root, folder / "warehouse")
    return make_context(folder / "warehouse", AS_OF, context.spark, *source_overrides(world),
                        **({"model_id": context.trained_model_id()} if model else {}))


def busiest(context: Context, n: int) -> list[str]:
    """Users with events in the most months: nobody is harder to get rid of."""
    months: dict[str, set] = {}
    for row in rows_of(context.store, "events"):
        months.setdefault(row["user_id"], set()).add(row["month"])
    return sorted(months, key=lambda user: (-len(months[user]), user))[:n]


def test_the_person_does_not_come_back(finished, world, tmp_path, monkeypatch):
    monkeypatch.setenv("LURM_SUPPRESSION_KEY", KEY)
    log = tmp_path / "world"
    shutil.copytree(world, log)  # keeps the times of the files; the listing has another path, so the log is read again
    pinned = copy_of(finished, tmp_path, world)
    store, gone = pinned.store, busiest(pinned, 2)
    counted, shown, states = live_rows(store, BAGS), released_rows(store), live_rows(store, USER_STATES)
    n_before = {user: len([row for row in counted if user in row]) for user in gone}
    assert min(n_before.values()) > 10
    users, vectors = published(store, AS_OF)
    others = ~np.isin(users, gone)

    proof = erase(store, gone)
    assert proof["rescan"]["found"] == 0 and proof["persons_found"] == 2

    def nobody_came_back() -> None:
        assert [places_of(store.root, user) for user in gone] == [set(), set()]

    nobody_came_back()
    assert released_rows(store) == {epoch: {user: vector for user, vector in rows.items() if user not in gone} for epoch, rows in shown.items()}
    months = [row for row in counted if "'month'" in row and not any(user in row for user in gone)]
    assert [row for row in live_rows(store, BAGS) if "'month'" in row] == months
    erased = {table: content(store, table) for table in ("events", "bags", "user_states")}

    # The same day once more: the log is not read again, months are counted again and give the very same bytes, so nobody is folded again.
    reports = run(pinned, PINNED_STAGES)
    assert reports["ingest"]["events"] == {"skipped": "nothing new"} and reports["update-states"]["folded_again"] == 0
    assert {table: content(store, table) for table in erased} == erased, "what an erasure leaves is what is counted from the events that are left"
    assert live_rows(store, USER_STATES) == [row for row in states if not any(user in row for user in gone)]
    now = published(store, AS_OF)
    assert np.array_equal(now[0], users[others]) and np.array_equal(now[1], vectors[others]), "everybody else, bit for bit"
    nobody_came_back()

    # A backfill finds the date done; the whole log read again still holds them, and so do late events.
    assert [day.status for day in plan(pinned, {AS_OF: pinned.model_id})] == ["done"]
    moved = make_context(tmp_path / "warehouse", AS_OF, pinned.spark, *source_overrides(log), model_id=pinned.model_id)
    figures = run(moved, ["ingest"])["ingest"]["events"]
    assert figures["suppressed"] >= sum(n_before.values()) and figures["kept"] == store.snapshot(EVENTS.name).rows()
    assert content(store, "events") == erased["events"]
    nobody_came_back()
    items = [row["item_id"] for row in rows_of(store, "items")][:2]
    write_events(log / "events" / "late.parquet", [(gone[0], items[0], "2020-03-03T03:03:03"), ("somebody-new", items[1], "2020-03-03T03:03:03")])
    os.utime(log / "events" / "late.parquet", (1.7e9, 1.7e9))
    settled = backfill(moved, plan(moved, {AS_OF: pinned.model_id, "2021-01-01": pinned.model_id}))
    assert {day.status for day in settled} <= {"done", "missing"} and "somebody-new" in open_table(store.uri, AS_OF).to_numpy()[0]
    nobody_came_back()

    # Back to the release that held them, and a new model from the beginning.
    rollback(store, epoch=1)
    assert set(open_table(store.uri).to_numpy()[0]) == set(users[others]) == set(released_rows(store)[1])
    nobody_came_back()
    reports = run(make_context(tmp_path / "warehouse", LATER, pinned.spark, *source_overrides(log)), STAGE_NAMES)
    assert reports["publish"]["released"] and releases(store)[-1]["model_id"] != pinned.model_id
    assert "somebody-new" in open_table(store.uri).to_numpy()[0]
    nobody_came_back()
