"""Labels of every kind and type: users as the table has them, times as instants, and one sentence for what cannot be read."""

from datetime import UTC, date, datetime, timedelta, timezone

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moments import at, micros

from lurm.errors import InputError
from lurm.joining.label_frames import BATCH_ROWS, kind_of, open_labels, time_micros, user_texts

ROWS = pa.table({"user_id": ["0012", "b"], "time": ["2022-01-31", "2022-02-01T12:00:00Z"], "bought": [1, 0]})


def instants(values, kind=None) -> list[datetime | None]:
    numbers, known = time_micros(pa.array(values, kind), "time")
    return [at("1970-01-01") + timedelta(microseconds=int(number)) if there else None for number, there in zip(numbers, known, strict=True)]


def test_times_of_every_type():
    noon = datetime(2022, 1, 31, 12, tzinfo=UTC)
    for unit in ("s", "ms", "us", "ns"):
        assert instants([noon, None], pa.timestamp(unit, "UTC")) == [noon, None]
        assert instants([noon.replace(tzinfo=None)], pa.timestamp(unit)) == [noon], "without a zone it is UTC"
    assert instants([noon], pa.timestamp("us", "Asia/Tokyo")) == [noon], "an instant, whatever the zone"
    assert instants([date(2022, 1, 31)], pa.date32()) == instants([date(2022, 1, 31)], pa.date64()) == [at("2022-01-31")]
    assert instants([None, None]) == [None, None]
    texts = ["2022-01-31", "2022-01-31T12:00:00", "2022-01-31 12:00", "2022-01-31T12:00:00Z", "2022-01-31T14:00:00+02:00", "2022-01-31 10:30:00-0130",
             " 2022-01-31T12:00:00.000001Z ", "", None]
    expected = [at("2022-01-31"), noon, noon, noon, noon, noon, noon + timedelta(microseconds=1), None, None]
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        assert instants(pa.array(texts).cast(kind)) == expected


def test_parts_of_a_microsecond_never_reach_into_the_next_day():
    almost = np.datetime64("2021-12-31T23:59:59.999999999", "ns")
    assert instants([almost], pa.timestamp("ns")) == [datetime(2021, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)]
    assert instants(["2021-12-31T23:59:59.999999999"]) == [datetime(2021, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)]
    assert instants([np.datetime64("1969-12-31T23:59:59.999999999", "ns")], pa.timestamp("ns")) == [at("1970-01-01") - timedelta(microseconds=1)]


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_iso_text_is_read_as_python_reads_it(moment, offset):
    text = moment.replace(tzinfo=timezone(timedelta(minutes=offset))).isoformat()
    assert time_micros(pa.array([text]), "t")[0][0] == micros(datetime.fromisoformat(text))
    assert time_micros(pa.array([moment.isoformat(sep=" ")]), "t")[0][0] == micros(moment.replace(tzinfo=UTC))


def test_times_that_are_none():
    with pytest.raises(InputError, match="Expected times in column 'bought_at' as ISO text .* got '31.01.2022'; write 2022-01-31T12:00:00Z"):
        time_micros(pa.array(["2022-01-31", "31.01.2022"]), "bought_at")
    with pytest.raises(InputError, match="got '2022-13-01T00:00:00Z'"):
        time_micros(pa.array(["2022-13-01T00:00:00Z"]), "bought_at")
    with pytest.raises(InputError, match="as timestamps, dates or ISO text, got int64"):
        time_micros(pa.array([1643630400]), "bought_at")
    with pytest.raises(InputError, match="between the years 1 and 9999"):
        time_micros(pa.array([2**62], pa.timestamp("s")), "bought_at")


def test_users_of_every_type():
    assert user_texts(pa.array([12, None, 7]), "u").to_pylist() == ["12", None, "7"]
    assert user_texts(pa.array([12.0, float("nan"), None]), "u").to_pylist() == ["12", None, None], "whole numbers that pandas made floats"
    assert user_texts(pa.array(["0012", "", None]), "u").to_pylist() == ["0012", None, None]
    assert user_texts(pa.array([b"\xc3\xa4"]), "u").to_pylist() == ["ä"] and user_texts(pa.nulls(2), "u").to_pylist() == [None, None]
    assert user_texts(pa.array(["a", "b", "a"]).dictionary_encode(), "u").to_pylist() == ["a", "b", "a"]
    for column, said in ((pa.array([1.5]), "got double .*truncated"), (pa.array([True]), "got bool"), (pa.array([b"\xff"]), "got binary")):
        with pytest.raises(InputError, match=f"Expected user ids in column 'u', {said}"):
            user_texts(column, "u")


