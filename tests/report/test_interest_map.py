"""The layout of the map: neighbours stay neighbours, the same bytes for the same seed, a way out without UMAP."""

import os
import subprocess
import sys

import numpy as np
import pytest
from small_release import N_INTERESTS, SPACE

from lurm.errors import ConfigError
from lurm.report import interest_map
from lurm.report.interest_map import kept_layout, lay_out
from lurm.vectors import neighbour_overlap


@pytest.fixture(scope="module")
def clustered() -> tuple[np.ndarray, np.ndarray]:
    """Centroids (120, 16) of six clusters, and the cluster of each."""
    generator, cluster = np.random.default_rng(2), np.repeat(np.arange(6), 20)
    return (generator.standard_normal((6, 16))[cluster] * 3 + generator.standard_normal((120, 16)) * 0.3).astype(np.float32), cluster


@pytest.mark.parametrize("method", ["pca", pytest.param("umap", marks=pytest.mark.slow)])  # UMAP compiles itself at its first call
def test_clusters_stay_together_and_the_result_repeats(clustered, method):
    centroids, cluster = clustered
    plane = lay_out(centroids, method)
    assert plane.shape == (120, 2) and plane.dtype == np.float32 and np.isfinite(plane).all() and np.abs(plane).max() <= 1.15
    nearest = np.argsort(((plane[:, None] - plane[None]) ** 2).sum(axis=2), axis=1)[:, 1:6]
    together = (cluster[nearest] == cluster[:, None]).mean()
    assert together > (0.95 if method == "umap" else 0.6), "six clusters by chance: 0.16"
    assert lay_out(centroids, method).tobytes() == plane.tobytes()


@pytest.mark.slow
def test_a_map_leaves_the_threads_of_its_process_alone():
    """Else what is trained after a map, in one process, has other bytes than what is trained before. In a process of its own: numba starts
    its threads once."""
    program = ("import numpy as np, torch; from lurm.report.interest_map import lay_out; before = torch.get_num_threads(); "
               "lay_out(np.random.default_rng(0).random((120, 8)), 'umap'); print(before, torch.get_num_threads())")
    told = subprocess.run([sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["1", "1"]


@pytest.mark.slow
def test_umap_keeps_more_neighbours_than_two_directions_can(clustered):
    centroids, _ = clustered
    overlap = {method: neighbour_overlap(centroids, np.pad(lay_out(centroids, method), ((0, 0), (0, 1)), constant_values=1)).mean()
               for method in interest_map.LAYOUTS}
    assert overlap["umap"] > overlap["pca"]


def test_kept_by_the_space_and_few_interests_by_principal_components(small, monkeypatch):
    plane, method = kept_layout(small.store, SPACE)
    assert plane.shape == (N_INTERESTS, 2) and method == "pca", "12 interests are too few for UMAP"
    monkeypatch.setattr(interest_map, "lay_out", lambda *_: pytest.fail("computed a second time"))
    again, _ = kept_layout(small.store, SPACE)
    assert again.tobytes() == plane.tobytes()


def test_without_umap_installed(small, monkeypatch):
    monkeypatch.setattr(interest_map, "FEWEST_FOR_UMAP", 3)
    monkeypatch.setitem(sys.modules, "umap", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert kept_layout(small.store, SPACE)[1] == "pca"


def test_one_interest_and_one_dimension_have_a_place():
    assert np.isfinite(lay_out(np.ones((1, 4)), "pca")).all() and np.isfinite(lay_out(np.arange(5.0)[:, None], "pca")).all()


def test_an_unknown_layout(small):
    with pytest.raises(ConfigError, match="Expected a layout of umap or pca, got 'tsne'"):
        kept_layout(small.store, SPACE, "tsne")
