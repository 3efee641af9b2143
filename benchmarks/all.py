"""All benchmarks, small: each in a process of its own, their tables into a section of docs/performance.md.

    python benchmarks/all.py [--seconds 600] [--only kmeans table] [--output docs/performance.md] [--print]

What is between the two comments MARKS of the output file is replaced by a description of the machine and, for each benchmark, the command
and what it printed; nothing else of the file is touched, and where the comments are missing they are put at its end. The ones that say most
come first: when the seconds are over, what has not begun is told as not run, and what still runs is ended. Exit code 1 if one failed.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import textwrap
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARKS = ("<!-- what `make bench` writes begins here -->", "<!-- what `make bench` writes ends here -->")
RUNS = {
    "kmeans": "--vectors 50000 --clusters 5000",
    "bag": "",
    "embedding": "",
    "training": "--users 4000 --steps 8 --plain-steps 2 --loader-steps 40",
    "bags_from_events": "--events 200000 --worlds even user --memory-gb 2",
    "table": "--users 10000 --table 40000",
    "start": "--runs 3",
    "gpu": "",
    "stages": "--users 1000 --events-per-user 100 --months 24",
    "daily": "--years 1 --users 500",
    "join": "--labels 200000 --users 20000",
    "similar": "--users 20000 --queries 1 100",
    "rollback": "--releases 50 --repeats 3",
    "scale": "",
}
LEFT_OUT = {
    "all": "it is this one",
    "backfill": "starts Spark for every date",
    "large": "10^8 events",
    "map": "needs a browser",
    "report": "looks at a warehouse that is there already",
}
LIBRARIES = ("numpy", "torch", "triton", "faiss-cpu", "superkmeans", "pyarrow", "deltalake", "duckdb", "polars", "pyspark")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="for all of them together")
    parser.add_argument("--only", nargs="+", choices=sorted(RUNS), default=list(RUNS))
    parser.add_argument("--output", default=str(ROOT / "docs" / "performance.md"))
    parser.add_argument("--print", action="store_true", dest="printed", help="print the section and write nothing")
    options = parser.parse_args()
    if not options.printed:
        replaced(Path(options.output).read_text(encoding="utf-8"), "")  # a page that cannot be written to is told before ten minutes of work
    described, ends, failed, parts = machine(), time.monotonic() + options.seconds, [], []
    for name in options.only:
        command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *RUNS[name].split()]
        code, seconds, output = run(command, ends - time.monotonic())
        shown = f".venv/bin/python benchmarks/{name}.py {RUNS[name]}".rstrip()
        print(f"{shown}: {ending(code, seconds)}", flush=True)
        failed += [name] if code else []
        table = output.strip() or "(nothing)"
        parts.append(f"### {name}\n\n```bash\n{shown}\n```\n\n{ending(code, seconds).capitalize()}.\n\n```text\n{table}\n```\n")
    section = f"\n## Small, by `make bench`\n\n{described}\n\n{chr(10).join(parts)}"
    if options.printed:
        print(section)
    else:
        write_section(Path(options.output), section)
    return 1 if failed else 0


def run(command: list[str], seconds: float) -> tuple[int | None, float, str]:
    """Exit code, seconds and output of a process, at most so many; the code is None where the time was over, also before it began.

    A process that takes too long is ended with everything it has started.
    """
    if seconds <= 0:
        return None, 0.0, ""
    started, paths = time.monotonic(), os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True,
                             env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": paths})
    code = None
    try:
        output, _ = child.communicate(timeout=seconds)
        code = child.returncode
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        output, _ = child.communicate()
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)  # whoever is interrupted leaves nobody behind
        raise
    return code, time.monotonic() - started, output


def ending(code: int | None, seconds: float) -> str:
    if code is None:
        return f"the time was over after {seconds:.0f} s" if seconds else "not run, the time was over"
    return f"{seconds:.0f} s" if code == 0 else f"failed with exit code {code} after {seconds:.0f} s"


def write_section(path: Path, section: str) -> None:
    """Put `section` between the marks of a file, in one step."""
    unfinished = path.with_name(f".{path.name}-{os.getpid()}")
    unfinished.write_text(replaced(path.read_text(encoding="utf-8"), section), encoding="utf-8")
    os.replace(unfinished, path)


def replaced(text: str, section: str) -> str:
    """The text with `section` between its marks; raises ValueError unless there are both, once and in order, or none."""
    begin, end = MARKS
    if any(mark in section for mark in MARKS):
        raise ValueError("Expected a section without the comments that surround it, got one with them; mend what a benchmark prints.")
    if begin not in text and end not in text:
        return f"{text.rstrip()}\n\n{begin}\n{section.rstrip()}\n\n{end}\n"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"Expected {begin} and then {end}, each once, got {text.count(begin)} and {text.count(end)}; mend the file by hand.")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{section.rstrip()}\n\n{end}{rest.split(end)[1]}"


def machine() -> str:
    """What this machine is, as a paragraph."""
    told = processor()
    able = [flag for flag in FLAGS if flag in told.get("flags", "").split()]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = (f"{told.get('model name', platform.machine())}, {usable} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}; of the "
            f"processor's flags {', '.join(able) or 'none of ' + ', '.join(FLAGS)}. {graphics()}. Python {platform.python_version()}, "
            f"{', '.join(versions())}. Load of the machine before the start: {os.getloadavg()[0]:.1f}. Seconds of one run; read the ratios.")
    return textwrap.fill(text, 150)


def processor() -> dict[str, str]:
    """What the system says of the first core."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def graphics() -> str:
    try:
        answer = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "No GPU"
    return f"GPU: {', '.join(answer.stdout.split(chr(10))[:-1])}"


def versions() -> list[str]:
    found = []
    for library in LIBRARIES:
        try:
            found.append(f"{library} {metadata.version(library)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {library}")
    return found


if __name__ == "__main__":
    sys.exit(main())
