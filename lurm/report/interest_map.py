"""The map of interests: centroids laid out in the plane, near each other if they are alike.

In: centroids (D, dim). Out: (D, 2) float32 in [-1, 1], the same for the same centroids and seed. UMAP (McInnes, Healy and Melville, 2018)
where the umap package is installed, principal components as the fast way out. Laying out 10^5 interests takes minutes, so the result is
kept in the warehouse by the interest space.
"""

import logging
import warnings

import numpy as np
import pyarrow as pa

from lurm.errors import ConfigError
from lurm.interest_space import load_centroids
from lurm.report.kept_tables import kept_table
from lurm.store import Store

log = logging.getLogger("lurm")
UMAP, PCA = "umap", "pca"
LAYOUTS = (UMAP, PCA)
N_NEIGHBOURS, SEED = 15, 17
VERSION = 1  # of the settings below; a map that others made is not shown as ours
FEWEST_FOR_UMAP = 3 * N_NEIGHBOURS  # below, everything is everything's neighbour
FEW = 5_000


def kept_layout(store: Store, space_id: str, method: str = UMAP) -> tuple[np.ndarray, str]:
    """Where the interests of a space lie, (D, 2) float32, and the method that laid them out.

    Without the umap package the method is PCA, and so it is for a handful of interests. Raises ConfigError for an unknown method.
    """
    if method not in LAYOUTS:
        raise ConfigError(f"Expected a layout of {' or '.join(LAYOUTS)}, got {method!r}; choose one of them.")
    centroids = load_centroids(store.get_artifact("spaces", space_id))
    if method == UMAP and (len(centroids) < FEWEST_FOR_UMAP or not _has_umap()):
        log.info("the map is laid out by principal components: %s", f"{len(centroids)} interests" if _has_umap() else "umap-learn is not installed")
        method = PCA

    def compute() -> pa.Table:
        return pa.table(dict(zip(("x", "y"), lay_out(centroids, method).T.copy())))

    table = kept_table(store, "interest_maps", f"{method}-{VERSION}-{space_id}", compute)
    return np.column_stack([table.column(name).to_numpy() for name in ("x", "y")]), method


def lay_out(centroids: np.ndarray, method: str, seed: int = SEED) -> np.ndarray:
    """(D, 2) float32 with all but outliers in [-1, 1], centred; the same bytes for the same arguments on one machine."""
    centroids = np.asarray(centroids, np.float32)
    plane = _umap(centroids, seed) if method == UMAP else _principal_components(centroids)
    return _scaled(plane)


def _umap(centroids: np.ndarray, seed: int) -> np.ndarray:
    log.info("laying out %s interests by UMAP; this is done once for an interest space", f"{len(centroids):,}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that a seed costs the use of several cores
        import numba

        numba.config.THREADING_LAYER = "workqueue"  # numba's OpenMP layer sets the threads of the whole process, and with them torch's sums
        import umap

        room = 0.5 if len(centroids) <= FEW else 0.15  # few points may stand apart, many have to stand close
        settings = {"n_neighbors": N_NEIGHBOURS, "min_dist": room, "metric": "cosine", "init": "pca", "random_state": seed, "n_jobs": 1}
        return umap.UMAP(**settings).fit_transform(centroids)


def _principal_components(centroids: np.ndarray) -> np.ndarray:
    centred = centroids.astype(np.float64) - centroids.mean(axis=0, dtype=np.float64)
    _, directions = np.linalg.eigh(centred.T @ centred)
    best = directions[:, ::-1][:, :2]
    best = best * np.sign(best[np.abs(best).argmax(axis=0), range(best.shape[1])])  # a direction has two signs: take one of them for ever
    plane = centred @ best
    return np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))


def _scaled(plane: np.ndarray) -> np.ndarray:
    low, high = np.quantile(plane, 0.005, axis=0), np.quantile(plane, 0.995, axis=0)
    half = np.maximum((high - low).max() / 2, 1e-12)
    return np.clip((plane - (low + high) / 2) / half, -1.15, 1.15).astype(np.float32)


def _has_umap() -> bool:
    from importlib.util import find_spec

    return find_spec("umap") is not None
