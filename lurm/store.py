"""The only door to the table format: pinned snapshots, staged files, one commit, the release pointer.

A warehouse is a folder or an object-store prefix:

    tables/<name>/                 Delta tables; data files are called <run_key>-<digest>.parquet
    manifests/<name>/<run_key>.json  what a run staged, with figures and the versions it read
    artifacts/<kind>/<id>/         trained things: safetensors and JSON
    erasures/, suppression/        proofs that persons were removed, and who must not come back, as keyed hashes (lurm.erasing.erasure)
    tables/lease/                  who may write now: a Delta log without data (lurm.lease)

Writing is always the same four steps: stage plain Parquet files that no reader sees, put their list into a manifest, check the files
of the manifest, commit once. A commit names the files it adds *and* the files it removes, and is accepted only on top of the version
it was computed from (compare-and-set), so two writers can never mix and a run that is repeated changes nothing.
"""

import json
import os
import random
import re
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from lurm.contract import check_version, is_older, marks
from lurm.errors import StoreError
from lurm.manifest import DataFile, Manifest, Snapshot
from lurm.objects import FAILED, KEPT_FOR_EVER, PROPERTIES, Entry, Objects
from lurm.schema import TABLES, Table

COMMIT_ATTEMPTS = 20


class Store:
    """A warehouse; cheap to make, safe to send to executors (it holds only its URI)."""

    def __init__(self, uri: str, objects: Objects | None = None):
        self.objects = objects or Objects(uri)
        self.filesystem, self.root = self.objects.filesystem, self.objects.root
        self.is_local, self.uri = self.objects.is_local, self.objects.uri
        self.lease = None  # of this process, while it runs stages; see lurm.lease

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
        return self.sizes([self.path(*parts)])[0] is not None

    def sizes(self, paths: Sequence[str]) -> list[int | None]:
        """Bytes of each file, None where there is nothing."""
        try:
            return self.objects.sizes(paths)
        except OSError as error:
            raise _failed("look at", paths[0], error) from None

    def write_bytes(self, path: str, data: bytes | pa.Buffer | list) -> None:
        """Write one file so that it is seen whole or not at all."""
        try:
            self.objects.write_bytes(path, data)
        except OSError as error:
            raise _failed("write", path, error) from None

    def read_bytes(self, path: str) -> bytes:
        try:
            return self.objects.read_bytes(path)
        except OSError as error:
            raise _failed("read", path, error) from None

    def list_files(self, *parts: str, recursive: bool = False) -> list[Entry]:
        """Files of a folder of the warehouse, of the warehouse itself if none is named."""
        folder = self.path(*parts) if parts else self.root
        try:
            return self.objects.list_files(folder, recursive)
        except OSError as error:
            raise _failed("list", folder, error) from None

    def delete(self, path: str) -> None:
        try:
            self.objects.delete(path)
        except OSError as error:
            raise _failed("delete", path, error) from None

    def check_lease(self) -> None:
        """Raise StoreError if this process runs under a lease and has lost it: what it writes now could cross another run."""
        if self.lease is not None:
            self.lease.check()

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
        return manifest if manifest is not None and self._first_wrong_file(manifest) is None else None

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
        self.check_lease()
        wrong = self._first_wrong_file(manifest)
        if wrong:
            raise StoreError(wrong)
        for attempt in range(COMMIT_ATTEMPTS):
            delta = self.writable(table)
            live = {file.path: file for file in live_files(delta, table)}
            in_scope = {path for path, file in live.items() if _in_scope(file, manifest.replaces)}
            wanted = {file.path for file in manifest.files}
            epoch = delta.transaction_version(manifest.run_key)
            if epoch is not None and in_scope == wanted:
                return delta.version()
            actions = actions_of([live[path] for path in sorted(in_scope - wanted)],
                                 [file for file in manifest.files if file.path not in in_scope], table, partition or {})
            ledger = (manifest.run_key, 0 if epoch is None else epoch + 1)
            version = self.commit_on(delta, table, actions, {"run_key": manifest.run_key, **(metadata or {})}, ledger)
            if version is not None:
                return version
            time.sleep(random.uniform(0.02, 0.05) * (attempt + 1))  # another writer was faster: look again, and again decide
        raise StoreError(f"Expected to commit to {table.name} within {COMMIT_ATTEMPTS} attempts, other writers were always faster; run again.")

    def commit_on(self, delta: DeltaTable, table: Table, actions: Sequence, metadata: Mapping[str, str],
                  transaction: tuple[str, int] | None = None) -> int | None:
        """One transaction on top of exactly the version that `delta` shows; returns the new version, None if another writer was faster.

        A failure says nothing about what was done: a lost answer looks like a lost race. So every commit carries a name of its own, and
        after a failure the version it would have made is looked at. Raises StoreError when it did not land, or when nobody can tell.
        """
        version, commit_id = delta.version() + 1, uuid.uuid4().hex
        try:
            self.objects.commit(delta, actions, table.schema, table.partition_by, {**metadata, "commit_id": commit_id}, transaction,
                                keep_log=table.name in KEPT_FOR_EVER)
            return version
        except FAILED as error:
            if self._commit_id(table.name, version) == commit_id:
                return version
            if isinstance(error, CommitFailedError):
                return None
            raise StoreError(f"Could not commit to {table.name} ({_cause(error)}); readers keep what they have, check space and rights, "
                             "then run again.") from None

    def _commit_id(self, name: str, version: int) -> str | None:
        """The name that a commit gave itself. Read from its own file: `history` of a handle begins with the newest commit, whatever it shows."""
        try:
            lines = self.objects.read_bytes(self.path("tables", name, "_delta_log", f"{version:020}.json")).splitlines()
        except OSError:  # no such version, or nothing can be read now: the files stay, a run that is repeated looks again
            return None
        return next((info.get("commit_id") for line in lines if (info := json.loads(line).get("commitInfo"))), None)

    def _first_wrong_file(self, manifest: Manifest) -> str | None:
        """What to say of the first file that is not there as the manifest has it."""
        sizes = self.sizes([self.path("tables", manifest.table, *file.path.split("/")) for file in manifest.files])
        for size, file in zip(sizes, manifest.files, strict=True):
            if size != file.size:
                came = "no file" if size is None else f"{size} bytes"
                return f"Expected the staged file {file.path} of {manifest.table} with {file.size} bytes, found {came}; run the stage again."
        return None

    def load(self, name: str, version: int | None = None) -> DeltaTable | None:
        """A table at a version, the newest without one; None if there is no such table. Raises StoreError if this lurm would misread it."""
        try:
            delta = self.objects.open_table(self.table_uri(name), version)
        except FAILED as error:
            raise StoreError(f"Expected a readable table at {self.table_uri(name)}, got: {_cause(error)}; check the warehouse URI.") from None
        if delta is not None:
            check_version(self.table_uri(name), delta.metadata().configuration)
        return delta

    def writable(self, table: Table) -> DeltaTable:
        """The newest version of a table, to commit on: created if it is not there, and said to be of this version of the schema."""
        delta = self.load(table.name) or self.create(table)
        if is_older(table.name, delta.metadata().configuration):
            cause = "nothing was written"
            try:
                self.objects.describe(delta, table.schema, marks(table.name))
            except FAILED as error:  # somebody else was faster, or an answer was lost: what is there now says which
                cause = _cause(error)
            delta = self.load(table.name)
            if delta is None or is_older(table.name, delta.metadata().configuration):
                raise StoreError(f"Could not bring {table.name} in {self.uri} to this version of its schema ({cause}); check rights, then run again.")
        return delta

    def create(self, table: Table) -> DeltaTable:
        cause = "it is not there"
        try:
            self.objects.create_table(self.table_uri(table.name), table.schema, table.partition_by, PROPERTIES.get(table.name))
        except FAILED as error:  # somebody else created it a moment ago, or it cannot be created at all: what is there now says which
            cause = _cause(error)
        delta = self.load(table.name)
        if delta is None:
            raise StoreError(f"Could not create table {table.name} in {self.uri} ({cause}); check that the warehouse exists and can be written, "
                             "then run again.")
        return delta

    # ---- artifacts ---------------------------------------------------------------------------------------------------------------

    def workspace(self, key: str) -> Path:
        """A local folder for work in progress (checkpoints); inside the warehouse when that is a local folder."""
        base = Path(self.root) / "work" if self.is_local else Path(os.environ.get("LURM_SCRATCH", "/tmp")) / "lurm-work"
        try:
            (base / key).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _failed("make", base / key, error) from None
        return base / key

    def has_artifact(self, kind: str, artifact_id: str) -> bool:
        return self.exists("artifacts", kind, artifact_id, "info.json")

    def put_artifact(self, kind: str, artifact_id: str, directory: Path) -> None:
        """Publish a finished local folder as an artifact; `info.json` goes last, because its presence says that the rest is there."""
        self.check_lease()
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
        for entry in self.list_files("artifacts", kind, artifact_id):
            target = local / os.path.basename(entry.path)
            if not target.exists() or target.stat().st_size != entry.size:
                partial = target.with_suffix(f".{uuid.uuid4().hex}.tmp")  # several workers of one machine may fetch at once
                partial.write_bytes(self.read_bytes(entry.path))
                os.replace(partial, target)
        return local

    def list_artifacts(self, kind: str) -> list[str]:
        files = self.list_files("artifacts", kind, recursive=True)
        return sorted(os.path.basename(os.path.dirname(entry.path)) for entry in files if os.path.basename(entry.path) == "info.json")

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


