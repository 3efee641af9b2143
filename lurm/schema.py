"""Names and Arrow schemas of every table: the language that the stages share.

A stage writes exactly the columns listed here, in this order. Partition columns are part of the table but not of its data files (the
Delta log carries their values), so `data_schema` leaves them out.

Two tables are read by others than lurm, and what they hold is promised (lurm.contract): each of their columns says in `columns` what it
means and since which version of the schema it is there; docs/table.md is written from these texts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")

MONTH, YEAR = "month", "year"
SCALES = (MONTH, YEAR)


@dataclass(frozen=True)
class Column:
    """What a promised column means to those who read it, and the version of the schema that brought it."""

    meaning: str
    since: str = "1.0"


@dataclass(frozen=True)
class Table:
    """One table: its columns, which of them are partitions, and how the rows of a file are sorted."""

    name: str
    schema: pa.Schema
    partition_by: tuple[str, ...]
    sorted_by: tuple[str, ...]
    summary: str
    columns: Mapping[str, Column] = field(default_factory=dict, compare=False)  # of a table that others read; empty: nothing is promised

    @property
    def data_schema(self) -> pa.Schema:
        """Columns of the data files: everything but the partition columns."""
        return pa.schema([field for field in self.schema if field.name not in self.partition_by])


EVENTS = Table(
    "events",
    pa.schema([
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", TIMESTAMP),
        ("weight", pa.int32()),  # how many events this row counts as; 1 unless event types carry weights
        ("month", pa.string()),  # YYYY-MM of the timestamp in UTC
    ]),
    partition_by=("month",),
    sorted_by=("user_id", "timestamp", "item_id"),
    summary="one user's action on one item at a time, cleaned and typed",
)

ITEMS = Table(
    "items",
    pa.schema([
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("categories", pa.list_(pa.string())),
        ("item_hash", pa.int64()),  # xxhash64 of item_id: files are sorted by it, so that a prefix is a random sample
        ("bucket", pa.int32()),
    ]),
    partition_by=("bucket",),
    sorted_by=("item_hash", "item_id"),
    summary="the catalogue: what users act on, with titles",
)

QUARANTINE = Table(
    "quarantine",
    pa.schema([
        ("source_file", pa.string()),
        ("row", pa.string()),  # the row as JSON, cut at 4,096 characters
        ("source", pa.string()),  # events or items
        ("reason", pa.string()),
    ]),
    partition_by=("source", "reason"),
    sorted_by=("source_file", "row"),
    summary="rows that ingest could not use, with the reason",
)

SEEN_ITEMS = Table(
    "seen_items",
    pa.schema([
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("item_hash", pa.int64()),
        ("n_events", pa.int64()),
        ("n_users", pa.int64()),
        ("as_of", pa.string()),
    ]),
    partition_by=("as_of",),
    sorted_by=("item_hash", "item_id"),
    summary="items with at least one event before as_of: all that training may look at",
)

ITEM_PAIRS = Table(
    "item_pairs",
    pa.schema([
        ("left_item_id", pa.string()),
        ("left_title", pa.string()),
        ("right_item_id", pa.string()),
        ("right_title", pa.string()),
        ("order_key", pa.int64()),  # seeded hash: files are sorted by it, so that reading in order is reading shuffled
        ("as_of", pa.string()),
    ]),
    partition_by=("as_of",),
    sorted_by=("order_key", "left_item_id", "right_item_id"),
    summary="positive pairs: two items of one user less than beta days apart",
)

ITEM_EMBEDDINGS = Table(
    "item_embeddings",
    pa.schema([
        ("item_id", pa.string()),
        ("item_hash", pa.int64()),
        ("embedding", pa.list_(pa.float32())),  # (128,), unit norm; all zero where no word of the title is known
        ("encoder_id", pa.string()),
        ("batch", pa.string()),  # which increment of the catalogue this is
    ]),
    partition_by=("encoder_id", "batch"),
    sorted_by=("item_hash", "item_id"),
    summary="the item encoder's output, one row an item",
)

ITEM_INTERESTS = Table(
    "item_interests",
    pa.schema([
        ("item_id", pa.string()),
        ("interest_id", pa.int32()),
        ("space_id", pa.string()),
        ("batch", pa.string()),
    ]),
    partition_by=("space_id", "batch"),
    sorted_by=("item_id",),
    summary="the interest of every item: its nearest centroid",
)

BAGS = Table(
    "bags",
    pa.schema([
        ("user_id", pa.string()),
        ("interest_ids", pa.list_(pa.int32())),  # ascending
        ("counts", pa.list_(pa.int32())),  # the user's events in the period whose item belongs to the interest, weights applied
        ("n_events", pa.int64()),  # events with an interest, weights applied: the sum of counts
        ("first_event_at", TIMESTAMP),
        ("last_event_at", TIMESTAMP),
        ("space_id", pa.string()),
        ("scale", pa.string()),  # month or year
        ("period", pa.string()),  # YYYY-MM or YYYY
        ("until", pa.string()),  # events before this date are counted: the end of a closed period, as_of of an open one
        ("bucket", pa.int32()),
    ]),
    partition_by=("space_id", "scale", "period", "until", "bucket"),
    sorted_by=("user_id",),
    summary="sparse bags of interests: integer counts per user, period and interest",
)

USER_STATES = Table(
    "user_states",
    pa.schema([
        ("user_id", pa.string()),
        ("month_state", pa.list_(pa.float32())),  # recurrent anchors x H, after the last month before `until`, then activity traces
        ("year_state", pa.list_(pa.float32())),  # the same after the last calendar year before that of `until`, then m; empty without the scale
        ("n_events", pa.int64()),
        ("n_active_months", pa.int32()),
        ("first_event_at", TIMESTAMP),
        ("last_event_at", TIMESTAMP),
        ("model_id", pa.string()),
        ("until", pa.string()),  # first day of a month: events before it are folded into the state
        ("bucket", pa.int32()),
    ]),
    partition_by=("model_id", "until", "bucket"),
    sorted_by=("user_id",),
    summary="a cache: where the GRU stands after the closed months, so that a day costs what the day brings",
)

USER_EMBEDDINGS = Table(
    "user_embeddings",
    pa.schema([
        ("user_id", pa.string()),
        ("embedding", pa.list_(pa.float32())),  # (M x H,), anchors in order
        ("n_events", pa.int64()),
        ("n_active_months", pa.int32()),
        ("first_event_at", TIMESTAMP),
        ("last_event_at", TIMESTAMP),
        ("as_of", pa.string()),
        ("model_id", pa.string()),
        ("published_at", TIMESTAMP),
    ]),
    partition_by=("as_of", "model_id", "published_at"),
    sorted_by=("user_id",),
    summary="what is published: one embedding per user and date",
    columns={
        "user_id": Column("the user, as the log of events names it: text, where case and spaces count; once per date and model"),
        "embedding": Column("M x H numbers, anchors in order: anchor i (from 0) is the numbers i*H to (i+1)*H; all of a model have one length, "
                            "no number is null, NaN or infinite; lengths are not 1, so compare by cosine"),
        "n_events": Column("events before as_of that the vector has seen (those whose item has an interest), weights applied; at least 1"),
        "n_active_months": Column("calendar months, in UTC, with at least one such event; at least 1"),
        "first_event_at": Column("time of the first such event"),
        "last_event_at": Column("time of the last such event; before midnight UTC of as_of"),
        "as_of": Column("YYYY-MM-DD, exclusive: the vector has seen no event at or after midnight UTC of this date"),
        "model_id": Column("the model that made the vector; vectors of two models cannot be compared, unless one was aligned to the other"),
        "published_at": Column("when the rows were committed, in UTC; the same for all rows of one publication"),
    },
)

RELEASES = Table(
    "releases",
    pa.schema([
        ("epoch", pa.int64()),
        ("as_of", pa.string()),
        ("model_id", pa.string()),
        ("table_version", pa.int64()),
        ("n_users", pa.int64()),
        ("n_anchors", pa.int32()),
        ("dim", pa.int32()),
        ("run_key", pa.string()),
        ("audit_digest", pa.string()),
        ("released_at", TIMESTAMP),
        ("current", pa.bool_()),
        ("reason", pa.string()),
        ("trained_as_of", pa.string()),
    ]),
    partition_by=(),
    sorted_by=("epoch",),
    summary="the pointer that readers follow, with its history",
    columns={
        "epoch": Column("number of the move; grows by one with every move of the pointer, also when it moves back"),
        "as_of": Column("the date that was released: the partition of user_embeddings to read"),
        "model_id": Column("the model that was released: the other partition to read"),
        "table_version": Column("version of user_embeddings to read; it stays readable as long as this row is there"),
        "n_users": Column("rows of the release"),
        "n_anchors": Column("M, anchors of a vector"),
        "dim": Column("H, numbers of one anchor"),
        "run_key": Column("names the run that made it; files of user_embeddings begin with it"),
        "audit_digest": Column("fingerprint of what the quality gate found; its report lies in audits/ under run_key"),
        "released_at": Column("when the pointer was moved, in UTC: the clock of publication"),
        "current": Column("whether this move set what readers get when they name no date; the last such row is the present release"),
        "reason": Column("why the pointer was moved: publish, or what a rollback gave as its reason"),
        "trained_as_of": Column("events before this date trained the model; later than as_of only where that was allowed, and then the vectors "
                                "must not predict what lies between; null where it was not kept"),
    },
)

TABLES = {
    table.name: table
    for table in (EVENTS, ITEMS, QUARANTINE, SEEN_ITEMS, ITEM_PAIRS, ITEM_EMBEDDINGS, ITEM_INTERESTS, BAGS, USER_STATES, USER_EMBEDDINGS,
                  RELEASES)
}
SCHEMA_VERSION = "1.0"  # of the tables with `columns`: major.minor, see lurm.contract for what each of the two may change
