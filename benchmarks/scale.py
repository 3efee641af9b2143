"""What a run of the paper's size would take: measured rates, sizes and a cluster in; hours, cost, bytes, files, memory and the first limit out.

    python benchmarks/scale.py [--users 2e8 --items 1e9 --years 5 --interests 1e5] [--executors 50 --cores 8 --gpus 8] [--rates FILE]

Nothing is run. Rates are read from benchmarks/rates.json, each with the command that measured it; a file of the same form with rates of your own
machines replaces them. The arithmetic is in docs/scaling.md, and so is what was measured and what is only multiplied. Columns say which:
m is a measured rate times a larger number, a is arithmetic (operations over an assumed share of a GPU's peak), f is a fixed amount of work.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lurm.objects import REQUESTS

RATES = Path(__file__).with_name("rates.json")
ANCHORS, RECURRENT, DIM = 10, 9, 128  # the last anchor is a memory: a sum, no recurrence
GPU_FLOPS, GPU_SHARE = 790e12, 0.1  # of an H200 in bfloat16; the share that is reached is assumed, no GPU was measured
MONTH_FLOP = 196_608 * RECURRENT  # one step of the GRU over all anchors that have one
ENCODER_STEPS, SMEN_STEPS = 4_000, 600  # defaults of the settings
PYTHON_BASE_GB = 0.6  # of a Python worker with torch and Arrow loaded
OPEN_BATCH_ROWS = 65_536
KB, MB, GB, TB = 1e3, 1e6, 1e9, 1e12


@dataclass(frozen=True)
class Size:
    """How much there is; events per user and month are of months in which he acts."""

    users: float
    items: float
    years: float
    interests: float
    events_per_month: float
    active_share: float  # of months in which a user acts
    new_items_a_day: float
    late_months: float  # closed months that a day's late events touch: each is written and counted again as a whole

    @property
    def months(self) -> float:
        return 12 * self.years

    @property
    def events(self) -> float:
        return self.users * self.months * self.active_share * self.events_per_month

    @property
    def bag_rows(self) -> float:
        """Months of users, and their years."""
        return self.users * (self.months * self.active_share + self.years)

    @property
    def bag_cells(self) -> float:
        """Non-zeros: no month has more interests than events; a year repeats what its months had, at most."""
        return 2 * self.users * self.months * self.active_share * self.events_per_month


@dataclass(frozen=True)
class Cluster:
    """What it runs on. `efficiency` is how much of a core's rate is left on many machines: assumed, and worth measuring first."""

    executors: int
    cores: int
    gpus: int
    efficiency: float
    price_core: float  # an hour, in any currency
    price_gpu: float
    price_tb: float  # a terabyte and month
    users_per_bucket: float
    seconds_a_request: float  # of the object store; assumed

    @property
    def slots(self) -> int:
        return self.executors * self.cores


@dataclass(frozen=True)
class Bytes:
    """Of one row: read off warehouses (benchmarks/large.py prints them), shuffles as Spark counted them."""

    event: float
    bag_row: float
    bag_cell: float
    shuffled_by_ingest: float  # of one event
    shuffled_by_pairs: float
    shuffled_by_bags: float

    def user(self) -> float:
        return 4 * ANCHORS * DIM + 60

    def state(self) -> float:
        return 2 * 4 * ANCHORS * DIM + 60


@dataclass(frozen=True)
class Line:
    """One stage: seconds on the cluster, who does it (core slots, one process, GPUs), bytes through the shuffle, and how it is known."""

    stage: str
    seconds: float
    on: str
    shuffle: float
    known: str


