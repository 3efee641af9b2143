"""What several commands share: how a parser is made, the arguments of a stage, and the context they describe."""

import argparse
from collections.abc import Callable

from lurm.config import load_config
from lurm.errors import ConfigError, InputError
from lurm.logs import FORMATS
from lurm.periods import parse_as_of
from lurm.pipeline import RELEASED


def add_command(commands, name: str, summary: str, function: Callable | None, epilog: str,
                about: str | None = None) -> argparse.ArgumentParser:
    """A parser for `lurm NAME`; `function(options)` is called and returns the exit code (None for 0). A group of commands has no function."""
    parser = commands.add_parser(
        name, help=summary, description=about or f"{summary[0].upper()}{summary[1:]}.", epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--log-format", choices=FORMATS, default=argparse.SUPPRESS,
                        help="lines for people or for machines (default: LURM_LOG_FORMAT, else text)")
    parser.set_defaults(command=function)
    return parser


def add_warehouse(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--warehouse", required=True, metavar="URI", help="folder or object-store URI that holds all tables")
    return parser


def add_release(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Which release of which warehouse is read; see `open_release`."""
    add_warehouse(parser)
    parser.add_argument("--as-of", metavar="DATE", help="the newest release that is not after this date (default: the current release)")
    parser.add_argument("--model", metavar="ID", help="the newest release of this model, also when readers follow another one")
    parser.add_argument("--visible-at", metavar="TIME", help="what readers got at this moment (ISO, UTC), to make a result again")
    parser.add_argument("--epoch", type=int, metavar="N", help="exactly this move of the release pointer (`lurm releases`)")
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
    parser.add_argument("--model", metavar="ID|released", help="use this trained model instead of training at --as-of; released: the model that "
                        "readers follow, or for an earlier date that of the newest release not after it")
    return add_future_model(add_wait(parser))


def add_wait(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS",
                        help="how long to wait for another run in the same warehouse to end (default: not at all)")
    return parser


def add_future_model(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--allow-future-model", action="store_true",
                        help="accept a --model that has seen events at or after the date; the release then says so")
    return parser


def open_release(options: argparse.Namespace):
    """The EmbeddingTable that the arguments of `add_release` name."""
    from lurm import open_table

    if options.epoch is not None and (options.as_of, options.model, options.visible_at) != (None, None, None):
        raise ConfigError("Expected --epoch alone, got --as-of, --model or --visible-at beside it; an epoch says everything.")
    return open_table(options.warehouse, options.as_of, model=options.model, epoch=options.epoch, visible_at=options.visible_at)


def context_of(options: argparse.Namespace):
    """The Context that the arguments of a stage describe."""
    from lurm.lineage import Context
    from lurm.releases import followed_model
    from lurm.store import Store

    config, store, as_of = load_config(options.config, options.overrides), Store(options.warehouse), parse_as_of(options.as_of)
    model_id = followed_model(store, as_of) if options.model == RELEASED else options.model
    return Context(store, config, as_of, model_id, allow_future_model=options.allow_future_model)


def read_ids(path: str) -> list[str]:
    """User ids of a text file, one a line; blank lines and the mark that some editors put first are no part of them."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Expected user ids, one a line, in {path}, could not read it ({error}); check the path.") from None
