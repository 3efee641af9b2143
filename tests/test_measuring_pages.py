"""The pages that tell figures keep their word: every command of docs/performance.md, scaling.md, results.md and evaluation.md runs.

Each is taken from its page, in its order, and made small by the table of tests/small_commands.py. Beside that: every fenced block of every page
has a test that runs it.
"""

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_commands import ROOT, SMALL, Command, blocks_of, check_rows, check_table, made_small, parts_of, run_lurm, run_make
from small_pipeline import STAGE_NAMES

from lurm.config import load_config
from lurm.evaluation.evaluation_settings import load_evaluation
from lurm.evaluation.sanity import main as sanity_main
from lurm.synthetic import WorldSettings, write_world

SETS = {"amazon_purchases": ("2020-07", 25), "online_retail": ("2010-01", 24), "git_commits": ("2018-01", 25)}  # first month, months

# Every page with a fenced block, and the tests that run its blocks.
HERE, README = "tests/test_measuring_pages.py", "tests/test_readme_commands.py"
TESTED_BY = {
    "README.md": ("tests/test_readme.py", README),
    "docs/erasure.md": ("tests/commands/test_erasing.py",),
    "docs/evaluation.md": (HERE,),
    "docs/models.md": ("tests/test_models_page.py", README),
    "docs/performance.md": (HERE,),
    "docs/quickstart.md": ("tests/test_quickstart.py",),
    "docs/reading.md": ("tests/test_reading_doc.py",),
    "docs/report.md": ("tests/test_operating_pages.py",),
    "docs/results.md": (HERE,),
    "docs/runbook.md": ("tests/test_operating_pages.py",),
    "docs/scaling.md": (HERE,),
}
# Commands whose own test is another than that of their page, by how they begin.
ELSEWHERE = {
    "make install": ".ci/run", "make test": ".ci/run", "make airflow": "tests/docker/test_standalone.py",
    "airflow backfill create": "tests/docker/test_standalone.py", "pip install \"./lurm[reader]\"": "tests/test_reader_alone.py",
}
MADE_SMALL = ["README.md", *(page for page, tests in TESTED_BY.items() if HERE in tests)]
# Blocks of benchmarks, on whatever page; and what makes one take long, which then only `make test-long` runs: Spark in processes of their own,
# two worlds, a browser.
MEASURED = [(page, place) for page in TESTED_BY for place, block in enumerate(blocks_of(page)) if any("benchmarks/" in line for line in block)]
LONG = ("benchmarks/stages.py", "benchmarks/daily.py", "benchmarks/backfill.py", "benchmarks/large.py", "benchmarks/map.py", "benchmarks/start.py",
        "benchmarks/bags_from_events.py", "--users 10000 100000")
IN_PROCESS = {"benchmarks/stages.py", "benchmarks/daily.py"}  # they use the session that runs already
KINDS = {"bash", "python", "python spark", "python feast", "toml", "text"}


def test_every_block_of_every_page_has_its_test():
    pages = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
    fences = {page: re.findall(r"^ *```(.*)$", text, re.MULTILINE)[::2] for page, text in pages.items() if "```" in text}
    assert sorted(fences) == sorted(TESTED_BY), "a page with a fenced block needs a test that runs it; name it in TESTED_BY"
    for page, tests in TESTED_BY.items():
        assert set(fences[page]) <= KINDS, f"{page}: a block is one of {', '.join(sorted(KINDS))}; what is printed is text"
        assert all(Path(page).name in (ROOT / test).read_text(encoding="utf-8") for test in tests), f"{page} is not named in {tests}"
        if page not in MADE_SMALL:  # its own test runs all its lurm commands, and this file the benchmarks
            others = [line for block in blocks_of(page) for line in block if not line.startswith(tuple(ELSEWHERE)) and "benchmarks/" not in line]
            assert {parts_of(line)[1] for line in others} <= {"lurm"}, f"a command of {page} that no test runs"
    assert all((ROOT / test).exists() for test in ELSEWHERE.values())


