"""`lurm compare`: the lines, the file, and what is refused."""

import json

import numpy as np
import pytest
from published import DIM, N_ANCHORS, day, rows_of, stage_day

from lurm import cli, publication
from lurm.cli import main
from lurm.store import Store

USERS = [f"u{number:03d}" for number in range(200)]
VECTORS = np.random.default_rng(0).standard_normal((200, N_ANCHORS * DIM)).astype(np.float32)


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path / "warehouse"))
    for number, release in enumerate([True, False]):
        vectors = VECTORS if release else VECTORS[:, ::-1]
        stage_day(store, "2022-01-01", [rows_of(USERS, vectors=list(vectors))], str(number) * 16, f"model-{number}")
        publication.run(day(store, "2022-01-01", str(number) * 16, release))
    return store


def compare(store: Store, *arguments: str) -> int:
    return main(["compare", "--warehouse", store.uri, *arguments])


def labels_of(tmp_path, users=USERS) -> str:
    file = tmp_path / "labels.csv"
    file.write_text("user_id,bought,at\n" + "".join(f"{user},{int(VECTORS[number, 0] > 0)},2022-01-02\n" for number, user in enumerate(users)))
    return str(file)


def test_lines_and_file_say_the_same(store, tmp_path, capsys):
    target = tmp_path / "comparison.json"
    assert compare(store, "released", "candidate", "--labels", labels_of(tmp_path), "--label", "bought", "--time", "at", "--json", str(target)) == 0
    text, told = capsys.readouterr().out, json.loads(target.read_text())
    assert "probe, bought" in text and f"{told['neighbours']['10']['mean']:.3f} (chance" in text
    task = told["tasks"]["bought"]
    assert task["before"] > 0.95 and task["now"] > 0.95 and task["users"] == task["rows"] == 200 and task["absent_users"] == 0
    assert told["neighbours"]["10"]["mean"] == 1 and not list(tmp_path.glob("*.part")), "numbers in another order: every cosine stays"


def test_only_labels_after_the_date_and_of_known_users_count(store, tmp_path, capsys):
    strangers = [f"v{user}" for user in USERS[:50]]
    assert compare(store, "released", "candidate", "--labels", labels_of(tmp_path, [*strangers, *USERS[50:]]), "--label", "bought",
                   "--json", str(tmp_path / "c.json")) == 0
    assert json.loads((tmp_path / "c.json").read_text())["tasks"]["bought"]["absent_users"] == 50
    early = tmp_path / "early.csv"
    early.write_text("user_id,bought,at\nu001,1,2021-12-31\nu002,0,\n")
    assert compare(store, "released", "candidate", "--labels", str(early), "--label", "bought", "--time", "at") == 2
    assert "found none in its 2 rows (1 are before 2022-01-01, 1 lack a user, label or time)" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["released", "released"], "Expected two different tables"), (["released", "nobody"], "got 'nobody'"),
    (["released", "candidate", "--label", "x"], "Expected --labels FILE together with --label"),
    (["1", "candidate", "--as-of", "soon"], "YYYY-MM-DD"),
    (["released", "candidate", "--sample", "0"], "Expected --sample of at least 2"),
    (["released", "candidate", "--json", "/nowhere/c.json"], "Could not write /nowhere/c.json"),
])
def test_what_is_refused(store, capsys, arguments, sentence):
    assert compare(store, *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence in error and error.endswith(".")


def test_the_examples_of_the_help_parse(capsys):
    for command in ("compare", "retire", "release"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip().startswith(f"lurm {command}")]
        assert lines
        for line in lines:
            cli._parser().parse_args([word.strip("'") for word in line.replace("'its successor is better'", "better").split()[1:]])
