"""The user's files: found in every form, and every mistake is one sentence before any engine starts."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from lurm.errors import InputError, StoreError
from lurm.sources import find_source, require_columns

ROWS = pa.table({"user_id": ["u1", "u2"], "item_id": ["i1", "i2"], "timestamp": [1, 2]})
CSV = "user_id,item_id,timestamp\nu1,i1,1\n"
JSONL = '{"user_id": "u1", "item_id": "i1"}\n{"user_id": "u2", "price": 3}\n'


def find(path, format="auto", **keywords):
    return find_source("events", str(path), format, **keywords)


def sentence(path, format="auto") -> str:
    with pytest.raises(InputError) as error:
        find(path, format)
    text = str(error.value)
    assert text.startswith("Expected ") and text.endswith(".") and "\n" not in text
    return text


def test_one_parquet_file(tmp_path):
    pq.write_table(ROWS, tmp_path / "log.parquet")
    source = find(tmp_path / "log.parquet")
    assert source.format == "parquet" and source.columns == {"user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.int64()}
    (file,) = source.files
    info = os.stat(file.path)
    assert (file.size, file.modified) == (info.st_size, info.st_mtime_ns)


def test_a_folder_is_read_whole_without_hidden_files(tmp_path):
    for name in ("b.parquet", "a.parquet", "deep/er/c.parquet", "_temporary/x.parquet", ".hidden.parquet", "deep/_SUCCESS", "deep/.c.crc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(ROWS, tmp_path / name) if name.endswith(".parquet") else (tmp_path / name).write_text("x")
    source = find(tmp_path)
    assert [os.path.relpath(file.path, tmp_path) for file in source.files] == ["a.parquet", "b.parquet", "deep/er/c.parquet"]
    assert find(f"{tmp_path}/").files == source.files


def test_a_glob(tmp_path):
    for name in ("2021-01.csv", "2021-02.csv", "2022-01.csv", "2022-01.txt"):
        (tmp_path / name).write_text(CSV)
    assert [os.path.basename(file.path) for file in find(tmp_path / "2021-*.csv").files] == ["2021-01.csv", "2021-02.csv"]
    assert [os.path.basename(file.path) for file in find(tmp_path / "202?-01.c[st]v").files] == ["2021-01.csv", "2022-01.csv"]
    assert "found no file there" in sentence(tmp_path / "1999-*.csv")
    assert "found no file there" in sentence(tmp_path / "none" / "*.csv")


def test_a_path_from_home_and_from_here(tmp_path, monkeypatch):
    (tmp_path / "log.csv").write_text(CSV)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find("log.csv").files == find("~/log.csv").files == find(tmp_path / "log.csv").files


@pytest.mark.parametrize(("name", "text", "separator"), [
    ("log.csv", CSV, ","), ("log.tsv", CSV.replace(",", "\t"), "\t"), ("log.csv.gz", CSV, ","), ("log.tsv.gz", CSV.replace(",", "\t"), "\t"),
    ("LOG.CSV", CSV, ","), ("log.csv", "\ufeff" + CSV, ","), ("log.csv", '"user_id","item_id","timestamp"\n', ","),
])
def test_csv_in_its_dresses(tmp_path, name, text, separator):
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    source = find(tmp_path / name)
    assert (source.format, source.separator) == ("csv", separator)
    assert source.columns == dict.fromkeys(["user_id", "item_id", "timestamp"], pa.string())


def test_a_separator_of_ones_own(tmp_path):
    (tmp_path / "log.csv").write_text(CSV.replace(",", ";"))
    assert list(find(tmp_path / "log.csv", separator=";").columns) == ["user_id", "item_id", "timestamp"]
    (tmp_path / "log.tsv").write_text(CSV.replace(",", "|"))
    assert find(tmp_path / "log.tsv", separator="|").separator == "|"


@pytest.mark.parametrize("name", ["log.jsonl", "log.ndjson", "log.json", "log.jsonl.gz"])
def test_json_lines(tmp_path, name):
    data = (JSONL + "broken {\n[1, 2]\n").encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    source = find(tmp_path / name)
    assert source.format == "jsonl" and set(source.columns) == {"user_id", "item_id", "price"}


def test_a_delta_table(tmp_path):
    write_deltalake(str(tmp_path / "log"), ROWS)
    write_deltalake(str(tmp_path / "log"), ROWS, mode="overwrite")
    for format in ("auto", "delta"):
        source = find(tmp_path / "log", format)
        assert source.format == "parquet" and len(source.files) == 1, "files of older versions are not read"
        assert source.files[0].size == os.path.getsize(source.files[0].path) and list(source.columns) == ["user_id", "item_id", "timestamp"]


def test_a_delta_table_that_is_none(tmp_path):
    with pytest.raises((InputError, StoreError), match="Expected a Delta table at"):
        find(tmp_path / "nothing", "delta")


def test_no_path():
    assert "pass --set events.path=FILE_OR_FOLDER" in sentence("")


def test_an_unknown_format(tmp_path):
    assert "auto, parquet, csv, jsonl or delta, got 'xml'" in sentence(tmp_path, "xml")


@pytest.mark.parametrize("format", ["auto", "parquet", "csv", "jsonl"])
def test_nothing_there(tmp_path, format):
    assert f"Expected events at '{tmp_path}/none.csv', found no file there; mend events.path." == sentence(tmp_path / "none.csv", format)
    (tmp_path / "empty folder").mkdir()
    assert "found no file there" in sentence(tmp_path / "empty folder", format)


def test_a_scheme_nobody_knows():
    assert "Expected a path or URI in events.path, got 'gopher://x/y'" in sentence("gopher://x/y")


def test_only_empty_files(tmp_path):
    (tmp_path / "log.csv").touch()
    assert "found only empty files" in sentence(tmp_path / "log.csv")
    (tmp_path / "more.csv").write_text(CSV)
    assert [os.path.basename(file.path) for file in find(tmp_path).files] == ["more.csv"], "an empty file beside others says nothing"


def test_a_truncated_parquet_file(tmp_path):
    pq.write_table(ROWS, tmp_path / "a.parquet")
    pq.write_table(ROWS, tmp_path / "b.parquet")
    os.truncate(tmp_path / "b.parquet", os.path.getsize(tmp_path / "b.parquet") - 20)
    text = sentence(tmp_path)
    assert "Expected a whole Parquet file in events, could not read" in text and "b.parquet" in text and "export it again" in text
    (tmp_path / "b.parquet").write_text(CSV)
    assert "could not read" in sentence(tmp_path)


def test_a_truncated_archive(tmp_path):
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(CSV.encode() * 1_000)[:40])
    assert "Expected readable text in events, could not read" in sentence(tmp_path)


def test_files_of_two_formats(tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    (tmp_path / "b.jsonl").write_text(JSONL)
    assert "Expected one format in events" in sentence(tmp_path) and "found: csv, jsonl" in sentence(tmp_path)
    assert find(tmp_path / "a*").format == "csv"


def test_an_ending_nobody_knows(tmp_path):
    (tmp_path / "log.dat").write_text(CSV)
    assert "found: unknown; set events.format to parquet, csv, jsonl or delta" in sentence(tmp_path / "log.dat")
    assert list(find(tmp_path / "log.dat", "csv").columns) == ["user_id", "item_id", "timestamp"]


def test_one_column_of_two_types(tmp_path):
    pq.write_table(ROWS, tmp_path / "a.parquet")
    pq.write_table(ROWS.set_column(2, "timestamp", pa.array(["1", "2"])), tmp_path / "b.parquet")
    assert "Expected one type for column 'timestamp' in events" in sentence(tmp_path) and "string where others have int64" in sentence(tmp_path)


@pytest.mark.parametrize("text", ["user_id,item_id\n1,2\n", "[1, 2]\n", '{"cut": \n'])
def test_json_that_is_none(tmp_path, text):
    (tmp_path / "log.jsonl").write_text(text)
    assert "Expected JSON objects, one a line, in events" in sentence(tmp_path / "log.jsonl")


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    assert "could not list them" in sentence(tmp_path / "file" / "*.csv")


def test_missing_columns_are_named_with_those_that_are_there(tmp_path):
    (tmp_path / "log.jsonl").write_text(json.dumps({"who": 1, "what": 2}) + "\n")
    source = find(tmp_path / "log.jsonl")
    require_columns(source, user_column="who")
    with pytest.raises(InputError, match=r"Expected a column 'user_id' in events \(.*log.jsonl\), found: what, who; set events.user_column."):
        require_columns(source, user_column="user_id")


def test_a_file_without_any_column(tmp_path):
    (tmp_path / "log.csv").write_text("\n\n")
    with pytest.raises(InputError, match="found: none; set events.user_column"):
        require_columns(find(tmp_path / "log.csv"), user_column="user_id")


def test_csv_files_with_columns_in_another_order_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("user_id,item_id,timestamp\nu,i,2020-01-01\n")
    (tmp_path / "b.csv").write_text("item_id,user_id,timestamp\ni,u,2020-01-01\n")
    with pytest.raises(InputError, match=r"Expected the header 'user_id,item_id,timestamp' in every file of events, .*b\.csv has 'item_id,user"):
        find_source("events", str(tmp_path), "auto")


def test_a_column_that_one_parquet_file_lacks_is_missing(tmp_path):
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["i"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"user_id": ["u"]}), tmp_path / "b.parquet")
    source = find_source("events", str(tmp_path), "auto")
    with pytest.raises(InputError, match="Expected a column 'item_id' in events"):
        require_columns(source, item_column="item_id")


@pytest.mark.parametrize("path", ["s3://key:secret@bucket/events", "s3://bucket/events?secret_key=secret"])
def test_credentials_in_a_path_are_refused_and_not_repeated(path):
    with pytest.raises(InputError, match="Expected a path or URI in events.path without credentials") as raised:
        find_source("events", path, "auto")
    assert "secret" not in str(raised.value).replace("AWS_SECRET_ACCESS_KEY", "")
