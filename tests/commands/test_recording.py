"""`lurm runs`: the last runs as a table, one of them in detail."""

import json

import pytest
from published import day, rows_of, stage_day

from lurm.cli import main
from lurm.errors import AuditError
from lurm.runner import run_stages
from lurm.runs import last_runs
from lurm.store import Store


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path / "warehouse"))
    stage_day(store, "2022-01-01", [rows_of(["a", "b"])])
    run_stages(day(store, "2022-01-01"), ["publish"])
    stage_day(store, "2022-02-01", [rows_of(["a", "a"])], key="b" * 16)
    with pytest.raises(AuditError):
        run_stages(day(store, "2022-02-01", "b" * 16), ["publish"])
    return store


def test_the_last_runs_oldest_first(store, capsys):
    assert main(["runs", "--warehouse", store.uri]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["run", "command", "as_of", "status"]
    assert first.split()[1:4] == ["run", "2022-01-01", "done"] and second.split()[1:4] == ["run", "2022-02-01", "failed"]
    assert main(["runs", "--warehouse", store.uri, "--last", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [second]


def test_one_run_in_detail(store, capsys):
    done, failed = (record["run_id"] for record in last_runs(store, 2))
    assert main(["runs", "--warehouse", store.uri, "--run", done]) == 0
    text = capsys.readouterr().out
    table, _, settings = text.partition("\nsettings\n")
    assert json.loads(settings)["publish"]["release"] is True
    line = next(line for line in table.splitlines() if line.startswith("publish "))
    assert line.split()[2] == "2", "rows"
    assert "tables after" in table and "user_embeddings 1" in table and "core_hours" in table
    assert main(["runs", "--warehouse", store.uri, "--run", failed]) == 0
    assert "no_duplicate_users" in capsys.readouterr().out


def test_a_warehouse_without_runs_and_a_run_that_is_not_there(tmp_path, store, capsys):
    assert main(["runs", "--warehouse", str(tmp_path / "none")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert main(["runs", "--warehouse", store.uri, "--run", "nosuch"]) == 2
    assert "Expected run 'nosuch'" in capsys.readouterr().err


def test_status_shows_the_last_run_and_the_age_of_the_release(store, capsys):
    assert main(["status", "--warehouse", store.uri]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3] == "last run" and lines[-1].split()[1:4] == ["run", "2022-02-01", "failed"]
    assert lines[-4].startswith("readers get       release 1 of 2022-01-01, ") and lines[-4].endswith(" days old")
