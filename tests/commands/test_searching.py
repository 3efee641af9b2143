"""`lurm similar`, as it is called."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from published import MODEL, day, rows_of, stage_day

from lurm import publication
from lurm.cli import main
from lurm.store import Store


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    """Two dates: at the later one a is near b, and z has no direction."""
    store = Store(str(tmp_path_factory.mktemp("similar") / "w"))
    vectors = {"a": [1, 0, 0, 0, 0, 0], "b": [4, 3, 0, 0, 0, 0], "c": [0, 1, 0, 0, 0, 1], "z": [0, 0, 0, 0, 0, 0]}
    for as_of, key, order in (("2021-12-01", "1" * 16, [2, 1, 0, 3]), ("2022-01-01", "2" * 16, [0, 1, 2, 3])):
        rows = [np.asarray(list(vectors.values())[place], np.float32) for place in order]
        stage_day(store, as_of, [rows_of(list(vectors), vectors=rows)], key)
        publication.run(day(store, as_of, key, max_zero_share=1.0))
    return store.uri


def test_one_user(uri, capsys):
    assert main(["similar", "--warehouse", uri, "--user", "a", "--k", "2"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split() for line in out[:2]] == [["a", "1", "0.80000", "b"], ["a", "2", "0.00000", "c"]]
    assert out[2] == f"2 neighbours of 1 users by the cosine of whole vectors, release of 2022-01-01, model {MODEL}" and len(out) == 3
    assert main(["similar", "--warehouse", uri, "--user", "a", "--as-of", "2021-12-31", "--k", "1"]) == 0
    out = capsys.readouterr().out
    assert out.split()[:4] == ["a", "1", "0.42426", "b"] and "release of 2021-12-01" in out


def test_many_users_to_a_file(uri, tmp_path, capsys):
    (tmp_path / "ids").write_text("c\n\n z \na\n")
    output = tmp_path / "near.parquet"
    assert main(["similar", "--warehouse", uri, "--users-file", str(tmp_path / "ids"), "--anchor", "0", "--output", str(output)]) == 0
    out = capsys.readouterr().out
    assert "4 neighbours of 3 users by the cosine of anchor 0" in out and "1 have no neighbours" in out and out.rstrip().endswith(f": z: {output}")
    rows = pq.read_table(output).to_pylist()
    assert [(row["user_id"], row["rank"], row["neighbour_id"]) for row in rows] == [("c", 1, "b"), ("c", 2, "a"), ("a", 1, "b"), ("a", 2, "c")]
    assert np.allclose([row["cosine"] for row in rows], [0.6, 0, 0.8, 0]) and sorted(path.name for path in tmp_path.iterdir()) == ["ids", output.name]


def test_nobody_has_neighbours(uri, tmp_path, capsys):
    (tmp_path / "ids").write_text("z\n")
    assert main(["similar", "--warehouse", uri, "--users-file", str(tmp_path / "ids"), "--output", str(tmp_path / "none.parquet")]) == 0
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0 and "0 neighbours of 1 users" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["--user", "z"], "Expected users whose vector has a direction, it is zero for 1: z; such users have no neighbours"),
    (["--user", "nobody"], "it does not hold 1 of 1: nobody; they had no usable event before that date"),
    (["--user", "a", "--k", "0"], "Expected to look for at least 1 neighbour, got 0"),
    (["--user", "a", "--anchor", "2"], "Expected anchors from 0 to 1, got 2"),
    (["--users-file", "/nosuch"], "Expected user ids, one a line, in /nosuch, could not read it"),
    (["--users-file", "/dev/null"], "Expected user ids, one a line, in /dev/null, it has none; write at least one."),
    (["--user", "a", "--output", "/nosuch/x"], "Could not write /nosuch/x"),
])
def test_mistakes(uri, capsys, arguments, sentence):
    assert main(["similar", "--warehouse", uri, *arguments]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.err.count("\n") == 1 and captured.out == ""
