"""Rows of labels put side by side by release, on disk when they are many.

In: batches of rows and for each row a number, the place of its release. Out: for a place all its rows, run by run. A run is one Arrow file
with one record batch a place, so that a place is read without reading others.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pyarrow as pa

from lurm.errors import StoreError

USER = "__lurm_user"  # the last column of a run: the user as text


class Spill:
    """Sorted runs of about `run_bytes`, all but the last on disk; `rows` counts the rows of each place. Files are gone when the object is."""

    def __init__(self, schema: pa.Schema, run_bytes: int, scratch: str | None):
        self.schema, self.run_bytes, self.scratch = pa.schema([*schema, (USER, pa.string())]), run_bytes, scratch
        self.rows: dict[int, int] = {}
        self._pieces: list[pa.RecordBatch] = []
        self._places: list[np.ndarray] = []
        self._n_bytes = 0
        self._runs: list[dict[int, int]] = []  # release -> number of its batch in the file of the run
        self._last: dict[int, pa.RecordBatch] = {}
        self._folder: tempfile.TemporaryDirectory | None = None

    def add(self, batch: pa.RecordBatch, users: pa.Array, places: np.ndarray) -> None:
        """Rows of labels, their users as text, and the place (release) of each, (n,) int32."""
        rows = pa.RecordBatch.from_arrays([*batch.columns, users], schema=self.schema)
        self._pieces.append(rows)
        self._places.append(places)
        self._n_bytes += rows.nbytes + places.nbytes
        if self._n_bytes >= self.run_bytes:
            self._write(self._sorted())

    def close(self) -> None:
        """No more rows: the last run stays in memory."""
        self._last = dict(self._sorted())

    def batches(self, place: int) -> Iterator[tuple[int, Callable[[], pa.RecordBatch], pa.Array]]:
        """Of every run: its number, a function that gives all columns of the rows of a place, and their users."""
        only_users = [len(self.schema) - 1]
        for run, index in enumerate(self._runs):
            if place in index:
                yield run, partial(self._read, run, index[place]), self._read(run, index[place], only_users).column(0)
        if place in self._last:
            yield len(self._runs), partial(self._last.get, place), self._last[place].column(USER)

    def _sorted(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        if not self._pieces:
            return
        places = np.concatenate(self._places)
        order = np.argsort(places, kind="stable")
        rows = pa.Table.from_batches(self._pieces).combine_chunks()
        self._pieces, self._places, self._n_bytes = [], [], 0
        found, starts = np.unique(places[order], return_index=True)
        for place, start, stop in zip(found.tolist(), starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True):
            self.rows[place] = self.rows.get(place, 0) + stop - start
            (batch,) = rows.take(pa.array(order[start:stop])).combine_chunks().to_batches()
            yield place, batch

    def _write(self, batches: Iterator[tuple[int, pa.RecordBatch]]) -> None:
        try:
            self._folder = self._folder or tempfile.TemporaryDirectory(prefix="lurm-join-", dir=self.scratch)
            index = {}
            with pa.OSFile(self._path(len(self._runs)), "wb") as sink, pa.ipc.new_file(sink, self.schema) as writer:
                for number, (place, batch) in enumerate(batches):
                    writer.write_batch(batch)
                    index[place] = number
            self._runs.append(index)
        except OSError as error:
            raise StoreError(f"Could not keep labels in {self.scratch or tempfile.gettempdir()} ({error.strerror or error}); name a folder with "
                             "space as scratch= (--scratch).") from None

    def _read(self, run: int, number: int, columns: list[int] | None = None) -> pa.RecordBatch:
        with pa.OSFile(self._path(run)) as source:
            return pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=columns)).get_batch(number)

    def _path(self, run: int) -> str:
        return os.path.join(self._folder.name, f"{run}.arrow")
