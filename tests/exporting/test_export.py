"""An export: the same vectors as the table has, the error that was measured, and a folder that is whole or not there."""

import fcntl
import json
import multiprocessing
import os
import signal
import tracemalloc

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from published import MODEL, day, publish_day, rows_of, stage_day, vector

from lurm import open_table, publication
from lurm.errors import InputError, StoreError
from lurm.exporting import export as export_module
from lurm.exporting import export_files
from lurm.exporting.export import RECORD, export, export_folder
from lurm.exporting.export_files import FORMATS
from lurm.exporting.quantization import DTYPES
from lurm.schema import SCHEMA_VERSION
from lurm.store import Store

AS_OF = "2022-01-01"
USERS = [f"u{number:03d}" for number in range(60)]


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory) -> Store:
    store = Store(str(tmp_path_factory.mktemp("export") / "w"))
    publish_day(store, AS_OF, USERS, n_files=3)
    return store


@pytest.fixture
def table(warehouse):
    return open_table(warehouse.uri)


def expected(anchor: int | None = None) -> np.ndarray:
    return np.stack([vector(user, AS_OF) for user in USERS])[:, slice(None) if anchor is None else slice(3 * anchor, 3 * anchor + 3)]


def test_what_is_written_is_what_the_table_has(warehouse, table, tmp_path):
    record = export(warehouse, table, tmp_path / "out", "npy")
    assert json.loads((tmp_path / "out" / RECORD).read_text()) == record
    assert np.array_equal(np.load(tmp_path / "out" / "vectors.npy", allow_pickle=False), expected())
    assert pq.read_table(tmp_path / "out" / record["ids_file"]).column("user_id").to_pylist() == USERS
    assert sorted(os.listdir(tmp_path)) == ["out"] and sorted(os.listdir(tmp_path / "out")) == ["export.json", "ids.parquet", "vectors.npy"]
    facts = {"format": "npy", "dtype": "float32", "users": 60, "width": 6, "n_anchors": 2, "dim": 3, "anchor": None, "unit_length": False}
    assert {name: record[name] for name in facts} == facts
    assert record["release"] == {"epoch": 1, "as_of": AS_OF, "model_id": MODEL, "table_version": 1, "trained_as_of": None,
                                 "schema_version": SCHEMA_VERSION}
    assert record["error"] == {"relative_l2_mean": 0, "relative_l2_max": 0, "cosine_mean": pytest.approx(1), "nearest_10_kept": 1,
                               "sampled_users": 60}


