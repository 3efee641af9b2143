"""A fit that goes on: from wherever it was stopped, to the same bytes; and what is kept is not taken for something else."""

import dataclasses

import numpy as np
import pytest
from planted_directions import planted
from two_processes import run_two

from lurm.kmeans import fit_kmeans
from lurm.lloyd import Standing
from lurm.standing import read_standing, write_standing

EXAMPLE = Standing(3, planted(6, 3, 1, d=8), [0.5, 0.25, 1 / 3], 4, planted(2, 2, 1, d=8), 0.7)


class Stopped(Exception):
    """The fit was killed here."""


@pytest.mark.parametrize(("backend", "n_clusters", "stopped_at"), [
    ("numpy", 40, 0), ("numpy", 40, 1), ("numpy", 40, 2), ("two-level", 500, 1), ("two-level", 500, 2),
])
def test_a_fit_that_was_stopped_goes_on_to_the_same_bytes(tmp_path, monkeypatch, backend, n_clusters, stopped_at):
    monkeypatch.setattr("lurm.two_level.MIN_GAIN", -1.0)  # all iterations
    vectors = planted(6_000, 100, 1)
    fit = dict(seed=3, n_iterations=4, backend=backend, device="cpu")
    whole = fit_kmeans(vectors, n_clusters, **fit)

    def keep(standing: Standing) -> None:
        write_standing(tmp_path, "key", standing)
        if standing.iteration == stopped_at:
            raise Stopped

    with pytest.raises(Stopped):
        fit_kmeans(vectors, n_clusters, **fit, keep=keep)
    seen = []
    begin = read_standing(tmp_path, "key")
    rest = fit_kmeans(vectors, n_clusters, **fit, begin=begin, progress=lambda iteration, objective: seen.append(iteration))
    assert begin.iteration == stopped_at == seen[0]
    assert rest.centroids.tobytes() == whole.centroids.tobytes() and rest.sizes.tolist() == whole.sizes.tolist()
    assert (rest.objective, rest.n_refilled) == (whole.objective, whole.n_refilled)


def same(one: Standing, other: Standing) -> bool:
    return all(np.array_equal(value, getattr(other, field.name)) for field in dataclasses.fields(one) for value in [getattr(one, field.name)])


def test_what_is_kept_is_read_again_under_its_key_only(tmp_path, caplog):
    assert read_standing(tmp_path / "none", "key") is None
    write_standing(tmp_path, "key", EXAMPLE)
    assert same(read_standing(tmp_path, "key"), EXAMPLE)
    assert read_standing(tmp_path, "another") is None
    [data] = tmp_path.glob("tensors-*")
    data.write_bytes(data.read_bytes()[:-1] + b"x")
    assert read_standing(tmp_path, "key") is None and "starts over" in caplog.text


def test_before_the_first_search_nothing_is_known_of_held_out_vectors(tmp_path):
    first = dataclasses.replace(EXAMPLE, iteration=0, objective=[], middles=np.empty((0, 8), np.float32), worth=-np.inf)
    write_standing(tmp_path, "key", first)
    assert same(read_standing(tmp_path, "key"), first)


APART = """
from test_standing import EXAMPLE, same
from lurm.standing import read_standing, write_standing
mine = {folder!r} + "/" + str(dist.get_rank())
nothing = read_standing(mine, "key") is None
write_standing(mine, "key", EXAMPLE)
found = torch.tensor([int(same(read_standing(mine, "key"), EXAMPLE)), int(nothing)])
dist.all_reduce(found)
weights, told = {{"found": found}}, {{}}
"""


@pytest.mark.slow
def test_processes_on_several_machines_go_on_from_what_process_0_has(tmp_path):
    weights, _ = run_two(APART.format(folder=str(tmp_path / "apart")), tmp_path, __file__)
    assert weights["found"].tolist() == [2, 2]
    assert [folder.name for folder in (tmp_path / "apart").iterdir()] == ["0"]
