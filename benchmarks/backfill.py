"""What twelve months cost: one backfill, beside twelve runs in one warehouse and twelve runs that each start from nothing.

    python benchmarks/backfill.py --users 2000 [--months 12] [--years 4] [--without-scratch] [--directory DIR]

Every way is the real command line in processes of its own, with the same model, trained before the first date; seconds are wall clock and
contain the start of Python and Spark. At the end it says whether all ways gave the same bytes.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lurm.backfill import dates_between
from lurm.config import load_config
from lurm.lineage import Context
from lurm.periods import month_name, month_number
from lurm.pipeline import BY_NAME
from lurm.runner import run_stages, stages_to_run
from lurm.schema import USER_EMBEDDINGS
from lurm.store import Store
from lurm.synthetic import WorldSettings, write_world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--months", type=int, default=12, help="how many dates, a month apart")
    parser.add_argument("--years", type=int, default=4, help="length of the log")
    parser.add_argument("--events-per-user", type=int, default=300)
    parser.add_argument("--without-scratch", action="store_true", help="leave out the runs that start from nothing")
    parser.add_argument("--directory", help="where world and warehouses go (default: a temporary folder)")
    parser.add_argument("--set", action="extend", nargs="+", default=[], dest="overrides", metavar="SECTION.FIELD=VALUE")
    options = parser.parse_args()
    folder = Path(options.directory or tempfile.mkdtemp(prefix="lurm-backfill-"))
    shutil.rmtree(folder, ignore_errors=True)
    n_months = 12 * options.years
    world = write_world(folder / "world", WorldSettings(
        n_users=options.users, n_items=max(4_000, options.users), n_topics=100, n_months=n_months, events_per_user=options.events_per_user
    ))
    first = f"{month_name(month_number(world.end) - options.months + 1)}-01"
    dates = dates_between(first, world.end, "month")
    overrides = [f"events.path={world.events_path}", f"items.path={world.items_path}", "smen.max_steps=50", "encoder.max_steps=200",
                 *options.overrides]
    chain, model_id = trained(folder / "trained", overrides, first)
    print(f"{options.users:,} users, {world.n_events:,} events in {n_months} months; {len(dates)} dates from {first}\n", flush=True)

    ways = {
        "one backfill": lambda: [command(folder / "backfill", overrides, "backfill", "--every", "month", "--from", dates[0], "--to", dates[-1],
                                         "--model", model_id)],
        f"{len(dates)} runs in one warehouse": lambda: [
            command(folder / "runs", overrides, "run", "--as-of", as_of, "--model", model_id) for as_of in dates],
        f"{len(dates)} runs from nothing": lambda: [
            command(folder / f"scratch-{as_of}", overrides, "run", "--as-of", as_of, "--model", model_id) for as_of in dates],
    }
    if options.without_scratch:
        ways.popitem()
    for name in ("backfill", "runs", *(f"scratch-{as_of}" for as_of in dates)):
        shutil.copytree(chain.store.path("artifacts"), folder / name / "artifacts")
    base = None
    print(f"{'':<28}{'seconds':>9}{'a date':>9}{'ratio':>8}")
    for name, go in ways.items():
        seconds = sum(go())
        base = base or seconds
        print(f"{name:<28}{seconds:>9.1f}{seconds / len(dates):>9.1f}{seconds / base:>8.2f}", flush=True)
    same = content(folder / "backfill") == content(folder / "runs")
    print(f"\nbackfill and runs in one warehouse: {'the same bytes' if same else 'DIFFERENT bytes'}")
    if not options.directory:
        shutil.rmtree(folder)


def trained(folder: Path, overrides: list[str], as_of: str) -> tuple[Context, str]:
    """A model that has seen events before the first date only."""
    context = Context(Store(str(folder)), load_config(None, overrides), as_of)
    order = list(BY_NAME)
    reports = run_stages(context, [name for name in stages_to_run(None) if order.index(name) <= order.index("train-smen")])
    return context, reports["train-smen"]["model_id"]


def command(warehouse: Path, overrides: list[str], *arguments: str) -> float:
    """Run lurm in a process of its own; returns its seconds."""
    settings = [part for override in overrides for part in ("--set", override)]
    started = time.monotonic()
    command = [sys.executable, "-m", "lurm.cli", arguments[0], "--warehouse", str(warehouse), "--quiet", *settings, *arguments[1:]]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def content(warehouse: Path) -> set[tuple]:
    files = Store(str(warehouse)).snapshot(USER_EMBEDDINGS.name).files
    return {(file.partition["as_of"], file.digest, file.rows) for file in files}


if __name__ == "__main__":
    main()
