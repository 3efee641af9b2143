"""docs/runbook.md and docs/report.md as they stand: every command, in the order of the page, on a warehouse whose model is trained."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from small_pipeline import AS_OF, SMALL, as_toml, source_overrides
from test_readme import commands, lurm_arguments

from lurm import open_table
from lurm.cli import main
from lurm.releases import releases
from lurm.runs import last_runs
from lurm.store import Store

pytestmark = pytest.mark.slow
DOCS = Path(__file__).parents[1] / "docs"
DAY = "2021-02-20"  # for the runbook's day; its months become two days after the model's training
DATES = {"2022-01-05": DAY, "2021-01-01": "2021-02-17", "2021-12-01": "2021-02-18", "2021-06-01": "2021-02-01"}
ENDS = {"check": 1}  # all others 0; a table of the past is stale


@pytest.fixture
def desk(finished, world, spark, tmp_path, monkeypatch) -> Store:
    """A folder with demo/warehouse, my.toml and gone.txt."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished[0].store.uri, tmp_path / "demo" / "warehouse")
    (tmp_path / "my.toml").write_text(as_toml((*SMALL, *source_overrides(world), "gate.max_mean_shift=9")), encoding="utf-8")
    (tmp_path / "gone.txt").write_text("u0000007\n", encoding="utf-8")
    return Store(str(tmp_path / "demo" / "warehouse"))


def in_order(page: str) -> list[list[str]]:
    """Arguments of the lurm commands of a page."""
    found = [lurm_arguments(line) for line in commands([DOCS / page])]
    return [arguments for arguments in found if arguments is not None]


def test_every_command_of_the_runbook_does_what_it_says(desk, capsys):
    given = in_order("runbook.md")
    assert len(given) > 20
    told, pointer, model = [], [], open_table(desk.uri).model_id
    assert main(["run", "--config", "my.toml", "--warehouse", desk.uri, "--as-of", AS_OF, "--quiet"]) == 0  # a run to be looked at; all is done
    capsys.readouterr()
    for arguments in given:
        backfills = [record["run_id"] for record in last_runs(desk, 50) if record["command"] == "backfill"]
        text = shlex.join(arguments).replace("/data/lurm", desk.uri).replace("--to 12 ", "--to 2 ")
        text = re.sub(r"model-0123456789abcdef", model, text)
        text = re.sub(r"20220105T\d+-0a1b2c", (backfills or [last_runs(desk, 1)[0]["run_id"]])[-1], text)
        for theirs, ours in DATES.items():
            text = text.replace(theirs, ours)
        assert main(shlex.split(text)) == ENDS.get(arguments[0], 0), text
        told.append((arguments[0], capsys.readouterr().out))
        pointer.append(open_table(desk.uri).as_of)
    names = [name for name, _ in told]
    assert {"check", "status", "runs", "run", "embed-users", "publish", "ingest", "audit-inputs", "vacuum", "releases", "rollback", "backfill",
            "erase"} <= set(names)
    assert "stale" in told[0][1] and AS_OF in told[0][1]
    assert pointer[: names.index("run")] == [AS_OF] * names.index("run") and pointer[names.index("run")] == DAY, "the stale day was made up for"
    first = names.index("rollback")
    assert pointer[first : first + 2] == [AS_OF, DAY] and pointer[-1] == DAY, "back, to that epoch, and by the run of the day again"
    assert {row["as_of"] for row in releases(desk)} == {AS_OF, DAY, "2021-02-17", "2021-02-01"}
    assert main(["releases", "--warehouse", desk.uri]) == 0
    assert "model trained later" in capsys.readouterr().out
    assert "u0000007" not in open_table(desk.uri).to_numpy()[0].tolist(), "the person is gone"


def test_every_command_of_the_report_page_does_what_it_says(desk, capsys):
    for arguments in in_order("report.md"):
        assert main(arguments) == 0, arguments
    out = capsys.readouterr().out
    assert Path("report.html").stat().st_size > 100_000 and "u0000001" in Path("u0000001.html").read_text(encoding="utf-8") and '"anchors"' in out
