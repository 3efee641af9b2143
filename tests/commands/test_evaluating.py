"""`lurm evaluate`: a small table from a file to a page, with the methods of the registry."""

import re

import pytest

from lurm.cli import main

CONFIG = """
name = "tiny"
cut = "2020-06-01"
min_events = 5
[data]
world = { n_users = 150, n_items = 200, n_topics = 6, n_months = 24, events_per_user = 30 }
[probe]
folds = 2
repeats = 1
resamples = 30
grid = [1.0]
label_shares = [0.5]
[[methods]]
names = ["tfidf", "counts"]
[[tasks]]
kind = "attribute"
column = "persona"
positive = ["a"]
[[tasks]]
kind = "activity"
"""


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "tiny.toml"
    file.write_text(CONFIG)
    return file


def test_a_table_and_a_page(config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--config", str(config), "--quiet"]) == 0
    out, folder = capsys.readouterr().out, tmp_path / "evaluation" / "tiny"
    assert "| tfidf |" in out and "| counts |" in out and "mean over tasks" in out
    page = (folder / "results.html").read_text()
    assert "tfidf" in page and not re.search(r"(src|href)=|url\(|@import|<script", page)
    assert {file.name for file in folder.iterdir() if file.is_file()} == {"results.md", "results.html", "results.parquet", "runs.parquet"}
    before = (folder / "results.md").read_bytes()
    assert main(["evaluate", "--config", str(config), "--quiet", "--tables"]) == 0
    assert (folder / "results.md").read_bytes() == before
    assert main(["evaluate", "--config", str(config), "--quiet", "--methods", "tfidf,lurm"]) == 2
    assert "Expected --methods to name some of tfidf, counts, got 'lurm'" in capsys.readouterr().err


def test_a_method_that_fails_ends_in_one_and_the_others_are_there(config, tmp_path, capsys, monkeypatch):
    from lurm.evaluation.baselines import registry

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(registry.METHODS, "counts", registry.METHODS["tfidf"].__class__(_fail))
    assert main(["evaluate", "--config", str(config), "--quiet", "--directory", "out"]) == 1
    assert "failed: RuntimeError: nothing works" in capsys.readouterr().out and "nothing works" in (tmp_path / "out" / "results.html").read_text()


def _fail(budget, seed):
    raise RuntimeError("nothing works")