@pytest.mark.parametrize("page", TESTED_BY)
def test_the_table_knows_every_command(page):
    """Without running them: a new one is told at once."""
    lines = [line for block in blocks_of(page) for line in block if not line.startswith(tuple(ELSEWHERE))]
    for line in (line for line in lines if page in MADE_SMALL or "benchmarks/" in line):
        assert made_small(page, line, {"folder": "F", "sets": "S", "warehouse": "W"}).program in SMALL


def test_a_command_that_the_table_does_not_know_fails_with_what_to_add():
    for line, told in (("python benchmarks/kmeans.py --vectors 7", r"SMALL\['benchmarks/kmeans.py'\] .* got '--vectors 7' in .* of page.md; add"),
                       ("X=1 .venv/bin/lurm status", "got 'X=1'"), ("lurm dance --warehouse /data/lurm", "got 'dance'"),
                       ("perl dance.pl", r"got 'perl' in 'perl dance.pl' of page.md; add SMALL\['perl'\]")):
        with pytest.raises(pytest.fail.Exception, match=told):
            made_small("page.md", line, {"warehouse": "W"})
    made = made_small("page.md", "OMP_NUM_THREADS=1 python benchmarks/backfill.py --users 400  # remark", {})
    assert (made.environment, made.arguments[:2]) == ({"OMP_NUM_THREADS": "1"}, ["--users", "100"]) and "smen.max_steps=4" in made.arguments
    check_rows("| all | 1.0 |\nall of it", ("all",))
    for table in ("all\nalls 3", "all nan 3", ""):
        with pytest.raises(AssertionError, match="expected"):
            check_rows(table, ("all",))


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """A folder with the three data sets of the bundled configurations, of 150 synthetic users: the columns that those name, and labels by lot."""
    folder = tmp_path_factory.mktemp("sets")
    for name, (start, n_months) in SETS.items():
        asked = tomllib.loads((ROOT / "lurm" / "configs" / f"evaluate_{name}.toml").read_text(encoding="utf-8"))
        world = write_world(folder / "world", WorldSettings(
            n_users=150, n_items=400, n_topics=40, n_months=n_months, events_per_user=90, start=start))
        events, items, users = (pq.read_table(path) for path in (world.events_path, world.items_path, world.users_path))
        if name == "amazon_purchases":  # one category and no list
            items = items.set_column(2, "category", pa.array([names[0] for names in items["category"].to_pylist()]))
        if name == "online_retail":
            items = items.drop_columns(["category"])
        rng, columns = np.random.default_rng(0), {"user_id": users["user_id"]}
        for task in (task for task in asked["tasks"] if task["kind"] == "attribute"):
            values = [*task.get("positive", ["here"]), *task.get("drop", []), "Male" if task["column"] == "gender" else "elsewhere"]
            columns[task["column"]] = rng.choice(values, len(users))
        columns |= {asked["where"]: np.ones(len(users), bool)} if asked.get("where") else {}
        (folder / name).mkdir()
        for kind, table in (("events", events), ("items", items), ("users", pa.table(columns))):
            pq.write_table(table, folder / name / f"{kind}.parquet")
        shutil.rmtree(folder / "world")
    return folder


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Iterator[Path]:
    """An empty folder to work in; `temporary` in it is the place of temporary folders, whose own name is short: a browser's sockets need that."""
    with tempfile.TemporaryDirectory() as short:
        (tmp_path / "temporary").symlink_to(short)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(tempfile, "tempdir", short)
        yield tmp_path


def in_process(command: Command, monkeypatch, capsys) -> str:
    monkeypatch.setattr(sys, "argv", [command.program, *command.arguments])
    runpy.run_path(str(ROOT / command.program), run_name="__main__")
    return capsys.readouterr().out


def apart(command: Command, folder: Path) -> str:
    """What a benchmark, or pip, prints in a process of its own."""
    program = ["-m", "pip"] if command.program == "pip" else [str(ROOT / command.program)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **command.environment, "PYTHONPATH": f"{folder / 'peers'}{os.pathsep}{ROOT}",
                   "TMPDIR": tempfile.gettempdir()}
    answer = subprocess.run([sys.executable, *program, *command.arguments], env=environment, cwd=folder, capture_output=True, text=True, timeout=900,
                            check=False)
    assert answer.returncode == 0, f"{command}\n{answer.stdout[-2_000:]}{answer.stderr[-4_000:]}"
    return answer.stdout


