"""The README's commands do what they say: each of them, in the order of the page, on a log in CSV that its own my.toml describes.

Its Python, its links and its list of stages are the matter of tests/test_readme.py; `make airflow` is that of tests/docker/test_standalone.py.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from small_commands import ROOT, blocks_of, check_rows, made_small, run_lurm, run_make
from small_pipeline import SMALL, as_toml

from lurm import open_table
from lurm.cli import main
from lurm.synthetic import WorldSettings, write_world

pytestmark = [pytest.mark.slow, pytest.mark.long]
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def shop(tmp_path, monkeypatch) -> dict[str, Path]:
    """A folder with what the README's my.toml names, and labels.csv; a warehouse with the release of the month before its first command."""
    desk = tmp_path
    monkeypatch.chdir(desk)
    world = write_world(desk / "world", WorldSettings(n_users=200, n_items=400, n_topics=24, n_months=14, start="2021-01", events_per_user=40))
    events, items, users = (pq.read_table(path) for path in (world.events_path, world.items_path, world.users_path))
    (desk / "log").mkdir()
    action = np.random.default_rng(0).choice(["click", "buy", "view"], len(events), p=[0.7, 0.2, 0.1])
    pacsv.write_csv(pa.table({"customer": events["user_id"], "sku": events["item_id"], "bought_at": events["timestamp"].cast(pa.timestamp("s")),
                              "action": action}), desk / "log" / "one.csv")
    (desk / "catalogue.jsonl").write_text("".join(json.dumps({"sku": row["item_id"], "name": row["title"]}) + "\n" for row in items.to_pylist()))
    labels = {"customer": users["user_id"], "bought_at": ["2022-01-03"] * len(users), "bought": np.arange(len(users)) % 2}
    pacsv.write_csv(pa.table(labels), desk / "labels.csv")
    (block,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (desk / "my.toml").write_text(block.replace('"log/', f'"{desk}/log/').replace('"catalogue', f'"{desk}/catalogue')
                                  + as_toml((*SMALL, "gate.max_mean_shift=9"), skip=["items"]), encoding="utf-8")
    return {"folder": desk, "warehouse": desk / "demo" / "warehouse"}


def test_every_command_of_the_readme(shop, spark, capsys, monkeypatch):
    """In the order of the page, on a log in CSV as its my.toml describes it; and the one command of docs/models.md that trains."""
    monkeypatch.setenv("LURM_SUPPRESSION_KEY", "a key of a test that is long enough")
    assert main(["run", "--quiet", "--config", "my.toml", "--warehouse", str(shop["warehouse"]), "--as-of", "2021-12-01"]) == 0
    capsys.readouterr()
    candidate = next(line for block in blocks_of("docs/models.md") for line in block if line.startswith("lurm run"))
    told, pointer = {}, []
    for block in blocks_of("README.md"):
        if block[0].startswith("make "):
            continue  # the next test
        if block[0].startswith("git "):
            _on_a_cluster(block, shop)
            continue
        for line in block:
            words = shlex.split(line, comments=True)
            if words[1] == "compare":
                run_lurm("docs/models.md", candidate.replace("2022-01-01", "2022-02-01"), shop, capsys)  # of the date that readers follow here
            told[words[1]] = run_lurm("README.md", line, shop, capsys, ends=1 if words[1] == "check" else 0)  # a table of the past is stale
            pointer.append((words[1], open_table(str(shop["warehouse"])).as_of))
    assert [name for name, _ in pointer[:6]] == ["run", "status", "read", "releases", "rollback", "run"]
    assert [as_of for _, as_of in pointer[:6]] == [*["2022-01-01"] * 4, "2021-12-01", "2022-02-01"]
    assert {as_of for _, as_of in pointer[6:]} == {"2022-02-01"}
    assert {"backfill", "runs", "check", "vacuum", "join", "similar", "export", "report", "explain", "compare", "erase"} <= set(told)
    assert pq.read_metadata("vectors.parquet").num_rows == 2 and pq.read_metadata("training.parquet").num_rows == 200
    assert Path("report.html").stat().st_size > 100_000 and told["similar"].count("u0000005") >= 20 and "12 dates" in told["backfill"]
    assert list(shop["warehouse"].glob("**/*.faiss")) != [] and "stale" in told["check"] and "u0000005" in told["explain"]


def _on_a_cluster(block: list[str], shop: dict[str, Path]) -> None:
    """The zip of the sources, and build-bags by spark-submit where no bags are; on a master of one process."""
    archive, submit = (made_small("README.md", line, shop) for line in block)
    subprocess.run(["git", *archive.arguments], cwd=ROOT, check=True, timeout=60)
    for folder in ("tables", "manifests"):
        shutil.move(shop["warehouse"] / folder / "bags", shop["folder"] / f"{folder}-of-bags")
    program = Path(sys.executable).with_name("spark-submit")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYSPARK", "SPARK", "PYTHONPATH"))}
    environment |= {"SPARK_LOCAL_IP": "127.0.0.1", "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    answer = subprocess.run([program, *submit.arguments], cwd=shop["folder"], env=environment, capture_output=True, text=True, timeout=300,
                            check=False)
    assert answer.returncode == 0, answer.stderr[-4_000:]
    assert '"months": {"periods": 12' in answer.stdout
    for folder in ("tables", "manifests"):
        shutil.rmtree(shop["warehouse"] / folder / "bags")
        shutil.move(shop["folder"] / f"{folder}-of-bags", shop["warehouse"] / folder / "bags")


def test_the_demo_that_the_readme_shows(tmp_path):
    """`make demo`, the whole world in few steps; what the README shows of it is printed."""
    words = "--set encoder.max_steps=20 smen.max_steps=4 smen.evaluate_every=2 smen.min_effective_rank=1.0"
    out = run_make("README.md", blocks_of("README.md")[0][0], tmp_path, {}, words).replace(f"{tmp_path}/", "")  # the page leaves out where it was
    shown = re.search(r"^```text\n(table .*?)^```", PAGE, re.DOTALL | re.MULTILINE).group(1)
    for part in shown.splitlines()[:2]:
        assert " ".join(part.split()) in " ".join(out.split()), f"the README shows {part!r}, the demo printed\n{out}"
    check_rows(out, tuple(part.split()[0] for part in shown.splitlines()[2:]))
