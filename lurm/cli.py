"""The command line: parse, load the configuration, call one stage (or all of them).

Exit code 0 on success; 2 with one sentence on stderr for anything the user can mend; a traceback means a defect of lurm.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence

from lurm import __version__
from lurm.config import load_config
from lurm.errors import InputError, LurmError
from lurm.periods import parse_as_of
from lurm.pipeline import BY_NAME, STAGES

EXAMPLES = """examples:
  lurm run --config my.toml --warehouse /data/lurm --as-of 2022-01-01 --set events.path=log/ --set items.path=items.csv
  lurm status --warehouse /data/lurm
  lurm read --warehouse /data/lurm --users u1,u2 --output vectors.parquet
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `lurm`; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("lurm").setLevel(logging.WARNING if getattr(options, "quiet", False) else logging.INFO)
    try:
        return options.command(options) or 0
    except LurmError as error:
        print(f"lurm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lurm: interrupted; run the same command again to go on from the last finished stage.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lurm", description="Full-life-cycle user embeddings: a log of events and a catalogue of titles in, one vector per user and date out.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lurm {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    run = _command(commands, "run", "run every stage that is missing, up to a published table", _run, _example("run"))
    _stage_options(run)
    run.add_argument("--until", choices=list(BY_NAME), metavar="STAGE", help="stop after this stage")

    for stage in STAGES:
        reads, writes = ", ".join(stage.reads), ", ".join(stage.writes)
        about = f"{stage.summary[0].upper()}{stage.summary[1:]}.\n\nreads:  {reads}\nwrites: {writes}"
        _stage_options(_command(commands, stage.name, stage.summary, _one_stage, _example(stage.name), about=about)).set_defaults(stage=stage.name)

    _command(commands, "stages", "print the stages with what each reads and writes", _stages, "example:\n  lurm stages")
    status = _command(commands, "status", "say what is in a warehouse", _status, "example:\n  lurm status --warehouse demo/warehouse")
    status.add_argument("--warehouse", required=True, metavar="URI", help="folder or object-store URI")

    read = _command(
        commands, "read", "write released embeddings to a Parquet file", _read,
        "example:\n  lurm read --warehouse demo/warehouse --users u1,u2 --output vectors.parquet",
    )
    read.add_argument("--warehouse", required=True, metavar="URI", help="folder or object-store URI")
    read.add_argument("--as-of", metavar="DATE", help="the newest release that is not after this date (default: the current release)")
    who = read.add_mutually_exclusive_group()
    who.add_argument("--users", metavar="A,B,C", help="user ids, separated by commas (default: all users)")
    who.add_argument("--users-file", metavar="FILE", help="user ids, one a line")
    read.add_argument("--output", required=True, metavar="FILE", help="Parquet file: user_id, embedding (list of float32)")

    history = _command(commands, "releases", "show every move of the release pointer", _releases,
                       "example:\n  lurm releases --warehouse demo/warehouse")
    history.add_argument("--warehouse", required=True, metavar="URI", help="folder or object-store URI")
    back = _command(commands, "rollback", "make readers follow an earlier release again; takes seconds, touches no data", _rollback,
                    "example:\n  lurm rollback --warehouse demo/warehouse --reason 'drift in anchor 3'")
    back.add_argument("--warehouse", required=True, metavar="URI", help="folder or object-store URI")
    back.add_argument("--to", type=int, metavar="EPOCH", help="epoch of `lurm releases` (default: the release before the present one)")
    back.add_argument("--reason", default="rollback", help="kept with the move")

    demo = _command(commands, "demo", "make a synthetic world, run every stage on it and say how well the truth was recovered", _demo,
                    "example:\n  lurm demo --directory demo")
    demo.add_argument("--directory", default="demo", metavar="DIR", help="where world and warehouse go (default: demo)")
    demo.add_argument("--config", default="demo", metavar="FILE", help="settings (default: the bundled demo)")
    demo.add_argument("--set", action="extend", nargs="+", default=[], metavar="S.F=V", dest="overrides", help="override a setting")
    demo.add_argument("--quiet", action="store_true", help="only warnings and the result")
    return parser


def _command(commands, name: str, summary: str, function, epilog: str, about: str | None = None) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=summary, description=about or f"{summary[0].upper()}{summary[1:]}.", epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=function)
    return parser


