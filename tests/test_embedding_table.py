"""The reader: rows in the order asked, absent users named, nothing read in vain, and no heavy library loaded."""

import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moments import publish_history
from published import DIM, MODEL, N_ANCHORS, day, publish_day, rows_of, stage_day, vector

import lurm
from lurm import open_table, publication
from lurm.embedding_table import EmbeddingTable
from lurm.errors import ConfigError, InputError, MissingInputError, UnknownUserError
from lurm.releases import rollback
from lurm.schema import USER_EMBEDDINGS
from lurm.store import Store

USERS = sorted(["ä", "Z", "a", "a b", "10", "9", *(f"u{number:03d}" for number in range(94))])  # order of code points, as Spark and Parquet have it
AS_OF = "2022-01-01"


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> EmbeddingTable:
    """100 users in three files with row groups of 7."""
    store = Store(str(tmp_path_factory.mktemp("warehouse")))
    stage_day(store, AS_OF, [rows_of(USERS[start : start + 40]) for start in range(0, 100, 40)], row_group_size=7)
    publication.run(day(store, AS_OF))
    return open_table(store.uri)


def expected(users) -> np.ndarray:
    return np.stack([vector(user) for user in users])


def test_what_it_says_of_itself(table):
    assert (table.as_of, table.model_id, table.n_anchors, table.dim, table.n_users, len(table), table.epoch) == (AS_OF, MODEL, 2, 3, 100, 100, 1)
    assert repr(table) == f"EmbeddingTable(as_of=2022-01-01, model_id={MODEL}, 100 users x 2 anchors x 3)"


def test_rows_come_in_the_order_asked(table):
    asked = ["u050", "a", "ä", "u050", "10", "Z", "u000", "9", "a b", "u093"]
    vectors = table.vectors(asked)
    assert vectors.dtype == np.float32 and vectors.shape == (10, N_ANCHORS * DIM)
    assert np.array_equal(vectors, expected(asked))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(st.sampled_from(USERS), max_size=30))
def test_any_selection_in_any_order(table, asked):
    vectors = table.vectors(asked)
    assert vectors.shape == (len(asked), 6) and (not asked or np.array_equal(vectors, expected(asked)))


def test_all_users_and_kinds_of_sequences(table):
    assert np.array_equal(table.vectors(USERS), expected(USERS))
    assert np.array_equal(table.vectors(np.array(USERS)), expected(USERS)) and np.array_equal(table.vectors(tuple(USERS)), expected(USERS))
    assert np.array_equal(table.vectors([10, 9]), expected(["10", "9"])), "numbers are read as the text they are stored as"


def test_absent_users_are_named(table):
    with pytest.raises(UnknownUserError) as error:
        table.vectors(["a", "nobody", "u050", "zz", "nobody"])
    assert error.value.absent == ["nobody", "zz"]
    assert "it does not hold 2 of 4: nobody, zz;" in str(error.value) and "absent='mask'" in str(error.value)
    with pytest.raises(UnknownUserError, match="and 5 more") as error:
        table.vectors([f"x{number:02d}" for number in range(15)])
    assert len(error.value.absent) == 15


def test_absent_users_as_a_mask(table):
    vectors, known = table.vectors(["zz", "a", "", "a"], absent="mask")
    assert known.tolist() == [False, True, False, True]
    assert not vectors[0].any() and not vectors[2].any() and np.array_equal(vectors[1], vector("a")) and np.array_equal(vectors[3], vector("a"))
    vectors, known = table.vectors([], absent="mask")
    assert vectors.shape == (0, 6) and known.shape == (0,)


def test_mistakes_in_the_call(table):
    with pytest.raises(ValueError, match="absent to be 'error' or 'mask', got 'skip'"):
        table.vectors(["a"], absent="skip")
    with pytest.raises(ValueError, match=r"got the text 'abc'; write \['abc'\]"):
        table.vectors("abc")
    with pytest.raises(ValueError, match="got 'vector'"):
        table.scan(["vector"])


