"""The join of labels: equal to a slow loop whatever the order, the clock and the memory, and never a vector of the future."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moments import at, publish_history, slow_join
from published import DIM, MODEL, N_ANCHORS, day, publish_day, rows_of, stage_day, vector

from lurm import open_table, publication
from lurm.errors import InputError, LineageError, StoreError, UnknownUserError
from lurm.joining import embedding_units
from lurm.joining.label_join import JoinReport
from lurm.releases import releases
from lurm.store import Store

NAMES = [f"u{number:02d}" for number in range(40)]
MOVES = [("2022-01-01", MODEL, "2022-01-02"), ("2022-02-01", MODEL, "2022-02-02"), ("2022-03-01", MODEL, "2022-03-02"),
         ("2022-02-01", MODEL, "2022-03-05"), ("2022-04-01", MODEL, "2022-04-03")]
HAVE = {"2022-01-01": NAMES[:20], "2022-02-01": NAMES[:30], "2022-03-01": NAMES, "2022-04-01": NAMES[10:]}


@pytest.fixture(scope="module")
def history(tmp_path_factory) -> str:
    """Four dates, the third taken back by a rollback."""
    store = Store(str(tmp_path_factory.mktemp("history")))
    publish_history(store, MOVES, HAVE)
    return store.uri


def frame(labels: list[tuple[str | None, datetime | None]]) -> pa.Table:
    return pa.table({"label": range(len(labels)), "user_id": pa.array([user for user, _ in labels], pa.string()),
                     "time": pa.array([moment for _, moment in labels], pa.timestamp("us", "UTC"))})


def rows(table) -> list[tuple | None]:
    """What each row got: (as_of, model_id, vector) or None, in the order of `label`."""
    found = sorted(table.to_pylist(), key=lambda row: row["label"])
    return [None if row["embedding"] is None else (row["as_of"], row["model_id"], row["embedding"]) for row in found]


moments = st.one_of(st.none(), st.datetimes(datetime(2021, 12, 20), datetime(2022, 4, 20)).map(lambda moment: moment.replace(tzinfo=UTC)),
                    st.sampled_from([at(as_of) + timedelta(microseconds=step) for as_of, *_ in MOVES for step in (-1, 0, 1)]))
labels_of = st.lists(st.tuples(st.sampled_from([*NAMES, "nobody", "", None]), moments), max_size=60)


@settings(max_examples=40)
@given(labels=labels_of, clock=st.sampled_from(["event", "publication"]), anchors=st.sampled_from([None, (1,), (1, 0)]), streamed=st.booleans(),
       memory=st.sampled_from([512 * 2**20, 4_096, 600]))
def test_it_equals_a_slow_loop(history, labels, clock, anchors, streamed, memory):
    """In memory and through files, with units of one row group, spills of a few rows and batches of one."""
    table, report = open_table(history), JoinReport()
    source = frame(labels).to_reader(max_chunksize=7) if streamed else frame(labels)
    found = table.join(source, clock=clock, anchors=anchors, report=report, memory_mb=memory / 2**20)
    found = found.read_all() if streamed else found
    expected = slow_join(releases(Store(history)), table._release, HAVE, labels, clock, anchors=anchors or (0, 1))
    assert rows(found) == expected
    assert streamed or found.column("label").to_pylist() == list(range(len(labels))), "a frame keeps its order"
    assert (report.rows, report.with_vector) == (len(labels), sum(row is not None for row in expected))
    assert report.no_time == sum(moment is None for _, moment in labels) and report.rows == report.with_vector + report.without_vector
    assert report.no_user == sum(moment is not None and not user for user, moment in labels)


def test_midnight_of_as_of_and_the_same_user_many_times(history):
    times = [at("2022-01-01") - timedelta(microseconds=1), at("2022-01-01"), at("2022-02-01") - timedelta(microseconds=1), at("2022-02-01")]
    labels = [("u05", moment) for moment in times * 50]
    got = rows(open_table(history).join(frame(labels)))
    assert [row and row[0] for row in got] == [None, "2022-01-01", "2022-01-01", "2022-02-01"] * 50
    assert got[1][2] == vector("u05", "2022-01-01").tolist() and got[3][2] == vector("u05", "2022-02-01").tolist()


def test_a_planted_leak_is_never_given(tmp_path):
    """A vector that equals the label, in a table of the day after: whoever gets it has seen the future."""
    store = Store(str(tmp_path / "w"))
    leaked = np.full(N_ANCHORS * DIM, 77, np.float32)
    publish_day(store, "2022-01-01", NAMES)
    stage_day(store, "2022-01-16", [rows_of(NAMES, vectors=[leaked] * len(NAMES))], "b" * 16)
    publication.run(day(store, "2022-01-16", "b" * 16))
    rng = np.random.default_rng(0)
    labels = [(str(rng.choice(NAMES)), at("2022-01-15") + timedelta(seconds=int(rng.integers(0, 86_400)))) for _ in range(500)]
    for clock in ("event", "publication"):
        assert all(row is None or 77.0 not in row[2] for row in rows(open_table(store.uri).join(frame(labels), clock=clock)))
    after = [(user, moment + timedelta(days=1)) for user, moment in labels]
    assert all(row[2] == leaked.tolist() for row in rows(open_table(store.uri).join(frame(after)))), "a day later it is history, and the newest"


def test_a_model_of_the_future_is_given_to_nobody_unless_asked_for(tmp_path):
    store = Store(str(tmp_path / "w"))
    publish_history(store, [("2022-01-01", MODEL, "2022-05-02"), ("2022-05-01", MODEL, "2022-05-03")],
                    {"2022-01-01": NAMES, "2022-05-01": NAMES}, {MODEL: "2022-05-01"})
    table, report = open_table(store.uri), JoinReport()
    labels = frame([("u01", at("2022-01-15")), ("u01", at("2022-05-01")), ("u01", at("2021-05-01"))])
    assert [row and row[0] for row in rows(table.join(labels, report=report))] == [None, "2022-05-01", None]
    assert (report.future_model, report.before_first_release) == (1, 1) and "1 times for which every model had seen the future" in str(report)
    assert [row and row[0] for row in rows(table.join(labels, allow_future_model=True))] == ["2022-01-01", "2022-05-01", None]


def test_two_models_are_refused_by_name_unless_mixed_or_pinned(tmp_path):
    store = Store(str(tmp_path / "w"))
    moves = [("2022-01-01", "model-old", "2022-01-02"), ("2022-02-01", "model-old", "2022-02-02"), ("2022-03-01", "model-new", "2022-03-02")]
    publish_history(store, moves, {as_of: NAMES for as_of, *_ in moves})
    labels = frame([("u01", at("2022-01-15")), ("u02", at("2022-02-15")), ("u03", at("2022-03-15"))])
    for source in (labels, labels.to_reader()):
        with pytest.raises(LineageError) as error:
            open_table(store.uri).join(source)
        assert "the labels reach into 2: model-old (2 dates from 2022-01-01 to 2022-02-01, 2 labels); model-new (1 dates from" in str(error.value)
    mixed = rows(open_table(store.uri).join(labels, mix_models=True))
    assert [row[1] for row in mixed] == ["model-old", "model-old", "model-new"]
    pinned = rows(open_table(store.uri, model="model-old").join(labels))
    assert [row[:2] for row in pinned] == [("2022-01-01", "model-old"), ("2022-02-01", "model-old"), ("2022-02-01", "model-old")]
    assert [row and row[1] for row in rows(open_table(store.uri, model="model-new").join(labels))] == [None, None, "model-new"]
    assert [row[1] for row in rows(open_table(store.uri).join(labels.slice(0, 2)))] == ["model-old"] * 2, "one model is all these labels reach"


def test_two_shapes_never_share_a_column(tmp_path):
    store = Store(str(tmp_path / "w"))
    publish_day(store, "2022-01-01", NAMES, model_id="model-old")
    stage_day(store, "2022-02-01", [rows_of(["u01"], vectors=[np.ones(8, np.float32)])], "b" * 16, "model-new", n_anchors=2, dim=4)
    publication.run(day(store, "2022-02-01", "b" * 16, min_coverage=0, max_lost_users=1))
    labels = frame([("u01", at("2022-01-15")), ("u01", at("2022-02-15"))])
    with pytest.raises(LineageError, match="one shape, the labels reach into releases of 2 x 3 and 2 x 4"):
        open_table(store.uri).join(labels, mix_models=True)


def test_rows_without_a_vector(history):
    table = open_table(history)
    labels = frame([("u01", at("2022-02-15")), ("nobody", at("2022-02-15")), ("u01", at("2021-01-01")), (None, at("2022-02-15")), ("u01", None)])
    report = JoinReport()
    dropped = table.join(labels, absent="drop", report=report)
    assert dropped.column("label").to_pylist() == [0] and report.rows == 5 and report.with_vector == 1
    assert (report.unknown_user, report.before_first_release, report.no_user, report.no_time) == (1, 1, 1, 1)
    assert table.join(labels.to_reader(), absent="drop").read_all().column("label").to_pylist() == [0]
    with pytest.raises(InputError, match="Expected a release for every label, 3 have none .*1 rows without a time"):
        table.join(labels, absent="error")
    with pytest.raises(UnknownUserError, match="release of 2022-02-01, it does not hold nobody and") as error:
        table.join(labels.slice(0, 2), absent="error")
    assert error.value.absent == ["nobody"]
    with pytest.raises(UnknownUserError):
        table.join(labels.slice(0, 2).to_reader(), absent="error").read_all()
    assert report.releases == [{"epoch": 4, "as_of": "2022-02-01", "model_id": MODEL, "rows": 2}]
    assert str(report).startswith(f"5 labels, 1 with a vector from 1 releases of 2022-02-01 to 2022-02-01, model {MODEL}; without: 1 users")


def test_mistakes_in_the_call(history, tmp_path):
    table, labels = open_table(history), frame([("u01", at("2022-02-15"))])
    for wrong, said in (({"clock": "wall"}, "clock to be 'event' or 'publication', got 'wall'"), ({"absent": "skip"}, "absent to be")):
        with pytest.raises(ValueError, match=said):
            table.join(labels, **wrong)
    with pytest.raises(InputError, match="Expected anchors from 0 to 1, got 2"):
        table.join(labels, anchors=[2])
    for source in (labels, labels.to_reader()):
        with pytest.raises(InputError, match="without a column 'as_of', which the join adds"):
            table.join(source.rename_columns({"label": "as_of"}) if source is labels else pa.table({**labels.to_pydict(), "as_of": [1]}).to_reader())
    assert table.join(labels, prefix="lurm_").schema.names[-3:] == ["lurm_embedding", "lurm_as_of", "lurm_model_id"]
    with pytest.raises(StoreError, match="Could not keep labels in .*nowhere"):
        table.join(frame([("u01", at("2022-02-15"))] * 1_000), memory_mb=0.001, scratch=str(tmp_path / "nowhere"))


def test_nothing_is_left_in_the_scratch_folder(history, tmp_path):
    reader = open_table(history).join(frame([("u01", at("2022-02-15"))] * 1_000).to_reader(max_chunksize=50), memory_mb=0.01, scratch=str(tmp_path))
    assert list(tmp_path.iterdir()), "the labels did not fit"
    assert reader.read_next_batch().num_rows > 0
    del reader
    assert list(tmp_path.iterdir()) == []


def test_only_row_groups_that_are_asked_for_are_read(tmp_path, monkeypatch):
    store = Store(str(tmp_path / "w"))
    stage_day(store, "2022-01-01", [rows_of(NAMES[:20]), rows_of(NAMES[20:])], row_group_size=5)
    publication.run(day(store, "2022-01-01"))
    read, real = [], embedding_units.pq.ParquetFile

    class Counting(real):
        def read_row_group(self, group, columns=None, **keywords):
            read.append((group, *columns))
            return real.read_row_group(self, group, columns=columns, **keywords)

    monkeypatch.setattr(embedding_units.pq, "ParquetFile", Counting)
    labels = [("u21", at("2022-02-01")), ("u24", at("2022-02-01")), ("u36", at("2022-02-01"))]
    assert [row[2] for row in rows(open_table(store.uri).join(frame(labels)))] == [vector(user).tolist() for user, _ in labels]
    assert read == [(0, "embedding"), (3, "embedding")], "two groups of the second file, each once"
    for user in NAMES:  # the first and the last of every group and file too
        assert rows(open_table(store.uri).join(frame([(user, at("2022-02-01"))])))[0][2] == vector(user).tolist()
