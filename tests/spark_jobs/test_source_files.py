"""Raw rows are the same whether Spark reads the files itself or Arrow does on the executors (but for blanks inside a nested JSON value)."""

import gzip
import json
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_pipeline import instant

from lurm.errors import InputError
from lurm.sources import Source, SourceFile, find_source
from spark_jobs import source_files
from spark_jobs.source_files import FILE, MODIFIED, batches_of_lines, plain_type, read_source, spark_reads

CSV = ('user_id,"item, id",timestamp\nu1,"a ""quoted"" name",2020-01-01\n\n  \nu2,only two\nu3,a,b,one too many\n"",,\nüñí,Ω,"x\\"\r\n'
       "u4,x,y\ru5,x,z").encode() + b"\nu6,\xff\xfe,broken"
JSONL = "\n".join(['{"user_id": "u1", "n": 17, "tags": ["a","b"]}', "", "not json", '"text"', "17", "[1, 2]", '{"user_id": "u2", ', '{"other": 1}',
                   '{"user_id": {"deep":true}}', '{"user_id": "ü", "n": null}']).encode()


def both(spark, monkeypatch, source: Source) -> tuple[list, list, object, object]:
    """Rows and schemas as Spark gives them and as Arrow does; where Spark finds a path a URI is as good."""
    paths = [file.path for file in source.files]
    by_spark = read_source(spark, source, paths)
    monkeypatch.setattr(source_files, "spark_reads", lambda spark, path: False)
    uris = tuple(SourceFile(f"file://{file.path}", file.size, file.modified) for file in source.files)
    by_arrow = read_source(spark, Source(source.name, uris, source.format, source.columns, source.separator), [file.path for file in uris])

    def rows(frame):
        plain = [row.asDict(recursive=True) for row in frame.collect()]
        return sorted(json.dumps({**row, FILE: unquote(row[FILE].rpartition("/")[2])}, default=str, sort_keys=True) for row in plain)

    return rows(by_spark), rows(by_arrow), by_spark.schema, by_arrow.schema


@pytest.mark.parametrize(("name", "data"), [("a.csv", CSV), ("a.csv.gz", gzip.compress(CSV)), ("a.jsonl", JSONL)])
def test_lines_are_parsed_alike(spark, monkeypatch, tmp_path, name, data):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / name).write_bytes(data)
    (tmp_path / "log" / f"b{name[1:]}").write_bytes(data)
    source = find_source("events", str(tmp_path / "log"), "auto")
    by_spark, by_arrow, schema, other = both(spark, monkeypatch, source)
    assert by_arrow == by_spark and len(by_spark) >= 12
    assert {field.name: field.dataType for field in other} == {field.name: field.dataType for field in schema}


def test_types_of_parquet_are_those_that_spark_chooses(spark, monkeypatch, tmp_path):
    at = instant("2020-01-05T10:00:00")
    columns = {
        "text": pa.array(["a", None]), "large": pa.array(["a", "b"], pa.large_string()), "coded": pa.array(["x", "y"]).dictionary_encode(),
        "n8": pa.array([1, 2], pa.uint8()), "n32": pa.array([1, 4_000_000_000], pa.uint32()), "n64": pa.array([1, 2], pa.int64()),
        "half": pa.array([1.5, None], pa.float32()), "flag": pa.array([True, None]), "day": pa.array([1, 2], pa.date32()),
        "ns": pa.array([at, at], pa.timestamp("ns", "UTC")), "us": pa.array([at, None], pa.timestamp("us", "UTC")),
        "ms": pa.array([at, at], pa.timestamp("ms", "UTC")), "no_zone": pa.array([at.replace(tzinfo=None)] * 2, pa.timestamp("us")),
        "tags": pa.array([["a"], []]), "many": pa.array([["a"], None], pa.large_list(pa.string())),
    }
    for name in ("a", "b with a blank"):
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    source = find_source("items", str(tmp_path), "auto")
    by_spark, by_arrow, schema, other = both(spark, monkeypatch, source)
    assert {field.name: field.dataType for field in other} == {field.name: field.dataType for field in schema}
    assert by_arrow == by_spark and len(by_spark) == 4


def test_plain_types_that_spark_cannot_read_itself():
    assert plain_type(pa.float16()) == pa.float32() and plain_type(pa.list_(pa.large_string(), 3)) == pa.list_(pa.string())
    assert plain_type(pa.uint64()) == pa.decimal128(20, 0) and plain_type(pa.null()) == pa.string()
    assert plain_type(pa.large_binary()) == pa.binary() and plain_type(pa.string()) == pa.string()


def test_lines_do_not_depend_on_how_the_bytes_were_cut():
    data = b"\xef\xbb\xbfheader\r\none\rtwo\n\n three \r\n\xc3\xbc"
    for size in (1, 2, 3, 7, 100):
        blocks = iter([data[start : start + size] for start in range(0, len(data), size)])
        if size < 3:  # a byte order mark that is cut in two is looked for in the first block only
            blocks = iter([data[:3], *(data[start : start + size] for start in range(3, len(data), size))])
        assert [line for lines in batches_of_lines(blocks, True) for line in lines] == ["one", "two", " three ", "ü"]
    assert list(batches_of_lines(iter([]), False)) == []


def test_a_connector_is_used_where_the_cluster_names_one(spark):
    assert spark_reads(spark, "/log/a.csv") and spark_reads(spark, "hdfs://name/log") and not spark_reads(spark, "s3://lake/log")
    spark.conf.set("spark.hadoop.fs.s3.impl", "org.apache.hadoop.fs.s3a.S3AFileSystem")
    try:
        assert spark_reads(spark, "s3://lake/log") and not spark_reads(spark, "gs://lake/log")
    finally:
        spark.conf.unset("spark.hadoop.fs.s3.impl")


def test_a_file_that_is_gone_is_a_sentence(spark, monkeypatch, tmp_path):
    monkeypatch.setattr(source_files, "spark_reads", lambda spark, path: False)
    source = Source("events", (SourceFile(f"file://{tmp_path}/gone.csv", 1, 0),), "csv", {"user_id": pa.string()})
    with pytest.raises(Exception, match="lurm.errors.InputError: Expected readable files of events") as error:
        read_source(spark, source, [source.files[0].path]).collect()
    assert not isinstance(error.value, InputError) and FILE != MODIFIED
