"""The reader of the published table: vectors of users, scans in Arrow batches, the point-in-time join. Needs numpy, pyarrow and deltalake only.

Two clocks. **Event time** is what a vector has seen: `as_of` D means events before midnight UTC of D, and no others. **Publication time** is
when it could be had: from `released_at` of the move that released it, until a rollback took it back. `open_table` follows the release
pointer; `as_of` chooses by event time, `visible_at` by publication time (the moves made until that moment, rollbacks included), and both
may be given. What is opened is pinned: a release that is published meanwhile changes nothing for this reader.
"""

import importlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lurm.errors import InputError, MissingInputError, UnknownUserError
from lurm.joining.embedding_units import list_column
from lurm.joining.joined_frames import join_labels
from lurm.joining.label_join import ABSENT, Join, JoinReport
from lurm.joining.point_in_time import CLOCKS, EVENT, instant, opened, timeline, visible
from lurm.manifest import Snapshot
from lurm.periods import parse_as_of
from lurm.releases import coordinates, releases
from lurm.retirement import check_end
from lurm.schema import USER_EMBEDDINGS
from lurm.staging import read_files
from lurm.store import Store
from lurm.vector_pages import read_group, read_rows

# A row group of which less than this part is wanted is read vector by vector: of a disk an eighth, of an object store, where each is a request, less.
FEW, FEW_REQUESTS = 1 / 8, 1 / 128