def full_run(size: Size, cluster: Cluster, rates: dict[str, float], bytes_of: Bytes) -> list[Line]:
    """Everything from nothing, training included."""
    spread = cluster.slots * cluster.efficiency
    by_gpu = cluster.gpus * GPU_FLOPS * GPU_SHARE
    folds = size.months + size.years

    def on_cores(stage: str, amount: float, shuffle: float = 0.0) -> Line:
        return Line(stage, amount / rates[stage] / spread, "cores", shuffle, "m")

    lines = [
        on_cores("ingest", size.events, size.events * bytes_of.shuffled_by_ingest),
        on_cores("build-pairs", size.events, size.events * bytes_of.shuffled_by_pairs),
        Line("train-item-encoder", ENCODER_STEPS * rates["train-item-encoder"], "one process", 0.0, "f"),
        on_cores("encode-items", size.items, size.items * (4 * DIM + 20)),
        Line("fit-interests", rates["fit-interests"] * (size.interests / 1e5) ** 0.5, "one process", 0.0, "f"),
        on_cores("assign-interests", size.items * (size.interests / 1e5) ** 0.5, size.items * 20),
        on_cores("build-bags", size.events, size.events * bytes_of.shuffled_by_bags),
        Line("train-smen", SMEN_STEPS * rates["train-smen"], "one process", 0.0, "f"),
        on_cores("embed-users", size.users * folds / 52),
        Line("publish", size.users / rates["publish"], "one process", 0.0, "m"),
    ]
    if cluster.gpus:
        lines += [
            Line("encode and assign, on GPUs", size.items * 2 * DIM * size.interests / by_gpu, "GPUs", 0.0, "a"),
            Line("embed-users, on GPUs", size.users * folds * MONTH_FLOP / by_gpu, "GPUs", 0.0, "a"),
        ]
    return lines


def daily_run(size: Size, cluster: Cluster, rates: dict[str, float], bytes_of: Bytes) -> list[Line]:
    """One day more, with kept states: the open month (half of one on average) and months with late events are read and counted again, and every
    user is written anew. Users with late events are folded again from their whole lives; how many is not known here, so they are left out."""
    spread = cluster.slots * cluster.efficiency
    open_month = size.users * size.active_share * size.events_per_month * (0.5 + size.late_months)
    return [
        Line("ingest", open_month / rates["ingest"] / spread, "cores", open_month * bytes_of.shuffled_by_ingest, "m"),
        Line("encode and assign", size.new_items_a_day * (1 / rates["encode-items"] + 1 / rates["assign-interests"]) / spread, "cores", 0.0, "m"),
        Line("build-bags", open_month / rates["build-bags"] / spread, "cores", open_month * bytes_of.shuffled_by_bags, "m"),
        Line("embed-users", size.users * 2 / 52 / rates["embed-users"] / spread, "cores", 0.0, "m"),
        Line("publish", size.users / rates["publish"], "one process", 0.0, "m"),
    ]


def storage(size: Size, bytes_of: Bytes, releases: float) -> list[tuple[str, float]]:
    return [
        ("events", size.events * bytes_of.event), ("items and titles", size.items * 80), ("item embeddings", size.items * (4 * DIM + 20)),
        ("bags", size.bag_rows * bytes_of.bag_row + size.bag_cells * bytes_of.bag_cell), ("states", size.users * bytes_of.state()),
        ("one release", size.users * bytes_of.user()), (f"{releases:,.0f} releases, kept for ever", releases * size.users * bytes_of.user()),
    ]


def limits(size: Size, cluster: Cluster, rates: dict[str, float], bytes_of: Bytes) -> list[tuple[float, str, str]]:
    """What breaks, smallest first: the share of today's size at which it does, what, and what to do."""
    buckets = size.users / cluster.users_per_bucket
    files = buckets * (size.months + size.years)
    task_rows = size.users / cluster.users_per_bucket and cluster.users_per_bucket * (size.months + size.years)
    task_gb = PYTHON_BASE_GB + min(cluster.users_per_bucket, OPEN_BATCH_ROWS) * (size.months + size.years) * (
        bytes_of.bag_row + 8 * size.events_per_month * size.active_share) / GB
    hash_gb = 8 * size.users / GB
    found = [
        (3_600 / (size.users / rates["publish"]), "publish reads every vector in one process: over an hour", "audit on the executors"),
        (3_600 / (files * cluster.seconds_a_request / REQUESTS), f"a commit asks for the size of each of {files:,.0f} files of bags, {REQUESTS} at a "
         "time: over an hour", "larger buckets"),
        (600 / (files * (rates["commit"] + rates["snapshot"])), "one commit and one opening of bags take the driver ten minutes", "larger buckets"),
        (2.0 / task_gb, f"a Python worker that embeds opens all periods of a bucket ({task_gb:.1f} GB, {task_rows:,.0f} rows)", "smaller buckets"),
        (8 / hash_gb, f"publish holds 8 bytes a user ({hash_gb:.1f} GB) to find duplicates", "count them by bucket"),
        (50 * TB / (365 * size.users * bytes_of.user()), "daily releases of a year, all kept: over 50 TB", "end old models, release weekly"),
        (24 * 3_600 / sum(line.seconds for line in daily_run(size, cluster, rates, bytes_of)), "the daily run takes a day", "more executors"),
        (30 * 24 * 3_600 / sum(line.seconds for line in full_run(size, cluster, rates, bytes_of) if line.on != "GPUs"), "a full run takes a month",
         "more executors"),
    ]
    return sorted(found)


