"""Commands of a page, made small: what every option of a page's command becomes where a test runs it.

In: a page. Out: its bash blocks as lists of commands, in the order of the page; and of a command the program, its environment and its
arguments, with sizes, dates and places replaced by those of SMALL. Nothing is guessed: an option that SMALL does not name, with exactly the
values that the page gives it, fails with a sentence that says what to add.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lurm.cli import main

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Small:
    """One program: options as a page writes them, with their values, and what they become; {names} are places of the test."""

    becomes: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[str, ...] = ()  # options that are small as they are
    added: str = ""  # behind every command of this program
    rows: tuple[str, ...] = ()  # how the lines of its table begin
    says: str = ""  # what it prints where all is well


@dataclass(frozen=True)
class Command:
    """A command, ready to run."""

    program: str  # a key of SMALL
    environment: dict[str, str]
    arguments: list[str]


SPARK = ("spark.master=local[2] spark.driver_memory=1500m spark.shuffle_partitions=4 spark.user_buckets=2 spark.item_buckets=2 "
         "interests.n_interests=24 interests.backend=numpy encoder.device=cpu smen.device=cpu smen.min_effective_rank=1.0")
STEPS = ("encoder.dim=32 encoder.batch_size=128 encoder.max_steps=4 encoder.evaluate_every=2 smen.dim=32 smen.n_anchors=3 smen.batch_size=32 "
         "smen.max_steps=4 smen.evaluate_every=2")
ONE_BY_ONE = " ".join(f"--set {setting}" for setting in f"{SPARK} {STEPS}".split())  # for programs whose --set takes one at a time
TRAINED = ("train-item-encoder", "fit-interests", "train-smen")
NAMES = ("amazon_purchases", "online_retail", "git_commits")
DAILY = ("ingest", "audit-inputs", "encode-items", "assign-interests", "build-bags", "update-states", "embed-users", "publish")

SMALL = {
    "": Small({"D=/data/sets": "D={sets}"}),  # variables of the shell
    "benchmarks/stages.py": Small(
        {"--users 10000 100000": "--users 60 120", "--users 1000000": "--users 60", "--events-per-user 300": "--events-per-user 20",
         "--events-per-user 60": "--events-per-user 20", "--users 1000": "--users 60", "--events-per-user 100": "--events-per-user 20",
         "--months 24": "--months 6"},
        kept=("--set encoder.max_steps=100", "--set smen.max_steps=30"),  # of two settings the last one counts
        added=f"--months 6 --items 400 {ONE_BY_ONE}", rows=(*DAILY, *TRAINED, "build-pairs", "all")),
    "benchmarks/daily.py": Small(
        {"--years 1 3 5 10": "--years 1 2", "--users 4000": "--users 300", "--years 1": "--years 1", "--users 500": "--users 300"},
        added=ONE_BY_ONE, rows=(*DAILY, "all"), says="largest difference of a number 0.0e+00"),
    "benchmarks/backfill.py": Small(
        {"OMP_NUM_THREADS=1": "OMP_NUM_THREADS=1", "--users 400": "--users 100", "--months 3": "--months 2", "--years 2": "--years 1",
         "--events-per-user 60": "--events-per-user 30"},
        kept=("--set spark.master=local[2] spark.driver_memory=1500m smen.max_steps=6 smen.evaluate_every=3 encoder.max_steps=30 "
              "encoder.dim=64 smen.dim=64",),
        added=f"--set {SPARK} {STEPS}", rows=("one backfill", "2 runs in one warehouse", "2 runs from nothing"), says="the same bytes"),
    "pip": Small(kept=("install", "superkmeans==0.2.0"), added="--quiet --disable-pip-version-check --no-deps --target {folder}/peers"),
    "benchmarks/kmeans.py": Small(
        {"--vectors 1000000": "--vectors 3000", "--clusters 100000": "--clusters 50", "--vectors 50000": "--vectors 3000",
         "--clusters 5000": "--clusters 50"},
        kept=("--peers superkmeans superkmeans-refined",),
        rows=("lurm two-level", "lurm two-level, no iterations", "8", "16", "32", "all, faiss exact")),
    "benchmarks/bag.py": Small(added="--interests 500 --rows 200", rows=("lurm", "lurm, torch", "ten bags", "wide table", "float32 product:")),
    "benchmarks/embedding.py": Small(
        {"--active 0.33": "--active 0.33"}, added="--users 4 --months 12 --interests 500",
        rows=("plain module", "whole lives", "whole lives, torch", "kept states", "kept states, torch")),
    "benchmarks/training.py": Small(
        {"--users 4000": "--users 300", "--users 10000 1000000": "--users 300", "--steps 8": "--steps 2", "--steps 12": "--steps 2",
         "--plain-steps 2": "--plain-steps 1", "--plain-steps 3": "--plain-steps 1", "--loader-steps 40": "--loader-steps 4"},
        added="--interests 200 --months 12 --set smen.batch_size=32 encoder.dim=16 smen.dim=16 smen.n_anchors=2 smen.shuffle_users=100",
        rows=tuple(f"300  {name}" for name in ("loader alone", "steps alone", "the same, torch", "steps with loader", "plain, alone"))),
    "benchmarks/bags_from_events.py": Small(
        {"--events 200000": "--events 20000", "--events 1000000": "--events 20000", "--events 10000000": "--events 20000",
         "--events 10000000 100000000": "--events 20000", "--worlds even": "--worlds user", "--worlds even user interest": "--worlds user",
         "--worlds even user": "--worlds user", "--memory-gb 2": "--memory-gb 1"},
        added="--interests 50 --threads 1", rows=("user",)),
    "benchmarks/table.py": Small(
        {"--users 10000": "--users 200", "--users 20000": "--users 200", "--table 40000": "--table 400", "--table 1000000": "--table 400"},
        added="--dim 8",
        rows=("lurm.staging.stage_table", "the file, into numpy", "float32", "int8, as a dictionary", "lurm.open_table(...).vectors",
              "DuckDB, semi join")),
    "benchmarks/start.py": Small({"--runs 3": "--runs 1"}, added="--users 20", rows=(
        "import lurm", "import torch", "lurm --help", "lurm read, two users", "open_table(...).vectors, two users", "Spark's start and a first job",
        "a stage, Spark starts for it", "the same, Spark runs already")),
    "benchmarks/gpu.py": Small(added="--device cpu --vectors 2000 --clusters 64 --rows 500 --users 64 --months 6 --interests 200", rows=(
        "matrix product, float32", "assign 2,000 x 64, bfloat16 re-ranked", "bag and back, float32", "whole lives of 6 months", "kept states",
        "training, float32")),
    "benchmarks/join.py": Small({"--labels 200000": "--labels 2000", "--users 20000": "--users 200"}, rows=("512", "a reader that only opens")),
    "benchmarks/similar.py": Small(
        {"--users 20000": "--users 500", "--queries 1 100": "--queries 1 10"}, added="--dim 8",
        rows=("streamed", "faiss IndexFlatIP", "faiss int8", "parquet float16")),
    "benchmarks/rollback.py": Small({"--releases 50": "--releases 5", "--repeats 3": "--repeats 2"}, rows=(
        "rollback", "read the pointer", "the history")),
    "benchmarks/scale.py": Small(rows=(*DAILY[:1], "build-bags", "embed-users", "publish", "all, on cores", "one release", "spark.user_buckets")),
    "benchmarks/large.py": Small(
        {"--events 100000000": "--events 3000", "--users 1000000": "--users 100"}, kept=("--plans",),
        added="--items 300 --interests 50 --months 3 --heap 1g --set spark.user_buckets=2 --set spark.item_buckets=2",
        rows=("ingest:", "build-pairs:", "build-bags:", "update-states:", "embed-users:", "publish:", "query", "all", "events", "bags",
              "user_embeddings")),
    "benchmarks/map.py": Small({"--points 10000 100000": "--points 300"}, added="--seconds 1", rows=(
        "300  all      zoom", "300  all       pan", "300  now      zoom", "300  now       pan")),
    "lurm": Small(
        {"run": "run --quiet", "backfill": "backfill --quiet", "evaluate": "evaluate --quiet", "--data /data/sets": "--data {sets}",
         **{f"--config {name}": f"--config {name} --set {SPARK} {STEPS}" for name in NAMES},
         **{f"--warehouse W/{name}": f"--warehouse {{folder}}/{name}" for name in NAMES},
         **{f"--warehouse {name}": "--warehouse {warehouse}" for name in ("/data/lurm", "demo/warehouse")},
         "--warehouse demo/warehouse released candidate": "--warehouse {warehouse} released candidate",
         "--as-of 2025-01-01": "--as-of 2020-01-01", "--users u1,u2": "--users u0000001,u0000002"},
        kept=("--as-of 2011-09-01", "--as-of 2022-01-01", "--as-of 2022-02-01", "--model released",  # of lurm run
              "--config my.toml", "--set seed=18 publish.release=false",
              *(f"--set events.path=$D/{name}/events.parquet items.path=$D/{name}/items.parquet" for name in NAMES),
              "--config evaluate_demo", "--config evaluate_online_retail", "--methods tfidf,lurm,lurm-bag", "--probes logistic",
              "--from 2022-01-01", "--to 2022-12-01", "--every month", "--dry-run",  # of lurm backfill
              "status", "releases", "rollback", "runs", "check", "freshness", "--max-age-days 2", "vacuum",
              "read", "--output amazon.parquet", "--output vectors.parquet",
              "join", "--labels labels.csv", "--user customer", "--time bought_at", "--output training.parquet",
              "similar", "--user u0000005", "--k 20", "export", "--format faiss", "--dtype int8", "report", "--output report.html", "explain",
              "compare", "erase")),
    "make": Small({"DATA=/data/sets": "DATA={sets}"}, kept=("evaluate", "demo"),
                  added=f"--file {ROOT}/Makefile --old-file .venv/.installed BIN={{folder}}/bin"),  # with the environment as it is
    "git": Small({"--output lurm.zip HEAD lurm spark_jobs": "--output {folder}/lurm.zip HEAD lurm spark_jobs"}, kept=("archive", "--format zip")),
    "spark-submit": Small(
        {"--master spark://host:7077": "--master local[2] --driver-memory 1500m --conf spark.ui.enabled=false",
         "--py-files lurm.zip spark_jobs/build_bags.py": f"--py-files lurm.zip {ROOT}/spark_jobs/build_bags.py",
         "--warehouse s3://bucket/lurm": "--warehouse {warehouse}"},
        kept=("--config my.toml", "--as-of 2022-01-01")),
    "lurm.evaluation.sanity": Small(
        kept=("--embeddings amazon.parquet", "--as-of 2022-01-01",
              *(f"--{kind} $D/amazon_purchases/{kind}.parquet" for kind in ("events", "items", "users"))),
        rows=("gender: Female vs Male", "age_group: 35 - 44 years")),
}


def blocks_of(page: str) -> list[list[str]]:
    """Commands of every bash block of a page: lines with their continuations joined, without comments and the prompt.

    What `make bench` has written on it is left out: those are its commands, not the page's.
    """
    text = re.sub(r"<!-- what `make bench` writes begins.*?writes ends here -->", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    blocks = re.findall(r"^```(?:bash|sh|shell|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [[line.removeprefix("$ ").strip() for line in block.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
            for block in blocks]


def parts_of(line: str) -> tuple[list[str], str, list[str]]:
    """Variables, program and arguments of a command; a line of variables alone has the program ""."""
    words = shlex.split(line, comments=True)
    first = next((place for place, word in enumerate(words) if not re.match(r"\w+=", word)), len(words))
    variables, words = words[:first], words[first:]
    if not words:
        return variables, "", []
    if Path(words[0]).name.startswith("python"):
        words = words[2:] if words[1] == "-m" else words[1:]
        return variables, words[0], words[1:]
    return variables, Path(words[0]).name, words[1:]


def options_of(arguments: list[str]) -> list[str]:
    """Options with their values; what comes before the first option stands alone, word by word."""
    groups: list[str] = []
    for word in arguments:
        if word.startswith("--") or not groups or not groups[-1].startswith("--"):
            groups.append(word)
        else:
            groups[-1] += f" {word}"
    return groups


def made_small(page: str, line: str, places: Mapping[str, object], variables: Mapping[str, str] | None = None) -> Command:
    """The command as SMALL makes it; `variables` are those of the shell, `places` what its {names} are."""
    set_before, program, arguments = parts_of(line)
    if program not in SMALL:
        pytest.fail(f"Expected a program that SMALL of tests/small_commands.py knows, got {program!r} in {line!r} of {page}; add "
                    f"SMALL[{program!r}] with what each of its options becomes in a test.", pytrace=False)
    small = SMALL[program]

    def become(options: list[str]) -> list[str]:
        found = []
        for option in options:
            if option not in small.becomes and option not in small.kept:
                pytest.fail(f"Expected every option of a page's command in SMALL[{program!r}] of tests/small_commands.py, got {option!r} in {line!r} "
                            f"of {page}; add what it becomes in a test: tens of users, a few thousand vectors, a place of the test.", pytrace=False)
            found += shlex.split(small.becomes.get(option, option).format(**places))
        return found

    environment = dict(word.split("=", 1) for word in become(set_before))
    made = [*become(options_of(arguments)), *shlex.split(small.added.format(**places))]
    for name, value in (variables or {}).items():
        made = [word.replace(f"${name}", value) for word in made]
    return Command(program, environment, made)


def check_table(program: str, out: str) -> None:
    """What a program prints has its rows, and says what it should."""
    check_rows(out, SMALL[program].rows)
    assert SMALL[program].says in out, f"expected {SMALL[program].says!r} in\n{out}"


def check_rows(out: str, names: Sequence[str]) -> None:
    """Each name begins a line of the table, and numbers follow it."""
    lines = [line.strip(" |") for line in out.splitlines()]
    for name in names:
        told = [line[len(name) :] for line in lines if re.match(rf"{re.escape(name)}(\W|$)", line)]
        assert told, f"expected a row {name!r} in\n{out}"
        numbers = [line for line in told if re.search(r"\d", line) and not re.search(r"\b(nan|inf|failed|not run)\b", line)]
        assert numbers, f"expected numbers, got {told} in\n{out}"


def run_lurm(page: str, line: str, places: Mapping[str, object], capsys, ends: int = 0, variables: Mapping[str, str] | None = None) -> str:
    """What a lurm command of a page prints, run in this process."""
    command = made_small(page, line, places, variables)
    assert command.program == "lurm" and main(command.arguments) == ends, f"{command}\n{capsys.readouterr()}"
    return capsys.readouterr().out


def run_make(page: str, line: str, folder: Path, places: Mapping[str, object], words: str) -> str:
    """What a make command of a page prints in a folder; its recipe calls a lurm that adds `words` to what it is told."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "lurm"
    program.write_text(f'#!/bin/sh\nexec env PYTHONPATH="{ROOT}" OMP_NUM_THREADS=1 "{sys.executable}" -m lurm.cli "$@" {words}\n', encoding="utf-8")
    program.chmod(0o755)
    command = made_small(page, line, {**places, "folder": folder})
    answer = subprocess.run(["make", *command.arguments], cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    assert command.program == "make" and answer.returncode == 0, f"{command}\n{answer.stdout[-2_000:]}{answer.stderr[-4_000:]}"
    return answer.stdout
