"""What a table is made of, as plain data: its files, a pinned version of them, and the list of what a run wants to put there.

Nothing here touches a file system; `lurm.store` reads and commits these.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field

from lurm.schema import Table


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a table, live or staged. `path` is relative to the table's folder."""

    path: str
    size: int
    rows: int
    sha256: str
    partition: dict[str, str]
    first_key: str | None = None  # smallest and largest value of the first sorting column, where it is text
    last_key: str | None = None

    @property
    def run_key(self) -> str:
        return os.path.basename(self.path).partition("-")[0]

    @property
    def digest(self) -> str:
        """Names the content: equal bytes, equal digest, whichever run wrote them."""
        return os.path.basename(self.path).partition("-")[2].removesuffix(".parquet")


@dataclass(frozen=True)
class Manifest:
    """What one run staged for one table.

    `replaces` lists partition scopes, each a mapping column -> value; committing removes every live file that matches one of them.
    """

    table: str
    run_key: str
    files: tuple[DataFile, ...]
    replaces: tuple[dict[str, str], ...]
    figures: dict = field(default_factory=dict)
    inputs: dict = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Manifest":
        tree = json.loads(text)
        files = tuple(DataFile(**file) for file in tree.pop("files"))
        return Manifest(files=files, replaces=tuple(tree.pop("replaces")), **tree)

    def rows(self) -> int:
        return sum(file.rows for file in self.files)


@dataclass(frozen=True)
class Snapshot:
    """A pinned version of one table, or the part of it that `where` selected. `version` is -1 for a table that does not exist yet."""

    table: Table
    version: int
    files: tuple[DataFile, ...]
    root: str

    def where(self, **conditions) -> "Snapshot":
        """Keep the files whose partition values equal (text), are in (a collection) or satisfy (a function) every condition."""

        def matches(partition: dict) -> bool:
            for column, wanted in conditions.items():
                value = partition[column]
                if callable(wanted):
                    ok = wanted(value)
                elif isinstance(wanted, str):
                    ok = value == wanted
                else:
                    ok = value in wanted
                if not ok:
                    return False
            return True

        return Snapshot(self.table, self.version, tuple(file for file in self.files if matches(file.partition)), self.root)

    def uris(self) -> list[str]:
        return [f"{self.root}/{file.path}" for file in self.files]

    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def run_keys(self) -> set[str]:
        return {file.run_key for file in self.files}

    def values(self, column: str) -> list[str]:
        return sorted({file.partition[column] for file in self.files})

    def digest(self) -> str:
        """Fingerprint of the content: the same rows in the same partitions give the same digest in any warehouse."""
        lines = sorted(f"{json.dumps(file.partition, sort_keys=True)} {file.digest} {file.rows}" for file in self.files)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
