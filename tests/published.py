"""A tiny published warehouse made by hand, for tests that read or publish and need no Spark.

`stage_day` leaves what embed-users leaves (staged files and their manifest); `publish_day` runs the real publish stage on it.
"""

import hashlib
import io
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lurm import publication
from lurm.config import Config, GateSettings, PublishSettings, fingerprint
from lurm.lineage import Context
from lurm.manifest import DataFile, Manifest, Snapshot
from lurm.schema import USER_EMBEDDINGS
from lurm.staging import stage_table
from lurm.store import Store

N_ANCHORS, DIM = 2, 3
MODEL = "model-0123456789abcdef"


@dataclass(frozen=True)
class Day(Context):
    """A publish call whose run key is given instead of computed from bags and models; bags are those of the table, if there is one."""

    key: str = "a" * 16

    def embed_key(self, alignment_id: str | None = None) -> str:
        return fingerprint(self.key, alignment_id) if alignment_id else self.key

    def bags(self) -> Snapshot:
        return self.store.snapshot("bags")

    def space_id(self) -> str:
        return "space-planted"


def day(store: Store, as_of: str, key: str = "a" * 16, release: bool = True, **limits) -> Day:
    """`limits` are settings of the gate. Vectors made by hand have nothing to do with each other, so by default none are compared."""
    return Day(store, Config(publish=PublishSettings(release), gate=GateSettings(**{"min_compared_users": 10**9, **limits})), as_of, key=key)


def vector(user: str, as_of: str = "") -> np.ndarray:
    """The vector that the published table must give for a user; (6,) float32, differs by user and date."""
    seed = int.from_bytes(hashlib.sha256(f"{user} {as_of}".encode()).digest()[:4], "little")
    return np.random.default_rng(seed).standard_normal(N_ANCHORS * DIM).astype(np.float32)


def rows_of(users: list[str], as_of: str = "", vectors: list | None = None) -> pa.Table:
    """Rows of `user_embeddings` without its partition columns."""
    at = datetime(2020, 1, 1, tzinfo=UTC)
    vectors = [vector(user, as_of) for user in users] if vectors is None else vectors
    return pa.table({
        "user_id": users, "embedding": [None if row is None else list(row) for row in vectors], "n_events": [3] * len(users),
        "n_active_months": [2] * len(users), "first_event_at": [at] * len(users), "last_event_at": [at] * len(users),
    }, schema=USER_EMBEDDINGS.data_schema)


def small_groups(store: Store, run_key: str, partition: dict[str, str], rows: pa.Table, row_group_size: int) -> DataFile:
    """Like `stage_table`, with row groups as small as a test wants them."""
    sink = io.BytesIO()
    pq.write_table(rows, sink, row_group_size=row_group_size, use_dictionary=False)
    data = sink.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    path = "/".join([*(f"{name}={value}" for name, value in partition.items()), f"{run_key}-{digest[:16]}.parquet"])
    store.write_bytes(store.path("tables", USER_EMBEDDINGS.name, *path.split("/")), data)
    users = rows.column("user_id").to_pylist()
    return DataFile(path, len(data), len(users), digest, dict(partition), users[0], users[-1])


def stage_day(store: Store, as_of: str, parts: list[pa.Table], key: str = "a" * 16, model_id: str = MODEL, users: int | None = None,
              row_group_size: int | None = None, n_anchors: int = N_ANCHORS, dim: int = DIM, unusable: int = 0) -> Manifest:
    """Stage one file a part and write the manifest; `users` is what the stage says it embedded, `unusable` how many it could not."""
    partition = {"as_of": as_of, "model_id": model_id}
    if row_group_size:
        files = [small_groups(store, key, partition, part, row_group_size) for part in parts]
    else:
        files = [stage_table(store, USER_EMBEDDINGS, key, partition, part) for part in parts]
    figures = {"users": sum(part.num_rows for part in parts) if users is None else users, "n_anchors": n_anchors, "dim": dim}
    figures |= {"model_id": model_id, "users_without_usable_events": unusable}
    manifest = Manifest(USER_EMBEDDINGS.name, key, tuple(files), (partition,), figures, {"bags": 1, "events": 1})
    store.write_manifest(manifest)
    return manifest


def publish_day(store: Store, as_of: str, users: list[str], key: str | None = None, n_files: int = 1, model_id: str = MODEL) -> dict:
    """Stage and publish some users at a date, sorted, spread over files of neighbours."""
    key = key or hashlib.sha256(f"{as_of} {model_id} {users}".encode()).hexdigest()[:16]
    users = sorted(users)
    step = -(-len(users) // n_files)
    parts = [rows_of(users[start : start + step], as_of) for start in range(0, len(users), step)]
    stage_day(store, as_of, parts, key, model_id)
    return publication.run(day(store, as_of, key))
