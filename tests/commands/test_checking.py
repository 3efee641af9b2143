"""`lurm check`: one line and an exit code, whatever happens."""

import pytest
from published import MODEL, publish_day

from lurm import cli
from lurm.cli import main
from lurm.commands.checking import FRESH, STALE, UNKNOWN, freshness
from lurm.releases import rollback
from lurm.store import Store


@pytest.mark.parametrize(("as_of", "today", "limit", "code"), [
    ("2022-01-01", "2022-01-01", 0, FRESH), ("2022-01-01", "2022-01-03", 2, FRESH), ("2022-01-01", "2022-01-04", 2, STALE),
    ("2021-12-31", "2022-01-01", 0, STALE), ("2022-01-02", "2022-01-01", 0, FRESH), ("2022-01-03", "2022-01-01", 9, UNKNOWN),
])
def test_the_age_in_days(as_of, today, limit, code):
    assert freshness(as_of, today, limit)[0] == code


def check(capsys, *arguments) -> tuple[int, str]:
    code = main(["check", "freshness", *arguments])
    captured = capsys.readouterr()
    assert captured.err == "" and captured.out.count("\n") == 1
    return code, captured.out.strip()


def test_fresh_stale_and_cannot_tell(tmp_path, capsys):
    uri = str(tmp_path / "warehouse")
    code, line = check(capsys, "--warehouse", uri, "--max-age-days", "2")
    assert code == 2 and line.startswith("cannot tell: Expected a release in")
    store = Store(uri)
    publish_day(store, "2022-01-01", ["a", "b"])
    publish_day(store, "2022-01-05", ["a", "b"])
    code, line = check(capsys, "--warehouse", uri, "--max-age-days", "2", "--as-of", "2022-01-06")
    assert (code, line) == (0, f"fresh: release 2 of 2022-01-05, 2 users, model {MODEL}, 1 days old on 2022-01-06, at most 2 allowed")
    code, line = check(capsys, "--warehouse", uri, "--max-age-days", "2", "--as-of", "2022-01-08")
    assert code == 1 and line.startswith("stale: release 2 of 2022-01-05") and "3 days old on 2022-01-08" in line
    assert check(capsys, "--warehouse", uri, "--max-age-days", "2")[0] == 1, "without a date today counts, and the table is of 2022"
    assert check(capsys, "--warehouse", uri, "--max-age-days", "99", "--as-of", "2021-12-01")[0] == 2
    assert check(capsys, "--warehouse", uri, "--max-age-days", "2", "--as-of", "tomorrow")[0] == 2


def test_what_readers_follow_counts_not_what_was_last_written(tmp_path, capsys):
    store = Store(str(tmp_path / "warehouse"))
    publish_day(store, "2022-01-01", ["a"])
    publish_day(store, "2022-01-05", ["a"])
    rollback(store)
    assert check(capsys, "--warehouse", store.uri, "--max-age-days", "2", "--as-of", "2022-01-06")[0] == 1


def test_the_help_of_the_check_and_a_check_without_a_name(capsys):
    with pytest.raises(SystemExit):
        main(["check", "freshness", "--help"])
    text = capsys.readouterr().out
    (line,) = [line for line in text.partition("example:")[2].splitlines() if line.strip()]
    cli._parser().parse_args(line.split()[1:])
    for arguments in (["check"], ["check", "freshness", "--warehouse", "w", "--max-age-days", "-1"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
