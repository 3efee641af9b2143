"""The only door to the table format: pinned snapshots, staged files, one commit, the release pointer.

A warehouse is a folder or an object-store prefix:

    tables/<name>/                 Delta tables; data files are called <run_key>-<digest>.parquet
    manifests/<name>/<run_key>.json  what a run staged, with figures and the versions it read
    artifacts/<kind>/<id>/         trained things: safetensors and JSON

Writing is always the same four steps: stage plain Parquet files that no reader sees, put their list into a manifest, check the files
of the manifest, commit once. A commit names the files it adds *and* the files it removes, and is accepted only on top of the version
it was computed from (compare-and-set), so two writers can never mix and a run that is repeated changes nothing.
"""

import json
import os
import random
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from lurm.errors import StoreError
from lurm.manifest import DataFile, Manifest, Snapshot
from lurm.schema import TABLES, Table

COMMIT_ATTEMPTS = 20


class Store:
    """A warehouse; cheap to make, safe to send to executors (it holds only its URI)."""

    def __init__(self, uri: str):
        if not uri:
            raise StoreError("Expected a warehouse URI, got nothing; pass --warehouse FOLDER or an object-store URI.")
        try:
            address = uri.rstrip("/") if "://" in uri else os.path.abspath(os.path.expanduser(uri))
            if address.startswith("s3://") and "?" not in address:
                address += "?allow_delayed_open=true"  # files below a part's size in one PUT, whole or not at all, instead of a multipart upload
            self.filesystem, self.root = pa.fs.FileSystem.from_uri(address)
        except (pa.ArrowInvalid, OSError) as error:
            raise StoreError(f"Expected a folder or an object-store URI as warehouse, got {uri!r} ({error}); mend the URI.") from None
        self.is_local = isinstance(self.filesystem, pa.fs.LocalFileSystem)
        self.uri = self.root if self.is_local else uri.rstrip("/")

    def __eq__(self, other) -> bool:
        return isinstance(other, Store) and self.uri == other.uri

    def __hash__(self) -> int:
        return hash(self.uri)

    def __getstate__(self):
        return self.uri

    def __setstate__(self, uri):
        self.__init__(uri)

    def last_run_key(self, name: str) -> str | None:
        """Run key of the newest commit of a table."""
        delta = self.load(name)
        return delta.history(1)[0].get("run_key") if delta is not None else None

    # ---- plain files -------------------------------------------------------------------------------------------------------------

    def path(self, *parts: str) -> str:
        """Path of something in the warehouse, for `filesystem`; refuses names that would leave it."""
        joined = "/".join(parts)
        if any(piece in ("", ".", "..") for piece in joined.split("/")):
            raise StoreError(f"Expected a path inside the warehouse, got {joined!r}; a manifest with such a path must not be used.")
        return f"{self.root}/{joined}"

    def exists(self, *parts: str) -> bool:
        return self.filesystem.get_file_info(self.path(*parts)).type != pa.fs.FileType.NotFound

    def write_bytes(self, path: str, data: bytes | pa.Buffer) -> None:
        """Write one file so that it is seen whole or not at all."""
        try:
            if not self.is_local:  # a PUT is atomic
                with self.filesystem.open_output_stream(path) as stream:
                    stream.write(data)
                return
            os.makedirs(os.path.dirname(path), exist_ok=True)
            temporary = f"{path}.{uuid.uuid4().hex}.tmp"
            with open(temporary, "wb") as stream:
                stream.write(data)
            os.replace(temporary, path)
        except OSError as error:
            raise StoreError(f"Could not write {path} ({error.strerror or error}); check space and rights, then run again.") from None

    def read_bytes(self, path: str) -> bytes:
        with self.filesystem.open_input_stream(path) as stream:
            return stream.read()

    # ---- manifests ---------------------------------------------------------------------------------------------------------------

    def write_manifest(self, manifest: Manifest) -> None:
        self.write_bytes(self.path("manifests", manifest.table, f"{manifest.run_key}.json"), manifest.to_json().encode())

    def read_manifest(self, table: str, run_key: str) -> Manifest | None:
        if not self.exists("manifests", table, f"{run_key}.json"):
            return None
        return Manifest.from_json(self.read_bytes(self.path("manifests", table, f"{run_key}.json")).decode())

    def staged(self, table: str, run_key: str) -> Manifest | None:
        """The manifest of a run whose files are all there, committed or not."""
        manifest = self.read_manifest(table, run_key)
        if manifest is None:
            return None
        try:
            self._check_files(manifest)
        except StoreError:
            return None
        return manifest

    # ---- tables ------------------------------------------------------------------------------------------------------------------

    def table_uri(self, name: str) -> str:
        return f"{self.uri}/tables/{name}"

    def snapshot(self, name: str, version: int | None = None) -> Snapshot:
        """Pin a table at a version (the newest when none is given)."""
        table = TABLES[name]
        delta = self.load(name, version)
        if delta is None:
            return Snapshot(table, -1, (), self.path("tables", name))
        return Snapshot(table, delta.version(), tuple(live_files(delta, table)), self.path("tables", name))

    def committed(self, name: str, run_key: str, replaces: Sequence[Mapping[str, str]]) -> bool:
        """Whether the scopes of a run hold exactly what this run committed, so that running again would change nothing."""
        delta = self.load(name)
        if delta is None or delta.transaction_version(run_key) is None:
            return False
        manifest = self.read_manifest(name, run_key)
        if manifest is None:
            return False
        live = {file.path for file in live_files(delta, TABLES[name]) if _in_scope(file, replaces)}
        return live == {file.path for file in manifest.files}

    def commit(self, manifest: Manifest, partition: Mapping[str, str] | None = None, metadata: Mapping[str, str] | None = None) -> int:
        """Make a manifest's files the content of the scopes it replaces, in one transaction; returns the table's version.

        `partition` adds values known only now (`published_at`). Repeating a commit changes nothing. Raises StoreError when a file of
        the manifest is missing or of another size, or when another writer keeps changing the same table.
        """
        table = TABLES[manifest.table]
        self._check_files(manifest)
        for attempt in range(COMMIT_ATTEMPTS):
            delta = self.load(table.name) or self.create(table)
            live = {file.path: file for file in live_files(delta, table)}
            in_scope = {path for path, file in live.items() if _in_scope(file, manifest.replaces)}
            wanted = {file.path for file in manifest.files}
            epoch = delta.transaction_version(manifest.run_key)
            if epoch is not None and in_scope == wanted:
                return delta.version()
            now = int(time.time() * 1000)
            actions = [RemoveAction(path, True, now, live[path].size, live[path].partition) for path in sorted(in_scope - wanted)]
            actions += [add_action(file, table, partition or {}, now) for file in manifest.files if file.path not in in_scope]
            properties = CommitProperties(
                custom_metadata={"run_key": manifest.run_key, **(metadata or {})},
                max_commit_retries=0,  # strict compare-and-set: this version or nothing
                app_transactions=[Transaction(manifest.run_key, 0 if epoch is None else epoch + 1)],
            )
            try:
                delta.create_write_transaction(
                    actions, "append", Schema.from_arrow(table.schema), partition_by=list(table.partition_by), commit_properties=properties
                )
            except CommitFailedError:
                time.sleep(random.uniform(0.02, 0.05) * (attempt + 1))  # another writer was faster: look again, and again decide
            except (DeltaError, OSError) as error:
                if not self._landed(table.name, manifest):  # the outcome was unknown; files stay, a repeated run finds them
                    raise StoreError(f"Could not commit to {table.name} ({error}); nothing was published, run again.") from None
        raise StoreError(f"Expected to commit to {table.name} within {COMMIT_ATTEMPTS} attempts, other writers were always faster; run again.")

    def _landed(self, name: str, manifest: Manifest) -> int | None:
        delta = self.load(name)
        if delta is None or delta.transaction_version(manifest.run_key) is None:
            return None
        live = {file.path for file in live_files(delta, TABLES[name])}
        return delta.version() if all(file.path in live for file in manifest.files) else None

    def _check_files(self, manifest: Manifest) -> None:
        infos = self.filesystem.get_file_info([self.path("tables", manifest.table, *file.path.split("/")) for file in manifest.files])
        for info, file in zip(infos, manifest.files, strict=True):
            if info.type == pa.fs.FileType.NotFound or info.size != file.size:
                came = "no file" if info.type == pa.fs.FileType.NotFound else f"{info.size} bytes"
                raise StoreError(
                    f"Expected the staged file {file.path} of {manifest.table} with {file.size} bytes, found {came}; run the stage again."
                )

    def load(self, name: str, version: int | None = None) -> DeltaTable | None:
        try:
            return DeltaTable(self.table_uri(name), version=version)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            raise StoreError(f"Expected a readable table at {self.table_uri(name)}, got: {error}; check the warehouse URI.") from None

    def create(self, table: Table) -> DeltaTable:
        try:
            DeltaTable.create(
                self.table_uri(table.name), Schema.from_arrow(table.schema), mode="ignore", partition_by=list(table.partition_by) or None,
                commit_properties=CommitProperties(max_commit_retries=0),  # or a second creator would land as version 1
            )
        except (DeltaError, OSError):
            if self.load(table.name) is None:  # somebody else created it a moment ago, or it cannot be created at all
                raise StoreError(
                    f"Could not create table {table.name} in {self.uri}; check that the warehouse exists and can be written."
                ) from None
        return DeltaTable(self.table_uri(table.name))

    # ---- artifacts ---------------------------------------------------------------------------------------------------------------

    def workspace(self, key: str) -> Path:
        """A local folder for work in progress (checkpoints); inside the warehouse when that is a local folder."""
        base = Path(self.root) / "work" if self.is_local else Path(os.environ.get("LURM_SCRATCH", "/tmp")) / "lurm-work"
        try:
            (base / key).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"Could not make {base / key} ({error.strerror or error}); check space and rights, then run again.") from None
        return base / key

    def has_artifact(self, kind: str, artifact_id: str) -> bool:
        return self.exists("artifacts", kind, artifact_id, "info.json")

    def put_artifact(self, kind: str, artifact_id: str, directory: Path) -> None:
        """Publish a finished local folder as an artifact; `info.json` goes last, because its presence says that the rest is there."""
        files = sorted((file for file in Path(directory).iterdir() if file.is_file()), key=lambda file: file.name == "info.json")
        for file in files:
            self.write_bytes(self.path("artifacts", kind, artifact_id, file.name), file.read_bytes())

    def get_artifact(self, kind: str, artifact_id: str) -> Path:
        """Local folder with the artifact's files; copied to the workspace first when the warehouse is remote."""
        if not self.has_artifact(kind, artifact_id):
            raise StoreError(f"Expected {kind}/{artifact_id} in {self.uri}, found none; run the stage that trains it.")
        if self.is_local:
            return Path(self.path("artifacts", kind, artifact_id))
        local = self.workspace(f"artifact-{kind}-{artifact_id}")
        selector = pa.fs.FileSelector(self.path("artifacts", kind, artifact_id))
        for info in self.filesystem.get_file_info(selector):
            target = local / info.base_name
            if not target.exists() or target.stat().st_size != info.size:
                partial = target.with_suffix(f".{uuid.uuid4().hex}.tmp")  # several workers of one machine may fetch at once
                partial.write_bytes(self.read_bytes(info.path))
                os.replace(partial, target)
        return local

    def list_artifacts(self, kind: str) -> list[str]:
        selector = pa.fs.FileSelector(self.path("artifacts", kind), allow_not_found=True)
        return sorted(info.base_name for info in self.filesystem.get_file_info(selector) if self.has_artifact(kind, info.base_name))

    def artifact_info(self, kind: str, artifact_id: str) -> dict:
        """What the artifact says of itself: ids of its chain, settings, figures of its training."""
        if not self.has_artifact(kind, artifact_id):
            raise StoreError(f"Expected {kind}/{artifact_id} in {self.uri}, found none; run the stage that trains it.")
        return json.loads(self.read_bytes(self.path("artifacts", kind, artifact_id, "info.json")))["info"]


