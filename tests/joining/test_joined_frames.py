"""The same kind out as came in: Arrow, pandas, polars, streams, files and Spark, all with the same vectors."""

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from moments import at, publish_history
from published import MODEL, publish_day, vector

from lurm import open_table
from lurm.errors import InputError, LineageError, UnknownUserError
from lurm.joining.label_join import JoinReport
from lurm.store import Store

USERS = [f"u{number:02d}" for number in range(30)]
DATES = ("2022-01-01", "2022-02-01")
BOUGHT = [("u03", "2022-02-10"), ("nobody", "2022-02-10"), ("u01", "2022-01-10"), ("u03", "2022-01-01"), ("u02", "2021-12-31")]
LABELS = pa.table({"customer": [user for user, _ in BOUGHT], "at": pa.array([at(day) for _, day in BOUGHT], pa.timestamp("us", "UTC")),
                   "amount": [1.5, 2.5, 3.5, 4.5, 5.5]})
EXPECTED = [("u03", "2022-02-01"), None, ("u01", "2022-01-01"), ("u03", "2022-01-01"), None]
KEYS = {"user": "customer", "time": "at"}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("warehouse")))
    for as_of in DATES:
        publish_day(store, as_of, USERS, n_files=2)
    return open_table(store.uri)


def got(amounts, embeddings, dates, models) -> dict[float, tuple | None]:
    """What each label (known by its amount) was given."""
    rows = zip(amounts, embeddings, dates, models, strict=True)
    return {amount: None if embedding is None else (tuple(np.asarray(embedding).tolist()), as_of, model) for amount, embedding, as_of, model in rows}


WANTED = {amount: None if pair is None else (tuple(vector(*pair).tolist()), pair[1], MODEL)
          for amount, pair in zip(LABELS.column("amount").to_pylist(), EXPECTED, strict=True)}


def of_arrow(found: pa.Table) -> dict:
    return got(*(found.column(name).to_pylist() for name in ("amount", "embedding", "as_of", "model_id")))


def test_arrow_in_arrow_out_in_order(table):
    for labels in (LABELS, pa.concat_tables([LABELS.slice(0, 2), LABELS.slice(2)])):
        found = table.join(labels, **KEYS)
        assert isinstance(found, pa.Table) and found.column("amount").equals(labels.column("amount")) and of_arrow(found) == WANTED
        assert found.schema.field("embedding").type == pa.list_(pa.float32())
    assert of_arrow(table.join(LABELS.to_batches()[0], **KEYS)) == WANTED
    empty = table.join(LABELS.slice(0, 0), **KEYS)
    assert empty.num_rows == 0 and empty.schema.names == [*LABELS.schema.names, "embedding", "as_of", "model_id"]
    before = table.join(LABELS.slice(4), **KEYS)
    assert before.column("embedding").to_pylist() == [None], "no release at all for any row"


def test_pandas_in_pandas_out_with_its_index(table):
    labels = LABELS.to_pandas().set_index(pandas.Index([10, 30, 20, 10, 50], name="row"))
    found = table.join(labels, **KEYS)
    assert isinstance(found, pandas.DataFrame) and found.index.equals(labels.index) and found[labels.columns.tolist()].equals(labels)
    assert got(found["amount"], found["embedding"], found["as_of"], found["model_id"]) == WANTED
    assert np.stack(found["embedding"].dropna().to_list()).dtype == np.float32
    assert table.join(labels, absent="drop", **KEYS).index.tolist() == [10, 20, 10] and "embedding" not in labels.columns
    naive = labels.assign(at=labels["at"].dt.tz_localize(None).astype("datetime64[ns]"))
    assert got(*(table.join(naive, **KEYS)[name] for name in ("amount", "embedding", "as_of", "model_id"))) == WANTED


def test_polars_in_polars_out_in_order(table):
    labels = polars.from_arrow(LABELS)
    found = table.join(labels, **KEYS)
    assert isinstance(found, polars.DataFrame) and found.select(labels.columns).equals(labels) and of_arrow(found.to_arrow()) == WANTED
    assert table.join(labels, absent="drop", **KEYS)["amount"].to_list() == [1.5, 3.5, 4.5]
    texts = labels.with_columns(polars.col("at").dt.to_string("%Y-%m-%d"), polars.col("customer").cast(polars.Categorical))
    assert of_arrow(table.join(texts, **KEYS).to_arrow()) == WANTED


