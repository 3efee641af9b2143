"""How loops over numbers become machine code: at once, by numba, for the processor that runs them, and kept on disk for the next process.

A folder that cannot be written or found is no error (a home that is read-only, a full disk, a package that came as a zip): the code is made
again in every process then, which takes seconds.
"""

import hashlib
import inspect
from collections.abc import Callable
from types import ModuleType

from numba import njit


def compiled(result, *arguments, made_of: tuple[ModuleType, ...]) -> Callable:
    """Compile a loop for these types, or take it from the disk. It is of one thread and holds no lock of Python's.

    `made_of` are the other files whose functions it is made of: numba looks at the loop's own file alone to see whether its code is of today.
    """

    def compile_now(function: Callable) -> Callable:
        signatures, digest = [result(*arguments)], digest_of(*made_of)
        try:
            function.__qualname__ += f"_{digest}"
            return njit(signatures, nogil=True, cache=True)(function)
        except (RuntimeError, OSError):
            return njit(signatures, nogil=True)(function)

    return compile_now


def digest_of(*modules: ModuleType) -> str:
    """Eight characters that change with the sources of these modules."""
    return hashlib.sha256("".join(map(inspect.getsource, modules)).encode()).hexdigest()[:8]