def actions_of(removed: Iterable[DataFile], added: Iterable[DataFile], table: Table, extra: Mapping[str, str]) -> list:
    """The actions of a transaction; `extra` are partition values that the files do not carry yet."""
    now = int(time.time() * 1000)
    actions: list = [RemoveAction(file.path, True, now, file.size, file.partition) for file in removed]
    for file in added:
        stats = {"numRecords": file.rows}
        if file.first_key is not None:
            stats |= {"minValues": {table.sorted_by[0]: file.first_key}, "maxValues": {table.sorted_by[0]: file.last_key}}
        actions.append(AddAction(file.path, file.size, {**file.partition, **extra}, now, True, json.dumps(stats)))
    return actions


def _failed(verb: str, path: object, error: OSError) -> StoreError:
    return StoreError(f"Could not {verb} {path} ({error.strerror or _cause(error)}); check space and rights, then run again.")


def _cause(error: Exception) -> str:
    """What an error says, in one line: delta-rs draws a little tree, in colours."""
    lines = re.sub(r"\x1b\[\d*m|↳", "", str(error)).splitlines()
    return ": ".join(line.strip() for line in lines if line.strip()) or type(error).__name__


def foreign_table_files(uri: str) -> list[str]:
    """Files of a Delta table that is somebody else's: an input, never written."""
    try:
        delta = DeltaTable(uri)
        vectors = "deletionVectors" in (delta.protocol().reader_features or [])
        files = delta.file_uris()
    except (TableNotFoundError, *FAILED) as error:
        raise StoreError(f"Expected a Delta table at {uri!r}, could not open it ({str(error).splitlines()[0]}); mend the path.") from None
    if vectors:  # rows that are deleted in the log alone would come back to life
        raise StoreError(f"Expected a Delta table without deletion vectors, {uri!r} uses them; purge them, or export the table to Parquet.")
    return files