class EmbeddingTable:
    """One released date of the user embeddings.

    `history` holds the moves that were visible when it was opened, oldest first; a join looks at them. `model` is what it is pinned to.
    """

    def __init__(self, store: Store, release: dict, snapshot: Snapshot, history: Sequence[dict] = (), model: str | None = None):
        self._store, self._release, self._snapshot = store, release, snapshot
        self._history, self._model = list(history) or [release], model
        self.as_of: str = release["as_of"]
        self.model_id: str = release["model_id"]
        self.n_anchors: int = release["n_anchors"]
        self.dim: int = release["dim"]  # width of one anchor; a vector has n_anchors * dim numbers
        self.n_users: int = snapshot.rows()  # not what the move says: an erasure changes the files first
        self.epoch: int = release["epoch"]
        self.version: int = release["table_version"]
        self.trained_as_of: str | None = release["trained_as_of"]  # the model has seen events before this date; None where it was not kept

    def __repr__(self) -> str:
        return f"EmbeddingTable(as_of={self.as_of}, model_id={self.model_id}, {self.n_users} users x {self.n_anchors} anchors x {self.dim})"

    def __len__(self) -> int:
        return self.n_users

    @property
    def aligned_to(self) -> str | None:
        """The model into whose space the vectors were turned when they were published (lurm.alignment); None if they are as the model made them."""
        space = coordinates(self._store, self.model_id)
        return None if space == self.model_id else space

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

    def scan(self, columns: Sequence[str] | None = None, batch_rows: int = 8_192, anchors: Sequence[int] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows in Arrow batches, users in ascending order within a file; memory is one batch.

        `columns` are those of the data files (not the partition columns); `anchors` keeps only the numbers of these anchors in `embedding`,
        in the order given. Raises ValueError for a column and InputError for an anchor that is not there.
        """
        if columns is not None:
            unknown = [name for name in columns if name not in USER_EMBEDDINGS.data_schema.names]
            if unknown:
                raise ValueError(f"Expected columns of {USER_EMBEDDINGS.data_schema.names}, got {unknown[0]!r}.")
        names, wanted = columns or USER_EMBEDDINGS.data_schema.names, self._anchors(anchors)
        batches = read_files(self._store, self._snapshot.uris(), names, batch_rows, schema=USER_EMBEDDINGS.data_schema)
        return batches if wanted is None or "embedding" not in names else (self._only(batch, wanted) for batch in batches)

    def files(self) -> list[str]:
        """The Parquet files of this release, for engines that read files: paths, or URIs in an object store. A folder also holds others."""
        return [f"{self._store.table_uri(USER_EMBEDDINGS.name)}/{file.path}" for file in self._snapshot.files]

    def to_numpy(self, users: Sequence[str] | None = None, anchors: Sequence[int] | None = None,
                 absent: str = "error") -> tuple[np.ndarray, np.ndarray]:
        """User ids (n,) and their vectors (n, anchors, dim) float32: of `users` in the order asked, or of everybody in the order of the table.

        A user the table does not hold raises UnknownUserError, or is left out with absent="drop". Everybody is n_users x n_anchors x dim x
        4 bytes of memory; `scan` takes a batch.
        """
        if absent not in ("error", "drop"):
            raise ValueError(f"Expected absent to be 'error' or 'drop', got {absent!r}.")
        wanted = self._anchors(anchors) or tuple(range(self.n_anchors))
        if users is not None:
            names = np.asarray([str(user) for user in users], dtype=object)
            found = self.vectors(users, absent="error" if absent == "error" else "mask")
            vectors, known = (found, np.ones(len(names), bool)) if absent == "error" else found
            numbers = vectors[known].reshape(-1, self.n_anchors, self.dim)
            return names[known], numbers if anchors is None else np.ascontiguousarray(numbers[:, list(wanted)])
        names, vectors, start = np.empty(self._snapshot.rows(), object), np.empty((self._snapshot.rows(), len(wanted), self.dim), np.float32), 0
        for batch in self.scan(["user_id", "embedding"], anchors=wanted):
            stop = start + batch.num_rows
            names[start:stop] = batch.column(0).to_numpy(zero_copy_only=False)
            vectors[start:stop] = batch.column(1).flatten().to_numpy().reshape(-1, len(wanted), self.dim)
            start = stop
        return names, vectors

    def to_torch(self, users: Sequence[str] | None = None, anchors: Sequence[int] | None = None, absent: str = "error"):
        """Like `to_numpy`, with a torch tensor (n, anchors, dim) on the CPU; tensor[:, i] is a view of one anchor."""
        torch = _optional("torch", "to_torch")
        names, vectors = self.to_numpy(users, anchors, absent)
        return names, torch.from_numpy(vectors)

    def to_pandas(self, users: Sequence[str] | None = None, anchors: Sequence[int] | None = None, absent: str = "error"):
        """Like `to_numpy`, as a pandas DataFrame: index user_id, a float32 column a number, called a<anchor>_<number> (a3_0, a3_1, ...)."""
        pandas = _optional("pandas", "to_pandas")
        names, vectors = self.to_numpy(users, anchors, absent)
        wanted = self._anchors(anchors) or range(self.n_anchors)
        columns = [f"a{anchor}_{number}" for anchor in wanted for number in range(self.dim)]
        return pandas.DataFrame(vectors.reshape(len(names), len(columns)), index=pandas.Index(names, name="user_id"), columns=columns)

    def join(self, labels, user: str = "user_id", time: str = "time", *, clock: str = EVENT, anchors: Sequence[int] | None = None,
             absent: str = "null", allow_future_model: bool = False, mix_models: bool = False, prefix: str = "", output: str | None = None,
             report: JoinReport | None = None, memory_mb: float = 512, scratch: str | None = None):
        """Give each row of `labels` the vector that its user had at its time, among releases that are not newer than this one.

        A row gets the newest release with as_of <= time (at midnight of as_of already), that no rollback took back. With
        clock="publication" the release must also have been published by then, by the moves made until that time: what a live consumer
        could have had. Columns added: `embedding` (list of float32; only `anchors` if given), `as_of`, `model_id`, each with `prefix`.

        labels: Arrow table, RecordBatchReader or dataset, pandas, polars or Spark frame, or a path of Parquet or CSV files. Frames come back
        as their kind with their rows in order; streams and paths as a RecordBatchReader whose rows come release by release; with `output`
        one Parquet file is written and the JoinReport returned. Times: timestamps (without a zone: UTC), dates (their midnight), ISO text.
        No more than about `memory_mb` are held beside what is handed back; labels that do not fit go to temporary files in `scratch`.

        Rows whose user the release does not hold, or without release, user or time: absent="null" keeps them with nulls, "drop" leaves them
        out, "error" raises UnknownUserError or InputError. `report`, a JoinReport, is filled with the counts, which are also logged.

        Vectors of a model that was trained on events at or after the label's time are never given, unless `allow_future_model`. Raises
        LineageError if rows would get vectors of two models, unless `mix_models`, and InputError for labels that cannot be used.
        """
        for name, value, allowed in (("clock", clock, CLOCKS), ("absent", absent, ABSENT)):
            if value not in allowed:
                raise ValueError(f"Expected {name} to be {' or '.join(map(repr, allowed))}, got {value!r}.")
        if clock != EVENT and self.epoch == 0:
            raise ValueError("Expected clock='event' for a candidate, got 'publication'; a candidate has never been published.")
        given = (self._history, self._release, clock)
        plan = Join(
            self._store, timeline(*given, allow_future_model, self._model), timeline(*given, True, self._model), partial(release_files, self._store),
            user, time, self._anchors(anchors), absent, mix_models, prefix, int(memory_mb * 2**20), scratch,
        )
        return join_labels(plan, labels, JoinReport() if report is None else report, output)

    def _anchors(self, anchors: Sequence[int] | None) -> tuple[int, ...] | None:
        if anchors is None:
            return None
        wanted = tuple(int(anchor) for anchor in anchors)
        wrong = [anchor for anchor in wanted if not 0 <= anchor < self.n_anchors]
        if wrong or not wanted:
            came = f"got {wrong[0]}" if wrong else "got none"
            raise InputError(f"Expected anchors from 0 to {self.n_anchors - 1}, {came}; anchors of {self.model_id} are counted from 0.")
        return wanted

    def _only(self, batch: pa.RecordBatch, anchors: tuple[int, ...]) -> pa.RecordBatch:
        place = batch.schema.get_field_index("embedding")
        numbers = batch.column(place).flatten().to_numpy().reshape(batch.num_rows, self.n_anchors, self.dim)[:, list(anchors)]
        return batch.set_column(place, "embedding", list_column(numbers.reshape(batch.num_rows, len(anchors) * self.dim)))

    def _look_up(self, uri: str, names: np.ndarray, found: np.ndarray, known: np.ndarray) -> None:
        """Fill rows of `found` from one file, reading only the vectors, or the row groups, of wanted users."""
        with self._store.filesystem.open_input_file(uri) as source:
            file, asked = pq.ParquetFile(source), pa.array(names, pa.string())
            for group in range(file.num_row_groups):
                statistics = file.metadata.row_group(group).column(0).statistics
                if statistics is not None and statistics.has_min_max:
                    if np.searchsorted(names, statistics.max, side="right") == np.searchsorted(names, statistics.min, side="left"):
                        continue
                users = file.read_row_group(group, columns=["user_id"]).column("user_id")
                rows = np.flatnonzero(pc.is_in(users, asked).to_numpy())
                if not len(rows):
                    continue
                hits = np.searchsorted(names, users.take(pa.array(rows)).to_numpy())
                told, few = file.metadata.row_group(group), len(rows) < len(users) * (FEW if self._store.is_local else FEW_REQUESTS)
                vectors = read_rows(source, told, "embedding", rows) if few else read_group(source, told, "embedding")
                if vectors is not None:
                    vectors = vectors if few else vectors[rows]
                else:
                    column = file.read_row_group(group, columns=["embedding"]).column("embedding").combine_chunks()
                    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
                    vectors = column.flatten().to_numpy().reshape(len(users), -1)[rows]
                found[hits], known[hits] = vectors, True


def open_table(uri: str, as_of: str | None = None, *, model: str | None = None, epoch: int | None = None,
               visible_at: str | datetime | None = None, today: str | None = None) -> EmbeddingTable:
    """Open the released user embeddings of a warehouse; without more, what the release pointer names now.

    `as_of` (YYYY-MM-DD): event time, the newest released date that is not after it. `visible_at` (ISO text or datetime, without a zone UTC):
    publication time, what this call would have opened at that moment, by the moves of the pointer made until then; a training set that is
    to be made again names it. `model`: the newest release of that model, also when the pointer has gone on to another one. `epoch`: exactly
    that move (`lurm releases` shows them), with the moves until then as its history. Raises MissingInputError when there is no such release.

    A model may have an announced end (lurm.retirement): who names it by `model` or `epoch` gets a RetirementWarning until that day and a
    MissingInputError after it. `today` (YYYY-MM-DD) stands for the clock there.
    """
    if epoch is not None and (as_of, model, visible_at) != (None, None, None):
        raise ValueError(f"Expected epoch={epoch} alone, which says everything, got as_of, model or visible_at beside it.")
    store = Store(uri)
    moves = releases(store)
    at = None if visible_at is None else instant(visible_at)
    history = visible(moves, at) if epoch is None else [row for row in moves if row["epoch"] <= epoch]
    if epoch is not None:
        release = next((row for row in history if row["epoch"] == epoch), None)
    else:
        release = opened(history, parse_as_of(as_of) if as_of else None, model)
    if release is None:
        raise MissingInputError(_nothing(store, moves, as_of, model, epoch, visible_at))
    check_end(store, release, opened(moves), model is not None or epoch is not None, today)
    return EmbeddingTable(store, release, release_files(store, release), history, model)


def release_files(store: Store, release: dict) -> Snapshot:
    """The files of user_embeddings that a release names."""
    pinned = store.snapshot(USER_EMBEDDINGS.name, release["table_version"])
    return pinned.where(as_of=release["as_of"], model_id=release["model_id"])


def _nothing(store: Store, moves: list[dict], as_of: str | None, model: str | None, epoch: int | None, visible_at: str | datetime | None) -> str:
    """The sentence for a release that is not there."""
    wanted = "".join([f" of {model}" if model else "", f" on or before {as_of}" if as_of else "", f" visible at {visible_at}" if visible_at else ""])
    if not moves:
        return f"Expected a release{wanted} in {store.uri}, it has none; run `lurm run`."
    if epoch is not None:
        return f"Expected epoch {epoch} in {store.uri}, its epochs are 1 to {moves[-1]['epoch']}; choose one of them (`lurm releases` shows them)."
    rows = [row for row in moves if model in (None, row["model_id"])]
    if not rows:
        return f"Expected a release{wanted} in {store.uri}, its models are {', '.join(sorted({row['model_id'] for row in moves}))}; name one of them."
    if as_of is None and visible_at is None:
        return (f"Expected a release{wanted} in {store.uri}, all of its dates were taken back by a rollback; name an as_of, or an epoch "
                "(`lurm releases` shows them).")
    first = f"the first one is of {min(row['as_of'] for row in rows)}"
    if visible_at is not None:
        first += f", released at {rows[0]['released_at'].isoformat(timespec='seconds')}"
    return f"Expected a release{wanted} in {store.uri}, {first}; run `lurm run` or name a later date."


def _optional(library: str, method: str):
    """A library that the reader can do without, loaded when somebody asks for what it makes."""
    try:
        return importlib.import_module(library)
    except ImportError:
        raise MissingInputError(f"Expected {library} to be installed for {method}(), it is not; pip install {library}, or use to_numpy().") from None
