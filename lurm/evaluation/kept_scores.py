"""What an evaluation has computed already, as files: features of a method, and scores and figures of a task.

In and out: arrays under a method's name and a key, which names everything that the arrays depend on; so another setting is another file,
and a run that was killed goes on where it stopped. A file is seen whole or not at all. Each keeps the fingerprint of the code that
made it: other code is told, not hidden, and `forget` throws away.
"""

import hashlib
import inspect
import io
import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
from scipy import sparse

from lurm.errors import InputError
from lurm.whole_file import whole_file


class KeptScores:
    """Files below a folder, one a key."""

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, method: str, key: str) -> dict[str, np.ndarray] | None:
        """The arrays, or None where there are none (or what is there is no such file)."""
        path = self._path(method, key)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, zipfile.BadZipFile):
            return None

    def write(self, method: str, key: str, arrays: dict[str, np.ndarray]) -> None:
        path = self._path(method, key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"Could not make the folder {path.parent} ({error.strerror or error}); choose another --directory.") from None
        content = io.BytesIO()
        np.savez(content, **arrays)
        with whole_file(str(path), "--directory") as temporary, open(temporary, "wb") as file:
            file.write(content.getvalue())

    def forget(self, method: str) -> None:
        """Throw away everything of a method."""
        shutil.rmtree(self._path(method, "").parent, ignore_errors=True)

    def _path(self, method: str, key: str) -> Path:
        return self.folder / re.sub(r"[^\w.-]", "_", method) / f"{key}.npz"


def pack_features(features: np.ndarray | sparse.csr_matrix) -> dict[str, np.ndarray]:
    """Features as plain arrays."""
    if sparse.issparse(features):
        return {"data": features.data, "indices": features.indices, "indptr": features.indptr, "shape": np.array(features.shape)}
    return {"dense": features}


def unpack_features(arrays: dict[str, np.ndarray]) -> np.ndarray | sparse.csr_matrix:
    """What `pack_features` packed."""
    if "dense" in arrays:
        return arrays["dense"]
    return sparse.csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=tuple(arrays["shape"]))


def pack_text(value: object) -> np.ndarray:
    """Plain data as an array of one text."""
    return np.array(json.dumps(value, default=lambda one: one.item() if isinstance(one, np.generic) else str(one)))


def unpack_text(array: np.ndarray) -> object:
    return json.loads(str(array))


def code_of(method: object) -> str:
    """8 hexadecimal digits of the module that a method's class stands in."""
    method = getattr(method, "chosen", method)  # of a search, the method that it chose
    try:
        source = inspect.getsource(sys.modules[type(method).__module__])
    except (OSError, TypeError, KeyError):
        return ""
    return hashlib.blake2b(source.encode(), digest_size=4).hexdigest()
