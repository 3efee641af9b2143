"""Whole or not there."""

import pytest

from lurm.errors import InputError
from lurm.whole_file import whole_file


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "vectors"
    with whole_file(str(path)) as unfinished:
        with open(unfinished, "w", encoding="utf-8") as file:
            file.write("new")
        assert not path.exists()
    assert path.read_text() == "new" and [entry.name for entry in tmp_path.iterdir()] == ["vectors"]


def test_what_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "vectors"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        with whole_file(str(path)) as unfinished:
            open(unfinished, "w", encoding="utf-8").close()
            raise ZeroDivisionError
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["vectors"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"Could not write .*/nowhere/x \(No such file or directory\); choose another --json\."):
        with whole_file(str(tmp_path / "nowhere" / "x"), "--json") as unfinished:
            open(unfinished, "w", encoding="utf-8").close()
