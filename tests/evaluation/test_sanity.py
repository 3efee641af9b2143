"""The sanity table: point in time, paired and weighted AUC, one row a label, no row of a person."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from lurm.errors import InputError
from lurm.evaluation.probe import Fold, make_folds
from lurm.evaluation.sanity import Comparison, Label, compare, main, markdown, parse_label, read_documents, tf_idf, weighted_auc
from lurm.schema import TIMESTAMP
from lurm.synthetic import WorldSettings, write_world


def test_labels_are_parsed():
    assert parse_label("gender=Female vs Male") == Label("gender", ("Female",), ("Male",))
    assert parse_label("age=35 - 44 years, 65 and older") == Label("age", ("35 - 44 years", "65 and older"))
    for text in ("gender", "gender=", "=Female"):
        with pytest.raises(InputError, match="Expected a label as column=value"):
            parse_label(text)


def test_documents_end_before_as_of(tmp_path):
    moments = [datetime(2021, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2022, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)]
    events = {"user_id": ["u", "u", "u"], "item_id": ["late", "after", "early"], "timestamp": pa.array(moments, TIMESTAMP)}
    pq.write_table(pa.table(events), tmp_path / "events.parquet")
    pq.write_table(pa.table({"item_id": ["early", "after", "late"], "title": ["first", "never", "second"]}), tmp_path / "items.parquet")
    assert read_documents(str(tmp_path / "events.parquet"), str(tmp_path / "items.parquet"), "2022-01-01") == {"u": ["first", "second"]}


def test_tf_idf_by_hand():
    rows = tf_idf([["red lamp"], ["red lamp"], ["red lamp"], ["blue"]])
    assert rows.shape == (4, 3)  # red, lamp, "red lamp" are in three texts; blue in one only
    assert np.allclose(rows[0].toarray(), 1 / np.sqrt(3)) and rows[3].nnz == 0


def test_weighted_auc_is_the_auc_of_a_resampled_test_part():
    rng = np.random.default_rng(0)
    target, score = rng.integers(0, 2, 40), rng.integers(0, 6, 40).astype(float)  # few values: ties count half
    fold = Fold(0, np.arange(0), np.arange(40), [])
    weights = rng.multinomial(40, np.full(40, 1 / 40), 3).astype(float)
    found = weighted_auc(target, [fold], [score], weights)
    assert np.allclose(found, [roc_auc_score(target, score, sample_weight=row) for row in weights])


def test_better_features_win_and_equal_ones_tie():
    rng = np.random.default_rng(0)
    target = np.arange(200) % 2
    good, bad = rng.normal(size=(200, 5)) + 2 * target[:, None], rng.normal(size=(200, 5))
    values, label = np.where(target, "b", "a").tolist(), Label("class", ("b",))
    won = compare(good, bad, values, label, seed=1, n_repeats=1)
    assert won.embedding > 0.95 and 0.35 < won.tf_idf < 0.65 and won.n_users == 200 and won.n_positive == 100
    assert won.difference == won.embedding - won.tf_idf and won.interval[0] > 0.2 and won.interval[0] < won.difference < won.interval[1]
    tied = compare(good, good, values, label, seed=1, n_repeats=1)
    assert tied.difference == 0 and tied.interval == (0, 0)
    assert won.embedding == pytest.approx(tied.embedding)


def test_values_outside_both_classes_are_left_out():
    features = np.random.default_rng(0).normal(size=(90, 3))
    values = ["a", "b", "other"] * 29 + [None, "a", "b"]
    assert compare(features, features, values, Label("class", ("b",), ("a",)), 1, 1).n_users == 60
    assert compare(features, features, values, Label("class", ("b",)), 1, 1).n_users == 89  # all that have a value
    with pytest.raises(InputError, match="'class' to have the value 'c', got a, b, other"):
        compare(features, features, values, Label("class", ("c",)), 1, 1)


def test_table():
    row = Comparison(Label("gender", ("x|y",), ("z",)), 200, 50, 0.8766, 0.9, -0.0234, (-0.04, 0.01))
    assert markdown([row]).splitlines()[2] == "| gender: x/y vs z | 200 | 25% | 87.7 | 90.0 | -2.3 [-4.0, +1.0] |"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A world, and embeddings that are the true departments' counts."""
    directory = tmp_path_factory.mktemp("sanity")
    summary = write_world(directory, WorldSettings(n_users=300, n_items=400, n_topics=12, n_months=18, events_per_user=60))
    events, truth, users = (pq.read_table(path) for path in (summary.events_path, summary.truth_path, summary.users_path))
    topic_of = dict(zip(truth["item_id"].to_pylist(), truth["topic"].to_pylist(), strict=True))
    counts = {user: np.zeros(12, np.float32) for user in users["user_id"].to_pylist()}
    for user, item in zip(events["user_id"].to_pylist(), events["item_id"].to_pylist(), strict=True):
        counts[user][topic_of[item]] += 1
    embedded = {"user_id": list(counts), "embedding": pa.array([np.log1p(row) for row in counts.values()], pa.list_(pa.float32()))}
    pq.write_table(pa.table(embedded), directory / "embeddings.parquet")
    return {
        "events": summary.events_path, "items": summary.items_path, "users": summary.users_path,
        "embeddings": str(directory / "embeddings.parquet"), "as-of": "2020-05-01", "where": "", "label": "persona=b",
    }  # fmt: skip


def call(files: dict, **changes: str) -> int:
    return main([part for name, value in {**files, **changes}.items() for part in (f"--{name}", value)])


def test_whole_program_on_a_world(files, capsys):
    assert call(files) == 0
    printed = capsys.readouterr().out
    cells = [cell.strip() for cell in printed.splitlines()[2].split("|")[1:-1]]
    assert cells[0] == "persona: b" and 150 < int(cells[1]) < 300
    assert float(cells[3]) > 65 and float(cells[4]) > 60
    assert "u000" not in printed, "no row of a person"
    assert call(files) == 0
    assert capsys.readouterr().out.splitlines()[2] == printed.splitlines()[2]


def test_one_sentence_and_exit_code_2(files, tmp_path, capsys):
    users = pq.read_table(files["users"])
    strangers = {"user_id": ["nobody"], "embedding": [[1.0]]}
    ragged = {"user_id": users["user_id"], "embedding": [[1.0] * (1 + n % 2) for n in range(len(users))]}
    for name, table in (("strangers", strangers), ("ragged", ragged)):
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    for changes, expected in (
        ({"label": "colour=red"}, "Expected column 'colour' in"),
        ({"where": "home_state_available"}, "Expected column 'home_state_available' in"),
        ({"embeddings": str(tmp_path / "none.parquet")}, "Expected Parquet at"),
        ({"embeddings": str(tmp_path / "strangers.parquet")}, "none of them embedded; check that both files name users alike."),
        ({"embeddings": str(tmp_path / "ragged.parquet")}, "Expected embeddings of one width, got widths [1, 2]"),
    ):
        assert call(files, **changes) == 2
        said = capsys.readouterr().err
        assert expected in said and said.count("\n") == 1


def test_folds_of_both_sides_are_the_same():
    target = np.arange(60) % 2
    one, two = make_folds(target, 5, 3, 17), make_folds(target, 5, 3, 17)
    assert len(one) == 15 and all(np.array_equal(a.test, b.test) for a, b in zip(one, two, strict=True))
