"""`lurm backfill`: many dates, planned first."""

from lurm.commands.arguments import add_command, add_future_model, add_settings, add_warehouse
from lurm.config import load_config
from lurm.errors import ConfigError
from lurm.periods import parse_as_of
from lurm.pipeline import RELEASED

ABOUT = """Fill a range of dates: print a plan, then run the daily stages for every date that is not done, oldest first.

A date is done when its last release was made by the model the plan has for it from the events as they are now; so the same command again
goes on where it was stopped, and does again what late events have changed. Dates that cannot be filled (no event before them, no model, a
model that has seen later events) are reported in the plan and at the end. What readers of the current release get does not move back.

exit code: 0 when every date is released, 1 when any is missing (with --dry-run: when any cannot be filled), 2 for a mistake"""
EXAMPLE = """example:
  lurm backfill --config my.toml --warehouse /data/lurm --from 2021-01-01 --to 2021-12-01 --every month --dry-run
  lurm backfill --config my.toml --warehouse /data/lurm --from 2021-01-01 --to 2021-12-01 --every month --model model-0123456789abcdef
  lurm backfill --config my.toml --warehouse /data/lurm --resume 20220105T031500123-0a1b2c"""


def add(commands) -> None:
    parser = add_command(commands, "backfill", "fill a range of dates, planned first", _backfill, EXAMPLE, about=ABOUT)
    add_settings(add_warehouse(parser))
    parser.add_argument("--from", dest="first", metavar="YYYY-MM-DD", help="the first date")
    parser.add_argument("--to", dest="last", metavar="YYYY-MM-DD", help="the last date, included if a step meets it")
    parser.add_argument("--every", choices=("day", "week", "month"), help="the step from one date to the next (default: day); months keep the day "
                        "of --from, or take the last day of a shorter month")
    parser.add_argument("--model", metavar="ID|released", help="one model for all dates, or released (the default): for each date the model that "
                        "readers follow, or for an earlier date that of the newest release not after it")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    parser.add_argument("--resume", metavar="RUN", help="go on with an earlier backfill: its dates, and its model for each of them")
    parser.add_argument("--wait", type=float, default=3_600.0, metavar="SECONDS",
                        help="how long each date waits for another run in the same warehouse to end (default: 3600)")
    add_future_model(parser)


def _backfill(options) -> int:
    from lurm import backfill
    from lurm.lineage import Context
    from lurm.store import Store

    dates = _dates(options, backfill.dates_between)
    base = Context(Store(options.warehouse), load_config(options.config, options.overrides), "", allow_future_model=options.allow_future_model)
    if options.resume:
        record, models = backfill.resume(base, options.resume, dates)
    else:
        record, models = None, backfill.models_for(base.store, dates, options.model or RELEASED)
    planned = backfill.plan(base, models)
    _print_plan(planned)
    if not options.dry_run:
        planned = backfill.backfill(base, planned, record, options.wait)
        _print_summary(planned)
    return 1 if backfill.missing(planned) else 0


def _dates(options, dates_between) -> list[str] | None:
    if options.resume:
        if options.model is not None:
            raise ConfigError("Expected --resume without --model, because the run has a model for each of its dates; leave --model out.")
        if options.first is None and options.last is None and options.every is None:
            return None
    if options.first is None or options.last is None:
        raise ConfigError("Expected --from and --to, got only one of them or none; write for example --from 2021-01-01 --to 2021-12-01.")
    return dates_between(parse_as_of(options.first), parse_as_of(options.last), options.every or "day")


def _print_plan(planned) -> None:
    print(f"{'date':<12}{'plan':<9}{'seconds':>8}  {'model':<24}{'trained':<12}{'there':<38}why")
    for day in planned:
        seconds = "?" if day.seconds is None else f"{day.seconds:,.0f}"
        print(f"{day.as_of:<12}{day.status:<9}{seconds:>8}  {day.model_id or '-':<24}{day.trained_as_of or '-':<12}{day.there:<38}{day.why}")
    known = [day.seconds for day in planned if day.seconds is not None]
    unknown = " (no past run to estimate from)" if len(known) < len(planned) else ""
    print(f"{_counts(planned)}; estimated {sum(known):,.0f} s{unknown}\n")


def _print_summary(settled) -> None:
    print(f"\n{'date':<12}{'result':<9}{'seconds':>8}  {'model':<24}why")
    for day in settled:
        print(f"{day.as_of:<12}{day.status:<9}{day.seconds or 0:>8,.0f}  {day.model_id or '-':<24}{day.why}")
    print(_counts(settled))


def _counts(days) -> str:
    kinds = sorted({day.status for day in days})
    return f"{len(days)} dates: " + ", ".join(f"{sum(day.status == kind for day in days)} {kind}" for kind in kinds)
