"""Announced ends of models: until when readers who have pinned a model may go on reading it, and what they are told meanwhile.

In: a model, a date, a reason. Out: retirements/<model_id>.json in the warehouse, which readers look at when they open a table. A reader
who is pinned to the model (by its id or by an epoch) is warned until the date and refused after it; a reader who follows the pointer is
refused nothing of the model that it points at. Stages never look here and never ask the clock: an end is between operators and readers. A vacuum
after the end takes the tables of the model out of the warehouse, and from then on the end cannot be cancelled.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime

from lurm.errors import ConfigError, MissingInputError, StoreError
from lurm.schema import USER_EMBEDDINGS
from lurm.store import Store

FOLDER = "retirements"


class RetirementWarning(FutureWarning):
    """What a reader gets who has pinned a model whose end is announced; shown by default, once a place in the code."""


@dataclass(frozen=True)
class End:
    """The announced end of one model."""

    model_id: str
    after: str  # YYYY-MM-DD (UTC): the last day on which it can be read
    reason: str
    announced_at: str  # ISO time in UTC
    taken_out_at: str | None = None  # when a vacuum took its tables out; they cannot come back

    def is_over(self, today: str) -> bool:
        return self.taken_out_at is not None or today > self.after


def ends(store: Store) -> dict[str, End]:
    """All announced ends, by model, the earliest first."""
    found = [_read(store, entry.path) for entry in store.list_files(FOLDER) if entry.path.endswith(".json")]
    return {end.model_id: end for end in sorted(found, key=lambda end: (end.after, end.model_id))}


def end_of(store: Store, model_id: str) -> End | None:
    """The announced end of one model, None if there is none; one look at one file."""
    return _read(store, store.path(FOLDER, f"{model_id}.json")) if store.exists(FOLDER, f"{model_id}.json") else None


def announce_end(store: Store, model_id: str, after: str, reason: str = "") -> End:
    """Announce (or move) the end of a model; raises MissingInputError for a model without a table, ConfigError for no date."""
    known = store.snapshot(USER_EMBEDDINGS.name).values("model_id")
    if model_id not in known:
        raise MissingInputError(f"Expected a model with a table in {store.uri} ({', '.join(known) or 'there is none'}), got {model_id!r}; "
                                "`lurm releases` shows them.")
    try:
        last_day = date.fromisoformat(after).isoformat()
    except ValueError:
        raise ConfigError(f"Expected the last day of a model as YYYY-MM-DD, got {after!r}; write for example 2022-06-30.") from None
    end = End(model_id, last_day, " ".join(reason.split()), datetime.now(UTC).isoformat(timespec="seconds"))
    _write(store, end)
    return end


def cancel_end(store: Store, model_id: str) -> End:
    """Take back an announcement; returns what it was. Raises MissingInputError if there is none, StoreError if it has come true."""
    end = end_of(store, model_id)
    if end is None:
        announced = ", ".join(ends(store)) or "none"
        raise MissingInputError(f"Expected a model whose end is announced, got {model_id!r}; announced are: {announced}.")
    if end.taken_out_at is not None:
        raise StoreError(f"Expected an end that has not come, the tables of {model_id} were taken out on {end.taken_out_at[:10]}; embed and publish "
                         "the dates again that are still needed.")
    store.delete(store.path(FOLDER, f"{model_id}.json"))
    return end


def mark_taken_out(store: Store, end: End) -> None:
    """Say for ever that the tables of a model are gone."""
    _write(store, replace(end, taken_out_at=datetime.now(UTC).isoformat(timespec="seconds")))


def check_end(store: Store, release: Mapping, now: Mapping | None, pinned: bool, today: str | None = None) -> None:
    """What a reader does who is about to open `release` while readers follow `now` (rows of releases).

    Warns (RetirementWarning) if the reader is pinned to the release's model and its end is announced; raises MissingInputError once the
    end is over, unless the reader is not pinned and the model is the present one. `today` is YYYY-MM-DD (default: the clock's, in UTC).
    """
    end = end_of(store, release["model_id"])
    if end is None or not pinned and now is not None and release["model_id"] == now["model_id"]:
        return
    successor = f"its successor is {now['model_id']}" if now is not None and now["model_id"] != end.model_id else "it has no released successor yet"
    because = f" ({end.reason})" if end.reason else ""
    if end.is_over(today or datetime.now(UTC).date().isoformat()):
        raise MissingInputError(f"Expected a model that can still be read, {end.model_id} ended after {end.after}{because}; {successor}.")
    if pinned:
        sentence = f"{end.model_id} can be read until {end.after}{because}; {successor}."
        warnings.warn(sentence, RetirementWarning, stacklevel=4)  # points at who called lurm.open_table


def _read(store: Store, path: str) -> End:
    try:
        return End(**json.loads(store.read_bytes(path)))
    except (ValueError, TypeError) as error:
        raise StoreError(f"Expected the announced end of a model in {path}, could not read it ({error}); announce it again.") from None


def _write(store: Store, end: End) -> None:
    store.write_bytes(store.path(FOLDER, f"{end.model_id}.json"), json.dumps(asdict(end), indent=1).encode())
