"""How every stage grows with the number of users: rows per second, seconds and peak memory, on synthetic worlds.

    python benchmarks/stages.py --users 10000 100000 [--events-per-user 300] [--directory DIR]

Prints one table per world and one of the growth from each world to the next. Trainings run a fixed number of steps, so their seconds say
nothing about growth; their memory does. A world is written once per directory and is not part of any figure.
"""

import argparse
import platform
import shutil
import tempfile
import time
from pathlib import Path

import psutil

from lurm.config import load_config
from lurm.lineage import Context
from lurm.runner import run_stages, stages_to_run
from lurm.store import Store
from lurm.synthetic import WorldSettings, write_world

# What a stage's rows per second are counted in, read from its own report or from the tables it wrote.
ROWS = {
    "ingest": "events", "audit-inputs": "events", "build-pairs": "events", "train-item-encoder": "pairs seen", "encode-items": "items",
    "fit-interests": "items", "assign-interests": "items", "build-bags": "events", "train-smen": "windows", "update-states": "users",
    "embed-users": "users", "publish": "users",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[10_000], help="sizes of the worlds")
    parser.add_argument("--events-per-user", type=int, default=300)
    parser.add_argument("--items", type=int, default=20_000, help="of every world; at least one for each user")
    parser.add_argument("--months", type=int, default=48)
    parser.add_argument("--directory", help="where worlds and warehouses go (default: a temporary folder)")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.FIELD=VALUE")
    options = parser.parse_args()
    folder = Path(options.directory or tempfile.mkdtemp(prefix="lurm-bench-"))
    print(f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, "
          f"{options.events_per_user} events a user over {options.months} months\n")
    results = {n_users: one_world(folder / f"{n_users}", n_users, options) for n_users in options.users}
    for n_users, (n_events, rows) in results.items():
        print(f"{n_users:,} users, {n_events:,} events\n{'stage':<20}{'rows':>14} {'of':<11}{'seconds':>9}{'rows/s':>12}{'peak MB':>9}")
        for name, (count, seconds, peak) in rows.items():
            print(f"{name:<20}{count:>14,} {ROWS[name]:<11}{seconds:>9.1f}{count / max(seconds, 1e-9):>12,.0f}{peak:>9,}")
        print(f"{'all':<46}{sum(seconds for _, seconds, _ in rows.values()):>9.1f}{'':>12}{max(peak for *_, peak in rows.values()):>9,}\n")
    for small, large in zip(options.users, options.users[1:], strict=False):
        print(f"growth from {small:,} to {large:,} users (x{large / small:.0f})\n{'stage':<20}{'rows':>9}{'seconds':>9}{'peak MB':>9}")
        for name, (count, seconds, peak) in results[large][1].items():
            before = results[small][1][name]
            print(f"{name:<20}{count / max(1, before[0]):>8.1f}x{seconds / max(before[1], 1e-9):>8.1f}x{peak / before[2]:>8.1f}x")
        print()
    if not options.directory:
        shutil.rmtree(folder)


def one_world(folder: Path, n_users: int, options: argparse.Namespace) -> tuple[int, dict[str, tuple[int, float, int]]]:
    """Run every stage on one world; returns its events and, per stage, rows, seconds and peak megabytes."""
    shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    settings = WorldSettings(
        n_users=n_users, n_items=max(options.items, n_users), n_topics=200, n_months=options.months, events_per_user=options.events_per_user
    )
    world = write_world(folder / "world", settings)
    print(f"wrote the world of {n_users:,} users in {time.monotonic() - started:.0f} s", flush=True)
    config = load_config(None, [
        f"events.path={world.events_path}", f"items.path={world.items_path}", "encoder.max_steps=300", "encoder.epochs=1000",
        "encoder.patience=1000", "smen.max_steps=60", "smen.evaluate_every=60", *options.overrides,
    ])
    context = Context(Store(str(folder / "warehouse")), config, world.end)
    reports = run_stages(context, stages_to_run(None))
    counts = {
        "events": world.n_events, "items": world.n_items, "users": reports["publish"]["users"],
        "pairs seen": reports["train-item-encoder"]["steps"] * config.encoder.batch_size,
        "windows": reports["train-smen"]["steps"] * config.smen.batch_size * 2,
    }
    rows = {name: (counts[ROWS[name]], report["seconds"], report["peak_mb"]) for name, report in reports.items()}
    shutil.rmtree(folder)
    return world.n_events, rows


if __name__ == "__main__":
    main()
