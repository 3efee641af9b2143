"""Histories of releases with moments of their own, and the join as a slow loop that says what is right."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from published import DIM, N_ANCHORS, publish_day, vector

from lurm.releases import move_release, releases
from lurm.schema import RELEASES
from lurm.staging import stage_table
from lurm.store import Store, actions_of


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def micros(moment: datetime) -> int:
    return int(np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "us").astype(np.int64))


def rewrite(store: Store, **columns) -> None:
    """Give the moves of a warehouse other values: one of each column for every move, oldest first."""
    delta, before = store.load(RELEASES.name), store.snapshot(RELEASES.name)
    rows = [{**row, **{name: values[place] for name, values in columns.items()}} for place, row in enumerate(releases(store))]
    staged = stage_table(store, RELEASES, "rewritten", {}, pa.Table.from_pylist(rows, RELEASES.schema))
    assert store.commit_on(delta, RELEASES, actions_of(before.files, [staged], RELEASES, {}), {"run_key": "rewritten"}) is not None


def publish_history(store: Store, moves: list[tuple[str, str, str]], users: dict[str, list[str]], trained: dict[str, str] | None = None) -> None:
    """Publish (as_of, model_id, released_at) one after the other; a date that goes back is a rollback if it is there already.

    `users` are those of each date, `trained` the training date of each model.
    """
    for as_of, model_id, _ in moves:
        same = [row for row in releases(store) if (row["as_of"], row["model_id"]) == (as_of, model_id)]
        if same:
            row = {name: value for name, value in same[-1].items() if name not in ("epoch", "released_at")}
            move_release(store, {**row, "current": True, "reason": "rollback"})
        else:
            publish_day(store, as_of, users[as_of], model_id=model_id)
    rewrite(store, released_at=[at(moment) for *_, moment in moves], trained_as_of=[(trained or {}).get(model_id) for _, model_id, _ in moves])


def slow_choice(history: list[dict], newest: dict, moment: datetime, clock: str, allow_future_model: bool) -> dict | None:
    """The rule of the join, written as a loop over all moves for one instant."""
    seen = [row for row in history if clock == "event" or row["released_at"] <= moment]
    taken_back, pointer = set(), None
    for row in seen:
        if row["current"]:
            if pointer is not None and row["as_of"] < pointer["as_of"]:
                taken_back |= {old["epoch"] for old in seen if old["epoch"] < row["epoch"] and old["as_of"] > row["as_of"]}
            pointer = row
    best = None
    for row in seen:
        midnight = at(row["as_of"])
        leaks = bool(row["trained_as_of"]) and at(row["trained_as_of"]) > moment
        if row["epoch"] in taken_back or row["as_of"] > newest["as_of"] or midnight > moment or (leaks and not allow_future_model):
            continue
        if best is None or (row["as_of"], row["epoch"]) > (best["as_of"], best["epoch"]):
            best = row
    return best


def slow_join(history: list[dict], newest: dict, users: dict[str, list[str]], labels: list[tuple[str | None, datetime | None]], clock: str = "event",
              allow_future_model: bool = False, anchors: tuple[int, ...] = tuple(range(N_ANCHORS))) -> list[tuple | None]:
    """For each (user, time): (as_of, model_id, vector) or None."""
    found = []
    for user, moment in labels:
        row = slow_choice(history, newest, moment, clock, allow_future_model) if user and moment else None
        if row is None or user not in users[row["as_of"]]:
            found.append(None)
        else:
            numbers = vector(user, row["as_of"]).reshape(N_ANCHORS, DIM)[list(anchors)].reshape(-1)
            found.append((row["as_of"], row["model_id"], numbers.tolist()))
    return found