def test_streams_and_files_come_out_as_a_stream(table, tmp_path):
    pq.write_table(LABELS, tmp_path / "labels.parquet")
    for labels in (LABELS.to_reader(max_chunksize=2), ds.dataset(LABELS), tmp_path / "labels.parquet", duckdb.arrow(LABELS)):
        found = table.join(labels, **KEYS)
        assert isinstance(found, pa.RecordBatchReader) and of_arrow(found.read_all()) == WANTED
    answer = duckdb.from_arrow(table.join(LABELS.to_reader(), **KEYS))
    assert answer.aggregate("count(*), count(as_of), sum(len(embedding))").fetchall() == [(5, 3, 18)]


def test_one_parquet_file_whole_or_not_at_all(table, tmp_path):
    target = tmp_path / "training.parquet"
    for labels in (LABELS, LABELS.to_pandas(), polars.from_arrow(LABELS), LABELS.to_reader()):
        report = table.join(labels, output=str(target), **KEYS)
        assert isinstance(report, JoinReport) and (report.rows, report.with_vector) == (5, 3)
        assert of_arrow(pq.read_table(target)) == WANTED and pq.read_schema(target).names[:3] == LABELS.schema.names
        target.unlink()
    with pytest.raises(UnknownUserError):
        table.join(LABELS.slice(0, 2), output=str(target), absent="error", **KEYS)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="Could not write .*nowhere.*choose another --output"):
        table.join(LABELS, output=str(tmp_path / "nowhere" / "x.parquet"), **KEYS)


def test_categories_and_nested_columns_travel_along(table):
    labels = LABELS.append_column("shop", pa.array(["x", "y", "x", "z", "y"]).dictionary_encode())
    labels = labels.append_column("basket", pa.array([[1], [], None, [2, 3], [4]]))
    found = table.join(labels.to_reader(max_chunksize=2), memory_mb=0.001, **KEYS).read_all().sort_by("amount")
    assert found.column("shop").to_pylist() == ["x", "y", "x", "z", "y"] and found.column("basket").to_pylist() == [[1], [], None, [2, 3], [4]]


def test_spark_in_spark_out(table, spark, tmp_path):
    """On executors that get nothing but the name of the warehouse and the labels."""
    pq.write_table(LABELS, tmp_path / "labels.parquet")
    labels = spark.read.parquet(str(tmp_path / "labels.parquet"))
    found = table.join(labels, **KEYS)
    assert type(found) is type(labels) and found.columns == [*labels.columns, "embedding", "as_of", "model_id"]
    rows = found.collect()
    assert got(*([row[name] for row in rows] for name in ("amount", "embedding", "as_of", "model_id"))) == WANTED
    assert sorted(row["amount"] for row in table.join(labels, absent="drop", anchors=[1], **KEYS).collect()) == [1.5, 3.5, 4.5]
    with pytest.raises(InputError, match="Expected no output= with a Spark frame"):
        table.join(labels, output="x.parquet", **KEYS)
    with pytest.raises(InputError, match="Expected a column 'user_id' in the labels"):
        table.join(labels, time="at")
    with pytest.raises(InputError, match="without a column 'as_of'"):
        table.join(labels.withColumnRenamed("amount", "as_of"), **KEYS)


def test_spark_refuses_two_models_before_anything_is_joined(spark, tmp_path):
    store = Store(str(tmp_path / "w"))
    moves = [("2022-01-01", "model-old", "2022-01-02"), ("2022-02-01", "model-new", "2022-02-02")]
    publish_history(store, moves, {as_of: USERS for as_of, *_ in moves})
    pq.write_table(LABELS, tmp_path / "labels.parquet")
    labels = spark.read.parquet(str(tmp_path / "labels.parquet"))
    with pytest.raises(LineageError, match=r"model-old \(1 dates from 2022-01-01 to 2022-01-01, 2 labels\)"):
        open_table(store.uri).join(labels, **KEYS)
    assert {row["model_id"] for row in open_table(store.uri).join(labels, mix_models=True, **KEYS).collect()} == {"model-old", "model-new", None}
    late = labels.filter("amount < 3")
    assert {row["model_id"] for row in open_table(store.uri).join(late, **KEYS).collect()} == {"model-new", None}, "one model is all they reach"
