"""Backfill: a range of dates, planned first, filled in ascending order, resumed after a kill without redoing what is done.

In: a warehouse, settings, dates, a model. Out: a plan (what each date has, why it is done or not, with which model, at what cost), and
released embeddings of every date that can be filled. What is done is decided by content: a date is done when its last release was made
from the events as they are now, by the model that the plan has for it. Every date runs the stages of a daily run, so that it gets the
bytes that a run of that day alone would give it; the log is read and the catalogue encoded once for all of them.
"""

import calendar
import importlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta

from lurm import __version__
from lurm.config import Config
from lurm.errors import ConfigError, LurmError, MissingInputError
from lurm.ingredients import what_changed
from lurm.lineage import OPERATIONAL, Context
from lurm.logs import hide_secrets, logged_run
from lurm.periods import until
from lurm.pipeline import BY_NAME, RELEASED
from lurm.releases import followed, releases
from lurm.runner import SparkOnDemand, run_stages, stages_to_run
from lurm.runs import FAILED, RUNNING, Recorder, last_runs, median_seconds, new_record, read_run, recorded, settings_to_show, status_of
from lurm.schema import USER_EMBEDDINGS
from lurm.store import Store

log = logging.getLogger("lurm")
EVERY = ("day", "week", "month")
TO_DO, DONE, MISSING, FAILED_DATE = "to do", "done", "missing", "failed"
SHARED = ("ingest", "encode-items", "assign-interests")  # say nothing of a date: run once, for all dates
REMEMBERED_RUNS = 50  # past runs that the estimate looks at


@dataclass(frozen=True)
class PlannedDate:
    """One date of a backfill: what is to happen to it, why, and what is there already."""

    as_of: str
    status: str  # to do, done, missing (cannot be filled), failed
    why: str
    there: str
    model_id: str | None
    trained_as_of: str | None
    seconds: float | None = None  # estimated from past runs
    run_key: str | None = None  # of its release by this model, if it has one


# ---- dates -------------------------------------------------------------------------------------------------------------------------------


def dates_between(first: str, last: str, every: str) -> list[str]:
    """Dates from `first` to `last`, both included; months keep the day of `first`, or the last day of a month that is too short for it."""
    start, end = date.fromisoformat(first), date.fromisoformat(last)
    if end < start:
        raise ConfigError(f"Expected --to on or after --from, got --from {first} --to {last}; exchange them.")
    found, step = [], 0
    while True:
        day = _months_later(start, step) if every == "month" else start + timedelta(days=step * (7 if every == "week" else 1))
        if day > end:
            return found
        found.append(day.isoformat())
        step += 1


def _months_later(day: date, n: int) -> date:
    years, month = divmod(day.month - 1 + n, 12)
    year, month = day.year + years, month + 1
    return date(year, month, min(day.day, calendar.monthrange(year, month)[1]))


# ---- the plan ----------------------------------------------------------------------------------------------------------------------------


def models_for(store: Store, dates: Sequence[str], model: str) -> dict[str, str | None]:
    """The model of each date: the one named, or what `released` means for it (see lurm.releases.followed)."""
    if model != RELEASED:
        if not store.has_artifact("models", model):
            known = ", ".join(store.list_artifacts("models")) or "none"
            raise MissingInputError(f"Expected model {model!r} in {store.uri}, found: {known}; pass one of these to --model, or `released`.")
        return dict.fromkeys(dates, model)
    moves = releases(store)
    rows = {as_of: followed(moves, as_of) for as_of in dates}
    return {as_of: row and row["model_id"] for as_of, row in rows.items()}


def plan(base: Context, models: dict[str, str | None], stale_months: Callable[[Context], list[str]] | None = None) -> list[PlannedDate]:
    """What is to be done for each date, from what the warehouse holds now; nothing is written and Spark is not started.

    `base` gives warehouse, settings and allow_future_model; its date and model do not matter. `stale_months` tells which months would be
    counted again (by default what `build-bags` says).
    """
    stale_months = stale_months or importlib.import_module(BY_NAME["build-bags"].runner).stale_months
    moves, seconds = {row["as_of"]: row for row in releases(base.store)}, median_seconds(last_runs(base.store, REMEMBERED_RUNS))
    pins: dict = {}  # all dates are looked at in the same versions of the tables
    contexts = [replace(base, as_of=as_of, model_id=model_id, pins=pins) for as_of, model_id in sorted(models.items())]
    stale = {context.model_id: _stale(context, stale_months) for context in contexts}  # the last date of a model has all of its closed months
    planned = []
    for context in contexts:
        row, model_id = moves.get(context.as_of), context.model_id
        status, why = _outlook(context, row, stale[model_id])
        trained = _trained(context)
        made = row["run_key"] if row and row["model_id"] == model_id else None
        planned.append(PlannedDate(context.as_of, status, why, _there(row), model_id, trained, _estimate(status, seconds), made))
    return planned


