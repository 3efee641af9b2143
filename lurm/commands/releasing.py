"""`lurm releases` and `lurm rollback`: the pointer that readers follow."""

from lurm.commands.arguments import add_command, add_warehouse


def add(commands) -> None:
    add_warehouse(add_command(commands, "releases", "show every move of the release pointer", _releases,
                              "example:\n  lurm releases --warehouse demo/warehouse"))
    back = add_command(commands, "rollback", "make readers follow an earlier release again; takes seconds, touches no data", _rollback,
                       "example:\n  lurm rollback --warehouse demo/warehouse --reason 'drift in anchor 3'")
    add_warehouse(back)
    back.add_argument("--to", type=int, metavar="EPOCH", help="epoch of `lurm releases` (default: the release before the present one)")
    back.add_argument("--reason", default="rollback", help="kept with the move")


def print_releases(moves: list[dict]) -> None:
    for row in moves:
        mark = "current" if row["current"] else "history"
        print(f"release {row['epoch']:<10}{row['as_of']}  {row['model_id']}  {row['n_users']:,} users  table version {row['table_version']}  "
              f"{mark}  {row['released_at']:%Y-%m-%d %H:%M}  {row['reason']}")


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
