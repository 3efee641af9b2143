"""`lurm compare`: what changes for those who go on from one table to another."""

import json

from lurm.commands.arguments import add_command, add_warehouse
from lurm.errors import ConfigError, InputError
from lurm.whole_file import whole_file


def add(commands) -> None:
    compare = add_command(
        commands, "compare", "say what changes for a consumer from one table to another", _compare,
        "examples:\n  lurm compare --warehouse demo/warehouse released candidate\n"
        "  lurm compare --warehouse demo/warehouse 1 2 --labels labels.csv --label bought --time asked_at --json comparison.json",
        about="Who comes and goes, which neighbours stay, how norms and anchors move, and what a probe reads off each table. A and B are each\n"
              "an epoch of `lurm releases`, the id of a model, `released` or `candidate`; they are compared at the newest date that both have.",
    )
    add_warehouse(compare)
    compare.add_argument("before", metavar="A", help="the table that is followed now: an epoch, a model, released or candidate")
    compare.add_argument("now", metavar="B", help="the one to go on to")
    compare.add_argument("--as-of", metavar="YYYY-MM-DD", help="compare at this date (default: the newest that both have)")
    compare.add_argument("--sample", type=int, default=2_000, metavar="N", help="users, by hash, whose vectors are compared (default: 2000)")
    compare.add_argument("--labels", metavar="FILE", help="CSV or Parquet with a label a user: what does a probe get from each table?")
    compare.add_argument("--label", action="extend", nargs="+", default=[], metavar="COLUMN", help="columns of the label, at most 20 classes each")
    compare.add_argument("--user", default="user_id", metavar="COLUMN", help="column of the user (default: user_id)")
    compare.add_argument("--time", metavar="COLUMN", help="column of the label's time: rows before the date of the tables are left out")
    compare.add_argument("--json", metavar="FILE", help="write all figures there too")


def _compare(options) -> int:
    from lurm.candidates import table_of
    from lurm.comparison import choose, compare_tables, lines_of
    from lurm.periods import parse_as_of
    from lurm.store import Store

    if bool(options.labels) != bool(options.label):
        raise ConfigError("Expected --labels FILE together with --label COLUMN, got one of them; give both, or none.")
    if options.sample < 2:
        raise ConfigError(f"Expected --sample of at least 2 users, got {options.sample}; the default is 2000.")
    store = Store(options.warehouse)
    rows = choose(store, options.before, options.now, parse_as_of(options.as_of) if options.as_of else None)
    tables = [table_of(store, row) for row in rows]
    result = compare_tables(store, *tables, options.sample)
    if options.labels:
        result["tasks"] = {label: _task(options, label, tables) for label in options.label}
    print("\n".join(lines_of(result)))
    if options.json:
        with whole_file(options.json, "--json") as path, open(path, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
    return 0


def _task(options, label: str, tables: list) -> dict:
    """What a probe reads off both tables for one label."""
    from lurm.evaluation.paired_probe import probe_both, read_labels

    labels = read_labels(options.labels, options.user, label, options.time, max(table.as_of for table in tables))
    (before, there), (now, here) = (table.vectors(labels.users, absent="mask") for table in tables)
    both = there & here
    if not both.any():
        raise InputError(f"Expected labels of users of both tables in {options.labels}, found none in its {labels.rows:,} rows "
                         f"({labels.rows_too_early:,} are before {max(table.as_of for table in tables)}, {labels.rows_without:,} lack a user, label "
                         "or time); check --user, --label and --time.")
    left_out = {name: getattr(labels, name) for name in ("rows", "rows_too_early", "rows_without", "rows_again")}
    return {**probe_both(before[both], now[both], labels.labels[both]), **left_out, "absent_users": int((~both).sum())}
