"""The user's files: finding them, telling their format, and checking them before any engine starts.

In: a path, folder, glob, URI or Delta table from the configuration. Out: the files with size and modification time (so that a later
run reads only what is new) and the columns they have. Every mistake a user can make here is one sentence of InputError.
"""

import csv
import fnmatch
import json
import os
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from lurm.errors import InputError
from lurm.objects import refuse_credentials
from lurm.store import foreign_table_files

FORMATS = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
SAMPLE_BYTES = 1_000_000


@dataclass(frozen=True)
class SourceFile:
    """One input file: URI or path as Spark and Arrow read it, bytes, and modification time in ns since 1970."""

    path: str
    size: int
    modified: int


@dataclass(frozen=True)
class Source:
    """All files of one input, their format (parquet, csv, jsonl) and their columns (name -> Arrow type; text for CSV and JSON)."""

    name: str
    files: tuple[SourceFile, ...]
    format: str
    columns: dict[str, pa.DataType]
    separator: str = ","


def find_source(name: str, path: str, format: str, separator: str = ",") -> Source:
    """List and check the files of one input (`name` is events or items, for messages)."""
    if not path:
        raise InputError(f"Expected a path in {name}.path, found none; pass --set {name}.path=FILE_OR_FOLDER or write it in the configuration.")
    if format not in ("auto", "parquet", "csv", "jsonl", "delta"):
        raise InputError(f"Expected {name}.format to be auto, parquet, csv, jsonl or delta, got {format!r}; mend the configuration.")
    filesystem, root, prefix = _open(path, name)
    if format == "delta" or (format == "auto" and filesystem.get_file_info(f"{root}/_delta_log").type == pa.fs.FileType.Directory):
        paths = foreign_table_files(path)
        infos = filesystem.get_file_info([filesystem.normalize_path(item.removeprefix(prefix)) for item in paths])
        format = "parquet"
    else:
        try:
            infos = _list(filesystem, root)
        except OSError as error:
            raise InputError(f"Expected files of {name} at {path!r}, could not list them ({error.strerror or error}); mend {name}.path.") from None
        format = _format_of(infos, name, path) if format == "auto" else format
    infos = [info for info in infos if info.type == pa.fs.FileType.File]
    if not infos:
        raise InputError(f"Expected {name} at {path!r}, found no file there; mend {name}.path.")
    filled = sorted((info for info in infos if info.size > 0), key=lambda info: info.path)
    if not filled:
        raise InputError(f"Expected rows in {name} at {path!r}, found only empty files ({infos[0].path}); mend {name}.path or the export.")
    files = tuple(SourceFile(prefix + info.path, info.size, info.mtime_ns or 0) for info in filled)
    if format == "csv" and separator == "," and files[0].path.removesuffix(".gz").endswith(".tsv"):
        separator = "\t"
    return Source(name, files, format, _columns(filesystem, filled, format, separator, name), separator)


def require_columns(source: Source, **settings: str) -> None:
    """Refuse a source that lacks a column; `settings` maps the configuration's field to the column it names."""
    for field, column in settings.items():
        if column not in source.columns:
            have = ", ".join(sorted(source.columns)[:20]) or "none"
            raise InputError(f"Expected a column {column!r} in {source.name} ({source.files[0].path}), found: {have}; set {source.name}.{field}.")


def _open(path: str, name: str):
    refuse_credentials(path, f"a path or URI in {name}.path", InputError)
    try:
        filesystem, root = pa.fs.FileSystem.from_uri(path if "://" in path else os.path.abspath(os.path.expanduser(path)))
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise InputError(f"Expected a path or URI in {name}.path, got {path!r} ({error}); mend it.") from None
    prefix = "" if isinstance(filesystem, pa.fs.LocalFileSystem) else path.split("://")[0] + "://"
    return filesystem, root.rstrip("/"), prefix


