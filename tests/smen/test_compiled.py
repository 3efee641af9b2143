"""When the compiled loops are taken: numba, a CPU, float32 and a fitting width; and numba is loaded no earlier than they are."""

import subprocess
import sys

import torch

from lurm.smen import compiled


def test_what_the_loops_can_work_on():
    assert compiled.loops_for(torch.zeros(3, 128)) is compiled.loops_for(torch.zeros(16)) is not None
    assert compiled.loops_for(torch.zeros(3, 20)) is None
    assert compiled.loops_for(torch.zeros(3, 128, dtype=torch.float64)) is None
    assert compiled.loops_for(torch.zeros(3, 128, device="meta")) is None


def test_they_can_be_switched_off_and_come_back():
    with compiled.without_loops():
        assert compiled.loops_for(torch.zeros(128)) is None
        with compiled.without_loops():
            pass
        assert compiled.loops_for(torch.zeros(128)) is None
    assert compiled.loops_for(torch.zeros(128)) is not None


WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None
import torch
from lurm.smen import SMEN, SparseBags
from lurm.smen.compiled import loops_for
with torch.no_grad():
    smen = SMEN(5, 2, 16, ("month",))
    bags = SparseBags.from_dense(torch.tensor([[[1, 0, 2, 0, 0], [0, 0, 0, 3, 0]]]))
    print(loops_for(torch.zeros(16)), tuple(smen(bags, None, smen.anchor_weights(torch.arange(5))).shape))
"""


def answer(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300).stdout.strip()


def test_without_numba_torch_does_it():
    assert answer(WITHOUT_NUMBA) == "None (1, 2, 16)"


def test_numba_waits_until_it_is_needed():
    assert answer("import sys, lurm.smen, lurm.smen.stage, lurm.smen.streams; print('numba' in sys.modules)") == "False"
