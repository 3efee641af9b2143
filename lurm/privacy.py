"""What the embeddings give away about the persons in them: an attribute that can be read off, and interests that few have.

In: a released table, a file with an attribute of users, the bags of the model's interest space. Out: figures, as plain data and as text.

The attribute is read by a logistic regression (lurm.evaluation.probe) on users it has not seen; beside its AUC and accuracy stand what chance
gives: the same probe on the attribute shuffled over the users, and the share of the largest class. A weak probe proves nothing; a strong one
proves that whoever has the vectors has the attribute. An interest that fewer than k users have may point at a person: names of such interests
are not shown anywhere. Memory: the sampled vectors, and the bags of a few users at a time.
"""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from lurm.bag_of_interests import read_lives, to_csr
from lurm.embedding_table import EmbeddingTable, open_table
from lurm.errors import InputError
from lurm.evaluation.probe import auc, make_folds, one_scale, out_of_fold_scores
from lurm.manifest import Snapshot
from lurm.periods import starts_before
from lurm.sampling import hash_of_text
from lurm.schema import BAGS, MONTH
from lurm.store import Store

MOST_CLASSES = 50
SHUFFLES = 3  # of the attribute, for what chance gives
SEED = 0


def audit_privacy(uri: str, as_of: str | None = None, attributes: str | None = None, column: str | None = None, user_column: str = "user_id",
                  k: int = 20, n_folds: int = 5, n_sampled: int = 20_000) -> dict:
    """Everything about one release; without `attributes` the interests alone. Raises InputError for a file or an attribute that cannot be used."""
    if k < 1 or n_folds < 2 or n_sampled < 1:
        raise InputError(f"Expected k of at least 1, folds of at least 2 and a sample of at least 1, got {k}, {n_folds} and {n_sampled}; mend them.")
    table, store = open_table(uri, as_of), Store(uri)
    report = {"release": table.epoch, "as_of": table.as_of, "model_id": table.model_id, "users": table.n_users}
    if attributes is not None:
        users, values = read_attribute(attributes, user_column, column)
        report["attribute"] = {"column": column, **attribute_leak(table, users, values, n_folds, n_sampled)}
    report["interests"] = rare_interests(store, table.model_id, table.as_of, k)
    return report


