"""A process that forks publications on demand: real processes for tests that kill them, without seconds of imports for each.

In: one JSON object a line on stdin, {"uri", "as_of", "key", "users", "lease", "at"}; the answer is the child's process id. Out on stdout, from
the children: "PID begin|end OPERATION PATH" around every operation on the object store, and at last "PID done RESULT" with what the run
said. A line {"wait": PID} is answered with "PID exit STATUS" once that child has ended. Nothing here may use threads or Delta before the
fork.

Run as a script; `Forks` is the other end of the pipe, `check_reader` what a reading process does.
"""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
USERS = 12  # at most


def publication_of(key: str, as_of: str):
    """The publication that a key stands for: another key, other vectors, and mostly other users."""
    from faults import Publication

    number = int(key)
    return Publication(as_of, key, tuple(f"u{user:02d}" for user in range(4 + number % (USERS - 3))))


class Forks:
    """Starts and follows the children; `lines` of one child end with its exit."""

    def __init__(self):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
        self.process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout.readline() == "ready\n"
        self._kept: list[str] = []

    def start(self, **order) -> int:
        """Fork a child; lines of others may come before its number, and are kept."""
        self._tell(order)
        while not (line := self.process.stdout.readline()).startswith("child "):
            self._kept.append(line)
        return int(line.split()[1])


    def line(self) -> list[str]:
        line = self._kept.pop(0) if self._kept else self.process.stdout.readline()
        return line.rstrip("\n").split(" ", 3)

    def collect(self, pid: int) -> None:
        """Ask for the exit status; it comes as a line, after all others of this child."""
        self._tell({"wait": pid})

    def _tell(self, order: dict) -> None:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


def say(*words: object) -> None:
    os.write(1, (" ".join(str(word) for word in words) + "\n").encode())  # short lines arrive whole, also from several processes


def publish(order: dict) -> None:
    """What a child does: stage, write the manifest and publish, as run under the lease or (without it) as the bare stage."""
    from published import day

    from lurm import publication
    from lurm.errors import LurmError
    from lurm.objects import Objects
    from lurm.runner import run_stages
    from lurm.store import Store

    class Told(Objects):
        """The real thing, which says what it does."""

    def told(name):
        real = getattr(Objects, name)

        def operation(self, *arguments, **more):
            first = arguments[0]
            if name == "commit":
                first = first.table_uri
            where = str(first[0] if isinstance(first, list) else first)
            say(os.getpid(), "begin", name, where)
            try:
                return real(self, *arguments, **more)
            finally:
                say(os.getpid(), "end", name, where)

        return operation

    for name in ("sizes", "read_bytes", "write_bytes", "open_table", "create_table", "commit"):
        setattr(Told, name, told(name))
    one = publication_of(order["key"], order["as_of"])
    store = Store(order["uri"], Told(order["uri"]))
    time.sleep(max(0.0, order.get("at", 0) - time.time()))
    try:
        one.stage(store)
        context = day(store, one.as_of, one.key)
        report = run_stages(context, ["publish"])["publish"] if order["lease"] else publication.run(context)
        say(os.getpid(), "done", "released", report["epoch"])
    except LurmError as error:
        say(os.getpid(), "done", "refused", error)


def main() -> None:
    """Import everything, then fork for every order."""
    logging.disable()
    import published  # noqa: F401

    import lurm.runner  # noqa: F401
    from lurm.audit import audit
    from lurm.checks import OUTPUT_CHECKS
    from lurm.config import GateSettings

    audit("warm", {check.figure: 0.0 for check in OUTPUT_CHECKS}, OUTPUT_CHECKS, GateSettings())  # or every child would import what it needs
    threads = {Path(f"/proc/self/task/{number}/comm").read_text().strip() for number in os.listdir("/proc/self/task")}
    assert threads <= {Path("/proc/self/comm").read_text().strip(), "jemalloc_bg_thd"}, f"{threads}: cannot be forked safely"  # jemalloc can
    say("ready")
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            say(order["wait"], "exit", os.waitstatus_to_exitcode(status))
            continue
        release, hold = os.pipe()  # the child begins when its number has been told
        pid = os.fork()
        if pid == 0:
            os.close(hold)
            os.read(release, 1)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            publish(order)
            os._exit(0)
        say("child", pid)
        os.close(hold)
        os.close(release)


def read_for_ever(uri: str, stop: str) -> None:
    """Read the current release and every date again and again, until the file `stop` is there; prints how often, and how many versions."""
    import numpy as np
    from published import vector

    from lurm import open_table
    from lurm.errors import MissingInputError
    from lurm.releases import releases
    from lurm.store import Store

    reads, epochs = 0, []
    while not os.path.exists(stop):
        dates = sorted({move["as_of"] for move in releases(Store(uri))})
        for as_of in [None, *dates[-3:]]:
            try:
                table = open_table(uri, as_of)
            except MissingInputError:
                continue
            one = publication_of(table._release["run_key"], table.as_of)
            rows = sorted((row["user_id"], row["embedding"]) for batch in table.scan(["user_id", "embedding"]) for row in batch.to_pylist())
            assert tuple(user for user, _ in rows) == one.users and table.n_users == len(rows), f"torn: {rows} for {one}"
            assert all(np.array_equal(np.float32(row), vector(user, one.tag)) for user, row in rows), f"torn: vectors of {one.key}"
            reads += 1
            if as_of is None:
                assert not epochs or table.epoch >= epochs[-1], "what is current never goes back"
                epochs.append(table.epoch)
        time.sleep(0.05)  # leave the processor to those who publish
    print(json.dumps({"reads": reads, "epochs": len(set(epochs))}))


if __name__ == "__main__":
    main() if len(sys.argv) == 1 else read_for_ever(*sys.argv[1:])
