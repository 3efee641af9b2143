"""`lurm status`: what is in a warehouse."""

from datetime import UTC, date, datetime

from lurm.commands.arguments import add_command, add_warehouse
from lurm.commands.recording import print_runs
from lurm.commands.releasing import print_releases
from lurm.errors import InputError


def add(commands) -> None:
    add_warehouse(add_command(commands, "status", "say what is in a warehouse", _status, "example:\n  lurm status --warehouse demo/warehouse"))


def _status(options) -> int:
    from lurm.releases import released, releases
    from lurm.runs import last_runs
    from lurm.schema import TABLES
    from lurm.store import Store

    store = Store(options.warehouse)
    if not store.exists("tables"):
        raise InputError(f"Expected a warehouse at {store.uri}, found none; `lurm run` makes one.")
    print(f"{'table':<18}{'version':>8}{'files':>8}{'rows':>14}  partitions")
    for name, table in TABLES.items():
        snapshot = store.snapshot(name)
        if snapshot.version >= 0:
            column = next((column for column in ("month", "period", "as_of", "reason") if column in table.partition_by), None)
            values = snapshot.values(column) if column else []
            spread = f"{len(values)} x {column}, {values[0]} to {values[-1]}" if values else ""
            print(f"{name:<18}{snapshot.version:>8}{len(snapshot.files):>8}{snapshot.rows():>14,}  {spread}")
    for kind in ("encoders", "spaces", "models"):
        for artifact_id in store.list_artifacts(kind):
            info = store.artifact_info(kind, artifact_id)
            size = f", {info['n_interests']} interests" if "n_interests" in info else ""
            print(f"{kind[:-1]:<18}{artifact_id}  trained on events before {info['as_of']}{size}")
    moves = releases(store)
    print_releases(moves)
    now = released(store)
    if now:
        age = (datetime.now(UTC).date() - date.fromisoformat(now["as_of"])).days
        print(f"readers get       release {now['epoch']} of {now['as_of']}, {age} days old")
    last = last_runs(store, 1)
    if last:
        print("last run")
        print_runs(last)
    return 0
