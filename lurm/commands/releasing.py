"""`lurm releases`, `release`, `rollback`, `retire` and `vacuum`: the pointer that readers follow, and what nothing points to any more."""

from collections import Counter

from lurm.commands.arguments import add_command, add_wait, add_warehouse
from lurm.errors import InputError


def add(commands) -> None:
    add_warehouse(add_command(commands, "releases", "show every move of the release pointer, candidates, and announced ends of models", _releases,
                              "example:\n  lurm releases --warehouse demo/warehouse"))
    release = add_command(commands, "release", "make a candidate what readers follow; takes seconds, touches no data", _release,
                          "example:\n  lurm release --warehouse demo/warehouse --candidate model-89bf513e76e61a6b --as-of 2022-01-01",
                          about="Make a candidate what readers follow: a table that was committed with publish.release=false, passed the quality\n"
                                "gate, and was never released. `lurm releases` shows the candidates, `lurm compare released candidate` what changes.")
    add_warehouse(release)
    release.add_argument("--candidate", metavar="MODEL", help="its model (default: the only one with a candidate at the date)")
    release.add_argument("--as-of", metavar="YYYY-MM-DD", help="its date (default: the newest)")
    back = add_command(commands, "rollback", "make readers follow an earlier release again; takes seconds, touches no data", _rollback,
                       "example:\n  lurm rollback --warehouse demo/warehouse --reason 'drift in anchor 3'")
    add_warehouse(back)
    back.add_argument("--to", type=int, metavar="EPOCH", help="epoch of `lurm releases` (default: the release before the present one)")
    back.add_argument("--reason", default="rollback", help="kept with the move")
    end = add_command(
        commands, "retire", "announce until when a model can be read, or take that back", _retire,
        "examples:\n  lurm retire --warehouse demo/warehouse --model model-89bf513e76e61a6b --after 2022-06-30 --reason 'its successor is better'\n"
        "  lurm retire --warehouse demo/warehouse --model model-89bf513e76e61a6b --cancel",
        about="Readers who have pinned the model are warned until that day, with its end and its successor, and refused after it. A vacuum after\n"
              "the end takes its tables out of the warehouse, unless readers follow the model then; until that it can be cancelled.",
    )
    add_wait(add_warehouse(end))
    end.add_argument("--model", required=True, metavar="ID", help="the model that ends")
    what = end.add_mutually_exclusive_group(required=True)
    what.add_argument("--after", metavar="YYYY-MM-DD", help="the last day (UTC) on which it can be read; a second announcement replaces the first")
    what.add_argument("--cancel", action="store_true", help="take the announcement back")
    end.add_argument("--reason", default="", metavar="TEXT", help="told to readers with the warning")
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


def print_candidates(rows: list[dict]) -> None:
    for row in rows:
        aligned = f"  aligned to {row['aligned_to']}" if row["aligned_to"] else ""
        print(f"{'candidate':<18}{row['as_of']}  {row['model_id']}  {row['n_users']:,} users  table version {row['table_version']}  "
              f"committed {row['committed_at']:%Y-%m-%d %H:%M}{aligned}")


def _seen_later(row: dict) -> str:
    """What to say of a release whose model has seen events at or after its date."""
    return f"model trained later, before {row['trained_as_of']}  " if (row["trained_as_of"] or "") > row["as_of"] else ""


def _releases(options) -> int:
    from lurm.candidates import candidates
    from lurm.releases import releases
    from lurm.retirement import ends
    from lurm.store import Store

    store = Store(options.warehouse)
    print_releases(releases(store))
    print_candidates(candidates(store))
    for model_id in store.list_artifacts("alignments"):
        info = store.artifact_info("alignments", model_id)
        print(f"{'aligned':<18}{info['fitted_at']}  {model_id}  to {info['aligned_to']} by {info['kind']}, explains "
              f"{info['figures']['explained']:.2f} of what differs between users")
    for end in ends(store).values():
        gone = f"taken out on {end.taken_out_at[:10]}" if end.taken_out_at else f"can be read until {end.after}"
        print(f"{'end':<18}{end.after}  {end.model_id}  {gone}, announced {end.announced_at[:10]}{f': {end.reason}' if end.reason else ''}")
    return 0


def _release(options) -> int:
    from lurm.candidates import release_candidate
    from lurm.periods import parse_as_of
    from lurm.store import Store

    print_releases([release_candidate(Store(options.warehouse), options.candidate, parse_as_of(options.as_of) if options.as_of else None)])
    return 0


def _retire(options) -> int:
    from lurm.lease import lease
    from lurm.retirement import announce_end, cancel_end
    from lurm.store import Store

    store = Store(options.warehouse)
    if options.cancel:
        with lease(store, "retire --cancel", options.wait):  # so that no vacuum takes the tables out meanwhile
            end = cancel_end(store, options.model)
        print(f"{end.model_id} does not end after {end.after}")
    else:
        end = announce_end(store, options.model, options.after, options.reason)
        print(f"{end.model_id} can be read until {end.after}; who has pinned it is warned from now on")
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
