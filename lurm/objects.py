"""Where a warehouse lies, behind nine operations: everything that the store reads, writes, lists, deletes or commits goes through here.

In: paths and bytes, and for a table its handle and the actions of one transaction. Out: what the file system or the Delta log answered,
errors included, as OSError and DeltaError; `lurm.store` makes sentences of them. Each operation is whole: it took effect or it did not,
and whoever calls must be right in both cases when it raises. So a test can stand in for this class and fail any single operation before
it took effect or after, or answer from an old listing.
"""

import os
import re
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from lurm.contract import marks
from lurm.errors import LurmError, StoreError
from lurm.schema import RELEASES, USER_EMBEDDINGS

LEASE = "lease"  # a log without data: see lurm.lease
# Releases name versions of user_embeddings for ever. Delta's own rule, in force at every checkpoint, would delete the log of versions older
# than 30 days, and with it the way to read them. Old commits of the lease are of no use to anybody.
KEPT_FOR_EVER = (USER_EMBEDDINGS.name,)
PROPERTIES = {
    USER_EMBEDDINGS.name: {"delta.enableExpiredLogCleanup": "false", **marks(USER_EMBEDDINGS.name)}, RELEASES.name: marks(RELEASES.name),
    LEASE: {"delta.logRetentionDuration": "interval 1 days"},
}
KEEP_LOG = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)
CREDENTIALS = re.compile(r"://[^/?]*@|[?&](access_key|secret_key|session_token)=", re.IGNORECASE)
REQUESTS = 32  # that an object store answers side by side
FAILED = (DeltaError, OSError)  # what an operation raises


def refuse_credentials(uri: str, what: str, error: type[LurmError]) -> None:
    """Raise `error` for a URI with a key or a password in it: it would stand in logs, records of runs and plans of Spark."""
    if "://" in uri and CREDENTIALS.search(uri):
        raise error(f"Expected {what} without credentials, got one with some; take them out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
                    "(or what else your store reads) in the environment of driver and executors.")


@dataclass(frozen=True)
class Entry:
    """A file of a listing; `path` as the other operations take it, `modified` in seconds since 1970."""

    path: str
    size: int
    modified: float


class Objects:
    """The folder or object-store prefix of one warehouse."""

    def __init__(self, uri: str):
        if not uri:
            raise StoreError("Expected a warehouse URI, got nothing; pass --warehouse FOLDER or an object-store URI.")
        refuse_credentials(uri, "a warehouse URI", StoreError)
        try:
            address = uri.rstrip("/") if "://" in uri else os.path.abspath(os.path.expanduser(uri))
            if address.startswith("s3://") and "?" not in address:
                address += "?allow_delayed_open=true"  # files below a part's size in one PUT, whole or not at all, instead of a multipart upload
            self.filesystem, self.root = pa.fs.FileSystem.from_uri(address)
        except (pa.ArrowInvalid, OSError) as error:
            raise StoreError(f"Expected a folder or an object-store URI as warehouse, got {uri!r} ({error}); mend the URI.") from None
        self.is_local = isinstance(self.filesystem, pa.fs.LocalFileSystem)
        self.uri = self.root if self.is_local else uri.rstrip("/")

    # ---- files -------------------------------------------------------------------------------------------------------------------

    def sizes(self, paths: Sequence[str]) -> list[int | None]:
        """Bytes of each file (0 for a folder), None where there is nothing."""
        if self.is_local or len(paths) < 2:
            infos = self.filesystem.get_file_info(list(paths))
        else:  # Arrow asks for one after the other, and a commit may name 10^5 files
            with ThreadPoolExecutor(min(REQUESTS, len(paths))) as pool:
                infos = list(pool.map(self.filesystem.get_file_info, paths))
        return [None if info.type == pa.fs.FileType.NotFound else info.size or 0 for info in infos]

    def read_bytes(self, path: str) -> bytes:
        with self.filesystem.open_input_stream(path) as stream:
            return stream.read()

    def write_bytes(self, path: str, data: bytes | pa.Buffer | list) -> None:
        """Write one file, from one piece or from a list of pieces, so that it is seen whole or not at all."""
        pieces = data if isinstance(data, list) else [data]
        if not self.is_local:  # a PUT is atomic
            with self.filesystem.open_output_stream(path) as stream:
                for piece in pieces:
                    stream.write(piece)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "wb") as stream:
                for piece in pieces:
                    stream.write(piece)
            os.replace(temporary, path)
        except OSError:
            if os.path.exists(temporary):  # what did not fit must not keep the disk full
                os.remove(temporary)
            raise

    def list_files(self, folder: str, recursive: bool = False) -> list[Entry]:
        """Files of a folder, in the order of their paths; none if there is no such folder."""
        selector = pa.fs.FileSelector(folder, allow_not_found=True, recursive=recursive)
        infos = [info for info in self.filesystem.get_file_info(selector) if info.type == pa.fs.FileType.File]
        return sorted((Entry(info.path, info.size, (info.mtime_ns or 0) / 1e9) for info in infos), key=lambda entry: entry.path)

    def delete(self, path: str) -> None:
        """Delete one file; one that is gone already is no error."""
        try:
            self.filesystem.delete_file(path)
        except FileNotFoundError:
            return

    # ---- tables ------------------------------------------------------------------------------------------------------------------

    def open_table(self, uri: str, version: int | None = None) -> DeltaTable | None:
        """A table at a version, the newest without one; None if there is no such table."""
        try:
            return DeltaTable(uri, version=version)
        except TableNotFoundError:
            if version is not None and DeltaTable.is_deltatable(uri):
                raise  # the table is there, the log of this version is not
            return None

    def create_table(self, uri: str, schema: pa.Schema, partition_by: Sequence[str] = (), configuration: Mapping[str, str] | None = None) -> None:
        """Commit version 0; one that is there already stays."""
        DeltaTable.create(
            uri, Schema.from_arrow(schema), mode="ignore", partition_by=list(partition_by) or None, configuration=configuration,
            commit_properties=CommitProperties(max_commit_retries=0),  # or a second creator would land as version 1
            raise_if_key_not_exists=False,  # properties of our own stand beside those of Delta
        )

    def describe(self, delta: DeltaTable, schema: pa.Schema, properties: Mapping[str, str]) -> None:
        """Add the columns that a table lacks, then set properties: who finds the properties finds the columns. No file is touched."""
        strict = {"commit_properties": CommitProperties(max_commit_retries=0), "post_commithook_properties": KEEP_LOG}
        there = {field.name for field in delta.schema().fields}
        missing = [field for field in Schema.from_arrow(schema).fields if field.name not in there]
        if missing:
            delta.alter.add_columns(missing, **strict)
        delta.alter.set_table_properties(dict(properties), raise_if_not_exists=False, **strict)

    def commit(self, delta: DeltaTable, actions: Sequence[AddAction | RemoveAction], schema: pa.Schema, partition_by: Sequence[str],
               metadata: Mapping[str, str], transaction: tuple[str, int] | None = None, keep_log: bool = True) -> None:
        """One transaction exactly on top of the handle's version; CommitFailedError if that is not the newest any more.

        `transaction` is (name, number) in the table's ledger. With `keep_log` no old version is forgotten.
        """
        delta.create_write_transaction(
            list(actions), "append", Schema.from_arrow(schema), partition_by=list(partition_by),
            commit_properties=CommitProperties(
                custom_metadata=dict(metadata), max_commit_retries=0,  # strict compare-and-set: this version or nothing
                app_transactions=[Transaction(*transaction)] if transaction else None,
            ),
            post_commithook_properties=KEEP_LOG if keep_log else PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=None),
        )
