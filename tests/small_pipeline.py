"""What the tests of the Spark stages share: small settings, contexts, and ways to compare two warehouses.

A warehouse is compared by content: a data file's name ends in a digest of its bytes, so two tables are equal exactly if their
partitions hold files of equal digests, whoever wrote them and when.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lurm.config import load_config
from lurm.lineage import Context
from lurm.manifest import Manifest
from lurm.pipeline import BY_NAME, STAGES
from lurm.runner import run_stage
from lurm.schema import BAGS, ITEM_INTERESTS, TABLES, TIMESTAMP
from lurm.staging import stage_table
from lurm.store import Store

# Seconds instead of minutes: a tiny encoder, six steps of SMEN, three anchors.
SMALL = (
    "spark.master=local[2]", "spark.driver_memory=1500m", "spark.shuffle_partitions=4", "spark.user_buckets=2", "spark.item_buckets=2",
    "encoder.dim=32", "encoder.max_steps=20", "encoder.batch_size=128", "encoder.evaluate_every=10", "encoder.device=cpu",
    "smen.dim=32", "smen.n_anchors=3", "smen.max_steps=6", "smen.batch_size=32", "smen.evaluate_every=3", "smen.device=cpu",
    "smen.min_effective_rank=1.0", "interests.n_interests=24", "interests.backend=numpy", "items.categories_column=category",
)
AS_OF = "2021-02-16"  # in the middle of the world's last month: nobody may see its second half
STAGE_NAMES = [stage.name for stage in STAGES]
PINNED_STAGES = [stage.name for stage in STAGES if "daily" in stage.schedule]


def no_spark():
    raise AssertionError("Spark was started, although there was nothing to do")


class Unpinned(dict):
    """Pins that hold nothing: a test looks at a warehouse before and after a stage through one context. `run` gives every stage its own."""

    def __contains__(self, table: object) -> bool:
        return False


def make_context(warehouse: Path, as_of: str, spark: Callable, *overrides: str, model_id: str | None = None) -> Context:
    """A context with the small settings and some overrides; `spark` returns the session."""
    return Context(Store(str(warehouse)), load_config(None, [*SMALL, *overrides]), as_of, model_id, spark, pins=Unpinned())


def as_toml(overrides: Iterable[str], skip: Sequence[str] = ()) -> str:
    """Overrides as a configuration file; sections in `skip` are left out."""
    sections: dict[str, list[str]] = {}
    for override in overrides:
        name, _, value = override.partition("=")
        section, _, field = name.partition(".")
        plain = re.fullmatch(r"[\d.]+", value)
        sections.setdefault(section, []).append(f"{field} = {value}" if plain else f'{field} = "{value}"')
    return "".join(f"\n[{section}]\n" + "\n".join(lines) + "\n" for section, lines in sections.items() if section not in skip)


def source_overrides(world: Path) -> tuple[str, str]:
    return f"events.path={world}/events", f"items.path={world}/items"


def run(context: Context, stages: Sequence[str]) -> dict[str, dict]:
    """Run stages one after the other in the session of the context, which stays open."""
    return {name: run_stage(context, BY_NAME[name]) for name in stages}


def content(store: Store, name: str) -> list[str]:
    """What a table holds, file for file, without run keys and the time of publication."""
    lines = []
    for file in store.snapshot(name).files:
        partition = {column: value for column, value in file.partition.items() if column not in ("published_at", "batch")}
        lines.append(json.dumps([partition, file.digest, file.rows]))
    return sorted(lines)


def contents(store: Store, names: Iterable[str] = tuple(TABLES)) -> dict[str, list[str]]:
    """Content of all tables but the releases, whose rows carry the time."""
    return {name: content(store, name) for name in names if name != "releases"}


def versions(store: Store) -> dict[str, int]:
    return {name: store.snapshot(name).version for name in TABLES}


def rows_of(store: Store, name: str, **conditions) -> list[dict]:
    """Rows of a table with their partition values."""
    snapshot = store.snapshot(name).where(**conditions)
    rows = []
    for uri, file in zip(snapshot.uris(), snapshot.files, strict=True):
        rows += [{**row, **file.partition} for row in pq.read_table(uri, partitioning=None).to_pylist()]
    return rows


def published(store: Store, as_of: str) -> tuple[np.ndarray, np.ndarray]:
    """Users in ascending order and their vectors, as a reader gets them."""
    from lurm import open_table

    table = pa.Table.from_batches(list(open_table(store.uri, as_of).scan(["user_id", "embedding"]))).sort_by("user_id").combine_chunks()
    column = table["embedding"].combine_chunks()
    vectors = (column.chunk(0) if isinstance(column, pa.ChunkedArray) else column).flatten().to_numpy()
    return table["user_id"].to_numpy(), vectors.reshape(table.num_rows, -1)


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def ingest_log(context: Context) -> dict:
    """Ingest the log alone, without a catalogue."""
    from spark_jobs.ingest import find_events, ingest_events

    return ingest_events(context, find_events(context))


def ingest_catalogue(context: Context) -> dict:
    """Ingest the catalogue alone."""
    from spark_jobs.ingest import find_items, ingest_items

    return ingest_items(context, find_items(context))


def write_events(path: Path, rows: Sequence[tuple[str, str, str]]) -> Path:
    """A Parquet log of (user, item, ISO time in UTC)."""
    users, items, times = zip(*rows, strict=True)
    table = pa.table({"user_id": pa.array(users), "item_id": pa.array(items), "timestamp": pa.array([instant(t) for t in times], TIMESTAMP)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def copy_chain(source: Context, target: Store) -> str:
    """Bring encoder, space and model of one warehouse into another; returns the model's id."""
    for kind, artifact_id in (("encoders", source.encoder_id()), ("spaces", source.space_id()), ("models", source.trained_model_id())):
        target.put_artifact(kind, artifact_id, source.store.get_artifact(kind, artifact_id))
    # The days that tests walk through lie before the world's end, where the model was trained: it says that it is older than they are.
    path = target.path("artifacts", "models", source.trained_model_id(), "info.json")
    told = json.loads(target.read_bytes(path))
    told["info"]["as_of"] = "2000-01-01"
    target.write_bytes(path, json.dumps(told).encode())
    return source.trained_model_id()