def read_attribute(path: str, user_column: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Users (n,) and their attribute (n,), both text, each user once, from a Parquet or CSV file; rows without either are left out.

    Raises InputError for a missing column, a user with two values, or an attribute of more than MOST_CLASSES values.
    """
    try:
        with open(path, "rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        texts = pa.csv.ConvertOptions(column_types={user_column: pa.string(), column: pa.string()}, strings_can_be_null=True)
        rows = pq.read_table(path, columns=[user_column, column], partitioning=None) if is_parquet else pa.csv.read_csv(path, convert_options=texts)
        rows = rows.select([user_column, column])
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise InputError(f"Expected a Parquet or CSV file with columns {user_column} and {column} at {path}, could not read it "
                         f"({str(error).splitlines()[0]}); check path and names.") from None
    rows = pa.table([rows.column(name).cast(pa.string()) for name in (user_column, column)], ["user", "value"]).drop_null()
    rows = rows.group_by(["user", "value"]).aggregate([])
    users, values = rows.column("user").to_numpy(), rows.column("value").to_numpy()
    names, counts = np.unique(users.astype(str), return_counts=True)
    if (counts > 1).any():
        raise InputError(f"Expected one {column} of each user in {path}, {names[counts > 1][0]} has {counts.max()}; keep one of them.")
    n_classes = len(set(values))
    if n_classes > MOST_CLASSES:
        raise InputError(f"Expected at most {MOST_CLASSES} different values of {column}, got {n_classes}; put numbers into ranges first.")
    return users, values


def attribute_leak(table: EmbeddingTable, users: np.ndarray, values: np.ndarray, n_folds: int = 5, n_sampled: int = 20_000) -> dict:
    """How well the attribute of users is read off their vectors: AUC (macro mean over classes) and accuracy on users not seen, beside chance.

    Classes with fewer than 2 * n_folds users are left out, and counted.
    """
    if len(users) > n_sampled:
        chosen = np.argsort(hash_of_text(users, SEED), kind="stable")[:n_sampled]
        users, values = users[chosen], values[chosen]
    order = np.argsort(users.astype(str), kind="stable")
    users, values = users[order], values[order]
    vectors, known = table.vectors(list(users), absent="mask")
    sizes = Counter(values[known].tolist())
    small = {value for value, size in sizes.items() if size < 2 * n_folds}
    kept = known & ~np.isin(values.astype(str), sorted(small))
    labels = values[kept].astype(str)
    folds, rows = make_folds(labels, n_folds, 1, SEED, n_inner=1), one_scale(vectors[kept])
    figures = _measured(rows, labels, folds)
    generator = np.random.default_rng(SEED)
    chance = [_measured(rows, shuffled, make_folds(shuffled, n_folds, 1, SEED, n_inner=1), grid=(1.0,))["auc"]
              for shuffled in (generator.permutation(labels) for _ in range(SHUFFLES))]
    largest = max(Counter(labels.tolist()).values()) / len(labels)
    return {
        "users": int(len(labels)), "not_in_the_table": int((~known).sum()), "classes": dict(sorted(Counter(labels.tolist()).items())),
        "in_small_classes": int(sum(sizes[value] for value in small)), **figures, "auc_of_chance": float(np.mean(chance)),
        "auc_of_chance_at_most": float(max(chance)), "accuracy_of_chance": largest,
    }


def rare_interests(store: Store, model_id: str, as_of: str, k: int) -> dict:
    """How many interests of the model's space fewer than k users have, and how many users have one of these; all months before as_of count."""
    info = store.artifact_info("models", model_id) if store.has_artifact("models", model_id) else {}
    space_id = info.get("space_id")
    if space_id is None or not store.has_artifact("spaces", space_id):
        return {"k": k, "unknown": "the model or its interest space is not in the warehouse"}
    n_interests, bags = store.artifact_info("spaces", space_id)["n_interests"], _months(store, space_id, as_of)
    n_users = np.zeros(n_interests, np.int64)
    for lives, _ in read_lives(store, bags):
        n_users += _has(lives[MONTH], n_interests).sum(axis=0)
    rare, exposed = (n_users > 0) & (n_users < k), 0
    if rare.any():
        for lives, _ in read_lives(store, bags):
            exposed += int(_has(lives[MONTH], n_interests)[:, rare].any(axis=1).sum())
    return {"k": k, "interests": int(n_interests), "of_nobody": int((n_users == 0).sum()), "of_fewer_than_k": int(rare.sum()),
            "of_one_user": int((n_users == 1).sum()), "users_with_a_rare_one": exposed, "median_users": float(np.median(n_users))}


def as_text(report: dict) -> str:
    """The report in a few lines."""
    lines = [f"release {report['release']} of {report['as_of']}, model {report['model_id']}, {report['users']:,} users"]
    told = report.get("attribute")
    if told:
        lines += [
            f"{told['column']}: {told['users']:,} users in {len(told['classes'])} classes, {told['not_in_the_table']:,} more are not in the table, "
            f"{told['in_small_classes']:,} in classes too small to measure",
            f"  AUC       {told['auc']:.3f}  chance {told['auc_of_chance']:.3f}, at most {told['auc_of_chance_at_most']:.3f} in {SHUFFLES} shuffles",
            f"  accuracy  {told['accuracy']:.3f}  the largest class alone {told['accuracy_of_chance']:.3f}",
        ]
    few = report["interests"]
    if "unknown" in few:
        return "\n".join([*lines, f"interests: {few['unknown']}"])
    return "\n".join([*lines, f"interests: {few['interests']:,}, {few['of_nobody']:,} of them nobody has; fewer than {few['k']} users have "
                      f"{few['of_fewer_than_k']:,} ({few['of_one_user']:,} a single one), {few['users_with_a_rare_one']:,} users have one of these"])


def _measured(rows: np.ndarray, labels: np.ndarray, folds: list, **more) -> dict[str, float]:
    """AUC and accuracy, means over the folds."""
    scores, classes = out_of_fold_scores(rows, labels, folds, **more), np.unique(labels)
    aucs, hits = [], []
    for fold, score in zip(folds, scores, strict=True):
        truth = labels[fold.test]
        aucs.append(auc(truth, score))
        guess = classes[(score > 0).astype(int)] if score.ndim == 1 else classes[score.argmax(axis=1)]
        hits.append(float((guess == truth).mean()))
    return {"auc": float(np.mean(aucs)), "accuracy": float(np.mean(hits))}


def _has(lives, n_interests: int) -> np.ndarray:
    """(users, n_interests) bool: who has which interest at all."""
    return np.asarray((to_csr(lives, n_interests) > 0).todense())


def _months(store: Store, space_id: str, as_of: str) -> Snapshot:
    """Of each month before as_of the bags that count the most of it, up to as_of."""
    bags = store.snapshot(BAGS.name).where(space_id=space_id, scale=MONTH, period=lambda month: starts_before(month, as_of),
                                           until=lambda end: end <= as_of)
    newest: dict[str, str] = {}
    for file in bags.files:
        period = file.partition["period"]
        newest[period] = max(newest.get(period, ""), file.partition["until"])
    files = tuple(file for file in bags.files if file.rows and file.partition["until"] == newest[file.partition["period"]])
    return Snapshot(bags.table, bags.version, files, bags.root)