def _list(filesystem, root: str) -> list:
    if any(mark in root for mark in "*?["):
        base = root[: min(root.find(mark) for mark in "*?[" if mark in root)].rpartition("/")[0]
        selector = pa.fs.FileSelector(base, recursive=True, allow_not_found=True)
        return [info for info in filesystem.get_file_info(selector) if fnmatch.fnmatch(info.path, root)]
    info = filesystem.get_file_info(root)
    if info.type != pa.fs.FileType.Directory:
        return [info]
    infos = filesystem.get_file_info(pa.fs.FileSelector(root, recursive=True))
    hidden = ("_", ".")
    return [info for info in infos if not any(part.startswith(hidden) for part in info.path[len(root) + 1 :].split("/"))]


def _format_of(infos, name: str, path: str) -> str:
    found = {FORMATS.get(os.path.splitext(info.path.removesuffix(".gz"))[1].lower()) for info in infos if info.type == pa.fs.FileType.File}
    if len(found) == 1 and None not in found:
        return found.pop()
    if not found:
        raise InputError(f"Expected {name} at {path!r}, found no file there; mend {name}.path.")
    kinds = ", ".join(sorted(str(kind or "unknown") for kind in found))
    raise InputError(f"Expected one format in {name} at {path!r}, found: {kinds}; set {name}.format to parquet, csv, jsonl or delta.")


def _columns(filesystem, infos, format: str, separator: str, name: str) -> dict[str, pa.DataType]:
    """Columns that every file has."""
    if format == "parquet":
        return _parquet_columns(filesystem, infos, name)
    if format == "csv":
        header = _csv_header(filesystem, infos[0].path, separator, name)
        for info in infos[1:]:  # Spark reads CSV by position
            if (other := _csv_header(filesystem, info.path, separator, name)) != header:
                raise InputError(f"Expected the header {separator.join(header)!r} in every file of {name}, {info.path} has "
                                 f"{separator.join(other)!r}; export the files alike.")
        return {column: pa.string() for column in header}
    keys: dict[str, pa.DataType] = {}
    for line in _first_lines(filesystem, infos[0].path, SAMPLE_BYTES, name)[:1_000]:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a broken line is a row for the quarantine; the cut end of the sample is no fault at all
        if isinstance(row, dict):
            keys |= dict.fromkeys(row, pa.string())
    if not keys:
        raise InputError(f"Expected JSON objects, one a line, in {name} ({infos[0].path}), found none; set {name}.format or export again.")
    return keys


def _parquet_columns(filesystem, infos, name: str) -> dict[str, pa.DataType]:
    columns: dict[str, pa.DataType] = {}
    for place, info in enumerate(infos):  # footers only: a truncated file is found here, not an hour into the run
        try:
            with filesystem.open_input_file(info.path) as stream:
                schema = pq.read_schema(stream)
        except (pa.ArrowInvalid, OSError) as error:
            reason = str(error).splitlines()[0][:120]
            raise InputError(f"Expected a whole Parquet file in {name}, could not read {info.path} ({reason}); export it again.") from None
        for field in schema:
            if columns.get(field.name, field.type) != field.type:
                raise InputError(f"Expected one type for column {field.name!r} in {name}, {info.path} has {field.type} where others have "
                                 f"{columns[field.name]}; export the files alike.")
        here = {field.name: field.type for field in schema}
        columns = here if place == 0 else {column: kind for column, kind in columns.items() if column in here}
    return columns


def _csv_header(filesystem, path: str, separator: str, name: str) -> list[str]:
    return next(csv.reader(_first_lines(filesystem, path, 65_536, name)[:1], delimiter=separator), [])


def _first_lines(filesystem, path: str, n_bytes: int, name: str) -> list[str]:
    try:
        with filesystem.open_input_stream(path, compression="detect") as stream:
            return stream.read(n_bytes).decode("utf-8-sig", errors="replace").splitlines()  # spreadsheets write a byte order mark
    except OSError as error:
        raise InputError(f"Expected readable text in {name}, could not read {path} ({error}); export it again.") from None
