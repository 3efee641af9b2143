"""audit-inputs: is what was ingested what it was yesterday? Stops a run before hours of computing on a broken export.

In: events before as_of, the catalogue, the quarantine. Out: a report in audits/inputs-<key>/; what is certainly wrong blocks the run,
everything else is a warning. Only the months that as_of's last nine weeks touch are read, in batches, and only the columns needed. The
same inputs are judged once.
"""

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lurm.audit import audit, findings_of, keep_audit, kept_report
from lurm.checks import BLOCK, INPUT_CHECKS, WARN
from lurm.config import InputGateSettings, fingerprint
from lurm.errors import AuditError
from lurm.lineage import Context
from lurm.manifest import Snapshot
from lurm.periods import empty_months, parse_as_of
from lurm.schema import EVENTS, QUARANTINE
from lurm.staging import read_files
from lurm.store import Store

DAY_MICROS = 86_400_000_000
WINDOW_DAYS = 63  # the last week, and the eight before it that say what is usual
LOOKED_AT_ROWS = 2_000_000  # of whole files, each the events of a random part of the users, for duplicates and unknown items
SAMPLED_EVENTS = 200_000  # evenly taken from those, whose items are looked up in the catalogue
FUTURE = "timestamp in the future of its file"


def run(context: Context) -> dict:
    """Judge the inputs of this as_of; raises AuditError when a blocking limit is passed."""
    store, settings = context.store, context.config.input_gate
    quarantined = store.snapshot(QUARANTINE.name)
    key = "inputs-" + fingerprint(settings, context.as_of, context.events().digest(), context.items().digest(), quarantined.digest())
    report, told = kept_report(store, key), {"skipped": "audited already"}
    if report is None:
        figures, facts = input_figures(context, quarantined)
        verdict = audit(f"inputs before {context.as_of}", figures, INPUT_CHECKS, settings)
        keep_audit(store, key, verdict, facts)
        report = verdict.report()
        told = {name: round(value, 4) for name, value in figures.items() if value}
    findings = findings_of(report)
    blocking = [finding for finding in findings if finding.severity == BLOCK]
    if blocking:
        others = f" (and {', '.join(finding.name for finding in blocking[1:])})" if blocking[1:] else ""
        raise AuditError(
            f"The input gate blocked the run of {context.as_of}: {blocking[0]}{others}; the report is audits/{key}/report.json (and index.html) in "
            f"{store.uri}; mend the log or the catalogue and run ingest again, or set input_gate.severities={blocking[0].name}:warn."
        )
    warnings = [finding.name for finding in findings if finding.severity == WARN]
    return {**told, **({"warnings": warnings} if warnings else {})}


def input_figures(context: Context, quarantined: Snapshot) -> tuple[dict, dict]:
    """Figures that INPUT_CHECKS are about, and the facts that explain them."""
    store, settings, as_of = context.store, context.config.input_gate, context.as_of
    events = context.events()
    counts: dict[str, int] = {}
    for file in events.files:
        counts[file.partition["month"]] = counts.get(file.partition["month"], 0) + file.rows
    holes = empty_months(counts, as_of, settings.min_events)
    first_month = (date.fromisoformat(parse_as_of(as_of)) - timedelta(days=WINDOW_DAYS)).isoformat()[:7]
    recent = events.where(month=lambda month: month >= first_month)
    if not recent.files:  # the log ended long ago: its last month says when
        recent = events.where(month=events.values("month")[-1])
    days, last = _days(store, recent, as_of)
    duplicates, items = _duplicates_and_items(store, recent, as_of)
    bad, all_rows = quarantined.where(source="events"), store.snapshot(EVENTS.name).rows()
    bad_items, n_items = quarantined.where(source="items").rows(), context.items().rows()
    figures = {
        "empty_months": len(holes),
        "unknown_share": _unknown_share(store, items, context.items()),
        "quarantined_share": bad.rows() / max(1, bad.rows() + all_rows),
        "quarantined_items_share": bad_items / max(1, bad_items + n_items),
        "future_share": bad.where(reason=FUTURE).rows() / max(1, bad.rows() + all_rows),
        "days_since_last_event": (_micros(as_of) - last) / DAY_MICROS if last is not None else None,
        **_volumes(days, settings),
        "duplicate_share": duplicates,
    }
    facts = {"empty_months": holes, "events_by_day": days.tolist(), "looked_up_events": len(items), "months": len(counts)}
    return figures, facts


