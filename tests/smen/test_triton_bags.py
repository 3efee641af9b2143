"""The kernel for GPUs in Triton's interpreter against torch's own sums; in a process of its own, because Triton asks for it when it is imported."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMPARISON = """
import torch
from test_frozen_bags import model, random_bags

from lurm.smen.frozen_bags import sums_of_torch
from lurm.smen.model import _bag_embeddings
from lurm.smen.triton_bags import bags, trained_bags

places = torch.randperm(30, generator=torch.Generator().manual_seed(0))
for n_anchors, dim in ((1, 16), (9, 128), (10, 48), (21, 200)):
    cells, (weights, vectors) = random_bags(30, 60), model(60, n_anchors, dim)
    found, expected = bags(weights, vectors, *cells, places), sums_of_torch(weights, vectors, *cells, places)
    off = float((found - expected).abs().max())
    print(n_anchors, dim, found.shape == expected.shape, off < 1e-5, float(found.max()) > 1, float(found.min()) == 0)
    outcomes = []
    for which in (trained_bags, _bag_embeddings):
        sides = [side.clone().requires_grad_(True) for side in (weights, vectors)]
        which(*sides, *cells, places).backward(torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)))
        outcomes.append([side.grad for side in sides])
    off = [float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in zip(*outcomes, strict=True)]
    print(all(float(theirs.abs().max()) > 0.1 for theirs in outcomes[1]), max(off) < 1e-5)
nothing = torch.zeros(0, dtype=torch.int64)
print(tuple(bags(weights, vectors, nothing, nothing.float(), torch.zeros(1, dtype=torch.int64), nothing).shape))
cells = torch.tensor([3]), torch.tensor([float("nan")]), torch.tensor([0, 1])
print(bool(bags(weights, vectors, *cells, torch.tensor([0])).isnan().all()))
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_gives_what_torch_gives():
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    answer = subprocess.run([sys.executable, "-c", COMPARISON], env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert answer.returncode == 0, answer.stderr
    *compared, empty, not_a_number = answer.stdout.splitlines()
    assert compared[::2] == [f"{n_anchors} {dim} True True True True" for n_anchors, dim in ((1, 16), (9, 128), (10, 48), (21, 200))]
    assert compared[1::2] == ["True True"] * 4, "gradients of the weights and of We"
    assert empty == "(0, 21, 200)" and not_a_number == "True"
