"""docs/reading.md keeps its word: every snippet runs, top to bottom, on a warehouse that also holds what nobody released."""

import importlib.util
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from published import day, rows_of, stage_day, vector

from lurm import open_table, publication
from lurm.cli import main
from lurm.store import Store

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")
USERS = [f"u{number:07d}" for number in range(50)]
FEAST = ("feast==0.67.0", "pyarrow==26.0.1", "deltalake==1.6.6", "pandas==2.3.3")

# After the page's own lines: Feast's vectors, online and joined, are those of the table and of its join.
SAME = """
assert len(online["embedding"][0]) == 1_280
theirs = training.set_index("user_id")["embedding"]
joined = table.join(labels, user="user_id", time="event_timestamp").set_index("user_id")["embedding"]
assert sorted(theirs.index) == ["u0000005", "u0000007"] and all((theirs[user] == joined[user]).all() for user in theirs.index)
assert (theirs["u0000005"] == table.vectors(["u0000005"])[0]).all()
print("the same")
"""


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def long_vector(user: str, as_of: str) -> np.ndarray:
    return np.resize(vector(user, as_of), 1_280)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """demo/warehouse with two released dates, and one that is committed on top and never released; labels.csv."""
    folder = tmp_path_factory.mktemp("reading-doc")
    store = Store(str(folder / "demo" / "warehouse"))
    for as_of, key, release in (("2021-12-01", "1" * 16, True), ("2022-01-01", "2" * 16, True), ("2022-02-01", "3" * 16, False)):
        vectors = [long_vector(user, as_of) for user in USERS]
        stage_day(store, as_of, [rows_of(USERS[:25], vectors=vectors[:25]), rows_of(USERS[25:], vectors=vectors[25:])], key, n_anchors=10, dim=128)
        publication.run(day(store, as_of, key, release))
    (folder / "labels.csv").write_text("customer,bought_at,bought\nu0000005,2022-01-01,1\nu0000007,2021-12-24T18:00:00Z,0\nnobody,2022-01-05,1\n")
    return folder


@pytest.fixture(scope="module")
def names(folder) -> dict:
    """What the page's Python leaves behind, run in the order of the page."""
    before, names = os.getcwd(), {}
    os.chdir(folder)
    try:
        for block in blocks("python"):
            exec(compile(block, "docs/reading.md", "exec"), names)  # our own page, nothing else
    finally:
        os.chdir(before)
    return names


def test_every_block_is_of_a_kind_that_is_tested():
    assert set(re.findall(r"^```([^\n]+)\n", PAGE, re.MULTILINE)) == {"bash", "python", "python spark", "python feast"}
    assert len(blocks("python")) >= 9 and len(blocks("python spark")) == 2 and len(blocks("python feast")) == 1


def test_reading(names):
    assert names["vectors"].shape == (2, 1_280) and names["known"].tolist() == [True, False]
    assert np.array_equal(names["numbers"][0, 1], long_vector("u0000005", "2022-01-01").reshape(10, 128)[3])
    assert tuple(names["tensor"].shape) == (1, 10, 128) and names["frame"].columns[[0, -1]].tolist() == ["a0_0", "a0_127"]
    assert names["again"].epoch == 2 and names["batch"].num_rows > 0


def test_joining(names, folder):
    training = names["training"]
    assert training["as_of"].tolist()[:2] == ["2022-01-01"] * 2 and training["embedding"].isna().tolist() == [False, False, True]
    rows = {row["customer"]: row for row in pq.read_table(folder / "training.parquet").to_pylist()}
    assert {user: row["as_of"] for user, row in rows.items()} == {"u0000005": "2022-01-01", "u0000007": "2021-12-01", "nobody": None}
    expected = long_vector("u0000007", "2021-12-01").reshape(10, 128)[[0, 3]].reshape(-1)
    assert rows["u0000007"]["embedding"] == expected.tolist() and names["report"].with_vector == 2
    assert str(names["report"]).startswith("3 labels, 2 with a vector")


def test_other_engines_see_the_release_and_nothing_else(names):
    """The table's newest version holds a date that was never released; nobody is shown it."""
    assert (names["as_of"], names["model_id"], names["version"]) == ("2022-01-01", names["table"].model_id, names["table"].version)
    assert len(names["busiest"]) == 5 and names["busiest"][0][2] == long_vector(names["busiest"][0][0], "2022-01-01")[:128].tolist()
    own, others = long_vector("u0000005", "2022-01-01"), {user: long_vector(user, "2022-01-01") for user in USERS if user != "u0000005"}
    cosines = {user: own @ other / np.linalg.norm(own) / np.linalg.norm(other) for user, other in others.items()}
    assert [user for user, _ in names["alike"]] == sorted(cosines, key=cosines.get, reverse=True)[:5]
    assert names["alike"][0][1] == pytest.approx(max(cosines.values()), abs=1e-5)
    assert names["first"].rows() == [(user, 3, 1_280) for user in USERS[:3]] and names["facts"].shape == (50, 3)
    assert len(names["files"]) == 2 and all("as_of=2022-01-01" in file and os.path.exists(file) for file in names["files"])


def test_the_command_of_the_page(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (line,) = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("lurm join")]
    assert main(line.split()[1:]) == 0 and "3 labels, 2 with a vector" in capsys.readouterr().out


def test_spark(folder, spark, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    scope = {"spark": spark}
    exec("import lurm", scope)
    for block in blocks("python spark"):
        # A session that runs already keeps the folder it started in, so names of the page are made whole; nothing else is changed.
        code = block.replace('"demo/', f'"{folder}/demo/').replace('"labels.csv"', f'"{folder}/labels.csv"')
        exec(compile(code, "docs/reading.md", "exec"), scope)
    shown = capsys.readouterr().out
    assert re.search(r"u0000007\|\s*0\|2021-12-01", shown) and re.search(r"nobody\|\s*1\|\s*NULL", shown)
    assert re.search(r"\|2022-01-01\|model-[\w.]+\|\s*50\|\s*3\.0\|", shown) and shown.count("2022-02-01") == 0


@pytest.mark.slow
@pytest.mark.long  # a hundred packages are installed first
def test_feast(folder, tmp_path):
    """In an environment of its own, and with the vectors that `join` gives."""
    python = sys.executable if importlib.util.find_spec("feast") else _environment(tmp_path / "venv")
    (tmp_path / "demo").symlink_to(folder / "demo")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FEAST_USAGE": "False"}
    answer = subprocess.run([python, "-c", blocks("python feast")[0] + SAME], cwd=tmp_path, env=environment, capture_output=True, text=True,
                            check=False, timeout=300)
    assert answer.returncode == 0, answer.stderr[-3_000:]
    assert answer.stdout.splitlines()[-1] == "the same"


def _environment(place: Path) -> str:
    venv.create(place, with_pip=True)
    install = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *FEAST]
    answer = subprocess.run(install, capture_output=True, text=True, check=False, timeout=900)
    if answer.returncode:
        pytest.skip(f"feast is not installed here and could not be: {answer.stderr.strip().splitlines()[-1]}")
    return str(place / "bin" / "python")


def test_the_page_names_what_was_not_tried():
    untried = PAGE.partition("**Not tried**")[2].partition("\n\n")[0]
    assert all(engine in untried for engine in ("Trino", "BigQuery", "Snowflake"))
    assert open_table.__module__ == "lurm"