def test_kinds(tmp_path):
    frames = {"table": [ROWS, ROWS.to_batches()[0]], "pandas": [ROWS.to_pandas()], "polars": [polars.from_arrow(ROWS)],
              "stream": [ROWS.to_reader(), ds.dataset(ROWS), ds.dataset(ROWS).scanner(), "labels.csv", tmp_path, duckdb.arrow(ROWS)]}
    for kind, those in frames.items():
        assert [kind_of(labels) for labels in those] == [kind] * len(those)
    for wrong, said in (([1, 2], "got builtins.list; give one of these"), (polars.from_arrow(ROWS).lazy(), "got polars.LazyFrame; collect")):
        with pytest.raises(InputError, match=said):
            kind_of(wrong)


def read(labels, **options) -> pa.Table:
    found = open_labels(labels, "user_id", "time", **options)
    return pa.Table.from_batches(list(found.batches), found.schema)


def test_frames_and_streams_give_their_rows():
    for labels in (ROWS, ROWS.to_batches()[0], ROWS.to_reader(), ds.dataset(ROWS), ds.dataset(ROWS).scanner(), duckdb.arrow(ROWS), ROWS.to_pandas(),
                   polars.from_arrow(ROWS)):
        assert read(labels).to_pylist() == ROWS.to_pylist()
    for labels in (ROWS, ROWS.to_pandas(), polars.from_arrow(ROWS)):
        assert read(labels, only_keys=True).schema.names == ["user_id", "time"]
    long = pa.table({"user_id": ["a"] * 200_000, "time": ["2022-01-01"] * 200_000})
    for labels in (long, long.to_reader(), pa.RecordBatchReader.from_batches(long.schema, long.to_batches())):
        assert max(batch.num_rows for batch in open_labels(labels, "user_id", "time").batches) <= BATCH_ROWS


def test_files_of_every_kind(tmp_path):
    (tmp_path / "parts").mkdir()
    pq.write_table(ROWS, tmp_path / "parts" / "1.parquet")
    pq.write_table(ROWS.slice(1), tmp_path / "parts" / "2.parquet")
    pa.csv.write_csv(ROWS, tmp_path / "labels.csv")
    (tmp_path / "labels.tsv").write_text("bought\tuser_id\ttime\n1\t0012\t2022-01-31\n0\tb\t2022-02-01T12:00:00Z\n")
    assert read(tmp_path / "parts" / "1.parquet").to_pylist() == ROWS.to_pylist()
    assert read(str(tmp_path / "parts")).num_rows == read(str(tmp_path / "parts" / "*.parquet")).num_rows == 3
    assert read(tmp_path / "labels.csv").to_pylist() == ROWS.to_pylist(), "0012 stays 0012, other columns get their types"
    assert read(tmp_path / "labels.tsv").select(["user_id", "time", "bought"]).to_pylist() == ROWS.to_pylist()
    (tmp_path / "empty.csv").write_text("user_id,time\n")
    assert read(tmp_path / "empty.csv").num_rows == 0


def test_labels_that_cannot_be_used(tmp_path):
    for labels in (ROWS, ROWS.to_reader(), ROWS.to_pandas(), polars.from_arrow(ROWS), ds.dataset(ROWS), ds.dataset(ROWS).scanner()):
        with pytest.raises(InputError, match="Expected a column 'customer' in the labels, found: user_id, time, bought; name the right one"):
            open_labels(labels, "customer", "time")
    with pytest.raises(InputError, match="column 'user_id' in the labels, found it twice"):
        open_labels(pa.table([["a"], ["b"], ["c"]], names=["user_id", "user_id", "time"]), "user_id", "time")
    with pytest.raises(InputError, match="found no file there"):
        open_labels(tmp_path / "none.csv", "user_id", "time")
    (tmp_path / "l.jsonl").write_text('{"user_id": "a", "time": "2022-01-01"}\n')
    with pytest.raises(InputError, match="as Parquet or CSV, .* holds JSON"):
        open_labels(tmp_path / "l.jsonl", "user_id", "time")
    (tmp_path / "l.csv").write_text("user_id,time\na,2022-01-01,3\n")
    with pytest.raises(InputError, match="could not read .*l.csv .*mend the file, or give it as Parquet"):
        open_labels(tmp_path / "l.csv", "user_id", "time")
    with pytest.raises(InputError, match="of one type each in the labels, got a mixture"):
        open_labels(pandas.DataFrame({"user_id": ["a", 1], "time": ["2022-01-01", "2022-01-01"]}), "user_id", "time")
