"""The point-in-time join of labels with released vectors, in bounded memory whatever the number of labels and their order.

In: batches of labels, the step function of `lurm.joining.point_in_time`, the files of each release. Out: batches of the same rows with embedding,
as_of and model_id. Two passes. First the labels are read once: each row learns its release, and rows of one release are put side by side,
on disk when they are many. Then every release that is needed is read once, a unit of row groups at a time, and all its labels are held
against the users of the unit (a hash look-up); only row groups with a user who is asked for have their vectors read. So rows come out by
release, not in the order of the labels.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lurm.errors import InputError, LineageError, UnknownUserError
from lurm.joining.embedding_units import list_column, units
from lurm.joining.label_frames import Labels, time_micros, user_texts
from lurm.joining.label_spill import Spill
from lurm.joining.point_in_time import NONE, Timeline
from lurm.manifest import Snapshot
from lurm.store import Store

ABSENT = ("null", "drop", "error")
ADDED = ("embedding", "as_of", "model_id")
FEWEST_ROWS = 16  # of a batch that comes out, however wide

log = logging.getLogger("lurm")


@dataclass
class JoinReport:
    """What became of the labels: rows in, rows with a vector, and why others have none. Complete when the last row has come out."""

    rows: int = 0
    with_vector: int = 0
    unknown_user: int = 0  # the release does not hold this user: no usable event before its date
    before_first_release: int = 0  # no release at or before the time, by the clock that was asked for
    future_model: int = 0  # only releases of models trained on events at or after the time
    no_time: int = 0
    no_user: int = 0
    releases: list[dict] = field(default_factory=list)  # epoch, as_of, model_id and rows of each release that rows were given

    @property
    def without_vector(self) -> int:
        return self.unknown_user + self.before_first_release + self.future_model + self.no_time + self.no_user

    def __str__(self) -> str:
        reasons = {
            "users their release does not hold": self.unknown_user, "times before the first release": self.before_first_release,
            "times for which every model had seen the future": self.future_model, "rows without a time": self.no_time,
            "rows without a user": self.no_user,
        }
        told = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
        dates = sorted(row["as_of"] for row in self.releases)
        models = sorted({row["model_id"] for row in self.releases})
        span = f" from {len(dates)} releases of {dates[0]} to {dates[-1]}, model {', '.join(models)}" if dates else ""
        return f"{self.rows:,} labels, {self.with_vector:,} with a vector{span}" + (f"; without: {told}" if told else "")


@dataclass(frozen=True)
class Join:
    """What is asked: the columns of the labels, the step functions, how to find the files of a release, and the limits.

    `anchors` are those that are wanted, in this order (None: all); `unrestricted` is the timeline without the rule against models of the
    future, for the report; `memory` bounds in bytes what the join itself holds at a time.
    """

    store: Store
    timeline: Timeline
    unrestricted: Timeline
    files_of: Callable[[dict], Snapshot]
    user: str
    time: str
    anchors: tuple[int, ...] | None = None
    absent: str = "null"
    mix_models: bool = False
    prefix: str = ""
    memory: int = 512 * 2**20
    scratch: str | None = None

    def names(self) -> list[str]:
        return [self.prefix + name for name in ADDED]

    def width(self, release: dict) -> int:
        """Numbers of an embedding in the result."""
        return (release["n_anchors"] if self.anchors is None else len(self.anchors)) * release["dim"]

    def check_names(self, names: Sequence[str]) -> None:
        """Raise InputError if the labels have a column already that the join adds."""
        for name in self.names():
            if name in names:
                raise InputError(f"Expected labels without a column {name!r}, which the join adds; rename it, or give prefix= (--prefix).")

    def schema(self, labels: pa.Schema) -> pa.Schema:
        """Columns of the result: those of the labels and the three that are added."""
        self.check_names(labels.names)
        kinds = (pa.list_(pa.float32()), pa.string(), pa.string())
        fields = [pa.field(name, kind) for name, kind in zip(self.names(), kinds, strict=True)]
        return pa.schema([*labels, *fields])


def joined(join: Join, labels: Labels, report: JoinReport) -> Iterator[pa.RecordBatch]:
    """Read all labels now, refuse what must be refused, and return the rows, which are joined as they are asked for.

    Raises InputError for labels that cannot be used and LineageError where rows would get vectors of two models; the rows raise
    UnknownUserError at the first one without a vector if `absent` is "error".
    """
    schema = join.schema(labels.schema)
    spill = Spill(labels.schema, join.memory // 8, join.scratch)
    for batch in labels.batches:
        spill.add(batch, *_placed(join, batch, report))
    spill.close()
    report.releases = [{**{name: join.timeline.releases[place][name] for name in ("epoch", "as_of", "model_id")}, "rows": n_rows}
                       for place, n_rows in sorted(spill.rows.items()) if place != NONE]
    check_models([join.timeline.releases[place] for place in sorted(spill.rows) if place != NONE], spill.rows, join)
    return _rows(join, schema, spill, report)


def check_models(used: Sequence[dict], rows: dict[int, int], join: Join) -> None:
    """Refuse rows of two models in one column (unless asked for), and of two shapes always. Raises LineageError."""
    models = list(dict.fromkeys(row["model_id"] for row in used))
    if len(models) > 1 and not join.mix_models:
        parts = []
        for model in models:
            dates = sorted(row["as_of"] for row in used if row["model_id"] == model)
            count = sum(n for place, n in rows.items() if place != NONE and join.timeline.releases[place]["model_id"] == model)
            parts.append(f"{model} ({len(dates)} dates from {dates[0]} to {dates[-1]}, {count:,} labels)")
        raise LineageError(f"Expected vectors of one model, the labels reach into {len(models)}: {'; '.join(parts)}; vectors of two models cannot be "
                           "compared: open the table with model= (--model), keep to labels of one of them, or say mix_models=True (--mix-models).")
    shapes = sorted({(row["n_anchors"], row["dim"]) for row in used})
    if len(shapes) > 1:
        told = " and ".join(f"{n_anchors} x {dim}" for n_anchors, dim in shapes)
        raise LineageError(f"Expected vectors of one shape, the labels reach into releases of {told}; open the table with model=.")


def _placed(join: Join, batch: pa.RecordBatch, report: JoinReport) -> tuple[pa.Array, np.ndarray]:
    """The users as text, and for each row the place of its release; reasons for none are counted."""
    users = user_texts(batch.column(join.user), join.user)
    micros, timed = time_micros(batch.column(join.time), join.time)
    named = pc.is_valid(users).to_numpy(zero_copy_only=False)
    usable = timed & named
    places = np.where(usable, join.timeline.at(micros), NONE).astype(np.int32)
    future = usable & (places == NONE) & (join.unrestricted.at(micros) != NONE)
    report.rows += batch.num_rows
    report.no_time += int((~timed).sum())
    report.no_user += int((timed & ~named).sum())
    report.future_model += int(future.sum())
    report.before_first_release += int((usable & (places == NONE) & ~future).sum())
    return users, places


def _rows(join: Join, schema: pa.Schema, spill: Spill, report: JoinReport) -> Iterator[pa.RecordBatch]:
    for number, place in enumerate(sorted(spill.rows)):
        if place == NONE:
            found: dict[int, np.ndarray] = {}
            release = None
        else:
            release = join.timeline.releases[place]
            log.info("join: release %d of %d, %s, %s labels", number + 1, len(spill.rows), release["as_of"], f"{spill.rows[place]:,}")
            found = {run: np.zeros(len(users), bool) for run, _, users in spill.batches(place)}
            yield from _of_release(join, schema, spill, place, release, found, report)
        for run, whole, users in spill.batches(place):
            missing = np.flatnonzero(~found[run]) if release else np.arange(len(users))
            if release:
                report.unknown_user += len(missing)
            if len(missing) and join.absent == "error":
                _refuse(users, missing, release, report)
            if len(missing) and join.absent == "null":
                rows = whole().take(pa.array(missing)).columns[: -1]
                nothing = [pa.nulls(len(missing), kind) for kind in schema.types[-len(ADDED):]]
                yield pa.RecordBatch.from_arrays([*rows, *nothing], schema=schema)
    log.log(logging.WARNING if report.without_vector else logging.INFO, "join: %s", report)


def _of_release(join: Join, schema: pa.Schema, spill: Spill, place: int, release: dict, found: dict[int, np.ndarray],
                report: JoinReport) -> Iterator[pa.RecordBatch]:
    """Rows whose user the release holds, unit by unit; `found` (one array a run) learns which these are."""
    anchors = join.anchors
    batch_rows = max(FEWEST_ROWS, join.memory // 16 // (4 * join.width(release)))
    n_labels = len(schema) - len(ADDED)
    ranges = [pc.min_max(users).as_py() for _, _, users in spill.batches(place)]
    names = min(part["min"] for part in ranges), max(part["max"] for part in ranges)
    for unit in units(join.store, join.files_of(release), join.memory // 4, release, names):
        for run, whole, users in spill.batches(place):
            if found[run].all():
                continue
            hits = pc.index_in(users, value_set=unit.users)
            here = pc.is_valid(hits).to_numpy(zero_copy_only=False)
            if not here.any():
                continue
            found[run] |= here
            rows, places = np.flatnonzero(here), hits.drop_null().to_numpy()
            report.with_vector += len(rows)
            labels = whole()
            for start in range(0, len(rows), batch_rows):
                some = labels.take(pa.array(rows[start : start + batch_rows]))
                vectors = unit.vectors(places[start : start + batch_rows], anchors)
                yield pa.RecordBatch.from_arrays([
                    *some.columns[:n_labels], list_column(vectors), pa.repeat(release["as_of"], len(some)), pa.repeat(release["model_id"], len(some)),
                ], schema=schema)


def _refuse(users: pa.Array, missing: np.ndarray, release: dict | None, report: JoinReport) -> None:
    names = [user for user in users.take(pa.array(missing[:1000])).to_pylist() if user is not None]
    if release is None:
        raise InputError(f"Expected a release for every label, {report.without_vector:,} have none ({report}); give absent='null' or 'drop' "
                         "(--absent).")
    shown = ", ".join(dict.fromkeys(names[:10]))
    raise UnknownUserError(f"Expected users of the release of {release['as_of']}, it does not hold {shown} and perhaps others; they had no "
                           "usable event before that date: give absent='null' or 'drop' (--absent).", list(dict.fromkeys(names)))
