"""`lurm read` and `lurm join`: what lands in the file, which release it is of, and one sentence for every mistake."""

import pyarrow.parquet as pq
import pytest
from moments import publish_history
from published import MODEL, vector

from lurm.cli import main
from lurm.store import Store

USERS = ["a", "b", "c"]
MOVES = [("2022-01-01", MODEL, "2022-01-02"), ("2022-02-01", MODEL, "2022-02-02"), ("2022-03-01", "model-new", "2022-03-02")]


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory) -> str:
    store = Store(str(tmp_path_factory.mktemp("reading")))
    publish_history(store, MOVES, {as_of: USERS for as_of, *_ in MOVES})
    return store.uri


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("customer,bought_at,amount\na,2022-01-01,1\nb,2022-02-01T10:00:00+02:00,2\nc,2022-02-02T00:30:00,3\nnobody,2022-02-03,4\n")
    return path


def join(warehouse, labels, output, *more) -> int:
    columns = ["--user", "customer", "--time", "bought_at"]
    return main(["join", "--warehouse", warehouse, "--labels", str(labels), *columns, "--output", str(output), *more])


def dates(output) -> dict[int, str | None]:
    return {row["amount"]: row["as_of"] for row in pq.read_table(output).to_pylist()}


def test_a_label_file_with_the_vectors_of_its_times(warehouse, labels, tmp_path, capsys):
    output = tmp_path / "training.parquet"
    assert join(warehouse, labels, output) == 0
    assert dates(output) == {1: "2022-01-01", 2: "2022-02-01", 3: "2022-02-01", 4: None}
    rows = {row["customer"]: row for row in pq.read_table(output).to_pylist()}
    assert rows["b"]["embedding"] == vector("b", "2022-02-01").tolist() and rows["b"]["bought_at"] == "2022-02-01T10:00:00+02:00"
    said = capsys.readouterr().out
    assert said.startswith("4 labels, 3 with a vector from 2 releases of 2022-01-01 to 2022-02-01") and said.strip().endswith(str(output))


def test_the_choices_of_a_join_reach_it(warehouse, labels, tmp_path):
    output = tmp_path / "training.parquet"
    assert join(warehouse, labels, output, "--clock", "publication", "--anchors", "1", "--prefix", "x_", "--absent", "drop", "--memory", "1",
                "--scratch", str(tmp_path)) == 0
    table = pq.read_table(output)
    assert {row["amount"]: (row["x_as_of"], len(row["x_embedding"])) for row in table.to_pylist()} == {2: ("2022-01-01", 3), 3: ("2022-02-01", 3)}
    labels.write_text(labels.read_text() + "a,2022-03-05,5\n")
    assert join(warehouse, labels, output, "--mix-models") == 0 and dates(output)[5] == "2022-03-01"
    assert join(warehouse, labels, output, "--model", MODEL) == 0 and dates(output)[5] == "2022-02-01"
    assert join(warehouse, labels, output, "--visible-at", "2022-02-01T12:00:00") == 0 and dates(output)[5] == "2022-01-01"
    assert join(warehouse, labels, output, "--epoch", "1") == 0 and dates(output)[2] == "2022-01-01"
    assert join(warehouse, labels, output, "--as-of", "2022-01-15") == 0 and dates(output)[5] == "2022-01-01"


@pytest.mark.parametrize(("more", "said"), [
    (["--user", "who"], "Expected a column 'who' in the labels"), (["--time", "amount"], "as ISO text from 1678 to 2261, got '1'"),
    (["--anchors", "0,x"], "Expected --anchors as numbers"), (["--anchors", "7"], "Expected anchors from 0 to 1, got 7"),
    (["--epoch", "9"], "its epochs are 1 to 3"), (["--model", "m"], "its models are model-"),
    (["--epoch", "1", "--as-of", "2022-01-01"], "Expected --epoch alone"), (["--visible-at", "2021-01-01"], "visible at 2021-01-01"),
    (["--absent", "error"], "does not hold nobody"), (["--labels", "/none.csv"], "found no file there"),
])
def test_mistakes_are_sentences_and_leave_no_file(warehouse, labels, tmp_path, capsys, more, said):
    assert join(warehouse, labels, tmp_path / "training.parquet", *more) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("lurm: ") and said in lines[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.csv"]


def test_read_takes_the_same_choices_of_a_release(warehouse, tmp_path, capsys):
    output = tmp_path / "vectors.parquet"
    base = ["read", "--warehouse", warehouse, "--output", str(output)]
    assert main([*base, "--model", MODEL, "--anchors", "1,0"]) == 0 and "2 x 3, model " + MODEL in capsys.readouterr().out
    expected = vector("a", "2022-02-01").reshape(2, 3)[::-1].reshape(-1).tolist()
    assert {row["user_id"]: row["embedding"] for row in pq.read_table(output).to_pylist()}["a"] == expected
    assert main([*base, "--epoch", "1", "--anchors", "0", "--users", "b,a"]) == 0
    assert pq.read_table(output).to_pylist() == [{"user_id": user, "embedding": vector(user, "2022-01-01")[:3].tolist()} for user in ("b", "a")]
