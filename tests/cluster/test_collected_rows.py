"""Nothing that Spark hands to the driver grows with users, items or events: two worlds, one with four times of everything, are counted.

Every way of fetching rows is counted (and who fetches none is no witness, so the counters are tried first). What comes is one row a file, and the
number of files is that of months and buckets as long as files are not full. What joins broadcast passes through the driver too; settings bound
it (spark.broadcast_mb), and here it is checked that a table above the bound is not broadcast.
"""

import json
from collections import Counter, defaultdict
from contextlib import contextmanager

import pytest
from pyspark import RDD
from pyspark.sql import functions as F
from pyspark.sql.classic.dataframe import DataFrame
from small_pipeline import STAGE_NAMES, make_context, run, source_overrides

from lurm.pipeline import BY_NAME, SPARK
from lurm.synthetic import WorldSettings, write_world

pytestmark = pytest.mark.slow
AS_OF = "2020-07-01"
SPARK_STAGES = [name for name in STAGE_NAMES if BY_NAME[name].engine == SPARK]
FETCHING = [(DataFrame, name) for name in ("collect", "toPandas", "toArrow", "toLocalIterator", "take", "tail", "head", "first")]
FETCHING += [(RDD, name) for name in ("collect", "take", "toLocalIterator", "first", "top", "collectAsMap")]


@contextmanager
def counting(fetched: Counter):
    """Add to `fetched` the rows and the characters that any of FETCHING returns, outermost calls only."""
    depth, real = [0], {(owner, name): getattr(owner, name) for owner, name in FETCHING}

    def counted(function):
        def fetch(*arguments, **more):
            depth[0] += 1
            try:
                rows = function(*arguments, **more)
            finally:
                depth[0] -= 1
            if not depth[0]:
                plain = rows.to_pylist() if hasattr(rows, "to_pylist") else rows.values.tolist() if hasattr(rows, "values") else rows
                plain = plain if isinstance(plain, list) else list(plain) if hasattr(plain, "__next__") else [plain]
                fetched["rows"] += len(plain)
                fetched["characters"] += sum(len(str(row)) for row in plain)
                return iter(plain) if hasattr(rows, "__next__") else rows
            return rows

        return fetch

    for (owner, name), function in real.items():
        setattr(owner, name, counted(function))
    try:
        yield
    finally:
        for (owner, name), function in real.items():
            setattr(owner, name, function)


def test_every_way_of_fetching_is_counted(spark):
    for fetch, n_rows in ((lambda frame: frame.collect(), 7), (lambda frame: frame.toPandas(), 7), (lambda frame: frame.toArrow(), 7),
                          (lambda frame: list(frame.toLocalIterator()), 7), (lambda frame: frame.take(3), 3), (lambda frame: frame.first(), 1),
                          (lambda frame: frame.head(2), 2), (lambda frame: frame.rdd.collect(), 7), (lambda frame: frame.rdd.take(2), 2)):
        fetched = Counter()
        with counting(fetched):
            fetch(spark.range(7))
        assert fetched["rows"] == n_rows and fetched["characters"] > 0


def test_what_the_driver_fetches_does_not_grow(spark, tmp_path):
    fetched, sizes, reports = defaultdict(Counter), [], []
    for times in (1, 4):
        world = tmp_path / f"world{times}"
        sizes.append(write_world(world, WorldSettings(n_users=80 * times, n_items=150 * times, n_topics=6, n_months=6, start="2020-01",
                                                      events_per_user=15)).n_events)
        context = make_context(tmp_path / f"warehouse{times}", AS_OF, lambda: spark, *source_overrides(world), "interests.n_interests=6",
                               "spark.in_process_mb=0")
        reports.append({})
        for name in STAGE_NAMES:
            with counting(fetched[name, times]):
                reports[-1] |= run(context, [name])
    small, large = reports
    assert sizes[1] > 3.5 * sizes[0] and large["embed-users"]["users"] > 3.5 * small["embed-users"]["users"]
    assert large["encode-items"]["encoded"] > 3.5 * small["encode-items"]["encoded"]
    rows = {name: (fetched[name, 1]["rows"], fetched[name, 4]["rows"]) for name in STAGE_NAMES}
    print(json.dumps(rows))
    assert {name: pair for name, pair in rows.items() if pair[0] != pair[1]} == {}
    assert all(rows[name][0] > 0 for name in SPARK_STAGES) and sum(pair[0] for pair in rows.values()) < 150
    for name in STAGE_NAMES:  # numbers get a digit more, nothing else
        assert fetched[name, 4]["characters"] <= 1.05 * fetched[name, 1]["characters"], name


def test_only_small_tables_are_broadcast(spark):
    """The threshold is that of the settings; above it a join shuffles, whatever the size of the driver."""
    assert spark.conf.get("spark.sql.autoBroadcastJoinThreshold") == str(64 * 2**20)
    large = spark.range(20_000_000).withColumn("value", F.col("id") * 2)
    plan = large.join(large.withColumnRenamed("value", "other"), "id")._jdf.queryExecution().executedPlan().toString()
    assert "SortMergeJoin" in plan and "BroadcastHashJoin" not in plan