def live_files(delta: DeltaTable, table: Table) -> Iterable[DataFile]:
    actions = pa.table(delta.get_add_actions(flatten=False)).to_pylist()
    for action in actions:
        partition = {name: _as_text(value) for name, value in (action.get("partition") or action.get("partition_values") or {}).items()}
        key = table.sorted_by[0] if table.sorted_by else None
        yield DataFile(
            unquote(action["path"]), action["size_bytes"], action["num_records"] or 0, "", partition,
            first_key=(action.get("min") or {}).get(key), last_key=(action.get("max") or {}).get(key),
        )


def _as_text(value) -> str | None:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    return None if value is None else str(value)


def _in_scope(file: DataFile, scopes: Iterable[Mapping[str, str]]) -> bool:
    return any(all(file.partition.get(column) == value for column, value in scope.items()) for scope in scopes)


def add_action(file: DataFile, table: Table, extra: Mapping[str, str], now: int) -> AddAction:
    stats = {"numRecords": file.rows}
    if file.first_key is not None:
        stats |= {"minValues": {table.sorted_by[0]: file.first_key}, "maxValues": {table.sorted_by[0]: file.last_key}}
    return AddAction(file.path, file.size, {**file.partition, **extra}, now, True, json.dumps(stats))


def foreign_table_files(uri: str) -> list[str]:
    """Files of a Delta table that is somebody else's: an input, never written."""
    try:
        delta = DeltaTable(uri)
        vectors = "deletionVectors" in (delta.protocol().reader_features or [])
        files = delta.file_uris()
    except (TableNotFoundError, DeltaError, OSError) as error:
        raise StoreError(f"Expected a Delta table at {uri!r}, could not open it ({str(error).splitlines()[0]}); mend the path.") from None
    if vectors:  # rows that are deleted in the log alone would come back to life
        raise StoreError(f"Expected a Delta table without deletion vectors, {uri!r} uses them; purge them, or export the table to Parquet.")
    return files
