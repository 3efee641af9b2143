"""An evaluation from a file to files: what is written, what `--fresh` computes again, and names that are refused."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from small_evaluation import FILES, Count, Shares, Words, settings, write_tables

from lurm.errors import ConfigError
from lurm.evaluation.evaluation import evaluate
from lurm.evaluation.evaluation_settings import MethodSettings
from lurm.evaluation.results import RESULTS, RUNS


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("data"))


def small(**changes):
    attributes = tuple(task for task in settings().tasks if task.kind in ("attribute", "activity"))
    whole = settings(data=FILES, methods=(MethodSettings(("words", "count", "shares")),), tasks=attributes)
    return replace(whole, **changes)


def registry(made: list) -> dict:
    def factory(kind, name):
        return lambda budget, seed: made.append(name) or kind(budget, seed, name)

    return {"words": factory(Words, "words"), "count": factory(Count, "count"), "shares": factory(Shares, "shares")}


def test_files_are_written_and_words_beat_counts(data, tmp_path):
    found = evaluate(small(), str(data), str(tmp_path), registry=registry([]))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["kept", "results.md", "results.parquet", "runs.parquet"]
    rows = pq.read_table(tmp_path / "results.parquet")
    assert rows.schema.equals(RESULTS) and rows.num_rows == len(found.rows) and pq.read_table(tmp_path / "runs.parquet").schema.equals(RUNS)
    kind = {row["method"]: row for row in found.rows if (row["task"], row["metric"], row["seed"], row["part"]) == ("kind", "auc", None, "")}
    assert kind["words"]["value"] > 0.8 and kind["count"]["diff_high"] < 0 and kind["shares"]["value"] == 0.5
    assert (tmp_path / "results.md").read_text() == found.markdown and "u001" not in found.markdown, "no row of a person"
    assert "titled events before 2021-01-01" in found.facts[0] and "150 users" in found.facts[1] and "3 tasks: kind" in found.facts[2]
    text = (tmp_path / "results.parquet").read_bytes()
    evaluate(small(), str(data), str(tmp_path), methods=[], registry=registry([]))
    assert (tmp_path / "results.parquet").read_bytes() == text, "what is kept gives the same bytes"

    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.npz")}
    evaluate(small(), str(data), str(tmp_path), fresh=["count"], registry=registry([]))
    again = {file.parent.name for file, written in before.items() if file.stat().st_mtime_ns != written}
    assert again == {"count"}

    one = evaluate(small(), str(data), str(tmp_path), tasks=["profile"], registry=registry([]))
    assert {row["task"] for row in one.rows} == {"kind", "age", "mean", "mean of profile"}


def test_names_that_nobody_knows_are_told(data, tmp_path):
    for option, sentence in [({"methods": ["word"]}, "Expected --methods to name some of words, count, shares, got 'word'"),
                             ({"fresh": ["all"]}, "Expected --fresh to name some of .* got 'all'"),
                             ({"tasks": ["size"]}, "Expected --tasks to name some of kind, profile, age, active, activity, got 'size'")]:
        with pytest.raises(ConfigError, match=sentence):
            evaluate(small(), str(data), str(tmp_path), registry=registry([]), **option)
