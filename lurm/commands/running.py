"""`lurm run`, one command a stage, and `lurm stages`."""

import json
from dataclasses import replace

from lurm.commands.arguments import add_command, add_stage_arguments, context_of
from lurm.errors import ConfigError
from lurm.pipeline import BY_NAME, STAGES


def add(commands) -> None:
    run = add_command(commands, "run", "run every stage that is missing, up to a published table", _run, _example("run"))
    add_stage_arguments(run)
    run.add_argument("--until", choices=list(BY_NAME), metavar="STAGE", help="stop after this stage")
    for stage in STAGES:
        reads, writes = ", ".join(stage.reads), ", ".join(stage.writes)
        about = f"{stage.summary[0].upper()}{stage.summary[1:]}.\n\nreads:  {reads}\nwrites: {writes}"
        parser = add_command(commands, stage.name, stage.summary, _one_stage, _example(stage.name), about=about)
        add_stage_arguments(parser).set_defaults(stage=stage.name)
        if stage.name == "publish":
            parser.add_argument("--force", action="store_true", help="publish although limits of the quality gate are passed; never a damaged table")
            parser.add_argument("--reason", metavar="TEXT", help="why it is forced: kept with the release, the commit and the report")
    add_command(commands, "stages", "print the stages with what each reads and writes", _stages, "example:\n  lurm stages")


def _example(name: str) -> str:
    return f"example:\n  lurm {name} --config my.toml --warehouse /data/lurm --as-of 2022-01-01"


def _run(options) -> int:
    from lurm.runner import run_stages, stages_to_run

    context, names = context_of(options), stages_to_run(options.model)
    if options.until:
        order = list(BY_NAME)
        names = [name for name in names if order.index(name) <= order.index(options.until)]
    reports = run_stages(context, names, wait_seconds=options.wait)
    _print_stages(reports)
    if reports.get("publish", {}).get("released"):
        from lurm import open_table

        print(open_table(context.store.uri, context.as_of))
    return 0


def _one_stage(options) -> int:
    from lurm.runner import run_stages

    context = replace(context_of(options), force_reason=_force_reason(options))
    reports = run_stages(context, [options.stage], options.stage, wait_seconds=options.wait)
    print(json.dumps(reports[options.stage], default=str))
    return 0


def _force_reason(options) -> str | None:
    forced, reason = getattr(options, "force", False), getattr(options, "reason", None)
    if not forced and reason is None:
        return None
    if not (forced and reason and reason.strip()):
        raise ConfigError(f"Expected --force together with --reason TEXT, got {'no reason' if forced else 'a reason alone'}; write for example "
                          "--force --reason 'a shop was closed, half of its users are gone'.")
    return " ".join(reason.split())


def _stages(options) -> int:
    for stage in STAGES:
        print(f"{stage.name:<20} {stage.engine:<7} {'+'.join(stage.schedule)}\n    {stage.summary}")
        print(f"    reads {', '.join(stage.reads)}; writes {', '.join(stage.writes)}")
    return 0


def _print_stages(reports: dict[str, dict]) -> None:
    print(f"{'stage':<20}{'seconds':>9}{'peak MB':>9}  result")
    for name, report in reports.items():
        figures = {key: value for key, value in report.items() if key not in ("seconds", "peak_mb", "health")}
        parts = [part for key, value in figures.items() for part in ([f"{key} {_short(value)}"] if value not in ({}, []) else [])]
        print(f"{name:<20}{report['seconds']:>9.1f}{report['peak_mb']:>9}  " + ", ".join(parts))


def _short(value) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_short(item)}" for key, item in value.items() if item not in ({}, [], 0)) + ")"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