def measure_log(n_files: int) -> None:
    """Processor time of one commit of so many files, which need not be there, and of opening the table again."""
    from lurm.manifest import DataFile
    from lurm.schema import BAGS
    from lurm.store import Store, actions_of

    with tempfile.TemporaryDirectory() as folder:
        store, files = Store(folder), []
        for number in range(n_files):
            partition = {"space_id": "space-0123456789abcdef", "scale": "month", "period": f"20{number % 60:02d}-01", "until": "2022-01-01"}
            place = "/".join(f"{name}={value}" for name, value in partition.items())
            path = f"{place}/{number:016x}-{number:016x}.parquet"
            files.append(DataFile(path, 7_000_000, 50_000, "", {**partition, "bucket": str(number // 60)}, "u000000001", "u999999999"))
        actions, delta = actions_of([], files, BAGS, {}), store.create(BAGS)
        started = time.process_time()
        store.commit_on(delta, BAGS, actions, {"run_key": "measured"})
        committed = time.process_time()
        store.snapshot(BAGS.name)
        opened = time.process_time()
    print(f"{n_files:,} files: commit {committed - started:.2f} s ({(committed - started) / n_files:.3g} s/file), open {opened - committed:.2f} s "
          f"({(opened - committed) / n_files:.3g} s/file)")


def print_lines(title: str, lines: list[Line], cluster: Cluster) -> None:
    print(f"\n{title}\n{'stage':<30}{'hours':>10}  {'on':<12}{'cost':>10}{'shuffle TB':>12}  known")
    hours = cost = shuffle = 0.0
    for line in lines:
        price = cluster.gpus * cluster.price_gpu if line.on == "GPUs" else cluster.slots * cluster.price_core
        spent = line.seconds / 3_600 * price
        print(f"{line.stage:<30}{line.seconds / 3_600:>10.2f}  {line.on:<12}{spent:>10,.0f}{line.shuffle / TB:>12.2f}  {line.known}")
        if line.on != "GPUs":  # instead of the lines on cores, not beside them
            hours, cost, shuffle = hours + line.seconds / 3_600, cost + spent, shuffle + line.shuffle
    print(f"{'all, on cores':<30}{hours:>10.2f}  {'':<12}{cost:>10,.0f}{shuffle / TB:>12.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, told in (
        ("users", 2e8, ""), ("items", 1e9, ""), ("years", 5, ""), ("interests", 1e5, ""), ("events-per-month", 10, "of a user in a month he acts in"),
        ("active-share", 0.5, "of months in which a user acts"), ("new-items-a-day", 1e6, ""), ("late-months", 2, "that a day's late events touch"),
        ("efficiency", 0.7, "of a core's rate on many machines; assumed"), ("price-core", 0.05, "an hour"), ("price-gpu", 4.0, "an hour"),
        ("price-tb", 23.0, "a month"), ("users-per-bucket", 5e4, ""), ("ms-request", 10, "of the object store; assumed"),
        ("bytes-event", 15.0, "stored"), ("bytes-bag-row", 20.0, "stored"),
        ("bytes-bag-cell", 4.0, "stored"), ("shuffle-ingest", 32.0, "bytes an event"), ("shuffle-pairs", 46.0, "bytes an event"),
        ("shuffle-bags", 52.0, "bytes an event"),
    ):
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{told} (default {default:g})".strip())
    for name, default in (("executors", 50), ("cores", 8), ("gpus", 8)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"(default {default})")
    parser.add_argument("--rates", default=str(RATES), help="JSON: name, value, unit, command, measured")
    parser.add_argument("--measure-log", type=int, metavar="FILES", help="measure the rates `commit` and `snapshot` here, and stop")
    told = parser.parse_args()
    if told.measure_log:
        measure_log(told.measure_log)
        return
    table = json.loads(Path(told.rates).read_text(encoding="utf-8"))
    rates = {row["name"]: row["value"] for row in table}
    size = Size(told.users, told.items, told.years, told.interests, told.events_per_month, told.active_share, told.new_items_a_day, told.late_months)
    cluster = Cluster(told.executors, told.cores, told.gpus, told.efficiency, told.price_core, told.price_gpu, told.price_tb, told.users_per_bucket,
                      told.ms_request / 1_000)
    bytes_of = Bytes(told.bytes_event, told.bytes_bag_row, told.bytes_bag_cell, told.shuffle_ingest, told.shuffle_pairs, told.shuffle_bags)

    print(f"{size.users:.3g} users, {size.items:.3g} items, {size.years:g} years, {size.interests:.3g} interests: {size.events:.3g} events, "
          f"{size.bag_rows:.3g} bags; {cluster.executors} executors of {cluster.cores} cores, {cluster.gpus} GPUs\n\nrates")
    for row in table:
        print(f"  {row['name']:<20}{row['value']:>12,.6g} {row['unit']:<30} {row['measured']}\n{'':<34} {row['command']}")
    full, day = full_run(size, cluster, rates, bytes_of), daily_run(size, cluster, rates, bytes_of)
    print_lines("a full run", full, cluster)
    print_lines("a day", day, cluster)
    once = sum(line.seconds for line in full if line.stage in ("ingest", "build-bags", "embed-users"))
    per_date = sum(line.seconds * (1.5 if line.stage == "embed-users" else 1) for line in day if line.stage in ("embed-users", "publish"))
    print(f"\na year's backfill, twelve dates with one model: {(once + 12 * per_date) / 3_600:,.1f} hours on cores (the log, the closed months and "
          f"whole lives once; each date takes the states one month on: {per_date / 3_600:.2f} hours, publish included)")
    print(f"\nstorage\n{'':<34}{'TB':>10}{'a month':>10}")
    for name, amount in storage(size, bytes_of, 365):
        print(f"  {name:<32}{amount / TB:>10.2f}{amount / TB * cluster.price_tb:>10,.0f}")
    buckets = size.users / cluster.users_per_bucket
    partitions = max(3 * cluster.slots, size.events * max(bytes_of.shuffled_by_pairs, bytes_of.shuffled_by_bags) / (512 * MB))
    print(f"\nsettings\n  spark.user_buckets         {buckets:>10,.0f}   ({cluster.users_per_bucket:,.0f} users a bucket)"
          f"\n  spark.shuffle_partitions   {partitions:>10,.0f}   (at most 512 MB a task, at least three times the cores)"
          f"\n  spark.item_buckets         {max(8, size.items / 1e6):>10,.0f}   (a million items a file)"
          f"\n  files of events and bags   {buckets * size.months:>10,.0f} and {buckets * (size.months + size.years):,.0f}"
          f"\n  memory of an executor      {cluster.cores * (1.0 + 1.5):>10,.0f} GB (1 GB of heap and 1.5 GB of Python a core)")
    print("\nwhat breaks first (share of this size at which it does; below 1 it is broken here)")
    for share, what, remedy in limits(size, cluster, rates, bytes_of):
        print(f"  {share:>8.2f}  at {size.users * share:>8.2g} users: {what}; {remedy}")


if __name__ == "__main__":
    main()
