"""docs/table.md is what lurm.table_page writes: the texts of the schema, nothing by hand."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa

from lurm.contract import PROMISED
from lurm.schema import SCHEMA_VERSION, TABLES, TIMESTAMP
from lurm.table_page import page, type_name

PAGE = Path(__file__).parents[1] / "docs" / "table.md"


def test_the_committed_page_is_the_written_one():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m lurm.table_page docs/table.md`"


def test_every_promised_column_is_on_the_page():
    lines = page().splitlines()
    for name in PROMISED:
        for field in TABLES[name].schema:
            column = TABLES[name].columns[field.name]
            assert f"| `{field.name}` | {type_name(field.type)} | {column.since} | {column.meaning} |" in lines
    assert f"this is version {SCHEMA_VERSION} of it" in page()
    assert all(f"| `{name}` | {table.summary} |" in lines for name, table in TABLES.items() if name not in PROMISED)
    assert not [line for line in lines if line.startswith("|") and line.replace("\\|", "").count("|") not in (3, 5)], "no text breaks a table"


def test_types_in_words():
    assert type_name(pa.list_(pa.float32())) == "list of float32" and type_name(TIMESTAMP) == "timestamp (UTC, microseconds)"
    assert [type_name(kind) for kind in (pa.string(), pa.int64(), pa.bool_())] == ["string", "int64", "boolean"]


def test_the_module_prints_and_writes_it(tmp_path):
    command = [sys.executable, "-m", "lurm.table_page"]
    assert subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.decode() == page()
    subprocess.run([*command, str(tmp_path / "table.md")], check=True, timeout=60)
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == page()