@pytest.mark.parametrize("anchor", [None, 1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_type_and_anchor(warehouse, table, tmp_path, file_format, dtype, anchor):
    """Read back, the error is the one that export.json states."""
    record = export(warehouse, table, tmp_path / "out", file_format, dtype, anchor)
    truth = expected(anchor)
    width, n_anchors = truth.shape[1], 2 if anchor is None else 1
    if file_format == "faiss":
        read = faiss.read_index(str(tmp_path / "out" / "vectors.faiss")).reconstruct_n(0, 60)
        truth = truth / np.linalg.norm(truth, axis=1, keepdims=True)
    elif file_format == "npy":
        read = np.load(tmp_path / "out" / "vectors.npy", allow_pickle=False).astype(np.float32)
        scales = np.load(tmp_path / "out" / "scales.npy", allow_pickle=False) if dtype == "int8" else None
    else:
        rows = pq.read_table(tmp_path / "out" / "vectors.parquet")
        read = np.array(rows.column("embedding").to_pylist(), np.float32)
        scales = np.array(rows.column("scales").to_pylist(), np.float32) if dtype == "int8" else None
    if file_format != "faiss" and scales is not None:
        read = (read.reshape(60, n_anchors, 3) * scales[:, :, None]).reshape(60, width)
    relative = np.linalg.norm(read - truth, axis=1) / np.linalg.norm(truth, axis=1)
    error = record["error"]
    assert error["relative_l2_mean"] == pytest.approx(relative.mean(), rel=1e-3, abs=1e-7)
    assert error["relative_l2_max"] == pytest.approx(relative.max(), rel=1e-3, abs=1e-7) and error["relative_l2_max"] < 0.02
    assert error["cosine_mean"] > 0.999 and error["nearest_10_kept"] > 0.9 and error["sampled_users"] == 60
    assert (error["relative_l2_max"] < 1e-6) == (dtype == "float32") and (record["scales"] is None) == (dtype != "int8")
    assert (record["width"], record["n_anchors"], record["anchor"], record["unit_length"]) == (width, n_anchors, anchor, file_format == "faiss")


def test_a_few_users_have_no_neighbours_to_keep(tmp_path):
    store = Store(str(tmp_path / "w"))
    publish_day(store, AS_OF, ["a", "b"])
    record = export(store, open_table(store.uri), tmp_path / "out", "npy", "int8")
    assert record["error"]["nearest_10_kept"] is None and record["error"]["sampled_users"] == 2 and record["error"]["relative_l2_mean"] > 0


def test_a_large_table_is_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "SAMPLED", 30)
    store = Store(str(tmp_path / "w"))
    publish_day(store, AS_OF, USERS)
    figures = [export(store, open_table(store.uri), tmp_path / name, "npy", "int8")["error"] for name in ("one", "two")]
    assert 15 < figures[0]["sampled_users"] < 45 and figures[0] == figures[1], "by hash: the same users every time"


# ---- whole or not there ----------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_there_is_not_touched(warehouse, table, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for replace in (False, True):
        with pytest.raises(InputError, match="Expected a folder that is not there yet, .*mine is; it is no export, choose another"):
            export(warehouse, table, tmp_path / "mine", "npy", replace=replace)
    with pytest.raises(InputError, match="it is no export"):
        export(warehouse, table, tmp_path / "mine" / "thesis.txt", "npy", replace=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work" and os.listdir(tmp_path) == ["mine"]
    (tmp_path / "empty").mkdir()
    export(warehouse, table, tmp_path / "empty", "npy")
    assert (tmp_path / "empty" / RECORD).is_file()


def test_an_export_is_replaced_when_asked(warehouse, table, tmp_path):
    export(warehouse, table, tmp_path / "out", "npy", "int8")
    with pytest.raises(InputError, match="choose another, or replace it"):
        export(warehouse, table, tmp_path / "out", "parquet")
    export(warehouse, table, tmp_path / "out", "parquet", replace=True)
    assert sorted(os.listdir(tmp_path / "out")) == ["export.json", "vectors.parquet"] and os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("replace", [False, True])
def test_an_export_that_fails_leaves_nothing_new(warehouse, table, tmp_path, monkeypatch, replace):
    if replace:
        export(warehouse, table, tmp_path / "out", "parquet")
    real, calls = export_files.NpyFiles.write, []

    def full(self, ids, vectors):
        calls.append(ids)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(self, ids, vectors)

    monkeypatch.setattr(export_files.NpyFiles, "write", full)
    with pytest.raises(InputError, match=r"Could not write .*out \(No space left on device\); check space and rights"):
        export(warehouse, table, tmp_path / "out", "npy", replace=replace)
    assert os.listdir(tmp_path) == (["out"] if replace else [])
    assert not replace or (tmp_path / "out" / "vectors.parquet").is_file(), "the old one stays"


def _export_and_die(uri: str, folder: str) -> None:
    """A child process that is killed while it writes its second batch."""
    real, calls = export_files.NpyFiles.write, []

    def dying(self, ids, vectors):
        calls.append(ids)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, ids, vectors)

    export_files.NpyFiles.write = dying
    export(Store(uri), open_table(uri), folder, "npy")


def test_a_killed_export_is_swept_up_by_the_next(warehouse, table, tmp_path):
    child = multiprocessing.get_context("spawn").Process(target=_export_and_die, args=(warehouse.uri, str(tmp_path / "out")))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL and os.listdir(tmp_path) == ["out.part"], "nothing under the name that readers look at"
    export(warehouse, table, tmp_path / "out", "parquet")
    assert os.listdir(tmp_path) == ["out"] and sorted(os.listdir(tmp_path / "out")) == ["export.json", "vectors.parquet"]


def test_two_at_once_do_not_mix(warehouse, table, tmp_path):
    (tmp_path / "out.part").mkdir()
    with open(tmp_path / "out.part" / ".lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="Expected to be the only export to .*out, another one is writing it"):
            export(warehouse, table, tmp_path / "out", "npy")
    assert os.listdir(tmp_path / "out.part") == [".lock"], "what the other one writes is left alone"


def test_users_erased_meanwhile_are_not_exported(warehouse, table, tmp_path, monkeypatch):
    real = export_files.NpyFiles.close

    def erasing(self):
        real(self)
        warehouse.write_bytes(warehouse.path("erasures", "one.json"), b"{}")

    monkeypatch.setattr(export_files.NpyFiles, "close", erasing)
    with pytest.raises(StoreError, match="some were erased from .* meanwhile; nothing was kept, export again"):
        export(warehouse, table, tmp_path / "out", "npy")
    assert os.listdir(tmp_path) == []
    warehouse.delete(warehouse.path("erasures", "one.json"))


def test_mistakes_in_the_call(warehouse, table, tmp_path):
    for arguments, sentence in ((("csv",), "Expected a format of faiss, npy, parquet, got 'csv'"),
                                (("npy", "float64"), "Expected a type of float32, float16, int8, got 'float64'"),
                                (("npy", "int8", 2), "Expected anchors from 0 to 1, got 2")):
        with pytest.raises(InputError, match=sentence):
            export(warehouse, table, tmp_path / "out", *arguments)
    assert os.listdir(tmp_path) == []


def test_where_exports_go(warehouse, table, tmp_path):
    exports = f"{warehouse.root}/exports"
    assert str(export_folder(warehouse, table, "npy", "int8")) == f"{exports}/{AS_OF}-{MODEL}-npy-int8"
    assert str(export_folder(warehouse, table, "faiss", "float32", 0)) == f"{exports}/{AS_OF}-{MODEL}-faiss-float32-anchor0"
    assert str(export_folder(warehouse, table, "npy", "int8", output=f"{exports}/mine")) == f"{exports}/mine"
    assert export_folder(warehouse, table, "npy", "int8", output=str(tmp_path / "x")) == tmp_path / "x"
    for inside in ("tables/x", "exports/a/b", "exports", "."):
        with pytest.raises(InputError, match="Expected an output outside the warehouse or a folder right in .*/exports, where `lurm erase`"):
            export_folder(warehouse, table, "npy", "int8", output=f"{warehouse.root}/{inside}")


def test_memory_is_a_batch_not_the_table(tmp_path):
    vectors = np.random.default_rng(1).standard_normal((30_000, 64)).astype(np.float32)
    store, users = Store(str(tmp_path / "w")), [f"u{number:05d}" for number in range(30_000)]
    parts = [rows_of(users[start : start + 1_000], vectors=list(vectors[start : start + 1_000])) for start in range(0, 30_000, 1_000)]
    stage_day(store, AS_OF, parts, n_anchors=2, dim=32)
    publication.run(day(store, AS_OF))
    peaks = {}
    monkey = pytest.MonkeyPatch()
    monkey.setattr(export_module, "SAMPLED", 100)
    for file_format in ("npy", "parquet"):
        tracemalloc.start()
        export(store, open_table(store.uri), tmp_path / file_format, file_format, "int8")
        peaks[file_format] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    monkey.undo()
    assert max(peaks.values()) < vectors.nbytes / 2, peaks
