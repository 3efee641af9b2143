"""Blocks dealt to processes: everything comes back in order, and k-means has the bytes of one process."""

import numpy as np
import pytest
from planted_directions import planted
from two_processes import run_two

from lurm import rough_products
from lurm.cells import reach_for
from lurm.dealt_blocks import DealtPool, of_the_first, processes
from lurm.kmeans import fit_kmeans

FITS = {"numpy": 40, "torch": 40, "faiss": 40, "two-level": 600}

DEALT = """
import numpy as np
from planted_directions import planted
from lurm import rough_products
from lurm.cells import reach_for
from lurm.dealt_blocks import DealtPool, of_the_first, processes
from lurm.kmeans import fit_kmeans
asked = []
def one(task):
    asked.append(task)
    return np.full((task, 2), task, np.float32), np.array(task, np.int16)
pool = DealtPool()
rank = dist.get_rank()
many, few, nothing = pool.map(one, range(7)), pool.map(one, [5]), pool.map(one, [])
alone = list(pool.map(lambda task: np.arange(task), [3, 1]))
told = {
    "processes": processes(), "asked": list(asked), "rows": [len(rows) for rows, _ in many], "numbers": [int(number) for _, number in many],
    "dtypes": [str(part.dtype) for part in many[0]], "few": [int(number) for _, number in few], "nothing": list(nothing),
    "alone": [part.tolist() for part in alone],
    "first": of_the_first(np.array(float(rank))).item(), "firsts": [part.tolist() for part in of_the_first((np.arange(rank + 2), np.zeros(0)))],
    "cores": rough_products.usable_cores(),
}
vectors = planted(40_000, 300, 1)
weights = {}
for backend, n_clusters in FITS.items():
    fit = fit_kmeans(vectors, n_clusters, seed=3, n_iterations=3, backend=backend, device="cpu")
    weights[backend] = torch.from_numpy(fit.centroids)
    told[backend] = [fit.objective, fit.n_refilled, fit.sizes.tolist()]
told["reach"] = reach_for(vectors[:500], fit.centroids)
"""


@pytest.mark.slow
def test_two_processes_have_the_bytes_of_one(tmp_path):
    weights, told = run_two(f"FITS = {FITS!r}\n" + DEALT, tmp_path, __file__)
    assert told["processes"] == [0, 2]
    assert told["asked"] == [0, 2, 4, 6, 5], "process 0 is dealt every other task"
    assert told["rows"] == told["numbers"] == list(range(7)) and told["dtypes"] == ["float32", "int16"]
    assert told["few"] == [5] and told["nothing"] == [] and told["alone"] == [[0, 1, 2], [0]]
    assert told["first"] == 0.0 and told["firsts"] == [[0, 1], []]
    vectors = planted(40_000, 300, 1)  # three tiles of faiss, forty of the others
    assert told["reach"] == list(reach_for(vectors[:500], weights["two-level"].numpy()))
    for backend, n_clusters in FITS.items():
        alone = fit_kmeans(vectors, n_clusters, seed=3, n_iterations=3, backend=backend, device="cpu")
        assert weights[backend].numpy().tobytes() == alone.centroids.tobytes(), backend
        assert told[backend] == [alone.objective, alone.n_refilled, alone.sizes.tolist()], backend


def test_alone_nothing_is_sent():
    assert processes() == (0, 1)
    given = np.arange(3)
    assert of_the_first(given) is given
    assert list(DealtPool().map(lambda task: task + 1, given)) == [1, 2, 3]


def test_processes_of_one_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr(rough_products.os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    assert rough_products.usable_cores() == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert rough_products.usable_cores() == 1
