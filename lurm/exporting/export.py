"""An export: the vectors of a release as a folder that other programs read, with what was lost on the way.

In: an open table. Out: a folder with the vectors (`lurm.exporting.export_files`), which user stands in which row, and export.json: the release they
are of, what the files hold, and the error measured while writing. The folder is there whole or not at all: it is written beside its place
and renamed. Exports in <warehouse>/exports/ are found by `lurm erase`; what lies elsewhere is the affair of whoever wrote it.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from lurm.embedding_table import EmbeddingTable
from lurm.errors import InputError, StoreError
from lurm.exporting.export_files import FAISS, FORMATS, INT8, WRITERS, ranges_of
from lurm.exporting.quantization import DTYPES, FLOAT32, VectorError
from lurm.sampling import hash_of_text
from lurm.schema import SCHEMA_VERSION
from lurm.store import Store
from lurm.vector_stream import stream_vectors
from lurm.vectors import NEIGHBOURS, neighbour_overlap, unit_rows

EXPORTS, RECORD = "exports", "export.json"
SAMPLED = 2_000  # users, by hash, whose neighbours are compared
SEED = 0
SCALES = {
    "npy": "vectors[row] of anchor a = codes[row] of anchor a * scales[row, a]", "faiss": "in the index: one range for each number of a vector",
    "parquet": "numbers of anchor a = numbers of embedding of anchor a * scales[a]",
}


def export(store: Store, table: EmbeddingTable, folder: Path, file_format: str, dtype: str = FLOAT32, anchor: int | None = None,
           replace: bool = False) -> dict:
    """Write an export of an open table to a folder that is not there yet, and return its export.json; one batch in memory, or a faiss index.

    With `replace` an export that is there makes room when the new one is whole. Raises InputError for a format, type, anchor or folder
    that cannot be, and StoreError if users were erased from the warehouse meanwhile.
    """
    if file_format not in FORMATS:
        raise InputError(f"Expected a format of {', '.join(FORMATS)}, got {file_format!r}; choose one of them.")
    if dtype not in DTYPES:
        raise InputError(f"Expected a type of {', '.join(DTYPES)}, got {dtype!r}; choose one of them.")
    n_anchors = table.n_anchors if anchor is None else 1
    shape = {"n_users": table.n_users, "width": n_anchors * table.dim, "n_anchors": n_anchors}
    before = _erasures(store)
    try:
        with _whole(Path(folder), replace) as part:
            extra = {}
            if (file_format, dtype) == (FAISS, INT8):
                extra["ranges"] = ranges_of(vectors for _, vectors in stream_vectors(table, anchor, what="export: ranges"))
            with closing(WRITERS[file_format](part, **shape, dtype=dtype, **extra)) as files:
                error = _write(files, table, anchor)
            record = _record(table, file_format, dtype, anchor, shape, files) | {"error": error}
            (part / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
            if _erasures(store) != before:
                raise StoreError(f"Expected the users of {table.as_of} to stay while they were exported, some were erased from {store.uri} "
                                 "meanwhile; nothing was kept, export again.")
    except OSError as cause:
        raise InputError(f"Could not write {folder} ({cause.strerror or cause}); check space and rights, or choose another folder.") from None
    return record


def export_folder(store: Store, table: EmbeddingTable, file_format: str, dtype: str, anchor: int | None = None, output: str | None = None) -> Path:
    """Where an export goes: `output`, or a folder named after what is exported in the exports of a local warehouse.

    Raises InputError for a warehouse that is no folder and for an output inside the warehouse but not in its exports, where `lurm erase`
    would not look for it.
    """
    exports = Path(store.root) / EXPORTS
    if output is None:
        if not store.is_local:
            raise InputError(f"Expected --output FOLDER, because the warehouse {store.uri} is not a local folder; name one.")
        part = "" if anchor is None else f"-anchor{anchor}"
        return exports / f"{table.as_of}-{table.model_id}-{file_format}-{dtype}{part}"
    folder = Path(output).expanduser().resolve()
    if store.is_local and folder.is_relative_to(Path(store.root).resolve()) and folder.parent != exports.resolve():
        raise InputError(f"Expected an output outside the warehouse or a folder right in {exports}, where `lurm erase` finds it, got {output}; "
                         "choose one of the two.")
    return folder


def _write(files, table: EmbeddingTable, anchor: int | None) -> dict:
    """Write all users; returns what was lost: errors over all of them, and the share of nearest neighbours kept in a sample."""
    error, n_rows, share = VectorError(), 0, SAMPLED / max(1, table.n_users)
    sampled, stored_sample = [], []
    for ids, vectors in stream_vectors(table, anchor, what="export"):
        stored = files.write(ids, vectors)
        original = unit_rows(vectors) if files.unit_length else vectors
        error.add(original, stored)
        chosen = hash_of_text(ids.to_pylist(), SEED) < share
        sampled.append(original[chosen])
        stored_sample.append(stored[chosen])
        n_rows += len(ids)
    if n_rows != table.n_users:
        raise StoreError(f"Expected the {table.n_users} users that the release of {table.as_of} names, its files hold {n_rows}; "
                         "restore the files, or roll back.")
    sampled, stored_sample = np.concatenate(sampled), np.concatenate(stored_sample)
    enough = len(sampled) > NEIGHBOURS + 1
    kept = float(neighbour_overlap(sampled, stored_sample).mean()) if enough else None
    return {**error.figures(), f"nearest_{NEIGHBOURS}_kept": kept, "sampled_users": len(sampled)}


def _record(table: EmbeddingTable, file_format: str, dtype: str, anchor: int | None, shape: dict, files) -> dict:
    release = {"epoch": table.epoch, "as_of": table.as_of, "model_id": table.model_id, "table_version": table.version,
               "trained_as_of": table.trained_as_of, "schema_version": SCHEMA_VERSION}
    return {
        "format": file_format, "dtype": dtype, "users": shape["n_users"], "width": shape["width"], "n_anchors": shape["n_anchors"],
        "dim": table.dim, "anchor": anchor, "unit_length": files.unit_length, "files": files.files, "ids_file": files.files["ids"],
        "scales": SCALES[file_format] if dtype == INT8 else None, "release": release,
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _erasures(store: Store) -> list[str]:
    """The records of erasures: one more of them means that somebody was removed since."""
    return [entry.path for entry in store.list_files("erasures")]


@contextmanager
def _whole(target: Path, replace: bool) -> Iterator[Path]:
    """A folder to write to, which takes the place of `target` at the end of the block, and is gone if the block fails."""
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        if not replace or not (target / RECORD).is_file():
            remedy = "choose another, or replace it (--replace)" if (target / RECORD).is_file() else "it is no export, choose another"
            raise InputError(f"Expected a folder that is not there yet, {target} is; {remedy}.")
    part, old = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.old")
    part.mkdir(parents=True, exist_ok=True)
    with open(part / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"Expected to be the only export to {target}, another one is writing it; wait for it or choose another.") from None
        for leftover in part.iterdir():  # of an export that was killed
            if leftover.name != ".lock":
                leftover.unlink()
        try:
            yield part
            (part / ".lock").unlink()
            shutil.rmtree(old, ignore_errors=True)
            if target.exists():
                os.replace(target, old)
            os.replace(part, target)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            if old.exists() and not target.exists():
                os.replace(old, target)
            raise
