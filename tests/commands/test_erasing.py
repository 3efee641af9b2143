"""`lurm erase`, `lurm suppression`, `lurm audit privacy`: what is printed, exit codes, and that ids stay out of what is kept."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from erasable import ERIKA, KEY, MAX, build, places_of
from published import publish_day

from lurm.cli import main
from lurm.erasing.erasure import proofs
from lurm.erasing.suppression import hashes_of, suppressed
from lurm.store import Store

STAY = [f"user-{number:04d}" for number in range(60)]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("LURM_SUPPRESSION_KEY", KEY)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Store:
    """Read only."""
    return build(tmp_path_factory.mktemp("erasing") / "warehouse")


@pytest.fixture
def store(built, tmp_path) -> Store:
    shutil.copytree(built.root, tmp_path / "warehouse")
    return Store(str(tmp_path / "warehouse"))


def run(capsys, *arguments: str) -> tuple[int, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out if code < 2 else captured.err.strip().splitlines()[-1]


def test_from_the_plan_to_the_proof(store, tmp_path, capsys):
    gone, where = tmp_path / "gone.txt", ("--warehouse", store.uri)
    gone.write_text(f"\ufeff{ERIKA}\n\n  nobody-by-this-name  \n", encoding="utf-8")
    code, text = run(capsys, "erase", *where, "--users", str(gone), "--dry-run")
    assert code == 0 and "user_embeddings            6             6" in text and "not found: nobody-by-this-name" in text
    assert "with-her" in text and proofs(store) == []

    code, text = run(capsys, "erase", *where, "--users", str(gone))
    [proof] = proofs(store)
    assert code == 0 and f"erasure {proof}: 2 persons, 1 of them were there" in text and ": 0 traces" in text
    assert "weights" in text and f"erasures/{proof}.json" in text and "exports deleted, make them again: with-her" in text
    assert ERIKA not in text and places_of(store.root, ERIKA) == set()

    assert run(capsys, "erase", *where, "--verify")[0] == run(capsys, "erase", *where, "--verify", proof)[0] == 0
    code, text = run(capsys, "erase", *where, "--verify", "--user", MAX, "--user", ERIKA)
    assert code == 1 and "column user_id" in text and MAX not in text
    code, text = run(capsys, "suppression", "list", *where)
    assert code == 0 and "2 persons are suppressed" in text and proof in text and ERIKA not in text


def test_a_foreign_file_that_names_her_is_named_and_left(store, capsys):
    store.write_bytes(store.path("notes.txt"), f"call {ERIKA}".encode())
    code, text = run(capsys, "erase", "--warehouse", store.uri, "--user", ERIKA)
    assert code == 1 and "1 traces\n  notes.txt: its text" in text and store.exists("notes.txt")
    assert json.loads(store.read_bytes(store.path("erasures", f"{proofs(store)[0]}.json")))["rescan"]["traces"] == [["notes.txt", "its text"]]
    store.delete(store.path("notes.txt"))
    assert run(capsys, "erase", "--warehouse", store.uri, "--verify", "--user", ERIKA)[0] == 0


def test_consent_anew(store, capsys):
    run(capsys, "erase", "--warehouse", store.uri, "--user", ERIKA, "--user", MAX)
    code, text = run(capsys, "suppression", "remove", "--warehouse", store.uri, "--user", ERIKA, "--user", "x")
    assert code == 0 and "1 of 2 persons" in text and ERIKA not in suppressed(store) and MAX in suppressed(store)


@pytest.mark.parametrize(("arguments", "sentence"), [
    (("erase",), "at least one id of a user"), (("erase", "--users", "nowhere.txt"), "one a line, in nowhere.txt"),
    (("erase", "--resume", "x"), "an unfinished erasure 'x'"), (("erase", "--resume", "x", "--user", "u"), "--resume without ids"),
    (("erase", "--verify"), "there is none"), (("erase", "--verify", "x"), "there is none"), (("erase", "--verify", "x", "--user", "u"), "got both"),
    (("suppression", "remove"), "at least one id"), (("audit", "privacy", "--column", "c"), "--attributes together with --column"),
    (("audit", "privacy", "--json", "/nowhere/x"), "Could not write /nowhere/x"),
])
def test_mistakes(built, capsys, arguments, sentence):
    code, line = run(capsys, *arguments, "--warehouse", built.uri)
    assert code == 2 and sentence in line and line.endswith(".")


def test_a_warehouse_that_is_not_there(tmp_path, capsys):
    code, line = run(capsys, "erase", "--warehouse", str(tmp_path / "nothing"), "--user", ERIKA)
    assert code == 2 and "Expected a warehouse at" in line and not (tmp_path / "nothing").exists()


def test_the_audit_as_text_and_as_json(store, tmp_path, capsys):
    code, text = run(capsys, "audit", "privacy", "--warehouse", store.uri, "--json", str(tmp_path / "audit.json"))
    assert code == 0 and text.startswith("release 5 of 2022-03-01") and "interests: the model or its interest space is not in the warehouse" in text
    assert json.loads((tmp_path / "audit.json").read_text())["interests"]["k"] == 20


@pytest.mark.parametrize("command", [("erase",), ("suppression", "list"), ("suppression", "remove"), ("audit", "privacy")])
def test_every_command_helps_with_an_example(capsys, command):
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    assert f"lurm {' '.join(command)} --warehouse" in capsys.readouterr().out.partition("example:")[2]


def test_the_page_says_what_can_be_typed(store, tmp_path, capsys, monkeypatch):
    """Every command of docs/erasure.md, in its order; the erasure to resume is one that has just been begun."""
    page = (Path(__file__).parents[2] / "docs" / "erasure.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL) for line in block.splitlines()]
    monkeypatch.chdir(tmp_path)
    Path("gone.txt").write_text(f"{ERIKA}\n")
    Path("back.txt").write_text(f"{ERIKA}\n")
    Path("people.csv").write_text("customer,gender\n" + "".join(f"{user},{'fm'[number % 2]}\n" for number, user in enumerate(STAY)))
    for line in lines:
        words = [store.uri if word == "/data/lurm" else word for word in shlex.split(line, comments=True)]
        assert words.pop(0) == "lurm"
        if "--resume" in words:
            record = {"erasure": words[-1], "begun_at": "", "calls": 1, "persons": sorted(hashes_of(store, [ERIKA])), "n_persons": 1, "tables": {}}
            store.write_bytes(store.path("erasures", f"{words[-1]}.begun.json"), json.dumps(record).encode())
        if words[0] == "audit":
            publish_day(store, "2022-06-01", STAY)
        code, text = run(capsys, *words)
        assert code == 0, f"{line}: {text}"
    assert len(lines) >= 7 and places_of(store.root, ERIKA) == set()
