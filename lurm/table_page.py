"""docs/table.md, the contract with those who read the table, written from `lurm.schema`.

    python -m lurm.table_page        prints the page
    python -m lurm.table_page FILE   writes it

A test holds the committed page to this one, so a column cannot change and its page stay as it was.
"""

import sys
from pathlib import Path

import pyarrow as pa

from lurm.contract import PROMISED, PROPERTY
from lurm.schema import RELEASES, SCHEMA_VERSION, TABLES, USER_EMBEDDINGS, Table

HEAD = f"""# The table

<!-- Written by `python -m lurm.table_page docs/table.md` from lurm/schema.py: change the texts there. -->

What other teams read are two Delta tables in the warehouse: `tables/{USER_EMBEDDINGS.name}`, the vectors, and `tables/{RELEASES.name}`, the pointer
that says which of them to read. What stands on this page is a promise; this is version {SCHEMA_VERSION} of it.
"""

READING = f"""
## Which rows to read

The newest version of `{USER_EMBEDDINGS.name}` need not be released: versions are committed before they are released, and a rollback releases
an older one. `lurm.open_table` follows the pointer; whoever reads with another engine does it by hand:

1. in `{RELEASES.name}`, take the last row (by `epoch`) whose `current` is true; for a date, the row with the largest `as_of` not after it, and of
   several the one with the largest `epoch`;
2. read `{USER_EMBEDDINGS.name}` at the version that `table_version` names, and of it the rows with this `as_of` and `model_id`.

## Which rows to join

A row may be joined to a label at time t if `as_of` is not later than t: midnight UTC of `as_of` is exclusive, so the vector has seen nothing at or
after it. Two more things can bring the future in. The model: where `trained_as_of` of the release is later than t, the model has been trained on
what came after t. And the release itself: before `released_at` nobody had this vector, so a model that is to run live is judged by that clock.
"""

RULES = f"""
## What may change, and what will not

A version is major.minor. It stands in the properties of both Delta tables (`{PROPERTY}`; a table without it is of 1.0), and in the metadata of
each commit (`schema_version`).

| | may change without notice | with a new minor version | with a new major version only |
|---|---|---|---|
| columns | | a new column, at the end; null in rows written before | a name, a type, a meaning; a column that goes away |
| rows | dates and models that are there; users who come and go; the order of files | | one row for each user, date and model |
| vectors | M and H, and the meaning of numbers, with every new `model_id` | | anchors in order, float32, no null and no NaN |
| files | how many, their names and sizes, row groups, compression | | Parquet; partitions; the order of rows within a file |
| releases | rows are added; the latest says what is current | a new column | what `current`, `table_version` and `epoch` mean |

So, as a consumer:

- select columns by name, never by position, and ignore those you do not know: that is what makes a minor version harmless;
- take M and H from the release (`n_anchors`, `dim`), and never mix vectors of two models;
- leave the files alone that no version names, and do not keep paths of files: read through the Delta log;
- do not write into these tables.

`lurm.open_table` refuses a table of a newer major version with a sentence, and so does every stage that would write to it. An older table stays
readable: `tests/data/old_warehouse` is one of version 1.0, which every test run opens, reads and joins.
"""


def page() -> str:
    """The whole page, Markdown."""
    parts = [HEAD, _described(USER_EMBEDDINGS), _described(RELEASES), READING, RULES, _others()]
    return "".join(parts)


def type_name(kind: pa.DataType) -> str:
    """A type in words: list of float32, timestamp (UTC, microseconds)."""
    if pa.types.is_list(kind):
        return f"list of {type_name(kind.value_type)}"
    if pa.types.is_timestamp(kind):
        return "timestamp (UTC, microseconds)"
    return {"float": "float32", "bool": "boolean"}.get(str(kind), str(kind))


def _described(table: Table) -> str:
    lines = [f"\n## `{table.name}`: {table.summary}\n", "| column | type | since | meaning |", "|---|---|---|---|"]
    for field in table.schema:
        column = table.columns[field.name]
        lines.append(f"| `{field.name}` | {type_name(field.type)} | {column.since} | {column.meaning} |")
    names = ", ".join(f"`{name}`" for name in table.partition_by)
    spread = f"Partitions: {names}; their values stand in the Delta log, not in the files." if names else "Not partitioned: one small file."
    order = ", ".join(f"`{name}`" for name in table.sorted_by)
    text = ", by code point" if any(pa.types.is_string(table.schema.field(name).type) for name in table.sorted_by) else ""
    return "\n".join([*lines, "", f"{spread} Within a file rows are sorted by {order}{text}. No column is null unless it says so.", ""])


def _others() -> str:
    lines = [
        "\n## All other tables\n",
        "They are how lurm works, and may change with any version; read them to look, not to build on.\n",
        "| table | holds |", "|---|---|",
    ]
    lines += [f"| `{name}` | {table.summary} |" for name, table in TABLES.items() if name not in PROMISED]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")
