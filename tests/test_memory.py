"""Peak memory: what was held while the stage ran, children included, even if it was given back.

Measured in processes of their own: the tests' own process has a JVM for a child, whose memory goes up and down as it likes.
"""

import subprocess
import sys

from lurm.memory import PeakMemory

BEFORE = """
import subprocess, sys, time
import numpy as np
from lurm.memory import PeakMemory
with PeakMemory() as before:
    time.sleep(0.05)
"""
GIVEN_BACK = """
with PeakMemory() as peak:
    held = np.ones(100 * 2**17)  # 100 MiB
    time.sleep(0.6)
    del held
"""
A_CHILD = """
code = "import time; held = bytearray(60 * 2**20); print('held', flush=True); time.sleep(30)"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
child.stdout.readline()
with PeakMemory() as peak:
    time.sleep(0.1)
child.kill()
child.wait()
"""


def growth(code: str) -> float:
    """Megabytes by which the peak of a piece of code is above what its process had before."""
    program = f"{BEFORE}{code}print(peak.megabytes - before.megabytes)"
    return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60).stdout)


def test_the_peak_is_kept_after_memory_is_given_back():
    assert 70 < growth(GIVEN_BACK) < 200


def test_children_count():
    assert 55 < growth(A_CHILD) < 200


def test_an_error_inside_goes_through():
    try:
        with PeakMemory() as peak:
            raise ValueError("stop")
    except ValueError as error:
        assert str(error) == "stop" and not peak._thread.is_alive()
