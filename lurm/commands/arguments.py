"""What several commands share: how a parser is made, the arguments of a stage, and the context they describe."""

import argparse
from collections.abc import Callable

from lurm.config import load_config
from lurm.periods import parse_as_of


def add_command(commands, name: str, summary: str, function: Callable, epilog: str, about: str | None = None) -> argparse.ArgumentParser:
    """A parser for `lurm NAME`; `function(options)` is called and returns the exit code (None for 0)."""
    parser = commands.add_parser(
        name, help=summary, description=about or f"{summary[0].upper()}{summary[1:]}.", epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=function)
    return parser


def add_warehouse(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--warehouse", required=True, metavar="URI", help="folder or object-store URI that holds all tables")
    return parser


def add_settings(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--config", metavar="FILE",
                        help="TOML file, or the name of a bundled one (demo, amazon_purchases, ...); default: all defaults")
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="SECTION.FIELD=VALUE", dest="overrides",
                        help="override a setting; may be given many times, for example --set events.path=log/")
    parser.add_argument("--quiet", action="store_true", help="only warnings and the result")
    return parser


def add_stage_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """What one call of a stage needs: settings, warehouse, date, and the model if it is pinned."""
    add_settings(add_warehouse(parser))
    parser.add_argument("--as-of", required=True, metavar="YYYY-MM-DD", help="events before this date (UTC, exclusive) may be used")
    parser.add_argument("--model", metavar="ID", help="use this trained model instead of training at --as-of")
    return parser


def context_of(options: argparse.Namespace):
    """The Context that the arguments of a stage describe."""
    from lurm.lineage import Context
    from lurm.store import Store

    config = load_config(options.config, options.overrides)
    return Context(Store(options.warehouse), config, parse_as_of(options.as_of), options.model)
