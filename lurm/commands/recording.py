"""`lurm runs`: what ran on a warehouse, how it ended and what it cost."""

import json
from datetime import UTC, datetime

from lurm.commands.arguments import add_command, add_warehouse


def add(commands) -> None:
    runs = add_command(
        commands, "runs", "show the last runs, or one of them in detail", _runs,
        "example:\n  lurm runs --warehouse demo/warehouse\n  lurm runs --warehouse demo/warehouse --last 3",
        about="Show the last runs, oldest first, or with --run everything that one run recorded. A run that says `running` although its\n"
              "process is gone, or has said nothing for five minutes, is shown as `died`.",
    )
    add_warehouse(runs)
    which = runs.add_mutually_exclusive_group()
    which.add_argument("--last", type=int, default=10, metavar="N", help="how many (default: 10)")
    which.add_argument("--run", metavar="ID", help="one run in detail")


def print_runs(records: list[dict]) -> None:
    from lurm.runs import status_of

    now = datetime.now(UTC)
    print(f"{'run':<27}{'command':<20}{'as_of':<12}{'status':<13}{'minutes':>8}{'users':>13}{'core-hours':>12}  model")
    for record in records:
        spent = record.get("cost") or {}
        users, hours = spent.get("users"), spent.get("core_hours")
        print(f"{record['run_id']:<27}{record.get('command') or '-':<20}{record.get('as_of') or '-':<12}{status_of(record, now):<13}"
              f"{_minutes(record, now):>8.1f}{f'{users:,}' if users else '-':>13}{f'{hours:.3f}' if hours is not None else '-':>12}  "
              f"{record.get('model_id') or '-'}")


def _runs(options) -> int:
    from lurm.runs import last_runs, read_run
    from lurm.store import Store

    store = Store(options.warehouse)
    if options.run:
        _print_run(read_run(store, options.run))
    else:
        print_runs(last_runs(store, options.last))
    return 0


def _print_run(record: dict) -> None:
    from lurm.runs import rows_of, skipped

    print_runs([record])
    code = f"{record.get('code_version')}" + (f", commit {record['commit']}" if record.get("commit") else "")
    facts = {
        "started": record.get("started_at"), "ended": record.get("ended_at"), "last sign of life": record.get("heartbeat_at"),
        "error": record.get("error"), "part of": record.get("parent"), "code": code,
        "process": f"{record.get('pid')} on {record.get('host')}", "warehouse": record.get("warehouse"),
        "cost": record.get("cost"), "tables before": record.get("versions_before"), "tables after": record.get("versions_after"),
    }
    for name, value in facts.items():
        if value:
            print(f"{name:<18}{_flat(value)}")
    if record.get("stages"):
        print(f"\n{'stage':<20}{'seconds':>9}{'rows':>14}{'peak MB':>9}")
    for name, figures in record.get("stages", {}).items():
        rows = "skipped" if skipped(figures) else rows_of(figures)
        print(f"{name:<20}{figures['seconds']:>9.1f}{rows if isinstance(rows, str) else '-' if rows is None else f'{rows:,}':>14}"
              f"{figures['peak_mb']:>9,}")
    for day in record.get("dates", []):
        print(f"{day['as_of']}  {day['status']:<9}{day['why']}")
    print(f"\nsettings\n{json.dumps(record.get('settings', {}), indent=1)}")


def _flat(value) -> str:
    return ", ".join(f"{name} {item}" for name, item in value.items() if item is not None) if isinstance(value, dict) else str(value)


def _minutes(record: dict, now: datetime) -> float:
    start = datetime.fromisoformat(record["started_at"])
    told = record.get("ended_at") or record.get("heartbeat_at")
    return ((datetime.fromisoformat(told) if told else now) - start).total_seconds() / 60
