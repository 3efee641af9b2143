"""A history as arrays: who did what when, and what the items say.

In: a `History`. Out: `Behaviours`, shared by all methods of that history. Here, and nowhere else, events at or after the cut and items that
nobody had touched before it are left out, so no method can read the future by accident.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from lurm.errors import InputError
from lurm.evaluation.baselines.fitted import fitted
from lurm.evaluation.baselines.method import History
from lurm.sampling import hash64_of_text

DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True)
class Behaviours:
    """E events of U users on I items; events of a user are neighbours, in order of time."""

    users: np.ndarray  # (U,) text, ascending
    offsets: np.ndarray  # (U+1,) int64: events of user u are offsets[u]:offsets[u+1]
    items: np.ndarray  # (E,) int64, numbers of items
    micros: np.ndarray  # (E,) int64, microseconds since 1970
    item_ids: np.ndarray  # (I,) text, ascending: those with events
    titles: list[str]  # (I,), empty where the catalogue has none
    categories: list[list[str]]  # (I,)
    cut: int  # microseconds since 1970; every event is before it

    @property
    def owners(self) -> np.ndarray:
        """(E,) int64, the user number of every event."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.offsets))

    @property
    def months(self) -> np.ndarray:
        """(E,) int64, months since 1970-01."""
        return self.micros.astype("M8[us]").astype("M8[M]").astype(np.int64)


def behaviours_of(history: History) -> Behaviours:
    """The history's events before its cut; made once a history. Raises InputError where nothing is left."""
    return fitted(history, "behaviours", lambda: _read(history))


def places_of(behaviours: Behaviours, users: Sequence[str]) -> np.ndarray:
    """(B,) int64 numbers of these users, -1 for those without events."""
    asked = np.asarray(users, dtype=object)
    if not len(asked):
        return np.zeros(0, np.int64)
    places = np.minimum(np.searchsorted(behaviours.users, asked), len(behaviours.users) - 1)
    return np.where(behaviours.users[places] == asked, places, -1)


def rows_for(behaviours: Behaviours, users: Sequence[str], matrix: np.ndarray | sparse.csr_matrix) -> np.ndarray | sparse.csr_matrix:
    """Rows of a matrix of all users (U, width), in the order asked, float32; zeros for users without events."""
    places = places_of(behaviours, users)
    known = places >= 0
    if sparse.issparse(matrix):
        keep = sparse.diags_array(known.astype(np.float32), format="csr")
        return sparse.csr_matrix(keep @ matrix[np.maximum(places, 0)]).astype(np.float32)
    rows = np.zeros((len(places), matrix.shape[1]), np.float32)
    rows[known] = matrix[places[known]]
    return rows


def training_users(behaviours: Behaviours, fewest: int, most: int | None, seed: int) -> np.ndarray:
    """Numbers of the users with at least `fewest` events, ascending; of more than `most` those with the smallest hashes."""
    chosen = np.flatnonzero(np.diff(behaviours.offsets) >= fewest)
    if most is not None and len(chosen) > most:
        chosen = np.sort(chosen[np.argsort(hash64_of_text(behaviours.users[chosen], seed), kind="stable")[:most]])
    return chosen


def _read(history: History) -> Behaviours:
    cut = int(np.datetime64(history.as_of, "us").astype(np.int64))
    events = history.events
    micros = events["timestamp"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    events = events.select(["user_id", "item_id"]).append_column("micros", micros).filter(pc.less(micros, cut))
    if not events.num_rows:
        raise InputError(f"Expected events before {history.as_of}, got none of {history.events.num_rows}; choose a later cut.")
    owner_names, owners = np.unique(events["user_id"].to_numpy(zero_copy_only=False).astype(object), return_inverse=True)
    item_ids, items = np.unique(events["item_id"].to_numpy(zero_copy_only=False).astype(object), return_inverse=True)
    moments = events["micros"].to_numpy()
    order = np.lexsort((moments, owners))  # stable: events of one instant stay as they came
    owners, items, moments = owners[order], items[order], moments[order]
    place = pc.index_in(pa.array(item_ids, pa.string()), history.items["item_id"].combine_chunks().cast(pa.string()))
    titles = ["" if title is None else title for title in history.items["title"].take(place).to_pylist()]
    categories = history.items["category"].take(place).to_pylist() if "category" in history.items.column_names else [None] * len(titles)
    return Behaviours(
        owner_names, np.searchsorted(owners, np.arange(len(owner_names) + 1)).astype(np.int64), items.astype(np.int64), moments,
        item_ids, titles, [list(names or ()) for names in categories], cut,
    )  # fmt: skip
