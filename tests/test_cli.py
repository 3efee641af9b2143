"""The command line: exit codes, one sentence for every mistake, an example in every help, and a table that can be read."""

import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from published import MODEL, publish_day, rows_of, stage_day, vector

from lurm import __version__, cli, open_table
from lurm.cli import main
from lurm.commands import running
from lurm.errors import LurmError
from lurm.pipeline import PYTHON, STAGES
from lurm.store import Store

COMMANDS = ["run", *(stage.name for stage in STAGES), "stages", "status", "read", "join", "similar", "export", "demo", "backfill", "runs", "check",
            "releases", "rollback", "vacuum", "erase", "suppression", "audit"]
AS_OF = "2022-01-01"


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory) -> str:
    """Two dates: a on the first, a to e on the second."""
    uri = str(tmp_path_factory.mktemp("cli") / "warehouse")
    publish_day(Store(uri), "2021-12-01", ["a"])
    publish_day(Store(uri), AS_OF, ["a", "b", "c", "d", "e"], n_files=2)
    return uri


def fails(capsys, *arguments: str) -> str:
    """Run a command that must fail the way a user's mistake does; returns its sentence."""
    assert main([*arguments]) == 2
    captured = capsys.readouterr()
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith("lurm: ") and last.endswith(".") and "Traceback" not in captured.err and captured.out == ""
    return last


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps_with_an_example(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and f"  lurm {command}" in text.partition("example:")[2]


def test_the_examples_parse():
    for command in COMMANDS:
        parser = cli._parser()._subparsers._group_actions[0].choices[command]
        for line in parser.epilog.splitlines():
            if line.startswith("  lurm "):
                cli._parser().parse_args(shlex.split(line)[1:])
    for line in cli.EXAMPLES.splitlines()[1:]:
        cli._parser().parse_args(shlex.split(line)[1:])


def test_help_of_the_whole(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS) and "examples:" in text


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"lurm {__version__}"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run"], ["run", "--warehouse", "w"], ["read", "--warehouse", "w"],
                                       ["run", "--warehouse", "w", "--as-of", AS_OF, "--until", "lunch"],
                                       ["read", "--warehouse", "w", "--output", "x", "--users", "a", "--users-file", "f"]])
