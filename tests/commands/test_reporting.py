"""`lurm report` and `lurm explain` as they are typed."""

import json
import re
import subprocess
import sys

import pytest
from small_release import AS_OF, MODEL, N_ANCHORS, SECRET, plant_release

from lurm.cli import main


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory) -> str:
    return plant_release(tmp_path_factory.mktemp("reporting") / "warehouse").store.uri


def test_report_writes_one_page(warehouse, tmp_path, capsys):
    output = tmp_path / "release.html"
    assert main(["report", "--warehouse", warehouse, "--output", str(output), "--min-users", "5", "--layout", "pca"]) == 0
    told = rf"release 1 of {AS_OF}: {re.escape(str(output))}, [45]\.\d MB; 11 of 12 interests are named, 1 have fewer than 5 users"
    assert re.search(told, capsys.readouterr().out)
    page = output.read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and MODEL in page and SECRET not in page and [file.name for file in tmp_path.iterdir()] == [output.name]


def test_explain_prints_text_and_json_and_writes_a_page(warehouse, tmp_path, capsys):
    assert main(["explain", "--warehouse", warehouse, "--user", "u000"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"user u000, release 1 of {AS_OF}, {MODEL}") and text.count("\nanchor ") == N_ANCHORS and SECRET not in text
    output = tmp_path / "u000.html"
    assert main(["explain", "--warehouse", warehouse, "--user", "u000", "--json", "--output", str(output), "--min-users", "2"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data["anchors"]) == N_ANCHORS and data["min_users"] == 2 and SECRET in json.dumps(data) and SECRET in output.read_text()


@pytest.mark.parametrize("words, sentence", [
    (["report", "--min-users", "0"], "Expected --min-users to be at least 1, got 0"),
    (["explain", "--user", "u000", "--top", "0"], "Expected --top to be at least 1, got 0"),
    (["explain", "--user", "nobody"], "it does not hold 1 of 1: nobody"),
    (["report", "--as-of", "2019-01-01"], "Expected a release on or before 2019-01-01"),
    (["report", "--output", "/nonexistent/x.html", "--layout", "pca"], "Could not write /nonexistent/x.html"),
])
def test_sentences(warehouse, words, sentence, capsys):
    assert main([words[0], "--warehouse", warehouse, *words[1:]]) == 2
    assert sentence in capsys.readouterr().err


def test_help_has_examples_and_needs_no_torch(capsys):
    for name in ("report", "explain"):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert f"lurm {name} --warehouse" in capsys.readouterr().out
    loaded = "import sys, lurm.commands.reporting; print([name for name in ('torch', 'tokenizers', 'umap', 'pyarrow') if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[]"
