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


@pytest.fixture(scope="module")
def by_umap(clustered, tmp_path_factory) -> tuple[np.ndarray, list[str]]:
    """Two layouts of the clusters (2, 120, 2), and torch's threads before and after. In a process of its own, where UMAP compiles itself once and
    numba starts its threads once."""
    file = tmp_path_factory.mktemp("umap") / "planes.npy"
    np.save(file, clustered[0])
    program = ("import sys, numpy as np, torch; from lurm.report.interest_map import lay_out; before = torch.get_num_threads(); "
               "c = np.load(sys.argv[1]); np.save(sys.argv[1], [lay_out(c, 'umap'), lay_out(c, 'umap')]); print(before, torch.get_num_threads())")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run([sys.executable, "-c", program, file], env=environment, capture_output=True, text=True, check=True)
    return np.load(file), told.stdout.split()


def held_together(plane: np.ndarray, cluster: np.ndarray) -> float:
    """The share of the five nearest of each that are of its cluster; six clusters by chance: 0.16."""
    assert plane.shape == (120, 2) and plane.dtype == np.float32 and np.isfinite(plane).all() and np.abs(plane).max() <= 1.15
    nearest = np.argsort(((plane[:, None] - plane[None]) ** 2).sum(axis=2), axis=1)[:, 1:6]
    return float((cluster[nearest] == cluster[:, None]).mean())


def test_clusters_stay_together_and_the_result_repeats(clustered):
    centroids, cluster = clustered
    plane = lay_out(centroids, "pca")
    assert held_together(plane, cluster) > 0.6
    assert lay_out(centroids, "pca").tobytes() == plane.tobytes()


@pytest.mark.slow
def test_by_umap_too(clustered, by_umap):
    (plane, again), _ = by_umap
    assert held_together(plane, clustered[1]) > 0.95
    assert again.tobytes() == plane.tobytes()


@pytest.mark.slow
def test_a_map_leaves_the_threads_of_its_process_alone(by_umap):
    """Else what is trained after a map, in one process, has other bytes than what is trained before."""
    assert by_umap[1] == ["1", "1"]


@pytest.mark.slow
def test_umap_keeps_more_neighbours_than_two_directions_can(clustered, by_umap):
    planes = {"umap": by_umap[0][0], "pca": lay_out(clustered[0], "pca")}
    overlap = {method: neighbour_overlap(clustered[0], np.pad(plane, ((0, 0), (0, 1)), constant_values=1)).mean() for method, plane in planes.items()}
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
