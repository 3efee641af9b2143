"""Files of an export, read as a stranger reads them: with numpy, pyarrow, duckdb, polars and faiss alone."""

import duckdb
import faiss
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lurm.exporting.export_files import FORMATS, WRITERS, ranges_of
from lurm.exporting.quantization import DTYPES
from lurm.vectors import unit_rows

N, N_ANCHORS, DIM = 90, 3, 4
IDS = [f"user {number}" for number in range(N)]
VECTORS = np.random.default_rng(8).standard_normal((N, N_ANCHORS * DIM)).astype(np.float32)
VECTORS[7] = 0.0


def write(folder, file_format: str, dtype: str, step: int = 40) -> np.ndarray:
    """Write all vectors in batches; returns what the writer says the files will give."""
    extra = {"ranges": ranges_of([VECTORS[:50], VECTORS[50:]])} if (file_format, dtype) == ("faiss", "int8") else {}
    files = WRITERS[file_format](folder, N, N_ANCHORS * DIM, N_ANCHORS, dtype, **extra)
    stored = [files.write(pa.array(IDS[start : start + step]), VECTORS[start : start + step]) for start in range(0, N, step)]
    files.close()
    assert {file.name for file in folder.iterdir()} == set(files.files.values())
    return np.concatenate(stored)


def ids_of(folder) -> list[str]:
    table = pq.read_table(folder / "ids.parquet")
    assert table.column("row").to_pylist() == list(range(N))
    return table.column("user_id").to_pylist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_npy(tmp_path, dtype):
    said = write(tmp_path, "npy", dtype)
    codes = np.load(tmp_path / "vectors.npy", mmap_mode="r", allow_pickle=False)
    assert codes.shape == (N, N_ANCHORS * DIM) and codes.dtype == np.dtype(dtype) and ids_of(tmp_path) == IDS
    read = codes.astype(np.float32)
    if dtype == "int8":
        read = (read.reshape(N, N_ANCHORS, DIM) * np.load(tmp_path / "scales.npy", allow_pickle=False)[:, :, None]).reshape(N, -1)
    assert np.array_equal(read, said) and np.allclose(read, VECTORS, atol={"float32": 0, "float16": 3e-3, "int8": 2e-2}[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_parquet(tmp_path, dtype):
    said = write(tmp_path, "parquet", dtype)
    table = pq.read_table(tmp_path / "vectors.parquet")
    assert str(table.schema.field("embedding").type.value_type) == {"float32": "float", "float16": "halffloat", "int8": "int8"}[dtype]
    assert table.column("user_id").to_pylist() == IDS
    read = np.array(table.column("embedding").to_pylist(), np.float32)
    if dtype == "int8":
        read = (read.reshape(N, N_ANCHORS, DIM) * np.array(table.column("scales").to_pylist(), np.float32)[:, :, None]).reshape(N, -1)
    assert np.array_equal(read, said) and np.allclose(read, VECTORS, atol={"float32": 0, "float16": 3e-3, "int8": 2e-2}[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_parquet_in_other_engines(tmp_path, dtype):
    write(tmp_path, "parquet", dtype)
    expected = pq.read_table(tmp_path / "vectors.parquet").column("embedding")[3].as_py()
    path = str(tmp_path / "vectors.parquet")
    assert pl.read_parquet(path)["embedding"][3].to_list() == expected
    (row,) = duckdb.sql(f"SELECT embedding FROM read_parquet('{path}') WHERE user_id = 'user 3'").fetchall()
    assert list(row[0]) == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_faiss(tmp_path, dtype):
    said = write(tmp_path, "faiss", dtype)
    index = faiss.read_index(str(tmp_path / "vectors.faiss"))
    assert index.ntotal == N and index.d == N_ANCHORS * DIM and index.metric_type == faiss.METRIC_INNER_PRODUCT and ids_of(tmp_path) == IDS
    kinds = {"float32": faiss.IndexFlatIP, "float16": faiss.IndexScalarQuantizer, "int8": faiss.IndexScalarQuantizer}
    assert isinstance(index, kinds[dtype])
    assert np.allclose(index.reconstruct_n(0, N), said, atol=1e-6)
    assert np.allclose(said, unit_rows(VECTORS), atol={"float32": 1e-7, "float16": 5e-4, "int8": 5e-3}[dtype])
    queries = unit_rows(VECTORS[:5])
    cosines, rows = index.search(queries, 1)
    assert rows[:, 0].tolist() == [0, 1, 2, 3, 4] and np.allclose(cosines[:, 0], 1, atol=0.02), "everybody is nearest to himself"


def test_ranges_are_those_of_all_batches():
    assert np.allclose(ranges_of(iter([VECTORS[:1], VECTORS[1:]])), [unit_rows(VECTORS).min(axis=0), unit_rows(VECTORS).max(axis=0)])


def test_one_user_alone_is_kept(tmp_path):
    """The range of one vector is a point."""
    ranges = ranges_of([VECTORS[:1]])
    files = WRITERS["faiss"](tmp_path, 1, N_ANCHORS * DIM, N_ANCHORS, "int8", ranges=ranges)
    stored = files.write(pa.array(IDS[:1]), VECTORS[:1])
    files.close()
    assert np.allclose(stored, unit_rows(VECTORS[:1]), atol=1e-6)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_smaller_type_is_a_smaller_file(tmp_path, file_format):
    sizes = []
    for dtype in DTYPES:
        folder = tmp_path / dtype
        folder.mkdir()
        files = WRITERS[file_format](folder, 2_000, 256, 2, dtype)
        files.write(pa.array([str(number) for number in range(2_000)]), np.random.default_rng(1).standard_normal((2_000, 256)).astype(np.float32))
        files.close()
        sizes.append((folder / files.files["vectors"]).stat().st_size)
    assert sizes[1] < 0.55 * sizes[0] and sizes[2] < 0.30 * sizes[0], sizes