def test_only_the_row_groups_of_the_wanted_users_are_read(table, monkeypatch):
    read, real = [], pq.ParquetFile.read_row_group

    def counting(self, group, columns=None, **keywords):
        read.append((group, *columns))
        return real(self, group, columns=columns, **keywords)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
    assert np.array_equal(table.vectors(["u050"]), expected(["u050"]))
    assert len(read) == 2 and {column for _, column in read} == {"user_id", "embedding"}, "one group, of one of three files"
    read.clear()
    table.vectors(["u0500"], absent="mask")
    assert [column for _, column in read] in ([], ["user_id"]), "nobody is in there: no vector is read"
    read.clear()
    table.vectors(["ö", "!"], absent="mask")
    assert read == [], "outside the range of every file"


def test_scan_gives_every_user_once_in_bounded_batches(table):
    batches = list(table.scan(["user_id"], batch_rows=8))
    assert [user for batch in batches for user in batch.column(0).to_pylist()] == USERS and max(batch.num_rows for batch in batches) <= 8
    whole = next(iter(table.scan()))
    assert whole.schema.names == USER_EMBEDDINGS.data_schema.names
    assert np.array_equal(np.array(whole.column("embedding").to_pylist(), np.float32), expected(whole.column("user_id").to_pylist()))
    assert whole.column("n_events").to_pylist()[:2] == [3, 3]


def test_scan_of_some_anchors(table):
    for anchors in ([1], [1, 0], [0, 0]):
        batches = list(table.scan(["embedding", "user_id"], batch_rows=8, anchors=anchors))
        users = [user for batch in batches for user in batch.column(1).to_pylist()]
        numbers = [row for batch in batches for row in batch.column(0).to_pylist()]
        assert users == USERS and np.array_equal(np.float32(numbers), expected(users).reshape(-1, N_ANCHORS, DIM)[:, anchors].reshape(100, -1))
    assert next(table.scan(["n_events"], anchors=[1])).schema.names == ["n_events"]
    for wrong, said in (([0, 2], "from 0 to 1, got 2"), ([-1], "got -1"), ([], "got none")):
        with pytest.raises(InputError, match=f"Expected anchors .*{said}"):
            table.scan(anchors=wrong)


def test_arrays_of_everybody_or_of_users_in_the_order_asked(table):
    whole = expected(USERS).reshape(100, N_ANCHORS, DIM)
    names, vectors = table.to_numpy()
    assert names.tolist() == USERS and vectors.dtype == np.float32 and np.array_equal(vectors, whole)
    names, vectors = table.to_numpy(["u050", "a", "u050"], anchors=[1])
    assert names.tolist() == ["u050", "a", "u050"] and np.array_equal(vectors, expected(names).reshape(3, N_ANCHORS, DIM)[:, [1]])
    names, vectors = table.to_numpy(["nobody", "a"], absent="drop")
    assert names.tolist() == ["a"] and vectors.shape == (1, N_ANCHORS, DIM)
    assert table.to_numpy([])[1].shape == (0, N_ANCHORS, DIM) and table.to_pandas([]).shape == (0, 6)
    with pytest.raises(UnknownUserError, match="nobody"):
        table.to_numpy(["nobody"])
    with pytest.raises(ValueError, match="absent to be 'error' or 'drop', got 'mask'"):
        table.to_numpy(["a"], absent="mask")


def test_a_tensor_whose_second_axis_is_the_anchor(table):
    names, tensor = table.to_torch(["u001", "a"])
    assert names.tolist() == ["u001", "a"] and tuple(tensor.shape) == (2, N_ANCHORS, DIM)
    assert np.array_equal(tensor[:, 1].numpy(), expected(names)[:, DIM:]) and tensor[:, 1].data_ptr() == tensor.data_ptr() + 4 * DIM, "a view"
    assert tuple(table.to_torch()[1].shape) == (100, N_ANCHORS, DIM)


def test_a_pandas_frame_with_a_column_a_number(table):
    frame = table.to_pandas(["u001", "a"])
    assert frame.index.name == "user_id" and frame.index.tolist() == ["u001", "a"] and set(map(str, frame.dtypes)) == {"float32"}
    assert frame.columns.tolist() == ["a0_0", "a0_1", "a0_2", "a1_0", "a1_1", "a1_2"] and np.array_equal(frame.to_numpy(), expected(frame.index))
    assert np.array_equal(table.to_pandas(anchors=[1]).loc["u050"].to_numpy(), vector("u050")[DIM:])


