"""`lurm releases`, `lurm rollback` and `lurm vacuum`: the pointer that readers follow, and what nothing points to any more."""

from collections import Counter

from lurm.commands.arguments import add_command, add_wait, add_warehouse
from lurm.errors import InputError


def add(commands) -> None:
    add_warehouse(add_command(commands, "releases", "show every move of the release pointer", _releases,
                              "example:\n  lurm releases --warehouse demo/warehouse"))
    back = add_command(commands, "rollback", "make readers follow an earlier release again; takes seconds, touches no data", _rollback,
                       "example:\n  lurm rollback --warehouse demo/warehouse --reason 'drift in anchor 3'")
    add_warehouse(back)
    back.add_argument("--to", type=int, metavar="EPOCH", help="epoch of `lurm releases` (default: the release before the present one)")
    back.add_argument("--reason", default="rollback", help="kept with the move")
    clean = add_command(commands, "vacuum", "delete files that no release, no reader and no run can need any more", _vacuum,
                        "example:\n  lurm vacuum --warehouse demo/warehouse --dry-run\n  lurm vacuum --warehouse demo/warehouse --keep-days 30")
    add_wait(add_warehouse(clean))
    clean.add_argument("--keep-days", type=float, default=7.0, metavar="N", help="keep for so many days what was replaced or staged and not "
                       "committed (default: 7)")
    clean.add_argument("--dry-run", action="store_true", help="show what would be deleted, delete nothing")


def print_releases(moves: list[dict]) -> None:
    for row in moves:
        mark = "current" if row["current"] else "history"
        print(f"release {row['epoch']:<10}{row['as_of']}  {row['model_id']}  {row['n_users']:,} users  table version {row['table_version']}  "
              f"{mark}  {row['released_at']:%Y-%m-%d %H:%M}  {_seen_later(row)}{row['reason']}")


def _seen_later(row: dict) -> str:
    """What to say of a release whose model has seen events at or after its date."""
    return f"model trained later, before {row['trained_as_of']}  " if (row["trained_as_of"] or "") > row["as_of"] else ""


def _releases(options) -> int:
    from lurm.releases import releases
    from lurm.store import Store

    print_releases(releases(Store(options.warehouse)))
    return 0


def _rollback(options) -> int:
    from lurm.releases import rollback
    from lurm.store import Store

    print_releases([rollback(Store(options.warehouse), options.to, options.reason)])
    return 0


def _vacuum(options) -> int:
    from lurm.garbage import vacuum
    from lurm.store import Store

    if not options.keep_days >= 0:
        raise InputError(f"Expected --keep-days to be a number of at least 0, got {options.keep_days:g}; the default is 7.")
    found = vacuum(Store(options.warehouse), options.keep_days, options.dry_run, options.wait)
    n_files, n_bytes = Counter(garbage.kind for garbage in found), Counter()
    for garbage in found:
        n_bytes[garbage.kind] += garbage.size
    print(f"{'would be deleted' if options.dry_run else 'deleted':<20}{'files':>8}{'bytes':>16}")
    for kind in n_files:
        print(f"{kind:<20}{n_files[kind]:>8}{n_bytes[kind]:>16,}")
    print(f"{'all':<20}{n_files.total():>8}{n_bytes.total():>16,}")
    return 0