def _volumes(days: np.ndarray, settings: InputGateSettings) -> dict:
    """The last week over a usual week, the last day over a usual day of its name; None where what is usual is too little to say."""
    week, day = days[7:].sum() / (WINDOW_DAYS // 7 - 1), days[7:35:7].mean()
    return {
        "last_week": float(days[:7].sum() / week) if week >= settings.min_events else None,
        "last_day": float(days[0] / day) if day >= settings.min_events else None,
    }


def _micros(as_of: str) -> int:
    return (date.fromisoformat(as_of) - date(1970, 1, 1)).days * DAY_MICROS


def _days(store: Store, recent: Snapshot, as_of: str) -> tuple[np.ndarray, int | None]:
    """Events of each of the last 63 days, (63,) with the last day first; and the instant of the last event, in microseconds."""
    days, last, end = np.zeros(WINDOW_DAYS, np.int64), None, _micros(as_of)
    for batch in read_files(store, recent.uris(), ["timestamp"]):
        micros = batch.column("timestamp").cast(pa.int64()).to_numpy()
        micros = micros[micros < end]
        if len(micros):
            last = max(int(micros.max()), last if last is not None else 0)
            back = (end - 1 - micros) // DAY_MICROS
            days += np.bincount(back[back < WINDOW_DAYS], minlength=WINDOW_DAYS)
    return days, last


def _duplicates_and_items(store: Store, recent: Snapshot, as_of: str) -> tuple[float | None, pa.ChunkedArray]:
    """Share of events that repeat the one before them, and the items of evenly sampled events; both of the newest whole files."""
    files, newest = [], lambda pair: (pair[0].partition["month"], pair[0].digest)
    for file, uri in sorted(zip(recent.files, recent.uris(), strict=True), key=newest, reverse=True):
        if sum(file.rows for file, _ in files) < LOOKED_AT_ROWS:
            files.append((file, uri))
    step = max(1, -(-sum(file.rows for file, _ in files) // SAMPLED_EVENTS))
    names, end = EVENTS.sorted_by + ("weight",), pa.scalar(_micros(as_of)).cast(EVENTS.schema.field("timestamp").type)
    n_rows, n_repeated, taken = 0, 0, []
    for _, uri in files:
        last = None
        for batch in read_files(store, [uri], names, filters=pc.field("timestamp") < end):
            same = np.ones(batch.num_rows, bool)
            for name in names:  # a file is sorted by all of them but the weight, so what is equal lies together
                column = batch.column(name)
                same[1:] &= pc.equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
                same[0] &= last is not None and last[name] == column[0].as_py()
            taken.append(batch.column("item_id").take(pa.array(np.arange(-n_rows % step, batch.num_rows, step))))
            n_rows, n_repeated = n_rows + batch.num_rows, n_repeated + int(same.sum())
            last = {name: batch.column(name)[batch.num_rows - 1].as_py() for name in names}
    return n_repeated / n_rows if n_rows else None, pa.chunked_array(taken, pa.string())


def _unknown_share(store: Store, items: pa.ChunkedArray, catalogue: Snapshot) -> float | None:
    """Share of the sampled events whose item is not in the catalogue; the catalogue is streamed, its ids are never held."""
    if not len(items):
        return None
    counted = items.value_counts()
    distinct, counts = counted.field("values"), counted.field("counts").to_numpy()
    known = np.zeros(len(distinct), bool)
    for batch in read_files(store, catalogue.uris(), ["item_id"]):
        known |= pc.is_in(distinct, value_set=batch.column("item_id")).to_numpy(zero_copy_only=False)
        if known.all():
            break
    return float(counts[~known].sum() / counts.sum())
