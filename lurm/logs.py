"""The log of a run: lines for people or JSON for machines, each with the id of its run and the stage it comes from.

In: what `logging.getLogger("lurm")` is told, with figures as `extra={"figures": {...}}`. Out: one line on stderr, as text or, with
`--log-format json` or LURM_LOG_FORMAT=json, as one JSON object. What looks like a secret is hidden before it is written.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from lurm.errors import ConfigError

TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)
HIDDEN = "***"

_run: ContextVar[str | None] = ContextVar("run", default=None)
_stage: ContextVar[str | None] = ContextVar("stage", default=None)
_of_process: dict[str, str | None] = {"run": None, "stage": None}  # for threads, which start without the context of their parent
_handler: logging.Handler | None = None

_WORDS = r"secret|passw(?:or)?d|credential|signature|token|(?:access|account|api|private)[._-]?key"
# user:password@ in a URI; a name that ends in such a word, or has it before a dot, and the value after = or :
_SECRETS = (
    re.compile(r"(://)[^/@\s]+(@)"),
    re.compile(rf"(?i)(\b[\w.-]*(?:{_WORDS})(?:[._-][\w.-]*)?[\"']?\s*[=:]\s*)(?:\"[^\"]*\"|'[^']*'|[^\s,;&\"']+)()"),
)
_SECRET_NAME = re.compile(r"(?i)secret|passw(or)?d|credential|signature|token|key")


def hide_secrets(text: str) -> str:
    """The text without what looks like a credential: user:password in a URI, values of names such as secret, token or password."""
    for pattern in _SECRETS:
        text = pattern.sub(rf"\g<1>{HIDDEN}\g<2>", text)
    return text


def is_secret(name: str) -> bool:
    """Whether a free-form name, such as that of a Spark property, may stand for a credential."""
    return _SECRET_NAME.search(name) is not None


@contextmanager
def logged_run(run_id: str) -> Iterator[None]:
    """Every line of this block carries the run's id."""
    with _named(_run, "run", run_id):
        yield


@contextmanager
def logged_stage(name: str) -> Iterator[None]:
    """Every line of this block carries the stage's name."""
    with _named(_stage, "stage", name):
        yield


@contextmanager
def _named(variable: ContextVar, what: str, value: str) -> Iterator[None]:
    token, before = variable.set(value), _of_process[what]
    _of_process[what] = value
    try:
        yield
    finally:
        variable.reset(token)
        _of_process[what] = before


class TextLines(logging.Formatter):
    """12:00:01 <run id> message; without the id where no run is going on."""

    def format(self, record: logging.LogRecord) -> str:
        run = _run.get() or _of_process["run"]
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        return hide_secrets(" ".join(part for part in (at, run, self._told(record)) if part))

    def _told(self, record: logging.LogRecord) -> str:
        trouble = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return record.getMessage() + trouble


class JsonLines(logging.Formatter):
    """One object a line: time (UTC), level, logger, run_id, stage, message, and the figures as fields of their own."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"), "level": record.levelname.lower(),
            "logger": record.name, "run_id": _run.get() or _of_process["run"], "stage": _stage.get() or _of_process["stage"],
            "message": record.getMessage(),
        }
        figures = getattr(record, "figures", None) or {}
        line |= {name: value for name, value in figures.items() if name not in line}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # Secrets go before the text becomes JSON, so that hiding one can never break a line.
        return json.dumps(_without_secrets(line), default=str)


def log_format(chosen: str | None = None) -> str:
    """The format chosen on the command line, else that of LURM_LOG_FORMAT, else text."""
    answer = chosen or os.environ.get("LURM_LOG_FORMAT") or TEXT
    if answer not in FORMATS:
        raise ConfigError(f"Expected LURM_LOG_FORMAT to be text or json, got {answer!r}; set it to one of them.")
    return answer


def configure(chosen: str | None = None, quiet: bool = False) -> None:
    """Send the log to stderr in the chosen format; a process that has set up its logging already keeps its handlers."""
    global _handler
    formatter = JsonLines() if log_format(chosen) == JSON else TextLines()
    root = logging.getLogger()
    if not root.handlers:
        _handler = logging.StreamHandler(sys.stderr)
        root.addHandler(_handler)
        root.setLevel(logging.WARNING)
    if _handler is not None:
        _handler.setFormatter(formatter)
        logging.captureWarnings(isinstance(formatter, JsonLines))  # a machine reads lines of one kind
    logging.getLogger("lurm").setLevel(logging.WARNING if quiet else logging.INFO)


def error_line(sentence: str, chosen: str | None = None) -> str:
    """A sentence for stderr, in the format of the log."""
    if log_format(chosen) == TEXT:
        return f"lurm: {hide_secrets(sentence)}"
    return JsonLines().format(logging.LogRecord("lurm", logging.ERROR, "", 0, sentence, (), None))


def _without_secrets(value):
    if isinstance(value, str):
        return hide_secrets(value)
    if isinstance(value, dict):
        return {name: _without_secrets(item) for name, item in value.items()}
    return [_without_secrets(item) for item in value] if isinstance(value, list | tuple) else value
