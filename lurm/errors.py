"""The errors that lurm raises for its users.

Every message is one sentence that says what was expected, what came (with the first offending value), and what to do next.
The command line prints it on stderr and exits with 2; a traceback means a defect of lurm itself.
"""


class LurmError(Exception):
    """A mistake or a fault that the user can mend; the message says how."""


class ConfigError(LurmError):
    """The configuration names something that does not exist or has the wrong type."""


class InputError(LurmError):
    """Events, items or label files cannot be used as they are."""


class MissingInputError(LurmError):
    """A stage was started before the stage that writes what it reads."""


class LineageError(LurmError):
    """Artifacts of two chains (encoder_id -> space_id -> model_id) were about to be mixed."""


class StoreError(LurmError):
    """The warehouse cannot be read or written, or another writer was faster."""


class AuditError(LurmError):
    """A staged table failed the quality gate and was not published."""


class CollapseError(LurmError):
    """Training ended in a degenerate solution whose vectors carry no information."""


class UnknownUserError(LurmError):
    """A reader was asked for users that the table does not hold."""

    def __init__(self, message: str, absent: list[str]):
        super().__init__(message)
        self.absent = absent
