"""docs/quickstart.md as a newcomer follows it: the page's own commands, in its order, on CSV files of one's own."""

import os
import re
import shlex
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from small_pipeline import SMALL, as_toml
from test_readme import lurm_arguments

from lurm import open_table
from lurm.synthetic import WorldSettings, write_world

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder with log.csv, catalogue.csv, labels.csv and my.toml as the page shows them; small settings are added to the latter."""
    folder = tmp_path_factory.mktemp("desk")
    world = write_world(folder / "world", WorldSettings(n_users=300, n_items=600, n_months=13, start="2020-12", events_per_user=40))
    events, items, users = (pq.read_table(path) for path in (world.events_path, world.items_path, world.users_path))
    log = pa.table({"customer": customers(events), "sku": events["item_id"], "bought_at": events["timestamp"].cast(pa.timestamp("s"))})
    pacsv.write_csv(log, folder / "log.csv")
    pacsv.write_csv(pa.table({"sku": items["item_id"], "name": items["title"]}), folder / "catalogue.csv")
    days = np.random.default_rng(3).integers(1, 90, len(users))  # after the first table
    decided = [(date(2021, 10, 1) + timedelta(int(day))).isoformat() for day in days]
    persona = np.asarray(users["persona"].to_pylist())
    returned = (persona == persona[0]).astype(int)
    pacsv.write_csv(pa.table({"customer": customers(users), "decided_at": decided, "returned": returned}), folder / "labels.csv")
    extra = as_toml((*SMALL, "gate.max_mean_shift=9"), skip=["items"])  # so small a model moves by more than half a spread when a year begins
    (folder / "my.toml").write_text(blocks("toml")[0] + extra, encoding="utf-8")
    return folder


def customers(table: pa.Table) -> list[str]:
    return [f"c{user[2:]}" for user in table["user_id"].to_pylist()]


@pytest.fixture(scope="module")
def followed(desk) -> dict[str, str]:
    """What each command of the page printed, by its name (the last of each name)."""
    printed = {}
    for block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            arguments = lurm_arguments(line)
            if arguments is None:
                assert line == "make install", f"the page asks for {line!r}, which this test does not follow"
                continue
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            answer = subprocess.run([sys.executable, "-m", "lurm.cli", *arguments], cwd=desk, env=environment, capture_output=True, text=True,
                                    timeout=600, check=False)
            assert answer.returncode == 0, f"{shlex.join(arguments)}\n{answer.stdout[-2_000:]}{answer.stderr[-4_000:]}"
            printed[arguments[0]] = answer.stdout
    return printed


@pytest.mark.slow
def test_the_tables_of_four_dates_and_a_day(followed, desk):
    dates = [line.split()[2] for line in followed["releases"].splitlines()]
    assert dates == ["2021-10-01", "2021-11-01", "2021-12-01", "2022-01-01"]
    assert open_table(str(desk / "warehouse")).as_of == "2022-01-02"
    neighbours = [line.split() for line in followed["similar"].splitlines() if line.startswith("c000017 ")]
    assert [int(rank) for _, rank, _, _ in neighbours] == [1, 2, 3, 4, 5] and "c000017" not in {name for *_, name in neighbours}


@pytest.mark.slow
def test_the_page_that_it_writes(followed, desk):
    page = (desk / "report.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html") and "2022-01-01" in page


@pytest.mark.slow
def test_each_label_got_a_vector_of_its_past(followed, desk, monkeypatch, capsys):
    rows = pq.read_table(desk / "training.parquet")
    assert {"customer", "decided_at", "returned", "embedding", "as_of", "model_id"} <= set(rows.column_names) and rows.num_rows == 300
    joined = rows.filter(pa.compute.is_valid(rows["embedding"])).to_pylist()
    assert len(joined) > 200 and all(row["as_of"] <= str(row["decided_at"])[:10] for row in joined)
    monkeypatch.chdir(desk)
    names: dict = {}
    (code,) = blocks("python")
    exec(compile(code.replace("(n, 1280)", ""), "quickstart.md", "exec"), names)  # our own page, nothing else
    assert 0.4 < names["auc"].mean() <= 1 and "AUC" in capsys.readouterr().out
