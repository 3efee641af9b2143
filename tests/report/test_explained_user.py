"""A user's explanation in words: names only where enough users share the interest, numbers that agree with the vector."""

import numpy as np
import pytest
from small_release import MODEL, N_ANCHORS, RARE, SECRET, plant_release

from lurm.errors import MissingInputError, UnknownUserError
from lurm.report.chain import open_release
from lurm.report.explained_user import as_data, as_text, explain_user


def test_rare_interests_have_no_name(released):
    hidden, named = explain_user(released, "u000", 20), explain_user(released, "u000", 2)
    assert RARE in hidden.explanation.interests
    assert SECRET not in as_text(hidden, 20) and "(fewer than 20 users)" in as_text(hidden, 20) and SECRET in as_text(named, 20)
    told = {entry["interest_id"]: entry["name"] for entry in as_data(hidden)["anchors"][0]["interests"]}
    assert told[RARE] is None and told[0].startswith("topica") and SECRET not in str(as_data(hidden))


def test_the_vector_computed_again_is_the_published_one(released):
    explained = explain_user(released, "u007", 20)
    assert explained.difference < 1e-5 and explained.note == ""
    assert explained.events().sum() > 0 and all(0.999 < explained.share_explained(anchor) < 1.001 for anchor in range(N_ANCHORS))


def test_data_adds_up(released):
    data = as_data(explain_user(released, "u003", 20))
    assert data["user_id"] == "u003" and data["model_id"] == MODEL and len(data["anchors"]) == N_ANCHORS
    for anchor in data["anchors"]:
        above = anchor["length"] - anchor["silence"]
        assert sum(entry["contribution"] for entry in anchor["interests"]) == pytest.approx(above, abs=1e-5)
        assert sum(entry["contribution"] for entry in anchor["periods"]) == pytest.approx(above, abs=1e-5)
        for entry in anchor["interests"]:
            assert sum(part["contribution"] for part in entry["periods"]) == pytest.approx(entry["contribution"], abs=1e-9)


def test_text_shows_the_strongest_first(released):
    explained = explain_user(released, "u003", 20)
    lines = as_text(explained, 2).splitlines()
    heads = [line for line in lines if line.startswith("anchor ")]
    lengths = [float(line.split("length ")[1].split(",")[0]) for line in heads]
    assert len(heads) == N_ANCHORS and lengths == sorted(lengths, reverse=True)
    assert sum(" without " in line for line in lines if line.startswith("  ")) == 2 * N_ANCHORS
    assert sum(line.startswith("  months ") for line in lines) == N_ANCHORS == sum(line.startswith("  years ") for line in lines)


@pytest.mark.slow
def test_of_a_whole_pipeline_and_an_open_month(finished):
    """Bags by Spark, vectors from kept states in the middle of a month: the explanation is of exactly the published vector."""
    context, _ = finished
    released = open_release(context.store.uri, context.as_of)
    users = [user for batch in released.table.scan(["user_id"]) for user in batch.column("user_id").to_pylist()][:3]
    for user in users:
        explained = explain_user(released, user, 5)
        assert explained.difference < 1e-5 and explained.note == "" and np.abs(explained.explanation.gap).max() < 1e-4
        assert as_text(explained, 3).count("\nanchor ") == released.table.n_anchors


def test_unknown_users_and_users_whose_bags_are_gone(tmp_path, released):
    with pytest.raises(UnknownUserError, match="nobody"):
        explain_user(released, "nobody", 20)
    small = plant_release(tmp_path / "warehouse")
    from lurm.manifest import Manifest

    kept = small.store.snapshot("bags").where(bucket="1")
    small.store.commit(Manifest("bags", "bags2", kept.files, ({"bucket": "0"},)))
    with pytest.raises(MissingInputError, match="Expected bags of user 'u000'"):
        explain_user(open_release(small.store.uri), "u000", 20)
    assert np.isfinite(explain_user(open_release(small.store.uri), "u001", 20).difference)
