"""A file of the user's that is whole or not there: written beside its place, then moved into it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lurm.errors import InputError


@contextmanager
def whole_file(path: str, option: str = "--output") -> Iterator[str]:
    """Give the path to write to; afterwards the file stands at `path`, or, if writing failed, what stood there before.

    Raises InputError, naming the option to choose another path with, for what the operating system refuses.
    """
    unfinished = f"{path}.part"
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        raise InputError(f"Could not write {path} ({error.strerror or error}); choose another {option}.") from None
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)