def _trained(context: Context) -> str | None:
    """The date before which lie all events that the model, and what turns its vectors, have seen; None without a model."""
    if context.model_id is None or not context.store.has_artifact("models", context.model_id):
        return None
    turned = replace(context, allow_future_model=True).alignment() or {}
    return max(context.store.artifact_info("models", context.model_id)["as_of"], turned.get("as_of", ""))


def _stale(context: Context, stale_months: Callable) -> list[str]:
    if _trained(context) is None:
        return []
    try:
        return stale_months(replace(context, allow_future_model=True))  # whether the model may be used is another question
    except MissingInputError:  # no events or no interests yet: nothing has been counted
        return []


def _outlook(context: Context, row: dict | None, stale: list[str]) -> tuple[str, str]:
    """Status and reason of one date."""
    store, as_of = context.store, context.as_of
    if context.model_id is None:
        return MISSING, "no release on or before this date has a model for it; name one with --model"
    trained = _trained(context)
    if trained is None:
        return MISSING, f"its model {context.model_id} is not in the warehouse; name another one with --model"
    if trained > as_of and not context.allow_future_model:
        return MISSING, f"the model has seen events up to {trained}; name an older one, or accept it with --allow-future-model"
    if store.load("events") is None:
        return TO_DO, "the log has not been read yet"
    try:
        context.events()
    except MissingInputError:
        return MISSING, "no event before this date"
    if row is not None and row["model_id"] == context.model_id:
        changed = _what_changed(context, row, stale)
        return (TO_DO, f"released, but {changed}") if changed else (DONE, "released, from the events as they are")
    try:
        key = context.embed_key()
    except MissingInputError:
        key = ""  # its bags are not built, or not as they were when it was embedded
    if key and not context.config.publish.release and store.committed(USER_EMBEDDINGS.name, key, ({"as_of": as_of, "model_id": context.model_id},)):
        return DONE, "committed, from the events as they are; publish.release is false"
    if key and store.staged(USER_EMBEDDINGS.name, key):
        return TO_DO, "embedded, not published"
    return TO_DO, "not released" if row is None else "released by another model"


def _what_changed(context: Context, row: dict, stale: list[str]) -> str | None:
    """Why a release would not be the same if it were made now; None if nothing says so."""
    others = [month for month in stale if until(month, "9999-12-31") <= context.as_of]
    if others:
        return f"{len(others)} months have other events than were counted, first {others[0]}"
    manifest = context.store.read_manifest(USER_EMBEDDINGS.name, row["run_key"])
    if manifest is None or "ingredients" not in manifest.inputs:
        return "nobody kept what it was made of"
    try:
        return what_changed(context, manifest.inputs["ingredients"])
    except MissingInputError:
        return "its months are not counted any more"


def _there(row: dict | None) -> str:
    return "nothing" if row is None else f"release {row['epoch']}, {row['model_id']}"


def _estimate(status: str, seconds: dict[str, float]) -> float | None:
    """Seconds of one more date: the medians of its stages, None where no past run has done any of them."""
    if status != TO_DO:
        return 0.0
    known = [seconds[name] for name in _stages_of_a_date() if name in seconds]
    return round(sum(known), 1) if known else None


def _stages_of_a_date() -> list[str]:
    return [name for name in stages_to_run("pinned") if name not in SHARED]


def missing(planned: Iterable[PlannedDate]) -> list[PlannedDate]:
    return [day for day in planned if day.status in (MISSING, FAILED_DATE)]


# ---- doing it ----------------------------------------------------------------------------------------------------------------------------


def backfill(base: Context, planned: Sequence[PlannedDate], resumed: dict | None = None, wait_seconds: float = 0.0) -> list[PlannedDate]:
    """Fill every date that can be filled, in ascending order; returns how each one ended.

    A date that fails (its audit blocked it, something is missing) is reported, and the next one is tried. The record of the backfill
    names the model of each date and how far it came, so that `--resume` finds it after a kill; each date has a run record of its own.
    Only one run at a time writes to a warehouse: another one may come in between two dates, and each waits so long for it.
    """
    record, models = resumed or new_record(base.store, "backfill", base.config, __version__), {day.as_of: day.model_id for day in planned}
    record |= {"allow_future_model": base.allow_future_model, "dates": [asdict(day) for day in planned]}
    spark = SparkOnDemand(base.config)
    base = replace(base, spark=base.spark or spark)
    with logged_run(record["run_id"]), recorded(base.store, record) as recorder:
        try:
            _share(base, models, record["run_id"], wait_seconds)
            planned = plan(base, models)  # again: what was read of the log since may have made dates stale, or possible
            settled = [_fill(base, day, recorder, wait_seconds) for day in planned]
        finally:
            spark.close()
        holes = missing(settled)
        if holes:
            recorder.write(status=FAILED, error=f"{len(holes)} of {len(settled)} dates are missing, first {holes[0].as_of}: {holes[0].why}")
    return settled


