"""What the embeddings give away: a planted attribute is found, noise is not, and interests that few have are counted by hand."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from erasable import bag_partition, commit
from published import MODEL, publish_day, vector
from small_pipeline import plant_model

from lurm import open_table
from lurm.errors import InputError
from lurm.privacy import as_text, attribute_leak, audit_privacy, rare_interests, read_attribute
from lurm.schema import BAGS
from lurm.store import Store

USERS = [f"u{number:04d}" for number in range(300)]
AS_OF = "2022-03-01"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """300 users, and bags of three months in which interest i is had by a known number of them."""
    store = Store(str(tmp_path_factory.mktemp("privacy") / "warehouse"))
    publish_day(store, AS_OF, USERS)
    plant_model(store, MODEL)
    plant_bags(store, "2022-01", "2022-02-01", {0: USERS[:100], 1: USERS[:3], 2: USERS[:1]})
    plant_bags(store, "2022-02", "2022-02-10", {5: USERS[:9]})  # an open month: what was counted later holds it all
    plant_bags(store, "2022-02", "2022-03-01", {0: USERS[50:150], 1: USERS[2:6], 3: USERS[:30]})
    plant_bags(store, "2022-03", "2022-04-01", {4: USERS[:2]})  # after the date
    return store


def plant_bags(store: Store, month: str, until: str, who: dict[int, list[str]]) -> None:
    users = sorted({user for some in who.values() for user in some})
    interests = [[interest for interest in sorted(who) if user in who[interest]] for user in users]
    rows = pa.table({"user_id": users, "interest_ids": interests, "counts": [[1] * len(row) for row in interests],
                     "n_events": [len(row) for row in interests], "first_event_at": [None] * len(users), "last_event_at": [None] * len(users)})
    commit(store, BAGS, f"{month}{until}".replace("-", ""), bag_partition("month", month, until), rows)


def test_interests_that_few_have(store):
    """Of 24 interests 0 has 150 users, 1 has 6 (three of each month, one the same), 2 one, 3 thirty; users 0 to 5 have a rare one."""
    told = rare_interests(store, MODEL, AS_OF, k=7)
    assert told == {"k": 7, "interests": 24, "of_nobody": 20, "of_fewer_than_k": 2, "of_one_user": 1, "users_with_a_rare_one": 6, "median_users": 0.0}
    assert rare_interests(store, MODEL, AS_OF, k=6)["of_fewer_than_k"] == 1, "six are not fewer than six"
    assert rare_interests(store, MODEL, AS_OF, k=31)["users_with_a_rare_one"] == 30
    assert rare_interests(store, MODEL, "2022-02-10", k=7)["of_fewer_than_k"] == 2, "interests 1 and 2, not yet what came later"
    assert rare_interests(store, MODEL, AS_OF, k=1)["of_fewer_than_k"] == 0
    assert "unknown" in rare_interests(store, "model-x", AS_OF, k=7)


def attribute_file(folder: Path, values, name: str = "people.csv", users=USERS) -> str:
    rows = pa.table({"customer": users, "group": values})
    if name.endswith(".parquet"):
        pq.write_table(rows, folder / name)
    else:
        (folder / name).write_text("customer,group\n" + "".join(f"{user},{value}\n" for user, value in zip(users, values, strict=True)))
    return str(folder / name)


@pytest.mark.parametrize("name", ["people.csv", "people.parquet"])
def test_what_is_planted_in_a_direction_is_read_off(store, tmp_path, name):
    values = ["high" if vector(user, AS_OF)[0] > 0 else "low" for user in USERS]
    report = audit_privacy(store.uri, None, attribute_file(tmp_path, values, name), "group", "customer", k=7)
    told = report["attribute"]
    assert told["auc"] > 0.97 and told["accuracy"] > 0.9 and told["users"] == 300 and sum(told["classes"].values()) == 300
    assert told["auc_of_chance"] < 0.62 and abs(told["accuracy_of_chance"] - 0.5) < 0.1
    assert report["interests"]["of_fewer_than_k"] == 2 and report["release"] == 1
    assert f"AUC       {told['auc']:.3f}" in as_text(report) and "fewer than 7 users have 2 (1 a single one)" in as_text(report)


def test_what_has_nothing_to_do_with_the_vectors_is_not(store):
    values = np.random.default_rng(3).choice(["a", "b", "c"], len(USERS))
    told = attribute_leak(open_table(store.uri), np.array(USERS), values)
    assert 0.38 < told["auc"] < 0.62 and told["accuracy"] < told["accuracy_of_chance"] + 0.12 and len(told["classes"]) == 3


def test_users_that_are_not_there_small_classes_and_samples_are_counted(store):
    users = np.array([*USERS, "stranger-1", "stranger-2"])
    values = np.array(["a", "b"] * 150 + ["a", "b"])
    values[:4] = "rare"
    told = attribute_leak(open_table(store.uri), users, values)
    assert (told["not_in_the_table"], told["in_small_classes"], told["users"]) == (2, 4, 296) and set(told["classes"]) == {"a", "b"}
    assert attribute_leak(open_table(store.uri), users, values) == told, "the same again"
    shuffled = np.random.default_rng(0).permutation(len(users))
    assert attribute_leak(open_table(store.uri), users[shuffled], values[shuffled]) == told, "whatever the order of the file"
    assert attribute_leak(open_table(store.uri), users, values, n_sampled=100)["users"] <= 100


def test_files_that_cannot_be_used(store, tmp_path):
    with pytest.raises(InputError, match="columns customer and group at .*nowhere"):
        read_attribute(str(tmp_path / "nowhere.csv"), "customer", "group")
    path = attribute_file(tmp_path, ["a"] * 300)
    with pytest.raises(InputError, match="columns customer and age"):
        read_attribute(path, "customer", "age")
    users, values = read_attribute(attribute_file(tmp_path, ["a", "", "b"], users=["x", "y", "x2"]), "customer", "group")
    assert sorted(zip(users, values, strict=True)) == [("x", "a"), ("x2", "b")], "an empty field is no attribute"
    with pytest.raises(InputError, match="one group of each user in .*, x has 2"):
        read_attribute(attribute_file(tmp_path, ["a", "b", "b"], users=["x", "x", "y"]), "customer", "group")
    with pytest.raises(InputError, match="at most 50 different values of group, got 300; put numbers into ranges"):
        read_attribute(attribute_file(tmp_path, range(300)), "customer", "group")
    with pytest.raises(InputError, match="two classes"):
        audit_privacy(store.uri, None, attribute_file(tmp_path, ["a"] * 300), "group", "customer")
    with pytest.raises(InputError, match="two classes with 10 users each, got none"):
        attribute_leak(open_table(store.uri), np.array(["stranger"]), np.array(["a"]))
    with pytest.raises(InputError, match="k of at least 1"):
        audit_privacy(store.uri, k=0)