@pytest.mark.parametrize(("method", "library"), [("to_torch", "torch"), ("to_pandas", "pandas")])
def test_a_library_that_is_not_installed_is_one_sentence(table, monkeypatch, method, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingInputError, match=rf"Expected {library} to be installed for {method}\(\), it is not; pip install {library}, or use"):
        getattr(table, method)(["a"])


@pytest.fixture(scope="module")
def moved(tmp_path_factory) -> str:
    """Epochs 1 to 5: January and February of one model, March of another, back to February, then April of the new one."""
    store = Store(str(tmp_path_factory.mktemp("moved")))
    moves = [("2022-01-01", "model-old", "2022-01-02"), ("2022-02-01", "model-old", "2022-02-02"), ("2022-03-01", "model-new", "2022-03-02"),
             ("2022-02-01", "model-old", "2022-03-09"), ("2022-04-01", "model-new", "2022-04-02")]
    publish_history(store, moves, {as_of: ["a", as_of] for as_of, *_ in moves})
    return store.uri


@pytest.mark.parametrize(("choice", "epoch"), [
    ({}, 5), ({"visible_at": "2022-04-01T23:59:59"}, 4), ({"visible_at": "2022-03-09"}, 4), ({"visible_at": "2022-03-08T23:59:59.999999"}, 3),
    ({"visible_at": "2022-03-02T01:00:00+01:00"}, 3), ({"visible_at": datetime(2022, 2, 2, tzinfo=UTC)}, 2), ({"visible_at": "2022-01-02"}, 1),
    ({"as_of": "2022-03-15"}, 3), ({"as_of": "2022-02-15"}, 4), ({"as_of": "2022-02-15", "visible_at": "2022-03-05"}, 2),
    ({"as_of": "2022-01-31", "visible_at": "2022-04-05"}, 1),
    ({"model": "model-old"}, 4), ({"model": "model-new"}, 5), ({"model": "model-new", "as_of": "2022-03-31"}, 3),
    ({"model": "model-old", "visible_at": "2022-02-01"}, 1), ({"epoch": 3}, 3), ({"epoch": 2}, 2),
])
def test_two_clocks_a_model_and_an_epoch(moved, choice, epoch):
    """as_of is event time, visible_at publication time: what readers got at that moment, rollbacks included."""
    table = open_table(moved, **choice)
    assert table.epoch == epoch == lurm.open_table(moved, **choice).epoch
    assert table.vectors([table.as_of]).shape == (1, 6), "a user that only this date holds"


def test_a_reader_keeps_its_model_when_the_pointer_goes_on(tmp_path):
    store = Store(str(tmp_path / "w"))
    publish_day(store, "2022-01-01", ["a"], model_id="model-old")
    assert open_table(store.uri, model="model-old").as_of == "2022-01-01"
    publish_day(store, "2022-02-01", ["a"], model_id="model-new")
    pinned = open_table(store.uri, model="model-old")
    assert (pinned.as_of, pinned.model_id) == ("2022-01-01", "model-old") and open_table(store.uri).model_id == "model-new"
    rollback(store)
    with pytest.raises(MissingInputError, match="of model-new in .*, all of its dates were taken back by a rollback; name an as_of, or an epoch"):
        open_table(store.uri, model="model-new")
    assert open_table(store.uri, "2022-02-01", model="model-new").epoch == open_table(store.uri, epoch=2).epoch == 2


def test_releases_that_are_not_there(moved):
    for choice, said in (({"model": "model-x"}, "Expected a release of model-x in .*, its models are model-new, model-old; name one"),
                         ({"epoch": 9}, "Expected epoch 9 in .*, its epochs are 1 to 5;"),
                         ({"visible_at": "2022-01-01"}, "visible at 2022-01-01 in .*, the first one is of 2022-01-01, released at 2022-01-02T"),
                         ({"model": "model-new", "as_of": "2022-02-15"}, "of model-new on or before 2022-02-15 in .*the first one is of 2022-03-01")):
        with pytest.raises(MissingInputError, match=said):
            open_table(moved, **choice)
    with pytest.raises(ConfigError, match="Expected a moment such as"):
        open_table(moved, visible_at="noon")
    with pytest.raises(ValueError, match="Expected epoch=1 alone"):
        open_table(moved, "2022-01-01", epoch=1)