def test_a_command_that_does_not_parse(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "usage: lurm" in capsys.readouterr().err


def test_stages(capsys):
    assert main(["stages"]) == 0
    text = capsys.readouterr().out
    for stage in STAGES:
        assert stage.name in text and stage.summary in text and ", ".join(stage.reads) in text


@pytest.mark.parametrize(("arguments", "part"), [
    (["--as-of", "yesterday"], "Expected --as-of as a date YYYY-MM-DD, got 'yesterday'"),
    (["--as-of", AS_OF, "--config", "nosuch"], "Expected a configuration file at 'nosuch', found none; give a path to a TOML file or one of: "),
    (["--as-of", AS_OF, "--set", "smen.max_step=3"], "did you mean 'smen.max_steps'?"),
    (["--as-of", AS_OF, "--set", "smen.max_steps"], "--set expects section.field=value"),
    (["--as-of", AS_OF, "--set", "smen.batch_size=1"], "'smen.batch_size' expects a number of at least 2, got 1"),
])
@pytest.mark.parametrize("command", ["run", "publish"])
def test_mistakes_on_the_command_line(tmp_path, capsys, command, arguments, part):
    assert main([command, "--warehouse", str(tmp_path / "w"), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("lurm: ") and part in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", [stage.name for stage in STAGES if stage.engine == PYTHON])
def test_a_stage_without_its_input_and_a_model_nobody_trained(tmp_path, capsys, stage):
    uri = str(tmp_path / "w")
    assert "Expected events before 2022-01-01" in fails(capsys, stage, "--warehouse", uri, "--as-of", AS_OF)
    if stage not in ("train-item-encoder", "audit-inputs"):
        text = fails(capsys, stage, "--warehouse", uri, "--as-of", AS_OF, "--model", "model-x")
        assert "Expected model 'model-x'" in text and "found: none; pass one of these to --model" in text


def without_bags(monkeypatch) -> None:
    """What `published.stage_day` stages can be published by the command line: its key is given, and there are no bags to look at."""
    monkeypatch.setattr("lurm.lineage.Context.embed_key", lambda context: "a" * 16)
    monkeypatch.setattr("lurm.lineage.Context.bags", lambda context: context.store.snapshot("bags"))


@pytest.mark.parametrize(("arguments", "came"), [
    (["--force"], "no reason"), (["--force", "--reason", "  "], "no reason"), (["--reason", "why not"], "a reason alone"),
])
def test_forcing_takes_both_words(tmp_path, capsys, arguments, came):
    sentence = fails(capsys, "publish", "--warehouse", str(tmp_path / "w"), "--as-of", AS_OF, *arguments)
    assert f"Expected --force together with --reason TEXT, got {came}; write for example --force --reason" in sentence


def test_a_forced_publication_says_so(tmp_path, capsys, monkeypatch):
    """The whole way: a table under the limit is blocked, then published with the reason, which `lurm releases` shows."""
    store = Store(str(tmp_path / "w"))
    stage_day(store, AS_OF, [rows_of(["a"])])
    without_bags(monkeypatch)
    arguments = ["publish", "--warehouse", store.uri, "--as-of", AS_OF, "--quiet", "--set", "gate.min_users=2"]
    assert "enough_users is 1, expected at least 2" in fails(capsys, *arguments)
    assert main([*arguments, "--force", "--reason", "only one\n user  is left"]) == 0
    assert json.loads(capsys.readouterr().out)["forced"] == "only one user is left" and open_table(store.uri).n_users == 1
    assert main(["releases", "--warehouse", store.uri]) == 0
    assert "publish, forced: only one user is left" in capsys.readouterr().out


@pytest.mark.parametrize("uri", ["ftp://host/w", ""])
def test_a_warehouse_that_is_no_place(capsys, uri):
    assert "warehouse" in fails(capsys, "status", "--warehouse", uri)
    assert "warehouse" in fails(capsys, "read", "--warehouse", uri, "--output", "x")


def test_status_of_nothing(tmp_path, capsys):
    assert "Expected a warehouse at" in fails(capsys, "status", "--warehouse", str(tmp_path / "w"))


def test_status(warehouse, capsys):
    assert main(["status", "--warehouse", warehouse]) == 0
    text = capsys.readouterr().out
    assert "user_embeddings" in text and "2 x as_of, 2021-12-01 to 2022-01-01" in text
    assert f"{AS_OF}  {MODEL}  5 users" in text and text.count("\nrelease ") == 2
    assert re.search(r"readers get       release 2 of 2022-01-01, \d+ days old", text) and "last run" not in text


def read(tmp_path, capsys, warehouse, *arguments):
    output = tmp_path / "out.parquet"
    assert main(["read", "--warehouse", warehouse, "--output", str(output), *arguments]) == 0
    table = pq.read_table(output)
    assert table.column_names == ["user_id", "embedding"] and not (tmp_path / "out.parquet.part").exists()
    return table.column("user_id").to_pylist(), np.array(table.column("embedding").to_pylist(), np.float32), capsys.readouterr().out


def test_read_some_users(warehouse, tmp_path, capsys):
    users, vectors, said = read(tmp_path, capsys, warehouse, "--users", "d, a,d")
    assert users == ["d", "a", "d"] and np.array_equal(vectors, np.stack([vector(user, AS_OF) for user in users]))
    assert said == f"3 users of {AS_OF}, 2 x 3, model {MODEL}: {tmp_path / 'out.parquet'}\n"


def test_read_users_of_a_file(warehouse, tmp_path, capsys):
    (tmp_path / "who.txt").write_text("c\n\n b \n")
    users, vectors, _ = read(tmp_path, capsys, warehouse, "--users-file", str(tmp_path / "who.txt"))
    assert users == ["c", "b"] and np.array_equal(vectors[1], vector("b", AS_OF))


def test_read_everybody_and_an_earlier_date(warehouse, tmp_path, capsys):
    users, vectors, _ = read(tmp_path, capsys, warehouse)
    assert users == [*"abcde"] and np.array_equal(vectors, np.stack([vector(user, AS_OF) for user in users]))
    users, vectors, said = read(tmp_path, capsys, warehouse, "--as-of", "2021-12-31")
    assert users == ["a"] and np.array_equal(vectors[0], vector("a", "2021-12-01")) and "1 users of 2021-12-01" in said


def test_read_nobody(warehouse, tmp_path, capsys):
    (tmp_path / "who.txt").write_text("\n")
    assert read(tmp_path, capsys, warehouse, "--users-file", str(tmp_path / "who.txt"))[0] == []


def test_mistakes_in_reading(warehouse, tmp_path, capsys):
    output = ["--output", str(tmp_path / "out.parquet")]
    base = ["read", "--warehouse", warehouse]
    assert "does not hold 2 of 3: nobody, zz" in fails(capsys, *base, *output, "--users", "a,nobody,zz")
    assert "Expected --as-of as a date" in fails(capsys, *base, *output, "--as-of", "2022-1-1")
    assert "the first one is of 2021-12-01" in fails(capsys, *base, *output, "--as-of", "2020-01-01")
    assert "Expected a release in" in fails(capsys, "read", "--warehouse", str(tmp_path / "none"), *output)
    assert "Expected user ids, one a line" in fails(capsys, *base, *output, "--users-file", str(tmp_path / "none.txt"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert "Expected user ids, one a line" in fails(capsys, *base, *output, "--users-file", str(tmp_path / "binary"))
    assert "choose another --output" in fails(capsys, *base, "--output", str(tmp_path / "no" / "folder" / "x.parquet"))
    (tmp_path / "folder").mkdir()
    assert "choose another --output" in fails(capsys, *base, "--output", str(tmp_path / "folder"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["binary", "folder"], "nothing half written is left"


def test_a_staged_table_that_fails_its_audit(tmp_path, capsys, monkeypatch):
    store = Store(str(tmp_path / "w"))
    stage_day(store, AS_OF, [rows_of(["a", "a"])])
    without_bags(monkeypatch)
    assert "no_duplicate_users is 1" in fails(capsys, "publish", "--warehouse", store.uri, "--as-of", AS_OF, "--quiet")


def test_one_stage_prints_its_figures_as_json(tmp_path, capsys, monkeypatch):
    store = Store(str(tmp_path / "w"))
    stage_day(store, AS_OF, [rows_of(["a", "b"])])
    without_bags(monkeypatch)
    assert main(["publish", "--warehouse", store.uri, "--as-of", AS_OF, "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["users"] == 2


@pytest.mark.parametrize(("arguments", "first", "last", "count"), [
    ([], "ingest", "publish", len(STAGES)), (["--until", "build-pairs"], "ingest", "build-pairs", 3),
    (["--model", "m"], "ingest", "publish", sum("daily" in stage.schedule for stage in STAGES)),
    (["--model", "m", "--until", "train-smen"], "ingest", "build-bags", 5), (["--until", "ingest"], "ingest", "ingest", 1),
])
def test_run_calls_the_stages_up_to_the_one_named(tmp_path, capsys, monkeypatch, arguments, first, last, count):
    called = []

    def fake(context, names, **more):
        called.extend(names)
        return {name: {"seconds": 1.0, "peak_mb": 2, "released": False, "users": 7} for name in names}

    monkeypatch.setattr("lurm.runner.run_stages", fake)
    assert main(["run", "--warehouse", str(tmp_path), "--as-of", AS_OF, *arguments]) == 0
    assert (called[0], called[-1], len(called)) == (first, last, count)
    assert f"{last}" in capsys.readouterr().out, "also where publish.release is false and there is nothing to open"


def test_run_ends_with_the_table(warehouse, capsys, monkeypatch):
    monkeypatch.setattr("lurm.runner.run_stages", lambda context, names, **more: {"publish": {"seconds": 1.0, "peak_mb": 2, "released": True}})
    assert main(["run", "--warehouse", warehouse, "--as-of", AS_OF]) == 0
    assert capsys.readouterr().out.strip().endswith("5 users x 2 anchors x 3)")


def test_releases_and_rollback(tmp_path, capsys):
    store = Store(str(tmp_path / "w"))
    publish_day(store, "2022-01-01", ["u1"])
    publish_day(store, "2022-02-01", ["u1", "u2"])
    assert main(["rollback", "--warehouse", store.uri, "--reason", "drift"]) == 0
    assert open_table(store.uri).as_of == "2022-01-01"
    capsys.readouterr()
    assert main(["releases", "--warehouse", store.uri]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "2022-01-01" in lines[2] and lines[2].endswith("drift")
    assert "Expected epoch 7" in fails(capsys, "rollback", "--warehouse", store.uri, "--to", "7")


@pytest.mark.parametrize(("raised", "code", "said"), [(LurmError("Expected this, got that, do so."), 2, "lurm: Expected this"),
                                                      (KeyboardInterrupt(), 130, "lurm: interrupted; run the same command again")])
def test_exit_codes(capsys, monkeypatch, raised, code, said):
    def fail(options):
        raise raised

    monkeypatch.setattr(running, "_stages", fail)
    assert main(["stages"]) == code and capsys.readouterr().err.startswith(said)


def test_a_defect_of_lurm_is_a_traceback(monkeypatch):
    def fail(options):
        raise ZeroDivisionError

    monkeypatch.setattr(running, "_stages", fail)
    with pytest.raises(ZeroDivisionError):
        main(["stages"])


def test_the_demo_says_where_it_cannot_write(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert "choose another --directory" in fails(capsys, "demo", "--directory", str(tmp_path / "file"), "--quiet")


def test_the_installed_command(warehouse, tmp_path):
    """A real process: exit code, stderr, stdout, and a pipe that is closed early."""
    command = [sys.executable, "-m", "lurm.cli"]
    answer = subprocess.run([*command, "status", "--warehouse", str(tmp_path / "w")], capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 2 and answer.stdout == "" and answer.stderr.count("\n") == 1 and answer.stderr.startswith("lurm: ")
    answer = subprocess.run([*command, "stages"], capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 0 and answer.stderr == "" and "build-bags" in answer.stdout
