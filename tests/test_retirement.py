"""Announced ends: who is pinned is warned and then refused, who follows the pointer never is, and files go after the end alone."""

import warnings
from datetime import UTC, datetime, timedelta

import pytest
from published import publish_day

from lurm import open_table
from lurm.cli import main
from lurm.errors import ConfigError, MissingInputError, StoreError
from lurm.garbage import take_out_retired, vacuum
from lurm.releases import releases, rollback
from lurm.retirement import RetirementWarning, announce_end, cancel_end, end_of, ends
from lurm.store import Store

OLD, NEW = "model-old", "model-new"
BEFORE, LAST, AFTER = "2022-06-29", "2022-06-30", "2022-07-01"


@pytest.fixture
def store(tmp_path):
    """Two dates of an old model, one of its successor, which readers follow."""
    store = Store(str(tmp_path / "warehouse"))
    publish_day(store, "2022-01-01", ["a", "b"], model_id=OLD)
    publish_day(store, "2022-01-02", ["a", "b"], model_id=OLD)
    publish_day(store, "2022-01-03", ["a", "b", "c"], model_id=NEW)
    return store


def opened(store: Store, today: str, **which) -> list[str]:
    """Warnings of opening and reading a table."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert open_table(store.uri, today=today, **which).vectors(["a"]).shape == (1, 6)
    assert all(warning.category is RetirementWarning and warning.filename == __file__ for warning in caught), "it points at who opened the table"
    return [str(warning.message) for warning in caught]


def test_who_is_pinned_is_warned_until_the_end_and_refused_after_it(store):
    assert opened(store, AFTER, model=OLD) == [], "nothing is announced"
    announce_end(store, OLD, LAST, "its successor is better")
    sentence = f"{OLD} can be read until {LAST} (its successor is better); its successor is {NEW}."
    for today in (BEFORE, LAST):
        assert opened(store, today, model=OLD) == opened(store, today, epoch=1) == [sentence]
    for which in ({"model": OLD}, {"epoch": 2}, {"as_of": "2022-01-01"}):
        with pytest.raises(MissingInputError, match=rf"{OLD} ended after {LAST} \(its successor is better\); its successor is {NEW}\.$"):
            open_table(store.uri, today=AFTER, **which)
    for which in ({}, {"model": NEW}, {"as_of": "2022-01-03"}):
        assert opened(store, AFTER, **which) == [], "the successor is not touched"
    assert opened(store, BEFORE, as_of="2022-01-02") == [], "who asks for a date has not chosen the model"


def test_who_follows_the_pointer_is_never_refused(store):
    announce_end(store, NEW, LAST)
    assert opened(store, AFTER) == opened(store, AFTER, as_of="2022-01-03") == []
    assert opened(store, BEFORE, model=NEW) == [f"{NEW} can be read until {LAST}; it has no released successor yet."]
    with pytest.raises(MissingInputError, match="it has no released successor yet"):
        open_table(store.uri, model=NEW, today=AFTER)


def test_without_a_date_the_clock_is_asked(store):
    today = datetime.now(UTC).date()
    announce_end(store, OLD, (today + timedelta(days=3)).isoformat())
    with pytest.warns(RetirementWarning, match="can be read until"):
        open_table(store.uri, model=OLD)
    announce_end(store, OLD, (today - timedelta(days=1)).isoformat())
    with pytest.raises(MissingInputError, match="ended after"):
        open_table(store.uri, model=OLD)


def test_announced_moved_and_cancelled(store):
    assert ends(store) == {} and end_of(store, OLD) is None
    announce_end(store, NEW, "2022-12-31")
    announce_end(store, OLD, LAST, "  one\n reason ")
    assert list(ends(store)) == [OLD, NEW] and end_of(store, OLD).reason == "one reason"
    announce_end(store, OLD, "2023-01-01")
    assert list(ends(store)) == [NEW, OLD] and end_of(store, OLD).reason == ""
    assert cancel_end(store, OLD).after == "2023-01-01" and list(ends(store)) == [NEW]
    assert opened(store, "2024-01-01", model=OLD) == []
    with pytest.raises(MissingInputError, match=f"Expected a model whose end is announced, got '{OLD}'; announced are: {NEW}"):
        cancel_end(store, OLD)
    with pytest.raises(MissingInputError, match=rf"Expected a model with a table in .* \({NEW}, {OLD}\), got 'model-x'"):
        announce_end(store, "model-x", LAST)
    with pytest.raises(ConfigError, match="Expected the last day of a model as YYYY-MM-DD, got 'soon'"):
        announce_end(store, OLD, "soon")


def files(store: Store, model_id: str) -> list[str]:
    return [entry.path for entry in store.list_files("tables", "user_embeddings", recursive=True) if f"model_id={model_id}/" in entry.path]


def test_a_vacuum_deletes_an_ended_model_and_nothing_of_the_other(store):
    announce_end(store, OLD, LAST)
    assert take_out_retired(store, LAST) == [], "the last day is a day on which it can be read"
    kept = files(store, NEW)
    assert take_out_retired(store, AFTER) == [OLD] and take_out_retired(store, AFTER) == []
    assert store.snapshot("user_embeddings").values("model_id") == [NEW] and len(files(store, OLD)) == 2, "files stay for those who are reading"
    vacuum(store)
    assert len(files(store, OLD)) == 2, "and for as many days as those of any replaced table"
    assert {entry.kind for entry in vacuum(store, keep_days=0)} >= {"user_embeddings"}
    assert files(store, OLD) == [] and files(store, NEW) == kept and opened(store, AFTER) == []
    with pytest.raises(MissingInputError, match="ended after"):
        open_table(store.uri, model=OLD, today=BEFORE)
    with pytest.raises(StoreError, match=f"Expected an end that has not come, the tables of {OLD} were taken out on 20"):
        cancel_end(store, OLD)
    for epoch in (None, 1):
        with pytest.raises(MissingInputError, match=f"is of {OLD}, which ended after {LAST} and was taken out of the warehouse"):
            rollback(store, epoch)
    assert len(releases(store)) == 3, "the history says what was"


def test_the_model_that_readers_follow_is_not_taken_out(store):
    announce_end(store, NEW, LAST)
    assert take_out_retired(store, AFTER) == [] and end_of(store, NEW).taken_out_at is None
    rollback(store)
    assert take_out_retired(store, AFTER) == [NEW]


def test_tables_published_after_the_end_are_not_deleted_under_their_readers(store):
    """Stages do not ask for ends: who publishes an ended model again has its newest tables kept by every vacuum."""
    announce_end(store, OLD, LAST)
    take_out_retired(store, AFTER)
    publish_day(store, "2022-01-05", ["a", "b"], model_id=OLD)
    vacuum(store, keep_days=0)
    assert len(files(store, OLD)) == 1 and opened(store, AFTER) == []


def test_a_dry_run_takes_nothing_out(store):
    announce_end(store, OLD, "2020-01-01")
    vacuum(store, keep_days=0, dry_run=True)
    assert end_of(store, OLD).taken_out_at is None and len(files(store, OLD)) == 2


def test_the_commands(store, capsys):
    assert main(["retire", "--warehouse", store.uri, "--model", OLD, "--after", LAST, "--reason", "two is enough"]) == 0
    assert capsys.readouterr().out == f"{OLD} can be read until {LAST}; who has pinned it is warned from now on\n"
    assert main(["releases", "--warehouse", store.uri]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f"end               {LAST}  {OLD}  can be read until {LAST}, announced 20") and line.endswith(": two is enough")
    assert main(["retire", "--warehouse", store.uri, "--model", OLD, "--cancel"]) == 0
    assert capsys.readouterr().out == f"{OLD} does not end after {LAST}\n" and ends(store) == {}
    assert main(["retire", "--warehouse", store.uri, "--model", OLD, "--cancel"]) == 2
    assert main(["retire", "--warehouse", store.uri, "--model", OLD, "--after", "2020-01-01"]) == 0
    assert main(["vacuum", "--warehouse", store.uri]) == 0 and main(["releases", "--warehouse", store.uri]) == 0
    assert f"{OLD}  taken out on 20" in capsys.readouterr().out
