"""The demo: a synthetic world with planted truth, every stage on it, and how much of the truth came back.

In: a folder to work in. Out: a published table there, and a printed account: where it lies, its size and ids, seconds and peak memory
per stage, purity of the interests, AUC of the planted attributes beside chance, and three lines of Python that read the table.
"""

import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from lurm.config import fingerprint, load_config
from lurm.embedding_table import open_table
from lurm.errors import InputError
from lurm.evaluation.recovery import attribute_auc, interest_recovery
from lurm.lineage import Context
from lurm.runner import run_stages, stages_to_run
from lurm.staging import read_files
from lurm.store import Store
from lurm.synthetic import WorldSettings, WorldSummary, write_world

WORLD = WorldSettings(n_users=2_000, n_items=4_000, n_topics=40, n_months=36, events_per_user=80)
ATTRIBUTES = ("persona", "age_band")


def run_demo(directory: str, config: str = "demo", overrides: list[str] | None = None) -> dict:
    """Make the world (unless the folder holds it), run what is missing and print the account; returns its figures."""
    started = time.monotonic()
    folder = Path(directory)
    world = _world(folder / f"world-{fingerprint(WORLD)[:8]}")
    # Whole paths, because another place is another log to ingest: the scheduler, which starts elsewhere, names the same one.
    sources = [f"events.path={Path(world.events_path).resolve()}", f"items.path={Path(world.items_path).resolve()}"]
    settings = load_config(config, [*sources, *(overrides or [])])
    context = Context(Store(str(folder / "warehouse")), settings, world.end)
    reports = run_stages(context, stages_to_run(None))
    figures = recovered(context, world)
    _print(context, world, reports, figures, time.monotonic() - started)
    return {"stages": reports, **figures}


def recovered(context: Context, world: WorldSummary) -> dict:
    """How much of the planted truth the interests and the published vectors hold."""
    truth = pq.read_table(world.truth_path)
    topics = dict(zip(truth.column("item_id").to_pylist(), truth.column("topic").to_pylist()))
    items, interests = [], []
    for batch in read_files(context.store, context.interests().uris(), ["item_id", "interest_id"]):
        items += batch.column("item_id").to_pylist()
        interests += batch.column("interest_id").to_pylist()
    table = open_table(context.store.uri, context.as_of)
    users = [user for batch in table.scan(["user_id"]) for user in batch.column("user_id").to_pylist()]
    vectors = table.vectors(users)
    labels = pq.read_table(world.users_path)
    attributes = {}
    for name in ATTRIBUTES:
        of_user = dict(zip(labels.column("user_id").to_pylist(), labels.column(name).to_pylist()))
        attributes[name] = attribute_auc(users, vectors, of_user, seed=context.config.seed)
    return {"interests": interest_recovery(items, interests, topics), "attributes": attributes, "users": len(users)}


def _world(folder: Path) -> WorldSummary:
    """Write the world once; a folder with the same settings in its name is used again."""
    summary = folder / "summary.txt"
    if summary.exists():
        names, values = WorldSummary.__dataclass_fields__, summary.read_text().split("\n")
        return WorldSummary(*(kind.type(value) for kind, value in zip(names.values(), values)))
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"Could not make the folder {folder} ({error.strerror or error}); choose another --directory.") from None
    world = write_world(folder, WORLD)
    summary.write_text("\n".join(str(getattr(world, name)) for name in WorldSummary.__dataclass_fields__))
    return world


def _print(context: Context, world: WorldSummary, reports: dict, figures: dict, seconds: float) -> None:
    table, interests = open_table(context.store.uri, context.as_of), figures["interests"]
    norms = np.linalg.norm(table.vectors(_some_users(table)), axis=1)
    print(f"\n{'stage':<20}{'seconds':>9}{'peak MB':>9}")
    for name, report in reports.items():
        print(f"{name:<20}{report['seconds']:>9.1f}{report['peak_mb']:>9}" + ("  (there already)" if "skipped" in report else ""))
    print(f"{'all':<20}{seconds:>9.1f}{max(report['peak_mb'] for report in reports.values()):>9}\n")
    print(f"world      {world.n_users:,} users, {world.n_items:,} items, {world.n_events:,} events from {world.start} to {world.end}")
    print(f"table      {context.store.table_uri('user_embeddings')}")
    print(f"           {table.n_users:,} users x {table.n_anchors} anchors x {table.dim} numbers, as_of {table.as_of}, mean norm {norms.mean():.2f}")
    print(f"chain      {context.encoder_id()} -> {context.space_id()} -> {table.model_id}")
    print(f"interests  purity {interests.purity:.3f} (chance {interests.chance:.3f}), mutual information {interests.mutual_information:.3f}")
    for name, result in figures["attributes"].items():
        print(f"{name:<10} AUC {result['auc']:.3f} from the embedding (chance {result['chance']:.3f})")
    print("\nread it:\n  import lurm")
    print(f"  table = lurm.open_table({context.store.uri!r})")
    print(f"  vectors = table.vectors({_some_users(table)!r})")


def _some_users(table) -> list[str]:
    return next(iter(table.scan(["user_id"], batch_rows=2))).column("user_id").to_pylist()