def marked(page: str, place: int):
    """A block as a parameter, named after its page and its programs; those that take long are marked."""
    text = "\n".join(blocks_of(page)[place])
    programs = "-".join(re.findall(r"benchmarks/(\w+)\.py", text))
    marks = [pytest.mark.long] if any(part in text for part in LONG) else []
    return pytest.param(page, place, marks=marks, id=f"{Path(page).stem}-{place + 1}-{programs}")


@pytest.mark.slow
@pytest.mark.parametrize(("page", "place"), [marked(*block) for block in MEASURED])
def test_a_block_of_benchmarks(page, place, desk, request, monkeypatch, capsys):
    """In this environment, which has none of the peers that a page installs."""
    for line in blocks_of(page)[place]:
        command = made_small(page, line, {"folder": desk})
        if command.program == "pip":
            continue  # with it: the next test
        if command.program == "benchmarks/map.py" and not (shutil.which("chromium") and shutil.which("chromedriver")) and not os.environ.get("CI"):
            pytest.skip("chromium and chromedriver are not installed")
        if command.program in IN_PROCESS:
            request.getfixturevalue("spark")
            out = in_process(command, monkeypatch, capsys)
        else:
            out = apart(command, desk)
        check_table(command.program, out)
        if command.program == "benchmarks/kmeans.py":
            assert ("not installed" in out) == (importlib.util.find_spec("superkmeans") is None), "a peer that is not there is told"
    assert list((desk / "temporary").glob("lurm-*")) == [], "nothing is left behind"


@pytest.mark.slow
@pytest.mark.long
def test_k_means_with_the_peer_that_the_page_installs(desk):
    """In a folder of its own, not in the environment."""
    (block,) = [lines for lines in blocks_of("docs/performance.md") if any("pip install" in line for line in lines)]
    install, measure = (made_small("docs/performance.md", line, {"folder": desk}) for line in block)
    try:
        apart(install, desk)
    except AssertionError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the peer is not here and could not be installed: {str(error).strip().splitlines()[-1]}")
    check_rows(apart(measure, desk), ("lurm two-level", "superkmeans hierarchical", "superkmeans, one refinement"))


@pytest.mark.long
@pytest.mark.parametrize("name", list(SETS))
def test_the_results_on_real_data(name, sets, desk, spark, capsys):
    """docs/results.md on synthetic files of the same columns: the run of each data set, and what is done with the first one afterwards."""
    (shell, *runs), after = blocks_of("docs/results.md")
    variables = made_small("docs/results.md", shell, {"sets": sets}).environment
    assert variables == {"D": str(sets)} and [line.split()[3] for line in runs] == list(SETS), "one run for each of them"
    out = run_lurm("docs/results.md", runs[list(SETS).index(name)], {"folder": desk}, capsys, variables=variables)
    check_rows(out, STAGE_NAMES)
    (n_users,) = re.findall(r"(\d+) users x 3 anchors x 32\)", out)
    assert 100 < int(n_users) <= 150
    if name != "amazon_purchases":
        return
    read, sanity = after
    run_lurm("docs/results.md", read, {"folder": desk}, capsys)
    assert pq.read_metadata(desk / "amazon.parquet").num_rows == int(n_users)
    assert sanity_main(made_small("docs/results.md", sanity, {}, variables).arguments) == 0
    check_table("lurm.evaluation.sanity", capsys.readouterr().out)


# In every configuration, whatever it says there.
FEWER = {r"\bsteps = \d+": "steps = 3", r"\brepeats = \d+": "repeats = 1", r"\bn_users = \d+, n_items = [\d_]+": "n_users = 150, n_items = 300",
         r"\bresamples = \d+\n": "", r"\[probe\]\n": "[probe]\nresamples = 50\n"}


