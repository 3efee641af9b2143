"""What is known of a release, gathered from where it is kept: the gate's report, the run that made it, sizes, histories of trainings.

In: `Released`. Out: `ReleaseFacts`, plain data; what is not kept (an old warehouse, a run from elsewhere) is None or empty.
"""

import json
from dataclasses import dataclass

from lurm.audit import FOLDER, kept_report
from lurm.checks import BLOCK, OUTPUT_CHECKS, Check
from lurm.report.chain import Released
from lurm.runs import read_run, run_ids
from lurm.schema import TABLES
from lurm.store import Store

LOOKED_AT_RUNS = 200  # the newest ones; a release older than that is shown without the run that made it
PASSED, NOT_JUDGED = "passed", "nothing to judge"


@dataclass(frozen=True)
class Verdict:
    """One check of the gate: what it found, what was allowed, and how it ended (passed, nothing to judge, info, warn, block)."""

    name: str
    meaning: str
    value: float | None
    lowest: float | None
    highest: float | None
    outcome: str
    drift: bool  # whether it holds the table against the release before


@dataclass(frozen=True)
class TableSize:
    """The newest version of a table."""

    name: str
    summary: str
    files: int
    rows: int
    bytes: int


@dataclass(frozen=True)
class ReleaseFacts:
    """Plain data about one release."""

    figures: dict  # of the gate, empty where its report is not kept
    verdicts: list[Verdict]
    compared_with: dict | str | None
    forced: str | None
    inputs: dict | None  # report of the gate on the inputs
    run: dict | None  # record of the run that published it
    sizes: list[TableSize]


def gather(released: Released) -> ReleaseFacts:
    """Read all of it: a few small files, and the logs of the tables."""
    store = released.store
    report = kept_report(store, released.row["run_key"]) or {}
    run = run_of(store, released)
    settings = ((run or {}).get("settings") or {}).get("gate") or {}
    return ReleaseFacts(
        report.get("figures", {}), verdicts(report, settings), report.get("compared_with"), report.get("forced"),
        inputs_report(store, released.as_of), run, table_sizes(store),
    )


def verdicts(report: dict, settings: dict) -> list[Verdict]:
    """The checks in their order with how each ended; `settings` are the gate's of that run, for limits that have names."""
    found = {finding["name"]: finding for finding in report.get("findings", [])}
    result = []
    for check in OUTPUT_CHECKS if report else ():
        finding = found.get(check.name)
        lowest, highest = (finding["lowest"], finding["highest"]) if finding else (_limit(check.lowest, settings), _limit(check.highest, settings))
        outcome = finding["severity"] if finding else NOT_JUDGED if check.name in report.get("left_out", ()) else PASSED
        result.append(Verdict(check.name, check.meaning, _number(report["figures"].get(check.figure)), lowest, highest, outcome, _is_drift(check)))
    return result


def run_of(store: Store, released: Released) -> dict | None:
    """The newest record whose publish stage made this release."""
    for run_id in reversed(run_ids(store)[-LOOKED_AT_RUNS:]):
        record = read_run(store, run_id)
        told = record.get("stages", {}).get("publish", {})
        if told.get("epoch") == released.row["epoch"] and told.get("model_id") == released.row["model_id"]:
            return record
    return None


def inputs_report(store: Store, as_of: str) -> dict | None:
    """The newest report of the gate on the inputs of a date."""
    entries = [entry for entry in store.list_files(FOLDER, recursive=True) if entry.path.endswith("/report.json") and "/inputs-" in entry.path]
    for entry in sorted(entries, key=lambda entry: -entry.modified)[:LOOKED_AT_RUNS]:
        report = json.loads(store.read_bytes(entry.path))
        if report.get("title") == f"inputs before {as_of}":
            return report
    return None


def table_sizes(store: Store) -> list[TableSize]:
    """Files, rows and bytes of the newest version of each table that there is."""
    snapshots = {name: store.snapshot(name) for name in TABLES}
    return [
        TableSize(name, TABLES[name].summary, len(found.files), found.rows(), sum(file.size for file in found.files))
        for name, found in snapshots.items() if found.version >= 0
    ]


def worst(verdicts: list[Verdict]) -> str:
    """The gravest outcome of a gate: block, warn, info or passed; nothing to judge where there is no report."""
    outcomes = [verdict.outcome for verdict in verdicts]
    return next((grave for grave in (BLOCK, "warn", "info", PASSED) if grave in outcomes), NOT_JUDGED)


def _is_drift(check: Check) -> bool:
    names = [check.name for check in OUTPUT_CHECKS]
    return names.index(check.name) >= names.index("release_can_be_read")


def _limit(limit: float | str | None, settings: dict) -> float | None:
    return settings.get(limit) if isinstance(limit, str) else limit


def _number(value) -> float | None:
    """Reports write what JSON has no word for as text: nan, inf."""
    return float(value) if value is not None else None
