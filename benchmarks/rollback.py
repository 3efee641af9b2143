"""What a rollback costs after many releases: seconds of the move, and of opening the table before and after it.

    python benchmarks/rollback.py [--releases 1000]

Every release is a real move of the pointer, on top of the one before; the tables themselves are empty names, because a rollback does not
touch them. The time of opening is that of reading the pointer.
"""

import argparse
import statistics
import tempfile
import time

from lurm.releases import move_release, released, releases, rollback
from lurm.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        started = time.monotonic()
        for number in range(options.releases):
            as_of = f"{2000 + number // 336:04d}-{number // 28 % 12 + 1:02d}-{number % 28 + 1:02d}"
            move_release(store, {
                "as_of": as_of, "model_id": "model-0", "table_version": number, "n_users": 1, "n_anchors": 1, "dim": 1,
                "run_key": f"run{number}", "audit_digest": "x", "current": True, "reason": "publish",
            })
        print(f"{options.releases} releases in {time.monotonic() - started:.1f} s")
        measured = {"rollback": [], "read the pointer": []}
        for epoch in range(1, options.repeats + 1):
            started = time.monotonic()
            rollback(store, epoch)
            measured["rollback"].append(time.monotonic() - started)
            started = time.monotonic()
            assert released(Store(folder))["table_version"] == epoch - 1
            measured["read the pointer"].append(time.monotonic() - started)
        size = sum(file.size for file in store.snapshot("releases").files)
        for name, seconds in measured.items():
            print(f"{name:<20}{statistics.median(seconds) * 1e3:8.1f} ms, at most {max(seconds) * 1e3:.1f} ms")
        print(f"{'the history':<20}{len(releases(store)):8} moves, {size:,} bytes in one file")


if __name__ == "__main__":
    main()
