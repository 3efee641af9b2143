"""What a day costs against the length of the lives, as a ratio to computing everything again.

    python benchmarks/daily.py --years 1 3 5 10 [--users 20000] [--events-per-year 30] [--directory DIR]

For every length: a synthetic world, a chain trained on it (a few steps: quality does not matter here), and then one day more, with
its events, some late ones and some new items. The day runs in the warehouse of the day before; the full run is the same date with the
same model in an empty warehouse, embedding whole lives. Spark's start is in neither. The vectors of both are compared.
"""

import argparse
import platform
import shutil
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lurm import open_table
from lurm.config import load_config
from lurm.lineage import Context
from lurm.runner import SparkOnDemand, run_stages, stages_to_run
from lurm.store import Store
from lurm.synthetic import WorldSettings, write_world

DAYS_BEFORE_END = 15  # the day lies in the middle of the last month
LATE_SHARE, LATE_DAYS = 0.001, 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--years", type=int, nargs="+", default=[1, 3, 5, 10], help="lengths of the log")
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--events-per-year", type=int, default=30, help="of a user, on average")
    parser.add_argument("--directory", help="where worlds and warehouses go (default: a temporary folder)")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.FIELD=VALUE")
    options = parser.parse_args()
    folder = Path(options.directory or tempfile.mkdtemp(prefix="lurm-bench-"))
    spark = SparkOnDemand(load_config(None, options.overrides))
    spark()
    print(f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, "
          f"{options.users:,} users, {options.events_per_year} events a user and year\n")
    totals = {}
    for years in options.years:
        day, full, figures = one_length(folder / f"{years}", years, options)
        print(f"{years} years, {figures['events']:,} events; the day: {figures['day_events']:,} events, {figures['folded_again']:,} users folded "
              f"again, largest difference of a number {figures['difference']:.1e}")
        print(f"{'stage':<20}{'day: s':>9}{'full: s':>9}{'day/full':>10}")
        for name in day:
            print(f"{name:<20}{day[name]:>9.1f}{full[name]:>9.1f}{day[name] / max(full[name], 1e-9):>10.2f}")
        totals[years] = sum(day.values()), sum(full.values())
        print(f"{'all':<20}{totals[years][0]:>9.1f}{totals[years][1]:>9.1f}{totals[years][0] / totals[years][1]:>10.2f}\n", flush=True)
    first = options.years[0]
    for years, (day, full) in totals.items():
        print(f"{years:>3} years: the day costs {day / totals[first][0]:.2f} times that of {first} years, the full run "
              f"{full / totals[first][1]:.2f} times")
    spark.close()
    if not options.directory:
        shutil.rmtree(folder)


def one_length(folder: Path, years: int, options: argparse.Namespace) -> tuple[dict[str, float], dict[str, float], dict]:
    """Seconds per stage of the day and of the full run, and what the day held."""
    shutil.rmtree(folder, ignore_errors=True)
    world = write_world(folder / "world", WorldSettings(
        n_users=options.users, n_items=options.users, n_topics=200, n_months=12 * years, events_per_user=options.events_per_year * years,
        start=f"{2025 - years}-01",  # over before today: events from the future would be quarantined
    ))
    eve, day = (str(np.datetime64(world.end) - DAYS_BEFORE_END + number) for number in (0, 1))
    n_events, n_day = _arrivals(Path(world.events_path), folder / "events", eve, day)

    def context(warehouse: str, as_of: str, model_id: str | None, *overrides: str) -> Context:
        settings = [f"events.path={folder / 'events'}", f"items.path={world.items_path}", "encoder.max_steps=100", "smen.max_steps=10",
                    "smen.evaluate_every=10", *options.overrides, *overrides]
        return Context(Store(str(folder / warehouse)), load_config(None, settings), as_of, model_id)

    late = folder / "events" / "day.parquet"
    late.rename(folder / "day.parquet")
    before = context("kept", eve, None)
    model_id = run_stages(before, stages_to_run(None))["publish"]["model_id"]
    (folder / "day.parquet").rename(late)
    daily = run_stages(context("kept", day, model_id), stages_to_run(model_id))
    shutil.copytree(folder / "kept" / "artifacts", folder / "empty" / "artifacts")
    full = run_stages(context("empty", day, model_id, "embed.keep_states=false"), stages_to_run(model_id))
    figures = {"events": n_events, "day_events": n_day, "folded_again": daily["update-states"].get("folded_again", 0),
               "difference": _difference(*(open_table(str(folder / name), day) for name in ("kept", "empty")))}
    shutil.rmtree(folder)
    return *({name: report["seconds"] for name, report in reports.items()} for reports in (daily, full)), figures


def _arrivals(source: Path, target: Path, eve: str, day: str) -> tuple[int, int]:
    """Write what was known on the eve, and in day.parquet what the day brought; returns the number of events of both."""
    target.mkdir(parents=True)
    rng, brought, n_events = np.random.default_rng(5), [], 0
    at_eve, at_day, late_from = (np.datetime64(moment, "us").astype(np.int64) for moment in (eve, day, np.datetime64(eve) - LATE_DAYS))
    for path in sorted(source.glob("*.parquet")):
        events = pq.read_table(path)
        at = events["timestamp"].cast(pa.int64()).to_numpy()
        late = (rng.random(len(at)) < LATE_SHARE) & (at >= late_from) & (at < at_eve)
        pq.write_table(events.filter(pa.array((at < at_eve) & ~late)), target / path.name)
        brought.append(events.filter(pa.array(((at >= at_eve) & (at < at_day)) | late)))
        n_events += int((at < at_day).sum())
    brought = pa.concat_tables(brought)
    pq.write_table(brought, target / "day.parquet")
    return n_events, len(brought)


def _difference(one, other) -> float:
    """Largest absolute difference of a number between two tables of the same users."""
    largest = 0.0
    users = pc.unique(pa.chunked_array([batch.column(0) for batch in one.scan(["user_id"])])).to_pylist()
    assert len(users) == len(other), "the same users"
    for start in range(0, len(users), 2_000):
        part = users[start : start + 2_000]
        largest = max(largest, float(np.abs(one.vectors(part) - other.vectors(part)).max()))
    return largest


if __name__ == "__main__":
    main()
