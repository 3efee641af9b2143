"""A release read a piece at a time: units of neighbouring row groups, their users first and vectors only where somebody asks for them.

In: the files of a release. Out: units that fit a number of bytes. Files of a table are cut by a hash of the user, so every file spans all
names, and which file holds a user cannot be told from the names alone; a unit is looked into by a hash table of its users.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lurm.errors import StoreError
from lurm.manifest import Snapshot
from lurm.store import Store


@dataclass
class Unit:
    """Neighbouring row groups of a file: the users, (n,) text, and their vectors, which are read when the first one is asked for."""

    store: Store
    uri: str
    groups: list[int]
    starts: np.ndarray  # first row of each group, and the number of rows
    users: pa.Array
    n_anchors: int
    _matrix: np.ndarray | None = None
    _there: np.ndarray | None = None

    def vectors(self, rows: np.ndarray, anchors: Sequence[int] | None) -> np.ndarray:
        """(n, wanted anchors x dim) float32 of some rows of the unit."""
        wanted = np.unique(np.searchsorted(self.starts, rows, side="right") - 1)
        missing = wanted if self._there is None else wanted[~self._there[wanted]]
        if len(missing):
            self._load(missing.tolist(), anchors)
        return self._matrix[rows]

    def _load(self, missing: list[int], anchors: Sequence[int] | None) -> None:
        with _Parquet(self.store, self.uri) as file:
            for place in missing:
                column = file.read_row_group(self.groups[place], columns=["embedding"]).column("embedding").combine_chunks()
                column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
                start, stop = self.starts[place : place + 2]
                values = column.flatten().to_numpy().reshape(stop - start, self.n_anchors, -1)
                values = (values if anchors is None else values[:, list(anchors)]).reshape(stop - start, -1)
                if self._matrix is None:
                    self._matrix, self._there = np.empty((len(self.users), values.shape[1]), np.float32), np.zeros(len(self.groups), bool)
                self._matrix[start:stop], self._there[place] = values, True


def units(store: Store, snapshot: Snapshot, n_bytes: int, release: dict, names: tuple[str, str]) -> Iterator[Unit]:
    """The files of a release, cut at row groups into pieces whose vectors take about `n_bytes`; at least one row group each.

    Row groups without a user between the first and the last of `names` are left out.
    """
    rows_of_unit = max(1, n_bytes // (4 * release["n_anchors"] * release["dim"]))
    for data, uri in zip(snapshot.files, snapshot.uris(), strict=True):
        if _outside(data.first_key, data.last_key, names):
            continue
        with _Parquet(store, uri) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            pieces: list[list[int]] = []
            for group, n_rows in enumerate(sizes):
                told = file.metadata.row_group(group).column(0).statistics
                if told is not None and told.has_min_max and _outside(told.min, told.max, names):
                    continue
                if not pieces or sum(sizes[other] for other in pieces[-1]) + n_rows > rows_of_unit:
                    pieces.append([])
                pieces[-1].append(group)
            for groups in pieces:
                users = pa.concat_arrays(file.read_row_groups(groups, columns=["user_id"]).column("user_id").chunks)
                yield Unit(store, uri, groups, np.cumsum([0, *(sizes[group] for group in groups)]), users, release["n_anchors"])


def _outside(low: str | None, high: str | None, names: tuple[str, str]) -> bool:
    return low is not None and high is not None and (high < names[0] or low > names[1])


class _Parquet:
    """An open Parquet file of the table, its faults as sentences."""

    def __init__(self, store: Store, uri: str):
        self.store, self.uri = store, uri

    def __enter__(self) -> pq.ParquetFile:
        try:
            self._source = self.store.filesystem.open_input_file(self.uri)
            return pq.ParquetFile(self._source)
        except (pa.ArrowInvalid, OSError) as error:
            raise StoreError(f"Expected a whole Parquet file at {self.uri}, could not read it ({error}); restore it or rebuild its table.") from None

    def __exit__(self, kind, error, trace) -> None:
        self._source.close()


def list_column(vectors: np.ndarray, known: np.ndarray | None = None) -> pa.ListArray:
    """A matrix (n, width) float32 as a column of lists, without a copy; rows that are not `known` (n,) bool are null."""
    offsets = pa.array(np.arange(len(vectors) + 1, dtype=np.int32) * np.int32(vectors.shape[1]))
    mask = None if known is None or known.all() else pa.array(~known)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(vectors).reshape(-1)), mask=mask)
