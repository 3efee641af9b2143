"""`lurm check`: questions that a scheduler or a monitor asks, answered by one line and the exit code."""

import argparse
from datetime import UTC, date, datetime

from lurm.commands.arguments import add_command, add_warehouse
from lurm.errors import LurmError
from lurm.periods import parse_as_of

FRESH, STALE, UNKNOWN = 0, 1, 2


def add(commands) -> None:
    example = "example:\n  lurm check freshness --warehouse demo/warehouse --max-age-days 2"
    checks = add_command(commands, "check", "answer a monitor's question with one line and an exit code", None, example)
    group = checks.add_subparsers(metavar="CHECK", required=True)
    fresh = add_command(
        group, "freshness", "is the released table young enough", _freshness, example,
        about="Is the table that readers get young enough? Exit code 0: fresh, 1: stale, 2: cannot tell. One line says which release, its date,\n"
              "its age and the limit. The age is counted in days from the release's as_of to today (UTC), or to --as-of.",
    )
    add_warehouse(fresh)
    fresh.add_argument("--max-age-days", type=_days, required=True, metavar="N", help="the oldest that is still fresh")
    fresh.add_argument("--as-of", metavar="YYYY-MM-DD", help="count the age on this day (default: today in UTC)")


def freshness(as_of: str, today: str, max_age_days: int) -> tuple[int, str]:
    """Exit code and words for a table of `as_of` on a day. A date after tomorrow is nobody's table of today: it cannot be told."""
    age = (date.fromisoformat(today) - date.fromisoformat(as_of)).days
    if age < -1:
        return UNKNOWN, f"its date lies {-age} days after {today}"
    return (FRESH if age <= max_age_days else STALE), f"{age} days old on {today}, at most {max_age_days} allowed"


def _freshness(options) -> int:
    from lurm.embedding_table import open_table

    try:
        today = parse_as_of(options.as_of) if options.as_of else datetime.now(UTC).date().isoformat()
        table = open_table(options.warehouse)
    except LurmError as error:
        print(f"cannot tell: {error}")
        return UNKNOWN
    code, words = freshness(table.as_of, today, options.max_age_days)
    label = {FRESH: "fresh", STALE: "stale", UNKNOWN: "cannot tell"}[code]
    print(f"{label}: release {table.epoch} of {table.as_of}, {table.n_users:,} users, model {table.model_id}, {words}")
    return code


def _days(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number of days, got {text!r}")
    return int(text)
