"""Peak memory of a stage: this process and everything it started (the JVM, Python workers), sampled while the stage runs."""

import threading
import time
from types import TracebackType

EVERY_SECONDS = 0.25


class PeakMemory:
    """`with PeakMemory() as peak: ...` then `peak.megabytes`: the largest sum of proportional set sizes seen.

    Proportional set size counts a page shared by n processes as 1/n, so that forked workers are not counted twice; where the system does
    not tell it, the resident set size is taken.
    """

    def __init__(self):
        self.megabytes = 0.0
        self._stop = threading.Event()

    def __enter__(self) -> "PeakMemory":
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _watch(self) -> None:
        import psutil

        root = psutil.Process()
        while True:
            started = time.monotonic()
            total = 0
            for process in [root, *root.children(recursive=True)]:
                try:
                    total += getattr(process.memory_full_info(), "pss", 0) or process.memory_info().rss
                except psutil.Error:
                    continue  # it ended while we looked
            self.megabytes = max(self.megabytes, total / 2**20)
            if self._stop.wait(max(EVERY_SECONDS, 5 * (time.monotonic() - started))):  # looking costs at most a sixth of the time
                return