def test_as_of_reads_the_newest_release_not_after_it(tmp_path):
    uri = str(tmp_path / "w")
    for as_of, users in (("2022-01-01", ["a"]), ("2022-03-01", ["a", "b"])):
        publish_day(Store(uri), as_of, users)
    found = {as_of: open_table(uri, as_of).as_of for as_of in ("2022-01-01", "2022-02-28", "2022-03-01", "2099-01-01")}
    assert found == {"2022-01-01": "2022-01-01", "2022-02-28": "2022-01-01", "2022-03-01": "2022-03-01", "2099-01-01": "2022-03-01"}
    assert open_table(uri).as_of == lurm.open_table(uri).as_of == "2022-03-01"
    assert np.array_equal(open_table(uri, "2022-02-01").vectors(["a"])[0], vector("a", "2022-01-01")), "vectors of that date, not of another"
    later = open_table(uri)
    assert np.array_equal(later.vectors(["a"])[0], vector("a", "2022-03-01")) and sum(batch.num_rows for batch in later.scan()) == 2
    with pytest.raises(MissingInputError, match="Expected a release on or before 2021-12-31 in .*the first one is of 2022-01-01"):
        open_table(uri, "2021-12-31")
    with pytest.raises(ConfigError, match="Expected --as-of as a date"):
        open_table(uri, "yesterday")


def test_nothing_released_is_one_sentence(tmp_path):
    with pytest.raises(MissingInputError, match="Expected a release in .*, it has none; run `lurm run`"):
        open_table(str(tmp_path / "nothing"))
    assert list(tmp_path.iterdir()) == []
    stage_day(Store(str(tmp_path / "w")), AS_OF, [rows_of(["a"])])
    with pytest.raises(MissingInputError, match="it has none"):
        open_table(str(tmp_path / "w"))


def test_an_open_table_is_pinned(tmp_path):
    store = Store(str(tmp_path / "w"))
    publish_day(store, AS_OF, ["a", "b"], key="1" * 16)
    before = open_table(store.uri)
    publish_day(store, AS_OF, ["a"], key="2" * 16)
    assert np.array_equal(before.vectors(["b"])[0], vector("b", AS_OF)) and len(before) == 2
    with pytest.raises(UnknownUserError):
        open_table(store.uri).vectors(["b"])


READ = """
import sys

allowed = set(sys.stdlib_module_names) | {{"lurm", "numpy", "pyarrow", "deltalake", "arro3", "typing_extensions"}}  # the last two come with deltalake

class OnlyThese:
    def find_spec(self, name, path=None, target=None):
        if {strict} and name.partition(".")[0] not in allowed and not name.startswith("_"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, OnlyThese())
import lurm
print(*sorted(set(sys.modules) & {{"numpy", "pyarrow", "deltalake"}}))
import pyarrow
table = lurm.open_table({uri!r})
assert table.vectors(["b"]).shape == (1, 6)
assert sum(batch.num_rows for batch in table.scan(["user_id"])) == 2
labels = pyarrow.table({{"user_id": ["a", "b", "c"], "time": ["2022-01-01"] * 3}})
assert table.join(labels).column("as_of").null_count == 1 and table.to_numpy()[1].shape == (2, 2, 3)
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


@pytest.mark.parametrize("strict", [True, False])
def test_reading_needs_and_loads_nothing_but_numpy_pyarrow_and_deltalake(tmp_path, strict):
    """Strict: as if nothing else were installed. Otherwise: all of it is, and none of it is loaded."""
    publish_day(Store(str(tmp_path / "w")), AS_OF, ["a", "b"])
    code = READ.format(strict=strict, uri=str(tmp_path / "w"))
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    before, after = answer.stdout.split("\n")[:2]
    assert before == "", "importing the package alone loads nothing"
    heavy = {"torch", "pyspark", "airflow", "great_expectations", "sklearn", "scipy", "faiss", "tokenizers", "safetensors", "gensim", "psutil",
             "polars"}
    assert set(after.split()) & (heavy | {"spark_jobs"}) == set()
