"""The files of an export, written batch by batch: a NumPy array, a Parquet file, or a faiss index, each with who stands in which row.

In: batches of user ids and vectors, in the order of the rows. Out: files in a folder, and for every batch what these files will give back,
so that the error can be measured while writing. Memory is one batch, except for faiss, which can only write an index that it holds.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lurm.exporting.quantization import FLOAT16, FLOAT32, INT8, quantize
from lurm.joining.embedding_units import list_column
from lurm.vectors import unit_rows

FAISS, NPY, PARQUET = "faiss", "npy", "parquet"
FORMATS = (FAISS, NPY, PARQUET)
ROWS = pa.schema([("row", pa.int64()), ("user_id", pa.string())])  # of ids.parquet: row 0 of the array or the index is row 0 here


class _Ids:
    """ids.parquet: which user stands in which row."""

    def __init__(self, folder: Path):
        self._writer, self._n_rows = pq.ParquetWriter(str(folder / "ids.parquet"), ROWS, compression="zstd"), 0

    def write(self, ids: pa.Array) -> None:
        rows = pa.array(np.arange(self._n_rows, self._n_rows + len(ids)))
        self._writer.write_table(pa.table([rows, ids], schema=ROWS))
        self._n_rows += len(ids)

    def close(self) -> None:
        self._writer.close()


class NpyFiles:
    """vectors.npy (n, width), for int8 scales.npy (n, n_anchors) float32, and ids.parquet; read them with np.load(..., mmap_mode="r")."""

    unit_length = False

    def __init__(self, folder: Path, n_users: int, width: int, n_anchors: int, dtype: str):
        self._dtype, self._n_anchors, self._ids = dtype, n_anchors, _Ids(folder)
        self._vectors = _open_npy(folder / "vectors.npy", dtype, (n_users, width))
        self._scales = _open_npy(folder / "scales.npy", FLOAT32, (n_users, n_anchors)) if dtype == INT8 else None
        self.files = {"vectors": "vectors.npy", "ids": "ids.parquet"} | ({"scales": "scales.npy"} if dtype == INT8 else {})

    def write(self, ids: pa.Array, vectors: np.ndarray) -> np.ndarray:
        stored = quantize(vectors, self._dtype, self._n_anchors)
        self._vectors.write(np.ascontiguousarray(stored.codes).data)
        if self._scales is not None:
            self._scales.write(np.ascontiguousarray(stored.scales).data)
        self._ids.write(ids)
        return stored.vectors()

    def close(self) -> None:
        for file in (self._vectors, self._scales, self._ids):
            if file is not None:
                file.close()


class ParquetFile:
    """vectors.parquet: user_id, embedding (list of the type asked for), and for int8 scales (list of float32, one an anchor)."""

    unit_length = False
    files = {"vectors": "vectors.parquet", "ids": "vectors.parquet"}

    def __init__(self, folder: Path, n_users: int, width: int, n_anchors: int, dtype: str):
        self._dtype, self._n_anchors = dtype, n_anchors
        number = {FLOAT32: pa.float32(), FLOAT16: pa.float16(), INT8: pa.int8()}[dtype]
        scales = [("scales", pa.list_(pa.float32()))] if dtype == INT8 else []
        self._schema = pa.schema([("user_id", pa.string()), ("embedding", pa.list_(number)), *scales])
        # Parquet has no int8: its numbers take four bytes each, unless a dictionary of the 255 codes makes it one. Floats only lose by it.
        dictionary = ["embedding.list.element"] if dtype == INT8 else False
        self._writer = pq.ParquetWriter(str(folder / "vectors.parquet"), self._schema, compression="none", use_dictionary=dictionary)

    def write(self, ids: pa.Array, vectors: np.ndarray) -> np.ndarray:
        stored = quantize(vectors, self._dtype, self._n_anchors)
        columns = [ids, list_column(stored.codes), *([] if stored.scales is None else [list_column(stored.scales)])]
        self._writer.write_table(pa.table(columns, schema=self._schema))
        return stored.vectors()

    def close(self) -> None:
        self._writer.close()


class FaissIndex:
    """vectors.faiss, an exact index over vectors of length 1, so that inner products are cosines, and ids.parquet.

    float32 is IndexFlatIP; float16 and int8 are faiss's scalar quantizers. An int8 of faiss has one range for each of the width numbers,
    the same for all users, because an index cannot hold scales of each vector; `ranges` (2, width) are the smallest and largest of them.
    """

    unit_length = True
    files = {"vectors": "vectors.faiss", "ids": "ids.parquet"}

    def __init__(self, folder: Path, n_users: int, width: int, n_anchors: int, dtype: str, ranges: np.ndarray | None = None):
        import faiss

        if dtype == FLOAT32:
            self._index = faiss.IndexFlatIP(width)
        else:
            kind = faiss.ScalarQuantizer.QT_fp16 if dtype == FLOAT16 else faiss.ScalarQuantizer.QT_8bit
            self._index = faiss.IndexScalarQuantizer(width, kind, faiss.METRIC_INNER_PRODUCT)
            self._index.train(np.zeros((2, width), np.float32) if ranges is None else ranges)  # it takes the range of what it is trained on
        self._path, self._ids = str(folder / "vectors.faiss"), _Ids(folder)

    def write(self, ids: pa.Array, vectors: np.ndarray) -> np.ndarray:
        rows = np.ascontiguousarray(unit_rows(vectors), np.float32)
        self._index.add(rows)
        self._ids.write(ids)
        return self._index.sa_decode(self._index.sa_encode(rows))

    def close(self) -> None:
        import faiss

        faiss.write_index(self._index, self._path)
        self._ids.close()


def ranges_of(batches: Iterable[np.ndarray]) -> np.ndarray:
    """Smallest and largest of every number over all batches (n, width) of vectors, each brought to length 1; (2, width) float32."""
    low = high = None
    for vectors in batches:
        rows = unit_rows(vectors)
        low = rows.min(axis=0) if low is None else np.minimum(low, rows.min(axis=0))
        high = rows.max(axis=0) if high is None else np.maximum(high, rows.max(axis=0))
    return np.stack([low, high]).astype(np.float32)


WRITERS = {FAISS: FaissIndex, NPY: NpyFiles, PARQUET: ParquetFile}


def _open_npy(path: Path, dtype: str, shape: tuple[int, int]):
    """A file that begins with the header of an array of that shape; its rows are to follow."""
    file = open(path, "wb")
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file
