"""A warehouse full of persons, made by hand in a moment, and an independent look for what is left of one of them.

Every kind of place that may name a user does: all tables with several versions and a checkpoint, superseded and rolled-back releases, a candidate,
a staged run, manifests, exports, records of runs, half-written files, scratch.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from published import day, rows_of, stage_day

from lurm import publication
from lurm.manifest import Manifest
from lurm.releases import releases, rollback
from lurm.schema import BAGS, EVENTS, ITEM_PAIRS, QUARANTINE, SEEN_ITEMS, USER_EMBEDDINGS, USER_STATES, Table
from lurm.staging import stage_table
from lurm.store import Store

ERIKA, MAX, ANNA = "erika-mustermann-07", "max-mustermann-0042", "anna-beispiel-00003"
USERS = (ANNA, "berta-beispiel-0009", ERIKA, MAX, "zora-beispiel-00001")
OTHER_MODEL = "model-fedcba9876543210"
AT = datetime(2022, 1, 5, tzinfo=UTC)
KEY = "a key of a test, long enough"


def commit(store: Store, table: Table, run_key: str, partition: dict[str, str], rows: pa.Table, figures: dict | None = None, **inputs) -> None:
    """One file in the place of what its partition held."""
    file = stage_table(store, table, run_key, partition, rows)
    manifest = Manifest(table.name, run_key, (file,), (partition,), figures or {"rows": rows.num_rows}, inputs)
    store.write_manifest(manifest)
    store.commit(manifest)


def events_of(users) -> pa.Table:
    n = len(users)
    columns = {"user_id": sorted(users), "item_id": [f"item-{i}" for i in range(n)], "timestamp": [AT] * n, "weight": [1] * n}
    return pa.table(columns, schema=EVENTS.data_schema)


def bags_of(users, count: int = 1) -> pa.Table:
    n = len(users)
    return pa.table({"user_id": sorted(users), "interest_ids": [[0, 2]] * n, "counts": [[count, 1]] * n, "n_events": [count + 1] * n,
                     "first_event_at": [AT] * n, "last_event_at": [AT] * n}, schema=BAGS.data_schema)


def states_of(users) -> pa.Table:
    n = len(users)
    return pa.table({"user_id": sorted(users), "month_state": [[0.5, 1.5]] * n, "year_state": [[2.5, 3.5]] * n, "n_events": [2] * n,
                     "n_active_months": [1] * n, "first_event_at": [AT] * n, "last_event_at": [AT] * n}, schema=USER_STATES.data_schema)


def publish(store: Store, as_of: str, key: str, users, n_files: int = 2, release: bool = True, **more) -> None:
    """A table whose vectors can be told from those of every other key."""
    users, step = sorted(users), -(-len(users) // n_files)
    parts = [rows_of(users[start : start + step], f"{as_of} {key}") for start in range(0, len(users), step)]
    stage_day(store, as_of, parts, key, **more)
    publication.run(day(store, as_of, key, release))


def build(root: Path, everything: bool = True) -> Store:
    """The warehouse; without `everything` the smaller one that tests of faults copy many times."""
    store = Store(str(root))
    publish(store, "2022-01-01", "january0", USERS[:4])
    publish(store, "2022-02-01", "february", USERS)
    publish(store, "2022-02-01", "february2", USERS[1:])  # late events: the first one is superseded, and still an epoch
    rollback(store, epoch=1, reason="drift")
    commit(store, BAGS, "b" * 16, bag_partition("month", "2022-01", "2022-02-01"), bags_of(USERS), {"periods": {}})
    commit(store, EVENTS, "e" * 16, {"month": "2022-01"}, events_of(USERS), recipe="r", sources=[])
    if not everything:
        return store
    store.load(USER_EMBEDDINGS.name).create_checkpoint()
    publish(store, "2022-03-01", "march000", (ERIKA,), n_files=1)  # nobody but her
    publish(store, "2022-02-01", "candidate", USERS, release=False, model_id=OTHER_MODEL)
    stage_day(store, "2022-04-01", [rows_of([ANNA], "april"), rows_of([ERIKA, MAX], "april")], "staged00")
    commit(store, BAGS, "c" * 16, bag_partition("month", "2022-01", "2022-02-01"), bags_of(USERS, 2), {"periods": {}})
    commit(store, BAGS, "d" * 16, bag_partition("month", "2022-02", "2022-03-01"), bags_of([ERIKA]), {"periods": {}})
    commit(store, BAGS, "f" * 16, bag_partition("year", "2022", "2022-03-01"), bags_of(USERS, 3), {"periods": {}})
    commit(store, USER_STATES, "s" * 16, {"model_id": "m", "until": "2022-02-01", "bucket": "0"}, states_of([ERIKA, MAX]), {"users": 2})
    commit(store, EVENTS, "g" * 16, {"month": "2022-02"}, events_of([ERIKA, MAX]), recipe="r", sources=[["log", 1, 2]])
    rows = [json.dumps({"user_id": ERIKA, "item_id": None}), json.dumps({"user_id": MAX, "item_id": None}), '{"user_id": "' + ERIKA + '", "ite']
    quarantined = pa.table({"source_file": ["log"] * 3, "row": rows})
    commit(store, QUARANTINE, "q" * 16, {"source": "events", "reason": "item_id is null"}, quarantined)
    pairs = pa.table({"left_item_id": ["a"], "left_title": ["x"], "right_item_id": ["b"], "right_title": ["y"], "order_key": [1]})
    commit(store, ITEM_PAIRS, "p" * 16, {"as_of": "2022-02-01"}, pairs)
    seen = pa.table({"item_id": ["a"], "title": ["x"], "item_hash": [1], "n_events": [2], "n_users": [1]})
    commit(store, SEEN_ITEMS, "p" * 16, {"as_of": "2022-02-01"}, seen)
    write_export(store, "with-her", USERS)
    write_export(store, "without-her", [ANNA, MAX])
    said = {"run_id": "r1", "error": f"Expected users of the table, it does not hold 2: {ERIKA}, {MAX}.", "n": 17}
    store.write_bytes(store.path("runs", "r1.json"), json.dumps(said).encode())
    store.write_bytes(store.path("audits", "january0", "index.html"), f"<p>{ERIKA}</p><p>{MAX}</p>".encode())
    store.write_bytes(store.path("tables", EVENTS.name, "month=2022-01", "x.parquet.0a.tmp"), f"half {ERIKA}".encode())
    (store.workspace("training") / "checkpoint.bin").write_bytes(b"\x00\xff" + ERIKA.encode())
    return store


def bag_partition(scale: str, period: str, until: str) -> dict[str, str]:
    return {"space_id": "space-planted", "scale": scale, "period": period, "until": until, "bucket": "0"}


def write_export(store: Store, name: str, users) -> None:
    """What `lurm export --format npy` leaves."""
    folder = Path(store.path("exports", name))
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"row": range(len(users)), "user_id": sorted(users)}), folder / "ids.parquet")
    np.save(folder / "vectors.npy", np.zeros((len(users), 6), np.float32))
    (folder / "export.json").write_text(json.dumps({"format": "npy", "users": len(users), "ids_file": "ids.parquet"}))


def places_of(root: str | Path, user: str) -> set[str]:
    """Files in which the bytes of an id are, raw or in a decoded column: knows nothing of how lurm looks."""
    found = set()
    for file in (file for file in Path(root).rglob("*") if file.is_file()):
        data = file.read_bytes()
        told = data
        if data[:4] == b"PAR1":
            told += str(pq.read_table(pa.BufferReader(data), partitioning=None).to_pylist()).encode()
        if user.encode() in told or json.dumps(user)[1:-1].encode() in told:
            found.add(str(file.relative_to(root)))
    return found


def kinds_of(places: set[str]) -> set[str]:
    """tables/<name>/data, tables/<name>/log, or the first folder."""
    kinds = set()
    for place in places:
        parts = place.split("/")
        log = "checkpoint" if "checkpoint" in place else "log" if "_delta_log" in parts else "data"
        kinds.add(f"{parts[1]} {log}" if parts[0] == "tables" else f"{parts[1]} manifest" if parts[0] == "manifests" else parts[0])
    return kinds


def released_rows(store: Store) -> dict[int, dict[str, bytes]]:
    """What each epoch shows: user to the bytes of the vector."""
    shown = {}
    for move in releases(store):
        snapshot = store.snapshot(USER_EMBEDDINGS.name, move["table_version"]).where(as_of=move["as_of"], model_id=move["model_id"])
        rows = [row for uri in snapshot.uris() for row in pq.read_table(uri, partitioning=None).to_pylist()]
        shown[move["epoch"]] = {row["user_id"]: np.array(row["embedding"], np.float32).tobytes() for row in rows}
    return shown


def live_rows(store: Store, table: Table) -> list[str]:
    """Rows of the newest version with their partitions, sorted."""
    snapshot = store.snapshot(table.name)
    return sorted(str([row, sorted(file.partition.items())]) for file, uri in zip(snapshot.files, snapshot.uris(), strict=True)
                  for row in pq.read_table(uri, partitioning=None).to_pylist())