@pytest.fixture
def few_steps(desk) -> Path:
    """The committed configurations, but for FEWER, as files of their names: a file comes before a bundled one."""
    for file in (ROOT / "lurm" / "configs").glob("evaluate_*.toml"):
        text = file.read_text(encoding="utf-8")
        for theirs, ours in FEWER.items():
            text = re.sub(theirs, ours, text)
        (desk / file.stem).write_text(text, encoding="utf-8")
        settings = load_evaluation(str(desk / file.stem))
        assert (settings.budget["steps"], settings.probe.repeats, settings.probe.resamples) == (3, 1, 50), f"{file.name} is not small; mend FEWER"
    return desk


def check_evaluation(folder: Path, methods: tuple[str, ...], out: str) -> None:
    check_rows(out, methods)
    assert {row["method"] for row in pq.read_table(folder / "runs.parquet").to_pylist()} == set(methods)
    assert "<html" in (folder / "results.html").read_text(encoding="utf-8") and (folder / "results.md").read_text(encoding="utf-8") in out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", "online_retail"])
def test_an_evaluation(name, sets, few_steps, capsys):
    """docs/evaluation.md: the commands that evaluate one data set, by the committed configuration with few steps."""
    ((_, *lines),) = blocks_of("docs/evaluation.md")
    (line,) = [line for line in lines if f"--config evaluate_{name} " in f"{line} "]
    assert len(lines) == 2
    out = run_lurm("docs/evaluation.md", line, {"sets": sets}, capsys)
    methods = {"demo": ("tfidf", "bag-svd", "counts", "lurm", "lurm-bag-d100", "lurm-bag-d300", "popularity"),
               "online_retail": ("tfidf", "lurm", "lurm-bag")}
    check_evaluation(few_steps / "evaluation" / name, methods[name], out)


@pytest.mark.slow
@pytest.mark.long
def test_all_evaluations(sets, few_steps):
    """docs/evaluation.md: `make evaluate` over the three data sets, by two methods and one probe."""
    line = blocks_of("docs/evaluation.md")[0][0]
    out = run_make("docs/evaluation.md", line, few_steps, {"sets": sets}, "--quiet --methods tfidf,lurm-bag --probes logistic")
    assert sorted(folder.name for folder in (few_steps / "evaluation").iterdir()) == sorted(SETS)
    for name in SETS:
        check_evaluation(few_steps / "evaluation" / name, ("tfidf", "lurm-bag"), out)


@pytest.mark.slow
@pytest.mark.long
def test_make_bench(desk, monkeypatch, capsys):
    """Every benchmark that `make bench` runs, smaller still, through its own program; the page is a copy."""
    specification = importlib.util.spec_from_file_location("all_benchmarks", ROOT / "benchmarks" / "all.py")
    all_benchmarks = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(all_benchmarks)
    small = {name: made_small("benchmarks/all.py", f"python benchmarks/{name}.py {arguments}", {"folder": desk}).arguments
             for name, arguments in all_benchmarks.RUNS.items()}
    monkeypatch.setattr(all_benchmarks, "RUNS", {name: " ".join(arguments) for name, arguments in small.items()})
    monkeypatch.setenv("TMPDIR", tempfile.gettempdir())
    page = Path(shutil.copy(ROOT / "docs" / "performance.md", desk))
    monkeypatch.setattr(sys, "argv", ["all.py", "--output", str(page), "--seconds", "1200"])
    assert all_benchmarks.main() == 0, f"{capsys.readouterr().out}\n{page.read_text(encoding='utf-8')[-8_000:]}"
    section = page.read_text(encoding="utf-8").partition(all_benchmarks.MARKS[0])[2]
    for name in small:
        printed = section.partition(f"### {name}\n")[2].partition("```text\n")[2].partition("\n```")[0]
        check_table(f"benchmarks/{name}.py", printed)
    assert blocks_of(str(page)) == blocks_of("docs/performance.md"), "what is written is no command of the page"
    assert list((desk / "temporary").glob("lurm-*")) == [], "nothing is left behind"


def test_the_configuration_of_a_cluster_loads(tmp_path):
    (block,) = re.findall(r"^```toml\n(.*?)^```", (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (tmp_path / "cluster.toml").write_text(block, encoding="utf-8")
    settings = load_config(str(tmp_path / "cluster.toml")).spark
    assert settings.user_buckets == 400 and settings.conf["spark.submit.pyFiles"] == "lurm.zip"
