"""The reader of the published table: vectors of users, scans in Arrow batches. Needs numpy, pyarrow and deltalake only.

`open_table` follows the release pointer: without a date it reads the current release, with `as_of` the newest released date that is not
after it. What it opens is pinned; a release that is published meanwhile changes nothing for this reader.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lurm.errors import MissingInputError, UnknownUserError
from lurm.manifest import Snapshot
from lurm.periods import parse_as_of
from lurm.releases import released, releases
from lurm.schema import USER_EMBEDDINGS
from lurm.staging import read_files
from lurm.store import Store


class EmbeddingTable:
    """One released date of the user embeddings."""

    def __init__(self, store: Store, release: dict, snapshot: Snapshot):
        self._store, self._release, self._snapshot = store, release, snapshot
        self.as_of: str = release["as_of"]
        self.model_id: str = release["model_id"]
        self.n_anchors: int = release["n_anchors"]
        self.dim: int = release["dim"]  # width of one anchor; a vector has n_anchors * dim numbers
        self.n_users: int = release["n_users"]
        self.epoch: int = release["epoch"]
        self.version: int = release["table_version"]
        self.trained_as_of: str | None = release["trained_as_of"]  # the model has seen events before this date; None where it was not kept

    def __repr__(self) -> str:
        return f"EmbeddingTable(as_of={self.as_of}, model_id={self.model_id}, {self.n_users} users x {self.n_anchors} anchors x {self.dim})"

    def __len__(self) -> int:
        return self.n_users

    @property
    def future_model(self) -> bool:
        """Whether the model was trained on events at or after as_of: such vectors must not be used to predict what it has seen."""
        return (self.trained_as_of or "") > self.as_of

    def vectors(self, user_ids: Sequence[str], absent: str = "error") -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Embeddings of some users, (n, n_anchors * dim) float32, rows in the order asked; a user may be asked more than once.

        A user the table does not hold raises UnknownUserError, which names up to ten of them and has all in `.absent`; with
        absent="mask" the result is (vectors, known) instead, `known` (n,) bool, and unknown rows are zero.
        """
        if absent not in ("error", "mask"):
            raise ValueError(f"Expected absent to be 'error' or 'mask', got {absent!r}.")
        if isinstance(user_ids, str):
            raise ValueError(f"Expected a sequence of user ids, got the text {user_ids!r}; write [{user_ids!r}].")
        wanted = np.asarray([str(user) for user in user_ids], dtype=object)
        names, positions = np.unique(wanted, return_inverse=True) if len(wanted) else (wanted, np.zeros(0, np.int64))
        found = np.zeros((len(names), self.n_anchors * self.dim), dtype=np.float32)
        known = np.zeros(len(names), dtype=bool)
        for file, uri in zip(self._snapshot.files, self._snapshot.uris(), strict=True):
            low = np.searchsorted(names, file.first_key or "", side="left")
            high = np.searchsorted(names, file.last_key, side="right") if file.last_key is not None else len(names)
            if low < high:
                self._look_up(uri, names[low:high], found[low:high], known[low:high])
        if absent == "mask":
            return found[positions], known[positions]
        if not known.all():
            missing = [str(name) for name in names[~known]]
            shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
            raise UnknownUserError(
                f"Expected users of the table of {self.as_of}, it does not hold {len(missing)} of {len(names)}: {shown}; they had no usable "
                "event before that date (ask with absent='mask' to get the others).",
                missing,
            )
        return found[positions]

    def scan(self, columns: Sequence[str] | None = None, batch_rows: int = 8_192) -> Iterator[pa.RecordBatch]:
        """All rows in Arrow batches, users in ascending order within a file; memory is one batch."""
        if columns is not None:
            unknown = [name for name in columns if name not in USER_EMBEDDINGS.data_schema.names]
            if unknown:
                raise ValueError(f"Expected columns of {USER_EMBEDDINGS.data_schema.names}, got {unknown[0]!r}.")
        return read_files(self._store, self._snapshot.uris(), columns or USER_EMBEDDINGS.data_schema.names, batch_rows)

    def _look_up(self, uri: str, names: np.ndarray, found: np.ndarray, known: np.ndarray) -> None:
        """Fill rows of `found` from one file, reading only the row groups that hold a wanted user."""
        with self._store.filesystem.open_input_file(uri) as source:
            file = pq.ParquetFile(source)
            for group in range(file.num_row_groups):
                statistics = file.metadata.row_group(group).column(0).statistics
                if statistics is not None and statistics.has_min_max:
                    if np.searchsorted(names, statistics.max, side="right") == np.searchsorted(names, statistics.min, side="left"):
                        continue
                users = file.read_row_group(group, columns=["user_id"]).column("user_id").to_numpy()
                places = np.searchsorted(users, names)
                hits = np.flatnonzero(users[np.minimum(places, len(users) - 1)] == names)
                if len(hits):
                    column = file.read_row_group(group, columns=["embedding"]).column("embedding").combine_chunks()
                    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
                    matrix = column.flatten().to_numpy().reshape(len(users), -1)
                    found[hits] = matrix[places[hits]]
                    known[hits] = True


def open_table(uri: str, as_of: str | None = None) -> EmbeddingTable:
    """Open the released user embeddings of a warehouse.

    `as_of` (YYYY-MM-DD) reads the newest released date that is not after it. Raises MissingInputError when nothing is released.
    """
    store = Store(uri)
    release = released(store, parse_as_of(as_of) if as_of else None)
    if release is None:
        dates = sorted({row["as_of"] for row in releases(store)})
        have = f"the first one is of {dates[0]}" if dates else "it has none"
        wanted = f" on or before {as_of}" if as_of else ""
        raise MissingInputError(f"Expected a release{wanted} in {store.uri}, {have}; run `lurm run` or name a later date.")
    snapshot = store.snapshot(USER_EMBEDDINGS.name, release["table_version"]).where(as_of=release["as_of"], model_id=release["model_id"])
    return EmbeddingTable(store, release, snapshot)
