"""Where a fit of k-means stands between two iterations, kept so that a fit that was killed goes on to the same bytes.

In and out: the centroids that the next search looks for, and what has been found so far. It is written by process 0 into a folder of the
format of lurm/training.py, replaced in one step, and read by process 0 for all.
"""

import logging
from pathlib import Path

import numpy as np

from lurm.dealt_blocks import of_the_first, processes
from lurm.errors import MissingInputError, StoreError
from lurm.lloyd import Standing

log = logging.getLogger("lurm")


def write_standing(directory: Path, key: str, standing: Standing) -> None:
    """Keep where a fit stands; `key` names its recipe and its vectors."""
    if processes()[0]:
        return
    import torch

    from lurm.training import save_tensors

    arrays = {"centroids": standing.centroids, "middles": standing.middles, "objective": np.array(standing.objective, np.float64)}
    info = {"key": key, "iteration": standing.iteration, "n_refilled": standing.n_refilled, "worth": standing.worth,
            "settled": standing.settled}
    save_tensors(directory, {name: torch.from_numpy(array) for name, array in arrays.items()}, info)


def read_standing(directory: Path, key: str) -> Standing | None:
    """What `write_standing` kept under the same key; None where there is nothing, or something else."""
    found = _read(directory, key) if processes()[0] == 0 else None
    if processes()[1] == 1:
        return found
    if not int(of_the_first(np.array(found is not None))):
        return None
    numbers = np.array([found.iteration, found.n_refilled, found.worth, found.settled] if found else [], np.float64)
    arrays = (numbers, np.array(found.objective), found.centroids, found.middles) if found else (numbers,)
    (iteration, n_refilled, worth, settled), objective, centroids, middles = of_the_first(arrays)
    return Standing(int(iteration), centroids, objective.tolist(), int(n_refilled), middles, float(worth), bool(settled))


def _read(directory: Path, key: str) -> Standing | None:
    from lurm.training import load_tensors

    try:
        tensors, info = load_tensors(directory)
    except MissingInputError:
        return None
    except StoreError as error:
        log.warning("What was kept of the fit is damaged, so it starts over. %s", error)
        return None
    if info.get("key") != key:
        log.info("What was kept in %s belongs to other settings or data; the fit starts over.", directory)
        return None
    log.info("The fit goes on with iteration %d.", info["iteration"])
    return Standing(info["iteration"], tensors["centroids"].numpy(), tensors["objective"].tolist(), info["n_refilled"], tensors["middles"].numpy(),
                    info["worth"], info["settled"])
