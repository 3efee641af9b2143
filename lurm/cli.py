"""The command line: parse, and call one command of `lurm.commands`.

Exit code 0 on success; 2 with one sentence on stderr for anything the user can mend; a traceback means a defect of lurm.
"""

import argparse
import atexit
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from lurm import __version__, logs
from lurm.commands import (
    backfilling,
    checking,
    comparing,
    demo,
    erasing,
    evaluating,
    exporting,
    inspecting,
    reading,
    recording,
    releasing,
    reporting,
    running,
    searching,
)
from lurm.errors import LurmError

EXAMPLES = """examples:
  lurm run --config my.toml --warehouse /data/lurm --as-of 2022-01-01 --set events.path=log/ --set items.path=items.csv
  lurm status --warehouse /data/lurm
  lurm read --warehouse /data/lurm --users u1,u2 --output vectors.parquet
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `lurm`; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    chosen = getattr(options, "log_format", None)
    try:
        logs.configure(chosen, getattr(options, "quiet", False))
        return options.command(options) or 0
    except LurmError as error:
        print(logs.error_line(str(error), chosen), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        sentence = "interrupted; run the same command again to go on from the last finished stage."
        print(logs.error_line(sentence, chosen), file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def run_and_leave(arguments: Sequence[str] | None = None) -> NoReturn:
    """`main` as a process of its own: Python's own clean-up, and then out.

    Native threads (Arrow's, Delta's) now and then abort an interpreter that takes itself apart, after all is done and written: a run that
    had succeeded then ended with SIGABRT, and a scheduler would have tried it again.
    """
    code = main(arguments)
    atexit._run_exitfuncs()  # what libraries want done: sessions stopped, logs flushed
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lurm", description="Full-life-cycle user embeddings: a log of events and a catalogue of titles in, one vector per user and date out.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lurm {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    looking = (inspecting, recording, checking, reading, searching, exporting, reporting)
    for subject in (running, backfilling, *looking, releasing, comparing, evaluating, erasing, demo):
        subject.add(commands)
    return parser


if __name__ == "__main__":
    run_and_leave()