def _share(base: Context, models: dict[str, str | None], run_id: str, wait_seconds: float) -> None:
    """What is the same for all dates: the log is read once, and each model's chain gets the items that it does not know yet."""
    last_date = {model_id: as_of for as_of, model_id in sorted(models.items()) if model_id}
    names = list(SHARED)
    for model_id, as_of in last_date.items():
        context = replace(base, as_of=as_of, model_id=model_id)
        trained = _trained(context)
        if trained is not None and (trained <= as_of or base.allow_future_model):
            run_stages(context, names, "backfill: share", run_id, wait_seconds)
            names = [name for name in SHARED if name != "ingest"]


def _fill(base: Context, day: PlannedDate, recorder: Recorder, wait_seconds: float) -> PlannedDate:
    """Run the stages of one date, unless it is done or cannot be done."""
    if day.status == TO_DO:
        context = replace(base, as_of=day.as_of, model_id=day.model_id)
        log.info("backfill: %s with %s, because it is %s", day.as_of, day.model_id, day.why)
        try:
            day = _run(context, day, recorder.run_id, wait_seconds)
        except LurmError as error:
            day = replace(day, status=FAILED_DATE, why=hide_secrets(str(error)))
            log.warning("backfill: %s failed: %s", day.as_of, error)
    dates = [asdict(day) if old["as_of"] == day.as_of else old for old in recorder.record["dates"]]
    recorder.write(dates=dates)
    return day


def _run(context: Context, day: PlannedDate, run_id: str, wait_seconds: float) -> PlannedDate:
    """Run the stages of one date. What is released already is first counted again, and embedded only if that gives other counts."""
    names, seconds = _stages_of_a_date(), 0.0
    if day.run_key:
        first = names[: names.index("build-bags") + 1]
        seconds = sum(figures["seconds"] for figures in run_stages(context, first, "backfill: date", run_id, wait_seconds).values())
        if replace(context, pins={}).embed_key() == day.run_key:
            return replace(day, status=DONE, why="released; counted again, nothing before the date has changed", seconds=seconds)
        names = names[len(first) :]
    reports = run_stages(context, names, "backfill: date", run_id, wait_seconds)
    what = "released" if reports["publish"].get("released") else "committed"
    seconds += sum(figures["seconds"] for figures in reports.values())
    return replace(day, status=DONE, why=f"{what} now, {reports['publish'].get('users', 0):,} users", seconds=seconds)


# ---- going on with one that was killed ------------------------------------------------------------------------------------------------------


def resume(base: Context, run_id: str, dates: Sequence[str] | None = None) -> tuple[dict, dict[str, str | None]]:
    """The record of an earlier backfill and the model it has for each date.

    Refuses a run that is no backfill or still goes on, and settings or dates other than it was started with.
    """
    record = read_run(base.store, run_id)
    if record.get("command") != "backfill":
        raise ConfigError(f"Expected a backfill to resume, run {run_id} is one of {record.get('command')!r}; `lurm runs` shows which are.")
    if status_of(record, datetime.now(UTC)) == RUNNING:
        raise ConfigError(f"Expected a backfill that has stopped, run {run_id} goes on in process {record['pid']} on {record['host']}; wait for it.")
    planned = {day["as_of"]: day["model_id"] for day in record["dates"]}
    if dates is not None and list(dates) != sorted(planned):
        raise ConfigError(f"Expected the dates of run {run_id} ({min(planned)} to {max(planned)}, {len(planned)} of them), got {len(dates)} from "
                          f"{dates[0]}; leave --from, --to and --every out, or start a new backfill.")
    if record["allow_future_model"] != base.allow_future_model:
        raise ConfigError(f"Expected --allow-future-model as run {run_id} had it ({record['allow_future_model']}), got {base.allow_future_model}; "
                          "say the same, or start a new backfill.")
    was, now = _what_matters(record["settings"]), _what_matters(settings_to_show(base.config))
    for name in sorted({*was, *now}):
        if was.get(name) != now.get(name):
            raise ConfigError(f"Expected the settings of run {run_id}, where {name} was {was.get(name)!r}, got {now.get(name)!r}; use the same, or "
                              "start a new backfill, which finds the dates that are done.")
    return {**record, **_fresh_start(base.store, base.config)}, planned


def _fresh_start(store: Store, config: Config) -> dict:
    """What a resumed record says of the process that goes on with it."""
    now = new_record(store, "backfill", config, __version__)
    return {name: now[name] for name in ("host", "pid", "code_version", "commit", "ended_at", "error", "status")}


def _what_matters(settings: dict) -> dict[str, object]:
    """Settings that the result depends on, by their full names: not where and on how many processes it is computed."""
    flat = {f"{section}.{field}": value for section, fields in settings.items() if isinstance(fields, dict) for field, value in fields.items()}
    flat |= {section: value for section, value in settings.items() if not isinstance(value, dict)}
    results = ("spark.user_buckets", "spark.item_buckets", "spark.rows_per_file")
    return {
        name: value for name, value in flat.items()
        if name.rpartition(".")[2] not in OPERATIONAL and not name.startswith("service.") and (not name.startswith("spark.") or name in results)
    }
