"""What a date was embedded from, so that it can be asked years later whether it would be embedded from the same again.

In: a call of a stage whose bags are built. Out: three digests, kept with the staged files. The bags of a month that was open are counted
anew, and dropped, when the month closes; so the digests name the bags of closed months, which stay, and of the open month its events.
"""

from lurm.errors import MissingInputError
from lurm.lineage import Context
from lurm.manifest import Snapshot
from lurm.periods import until
from lurm.schema import BAGS, MONTH


def ingredients(context: Context) -> dict[str, str]:
    """Digests of the closed months' bags, of the open month's events, and of the interests if some of those events had none."""
    month = context.as_of[:7]  # counted up to as_of only; on the first of a month it has nothing before as_of
    told = {"closed_months": closed_months(context).digest(), "open_month_events": "", "open_month_interests": ""}
    events = context.events().where(month=month)
    if events.files:
        told["open_month_events"] = events.digest()
        told["open_month_interests"] = context.interests().digest() if _unassigned(context, month) else ""
    return told


def what_changed(context: Context, then: dict[str, str]) -> str | None:
    """What is not as it was when a date was made of `then`, in words; None if the date would get the same bags."""
    month = context.as_of[:7]  # counted up to as_of only; on the first of a month it has nothing before as_of
    if closed_months(context).digest() != then.get("closed_months"):
        return "closed months have other events now"
    events = context.events().where(month=month)
    if (events.digest() if events.files else "") != then["open_month_events"]:
        return f"{month} has other events now, which may lie after the date"
    if then["open_month_interests"] and then["open_month_interests"] != context.interests().digest():
        return f"{month} had events of items without an interest, and items have been added"
    return None


def closed_months(context: Context) -> Snapshot:
    """Bags of the months that end at or before as_of; MissingInputError if one with events has not been counted."""
    expected = [month for month in context.events().values("month") if until(month, "9999-12-31") <= context.as_of]
    bags = context.pinned(BAGS.name).where(space_id=context.space_id(), scale=MONTH, period=expected)
    bags = bags.where(until=lambda end: end <= context.as_of)
    files = tuple(file for file in bags.files if file.partition["until"] == until(file.partition["period"], "9999-12-31"))
    missing = sorted(set(expected) - {file.partition["period"] for file in files})
    if missing:
        raise MissingInputError(f"Expected bags of {missing[0]} in space {context.space_id()}, found none; run `lurm build-bags`.")
    return Snapshot(bags.table, bags.version, tuple(file for file in files if file.rows), bags.root)


def _unassigned(context: Context, month: str) -> int:
    """Events of the open month that are in no bag, because their item had no interest when they were counted."""
    live = context.pinned(BAGS.name).where(space_id=context.space_id(), scale=MONTH, period=month, until=until(month, context.as_of))
    manifests = [context.store.read_manifest(BAGS.name, run_key) for run_key in live.run_keys()]
    return sum(manifest.figures["periods"][month]["unassigned"] for manifest in manifests if manifest)
