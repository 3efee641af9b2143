"""An interest space as it is kept: the centroids, and what is known of them.

`fit-interests` writes it; assigning items and training SMEN read it.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from lurm.errors import StoreError


def save_centroids(directory: Path, centroids: np.ndarray, info: dict) -> None:
    """Write the space: centroids.npy (D, dim) float32 and info.json with its SHA-256."""
    np.save(directory / "centroids.npy", centroids.astype(np.float32), allow_pickle=False)
    digest = hashlib.sha256((directory / "centroids.npy").read_bytes()).hexdigest()
    (directory / "info.json").write_text(json.dumps({"info": info, "file": "centroids.npy", "sha256": digest}, indent=1))


def load_centroids(directory: Path) -> np.ndarray:
    """Centroids of a space, (D, dim) float32; raises StoreError if the file is not the one that was written."""
    info = json.loads((Path(directory) / "info.json").read_text())
    data = Path(directory) / "centroids.npy"
    if hashlib.sha256(data.read_bytes()).hexdigest() != info["sha256"]:
        raise StoreError(f"Expected the centroids that {directory}/info.json describes, found another file; run `lurm fit-interests` again.")
    return np.load(data, allow_pickle=False)
