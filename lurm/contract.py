"""What other teams may rely on: the version of the published tables, where it stands, and who refuses what.

A version is major.minor. A minor version adds columns; whoever reads columns by name notices nothing. A major version changes what is
there: a name, a type, a meaning, a partition. The number stands in the properties of the Delta tables (`lurm.schemaVersion`), so any
engine can look at it, and in the metadata of each commit; tables without it are of 1.0. Readers and writers refuse a table of a newer
major version, because they would misread it; a writer of a newer minor version adds the columns, and marks the table, before it commits.
"""

from collections.abc import Mapping

from lurm.errors import StoreError
from lurm.schema import SCHEMA_VERSION, TABLES

PROPERTY = "lurm.schemaVersion"
FIRST = "1.0"  # of tables that were written before versions stood in the properties
PROMISED = tuple(name for name, table in TABLES.items() if table.columns)


def marks(name: str) -> dict[str, str]:
    """Properties that say which version of the schema a table is written by; none for a table that is lurm's own affair."""
    return {PROPERTY: SCHEMA_VERSION} if name in PROMISED else {}


def parse_version(text: str) -> tuple[int, int]:
    """(major, minor) of "1.2", or of "1", which is 1.0. Raises ValueError for anything else."""
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def check_version(where: str, properties: Mapping[str, str]) -> None:
    """Raise StoreError if the table at `where`, which has these properties, is of a major version that this lurm does not know."""
    found = properties.get(PROPERTY) or FIRST
    try:
        newer = parse_version(found)[0] > parse_version(SCHEMA_VERSION)[0]
    except ValueError:
        newer = True
    if newer:
        raise StoreError(f"Expected a table of schema version {parse_version(SCHEMA_VERSION)[0]}.x at {where}, it is of version {found}, written "
                         "by a newer lurm; upgrade lurm to read it (docs/table.md says what versions promise).")


def is_older(name: str, properties: Mapping[str, str]) -> bool:
    """Whether a promised table is of an older version than this lurm writes, and must be marked before anything is committed to it."""
    return name in PROMISED and parse_version(properties.get(PROPERTY) or FIRST) < parse_version(SCHEMA_VERSION)