def plant_model(store: Store, model_id: str = "planted") -> None:
    """A model in name only, for stages that need its chain and not its weights."""
    info = {"encoder_id": "encoder-planted", "space_id": "space-planted", "model_id": model_id, "as_of": "2000-01-01"}
    store.write_bytes(store.path("artifacts", "models", model_id, "info.json"), json.dumps({"info": info}).encode())
    space = {"space_id": "space-planted", "encoder_id": "encoder-planted", "n_interests": 24, "as_of": "2000-01-01"}
    store.write_bytes(store.path("artifacts", "spaces", "space-planted", "info.json"), json.dumps({"info": space}).encode())


def plant_interests(store: Store, interests: dict[str, int], batch: str = "one") -> None:
    """Interests of items, as assign-interests would have written them in the planted space."""
    rows = pa.table({"item_id": sorted(interests), "interest_id": pa.array([interests[item] for item in sorted(interests)], pa.int32())})
    partition = {"space_id": "space-planted", "batch": batch}
    file = stage_table(store, ITEM_INTERESTS, f"interests{batch}", partition, rows)
    store.commit(Manifest(ITEM_INTERESTS.name, f"interests{batch}", (file,), (partition,)))


def write_items(path: Path, titles: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"item_id": list(titles), "title": list(titles.values())}), path)
    return path


def plant_row(store: Store, name: str, run_key: str, partition: dict, mark: str = "x", figures: dict | None = None) -> None:
    """Replace a partition by one row with `mark` in its text columns and nothing in the others."""
    table = TABLES[name]
    columns = []
    for field in table.data_schema:
        text = pa.types.is_string(field.type)
        columns.append(pa.array([mark] if text else [None], pa.string() if text else field.type))
    file = stage_table(store, table, run_key, partition, pa.table(columns, schema=table.data_schema))
    manifest = Manifest(name, run_key, (file,), (partition,), figures or {})
    store.write_manifest(manifest)
    store.commit(manifest)


def plant_bags(store: Store, month: str, end: str, mark: str = "x") -> None:
    """Bags of one month in the planted space, as if build-bags had counted its events before `end` as they are now."""
    from spark_jobs.build_bags import _recipes

    recipe = _recipes(Context(store, load_config(), end, "planted"), "space-planted")[month]
    partition = {"space_id": "space-planted", "scale": "month", "period": month, "until": end, "bucket": "0"}
    figures = {"periods": {month: {"recipe": recipe, "unassigned": 0, "interests": ""}}}
    plant_row(store, BAGS.name, f"bags{month[:4]}{month[5:]}{end[8:]}{mark}", partition, mark, figures)


def plant_year_bags(store: Store, end: str) -> None:
    """The bags of the year of `end`, open at that date."""
    partition = {"space_id": "space-planted", "scale": "year", "period": end[:4], "until": end, "bucket": "0"}
    plant_row(store, BAGS.name, f"year{end[:4]}{end[5:7]}{end[8:]}", partition)
