"""Peak memory: what was held while the stage ran, children included, even if it was given back."""

import subprocess
import sys
import time

import numpy as np

from lurm.memory import PeakMemory

CHILD = "import time; held = bytearray(60 * 2**20); print('held', flush=True); time.sleep(30)"


def test_the_peak_is_kept_after_memory_is_given_back():
    with PeakMemory() as before:
        time.sleep(0.05)
    with PeakMemory() as peak:
        held = np.ones(100 * 2**17)  # 100 MiB
        time.sleep(0.6)
        del held
    assert peak.megabytes > before.megabytes + 70


def test_children_count():
    with PeakMemory() as before:
        time.sleep(0.05)
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        with PeakMemory() as peak:
            time.sleep(0.1)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert peak.megabytes > before.megabytes + 55


def test_an_error_inside_goes_through():
    try:
        with PeakMemory() as peak:
            raise ValueError("stop")
    except ValueError as error:
        assert str(error) == "stop" and not peak._thread.is_alive()