def _stage_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--config", metavar="FILE",
                        help="TOML file, or the name of a bundled one (demo, amazon_purchases, ...); default: all defaults")
    parser.add_argument("--warehouse", required=True, metavar="URI", help="folder or object-store URI that holds all tables")
    parser.add_argument("--as-of", required=True, metavar="YYYY-MM-DD", help="events before this date (UTC, exclusive) may be used")
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="SECTION.FIELD=VALUE", dest="overrides",
                        help="override a setting; may be given many times, for example --set events.path=log/")
    parser.add_argument("--model", metavar="ID", help="use this trained model instead of training at --as-of")
    parser.add_argument("--quiet", action="store_true", help="only warnings and the result")
    return parser


def _example(name: str) -> str:
    return f"example:\n  lurm {name} --config my.toml --warehouse /data/lurm --as-of 2022-01-01"


def _context(options):
    from lurm.lineage import Context
    from lurm.store import Store

    config = load_config(options.config, options.overrides)
    return Context(Store(options.warehouse), config, parse_as_of(options.as_of), options.model)


def _run(options) -> int:
    from lurm.runner import run_stages, stages_to_run

    context, names = _context(options), stages_to_run(options.model)
    if options.until:
        order = list(BY_NAME)
        names = [name for name in names if order.index(name) <= order.index(options.until)]
    reports = run_stages(context, names)
    _print_stages(reports)
    if reports.get("publish", {}).get("released"):
        from lurm import open_table

        print(open_table(context.store.uri, context.as_of))
    return 0


def _one_stage(options) -> int:
    from lurm.runner import run_stages

    reports = run_stages(_context(options), [options.stage])
    print(json.dumps(reports[options.stage], default=str))
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


def _stages(options) -> int:
    for stage in STAGES:
        print(f"{stage.name:<20} {stage.engine:<7} {'+'.join(stage.schedule)}\n    {stage.summary}")
        print(f"    reads {', '.join(stage.reads)}; writes {', '.join(stage.writes)}")
    return 0


def _status(options) -> int:
    from lurm.releases import releases
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
    _print_releases(releases(store))
    return 0


def _releases(options) -> int:
    from lurm.releases import releases
    from lurm.store import Store

    _print_releases(releases(Store(options.warehouse)))
    return 0


def _rollback(options) -> int:
    from lurm.releases import rollback
    from lurm.store import Store

    _print_releases([rollback(Store(options.warehouse), options.to, options.reason)])
    return 0


def _print_releases(moves: list[dict]) -> None:
    for row in moves:
        mark = "current" if row["current"] else "history"
        print(f"release {row['epoch']:<10}{row['as_of']}  {row['model_id']}  {row['n_users']:,} users  table version {row['table_version']}  "
              f"{mark}  {row['released_at']:%Y-%m-%d %H:%M}  {row['reason']}")


def _read(options) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from lurm import open_table

    table = open_table(options.warehouse, options.as_of)
    users = _users(options)
    schema = pa.schema([("user_id", pa.string()), ("embedding", pa.list_(pa.float32()))])
    n_rows = 0
    temporary = f"{options.output}.part"
    try:
        with pq.ParquetWriter(temporary, schema, compression="none") as writer:
            if users is None:
                for batch in table.scan(["user_id", "embedding"]):
                    writer.write_batch(batch.cast(schema))
                    n_rows += batch.num_rows
            else:
                vectors = table.vectors(users)
                offsets = pa.array(range(0, vectors.size + 1, vectors.shape[1]), pa.int32())
                embedding = pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)))
                writer.write_table(pa.table([pa.array(users, pa.string()), embedding], schema=schema))
                n_rows = len(users)
        os.replace(temporary, options.output)
    except OSError as error:
        raise InputError(f"Could not write {options.output} ({error.strerror or error}); choose another --output.") from None
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
    print(f"{n_rows} users of {table.as_of}, {table.n_anchors} x {table.dim}, model {table.model_id}: {options.output}")
    return 0


def _users(options) -> list[str] | None:
    if options.users is not None:
        return [user.strip() for user in options.users.split(",") if user.strip()]
    if options.users_file is None:
        return None
    try:
        with open(options.users_file, encoding="utf-8") as file:
            return [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Expected user ids, one a line, in {options.users_file}, could not read it ({error}); check the path.") from None


def _demo(options) -> int:
    from lurm.evaluation.demo import run_demo

    run_demo(options.directory, options.config, options.overrides)
    return 0


if __name__ == "__main__":
    sys.exit(main())
